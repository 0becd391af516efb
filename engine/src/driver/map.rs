//! Showing complete blocks to local clients: a sealed, read-only memfd and the checksums of its sectors.

use super::fetch::nowhere;
use super::{Shard, tally};
use crate::shard::{Attached, Wanted};
use crate::tier::mem::{BlockMem, MemError, Memory};
use citius_wire::units::PAGE_BYTES;
use citius_wire::{BlockId, Failure, Mapped, Status};
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// Tries to show a block before it is evicted again, or while somebody else fills it.
const TRIES_MAX: usize = 16;

impl Shard {
    /// Completes a block and gives a descriptor of it.
    ///
    /// # Errors
    /// `WrongEpoch`, or why the block cannot be completed.
    pub(crate) async fn map(self: &Rc<Self>, file: &Rc<Attached>, index: u32) -> Result<(Mapped, OwnedFd), Failure> {
        let wanted = file.whole_block(index)?;
        for _ in 0..TRIES_MAX {
            self.complete(file, &wanted).await?;
            if let Some(shown) = self.show(wanted.block).await? {
                tally(&self.counters.maps, 1);
                return Ok(shown);
            }
        }
        Err(self.full())
    }

    /// Brings a whole block into memory.
    ///
    /// # Errors
    /// As [`Shard::map`].
    pub(crate) async fn load(self: &Rc<Self>, file: &Rc<Attached>, index: u32) -> Result<(), Failure> {
        let wanted = file.whole_block(index)?;
        self.complete(file, &wanted).await
    }

    async fn complete(self: &Rc<Self>, file: &Rc<Attached>, wanted: &Wanted) -> Result<(), Failure> {
        let block = wanted.block;
        let is_here = self.blocks.borrow().crcs(block).is_some();
        if is_here {
            return Ok(());
        }
        self.check_owner(file, block.index).await?;
        if file.token.is_none() {
            return Err(nowhere(file, block));
        }
        let _turn = self.await_turn(u64::from(wanted.block_length)).await?;
        self.fill(file, wanted, 0).await
    }

    /// Exports a complete block; `None` if it was evicted or is being changed, and should be completed again.
    async fn show(&self, block: BlockId) -> Result<Option<(Mapped, OwnedFd)>, Failure> {
        let Some((memory, length)) = self.complete_memory(block) else { return Ok(None) };
        let memory = match memory {
            Memory::Block(memory) if memory.is_exported() || fits(&memory, length) => memory,
            other => {
                let Some(own) = self.own_memfd(block, &other, length).await? else { return Ok(None) };
                own
            }
        };
        match memory.export() {
            Ok(()) => {}
            Err(MemError::Busy) => return Ok(None),
            Err(error) => return Err(Failure::new(Status::Internal, error.to_string())),
        }
        let descriptor = memory
            .descriptor()
            .map_err(|error| Failure::new(Status::Busy, format!("{error}: raise `ulimit -n` of the worker")))?;
        let mut blocks = self.blocks.borrow_mut();
        if !blocks.set_exported(block) {
            return Ok(None);
        }
        let crcs = blocks.crcs(block).expect("an exported block is complete").to_vec();
        Ok(Some((Mapped { length, crcs }, descriptor)))
    }

    fn complete_memory(&self, block: BlockId) -> Option<(Memory, u32)> {
        let blocks = self.blocks.borrow();
        blocks.crcs(block)?;
        Some((blocks.memory(block)?.clone(), blocks.stat(block)?.length))
    }

    /// Moves a block to a memfd of its own and of its size: the one allowed copy.
    async fn own_memfd(&self, block: BlockId, from: &Memory, length: u32) -> Result<Option<Rc<BlockMem>>, Failure> {
        let length = length as usize;
        self.make_descriptor_room();
        let own = self.with_room(async || BlockMem::new(&self.pool, length)).await?;
        self.prepare(None, &Memory::Block(Rc::clone(&own)), 0..length.max(1)).await?;
        {
            let source = from.span(0..length);
            let mut target = own.fill(0..length).map_err(|error| Failure::new(Status::Internal, error.to_string()))?;
            // SAFETY: the block is complete, so nobody writes these bytes while the span lives.
            #[allow(unsafe_code)]
            target.bytes_mut().copy_from_slice(unsafe { source.bytes() });
        }
        let mut blocks = self.blocks.borrow_mut();
        if blocks.crcs(block).is_none() {
            return Ok(None);
        }
        let bytes = own.bytes_allocated();
        let old = blocks.replace_memory(block, Memory::Block(Rc::clone(&own)), bytes);
        drop(blocks);
        Ok(old.map(|_| own))
    }
}

/// Whether a memfd is just as long as its block needs: what is shown has no page that is not the block's.
fn fits(memory: &BlockMem, length: u32) -> bool {
    memory.length().div_ceil(PAGE_BYTES) == (length as usize).div_ceil(PAGE_BYTES) && memory.length() == length as usize
}
