//! Memory for blocks, and eviction when there is none.

use super::{Shard, ShardMessage, tally};
use crate::store::BlockState;
use crate::tier::mem::{MemError, Memory, OBJECT_BYTES_MAX};
use citius_wire::units::PAGE_BYTES;
use citius_wire::{BlockId, Failure, Status};
use std::ops::Range;
use tokio::sync::oneshot;

/// Evictions in a row for one allocation, past which something is wrong rather than full.
const EVICTIONS_MAX: usize = 4096;

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

    /// Tries again what found no room, once, when the master was asked which files are gone: tasks to drop them come with
    /// heartbeats, and who deletes a file to make room does not wait for one.
    ///
    /// # Errors
    /// What the last try said.
    pub(super) async fn with_news<T>(&self, attempt: impl AsyncFn() -> Result<T, Failure>) -> Result<T, Failure> {
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
        let page = PAGE_BYTES as u64;
        Failure::new(
            Status::NoSpace,
            format!(
                "the memory tier of this shard is full: of {} MiB, {} MiB hold unpersisted files, {} MiB are being \
                 fetched, {} MiB are mapped by clients. Delete must-cache files, write fewer files at once, or give \
                 the worker more with --memory",
                mib(u64::from(pool.pages_granted) * page),
                mib(dirty),
                mib(filling),
                mib(u64::from(pool.pages_owed) * page),
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
