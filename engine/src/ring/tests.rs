//! The ring against real pipes, sockets and files, above all when futures are dropped on the way.

use super::*;
use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll};
use futures::FutureExt;
use futures::future::join_all;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::task::Wake;

struct NoWake;

impl Wake for NoWake {
    fn wake(self: std::sync::Arc<Self>) {}
}

/// Drives one future the way an executor does: flush, sleep in the ring, reap, poll again.
///
/// # Panics
/// If nothing completes for 20 seconds.
pub(crate) fn block_on<F: Future>(ring: &RingHandle, future: F) -> F::Output {
    let waker = Waker::from(std::sync::Arc::new(NoWake));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        ring.flush().unwrap();
        if ring.reap() == 0 {
            ring.sleep(Some(Duration::from_secs(20)));
            assert!(ring.reap() > 0, "no completion came, {} in flight", ring.in_flight());
        }
    }
}

/// Polls once, which must leave the future pending.
fn poll_pending<F: Future + Unpin>(future: &mut F) {
    let waker = Waker::from(std::sync::Arc::new(NoWake));
    assert!(pin!(future).poll(&mut Context::from_waker(&waker)).is_pending());
}

/// A destination whose release can be seen.
fn watched(len: usize) -> (SpanMut, std::rc::Weak<Vec<u8>>) {
    let mut owner = Rc::new(vec![0u8; len]);
    let start = core::ptr::NonNull::from(Rc::get_mut(&mut owner).unwrap().as_mut_slice()).cast();
    let weak = Rc::downgrade(&owner);
    // SAFETY: the vector lives as long as the keep, is initialised, and nothing else touches it.
    (unsafe { SpanMut::new(start, len, owner) }, weak)
}

#[test]
fn reads_and_writes_a_file() {
    let ring = Ring::new(8).unwrap();
    let file = Rc::new(tempfile::tempfile().unwrap());
    let text = Span::from(b"hello, ring".to_vec());
    assert_eq!(block_on(&ring, ring.write_at(&file, &text, 5)).unwrap(), 11);
    block_on(&ring, ring.fsync(&file)).unwrap();
    let (count, into) = block_on(&ring, ring.read_at(&file, SpanMut::from(vec![9u8; 6]), 12));
    assert_eq!(
        (count.unwrap(), into.bytes()),
        (4, &b"ring\x09\x09"[..]),
        "a read at the end is short and touches no more"
    );
    let (count, _) = block_on(&ring, ring.read_at(&file, SpanMut::from(vec![0u8; 6]), 1 << 30));
    assert_eq!(count.unwrap(), 0);
    assert_eq!(ring.in_flight(), 0);
}

#[test]
fn errors_come_back_with_the_destination() {
    let ring = Ring::new(8).unwrap();
    let folder = Rc::new(std::fs::File::open("/").unwrap());
    let (into, weak) = watched(64);
    let (result, into) = block_on(&ring, ring.read_at(&folder, into, 0));
    assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EISDIR));
    assert!(weak.upgrade().is_some());
    drop(into);
    assert!(weak.upgrade().is_none(), "nothing holds the destination of a finished read");
}

#[test]
fn dropped_future_keeps_its_memory_until_the_completion() {
    let ring = Ring::new(8).unwrap();
    let (near, mut far) = UnixStream::pair().unwrap();
    let near = Rc::new(near);
    let (into, weak) = watched(4096);
    let mut read = ring.read_at(&near, into, 0);
    poll_pending(&mut read);
    ring.flush().unwrap();
    drop(read);
    assert!(weak.upgrade().is_some(), "the kernel may still write it");
    assert_eq!(ring.in_flight(), 1, "an orphan");
    far.write_all(b"late").unwrap();
    assert!(ring.drain(Duration::from_secs(20)));
    assert!(weak.upgrade().is_none(), "the completion frees the orphan's memory");
    assert_eq!(Rc::strong_count(&near), 1, "and its descriptor");
}

#[test]
fn dropping_a_read_of_a_stream_cancels_it() {
    let ring = Ring::new(8).unwrap();
    let (near, _far) = UnixStream::pair().unwrap();
    let (into, weak) = watched(64);
    drop(ring.read_at(Rc::new(near), into, 0));
    assert!(ring.drain(Duration::from_secs(20)), "nobody ever sends, so only the cancellation can end it");
    assert!(weak.upgrade().is_none());
}

#[test]
fn queued_operation_keeps_its_descriptor_open() {
    let ring = Ring::new(8).unwrap();
    let file = tempfile::tempfile().unwrap();
    let mut twin = file.try_clone().unwrap();
    let op = ring.write_at(Rc::new(file), &Span::from(b"kept".to_vec()), 0);
    // The caller's only reference went into the operation; the number must not be free for another file to take.
    let _other = tempfile::tempfile().unwrap();
    assert_eq!(block_on(&ring, op).unwrap(), 4);
    let mut text = String::new();
    twin.read_to_string(&mut text).unwrap();
    assert_eq!(text, "kept");
}

#[test]
fn one_flush_submits_all_that_is_queued() {
    let ring = Ring::new(64).unwrap();
    let file = Rc::new(tempfile::tempfile().unwrap());
    let before = ring.enters();
    let writes: Vec<_> = (0..32u64).map(|i| ring.write_at(&file, &Span::from(vec![i as u8; 8]), i * 8)).collect();
    assert_eq!(ring.enters(), before, "queueing makes no system call");
    assert_eq!(ring.flush().unwrap(), 32);
    assert_eq!(ring.enters(), before + 1);
    for result in block_on(&ring, join_all(writes)) {
        assert_eq!(result.unwrap(), 8);
    }
}

#[test]
fn more_operations_than_entries() {
    let ring = Ring::new(2).unwrap();
    let file = Rc::new(tempfile::tempfile().unwrap());
    let count = 3_000u64;
    let ops: Vec<_> = (0..count).map(|i| ring.write_at(&file, &Span::from(i.to_le_bytes().to_vec()), i * 8)).collect();
    for result in block_on(&ring, join_all(ops)) {
        assert_eq!(result.unwrap(), 8);
    }
    let reads = (0..count).map(|i| ring.read_at(&file, SpanMut::from(vec![0u8; 8]), i * 8));
    for (i, (result, into)) in block_on(&ring, join_all(reads)).into_iter().enumerate() {
        assert_eq!(result.unwrap(), 8);
        assert_eq!(into.bytes(), (i as u64).to_le_bytes());
    }
    assert_eq!(ring.in_flight(), 0);
}

#[test]
fn past_the_bound_an_operation_is_refused_and_lets_go() {
    let ring = Ring::new(256).unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    let near = Rc::new(near);
    let polls: Vec<_> = (0..slots::OPS_IN_FLIGHT_MAX).map(|_| ring.poll_add(&near, libc::POLLIN as u32)).collect();
    assert_eq!(ring.in_flight(), slots::OPS_IN_FLIGHT_MAX);
    let (into, weak) = watched(8);
    let (result, into) = block_on(&ring, ring.read_at(&near, into, 0));
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    drop(into);
    assert!(weak.upgrade().is_none());
    // Far more completions at once than the completion queue has entries: none may be lost.
    drop(far);
    for result in block_on(&ring, join_all(polls)) {
        assert_ne!(result.unwrap() & libc::POLLIN as u32, 0);
    }
}

#[test]
fn detached_result_reaches_its_callback() {
    let ring = Ring::new(8).unwrap();
    let file = tempfile::tempfile().unwrap();
    let twin = file.try_clone().unwrap();
    let seen = Rc::new(Cell::new(None));
    let told = Rc::clone(&seen);
    let done = move |result: io::Result<u32>| told.set(Some(result.unwrap()));
    ring.fallocate_then(Rc::new(file).into(), FallocateFlags::empty(), 0..8192, None, done).unwrap();
    assert!(ring.drain(Duration::from_secs(20)));
    assert_eq!(seen.get(), Some(0));
    assert_eq!(twin.metadata().unwrap().len(), 8192);
}

#[test]
fn dropped_ring_ends_what_waits() {
    let ring = Ring::new(8).unwrap();
    let handle = ring.handle();
    let (near, _far) = UnixStream::pair().unwrap();
    let (into, weak) = watched(64);
    let read = ring.read_at(Rc::new(near), into, 0);
    drop(ring);
    let (result, into) = block_on(&handle, read);
    assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ECANCELED));
    drop(into);
    assert!(weak.upgrade().is_none(), "cancelled in time, so nothing was leaked");
    let refused = block_on(&handle, handle.fsync(Rc::new(tempfile::tempfile().unwrap())));
    assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn a_callback_may_come_back_to_the_ring() {
    struct Again(RingHandle, Rc<Cell<bool>>);
    impl Drop for Again {
        fn drop(&mut self) {
            let told = Rc::clone(&self.1);
            let file = tempfile::tempfile().unwrap();
            let mode = FallocateFlags::empty();
            self.0.fallocate_then(Rc::new(file).into(), mode, 0..4096, None, move |_| told.set(true)).unwrap();
        }
    }
    let ring = Ring::new(2).unwrap();
    let told = Rc::new(Cell::new(false));
    let again: Keep = Rc::new(Again(ring.handle(), Rc::clone(&told)));
    let file = Rc::new(tempfile::tempfile().unwrap());
    ring.fallocate_then(file.into(), FallocateFlags::empty(), 0..4096, Some(again), |_| ()).unwrap();
    assert!(ring.drain(Duration::from_secs(20)));
    assert!(told.get(), "a guard that queues an operation as it is released");
}

/// The story: a shard that ended waited out its patience for polls of idle connections, which no peer was going to end.
#[test]
fn a_ring_runs_down_beside_what_waits_for_peers() {
    let ring = Ring::new(8).unwrap();
    let (near, _far) = UnixStream::pair().unwrap();
    let mut poll = ring.poll_add(Rc::new(near), libc::POLLIN as u32);
    poll_pending(&mut poll);
    let file = Rc::new(tempfile::tempfile().unwrap());
    let write = ring.write_at(&file, &Span::from(vec![7; 4096]), 0);
    assert!(ring.drain(Duration::from_secs(20)));
    assert_eq!(block_on(&ring, write).unwrap(), 4096, "what ends by itself has ended");
    assert_eq!(ring.in_flight(), 1, "what waits for a peer still does");
    drop(ring);
    assert_eq!(poll.now_or_never().unwrap().unwrap_err().raw_os_error(), Some(libc::ECANCELED));
}
