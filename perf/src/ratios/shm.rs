//! Local reads, from mapped memory.

use super::{Spec, side};
use crate::citius::mapped::{Mapped, ReadLatency, ReadThroughput};
use crate::context::Context;
use crate::cpu;
use crate::memory::WorkingSet;
use crate::raw::memcpy::{CopyLatency, CopyThroughput};
use crate::report::{Goal, Row};
use anyhow::Result;

/// Batches of a round: enough that the median does not move with one interrupt.
const BATCHES: usize = 300;
/// Copies of 1 MiB in a round.
const COPIES_1M: usize = 4_000;

pub(super) const READ_4K_P50: Spec = Spec { name: "shm.read.4k.p50", unit: "ns", goal: Goal::AtMost(1.5) };

/// Reads of 4 KiB at random offsets, in batches of 1,000.
pub(super) fn read_4k_p50(context: &Context) -> Result<Row> {
    cpu::pin(context.cores.client)?;
    let set = WorkingSet::new(context.working_set_bytes, context.pages)?;
    let mut baseline = CopyLatency { set, length: 4 << 10, batches: BATCHES };
    let mut citius = Mapped::new(context)?.map(|mapped| ReadLatency { mapped, length: 4 << 10, batches: BATCHES });
    READ_4K_P50.measure(context, side(&mut citius), &mut baseline)
}

pub(super) const READ_1M: Spec = Spec { name: "shm.read.1m", unit: "B/s", goal: Goal::AtLeast(0.95) };

/// Reads of 1 MiB at random offsets.
pub(super) fn read_1m(context: &Context) -> Result<Row> {
    cpu::pin(context.cores.client)?;
    let set = WorkingSet::new(context.working_set_bytes, context.pages)?;
    let mut baseline = CopyThroughput { set, length: 1 << 20, copies: COPIES_1M };
    let mut citius = Mapped::new(context)?.map(|mapped| ReadThroughput { mapped, length: 1 << 20, reads: COPIES_1M });
    READ_1M.measure(context, side(&mut citius), &mut baseline)
}
