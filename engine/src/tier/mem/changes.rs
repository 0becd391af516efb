//! Waiting for something of this shard to change, without missing a change.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::cell::{Cell, RefCell};

/// A counter of changes, and who waits for the next one.
#[derive(Default)]
pub(crate) struct Changes {
    count: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Changes {
    /// Tells everybody that something changed.
    pub(crate) fn notify(&self) {
        self.count.set(self.count.get() + 1);
        // Woken with no borrow held, because a waker may run anything.
        for waker in self.waiting.take() {
            waker.wake();
        }
    }

    /// Ready at the first change after this call.
    pub(crate) fn next(&self) -> Next<'_> {
        Next { changes: self, seen: self.count.get() }
    }
}

/// See [`Changes::next`].
pub(crate) struct Next<'a> {
    changes: &'a Changes,
    seen: u64,
}

impl Future for Next<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.changes.count.get() != self.seen {
            return Poll::Ready(());
        }
        let mut waiting = self.changes.waiting.borrow_mut();
        // One entry a task, so the list is no longer than the shard has tasks.
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}
