//! A memfd whose pages come and go one by one, each allocated by a kernel thread before anybody may touch it.

use super::backing::Backing;
use super::changes::Changes;
use super::error::MemError;
use super::mapping::Mapping;
use super::memfd::Memfd;
use super::pages::Pages;
use super::pool::PoolCore;
use crate::ring::{Fd, Keep, Span};
use citius_wire::units::PAGE_BYTES;
use core::ops::Range;
use core::ptr::NonNull;
use rustix::fs::FallocateFlags;
use std::cell::{Cell, Ref, RefCell, RefMut};
use std::io;
use std::rc::Rc;

/// Times an allocation that a signal or a passing shortage interrupted is tried.
const ALLOCATE_ATTEMPTS_MAX: u32 = 4;

/// What an extent is made of, apart from whose it is.
pub(super) struct Parts {
    pub(super) memfd: Memfd,
    /// None while a local writer has it.
    pub(super) map: Option<Mapping>,
    pub(super) pages: Pages,
}

/// A memfd with the state of its pages. Whoever touches its memory holds a reference to it, or to its owner.
pub(super) struct Extent {
    pool: Rc<PoolCore>,
    /// Taken only by drop.
    parts: RefCell<Option<Parts>>,
    changes: Changes,
    /// Whether the next block may have it, old bytes and all: no client ever had its descriptor.
    may_recycle: Cell<bool>,
}

/// How pages are made.
#[derive(Clone, Copy)]
enum Method {
    /// fallocate(2): all that hugepages need.
    Allocate,
    /// MADV_POPULATE_WRITE: for the other backings, because fallocate has no mapping whose advice to follow and would
    /// give small pages, and would leave 512 faults a page to the first touch.
    Populate,
}

impl Extent {
    pub(super) fn new(pool: Rc<PoolCore>, parts: Parts) -> Rc<Self> {
        let parts = RefCell::new(Some(parts));
        Rc::new(Self { pool, parts, changes: Changes::default(), may_recycle: Cell::new(false) })
    }

    pub(super) fn parts(&self) -> Ref<'_, Parts> {
        Ref::map(self.parts.borrow(), |parts| parts.as_ref().expect("only drop takes the parts"))
    }

    pub(super) fn parts_mut(&self) -> RefMut<'_, Parts> {
        RefMut::map(self.parts.borrow_mut(), |parts| parts.as_mut().expect("only drop takes the parts"))
    }

    pub(super) fn bytes(&self) -> usize {
        self.parts().memfd.bytes()
    }

    pub(super) fn set_may_recycle(&self, may_recycle: bool) {
        self.may_recycle.set(may_recycle);
    }

    /// The address of the bytes at `range`.
    ///
    /// # Panics
    /// If a page of the range is not present, because touching it could kill the process.
    pub(super) fn address(&self, range: &Range<usize>) -> NonNull<u8> {
        let parts = self.parts();
        let map = parts.map.as_ref().expect("a block that a local writer has is not read");
        assert!(range.start <= range.end && range.end <= map.bytes(), "bytes {range:?} of {}", map.bytes());
        assert!(parts.pages.all_present(pages_of(range)), "bytes {range:?} have pages that are not allocated");
        // SAFETY: the range lies within the mapping, as was just checked.
        unsafe { map.start().add(range.start) }
    }

    /// A span of the bytes at `range`, kept alive by `keep`, which must hold this extent.
    pub(super) fn span(&self, range: Range<usize>, keep: Keep) -> Span {
        let start = self.address(&range);
        // SAFETY: the pages are present, so readable, and stay while `keep` holds the extent; memfds are zeroed.
        unsafe { Span::new(start, range.end - range.start, keep) }
    }

    /// Allocates what is absent of `range`, and waits until all of it is present.
    ///
    /// What it started goes on when the future is dropped, and is settled all the same; `owner` is held until then.
    pub(super) async fn ensure(self: &Rc<Self>, range: Range<u32>, owner: Keep) -> Result<(), MemError> {
        let failure = Rc::new(RefCell::new(None));
        loop {
            if let Some(error) = failure.take() {
                return Err(error);
            }
            if self.parts().pages.all_present(range.clone()) {
                return Ok(());
            }
            let changed = self.changes.next();
            let absent = self.parts().pages.first_absent(range.clone());
            let Some(run) = absent else {
                changed.await;
                continue;
            };
            let count = run.end - run.start;
            match self.pool.take(count) {
                Ok(()) => self.allocate(run, Rc::clone(&owner), &failure)?,
                Err(MemError::NoPages { .. }) if self.pool.is_returning() => self.pool.returned().await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Frees pages that nobody uses, on a kernel thread.
    pub(super) fn release(self: &Rc<Self>, range: Range<u32>) {
        let count = range.end - range.start;
        self.parts_mut().pages.depart(range.clone());
        self.pool.depart(count);
        let extent = Rc::clone(self);
        let settled = range.clone();
        let done = move |result: io::Result<u32>| {
            extent.parts_mut().pages.arrive(settled, result.is_err());
            match result {
                Ok(_) => extent.pool.settle(count),
                // The pages are where they were, and are found present by the next who wants them.
                Err(_) => extent.pool.stay(count),
            }
            extent.changes.notify();
        };
        if self.punch(range.clone(), done).is_err() {
            self.parts_mut().pages.arrive(range, true);
            self.pool.stay(count);
            self.changes.notify();
        }
    }

    fn allocate(self: &Rc<Self>, run: Range<u32>, owner: Keep, failure: &Failure) -> Result<(), MemError> {
        self.parts_mut().pages.depart(run.clone());
        let method = match self.pool.backing() {
            Backing::Hugetlb => Method::Allocate,
            Backing::Thp | Backing::Small => Method::Populate,
        };
        let attempt = Attempt { run: run.clone(), method, owner, failure: Rc::clone(failure), count: 1 };
        self.start(attempt).map_err(|source| {
            self.unwind_now(run);
            MemError::System { call: "allocating pages", source }
        })
    }

    fn start(self: &Rc<Self>, attempt: Attempt) -> io::Result<()> {
        let bytes = bytes_of(&attempt.run);
        let extent = Rc::clone(self);
        let memory: Keep = Rc::new((Rc::clone(self), Rc::clone(&attempt.owner)));
        let method = attempt.method;
        let done = move |result| extent.allocated(attempt, result);
        let parts = self.parts();
        match (method, &parts.map) {
            (Method::Populate, Some(map)) => {
                let len = (bytes.end - bytes.start) as usize;
                // SAFETY: the run lies within the mapping, which lives as long as the extent, which `memory` holds.
                unsafe {
                    self.pool.ring().populate_then(map.start().as_ptr().add(bytes.start as usize), len, memory, done)
                }
            }
            _ => {
                let fd = Fd::from(parts.memfd.fd());
                self.pool.ring().fallocate_then(fd, FallocateFlags::empty(), bytes, Some(memory), done)
            }
        }
    }

    /// The kernel answered an allocation.
    fn allocated(self: &Rc<Self>, mut attempt: Attempt, result: io::Result<u32>) {
        let run = attempt.run.clone();
        let Err(error) = result else {
            self.parts_mut().pages.arrive(run, true);
            self.changes.notify();
            return;
        };
        let again = match error.raw_os_error() {
            Some(libc::EINTR | libc::EAGAIN) => attempt.count < ALLOCATE_ATTEMPTS_MAX,
            // Kernels before 5.14 do not populate.
            Some(libc::EINVAL) => matches!(attempt.method, Method::Populate),
            _ => false,
        };
        if again {
            attempt.count += 1;
            if error.raw_os_error() == Some(libc::EINVAL) {
                attempt.method = Method::Allocate;
            }
            if self.start(attempt).is_err() {
                self.unwind(run);
            }
            return;
        }
        let pages = run.end - run.start;
        tracing::warn!(pages, %error, "the system refused pages that this shard counted on");
        *attempt.failure.borrow_mut() = Some(MemError::PagesLost { pages, source: error });
        self.unwind(run);
    }

    /// Frees what a failed allocation got, of which it is not known which pages.
    fn unwind(self: &Rc<Self>, run: Range<u32>) {
        let extent = Rc::clone(self);
        let settled = run.clone();
        if self.punch(run.clone(), move |_| extent.unwind_now(settled)).is_err() {
            self.unwind_now(run);
        }
    }

    fn unwind_now(self: &Rc<Self>, run: Range<u32>) {
        let count = run.end - run.start;
        self.parts_mut().pages.arrive(run, false);
        self.pool.depart(count);
        self.pool.settle(count);
        self.changes.notify();
    }

    fn punch(self: &Rc<Self>, range: Range<u32>, done: impl FnOnce(io::Result<u32>) + 'static) -> io::Result<()> {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let fd = Fd::from(self.parts().memfd.fd());
        self.pool.ring().fallocate_then(fd, mode, bytes_of(&range), Some(Rc::clone(self) as Keep), done)
    }
}

impl Drop for Extent {
    fn drop(&mut self) {
        let parts = self.parts.take().expect("dropped once");
        debug_assert!(!parts.pages.any_moving(0..parts.pages.count()), "an operation holds its extent");
        self.pool.retire(parts, self.may_recycle.get());
    }
}

type Failure = Rc<RefCell<Option<MemError>>>;

/// One allocation on its way.
struct Attempt {
    run: Range<u32>,
    method: Method,
    owner: Keep,
    failure: Failure,
    count: u32,
}

/// The pages that hold the bytes at `range`.
pub(super) fn pages_of(range: &Range<usize>) -> Range<u32> {
    if range.is_empty() {
        return 0..0;
    }
    (range.start / PAGE_BYTES) as u32..range.end.div_ceil(PAGE_BYTES) as u32
}

fn bytes_of(pages: &Range<u32>) -> Range<u64> {
    u64::from(pages.start) * PAGE_BYTES as u64..u64::from(pages.end) * PAGE_BYTES as u64
}
