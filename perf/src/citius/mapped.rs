//! Reads of mapped blocks, by the call that programs make.

use super::Citius;
use super::server::are_words;
use crate::context::Context;
use crate::measure::{Latencies, Side};
use crate::offsets::Offsets;
use crate::raw::memcpy::BATCH_COPIES;
use anyhow::{Result, ensure};
use citius_client::{Config, File};
use std::hint::black_box;
use std::time::Instant;

/// What is read to have all of it mapped and verified.
const PASS_BYTES: usize = 4 << 20;

/// The working set in Citius' memory, mapped here.
pub(crate) struct Mapped {
    file: File,
    _citius: Citius,
}

impl Mapped {
    /// Maps and verifies all of it. `None` if only baselines are to be measured.
    pub(crate) fn new(context: &Context) -> Result<Option<Self>> {
        let Some(citius) = Citius::start(context)? else { return Ok(None) };
        citius.fill(context.working_set_bytes)?;
        let file = citius.working_set(Config::default())?;
        let mut pass = vec![0; PASS_BYTES.min(context.working_set_bytes)];
        for offset in (0..file.len()).step_by(PASS_BYTES) {
            let count = file.read_at(&mut pass, offset)?;
            ensure!(are_words(&pass[..count], offset), "other bytes at {offset} than were written");
        }
        Ok(Some(Self { file, _citius: citius }))
    }

    fn read(&self, offset: u64, target: &mut [u8]) -> Result<()> {
        ensure!(self.file.read_at(target, offset)? == target.len(), "a short read at {offset}");
        black_box(target);
        Ok(())
    }
}

/// The median time of one read of `length` bytes, in nanoseconds, taken over batches.
pub(crate) struct ReadLatency {
    /// What is read.
    pub(crate) mapped: Mapped,
    /// Bytes of a read.
    pub(crate) length: usize,
    /// Batches of a round.
    pub(crate) batches: usize,
}

impl Side for ReadLatency {
    fn round(&mut self, seed: u64) -> Result<f64> {
        let mut offsets = Offsets::new(seed, self.mapped.file.len() as usize, self.length);
        let mut target = vec![0; self.length];
        let mut latencies = Latencies::with_capacity(self.batches);
        for _ in 0..self.batches {
            latencies.time(|| (0..BATCH_COPIES).try_for_each(|_| self.mapped.read(offsets.next(), &mut target)))?;
        }
        Ok(latencies.percentile(50.0) as f64 / BATCH_COPIES as f64)
    }
}

/// Bytes read per second, `length` at a time.
pub(crate) struct ReadThroughput {
    /// What is read.
    pub(crate) mapped: Mapped,
    /// Bytes of a read.
    pub(crate) length: usize,
    /// Reads of a round.
    pub(crate) reads: usize,
}

impl Side for ReadThroughput {
    fn round(&mut self, seed: u64) -> Result<f64> {
        let mut offsets = Offsets::new(seed, self.mapped.file.len() as usize, self.length);
        let mut target = vec![0; self.length];
        let start = Instant::now();
        for _ in 0..self.reads {
            self.mapped.read(offsets.next(), &mut target)?;
        }
        Ok((self.reads * self.length) as f64 / start.elapsed().as_secs_f64())
    }
}
