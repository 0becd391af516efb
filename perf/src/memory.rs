//! A working set: one mapped memfd, all of it there, with bytes that tell where they are.

#![allow(unsafe_code)]

use crate::offsets::mix;
use anyhow::{Context as _, Result};
use clap::ValueEnum;
use core::fmt;
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ops::Deref;

/// Bytes of the hugepages that are used.
pub(crate) const HUGEPAGE_BYTES: usize = 2 << 20;

/// What a working set is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PageKind {
    /// 2 MiB pages of the hugepage pool.
    Hugetlb,
    /// The machine's ordinary pages.
    Small,
}

impl PageKind {
    /// The name on a command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Hugetlb => "hugetlb",
            Self::Small => "small",
        }
    }
}

impl fmt::Display for PageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Mapped memory. It is written once, by [`WorkingSet::new`], and only read from then on; nobody else has the memfd.
#[derive(Debug)]
pub(crate) struct WorkingSet {
    start: *mut u8,
    bytes: usize,
}

// SAFETY: the memory belongs to this value until it drops, and nobody writes it.
unsafe impl Send for WorkingSet {}
// SAFETY: as above; shared reads of memory that nobody writes.
unsafe impl Sync for WorkingSet {}

impl WorkingSet {
    /// Allocates, maps and fills `bytes` bytes.
    pub(crate) fn new(bytes: usize, pages: PageKind) -> Result<Self> {
        let flags = match pages {
            PageKind::Hugetlb => MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
            PageKind::Small => MemfdFlags::CLOEXEC,
        };
        let what = || format!("a working set of {bytes} bytes in {pages} pages");
        let memory = memfd_create("citius-perf", flags).with_context(what)?;
        ftruncate(&memory, bytes as u64).with_context(what)?;
        // Pages that are not there fail here, and not by a signal at their first touch.
        fallocate(&memory, FallocateFlags::empty(), 0, bytes as u64).with_context(what)?;
        // SAFETY: the kernel chooses where, so nothing else is mapped there; the result is unmapped by `drop` only.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                &memory,
                0,
            )
        };
        let set = Self { start: start.with_context(what)?.cast(), bytes };
        // SAFETY: `bytes` bytes are mapped there, writable and zero, and this is the only reference to them.
        let words = unsafe { std::slice::from_raw_parts_mut(set.start.cast::<u64>(), bytes / 8) };
        for (index, word) in words.iter_mut().enumerate() {
            *word = word_at(index as u64).to_le();
        }
        Ok(set)
    }
}

/// The word that every working set has at 8 times `index`, so that whoever reads it can tell that it is the right one.
pub(crate) const fn word_at(index: u64) -> u64 {
    // Not of the index itself: the mix of 0 is 0, and memory that nobody wrote would pass for the first word.
    mix(index + 1)
}

impl Deref for WorkingSet {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `bytes` bytes are mapped there as long as `self` lives, and nobody writes them.
        unsafe { std::slice::from_raw_parts(self.start, self.bytes) }
    }
}

impl Drop for WorkingSet {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and no slice of it outlives `self`.
        // To fail, the arguments would have to be wrong, and then nothing can be done here.
        let _ = unsafe { munmap(self.start.cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_tells_where_it_is() {
        let set = WorkingSet::new(HUGEPAGE_BYTES, PageKind::Small).unwrap();
        assert_eq!(set.len(), HUGEPAGE_BYTES);
        for (index, word) in set.chunks_exact(8).enumerate() {
            assert_eq!(word, word_at(index as u64).to_le_bytes());
        }
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        // Longer than a file can be. (What is merely more than there is would first be taken until it is gone.)
        let error = WorkingSet::new(usize::MAX & !(HUGEPAGE_BYTES - 1), PageKind::Small).unwrap_err();
        assert!(error.to_string().contains("working set"), "{error:#}");
    }
}
