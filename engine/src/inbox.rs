//! What other threads say to a shard: a queue and the bell of its pump.
//!
//! Warm reads never pass here. Messages are rare (a new connection, a new view, a publisher that wants a block), so a
//! mutex around a queue is the simplest thing that is right; it is held for a push or a swap.

use crate::host::ring_bell;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

/// The most messages that wait for a shard.
pub(crate) const INBOX_MESSAGES_MAX: usize = 64 << 10;

/// The shared half.
pub(crate) struct Inbox<Message> {
    waiting: Mutex<VecDeque<Message>>,
    bell: OwnedFd,
}

/// The inbox is full, or the shard is gone; the message comes back.
#[derive(Debug)]
pub(crate) struct Undelivered<Message>(pub(crate) Message);

impl<Message> Inbox<Message> {
    /// An empty inbox that rings `bell`, an eventfd.
    pub(crate) fn new(bell: OwnedFd) -> Arc<Self> {
        Arc::new(Self { waiting: Mutex::new(VecDeque::new()), bell })
    }

    /// Leaves a message. Never blocks for longer than another push.
    pub(crate) fn send(&self, message: Message) -> Result<(), Undelivered<Message>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= INBOX_MESSAGES_MAX {
            return Err(Undelivered(message));
        }
        let was_empty = waiting.is_empty();
        waiting.push_back(message);
        drop(waiting);
        if was_empty {
            ring_bell(&self.bell);
        }
        Ok(())
    }

    /// Takes all that wait, in order.
    pub(crate) fn take(&self) -> VecDeque<Message> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The eventfd, for the pump and for the shard's ring.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};

    #[test]
    fn one_ring_for_many_messages_and_a_bound() {
        let inbox = Inbox::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        for i in 0..INBOX_MESSAGES_MAX {
            inbox.send(i).unwrap();
        }
        assert_eq!(inbox.send(7).unwrap_err().0, 7);
        let mut count = [0; 8];
        rustix::io::read(inbox.bell(), &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 1);
        assert!(inbox.take().into_iter().eq(0..INBOX_MESSAGES_MAX));
        assert!(inbox.take().is_empty());
    }
}
