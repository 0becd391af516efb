//! Memory for blocks, eviction when there is none, and waiting for what writes give back.

use super::write::ending;
use super::{Shard, ShardMessage, tally};
use crate::store::BlockState;
use crate::tier::mem::{MemError, Memory, OBJECT_BYTES_MAX};
use citius_wire::units::PAGE_BYTES;
use citius_wire::{BlockId, Failure, Status};
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Evictions in a row for one allocation, past which something is wrong rather than full.
const EVICTIONS_MAX: usize = 4096;
/// How long a write waits for room that writes before it give back as their blocks reach the under-store.
const ROOM_PATIENCE: Duration = Duration::from_secs(300);
/// How often it looks: often beside the time that a block takes.
const ROOM_LOOK: Duration = Duration::from_millis(20);

impl Shard {
    /// Memory for a block of `length` bytes, with other blocks evicted if need be.
    ///
    /// # Errors
    /// `NoSpace` when what is here may not go.
    pub(super) async fn memory(&self, length: usize) -> Result<Memory, Failure> {
        if length >= OBJECT_BYTES_MAX {
            self.make_descriptor_room();
        }
        self.with_room(async || Memory::new(&self.pool, &self.slab, length).await).await
    }

    /// Allocates the pages of a range before they are touched.
    ///
    /// # Errors
    /// As [`Shard::memory`].
    pub(super) async fn prepare(
        &self,
        block: Option<BlockId>,
        memory: &Memory,
        range: Range<usize>,
    ) -> Result<(), Failure> {
        self.with_room(async || memory.prepare(range.clone()).await).await?;
        if let Some(block) = block {
            self.blocks.borrow_mut().account(block, memory.bytes_allocated());
        }
        Ok(())
    }

    /// Tries to get memory until there is some, evicting between the tries.
    ///
    /// # Errors
    /// As [`Shard::memory`].
    pub(super) async fn with_room<T>(&self, attempt: impl AsyncFn() -> Result<T, MemError>) -> Result<T, Failure> {
        for _ in 0..EVICTIONS_MAX {
            match attempt().await {
                Ok(got) => return Ok(got),
                Err(error) => self.evict_for(&error).await?,
            }
        }
        Err(self.full())
    }

    /// Lets a long block begin when it can also end: when it fits, beside what the blocks that are begun may grow to and
    /// what is not staged yet. Otherwise many writers would each hold a part of a block, and none could go on.
    ///
    /// It waits for what others give back without it. Where nothing is on its way into an under-store, it goes ahead.
    pub(super) async fn await_room_for(&self, block_bytes: usize) -> Result<(), Failure> {
        let end = Instant::now() + ROOM_PATIENCE;
        while self.is_crowded(block_bytes as u64) && Instant::now() < end {
            self.pause(ROOM_LOOK).await?;
        }
        Ok(())
    }

    fn is_crowded(&self, bytes: u64) -> bool {
        let (mut passing, mut staying) = (0, 0);
        let mut add = |file, bytes| *if self.writing.is_passing(file) { &mut passing } else { &mut staying } += bytes;
        self.writing.begun().into_iter().for_each(|(file, bytes)| add(file, bytes));
        self.blocks.borrow().blocks().filter(|stat| stat.is_dirty).for_each(|stat| add(stat.id.file, stat.bytes_held));
        let pool = self.pool.usage();
        // Evicted and still mapped by clients: nobody knows until when.
        staying += pool.bytes_owed();
        passing > 0 && passing + staying + bytes > pool.bytes_granted()
    }

    /// Lets a block be completed when it fits beside those that are being completed already. Otherwise many would each hold
    /// the pages of a part, which nothing can evict, and none would ever be whole. One alone always has its turn.
    pub(super) async fn await_turn(self: &Rc<Self>, block_bytes: u64) -> Result<Turn, Failure> {
        let end = Instant::now() + ROOM_PATIENCE;
        let is_crowded = || {
            let (under_way, pool) = (self.completing_bytes.get(), self.pool.usage());
            let dirty: u64 =
                self.blocks.borrow().blocks().filter(|stat| stat.is_dirty).map(|stat| stat.bytes_held).sum();
            let taken = dirty + self.writing.bytes_held() + pool.bytes_owed();
            let room = pool.bytes_granted().saturating_sub(taken);
            under_way > 0 && under_way + block_bytes > room
        };
        // Small blocks fit as good as always, and ask for no more than this.
        while block_bytes >= PAGE_BYTES as u64 && is_crowded() && Instant::now() < end {
            self.pause(ROOM_LOOK).await?;
        }
        tally(&self.completing_bytes, block_bytes);
        Ok(Turn { shard: Rc::clone(self), bytes: block_bytes })
    }

    /// Tries to take room; while sealed blocks are on their way into an under-store, again and again. A block that is
    /// staged is on its way for as long as the store's client holds it: parts are sent many at once, and again if need be.
    pub(super) async fn with_patience<T>(&self, attempt: impl AsyncFn() -> Result<T, Failure>) -> Result<T, Failure> {
        let end = Instant::now() + ROOM_PATIENCE;
        let mut result = self.with_news(&attempt).await;
        while result.as_ref().is_err_and(|full| full.status == Status::NoSpace)
            && self.is_passing()
            && Instant::now() < end
        {
            self.pause(ROOM_LOOK).await?;
            result = attempt().await;
        }
        result
    }

    /// Whether pages will come back from an under-store's client without anybody asking for them.
    fn is_passing(&self) -> bool {
        self.collect();
        let is_passing = |file| self.writing.is_passing(file);
        self.ledger.is_out() || self.blocks.borrow().blocks().any(|stat| stat.is_dirty && is_passing(stat.id.file))
    }

    /// Lets time pass: a shard has no clock of its own that wakes it.
    async fn pause(&self, time: Duration) -> Result<(), Failure> {
        let (over, wait) = oneshot::channel();
        self.node()?.runtime.spawn(async move {
            tokio::time::sleep(time).await;
            // Who waited may be gone.
            let _ = over.send(());
        });
        wait.await.map_err(|_| ending())
    }

    /// Tries again what found no room, once, when the master was asked which files are gone: tasks to drop them come with
    /// heartbeats, and who deletes a file to make room does not wait for one.
    ///
    /// # Errors
    /// What the last try said.
    async fn with_news<T>(&self, attempt: impl AsyncFn() -> Result<T, Failure>) -> Result<T, Failure> {
        match attempt().await {
            Err(full) if full.status == Status::NoSpace => {
                if let Err(failure) = self.refresh().await {
                    tracing::debug!(%failure, "the master was not asked which files are gone");
                    return Err(full);
                }
                self.catch_up().await;
                attempt().await
            }
            other => other,
        }
    }

    /// Waits until all that was said to this shard so far is done: its inbox keeps the order.
    async fn catch_up(&self) {
        let (reply, answer) = oneshot::channel();
        if self.inbox.send(ShardMessage::Counters { reply }).is_ok() {
            // Without an answer the shard is ending, and what is tried next says so.
            drop(answer.await);
        }
    }

    /// Evicts one block because of `error`, or says why nothing can be done.
    async fn evict_for(&self, error: &MemError) -> Result<(), Failure> {
        let is_of_system = match error {
            MemError::NoPages { .. } | MemError::PagesLost { .. } => false,
            MemError::System { .. } => true,
            other => return Err(Failure::new(Status::Internal, other.to_string())),
        };
        // What other threads have given back and nobody has looked at yet is room that costs nothing.
        self.collect();
        let is_evicted = self.evict_one();
        // Descriptors and mappings come back when the system has closed the block. Who does not wait for that evicts
        // another block at each try, and empties the tier for want of one descriptor.
        if is_of_system || !is_evicted {
            let is_returned = self.pool.wait_returned().await;
            if !is_evicted && !is_returned {
                return Err(self.full_because(error));
            }
        }
        Ok(())
    }

    fn evict_one(&self) -> bool {
        let evicted = self.blocks.borrow_mut().evict();
        let found = evicted.is_some();
        if found {
            tally(&self.counters.evictions, 1);
        }
        // The memory goes here, with no borrow of the index held.
        drop(evicted);
        found
    }

    /// Keeps the number of memfds below the process's limits, one more included.
    pub(super) fn make_descriptor_room(&self) {
        while self.memfds() >= self.blocks_max && self.evict_one() {}
    }

    /// Blocks with a memfd of their own, resident or being written, and the slab's.
    fn memfds(&self) -> usize {
        let slab = self.slab.usage();
        (self.blocks.borrow().len() + self.writing.blocks()).saturating_sub(slab.objects) + slab.segments
    }

    pub(super) fn full(&self) -> Failure {
        let blocks = self.blocks.borrow();
        let (mut dirty, mut filling) = (self.writing.bytes_held(), 0);
        for stat in blocks.blocks() {
            if stat.is_dirty {
                dirty += stat.bytes_held;
            } else if stat.state == BlockState::Filling {
                filling += stat.bytes_held;
            }
        }
        let pool = self.pool.usage();
        let mib = |bytes: u64| bytes >> 20;
        Failure::new(
            Status::NoSpace,
            format!(
                "the memory tier of this shard is full: of {} MiB, {} MiB hold unpersisted files, {} MiB are being \
                 fetched, {} MiB are mapped by clients. Delete must-cache files, write fewer files at once, or give \
                 the worker more with --memory",
                mib(pool.bytes_granted()),
                mib(dirty),
                mib(filling),
                mib(pool.bytes_owed()),
            ),
        )
    }

    fn full_because(&self, error: &MemError) -> Failure {
        let full = self.full();
        match error {
            MemError::NoPages { .. } => full,
            other => Failure::new(Status::NoSpace, format!("{} ({other})", full.message)),
        }
    }
}

/// The right to complete a block, which ends with this.
pub(super) struct Turn {
    shard: Rc<Shard>,
    bytes: u64,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let under_way = &self.shard.completing_bytes;
        under_way.set(under_way.get() - self.bytes);
    }
}
