//! The shard's own io_uring: disks, page allocation, sockets, and the place where the shard sleeps.
//!
//! One [`Ring`] belongs to one shard and never leaves its thread. Operations are queued without a system call and
//! submitted together by [`RingHandle::flush`] or [`RingHandle::sleep`]; the shard sleeps in its ring, and
//! [`RingHandle::reap`] turns completions into wakes. There is no executor in here: any single-threaded one can drive it.
//!
//! ```text
//!   read_at, poll_add, ...    flush               (kernel)            reap
//! future -----------> SQ entry ----> io_uring_enter ----> CQ entry ----> wake the future
//!            |                                                         |
//!            +-- slot: guard = what keeps the descriptor and memory ---+--> guard dropped
//! ```
//!
//! **The invariant**: an operation owns its descriptor and its memory until its completion was read. A future that is
//! dropped leaves an orphan in the table; a ring that is dropped cancels, waits a bounded time, and leaks what the
//! kernel would not give back. Nothing is ever freed early.
//!
//! Completions ride on `COOP_TASKRUN`: the kernel runs them when the thread next enters it, without an interrupt.
//! `TASKRUN_FLAG` lets `reap` see from user space whether there is work that only an enter would bring.
//! `DEFER_TASKRUN` is not used: it would add an enter to every reap between two sleeps.

#![allow(unsafe_code)]

mod op;
mod slots;
mod span;
#[cfg(test)]
pub(crate) mod tests;

pub use op::{Op, Read};
pub use span::{Fd, Keep, Span, SpanMut};

use core::ops::Deref;
use core::task::Waker;
use io_uring::squeue::{Entry, Flags};
use io_uring::{IoUring, opcode, types};
use op::{OnDrop, result_of};
use rustix::fs::FallocateFlags;
use slots::{Done, Finished, Guard, Slots};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Completion entries per submission entry. Many operations wait long, so there are more of them than are queued.
const CQ_ENTRIES_PER_SQ: u32 = 4;
/// Attempts to make the kernel accept what is queued before an operation is refused.
const SUBMIT_ATTEMPTS_MAX: usize = 16;
/// How long a dropped ring waits for its operations before it leaks what they hold.
const DROP_WAIT_MAX: Duration = Duration::from_secs(1);
/// `user_data` of entries whose completion means nothing.
const USER_DATA_IGNORED: u64 = u64::MAX;

/// The shard's ring. Operations are on [`RingHandle`], which it dereferences to and of which it gives clones.
pub struct Ring {
    handle: RingHandle,
}

/// A right to queue operations on a shard's ring; one counter to clone.
#[derive(Clone)]
pub struct RingHandle {
    core: Rc<Core>,
}

struct Core {
    uring: RefCell<IoUring>,
    slots: RefCell<Slots>,
    /// Completions read from the kernel whose owners have not been told yet.
    arrived: RefCell<VecDeque<(u64, i32)>>,
    /// No operation is taken any more.
    closed: Cell<bool>,
    /// Nothing is in the table any more; what still completes was leaked.
    abandoned: Cell<bool>,
    enters: Cell<u64>,
}

impl Ring {
    /// Opens a ring with room for `entries` queued operations (rounded up to a power of two).
    ///
    /// # Errors
    /// A kernel that has no io_uring, forbids it, or lacks its completion backlog (before 5.11) is named as the cause.
    pub fn new(entries: u32) -> io::Result<Self> {
        let uring = build(entries).map_err(explain)?;
        let params = uring.params();
        if !params.is_feature_nodrop() || !params.is_feature_ext_arg() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this kernel's io_uring may drop completions; Linux 5.11 or newer is needed",
            ));
        }
        let core = Core {
            uring: RefCell::new(uring),
            slots: RefCell::default(),
            arrived: RefCell::default(),
            closed: Cell::new(false),
            abandoned: Cell::new(false),
            enters: Cell::new(0),
        };
        Ok(Self { handle: RingHandle { core: Rc::new(core) } })
    }

    /// A right to queue operations.
    pub fn handle(&self) -> RingHandle {
        self.handle.clone()
    }

    /// Runs until nothing is in flight but what waits for peers, or `timeout` is over; true if it came to that.
    ///
    /// It blocks the thread: for a shard that stops, and for tests.
    pub fn drain(&self, timeout: Duration) -> bool {
        self.run_down(timeout, Slots::ending)
    }

    /// Runs until `left` operations are none, or `timeout` is over; true if they are none.
    fn run_down(&self, timeout: Duration, left: impl Fn(&Slots) -> usize) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            self.reap();
            let is_over = left(&self.core.slots.borrow()) == 0;
            let time_left = deadline.saturating_duration_since(Instant::now());
            if is_over || time_left.is_zero() {
                return is_over;
            }
            self.sleep(Some(time_left.min(Duration::from_millis(50))));
        }
    }
}

impl Deref for Ring {
    type Target = RingHandle;

    fn deref(&self) -> &RingHandle {
        &self.handle
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let _ = self.flush();
        self.core.closed.set(true);
        if self.in_flight() > 0 {
            let everything = types::CancelBuilder::any();
            // Refused where the kernel cannot cancel by kind; the wait below is bounded either way.
            let _ = self.core.uring.borrow().submitter().register_sync_cancel(Some(DROP_WAIT_MAX.into()), everything);
            self.run_down(DROP_WAIT_MAX, Slots::in_flight);
        }
        self.core.abandoned.set(true);
        let left = self.core.slots.borrow_mut().abandon();
        if !left.is_empty() {
            tracing::warn!(
                operations = left.len(),
                "a ring closed while the kernel held operations; their memory is leaked"
            );
        }
        for Finished { guard, waker, done } in left {
            std::mem::forget(guard);
            std::mem::forget(done);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// Driving the ring.
impl RingHandle {
    /// Submits what is queued and blocks until something has completed, or `timeout` is over; then [`reap`](Self::reap).
    pub fn sleep(&self, timeout: Option<Duration>) {
        // What has arrived and was not reaped must not be slept over.
        if self.core.arrived.borrow().is_empty() {
            self.core.sleep(timeout);
        }
    }

    /// Operations queued or in the kernel, orphans included.
    pub fn in_flight(&self) -> usize {
        self.core.slots.borrow().in_flight()
    }

    /// Times this ring has entered the kernel.
    pub fn enters(&self) -> u64 {
        self.core.enters.get()
    }

    /// Submits every queued operation with one system call, or none if nothing is queued; says how many it submitted.
    ///
    /// # Errors
    /// If the kernel keeps refusing; what is queued stays queued.
    pub fn flush(&self) -> io::Result<usize> {
        self.core.flush()
    }

    /// Reads the completions that have arrived and wakes whom they concern; says how many there were.
    ///
    /// It makes a system call only when the kernel has said that completions wait for one.
    pub fn reap(&self) -> usize {
        if self.core.abandoned.get() {
            return 0;
        }
        self.core.collect();
        let mut count = 0;
        loop {
            let Some((user_data, result)) = self.core.arrived.borrow_mut().pop_front() else { return count };
            count += 1;
            if user_data == USER_DATA_IGNORED {
                continue;
            }
            let finished = self.core.slots.borrow_mut().complete(user_data as u32, result);
            // No borrow is held from here on: a callback, a guard or a waker may come back to the ring.
            if let Some(done) = finished.done {
                done(result_of(result));
            }
            drop(finished.guard);
            if let Some(waker) = finished.waker {
                waker.wake();
            }
        }
    }
}

/// Operations. Each is queued at once, without a system call, and runs from the next flush on, awaited or not; dropping
/// the future of one that waits for a peer also cancels it.
impl RingHandle {
    /// Reads at `offset` of a file into `into`; of a stream in blocking mode, what comes next. See [`Read`] for short reads.
    pub fn read_at(&self, fd: impl Into<Fd>, into: SpanMut, offset: u64) -> Read {
        let fd = fd.into();
        let entry = opcode::Read::new(fd.raw(), into.start().as_ptr(), length_of(into.len())).offset(offset).build();
        // The whole span's keep, so the right to the destination comes free with the completion and not before.
        let guard = Guard { fd: Some(fd.into_keep()), memory: Some(Rc::clone(into.keep())), ..Guard::default() };
        Read::new(self.start(&entry, guard, OnDrop::Cancel), into)
    }

    /// Writes `from` at `offset` of a file; the output is how many bytes were written.
    pub fn write_at(&self, fd: impl Into<Fd>, from: &Span, offset: u64) -> Op {
        let fd = fd.into();
        let entry = opcode::Write::new(fd.raw(), from.as_ptr(), length_of(from.len())).offset(offset).build();
        let guard = Guard { fd: Some(fd.into_keep()), memory: Some(Rc::clone(from.keep())), ..Guard::default() };
        self.start(&entry, guard, OnDrop::LetRun)
    }

    /// Waits until `fd` has one of `events` (as of poll(2)); the output is the events that it has.
    pub fn poll_add(&self, fd: impl Into<Fd>, events: u32) -> Op {
        let fd = fd.into();
        let entry = opcode::PollAdd::new(fd.raw(), events).build();
        let guard = Guard { fd: Some(fd.into_keep()), waits_for_peer: true, ..Guard::default() };
        self.start(&entry, guard, OnDrop::Cancel)
    }

    /// Makes a file's bytes durable.
    pub fn fsync(&self, fd: impl Into<Fd>) -> Op {
        let fd = fd.into();
        let entry = opcode::Fsync::new(fd.raw()).build();
        self.start(&entry, Guard { fd: Some(fd.into_keep()), ..Guard::default() }, OnDrop::LetRun)
    }

    /// Allocates, or with `PUNCH_HOLE` frees, `len` bytes at `offset`, on a kernel thread and not on the shard's core.
    pub fn fallocate(&self, fd: impl Into<Fd>, mode: FallocateFlags, offset: u64, len: u64) -> Op {
        let fd = fd.into();
        let entry = fallocate_entry(&fd, mode, offset, len);
        self.start(&entry, Guard { fd: Some(fd.into_keep()), ..Guard::default() }, OnDrop::LetRun)
    }

    /// As [`fallocate`](Self::fallocate), with `done` told of the result in place of a future.
    ///
    /// # Errors
    /// If the operation was refused; `done` is then dropped uncalled.
    pub(crate) fn fallocate_then(
        &self,
        fd: Fd,
        mode: FallocateFlags,
        range: core::ops::Range<u64>,
        memory: Option<Keep>,
        done: impl FnOnce(io::Result<u32>) + 'static,
    ) -> io::Result<()> {
        let entry = fallocate_entry(&fd, mode, range.start, range.end - range.start);
        self.detach(&entry, Guard { fd: Some(fd.into_keep()), memory, ..Guard::default() }, Box::new(done))
    }

    /// Faults `len` bytes at `start` in, writable, on a kernel thread; `done` is told whether all of them are there.
    ///
    /// # Safety
    /// The bytes must be part of one mapping of a shared file that lives as long as a clone of `memory`.
    ///
    /// # Errors
    /// If the operation was refused; `done` is then dropped uncalled.
    pub(crate) unsafe fn populate_then(
        &self,
        start: *const u8,
        len: usize,
        memory: Keep,
        done: impl FnOnce(io::Result<u32>) + 'static,
    ) -> io::Result<()> {
        let entry = opcode::Madvise::new(start.cast(), len as libc::off_t, libc::MADV_POPULATE_WRITE).build();
        self.detach(&entry, Guard { memory: Some(memory), ..Guard::default() }, Box::new(done))
    }

    /// Closes a descriptor on a kernel thread, because the last close of a block frees its pages.
    ///
    /// # Errors
    /// If the operation was refused; the descriptor was then closed here and `done` dropped uncalled.
    pub(crate) fn close_then(&self, fd: OwnedFd, done: impl FnOnce(io::Result<u32>) + 'static) -> io::Result<()> {
        let raw = fd.into_raw_fd();
        let entry = opcode::Close::new(types::Fd(raw)).build().flags(Flags::ASYNC);
        self.detach(&entry, Guard::default(), Box::new(done)).inspect_err(|_| {
            // SAFETY: the descriptor was ours (into_raw_fd) and the kernel was never told to close it.
            drop(unsafe { OwnedFd::from_raw_fd(raw) });
        })
    }
}

impl RingHandle {
    fn start(&self, entry: &Entry, guard: Guard, on_drop: OnDrop) -> Op {
        match self.core.push(entry, guard, None) {
            Ok(slot) => Op::in_flight(self.clone(), slot, on_drop),
            Err(error) => Op::refused(error),
        }
    }

    fn detach(&self, entry: &Entry, guard: Guard, done: Done) -> io::Result<()> {
        self.core.push(entry, guard, Some(done)).map(drop)
    }

    fn poll_op(&self, slot: u32, waker: &Waker) -> Option<i32> {
        let polled = self.core.slots.borrow_mut().poll(slot, waker);
        // The waker replaced, if any, is dropped here, past the borrow.
        polled.ok()
    }

    fn orphan_op(&self, slot: u32, on_drop: OnDrop) {
        let (in_flight, waker) = self.core.slots.borrow_mut().orphan(slot);
        drop(waker);
        if in_flight && on_drop == OnDrop::Cancel && !self.core.closed.get() {
            let entry = opcode::AsyncCancel::new(u64::from(slot)).build().user_data(USER_DATA_IGNORED);
            // Not cancelled is not wrong, only slower: the orphan then ends when its peer lets it.
            let _ = self.core.push_entry(&entry);
        }
    }
}

impl Core {
    fn push(&self, entry: &Entry, guard: Guard, done: Option<Done>) -> io::Result<u32> {
        if self.closed.get() {
            drop(guard);
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the shard's ring is closed"));
        }
        let inserted = self.slots.borrow_mut().insert(guard, done);
        let slot = match inserted {
            Ok(slot) => slot,
            Err((guard, done)) => {
                drop(guard);
                drop(done);
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, "too many operations in flight on this shard"));
            }
        };
        if let Err(error) = self.push_entry(&entry.clone().user_data(u64::from(slot))) {
            let (guard, done) = self.slots.borrow_mut().withdraw(slot);
            drop(guard);
            drop(done);
            return Err(error);
        }
        Ok(slot)
    }

    /// Queues an entry; a full queue is flushed first. What it points to must already be in a slot.
    fn push_entry(&self, entry: &Entry) -> io::Result<()> {
        for _ in 0..SUBMIT_ATTEMPTS_MAX {
            // SAFETY: the entry's memory and descriptor are held by its slot until its completion is read.
            if unsafe { self.uring.borrow_mut().submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.flush()?;
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "the kernel does not take this shard's operations"))
    }

    fn flush(&self) -> io::Result<usize> {
        let mut submitted = 0;
        for _ in 0..SUBMIT_ATTEMPTS_MAX {
            if self.uring.borrow_mut().submission().is_empty() {
                return Ok(submitted);
            }
            self.enters.set(self.enters.get() + 1);
            let result = self.uring.borrow().submit();
            match result {
                Ok(count) => submitted += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // EBUSY and EAGAIN: the completion queue backs up, or memory is short. Making room is all we can do.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN)) => self.take_arrived(),
                Err(error) => return Err(error),
            }
        }
        if self.uring.borrow_mut().submission().is_empty() {
            return Ok(submitted);
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "the kernel does not take this shard's operations"))
    }

    fn sleep(&self, timeout: Option<Duration>) {
        let uring = self.uring.borrow();
        self.enters.set(self.enters.get() + 1);
        // A timeout, a signal and a full backlog are all answered by the caller's next turn.
        let _ = match timeout.map(types::Timespec::from) {
            Some(timespec) => uring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&timespec)),
            None => uring.submit_and_wait(1),
        };
    }

    /// Moves completions from the kernel's queue to ours, entering the kernel when it says that more wait for that.
    fn collect(&self) {
        let waiting = {
            let mut uring = self.uring.borrow_mut();
            let queue = uring.submission();
            queue.taskrun() || queue.cq_overflow()
        };
        self.take_arrived();
        if waiting {
            self.enters.set(self.enters.get() + 1);
            // An error here leaves the flag up, so the next reap tries again.
            let _ = self.uring.borrow().submit();
            self.take_arrived();
        }
    }

    fn take_arrived(&self) {
        let mut uring = self.uring.borrow_mut();
        self.arrived.borrow_mut().extend(uring.completion().map(|entry| (entry.user_data(), entry.result())));
    }
}

fn fallocate_entry(fd: &Fd, mode: FallocateFlags, offset: u64, len: u64) -> Entry {
    opcode::Fallocate::new(fd.raw(), len).offset(offset).mode(mode.bits() as i32).build()
}

/// The length of one operation, which the kernel counts in 32 bits. A longer span is read or written in part, as a
/// short read or write says.
fn length_of(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(i32::MAX as u32)
}

fn build(entries: u32) -> io::Result<IoUring> {
    let cq_entries = entries.next_power_of_two().saturating_mul(CQ_ENTRIES_PER_SQ);
    let mut preferred = IoUring::builder();
    preferred.setup_clamp().setup_cqsize(cq_entries).setup_submit_all();
    preferred.setup_single_issuer().setup_coop_taskrun().setup_taskrun_flag();
    match preferred.build(entries) {
        // Kernels before 6.0 do not know these flags, and need none of them.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            IoUring::builder().setup_clamp().setup_cqsize(cq_entries).build(entries)
        }
        result => result,
    }
}

/// Says what an error of io_uring_setup means and what to do.
fn explain(error: io::Error) -> io::Error {
    let why = match error.raw_os_error() {
        Some(libc::ENOSYS) => "this kernel has no io_uring; Linux 5.11 or newer is needed",
        Some(libc::EPERM | libc::EACCES) => {
            "io_uring is forbidden here; set `sysctl kernel.io_uring_disabled=0`, or allow it in the container's seccomp profile"
        }
        Some(libc::ENOMEM) => "io_uring may not lock enough memory; raise `ulimit -l`",
        Some(libc::EMFILE | libc::ENFILE) => "no descriptor is left for io_uring; raise `ulimit -n`",
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{why} ({error})"))
}
