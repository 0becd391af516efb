//! Copies out of mapped memory: what a local read costs at the least.

use crate::measure::{Latencies, Side};
use crate::memory::WorkingSet;
use crate::offsets::Offsets;
use anyhow::Result;
use std::hint::black_box;
use std::time::Instant;

/// Copies in one timed batch: one alone is shorter than the clock is exact.
pub(crate) const BATCH_COPIES: usize = 1_000;

/// The median time of one copy of `length` bytes, in nanoseconds, taken over batches.
#[derive(Debug)]
pub(crate) struct CopyLatency {
    /// What is copied from.
    pub(crate) set: WorkingSet,
    /// Bytes of a copy.
    pub(crate) length: usize,
    /// Batches of a round.
    pub(crate) batches: usize,
}

impl Side for CopyLatency {
    fn round(&mut self, seed: u64) -> Result<f64> {
        let mut offsets = Offsets::new(seed, self.set.len(), self.length);
        let mut target = vec![0; self.length];
        let mut latencies = Latencies::with_capacity(self.batches);
        for _ in 0..self.batches {
            latencies.time(|| {
                for _ in 0..BATCH_COPIES {
                    copy(&self.set, offsets.next(), &mut target);
                }
            });
        }
        Ok(latencies.percentile(50.0) as f64 / BATCH_COPIES as f64)
    }
}

/// Bytes copied per second, `length` at a time.
#[derive(Debug)]
pub(crate) struct CopyThroughput {
    /// What is copied from.
    pub(crate) set: WorkingSet,
    /// Bytes of a copy.
    pub(crate) length: usize,
    /// Copies of a round.
    pub(crate) copies: usize,
}

impl Side for CopyThroughput {
    fn round(&mut self, seed: u64) -> Result<f64> {
        let mut offsets = Offsets::new(seed, self.set.len(), self.length);
        let mut target = vec![0; self.length];
        let start = Instant::now();
        for _ in 0..self.copies {
            copy(&self.set, offsets.next(), &mut target);
        }
        Ok((self.copies * self.length) as f64 / start.elapsed().as_secs_f64())
    }
}

/// One copy, which the compiler must not leave out.
fn copy(set: &[u8], offset: u64, target: &mut [u8]) {
    let offset = offset as usize;
    target.copy_from_slice(&set[offset..offset + target.len()]);
    black_box(target);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{HUGEPAGE_BYTES, PageKind, word_at};

    #[test]
    fn a_copy_is_of_its_offset() {
        let set = WorkingSet::new(HUGEPAGE_BYTES, PageKind::Small).unwrap();
        let mut target = [0; 16];
        copy(&set, 4096, &mut target);
        assert_eq!(target, [word_at(512).to_le_bytes(), word_at(513).to_le_bytes()].as_flattened());
    }

    #[test]
    fn rounds_give_figures() {
        let set = || WorkingSet::new(HUGEPAGE_BYTES, PageKind::Small).unwrap();
        assert!(CopyLatency { set: set(), length: 4096, batches: 3 }.round(1).unwrap() > 0.0);
        assert!(CopyThroughput { set: set(), length: HUGEPAGE_BYTES, copies: 3 }.round(1).unwrap() > 0.0);
    }
}
