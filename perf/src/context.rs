//! What all ratios of a run share.

use crate::citius::Citius;
use crate::cpu::Cores;
use crate::memory::{HUGEPAGE_BYTES, PageKind};
use crate::pool::HugepagePool;
use anyhow::{Context as _, Result, ensure};
use core::fmt;
use std::path::PathBuf;

/// Working sets take at most this part of the memory that is available: both sides have one, and others live here too.
const AVAILABLE_SHARE: usize = 4;

/// Rounds, cores, and the kind of page that both sides keep their working sets in.
pub(crate) struct Context {
    /// How many rounds each median is of.
    pub(crate) rounds: u32,
    /// Where the sequence of offsets begins.
    pub(crate) seed: u64,
    /// Who runs where.
    pub(crate) cores: Cores,
    /// Bytes of each side's working set.
    pub(crate) working_set_bytes: usize,
    /// The `citius` that is measured; `None` to measure the baselines alone.
    pub(crate) citius: Option<PathBuf>,
    /// What the working sets are made of.
    pub(crate) pages: PageKind,
    /// Put back when the run ends.
    _pool: Option<HugepagePool>,
}

impl Context {
    /// Grows the hugepage pool if it may, and chooses what the machine grants: hugepages if there are enough for a
    /// working set, ordinary ones otherwise.
    pub(crate) fn new(rounds: u32, working_set_bytes: usize, seed: u64, citius: Option<PathBuf>) -> Result<Self> {
        ensure!(
            working_set_bytes > 0 && working_set_bytes.is_multiple_of(HUGEPAGE_BYTES),
            "a working set of {working_set_bytes} bytes: it must be a multiple of {HUGEPAGE_BYTES}"
        );
        let available = available_bytes()?;
        ensure!(
            working_set_bytes <= available / AVAILABLE_SHARE,
            "a working set of {working_set_bytes} bytes: at most a {AVAILABLE_SHARE}th of the {available} bytes available \
             may be taken; give less with --working-set"
        );
        let of_citius = citius.as_ref().map_or(0, |_| Citius::memory_bytes(working_set_bytes));
        let hugepages = ((working_set_bytes + of_citius) / HUGEPAGE_BYTES) as u64;
        let pool = HugepagePool::grow(hugepages);
        let pages = match &pool {
            Some(pool) if pool.free()? >= hugepages => PageKind::Hugetlb,
            _ => PageKind::Small,
        };
        Ok(Self { rounds, seed, citius, cores: Cores::choose()?, working_set_bytes, pages, _pool: pool })
    }
}

/// What the kernel thinks may be allocated without swapping.
fn available_bytes() -> Result<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("no MemAvailable in it")?;
    let kibibytes: usize =
        line.trim().trim_end_matches(" kB").parse().with_context(|| format!("MemAvailable: {line:?}"))?;
    Ok(kibibytes << 10)
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} rounds; {} MiB of {} pages a side; server on core {}, client on core {}",
            self.rounds,
            self.working_set_bytes >> 20,
            self.pages,
            self.cores.server,
            self.cores.client
        )?;
        if self.cores.server == self.cores.client {
            f.write_str(" (there is only one: throughput and latency are of both together)")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn working_sets_that_the_machine_could_not_bear_are_refused() {
        for bytes in [0, 4096, HUGEPAGE_BYTES + 1, usize::MAX & !(HUGEPAGE_BYTES - 1), available_bytes().unwrap()] {
            let refusal = Context::new(5, bytes, 1, None).err().unwrap();
            assert!(refusal.to_string().starts_with("a working set of"), "{refusal}");
        }
    }
}
