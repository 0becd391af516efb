//! The receiving side of a connection's socket, waiting in the shard's ring.

use crate::host::Host;
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
    host: Host,
    state: State,
}

/// What the last receive says about the next one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It took less than it had room for: there is nothing.
    Drained,
    /// It took all that it had room for: there is more, and others have waited meanwhile.
    Flowing,
    /// Nothing is known.
    Unknown,
}

impl Stream {
    /// Of a socket that others may send on.
    pub(crate) fn new(socket: Rc<OwnedFd>, ring: RingHandle, host: Host) -> Self {
        Self { socket, ring, host, state: State::Unknown }
    }

    /// Receives what is there, or waits for some; 0 at the end.
    pub(crate) async fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.state {
                // Not submitted here: the pump does that when it goes to sleep, with all else that waits.
                State::Drained => {
                    self.ring.poll_add(Fd::from(Rc::clone(&self.socket)), libc::POLLIN as u32).await?;
                }
                State::Flowing => self.host.yield_now().await,
                State::Unknown => {}
            }
            match recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((_, count)) => {
                    self.state = if count == buffer.len() { State::Flowing } else { State::Drained };
                    return Ok(count);
                }
                Err(Errno::AGAIN) => self.state = State::Drained,
                Err(Errno::INTR) => self.state = State::Unknown,
                Err(error) => return Err(error.into()),
            }
        }
    }
}
