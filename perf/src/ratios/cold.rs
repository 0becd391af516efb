//! Cold reads, of an object of an S3 server on this machine. Where nothing else is said the server keeps to no core: it works
//! for both sides.

use super::{Spec, side};
use crate::citius::cold::{Cold, KEY, Pass, Requests, SMALL_BYTES, Sequential, Small};
use crate::citius::many::{Load, Stream};
use crate::context::Context;
use crate::cpu;
use crate::measure::{Fixed, Side};
use crate::raw::get::Get;
use crate::raw::plain::{Many, Plain, Ranges, Upload};
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

/// One pass over an object; the baseline gets parallel ranges, as many and as long as are fastest. Either has one core, and the
/// server the other.
pub(super) const READ_RANGES: Spec = Spec { name: "cold.read.ranges", unit: "B/s", goal: Goal::AtLeast(0.9) };

pub(super) fn read_ranges(context: &Context) -> Result<Row> {
    let bytes = context.working_set_bytes.min(SEQUENTIAL_BYTES_MAX);
    let server = start_apart(context)?;
    let mut citius = Cold::by_client(context, &server, bytes)?.map(Sequential::new);
    let plain = Plain::new(&server)?;
    if citius.is_none() {
        plain.put_all(std::iter::once(KEY.to_owned()), &vec![1; bytes].into())?;
    }
    let mut ranges = Ranges::new(plain, KEY, bytes)?;
    READ_RANGES.measure(context, side(&mut citius), &mut ranges)
}

/// Bytes of a request, if there were as few as there can be.
const REQUEST_BYTES: usize = 16 << 20;

/// Requests of one pass over an object that is not here; the baseline is as few as there can be.
pub(super) const READ_REQUESTS: Spec = Spec { name: "cold.read.requests", unit: "requests", goal: Goal::AtMost(1.1) };

pub(super) fn read_requests(context: &Context) -> Result<Row> {
    let server = start(context)?;
    let mut citius = Cold::new(context, &server, context.working_set_bytes)?.map(|it| Requests::new(it, Pass::First));
    let mut baseline = Fixed(context.working_set_bytes.div_ceil(REQUEST_BYTES) as f64);
    READ_REQUESTS.measure(context, side(&mut citius), &mut baseline as &mut dyn Side)
}

/// Requests of a second pass, beside one.
pub(super) const REREAD_REQUESTS: Spec =
    Spec { name: "cold.reread.requests", unit: "requests", goal: Goal::AtMost(0.0) };

pub(super) fn reread_requests(context: &Context) -> Result<Row> {
    let server = start(context)?;
    let mut citius = Cold::new(context, &server, context.working_set_bytes)?.map(|it| Requests::new(it, Pass::Second));
    REREAD_REQUESTS.measure(context, side(&mut citius), &mut Fixed(1.0) as &mut dyn Side)
}

/// Objects of the directory that is loaded, and bytes of each.
const LOADED: (usize, usize) = (10_000, 16 << 10);
const LOADED_PREFIX: &str = "many";

/// `citius load` of many small objects; the baseline lists them and gets them in parallel. Either has one core, and the server
/// the other.
pub(super) const LOAD_16K: Spec = Spec { name: "cold.load.16k", unit: "objects/s", goal: Goal::AtLeast(0.9) };

pub(super) fn load_16k(context: &Context) -> Result<Row> {
    let (count, bytes) = LOADED;
    let server = start_apart(context)?;
    let plain = Plain::new(&server)?;
    plain.put_all((0..count).map(|index| format!("{LOADED_PREFIX}/{index:05}")), &vec![5; bytes].into())?;
    let mut citius = Load::new(context, &server, LOADED_PREFIX, count)?;
    let mut many = Many::new(plain, LOADED_PREFIX, count, bytes)?;
    LOAD_16K.measure(context, side(&mut citius), &mut many)
}

/// A stream written through; the baseline is an upload of parts. Either has one core, and the server the other.
pub(super) const WRITE_STREAM: Spec = Spec { name: "write.stream", unit: "B/s", goal: Goal::AtLeast(0.9) };

pub(super) fn write_stream(context: &Context) -> Result<Row> {
    let server = start_apart(context)?;
    let mut citius = Stream::new(context, &server, context.working_set_bytes)?;
    let mut upload = Upload::new(Plain::new(&server)?, "upload", context.working_set_bytes)?;
    WRITE_STREAM.measure(context, side(&mut citius), &mut upload)
}

/// Starts the S3 server while all cores may be used, and then keeps this process to the client's.
fn start(context: &Context) -> Result<Arc<SeaweedFs>> {
    cpu::unpin(context.cores)?;
    let server = start_here()?;
    cpu::pin(context.cores.client)?;
    Ok(server)
}

/// Starts the S3 server on the server's core, and then keeps this process to the client's: who is the client here, Citius
/// or a plain program, has the same CPU, and none of the server's.
fn start_apart(context: &Context) -> Result<Arc<SeaweedFs>> {
    cpu::pin(context.cores.server)?;
    let server = start_here()?;
    cpu::pin(context.cores.client)?;
    Ok(server)
}

fn start_here() -> Result<Arc<SeaweedFs>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting tokio")?;
    Ok(Arc::new(runtime.block_on(SeaweedFs::start()).context("starting an S3 server")?))
}
