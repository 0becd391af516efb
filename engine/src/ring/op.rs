//! The futures of operations. Dropping one never frees what the kernel still uses: the slot keeps it, as an orphan.

use super::RingHandle;
use super::span::SpanMut;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::io;

/// Whether dropping the future asks the kernel to give the operation up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum OnDrop {
    /// It ends soon by itself, or ending it half-way would leave a state that nobody knows.
    LetRun,
    /// It may wait for a peer for ever.
    Cancel,
}

/// An operation queued on a ring; its output is the kernel's non-negative result, or the error.
#[must_use = "an operation runs without being awaited, but then nobody sees whether it failed"]
pub struct Op {
    state: State,
    on_drop: OnDrop,
}

enum State {
    InFlight { ring: RingHandle, slot: u32 },
    Refused(io::Error),
    Taken,
}

impl Op {
    pub(super) fn in_flight(ring: RingHandle, slot: u32, on_drop: OnDrop) -> Self {
        Self { state: State::InFlight { ring, slot }, on_drop }
    }

    pub(super) fn refused(error: io::Error) -> Self {
        Self { state: State::Refused(error), on_drop: OnDrop::LetRun }
    }
}

impl Future for Op {
    type Output = io::Result<u32>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let State::InFlight { ring, slot } = &self.state {
            let Some(result) = ring.poll_op(*slot, cx.waker()) else { return Poll::Pending };
            self.state = State::Taken;
            return Poll::Ready(result_of(result));
        }
        match std::mem::replace(&mut self.state, State::Taken) {
            State::Refused(error) => Poll::Ready(Err(error)),
            _ => panic!("an operation polled after it was done"),
        }
    }
}

impl Drop for Op {
    fn drop(&mut self) {
        if let State::InFlight { ring, slot } = &self.state {
            ring.orphan_op(*slot, self.on_drop);
        }
    }
}

/// A read; it hands the destination back, with how many bytes of it were written.
///
/// A count below the destination's length is a short read: for a file that means its end. When the future is dropped
/// the right to the destination comes free only at the completion.
#[must_use = "a read is of use only to who awaits it"]
pub struct Read {
    op: Op,
    into: Option<SpanMut>,
}

impl Read {
    pub(super) fn new(op: Op, into: SpanMut) -> Self {
        Self { op, into: Some(into) }
    }
}

impl Future for Read {
    type Output = (io::Result<usize>, SpanMut);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(result) = Pin::new(&mut self.op).poll(cx) else { return Poll::Pending };
        let into = self.into.take().expect("a read polled after it was done");
        Poll::Ready((result.map(|count| count as usize), into))
    }
}

/// The kernel's convention, a negative errno, as a result.
pub(super) fn result_of(result: i32) -> io::Result<u32> {
    u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}
