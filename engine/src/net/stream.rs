//! The receiving side of a connection's socket, waiting in the shard's ring.

use crate::ring::{Fd, RingHandle};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// A connected socket, TCP or Unix.
pub(crate) struct Stream {
    socket: Rc<OwnedFd>,
    ring: RingHandle,
    /// Whether there may be bytes: not after a receive that took less than it had room for.
    may_have_bytes: bool,
}

impl Stream {
    /// Of a socket that others may send on.
    pub(crate) fn new(socket: Rc<OwnedFd>, ring: RingHandle) -> Self {
        Self { socket, ring, may_have_bytes: true }
    }

    /// Receives what is there, or waits for some; 0 at the end.
    pub(crate) async fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.may_have_bytes {
                // Not submitted here: the pump does that when it goes to sleep, with all else that waits.
                self.ring.poll_add(Fd::from(Rc::clone(&self.socket)), libc::POLLIN as u32).await?;
            }
            match recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((_, count)) => {
                    self.may_have_bytes = count == buffer.len();
                    return Ok(count);
                }
                Err(Errno::AGAIN) => self.may_have_bytes = false,
                Err(Errno::INTR) => self.may_have_bytes = true,
                Err(error) => return Err(error.into()),
            }
        }
    }
}
