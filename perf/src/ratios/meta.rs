//! Metadata: stat over 64 connections, beside an echo of frames of the same sizes; create, beside the log alone.

use super::{Spec, side};
use crate::child::Server;
use crate::citius::Citius;
use crate::citius::creates::{self, Creates, SyncGroup};
use crate::context::Context;
use crate::cpu;
use crate::raw::echo::{Echoes, Exchange, Figure, Load, Sizes};
use crate::raw::log::Log;
use crate::raw::{Serve, Service};
use crate::report::{Goal, Row};
use anyhow::{Context as _, Result, ensure};
use citius_client::raw::Deadline;
use citius_client::{Config, MountOptions};
use citius_wire::{
    Batch, BatchReply, Encoder, EntryKind, FileInfo, FileKey, MountId, Operation, Outcome, Persistence, Serial,
};
use std::net::ToSocketAddrs as _;
use std::time::Duration;

const CONNECTIONS: usize = 64;
/// Where the folder of the file is mounted, and its metadata believed for ever: a stat is of what the master caches.
const MOUNT: &str = "/data";
/// The path that is asked for: as long as paths of a table's parts are.
const PATH: &str = "/data/warehouse/table/part-00001.parquet";
/// What the one stat that tells the size of replies may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// 32 stats in flight on each connection, each in a frame of its own.
const PIPELINED: Load = Load { connections: CONNECTIONS, requests: 16_000, depth: 32 };
/// One stat at a time on each connection.
const UNPIPELINED: Load = Load { connections: CONNECTIONS, requests: 2_000, depth: 1 };
/// Four batches of 64 creates in flight.
const CREATES: creates::Load = creates::Load { batches: 200, batch: 64, depth: 4 };

const PER_SECOND: &str = "requests/s";
const PER_SERVER_SECOND: &str = "requests per server CPU-second";

pub(super) const STAT_PIPELINED: Spec =
    Spec { name: "meta.stat.pipelined", unit: PER_SECOND, goal: Goal::AtLeast(0.5) };
pub(super) const STAT_PIPELINED_CPU: Spec =
    Spec { name: "meta.stat.pipelined.cpu", unit: PER_SERVER_SECOND, goal: Goal::None };
pub(super) const STAT_UNPIPELINED: Spec =
    Spec { name: "meta.stat.unpipelined", unit: PER_SECOND, goal: Goal::AtLeast(0.85) };
pub(super) const STAT_UNPIPELINED_CPU: Spec =
    Spec { name: "meta.stat.unpipelined.cpu", unit: PER_SERVER_SECOND, goal: Goal::None };
pub(super) const CREATE: Spec = Spec { name: "meta.create", unit: "creates/s", goal: Goal::AtLeast(0.5) };

pub(super) fn stat_pipelined(context: &Context) -> Result<Row> {
    stat(STAT_PIPELINED, context, PIPELINED, Figure::PerSecond)
}

pub(super) fn stat_pipelined_cpu(context: &Context) -> Result<Row> {
    stat(STAT_PIPELINED_CPU, context, PIPELINED, Figure::PerServerSecond)
}

pub(super) fn stat_unpipelined(context: &Context) -> Result<Row> {
    stat(STAT_UNPIPELINED, context, UNPIPELINED, Figure::PerSecond)
}

pub(super) fn stat_unpipelined_cpu(context: &Context) -> Result<Row> {
    stat(STAT_UNPIPELINED_CPU, context, UNPIPELINED, Figure::PerServerSecond)
}

/// Batches of 64 durable creates of must-cache files, four in flight. The log alone appends the bytes that these creates
/// become in the log of Citius, in groups as large as those that shared a sync there, as the metrics of the master told
/// in the last round. Neither side then owes its figure to the other's grouping: were the groups those of the client,
/// the log would sync twice as often as Citius does; were they all that is in flight, it would be told to wait for
/// company that a server which answers at once does not have.
pub(super) fn create(context: &Context) -> Result<Row> {
    cpu::pin(context.cores.client)?;
    let group = SyncGroup::of_all_in_flight(CREATES);
    let mut citius = Creates::new(context, CREATES, group.clone())?;
    CREATE.measure(context, side(&mut citius), &mut Log::open(context.cores.server, CREATES, group)?)
}

fn stat(spec: Spec, context: &Context, load: Load, figure: Figure) -> Result<Row> {
    cpu::pin(context.cores.client)?;
    let exchange = exchange(load.depth);
    let mut citius = citius(context, exchange.clone(), load, figure)?;
    let Sizes { request_bytes, reply_bytes } = exchange.sizes;
    let service = Service::Echo { request_bytes, reply_bytes };
    let server = Server::start(&Serve { core: context.cores.server, service })?;
    let address = server.address;
    let mut echo = Echoes::connect(address, exchange, load, figure, Box::new(move || server.cpu_time()))?;
    spec.measure(context, side(&mut citius), &mut echo)
}

/// Citius, with the file where it is asked for.
fn citius(context: &Context, exchange: Exchange, load: Load, figure: Figure) -> Result<Option<Echoes>> {
    let Some(citius) = Citius::start(context)? else { return Ok(None) };
    let folder = tempfile::Builder::new().prefix("citius-perf-data-").tempdir().context("making a folder")?;
    let file = folder.path().join(PATH.trim_start_matches(MOUNT).trim_start_matches('/'));
    std::fs::create_dir_all(file.parent().context("a file is in a folder")?)?;
    std::fs::write(&file, "x")?;
    let uri = folder.path().to_str().context("the folder for temporary files is not UTF-8")?;
    let options = MountOptions { sync_interval_ms: Some(-1), ..MountOptions::default() };
    citius.client(Config::default())?.mount_add(MOUNT, uri, options)?;

    let (mut master, deadline) = (citius.master()?, Deadline::after(PATIENCE));
    master.queue(&stat_of_path());
    master.flush(deadline)?;
    let reply = master.receive(0, deadline)?;
    ensure!(
        matches!(master.reply::<Batch>()?.results.first(), Some(Ok(Outcome::Info(info))) if info.path == PATH)
            && reply.frame_bytes() == exchange.sizes.reply_bytes,
        "a stat was answered by {} bytes and not the {} that the echo answers with",
        reply.frame_bytes(),
        exchange.sizes.reply_bytes
    );
    let mut hello = Vec::new();
    Encoder::default().request(&mut hello, 0, &citius.hello()?, 0);
    let master = citius.endpoint()?.master;
    let address = master.to_socket_addrs()?.next().context("the master has no address")?;
    let exchange = Exchange { hello: Some(hello), ..exchange };
    let time = Box::new(move || {
        let _lives_as_long = &folder;
        citius.cpu_time()
    });
    Echoes::connect(address, exchange, load, figure, time).map(Some)
}

fn stat_of_path() -> Batch {
    Batch { first: Serial(1), operations: vec![Operation::Stat { path: PATH.to_owned() }] }
}

/// So many stats, as Citius frames them, and the size of their answers.
fn exchange(depth: usize) -> Exchange {
    let mut encoder = Encoder::default();
    let (mut requests, mut reply) = (Vec::new(), Vec::new());
    for id in 1..=depth {
        encoder.request(&mut requests, id as u64, &stat_of_path(), 0);
    }
    let info = FileInfo {
        path: PATH.to_owned(),
        kind: EntryKind::File,
        length: 1,
        modified_ms: 1,
        version: FileKey([1; 16]),
        persistence: Persistence::Persisted,
        block_bytes: 64 << 20,
        mount: MountId(1),
        is_mount: false,
    };
    encoder.reply::<Batch>(&mut reply, 1, &Ok(BatchReply { results: vec![Ok(Outcome::Info(info))] }));
    let sizes = Sizes { request_bytes: requests.len() / depth, reply_bytes: reply.len() };
    Exchange { hello: None, requests, sizes }
}
