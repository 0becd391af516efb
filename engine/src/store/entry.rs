//! One resident block.

use super::grains::{GrainSet, grains_of};
use citius_wire::BlockId;
use citius_wire::units::{GRAIN_BYTES, SECTOR_BYTES};
use core::ops::Range;

/// What a resident block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockState {
    /// Some of its grains are not here.
    Filling,
    /// All of its grains are here.
    Complete,
    /// Complete, and clients may have it mapped.
    Exported,
}

/// What is told of a resident block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockStat {
    /// Which block.
    pub id: BlockId,
    /// Bytes of the block.
    pub length: u32,
    /// Bytes of it that are here and valid.
    pub bytes_valid: u32,
    /// Bytes of memory accounted to it.
    pub bytes_held: u64,
    /// Its state.
    pub state: BlockState,
    /// Whether it is the only copy, and therefore never evicted.
    pub is_dirty: bool,
    /// How many want it kept.
    pub pins: u32,
}

/// A resident block as the index keeps it.
pub(super) struct Entry<M> {
    pub(super) id: BlockId,
    pub(super) length: u32,
    pub(super) memory: M,
    pub(super) bytes_held: u64,
    pub(super) valid: GrainSet,
    pub(super) flying: GrainSet,
    /// Fetches under way.
    pub(super) flights: u32,
    pub(super) crcs: Box<[u32]>,
    pub(super) is_complete: bool,
    pub(super) is_exported: bool,
    pub(super) is_dirty: bool,
    pub(super) pins: u32,
    /// Neighbours in the list of the file's blocks.
    pub(super) older_sibling: Option<u32>,
    pub(super) newer_sibling: Option<u32>,
}

impl<M> Entry<M> {
    pub(super) fn new(id: BlockId, length: u32, memory: M, bytes_held: u64) -> Self {
        let grains = length.div_ceil(GRAIN_BYTES as u32);
        Self {
            id,
            length,
            memory,
            bytes_held,
            valid: GrainSet::new(grains),
            flying: GrainSet::new(grains),
            flights: 0,
            crcs: vec![0; (length as usize).div_ceil(SECTOR_BYTES)].into(),
            is_complete: grains == 0,
            is_exported: false,
            is_dirty: false,
            pins: 0,
            older_sibling: None,
            newer_sibling: None,
        }
    }

    pub(super) fn grain_count(&self) -> u32 {
        self.length.div_ceil(GRAIN_BYTES as u32)
    }

    /// Whether eviction may take it.
    pub(super) fn may_go(&self) -> bool {
        self.pins == 0 && !self.is_dirty && self.flights == 0
    }

    /// Whether all bytes of `range` are valid.
    pub(super) fn has(&self, range: &Range<u32>) -> bool {
        self.is_complete || self.valid.contains_all(grains_of(range))
    }

    pub(super) fn state(&self) -> BlockState {
        match (self.is_exported, self.is_complete) {
            (true, _) => BlockState::Exported,
            (false, true) => BlockState::Complete,
            (false, false) => BlockState::Filling,
        }
    }

    pub(super) fn stat(&self) -> BlockStat {
        let grain = GRAIN_BYTES as u32;
        let mut bytes_valid = self.valid.len() * grain;
        let last = self.grain_count().saturating_sub(1);
        // The last grain may be short.
        if self.length > 0 && self.valid.contains(last) {
            bytes_valid -= (last + 1) * grain - self.length;
        }
        BlockStat {
            id: self.id,
            length: self.length,
            bytes_valid,
            bytes_held: self.bytes_held,
            state: self.state(),
            is_dirty: self.is_dirty,
            pins: self.pins,
        }
    }

    /// The bytes of `grains`, within the block.
    pub(super) fn bytes_of(&self, grains: &Range<u32>) -> Range<u32> {
        let grain = GRAIN_BYTES as u32;
        grains.start * grain..(grains.end * grain).min(self.length)
    }
}

/// The sectors that hold any of the bytes at `range`.
pub(super) fn sectors_of(range: &Range<u32>) -> Range<usize> {
    if range.is_empty() {
        return 0..0;
    }
    range.start as usize / SECTOR_BYTES..(range.end as usize).div_ceil(SECTOR_BYTES)
}
