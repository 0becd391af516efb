//! The driver of a shard: it does what [`crate::shard`] and [`crate::store`] decide, with the shard's ring, memory and
//! under-stores.
//!
//! | file | what it does |
//! |---|---|
//! | `message` | what other threads ask of a shard |
//! | `read` | answers reads, warm and cold |
//! | `fetch` | brings missing grains into pages |
//! | `room` | memory for blocks, and eviction when there is none |
//! | `write` | takes in blocks of files being written, and hands them to the publisher |
//! | `map` | shows complete blocks to local clients |
//! | `files`, `lend` | open files of local under-stores, blocks in the publisher's hands |
//!
//! Everything of a shard is touched on its own thread only; `RefCell` borrows never live across an await.

mod fetch;
mod files;
mod lend;
mod map;
mod message;
mod read;
mod room;
mod write;

pub(crate) use lend::Lent;
pub(crate) use message::{ShardInbox, ShardMessage};
pub(crate) use read::Found;
pub(crate) use write::keeps_blocks;

use crate::agent::{Node, View};
use crate::error::{Error, Result};
use crate::host::{Host, guarded_now, new_bell, silence_bell, spawn_shard};
use crate::inbox::Inbox;
use crate::net::connection;
use crate::ring::{Ring, RingHandle};
use crate::shard::{Attached, Flights};
use crate::store::{BlockIndex, BlockStat, BlockState};
use crate::tier::mem::{BackingChoice, Grant, Limits, Loans, Memory, PagePool, Slab};
use citius_understore::{Bridge, UnderStore};
use citius_wire::units::BLOCK_BYTES_DEFAULT;
use citius_wire::{Counters, Failure, FileKey, Freed, MountId, Origin, ResidentBlock, ResidentReply, Status};
use files::OpenFiles;
use futures::FutureExt;
use lend::Ledger;
use std::cell::{Cell, OnceCell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;
use tokio::sync::oneshot;
use write::Writing;

/// Turns of busy tasks between two looks at what has arrived for idle ones.
const TURNS_PER_REAP: u32 = 4;
/// Submissions that a shard's own ring holds.
const RING_ENTRIES: u32 = 512;
/// Of the blocks that a shard may keep open, one in this many may be an open file of a local under-store as well.
const OPEN_FILES_PART: usize = 4;
/// How long an ending shard waits for its ring.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);

/// What a shard is started with.
pub(crate) struct ShardParts {
    pub(crate) number: u16,
    pub(crate) shards: u16,
    pub(crate) core: Option<usize>,
    pub(crate) memory_bytes: u64,
    pub(crate) bridge: Bridge,
}

/// What a shard says when it has started.
pub(crate) struct Started {
    pub(crate) inbox: Arc<ShardInbox>,
    pub(crate) grant: Grant,
}

/// Counts of a shard, each written by it alone.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) connections: Cell<u64>,
    pub(crate) requests: Cell<u64>,
    pub(crate) failures: Cell<u64>,
    pub(crate) wrong_epochs: Cell<u64>,
    hits: Cell<u64>,
    misses: Cell<u64>,
    read_bytes: Cell<u64>,
    written_bytes: Cell<u64>,
    fetched_bytes: Cell<u64>,
    moved_bytes: Cell<u64>,
    evictions: Cell<u64>,
    refetched_sectors: Cell<u64>,
    maps: Cell<u64>,
}

/// Adds to a count.
fn tally(count: &Cell<u64>, more: u64) {
    count.set(count.get() + more);
}

/// A shard, on its thread.
pub(crate) struct Shard {
    pub(crate) host: Host,
    pub(crate) ring: RingHandle,
    pub(crate) counters: Tally,
    number: u16,
    inbox: Arc<ShardInbox>,
    /// Known once the node is put together, before the first connection.
    node: OnceCell<Arc<Node>>,
    view: RefCell<Arc<View>>,
    bridge: Bridge,
    pool: PagePool,
    slab: Slab,
    loans: Loans,
    ledger: Ledger,
    blocks: RefCell<BlockIndex<Memory>>,
    /// Blocks with a memfd of their own that may be resident at once.
    blocks_max: usize,
    flights: Flights,
    writing: Writing,
    /// Bytes of the blocks that are being completed: see [`Shard::await_turn`].
    completing_bytes: Cell<u64>,
    files: OpenFiles,
    is_ending: Cell<bool>,
}

/// Starts a shard; what it was granted comes through `started`.
pub(crate) fn start(parts: ShardParts, started: SyncSender<Result<Started>>) -> Result<crate::host::ShardThread> {
    spawn_shard(parts.number, parts.core, move || async move {
        match Shard::new(&parts) {
            Ok((shard, ring, bell, grant)) => {
                // The starter waits for this; if it is gone, so is the need for a shard.
                if started.send(Ok(Started { inbox: Arc::clone(&shard.inbox), grant })).is_ok() {
                    shard.run(&ring, bell).await;
                }
            }
            Err(error) => drop(started.send(Err(error))),
        }
    })
}

impl Shard {
    fn new(parts: &ShardParts) -> Result<(Rc<Self>, Ring, OwnedFd, Grant)> {
        let failed = |reason: String| Error::Shard {
            shard: parts.number,
            reason,
            advice: "Check that io_uring is allowed (sysctl kernel.io_uring_disabled=0) and `ulimit -l`, `ulimit -n`",
        };
        let ring = Ring::new(RING_ENTRIES).map_err(|error| failed(error.to_string()))?;
        let (pool, grant) =
            PagePool::start(ring.handle(), BackingChoice::Best, parts.memory_bytes, u32::from(parts.shards))
                .map_err(|error| Error::Memory(error.to_string()))?;
        let bell = new_bell().map_err(|error| failed(error.to_string()))?;
        let another = || bell.try_clone().map_err(|error| failed(error.to_string()));
        let (ringer, host) = (another()?, Host::new(another()?));
        let blocks_max = Limits::of_process().blocks_max(u32::from(parts.shards));
        let bytes_max = u64::from(grant.pages) * citius_wire::units::PAGE_BYTES as u64;
        let shard = Self {
            host,
            ring: ring.handle(),
            counters: Tally::default(),
            number: parts.number,
            inbox: Inbox::new(ringer),
            node: OnceCell::new(),
            view: RefCell::default(),
            bridge: parts.bridge.clone(),
            slab: Slab::new(pool.clone()),
            pool,
            loans: Loans::default(),
            ledger: Ledger::default(),
            blocks: RefCell::new(BlockIndex::new(bytes_max)),
            blocks_max,
            flights: Flights::default(),
            writing: Writing::default(),
            completing_bytes: Cell::new(0),
            files: OpenFiles::new(blocks_max / OPEN_FILES_PART),
            is_ending: Cell::new(false),
        };
        Ok((Rc::new(shard), ring, bell, grant))
    }

    /// Sleeps in the ring whenever no task can run, until told to end.
    ///
    /// Nothing is slept over: between a reap, which may make a task runnable or complete the poll of the bell, and the
    /// next sleep stand a look at the bell and a turn of all tasks that ran nothing.
    async fn run(self: &Rc<Self>, ring: &Ring, bell: OwnedFd) {
        let bell = Rc::new(bell);
        let mut heard = ring.poll_add(Rc::clone(&bell), libc::POLLIN as u32);
        let mut turns = 0_u32;
        while !self.is_ending.get() {
            turns = if self.host.turn().await { turns + 1 } else { 0 };
            match turns {
                0 => ring.sleep(None),
                // Tasks that go on and on must not keep what arrives waiting.
                TURNS_PER_REAP => self.kick_ring(),
                _ => continue,
            }
            turns = 0;
            // A panic here would end the shard and with it everything that it holds; it ends one message instead.
            guarded_now(|| ring.reap());
            if let Some(polled) = (&mut heard).now_or_never() {
                if let Err(error) = polled {
                    tracing::error!(%error, "a shard cannot hear its bell");
                }
                silence_bell(&*bell);
                heard = ring.poll_add(Rc::clone(&bell), libc::POLLIN as u32);
                self.host.take_wakes();
                for message in self.inbox.take() {
                    guarded_now(|| self.take(message));
                }
            }
            guarded_now(|| self.collect());
        }
        if !ring.drain(DRAIN_PATIENCE) {
            tracing::warn!(shard = self.number, "operations were still under way at the end");
        }
    }

    /// Lets go of the memory that other threads have given back.
    fn collect(&self) {
        self.ledger.collect();
        self.loans.collect();
    }

    fn take(self: &Rc<Self>, message: ShardMessage) {
        match message {
            ShardMessage::Node(node) => drop(self.node.set(node)),
            ShardMessage::Connection(accepted) => {
                self.host.spawn(connection::serve(Rc::clone(self), accepted));
            }
            ShardMessage::View => self.look(),
            ShardMessage::Rekey { from, to } => self.rekey(from, to),
            ShardMessage::Drop { file } => self.forget(file),
            // The asker may have stopped waiting; then nobody needs the answer.
            ShardMessage::Staged { block, keep } => self.staged(block, keep),
            ShardMessage::Lend { block, reply } => drop(reply.send(self.lend(block))),
            ShardMessage::Counters { reply } => drop(reply.send(self.count())),
            ShardMessage::Dirty { age, reply } => drop(reply.send(self.writing.older_than(age, self.now_ms()))),
            ShardMessage::End => self.is_ending.set(true),
        }
    }

    /// The newest view that this shard was given.
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    /// See [`Host::now_ms`].
    pub(crate) fn now_ms(&self) -> u64 {
        self.host.now_ms()
    }

    /// Submits what is queued on the ring, without the sleep that would.
    fn kick_ring(&self) {
        if let Err(error) = self.ring.flush() {
            tracing::error!(%error, "the ring refuses what is queued");
        }
    }

    fn node(&self) -> Result<&Arc<Node>, Failure> {
        self.node.get().ok_or_else(|| Failure::new(Status::Unavailable, "the worker is starting"))
    }

    /// The under-store of a mount. One that is not known yet is asked for: a mount may be younger than our view.
    async fn store(&self, mount: MountId) -> Result<Arc<dyn UnderStore>, Failure> {
        match self.view().store(mount) {
            Err(failure) if failure.status == Status::NotFound => {}
            known => return known.cloned(),
        }
        self.refresh().await?;
        self.view().store(mount).cloned()
    }

    /// Refuses a block of an under-store file that another shard should serve.
    async fn check_owner(&self, file: &Attached, index: u32) -> Result<(), Failure> {
        if !matches!(file.right.origin, Origin::UnderStore { .. }) || self.owns(file, index)? {
            return Ok(());
        }
        // The client may route by a ring that is newer than ours.
        self.refresh().await?;
        if self.owns(file, index)? { Ok(()) } else { Err(Failure::wrong_epoch(self.view().ring.clone())) }
    }

    fn owns(&self, file: &Attached, index: u32) -> Result<bool, Failure> {
        let worker = self.node()?.worker;
        let view = self.view();
        let owner = view.ring.owner(file.right.place, index);
        Ok(owner.is_some_and(|owner| view.ring.members[owner.member].worker == worker && owner.shard == self.number))
    }

    /// Has the agent ask the master for what is new.
    async fn refresh(&self) -> Result<(), Failure> {
        let node = Arc::clone(self.node()?);
        let (sender, receiver) = oneshot::channel();
        let asking = Arc::clone(&node);
        node.runtime.spawn(async move { drop(sender.send(asking.refresh().await)) });
        receiver.await.map_err(|_| Failure::new(Status::Unavailable, "the worker is ending"))??;
        self.look();
        Ok(())
    }

    /// Takes the node's newest view. The view is asked for and not told, so that no older one comes after it.
    fn look(&self) {
        let Some(node) = self.node.get() else { return };
        let old = self.view.replace(node.view());
        // The last holder of a view closes the under-stores that are only in it.
        drop(old);
    }

    /// A written file is in its under-store, and called `to` from now on. Files of an under-store have blocks of the
    /// default size: what was written in others stays only if the whole file is one short block, which is the same in
    /// both.
    fn rekey(&self, from: FileKey, to: FileKey) {
        let block_bytes = self.writing.block_bytes(from);
        self.writing.forget(from);
        let mut blocks = self.blocks.borrow_mut();
        if block_bytes != Some(BLOCK_BYTES_DEFAULT) {
            let is_whole = |stat: &BlockStat| stat.id.index == 0 && block_bytes.is_some_and(|full| stat.length < full);
            let others: Vec<_> = blocks.blocks_of(from).filter(|stat| !is_whole(stat)).map(|stat| stat.id).collect();
            let removed: Vec<_> = others.into_iter().map(|block| blocks.remove(block)).collect();
            drop(blocks);
            drop(removed);
            blocks = self.blocks.borrow_mut();
        }
        let displaced = blocks.rekey(from, to);
        let indexes: Vec<_> = blocks.blocks_of(to).map(|stat| stat.id).collect();
        for block in indexes {
            blocks.set_dirty(block, false);
        }
        drop(blocks);
        drop(displaced);
    }

    /// Forgets a file that is gone, whatever its blocks are.
    fn forget(&self, file: FileKey) {
        self.writing.forget(file);
        self.files.forget(file);
        let removed = self.blocks.borrow_mut().remove_file(file);
        drop(removed);
    }

    /// Forgets the clean blocks of a file.
    pub(crate) fn free(&self, file: &Attached) -> Freed {
        let mut blocks = self.blocks.borrow_mut();
        let clean: Vec<_> = blocks
            .blocks_of(file.right.file)
            .filter(|stat| !stat.is_dirty && stat.pins == 0)
            .map(|stat| (stat.id, u64::from(stat.bytes_valid)))
            .collect();
        let removed: Vec<_> = clean.iter().map(|(block, _)| blocks.remove(*block)).collect();
        drop(blocks);
        drop(removed);
        Freed { bytes: clean.iter().map(|(_, bytes)| bytes).sum() }
    }

    /// What is here of a file.
    pub(crate) fn resident(&self, file: &Attached) -> ResidentReply {
        let mut blocks: Vec<_> = self
            .blocks
            .borrow()
            .blocks_of(file.right.file)
            .map(|stat| ResidentBlock {
                index: stat.id.index,
                memory_bytes: u64::from(stat.bytes_valid),
                complete: stat.state != BlockState::Filling,
                dirty: stat.is_dirty,
            })
            .collect();
        blocks.sort_unstable_by_key(|block| block.index);
        ResidentReply { blocks }
    }

    /// What this shard counted, and its gauges.
    pub(crate) fn count(&self) -> Counters {
        let page = citius_wire::units::PAGE_BYTES as u64;
        let blocks = self.blocks.borrow();
        let kept: u64 = blocks.blocks().filter(|stat| stat.is_dirty || stat.pins > 0).map(|stat| stat.bytes_held).sum();
        let pool = self.pool.usage();
        let tally = &self.counters;
        Counters {
            memory_capacity_bytes: pool.bytes_granted(),
            memory_used_bytes: u64::from(pool.pages_used - pool.pages_recycled) * page,
            memory_pinned_bytes: kept + self.writing.bytes_held(),
            memory_mapped_bytes: pool.bytes_owed(),
            blocks: blocks.len() as u64,
            connections: tally.connections.get(),
            requests: tally.requests.get(),
            failures: tally.failures.get(),
            hits: tally.hits.get(),
            misses: tally.misses.get(),
            read_bytes: tally.read_bytes.get(),
            written_bytes: tally.written_bytes.get(),
            fetched_bytes: tally.fetched_bytes.get(),
            moved_bytes: tally.moved_bytes.get(),
            evictions: tally.evictions.get(),
            wrong_epochs: tally.wrong_epochs.get(),
            refetched_sectors: tally.refetched_sectors.get(),
            maps: tally.maps.get(),
        }
    }
}
