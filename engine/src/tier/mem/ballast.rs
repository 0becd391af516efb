//! Keeping the hugepages that a shard does not use yet from everybody else.
//!
//! Any process may drain an unreserved pool. The ballast is a hugepage memfd in which nothing is allocated: mapping a
//! part of it *reserves* its pages, which the kernel then grants to nobody else, and the reservation stays with the file
//! when the mapping goes. Shrinking the file gives reservations back, so a page moves to a block by shrinking the ballast
//! by one page and allocating one in the block's memfd.
//!
//! Rejected: allocating the ballast. It promises no more, but zeroes every page at start and again when a block takes
//! it: seconds per 10 GiB before a worker is ready, against microseconds.

use super::backing::Backing;
use super::memfd::Memfd;
use citius_wire::units::PAGE_BYTES;
use rustix::fs::ftruncate;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::io;

/// The reserved pages of one shard.
pub(super) struct Ballast {
    memfd: Memfd,
    pages: u32,
}

impl Ballast {
    /// A ballast that holds nothing yet.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { memfd: Memfd::create_growable(Backing::Hugetlb, "citius-ballast")?, pages: 0 })
    }

    /// Reserves up to `wanted` more pages; says how many it got, which is all that the system can promise.
    pub(super) fn grow(&mut self, wanted: u32) -> u32 {
        let mut got = 0;
        let mut step = wanted;
        while step > 0 && got < wanted {
            if self.reserve(step).is_ok() {
                got += step;
                step = step.min(wanted - got);
            } else {
                step /= 2;
            }
        }
        got
    }

    /// Gives `pages` reservations back to the system, for a block to take at once.
    ///
    /// # Panics
    /// If the ballast holds fewer.
    pub(super) fn shrink(&mut self, pages: u32) -> io::Result<()> {
        let left = self.pages.checked_sub(pages).expect("the pool takes no more than it has");
        ftruncate(&self.memfd, u64::from(left) * PAGE_BYTES as u64)?;
        self.pages = left;
        Ok(())
    }

    fn reserve(&mut self, pages: u32) -> io::Result<()> {
        let start = u64::from(self.pages) * PAGE_BYTES as u64;
        let bytes = pages as usize * PAGE_BYTES;
        ftruncate(&self.memfd, start + bytes as u64)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses the address, and nothing is ever touched through it.
        let mapped = unsafe { mmap(core::ptr::null_mut(), bytes, protection, MapFlags::SHARED, &self.memfd, start) };
        match mapped {
            Ok(address) => {
                // SAFETY: the range mapped above, to which nothing refers.
                unsafe { munmap(address, bytes)? };
                self.pages += pages;
                Ok(())
            }
            Err(error) => {
                ftruncate(&self.memfd, start)?;
                Err(error.into())
            }
        }
    }
}
