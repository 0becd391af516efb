//! The pages of one shard: how many there are, where they are, and how they come back.
//!
//! ```text
//!          take                         retire, release
//! free ------------> used (in extents) ------------------> returning (a kernel thread frees them)
//!   ^                  | refused by the system                 |
//!   |                  v                                       v
//!   +---------------- owed <----------------------------- with hugepages
//!    reserved again     (not ours until the system lets us reserve them again)
//! ```
//!
//! Invariant: free + used + returning + owed is the capacity granted at start. Pages that another process stole, or that
//! a client still maps, are owed: the capacity is lower by that much until the system has them again, and nothing
//! faults.

use super::backing::{Backing, BackingChoice, hugepages_available, hugepages_total, is_thp_granted};
use super::ballast::Ballast;
use super::changes::{Changes, Next};
use super::error::MemError;
use super::extent::{Extent, Parts};
use super::mapping::Mapping;
use super::memfd::Memfd;
use super::pages::Pages;
use crate::ring::{Fd, RingHandle};
use citius_wire::units::PAGE_BYTES;
use rustix::fs::{FallocateFlags, SealFlags};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// Blocks kept, pages and all, for the next block of their size: it saves allocating them again.
const RECYCLED_BLOCKS_MAX: usize = 8;
/// The least part of the pages wanted, one in this many, for which hugepages are chosen over more of a lesser kind.
const HUGETLB_SHARE_MIN: u32 = 2;

/// What a shard was given at start.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The kind of page.
    pub backing: Backing,
    /// How many of them.
    pub pages: u32,
    /// Why it is not hugepages, or not as many as asked for, and what to do about it.
    pub note: Option<String>,
}

/// Where the pages of a shard are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolUse {
    /// All of them, as granted at start.
    pub pages_granted: u32,
    /// Free to take.
    pub pages_free: u32,
    /// In blocks, slabs and recycled blocks.
    pub pages_used: u32,
    /// Being freed.
    pub pages_returning: u32,
    /// Lost to other processes, or still mapped by clients, until the system has them again.
    pub pages_owed: u32,
    /// Those of `pages_used` that wait in recycled blocks.
    pub pages_recycled: u32,
}

impl PoolUse {
    /// Bytes of all pages.
    pub fn bytes_granted(&self) -> u64 {
        u64::from(self.pages_granted) * PAGE_BYTES as u64
    }

    /// Bytes of those that are owed.
    pub fn bytes_owed(&self) -> u64 {
        u64::from(self.pages_owed) * PAGE_BYTES as u64
    }
}

/// The pages of one shard. A clone is the same pool.
#[derive(Clone)]
pub struct PagePool {
    core: Rc<PoolCore>,
}

pub(super) struct PoolCore {
    ring: RingHandle,
    backing: Backing,
    granted: u32,
    ballast: RefCell<Option<Ballast>>,
    free: Cell<u32>,
    used: Cell<u32>,
    returning: Cell<u32>,
    owed: Cell<u32>,
    recycled: RefCell<VecDeque<Parts>>,
    changes: Changes,
}

impl PagePool {
    /// Takes a shard's pages: as many as `bytes` has room for, or as the machine has.
    ///
    /// Hugepages are reserved and not touched, the other kinds only counted, so that it costs microseconds whatever the
    /// size. `shards` of a worker are assumed to ask for as much each, which the note's advice adds up.
    ///
    /// # Errors
    /// If the one backing that was asked for is not to be had at all.
    pub fn start(ring: RingHandle, choice: BackingChoice, bytes: u64, shards: u32) -> Result<(Self, Grant), MemError> {
        let wanted = u32::try_from(bytes / PAGE_BYTES as u64).unwrap_or(u32::MAX).max(1);
        let system = HugepagesSeen { total: hugepages_total(), available: hugepages_available() };
        let (backing, pages, ballast) = choose(choice, wanted)?;
        let note = system.advice(backing, pages, wanted, shards);
        let core = PoolCore {
            ring,
            backing,
            granted: pages,
            ballast: RefCell::new(ballast),
            free: Cell::new(pages),
            used: Cell::new(0),
            returning: Cell::new(0),
            owed: Cell::new(0),
            recycled: RefCell::default(),
            changes: Changes::default(),
        };
        Ok((Self { core: Rc::new(core) }, Grant { backing, pages, note }))
    }

    /// The kind of page that the shard was granted.
    pub fn backing(&self) -> Backing {
        self.core.backing
    }

    /// Where the pages are now.
    pub fn usage(&self) -> PoolUse {
        let core = &self.core;
        let recycled = core.recycled.borrow().iter().map(|parts| parts.pages.present_count()).sum();
        let usage = PoolUse {
            pages_granted: core.granted,
            pages_free: core.free.get(),
            pages_used: core.used.get(),
            pages_returning: core.returning.get(),
            pages_owed: core.owed.get(),
            pages_recycled: recycled,
        };
        assert_eq!(
            usage.pages_free + usage.pages_used + usage.pages_returning + usage.pages_owed,
            usage.pages_granted,
            "a page is always somewhere: {usage:?}"
        );
        usage
    }

    /// Waits until `pages` are free; false if no page is on its way back and something must be evicted first.
    ///
    /// Recycled blocks are given up for it.
    pub async fn wait_free(&self, pages: u32) -> bool {
        loop {
            if self.core.make_free(pages) {
                return true;
            }
            if self.core.returning.get() == 0 {
                return false;
            }
            self.core.returned().await;
        }
    }

    /// Waits until something that is being freed is back, descriptor and mapping included; false if nothing is.
    pub async fn wait_returned(&self) -> bool {
        let is_returning = self.core.is_returning();
        if is_returning {
            self.core.returned().await;
        }
        is_returning
    }

    pub(super) fn core(&self) -> &Rc<PoolCore> {
        &self.core
    }
}

impl PoolCore {
    pub(super) fn ring(&self) -> &RingHandle {
        &self.ring
    }

    pub(super) fn backing(&self) -> Backing {
        self.backing
    }

    /// An extent of `pages` pages whose bytes are zero and of which none is allocated.
    pub(super) fn extent(self: &Rc<Self>, pages: u32) -> Result<Rc<Extent>, MemError> {
        let bytes = pages as usize * PAGE_BYTES;
        let memfd = Memfd::create(self.backing, "citius-block", bytes).map_err(MemError::system("memfd_create"))?;
        let map = Mapping::writable(&memfd).map_err(MemError::system("mmap"))?;
        Ok(Extent::new(Rc::clone(self), Parts { memfd, map: Some(map), pages: Pages::new(pages) }))
    }

    /// An extent of `pages` pages, if one of a block that is gone was kept. Its old bytes are still in it.
    pub(super) fn extent_recycled(self: &Rc<Self>, pages: u32) -> Option<Rc<Extent>> {
        let mut recycled = self.recycled.borrow_mut();
        let at = recycled.iter().position(|parts| parts.pages.count() == pages)?;
        let parts = recycled.remove(at).expect("position names an element");
        Some(Extent::new(Rc::clone(self), parts))
    }

    /// Takes `pages` free pages, for an extent to allocate at once.
    pub(super) fn take(self: &Rc<Self>, pages: u32) -> Result<(), MemError> {
        if !self.make_free(pages) {
            return Err(MemError::NoPages { wanted_pages: pages, free_pages: self.free.get() });
        }
        if let Some(ballast) = self.ballast.borrow_mut().as_mut() {
            ballast.shrink(pages).map_err(MemError::system("ftruncate"))?;
        }
        self.free.set(self.free.get() - pages);
        self.used.set(self.used.get() + pages);
        Ok(())
    }

    /// Whether pages are being freed, so that waiting has a point.
    pub(super) fn is_returning(&self) -> bool {
        self.returning.get() > 0
    }

    /// Ready when pages have come back.
    pub(super) fn returned(&self) -> Next<'_> {
        self.changes.next()
    }

    /// Used pages begin to return.
    pub(super) fn depart(&self, pages: u32) {
        self.used.set(self.used.get() - pages);
        self.returning.set(self.returning.get() + pages);
    }

    /// Returning pages stayed after all.
    pub(super) fn stay(&self, pages: u32) {
        self.returning.set(self.returning.get() - pages);
        self.used.set(self.used.get() + pages);
        self.changes.notify();
    }

    /// Returning pages are back with the system, from which hugepages have to be reserved again.
    pub(super) fn settle(&self, pages: u32) {
        self.returning.set(self.returning.get() - pages);
        if self.ballast.borrow().is_some() {
            self.owed.set(self.owed.get() + pages);
            self.collect_owed();
        } else {
            self.free.set(self.free.get() + pages);
        }
        self.changes.notify();
    }

    /// What remains of an extent that nobody refers to any more.
    pub(super) fn retire(self: &Rc<Self>, parts: Parts, may_recycle: bool) {
        let mut recycled = self.recycled.borrow_mut();
        if may_recycle && parts.map.is_some() && recycled.len() < RECYCLED_BLOCKS_MAX {
            recycled.push_back(parts);
            return;
        }
        drop(recycled);
        self.dismantle(parts);
    }

    /// Frees a memfd's pages on a kernel thread, and with them the memfd.
    fn dismantle(self: &Rc<Self>, parts: Parts) {
        let Parts { memfd, map, pages } = parts;
        let count = pages.present_count();
        // Before the close: a mapping would keep the file.
        drop(map);
        if count == 0 {
            return;
        }
        self.depart(count);
        let pool = Rc::clone(self);
        let done = move |_| pool.settle(count);
        // A sealed file takes no hole, and only its last close frees it.
        let is_sealed = memfd.seals().map_or(true, |seals| seals.contains(SealFlags::WRITE));
        let started = match Rc::try_unwrap(memfd.into_fd()) {
            Ok(fd) if is_sealed => self.ring.close_then(fd, done),
            Ok(fd) => {
                let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                let bytes = u64::from(pages.count()) * PAGE_BYTES as u64;
                self.ring.fallocate_then(Fd::from(fd), mode, 0..bytes, None, done)
            }
            Err(_shared) => unreachable!("no operation refers to an extent that is dropped"),
        };
        if started.is_err() {
            // The ring refused and closed the file here and now.
            self.settle(count);
        }
    }

    /// Whether `pages` are free, after asking the system for what it owes and beginning to free recycled blocks.
    fn make_free(self: &Rc<Self>, pages: u32) -> bool {
        if self.free.get() < pages {
            self.collect_owed();
        }
        while self.free.get() + self.returning.get() < pages {
            let Some(parts) = self.recycled.borrow_mut().pop_front() else { break };
            self.dismantle(parts);
        }
        self.free.get() >= pages
    }

    fn collect_owed(&self) {
        if self.owed.get() == 0 {
            return;
        }
        if let Some(ballast) = self.ballast.borrow_mut().as_mut() {
            let got = ballast.grow(self.owed.get());
            self.owed.set(self.owed.get() - got);
            self.free.set(self.free.get() + got);
        }
    }
}

/// The system's hugepages as they were before the shard took its own.
struct HugepagesSeen {
    total: usize,
    available: usize,
}

impl HugepagesSeen {
    /// What to tell the operator when a shard got less than the best.
    fn advice(&self, backing: Backing, got: u32, wanted: u32, shards: u32) -> Option<String> {
        if backing == Backing::Hugetlb && got == wanted {
            return None;
        }
        let needed = self.total - self.available.min(self.total) + wanted as usize * shards.max(1) as usize;
        let what = match backing {
            Backing::Hugetlb => format!("only {got} of {wanted} hugepages were free, so the memory tier is smaller"),
            Backing::Thp => {
                "no hugepage pool, so memory is backed by transparent hugepages where the kernel can".to_owned()
            }
            Backing::Small => "no hugepages, so memory is backed by 4 KiB pages".to_owned(),
        };
        Some(format!("{what}; for hugepages run `sysctl vm.nr_hugepages={needed}` and restart"))
    }
}

fn choose(choice: BackingChoice, wanted: u32) -> Result<(Backing, u32, Option<Ballast>), MemError> {
    let is_allowed = |backing| matches!(choice, BackingChoice::Best) || choice == BackingChoice::Only(backing);
    if is_allowed(Backing::Hugetlb) {
        let least = if choice == BackingChoice::Best { wanted.div_ceil(HUGETLB_SHARE_MIN) } else { 1 };
        let refused = match reserve(wanted) {
            Ok((ballast, got)) if got >= least => return Ok((Backing::Hugetlb, got, Some(ballast))),
            Ok(_) => std::io::Error::from_raw_os_error(libc::ENOMEM),
            Err(error) => error,
        };
        if choice != BackingChoice::Best {
            return Err(MemError::System { call: "reserving hugepages", source: refused });
        }
    }
    if choice == BackingChoice::Only(Backing::Thp) || (is_allowed(Backing::Thp) && is_thp_granted()) {
        return Ok((Backing::Thp, wanted, None));
    }
    Ok((Backing::Small, wanted, None))
}

fn reserve(wanted: u32) -> std::io::Result<(Ballast, u32)> {
    let mut ballast = Ballast::new()?;
    let got = ballast.grow(wanted);
    Ok((ballast, got))
}
