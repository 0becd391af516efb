//! Metadata: stat over 64 connections, beside an echo of frames of the same sizes.

use super::Spec;
use crate::child::Server;
use crate::context::Context;
use crate::cpu;
use crate::raw::echo::{Echoes, Load, Sizes};
use crate::raw::{Serve, Service};
use crate::report::{Goal, Row};
use anyhow::Result;
use citius_wire::{
    Batch, BatchReply, Encoder, EntryKind, FileInfo, FileKey, MountId, Operation, Outcome, Persistence, Serial,
};

const CONNECTIONS: usize = 64;
/// The path that is asked for: as long as paths of a table's parts are.
const PATH: &str = "/data/warehouse/table/part-00001.parquet";

pub(super) const STAT_PIPELINED: Spec =
    Spec { name: "meta.stat.pipelined", unit: "requests/s", goal: Goal::AtLeast(0.5) };

/// 32 stats in flight on each connection, each in a frame of its own.
pub(super) fn stat_pipelined(context: &Context) -> Result<Row> {
    let load = Load { connections: CONNECTIONS, requests: 16_000, depth: 32 };
    STAT_PIPELINED.measure(context, None, &mut baseline(context, load)?)
}

pub(super) const STAT_UNPIPELINED: Spec =
    Spec { name: "meta.stat.unpipelined", unit: "requests/s", goal: Goal::AtLeast(0.85) };

/// One stat at a time on each connection.
pub(super) fn stat_unpipelined(context: &Context) -> Result<Row> {
    let load = Load { connections: CONNECTIONS, requests: 2_000, depth: 1 };
    STAT_UNPIPELINED.measure(context, None, &mut baseline(context, load)?)
}

/// The echo in a process of its own.
fn baseline(context: &Context, load: Load) -> Result<Echoes> {
    cpu::pin(context.cores.client)?;
    let sizes = frame_sizes();
    let service = Service::Echo { request_bytes: sizes.request_bytes, reply_bytes: sizes.reply_bytes };
    let server = Server::start(&Serve { core: context.cores.server, service })?;
    Echoes::connect(server, sizes, load)
}

/// Bytes of a stat and of its answer, as Citius frames them.
fn frame_sizes() -> Sizes {
    let mut encoder = Encoder::default();
    let (mut request, mut reply) = (Vec::new(), Vec::new());
    let stat = Operation::Stat { path: PATH.to_owned() };
    encoder.request(&mut request, 1, &Batch { first: Serial(1), operations: vec![stat] }, 0);
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
    Sizes { request_bytes: request.len(), reply_bytes: reply.len() }
}
