//! One block of a file being written: through memory mapped from a worker on this host, or in frames.

use crate::client::Shared;
use crate::config::{ABORT_TIMEOUT, WRITE_WINDOW};
use crate::connection::Fault;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::mapping::{MapError, WritableBlock};
use crate::peer::{Checkout, Lease};
use crate::retry::Retry;
use crate::routes::Routes;
use crate::stats::add;
use citius_wire::{Access, Created, Epoch, Failure, Handle, MapWrite, Owner, Seal, Status, Write};

/// An open block. It is filled from its start on, then sealed; dropping it unsealed closes its connection.
pub(crate) struct Sink {
    connection: Checkout,
    handle: Handle,
    index: u32,
    /// Of the block, in the file.
    start: u64,
    filled: u32,
    body: Body,
}

enum Body {
    Mapped(WritableBlock),
    /// So many frames are not answered yet.
    Frames(usize),
}

impl Sink {
    /// Opens a block at its owner. `map` says whether it is worth being written through mapped memory.
    ///
    /// Nothing is written yet, so all of it is tried again while that can help.
    pub(crate) fn open(
        client: &Shared,
        routes: &Routes,
        created: &Created,
        index: u32,
        map: bool,
        deadline: Deadline,
    ) -> Result<Self, Error> {
        let mut retry = Retry::new(deadline, client);
        let owner = routes.owner(created.place, index).ok_or_else(no_worker)?;
        loop {
            let mut connection = match checkout(client, routes, owner, created, deadline) {
                Ok((connection, handle)) => (connection, handle),
                Err((fault, was_idle)) => {
                    check_member(client, routes, owner, &fault)?;
                    retry.after(fault, &routes.peer(owner, &client.peers), was_idle)?;
                    continue;
                }
            };
            let body = if map && connection.0.is_unix() {
                open_mapped(&mut connection.0, connection.1, created, index, deadline)
            } else {
                Ok(Body::Frames(0))
            };
            match body {
                Ok(body) => {
                    let start = u64::from(index) * u64::from(created.block_bytes);
                    return Ok(Self { connection: connection.0, handle: connection.1, index, start, filled: 0, body });
                }
                Err(fault) => {
                    let was_idle = connection.0.was_idle();
                    retry.after(fault, connection.0.peer(), was_idle)?;
                }
            }
        }
    }

    /// Whether it is written through mapped memory.
    pub(crate) fn is_mapped(&self) -> bool {
        matches!(self.body, Body::Mapped(_))
    }

    /// Appends bytes that fit.
    pub(crate) fn append(&mut self, client: &Shared, bytes: &[u8], deadline: Deadline) -> Result<(), Error> {
        match self.body {
            Body::Mapped(ref mut block) => {
                let count = block.append(bytes);
                assert_eq!(count, bytes.len(), "the writer ends a write at the end of its block");
                add(&client.stats.mapped_write_bytes, bytes.len() as u64);
            }
            Body::Frames(_) => {
                self.send(bytes, deadline).map_err(|fault| Error::of_fault(fault, self.connection.peer().name()))?;
                add(&client.stats.frame_write_bytes, bytes.len() as u64);
            }
        }
        self.filled += bytes.len() as u32;
        Ok(())
    }

    /// Ends the block, and gives its length.
    pub(crate) fn seal(mut self, client: &Shared, deadline: Deadline) -> Result<u32, Error> {
        let length = self.filled;
        self.settle(0, deadline).map_err(|fault| Error::of_fault(fault, self.connection.peer().name()))?;
        // Here a mapped block is unmapped: the worker refuses to seal what may still be written.
        self.body = Body::Frames(0);
        let seal = Seal { handle: self.handle, index: self.index, length };
        let mut retry = Retry::new(deadline, client);
        while let Err(fault) = self.connection.call(&seal, deadline) {
            let is_whole = fault.leaves_connection_whole();
            let peer = self.connection.peer().clone();
            if !is_whole {
                // What the worker had of the block may have gone with its connection.
                return Err(Error::of_fault(fault, peer.name()));
            }
            retry.after(fault, &peer, false)?;
        }
        self.connection.give_back(&client.dialer);
        Ok(length)
    }

    fn send(&mut self, bytes: &[u8], deadline: Deadline) -> Result<(), Fault> {
        self.settle(WRITE_WINDOW - 1, deadline)?;
        let write = Write { handle: self.handle, offset: self.start + u64::from(self.filled) };
        self.connection.send_with_payload(&write, bytes, deadline)?;
        if let Body::Frames(outstanding) = &mut self.body {
            *outstanding += 1;
        }
        Ok(())
    }

    /// Receives answers until at most `allowed` frames are not answered.
    fn settle(&mut self, allowed: usize, deadline: Deadline) -> Result<(), Fault> {
        let Body::Frames(outstanding) = &mut self.body else { return Ok(()) };
        while *outstanding > allowed {
            self.connection.receive(0, deadline)?;
            self.connection.reply::<Write>()?;
            *outstanding -= 1;
        }
        Ok(())
    }
}

/// Connects to a shard with the right to write. The failure says whether the connection had been idle.
pub(crate) fn checkout(
    client: &Shared,
    routes: &Routes,
    owner: Owner,
    created: &Created,
    deadline: Deadline,
) -> Result<(Checkout, Handle), (Fault, bool)> {
    loop {
        let peer = routes.peer(owner, &client.peers);
        let mut connection = match client.checkout(&peer, Lease::Long, deadline) {
            Ok(connection) => connection,
            Err(Fault::Refused(_)) if peer.is_unix() && routes.go_remote(owner) => continue,
            Err(fault) => return Err((fault, false)),
        };
        let was_idle = connection.was_idle();
        return match connection.attach(created.file, Access::Write, &created.capability, deadline) {
            Ok(handle) => Ok((connection, handle)),
            Err(fault) => {
                if fault.leaves_connection_whole() {
                    connection.give_back(&client.dialer);
                }
                Err((fault, was_idle))
            }
        };
    }
}

/// Checks, after a fault on a connection, that the worker at its other end is still a member of the cluster in the life
/// in which it was given blocks. A master that does not answer has not said otherwise.
///
/// # Errors
/// `Aborted` if it is not: waiting for it cannot help.
pub(crate) fn check_member(client: &Shared, routes: &Routes, owner: Owner, fault: &Fault) -> Result<(), Error> {
    if !matches!(fault, Fault::Refused(_) | Fault::Broken(_) | Fault::TimedOut(_)) {
        return Ok(());
    }
    let member = &routes.ring().members[owner.member];
    let Ok(newest) = client.fetch_ring(Epoch(0), Deadline::after(ABORT_TIMEOUT)) else { return Ok(()) };
    let mut members = newest.ring().members.iter();
    if members.any(|other| other.worker == member.worker && other.incarnation == member.incarnation) {
        return Ok(());
    }
    let message =
        format!("the worker at {} left the cluster with blocks of this file: write it again", member.data_address);
    Err(Error::new(Status::Aborted, message))
}

/// The error of a file that nobody can hold.
pub(crate) fn no_worker() -> Error {
    Error::new(Status::Unavailable, "no worker is running that could hold the file: `citius cluster` shows them")
}

fn open_mapped(
    connection: &mut Checkout,
    handle: Handle,
    created: &Created,
    index: u32,
    deadline: Deadline,
) -> Result<Body, Fault> {
    match connection.call(&MapWrite { handle, index }, deadline) {
        Ok(_) => {}
        Err(Fault::Failed(Failure { status: Status::Unsupported, .. })) => return Ok(Body::Frames(0)),
        Err(fault) => return Err(fault),
    }
    let descriptor = connection.take_descriptor()?;
    match WritableBlock::new(&descriptor, created.block_bytes) {
        Ok(block) => Ok(Body::Mapped(block)),
        Err(MapError::Kernel(error)) => Err(Fault::Broken(error.into())),
        Err(MapError::Unfit(what)) => Err(Fault::Unexpected(what)),
    }
}
