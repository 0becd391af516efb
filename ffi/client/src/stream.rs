//! A socket, TCP or Unix, whose every wait ends by a deadline.
//!
//! The kernel's own timeouts are set once, to a short tick, and not for each call: when a tick passes without a byte
//! the deadline is looked at. So a deadline costs no system call and is kept to within a tick.

use crate::connection::Fault;
use crate::deadline::Deadline;
use core::fmt;
use core::mem::MaybeUninit;
use core::time::Duration;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    self, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendFlags, sockopt,
};
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{TcpStream, ToSocketAddrs as _};

/// How long the kernel waits before the deadline is looked at.
const TICK: Duration = Duration::from_millis(100);
/// Idle time before the kernel asks whether the peer is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// Descriptors that a peer may send ahead of the frames they belong to; more are a broken protocol.
const DESCRIPTORS_MAX: usize = 64;
/// Descriptors received in one call.
const DESCRIPTORS_PER_CALL: usize = 4;

/// Where a shard or a master listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `HOST:PORT`.
    Tcp(String),
    /// The path of a Unix socket.
    Unix(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) | Self::Unix(address) => f.write_str(address),
        }
    }
}

/// A connected socket, and the descriptors that came on it.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: OwnedFd,
    is_unix: bool,
    descriptors: VecDeque<OwnedFd>,
}

impl Stream {
    /// Connects. All addresses of a host name are tried.
    pub(crate) fn connect(address: &Address, deadline: Deadline) -> Result<Self, Fault> {
        let (socket, is_unix) = match address {
            Address::Tcp(name) => (connect_tcp(name, deadline).map_err(Fault::Refused)?, false),
            Address::Unix(path) => (connect_unix(path, deadline).map_err(|e| Fault::Refused(e.into()))?, true),
        };
        let prepare = || -> Result<(), Errno> {
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(TICK))?;
            sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(TICK))?;
            if !is_unix {
                sockopt::set_tcp_nodelay(&socket, true)?;
                sockopt::set_socket_keepalive(&socket, true)?;
                sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
            }
            Ok(())
        };
        prepare().map_err(|error| Fault::Refused(error.into()))?;
        Ok(Self { socket, is_unix, descriptors: VecDeque::new() })
    }

    /// Whether descriptors may come on it.
    pub(crate) fn is_unix(&self) -> bool {
        self.is_unix
    }

    /// The oldest descriptor that came and was not taken.
    pub(crate) fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop_front()
    }

    /// Receives at least one byte into `buffer`, which is not empty.
    pub(crate) fn receive(&mut self, buffer: &mut [u8], deadline: Deadline) -> Result<usize, Fault> {
        debug_assert!(!buffer.is_empty());
        loop {
            let received = if self.is_unix {
                self.receive_with_descriptors(buffer)?
            } else {
                net::recv(&self.socket, &mut *buffer, RecvFlags::empty()).map(|(_, count)| count)
            };
            match received {
                Ok(0) => {
                    return Err(Fault::Broken(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed it")));
                }
                Ok(count) => return Ok(count),
                Err(error) => wait_on(error, deadline)?,
            }
        }
    }

    /// Sends all of two slices, the second behind the first, without joining them.
    pub(crate) fn send_all(&self, mut first: &[u8], mut second: &[u8], deadline: Deadline) -> Result<(), Fault> {
        while !first.is_empty() || !second.is_empty() {
            let slices = [IoSlice::new(first), IoSlice::new(second)];
            let mut control = SendAncillaryBuffer::default();
            // NOSIGNAL because a library cannot know what its program does about SIGPIPE.
            match net::sendmsg(&self.socket, &slices, &mut control, SendFlags::NOSIGNAL) {
                Ok(count) => {
                    let of_first = count.min(first.len());
                    first = &first[of_first..];
                    second = &second[count - of_first..];
                }
                Err(error) => wait_on(error, deadline)?,
            }
        }
        Ok(())
    }

    /// One `recvmsg`. The inner result is the system call's; the outer one says that the peer broke the protocol.
    fn receive_with_descriptors(&mut self, buffer: &mut [u8]) -> Result<Result<usize, Errno>, Fault> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_PER_CALL))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(buffer)];
        let message = match net::recvmsg(&self.socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => message,
            Err(error) => return Ok(Err(error)),
        };
        for ancillary in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = ancillary {
                self.descriptors.extend(descriptors);
            }
        }
        if message.flags.contains(net::ReturnFlags::CTRUNC) || self.descriptors.len() > DESCRIPTORS_MAX {
            return Err(Fault::Unexpected("it sent descriptors that nobody asked for"));
        }
        Ok(Ok(message.bytes))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn connect_tcp(name: &str, deadline: Deadline) -> io::Result<OwnedFd> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in name.to_socket_addrs()? {
        let Some(left) = deadline.remaining() else { return Err(io::ErrorKind::TimedOut.into()) };
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => return Ok(stream.into()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn connect_unix(path: &str, deadline: Deadline) -> Result<OwnedFd, Errno> {
    let address = net::SocketAddrUnix::new(path)?;
    let socket = net::socket_with(net::AddressFamily::UNIX, net::SocketType::STREAM, net::SocketFlags::CLOEXEC, None)?;
    // A full backlog makes connect wait like a send, so the send timeout bounds it.
    let left = deadline.remaining().ok_or(Errno::TIMEDOUT)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(left))?;
    net::connect(&socket, &address)?;
    Ok(socket)
}

/// Decides what an error of a socket call means: go on, give up by the deadline, or a broken connection.
fn wait_on(error: Errno, deadline: Deadline) -> Result<(), Fault> {
    match error {
        Errno::AGAIN | Errno::INTR => match deadline.remaining() {
            Some(_) => Ok(()),
            None => Err(Fault::TimedOut(deadline.allowed())),
        },
        error => Err(Fault::Broken(error.into())),
    }
}
