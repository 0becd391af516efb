//! Work on the blocks of a file: each part to the shard that owns it, pipelined, and tried again while that can help.
//!
//! ```text
//! parts ──sort by owner──► lanes, one connection each ──► queue, flush, receive … ──► done parts
//!             ▲                                                     │
//!             └── new ring, renewed right, pause, refetch ◄── trouble of the attempt
//! ```
//!
//! Lanes take their connections in the order of their owners, so that calls which wait for each other's cannot wait
//! in a circle. One thread drives all lanes: while it receives from one, the others' answers gather in their sockets.

use crate::client::Shared;
use crate::config::PIPELINE_MAX;
use crate::connection::{Connection, Fault};
use crate::deadline::Deadline;
use crate::error::Error;
use crate::peer::{Checkout, Lease, Peer};
use crate::retry::{Retry, is_retryable};
use crate::routes::Routes;
use crate::stats::add;
use crate::version::{Right, Version};
use citius_wire::{Access, Epoch, Failure, Handle, Owner, Ring, Status, WorkerId};
use std::sync::Arc;

/// Where a part of the work is done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// By the owner of a block.
    Block(u32),
    /// By a shard; not at all if its worker is gone.
    Shard(WorkerId, u16),
}

/// One request and what becomes of its answer.
pub(crate) trait Work {
    /// Whether only a Unix socket will do.
    const LOCAL_ONLY: bool = false;

    fn target(&self) -> Target;

    /// Queues exactly one request.
    fn queue(&mut self, connection: &mut Connection, handle: Handle);

    /// Bytes of payload that the answer will have.
    fn payload_expected(&self) -> usize {
        0
    }

    /// Takes the answer just received.
    fn receive(&mut self, connection: &mut Connection, deadline: Deadline) -> Result<(), Fault>;

    /// After `Corrupt`: whether asking again, for bytes fetched anew, is worth it.
    fn refetch(&mut self) -> bool {
        false
    }
}

/// A part of a call's work, and how far it is.
pub(crate) struct Item<W> {
    work: W,
    owner: Owner,
    is_asked: bool,
    is_done: bool,
}

impl<W> Item<W> {
    pub(crate) fn new(work: W) -> Self {
        Self { work, owner: Owner { member: usize::MAX, shard: 0 }, is_asked: false, is_done: false }
    }
}

/// Does all parts, and gives them back in any order. Beside `items` it allocates once: the lanes.
///
/// # Errors
/// The first failure that trying again cannot help, or the last one when the deadline passes.
pub(crate) fn dispatch<W: Work>(
    client: &Shared,
    version: &Version,
    mut items: Vec<Item<W>>,
    deadline: Deadline,
) -> Result<impl Iterator<Item = W> + use<W>, Error> {
    let mut retry = Retry::new(deadline, client);
    let mut is_renewed = false;
    loop {
        let routes = version.routes(client, deadline)?;
        let right = version.right();
        let mut trouble = Trouble::default();
        match assign(&routes, version, &mut items) {
            Some(0) => return Ok(items.into_iter().map(|item| item.work)),
            Some(pending) => {
                let attempt = Attempt { client, version, routes: &routes, right: &right, deadline };
                attempt.run(&mut items[..pending], &mut trouble);
            }
            None => {
                trouble.peer_gone = true;
                trouble.passing = Some(no_worker_runs());
            }
        }
        if let Err(error) = trouble.settle(client, version, &routes, &right, &mut retry, &mut is_renewed, deadline) {
            return Err(error.at(&version.path));
        }
    }
}

/// The error of a block that nobody owns.
pub(crate) fn no_worker_runs() -> Error {
    Error::new(Status::Unavailable, "no worker is running: `citius cluster` shows them")
}

/// Gives each pending part its owner, sorts them by it, what is done last, and counts them. `None` if a block has no
/// owner.
fn assign<W: Work>(routes: &Routes, version: &Version, items: &mut [Item<W>]) -> Option<usize> {
    for item in items.iter_mut().filter(|item| !item.is_done) {
        item.is_asked = false;
        match item.work.target() {
            Target::Block(index) => item.owner = routes.owner(version.place(), index)?,
            Target::Shard(worker, shard) => match routes.shard(worker, shard) {
                Some(owner) => item.owner = owner,
                None => item.is_done = true,
            },
        }
    }
    items.sort_by_key(|item| (item.is_done, item.owner.member, item.owner.shard));
    Some(items.partition_point(|item| !item.is_done))
}

/// One pass over what is pending.
struct Attempt<'a> {
    client: &'a Shared,
    version: &'a Version,
    routes: &'a Routes,
    right: &'a Right,
    deadline: Deadline,
}

/// The parts of one owner, on one connection. Ids of requests are consecutive, so they tell the part.
struct Lane<'a, W> {
    items: &'a mut [Item<W>],
    connection: Checkout,
    handle: Handle,
    first_id: u64,
    sent: usize,
    answered: usize,
    /// The first part that may be unanswered.
    oldest: usize,
}

impl Attempt<'_> {
    fn run<W: Work>(&self, mut items: &mut [Item<W>], trouble: &mut Trouble) {
        let mut lanes = Vec::new();
        while let Some(first) = items.first() {
            let owner = first.owner;
            let count = items.iter().take_while(|item| item.owner == owner).count();
            let (of_lane, rest) = core::mem::take(&mut items).split_at_mut(count);
            items = rest;
            match self.open(owner, of_lane) {
                Ok(mut lane) => match lane.send(self.deadline) {
                    Ok(()) => lanes.push(lane),
                    Err(fault) => trouble.note(fault, lane.connection.peer(), lane.connection.was_idle()),
                },
                Err((fault, peer, was_idle)) => trouble.note(fault, &peer, was_idle),
            }
        }
        while !lanes.is_empty() {
            lanes.retain_mut(|lane| match self.turn(lane, trouble) {
                Ok(is_open) => is_open,
                Err(fault) => {
                    trouble.note(fault, lane.connection.peer(), lane.connection.was_idle());
                    false
                }
            });
            // A lane that ended is dropped here with its connection, unless `turn` has put a quiet one back.
        }
    }

    fn open<'i, W: Work>(
        &self,
        owner: Owner,
        items: &'i mut [Item<W>],
    ) -> Result<Lane<'i, W>, (Fault, Arc<Peer>, bool)> {
        loop {
            let peer = self.routes.peer(owner, &self.client.peers);
            if W::LOCAL_ONLY && !peer.is_unix() {
                let message = format!("its worker at {} is not on this host: nothing can be mapped", peer.name());
                return Err((Failure::new(Status::Unsupported, message).into(), peer, false));
            }
            let mut connection = match self.client.checkout(&peer, Lease::Call, self.deadline) {
                Ok(connection) => connection,
                Err(Fault::Refused(_)) if peer.is_unix() && self.routes.go_remote(owner) => continue,
                Err(fault) => return Err((fault, peer, false)),
            };
            let attached = connection.attach(self.version.key(), Access::Read, &self.right.capability, self.deadline);
            return match attached {
                Ok(handle) => {
                    let first_id = connection.request_id_next();
                    Ok(Lane { items, connection, handle, first_id, sent: 0, answered: 0, oldest: 0 })
                }
                Err(fault) => {
                    let was_idle = connection.was_idle();
                    if fault.leaves_connection_whole() {
                        connection.give_back(&self.client.dialer);
                    }
                    Err((fault, peer, was_idle))
                }
            };
        }
    }

    /// Takes one answer of a lane and sends what there is room for. `false` when the lane has all its answers.
    fn turn<W: Work>(&self, lane: &mut Lane<'_, W>, trouble: &mut Trouble) -> Result<bool, Fault> {
        let index = lane.receive(self.deadline)?;
        let item = &mut lane.items[index];
        match item.work.receive(&mut lane.connection, self.deadline) {
            Ok(()) => item.is_done = true,
            Err(Fault::Corrupt { .. }) if item.work.refetch() => add(&self.client.stats.refetches, 1),
            Err(fault) if fault.leaves_connection_whole() => {
                if fault.status() == Status::CapabilityExpired {
                    lane.connection.forget(self.version.key());
                }
                if fault.status() == Status::WrongEpoch {
                    add(&self.client.stats.wrong_epochs, 1);
                }
                trouble.note(fault, lane.connection.peer(), false);
            }
            Err(fault) => return Err(fault),
        }
        if lane.answered < lane.items.len() {
            lane.send(self.deadline)?;
            return Ok(true);
        }
        lane.connection.put_back(&self.client.dialer);
        Ok(false)
    }
}

impl<W: Work> Lane<'_, W> {
    /// Queues what the window has room for, and sends it.
    fn send(&mut self, deadline: Deadline) -> Result<(), Fault> {
        // Half a window at a time, so that a long list of small reads costs a call for many and not for each.
        if self.sent > 0 && (self.sent == self.items.len() || self.sent - self.answered > PIPELINE_MAX / 2) {
            return Ok(());
        }
        while self.sent < self.items.len() && self.sent - self.answered < PIPELINE_MAX {
            let item = &mut self.items[self.sent];
            item.work.queue(&mut self.connection, self.handle);
            item.is_asked = true;
            self.sent += 1;
        }
        self.connection.flush(deadline)
    }

    /// Receives the head of one answer and says whose it is.
    fn receive(&mut self, deadline: Deadline) -> Result<usize, Fault> {
        while !self.items[self.oldest].is_asked {
            self.oldest += 1;
        }
        let expected = self.items[self.oldest].work.payload_expected();
        let id = self.connection.receive(expected, deadline)?.request_id;
        let index = id.checked_sub(self.first_id).and_then(|index| usize::try_from(index).ok());
        match index.and_then(|index| Some((index, self.items.get_mut(index)?))) {
            Some((index, item)) if item.is_asked => {
                item.is_asked = false;
                self.answered += 1;
                Ok(index)
            }
            _ => Err(Fault::Unexpected("it answered a question that was not asked")),
        }
    }
}

/// What went wrong in one attempt, sorted by what helps.
#[derive(Default)]
struct Trouble {
    /// Nothing does.
    fatal: Option<Error>,
    /// A newer ring.
    ring: Option<Box<Ring>>,
    /// Opening the file again.
    expired: Option<Error>,
    /// Time.
    passing: Option<Error>,
    /// With `passing`: the ring may have changed because somebody died.
    peer_gone: bool,
    /// A new connection.
    idle_broken: Option<Error>,
}

impl Trouble {
    fn note(&mut self, fault: Fault, peer: &Peer, was_idle: bool) {
        match fault {
            Fault::Failed(Failure { status: Status::WrongEpoch, ring: Some(ring), .. }) => {
                let known = self.ring.as_ref().map_or(Epoch(0), |ring| ring.epoch);
                if ring.epoch > known {
                    self.ring = Some(ring);
                }
            }
            fault if fault.status() == Status::CapabilityExpired => {
                self.expired = Some(Error::of_fault(fault, peer.name()));
            }
            fault @ Fault::Broken(_) if was_idle => {
                peer.close_idle();
                self.idle_broken = Some(Error::of_fault(fault, peer.name()));
            }
            fault if is_retryable(&fault) => {
                self.peer_gone |= !matches!(fault, Fault::Failed(_));
                self.passing = Some(Error::of_fault(fault, peer.name()));
            }
            fault => {
                self.fatal.get_or_insert_with(|| Error::of_fault(fault, peer.name()));
            }
        }
    }

    /// Does what helps, and returns when it is time for the next attempt.
    #[allow(clippy::too_many_arguments)]
    fn settle(
        self,
        client: &Shared,
        version: &Version,
        routes: &Routes,
        right: &Right,
        retry: &mut Retry<'_>,
        is_renewed: &mut bool,
        deadline: Deadline,
    ) -> Result<(), Error> {
        if let Some(error) = self.fatal {
            return Err(error);
        }
        if let Some(ring) = self.ring {
            let epoch = ring.epoch;
            client.adopt(*ring);
            if version.is_in_memory_only() {
                // Its blocks were moved, or else the worker could not have refused: its epoch is another now.
                version.renew(client, right, deadline)?;
            }
            if version.routes(client, deadline)?.epoch() <= routes.epoch() {
                let message = format!("a worker refuses epoch {} and knows no newer one than {epoch}", routes.epoch());
                retry.pause(Error::new(Status::WrongEpoch, message))?;
            } else {
                add(&client.stats.retries, 1);
            }
        }
        if let Some(error) = self.expired {
            if core::mem::replace(is_renewed, true) {
                return Err(error);
            }
            version.renew(client, right, deadline)?;
        }
        if let Some(error) = self.idle_broken
            && self.passing.is_none()
            && !retry.forgives_idle()
        {
            retry.pause(error)?;
        }
        if let Some(error) = self.passing {
            if self.peer_gone {
                retry.pause_for_absent(error)?
            } else {
                retry.pause(error)?
            }
            if self.peer_gone && version.is_in_memory_only() {
                // If the worker took the only copy with it, the master says so instead of letting us ask for ever.
                version.renew(client, right, deadline).map_err(|error| retry.cause(error))?;
            } else if self.peer_gone {
                client.fetch_ring(Epoch(0), deadline).map_err(|error| retry.cause(error))?;
            }
        }
        Ok(())
    }
}
