//! What other threads say to a shard: a queue and the bell of its pump.
//!
//! Warm reads never pass here. Messages are rare (a new connection, a new view, a publisher that wants a block), so a
//! mutex around a queue is the simplest thing that is right; it is held for a push or a swap.

use crate::host::ring_bell;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most messages that wait for a shard.
pub(crate) const INBOX_MESSAGES_MAX: usize = 64 << 10;

/// The shared half.
pub(crate) struct Inbox<Message> {
    waiting: Mutex<VecDeque<Message>>,
    bell: OwnedFd,
}

/// The inbox is full; the message comes back.
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
        waiting.push_back(message);
        self.ring_for_first(waiting);
        Ok(())
    }

    /// Leaves a message that must not be lost, however many wait: the last one, said once.
    pub(crate) fn insist(&self, message: Message) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push_back(message);
        self.ring_for_first(waiting);
    }

    fn ring_for_first(&self, waiting: MutexGuard<'_, VecDeque<Message>>) {
        let is_first = waiting.len() == 1;
        drop(waiting);
        if is_first {
            ring_bell(&self.bell);
        }
    }

    /// Takes all that wait, in order.
    pub(crate) fn take(&self) -> VecDeque<Message> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
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
        inbox.insist(INBOX_MESSAGES_MAX);
        let mut count = [0; 8];
        rustix::io::read(&inbox.bell, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 1);
        assert!(inbox.take().into_iter().eq(0..=INBOX_MESSAGES_MAX));
        assert!(inbox.take().is_empty());
    }
}
