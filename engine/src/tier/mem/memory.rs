//! The memory of a block, whichever kind it is.

use super::block::BlockMem;
use super::error::MemError;
use super::pool::PagePool;
use super::size_class::OBJECT_BYTES_MAX;
use super::slab::{Slab, SlabObject};
use crate::ring::{Span, SpanMut};
use core::ops::Range;
use std::rc::Rc;

/// A counted reference to a block's memory, as the index and everybody who uses the bytes hold it.
#[derive(Clone)]
pub enum Memory {
    /// A memfd of its own.
    Block(Rc<BlockMem>),
    /// A slot in a slab.
    Object(Rc<SlabObject>),
}

impl Memory {
    /// Memory for a block of `length` bytes: in the slab if it is small, else a memfd with nothing allocated yet.
    ///
    /// # Errors
    /// As [`Slab::object`] and [`BlockMem::new`].
    pub async fn new(pool: &PagePool, slab: &Slab, length: usize) -> Result<Self, MemError> {
        if length < OBJECT_BYTES_MAX {
            return Ok(Self::Object(slab.object(length).await?));
        }
        Ok(Self::Block(BlockMem::new(pool, length)?))
    }

    /// Bytes of the block.
    pub fn length(&self) -> usize {
        match self {
            Self::Block(block) => block.length(),
            Self::Object(object) => object.length(),
        }
    }

    /// Bytes of memory that it holds, for the index to account.
    pub fn bytes_allocated(&self) -> u64 {
        match self {
            Self::Block(block) => block.bytes_allocated(),
            Self::Object(object) => object.bytes_allocated(),
        }
    }

    /// Allocates the pages of `range` before they are touched.
    ///
    /// # Errors
    /// As [`BlockMem::prepare`].
    pub async fn prepare(&self, range: Range<usize>) -> Result<(), MemError> {
        match self {
            Self::Block(block) => block.prepare(range).await,
            Self::Object(_) => Ok(()),
        }
    }

    /// The bytes at `range`, to send or to verify.
    ///
    /// # Panics
    /// If a page of it was not prepared.
    pub fn span(&self, range: Range<usize>) -> Span {
        match self {
            Self::Block(block) => block.span(range),
            Self::Object(object) => object.span(range),
        }
    }

    /// The right to write the bytes at `range`.
    ///
    /// # Errors
    /// [`MemError::Busy`] if somebody else writes a part of it, or the block is exported.
    ///
    /// # Panics
    /// If a page of it was not prepared.
    pub fn fill(&self, range: Range<usize>) -> Result<SpanMut, MemError> {
        match self {
            Self::Block(block) => block.fill(range),
            Self::Object(object) => object.fill(range),
        }
    }
}
