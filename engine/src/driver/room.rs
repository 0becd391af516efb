//! Memory for blocks, and eviction when there is none.

use super::{Shard, tally};
use crate::store::BlockState;
use crate::tier::mem::{MemError, Memory};
use citius_wire::units::PAGE_BYTES;
use citius_wire::{BlockId, Failure, Status};
use std::ops::Range;

/// Evictions in a row for one allocation, past which something is wrong rather than full.
const EVICTIONS_MAX: usize = 4096;

impl Shard {
    /// Memory for a block of `length` bytes, with other blocks evicted if need be.
    ///
    /// # Errors
    /// `NoSpace` when what is here may not go.
    pub(super) async fn memory(&self, length: usize) -> Result<Memory, Failure> {
        for _ in 0..EVICTIONS_MAX {
            self.make_descriptor_room();
            let made = Box::pin(Memory::new(&self.pool, &self.slab, length));
            self.kick_ring();
            match self.driven(made).await {
                Ok(memory) => return Ok(memory),
                Err(error) => self.evict_for(&error)?,
            }
        }
        Err(self.full())
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
        for _ in 0..EVICTIONS_MAX {
            match self.driven(memory.prepare(range.clone())).await {
                Ok(()) => {
                    if let Some(block) = block {
                        self.blocks.borrow_mut().account(block, memory.bytes_allocated());
                    }
                    return Ok(());
                }
                Err(error) => self.evict_for(&error)?,
            }
        }
        Err(self.full())
    }

    /// Polls a future that queues ring operations, submitting what each poll queued.
    pub(crate) async fn driven<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|context| {
            let poll = future.as_mut().poll(context);
            self.kick_ring();
            poll
        })
        .await
    }

    /// Evicts one block because of `error`, or says why nothing can be done.
    pub(super) fn evict_for(&self, error: &MemError) -> Result<(), Failure> {
        match error {
            MemError::NoPages { .. } | MemError::PagesLost { .. } | MemError::System { .. } => {
                if self.evict_one() {
                    Ok(())
                } else {
                    Err(self.full_because(error))
                }
            }
            other => Err(Failure::new(Status::Internal, other.to_string())),
        }
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

    /// Keeps the number of memfds below the process's limits.
    fn make_descriptor_room(&self) {
        while self.blocks.borrow().len() >= self.blocks_max && self.slab.usage().objects == 0 {
            if !self.evict_one() {
                break;
            }
        }
    }

    pub(super) fn full(&self) -> Failure {
        let blocks = self.blocks.borrow();
        let (mut dirty, mut filling) = (0, 0);
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
                 fetched, {} MiB are mapped by clients. Delete or persist must-cache files, or give the worker more \
                 with --memory",
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
