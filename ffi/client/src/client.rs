//! The client: what all its files, writers and listings share, and the master's side of it.

use crate::blocks::BlockCache;
use crate::config::Config;
use crate::connection::Fault;
use crate::deadline::Deadline;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::gone::GoneVersions;
use crate::lease::LeaseKeeper;
use crate::peer::{Dialer, Lease, Peer, Peers};
use crate::readahead::Readahead;
use crate::retry::Retry;
use crate::routes::{Rings, Routes};
use crate::stats::{ClientStats, Stats, add};
use crate::stream::Address;
use citius_wire::{Batch, ClientId, Epoch, Failure, Operation, Outcome, Request, Ring, Serial, Status};
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// A client of one cluster. Cheap to clone, usable from any thread; all clones share connections, maps and counters.
#[derive(Clone)]
pub struct Client(pub(crate) Arc<Shared>);

/// What the parts of a client share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) dialer: Dialer,
    pub(crate) peers: Peers,
    pub(crate) rings: Rings,
    pub(crate) gone: GoneVersions,
    pub(crate) stats: Stats,
    pub(crate) blocks: BlockCache,
    pub(crate) leases: Arc<LeaseKeeper>,
    pub(crate) readahead: Arc<Readahead>,
    master: Arc<Peer>,
    host: String,
    serial_next: AtomicU64,
}

impl Client {
    /// Connects to a master, once: nobody there is an error at once and not after the timeout.
    ///
    /// # Errors
    /// `Unavailable` or `TimedOut` if nobody answers; `Unauthenticated` if the token is not the cluster's.
    pub fn connect(endpoint: Endpoint, config: Config) -> Result<Self, Error> {
        let mut id = [0; 16];
        getrandom::fill(&mut id)
            .map_err(|error| Error::new(Status::Internal, format!("the kernel gives no random bytes: {error}")))?;
        let dialer = Dialer {
            token: endpoint.token,
            client: ClientId(id),
            connect_timeout: config.connect_timeout,
            connections_max: config.connections_max.max(1),
        };
        let peers = Peers::default();
        let shared = Shared {
            master: peers.get(Address::Tcp(endpoint.master), 0),
            blocks: BlockCache::new(config.mapped_blocks_max.max(1)),
            leases: LeaseKeeper::new(),
            readahead: Readahead::new(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            serial_next: AtomicU64::new(1),
            rings: Rings::default(),
            gone: GoneVersions::default(),
            stats: Stats::default(),
            config,
            dialer,
            peers,
        };
        let deadline = Deadline::after(shared.config.timeout);
        shared
            .master
            .checkout(&shared.dialer, Lease::Call, deadline)
            .map_err(|fault| Error::of_fault(fault, shared.master.name()))?
            .give_back(&shared.dialer);
        add(&shared.stats.connects, 1);
        Ok(Self(Arc::new(shared)))
    }

    /// The id of this client, random in each [`Client::connect`].
    pub fn id(&self) -> ClientId {
        self.0.dialer.client
    }

    /// What it counted so far.
    pub fn stats(&self) -> ClientStats {
        self.0.stats.snapshot()
    }

    /// `HOST:PORT` of its master.
    pub fn master(&self) -> &str {
        self.0.master.name()
    }

    /// The configuration it runs with.
    pub fn config(&self) -> &Config {
        &self.0.config
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({} of {})", self.id(), self.master())
    }
}

impl Shared {
    /// The deadline of a call that begins now.
    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::after(self.config.timeout)
    }

    /// The deadline of a call that waits for whole blocks.
    pub(crate) fn transfer_deadline(&self) -> Deadline {
        Deadline::after(self.config.transfer_timeout.max(self.config.timeout))
    }

    /// The master, for what keeps a connection to it.
    pub(crate) fn master(&self) -> &Arc<Peer> {
        &self.master
    }

    /// Serials for so many operations.
    pub(crate) fn serials(&self, count: usize) -> Serial {
        Serial(self.serial_next.fetch_add(count as u64, Ordering::Relaxed))
    }

    /// Asks the master, until it answers or the deadline passes.
    pub(crate) fn ask_master<R: Request>(&self, request: &R, deadline: Deadline) -> Result<R::Reply, Error> {
        let mut retry = Retry::new(deadline, self);
        loop {
            let (fault, was_idle) = match self.checkout(&self.master, Lease::Call, deadline) {
                Ok(mut master) => match master.call(request, deadline) {
                    Ok(reply) => {
                        master.give_back(&self.dialer);
                        return Ok(reply);
                    }
                    Err(fault) => {
                        let was_idle = master.was_idle();
                        if fault.leaves_connection_whole() {
                            master.give_back(&self.dialer);
                        }
                        (fault, was_idle)
                    }
                },
                Err(fault) => (fault, false),
            };
            retry.after(fault, &self.master, was_idle)?;
        }
    }

    /// Lends a connection and counts the new ones.
    pub(crate) fn checkout(
        &self,
        peer: &Arc<Peer>,
        lease: Lease,
        deadline: Deadline,
    ) -> Result<crate::peer::Checkout, Fault> {
        let checkout = peer.checkout(&self.dialer, lease, deadline)?;
        if !checkout.was_idle() {
            add(&self.stats.connects, 1);
        }
        Ok(checkout)
    }

    /// Does one operation, trying again under the same serial while its failure may pass.
    pub(crate) fn operate(&self, operation: Operation, deadline: Deadline) -> Result<Outcome, Error> {
        let first = self.serials(1);
        let batch = Batch { first, operations: vec![operation] };
        let mut retry = Retry::new(deadline, self);
        loop {
            let mut results = self.ask_master(&batch, deadline).map_err(|error| retry.cause(error))?.results;
            match (results.pop(), results.is_empty()) {
                (Some(Ok(outcome)), true) => return Ok(outcome),
                (Some(Err(failure)), true) if failure.status.is_retryable() => retry.pause(failure.into())?,
                (Some(Err(failure)), true) => return Err(failure.into()),
                _ => return Err(self.unexpected("it answered one operation with another number of results")),
            }
        }
    }

    /// The ring of an epoch.
    pub(crate) fn routes_of_epoch(&self, epoch: Epoch, deadline: Deadline) -> Result<Arc<Routes>, Error> {
        match self.rings.of_epoch(epoch) {
            Some(routes) => Ok(routes),
            None => self.fetch_ring(epoch, deadline),
        }
    }

    /// The newest ring that is known, or the master's if what is known is older than `epoch`.
    pub(crate) fn routes_since(&self, epoch: Epoch, deadline: Deadline) -> Result<Arc<Routes>, Error> {
        match self.rings.newest() {
            Some(routes) if routes.epoch() >= epoch => Ok(routes),
            _ => self.fetch_ring(Epoch(0), deadline),
        }
    }

    /// Asks the master for a ring; epoch 0 is the newest.
    pub(crate) fn fetch_ring(&self, epoch: Epoch, deadline: Deadline) -> Result<Arc<Routes>, Error> {
        match self.operate(Operation::Ring { epoch }, deadline)? {
            Outcome::Ring(ring) if epoch == Epoch(0) || ring.epoch == epoch => Ok(self.adopt(*ring)),
            _ => Err(self.unexpected("it was asked for a ring and gave another thing")),
        }
    }

    /// Routes by this ring from now on, unless a newer one is known.
    pub(crate) fn adopt(&self, ring: Ring) -> Arc<Routes> {
        let routes = self.rings.adopt(Routes::new(ring, self.config.local, &self.host));
        self.peers.forget_unused();
        routes
    }

    /// The error of a master whose answer does not fit the question.
    pub(crate) fn unexpected(&self, what: &'static str) -> Error {
        Error::of_fault(Fault::Unexpected(what), self.master.name())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.leases.stop();
        self.readahead.stop();
    }
}

/// A failure of one operation, of the path it names.
pub(crate) fn failed_at(failure: Failure, path: Option<&str>) -> Error {
    let error = Error::from(failure);
    match path {
        Some(path) => error.at(path),
        None => error,
    }
}
