//! Cold reads, of an object of an S3 server on this machine. The server keeps to no core: it works for both sides.

use super::{Spec, side};
use crate::citius::cold::{Cold, KEY, SMALL_BYTES, Sequential, Small};
use crate::context::Context;
use crate::cpu;
use crate::measure::{Fixed, Side};
use crate::raw::get::Get;
use crate::report::{Goal, Row};
use anyhow::{Context as _, Result};
use citius_understore::testing::servers::SeaweedFs;
use std::sync::Arc;

/// The object read in sequence, or the working set if that is smaller.
const SEQUENTIAL_BYTES_MAX: usize = 512 << 20;

pub(super) const READ_SEQ: Spec = Spec { name: "cold.read.seq", unit: "B/s", goal: Goal::AtLeast(0.85) };

/// One pass over an object through the cache, mapped; the baseline is one GET of it.
pub(super) fn read_seq(context: &Context) -> Result<Row> {
    let bytes = context.working_set_bytes.min(SEQUENTIAL_BYTES_MAX);
    let server = start(context)?;
    let mut citius = Cold::new(context, &server, bytes)?.map(Sequential::new);
    let mut get = match &citius {
        Some(_) => Get::new(&server, KEY, bytes)?,
        None => Get::of_new_object(&server, KEY, bytes)?,
    };
    READ_SEQ.measure(context, side(&mut citius), &mut get)
}

/// 64 KiB for 4.
pub(super) const READ_4K_BYTES: Spec =
    Spec { name: "cold.read.4k.bytes", unit: "B", goal: Goal::AtMost((64 << 10) as f64 / SMALL_BYTES as f64) };

/// Bytes fetched for one read of 4 KiB of a large object; the baseline is the 4 KiB.
pub(super) fn read_4k_bytes(context: &Context) -> Result<Row> {
    let server = start(context)?;
    let mut citius = Cold::new(context, &server, context.working_set_bytes)?.map(Small);
    let mut baseline = Fixed(SMALL_BYTES as f64);
    READ_4K_BYTES.measure(context, side(&mut citius), &mut baseline as &mut dyn Side)
}

/// Starts the S3 server while all cores may be used, and then keeps this process to the client's.
fn start(context: &Context) -> Result<Arc<SeaweedFs>> {
    cpu::unpin(context.cores)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting tokio")?;
    let server = runtime.block_on(SeaweedFs::start()).context("starting an S3 server")?;
    cpu::pin(context.cores.client)?;
    Ok(Arc::new(server))
}
