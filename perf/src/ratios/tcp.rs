//! Warm reads over TCP: one connection, the server on one core and the client on another.

use super::{Spec, side};
use crate::child::Server;
use crate::citius::reads::{Calls, Pipeline};
use crate::context::Context;
use crate::cpu;
use crate::raw::tcp::{Client, Figure, Load, Reads};
use crate::raw::{Serve, Service};
use crate::report::{Goal, Row};
use anyhow::Result;

pub(super) const READ_4K_D1_P50: Spec = Spec { name: "tcp.read.4k.d1.p50", unit: "ns", goal: Goal::AtMost(1.5) };

/// One read of 4 KiB at a time.
pub(super) fn read_4k_d1_p50(context: &Context) -> Result<Row> {
    let load = Load { requests: 20_000, length: 4 << 10, depth: 1 };
    let mut baseline = baseline(context, load, Figure::MedianLatency)?;
    READ_4K_D1_P50.measure(context, side(&mut Calls::new(context, load)?), &mut baseline)
}

pub(super) const READ_4K_D32: Spec =
    Spec { name: "tcp.read.4k.d32", unit: "requests per server CPU-second", goal: Goal::AtLeast(0.85) };

/// 32 reads of 4 KiB in flight.
pub(super) fn read_4k_d32(context: &Context) -> Result<Row> {
    let load = Load { requests: 200_000, length: 4 << 10, depth: 32 };
    pipelined(READ_4K_D32, context, load, Figure::RequestsPerServerSecond)
}

pub(super) const READ_1M_D4: Spec =
    Spec { name: "tcp.read.1m.d4", unit: "bytes per server CPU-second", goal: Goal::AtLeast(0.95) };

/// Four reads of 1 MiB in flight.
pub(super) fn read_1m_d4(context: &Context) -> Result<Row> {
    let load = Load { requests: 2_000, length: 1 << 20, depth: 4 };
    pipelined(READ_1M_D4, context, load, Figure::BytesPerServerSecond)
}

fn pipelined(spec: Spec, context: &Context, load: Load, figure: Figure) -> Result<Row> {
    let mut baseline = baseline(context, load, figure)?;
    spec.measure(context, side(&mut Pipeline::new(context, load, figure)?), &mut baseline)
}

/// The blocking server in a process of its own.
fn baseline(context: &Context, load: Load, figure: Figure) -> Result<Reads> {
    cpu::pin(context.cores.client)?;
    let set_bytes = context.working_set_bytes;
    let service = Service::Tcp { bytes: set_bytes, pages: context.pages };
    let server = Server::start(&Serve { core: context.cores.server, service })?;
    let client = Client::connect(server.address)?;
    Ok(Reads { server, client, load, set_bytes, figure })
}
