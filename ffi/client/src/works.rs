//! What files ask of shards: bytes, maps, and the state of their blocks.

use crate::connection::{Connection, Fault};
use crate::deadline::Deadline;
use crate::dispatch::{Target, Work};
use crate::stats::{Stats, add};
use crate::version::Version;
use citius_wire::units::SECTOR_BYTES;
use citius_wire::{Free, Handle, Load, Map, Mapped, Read, ReadMode, Resident, ResidentBlock, WorkerId};
use rustix::fd::OwnedFd;

/// Bytes of one block, received where they belong.
pub(crate) struct ReadWork<'a> {
    stats: &'a Stats,
    index: u32,
    /// Whole sectors, of the file.
    start: u64,
    end: u64,
    /// Bytes from `start` to the first one wanted.
    lead: usize,
    into: &'a mut [u8],
    mode: ReadMode,
}

impl<'a> ReadWork<'a> {
    /// A read from `offset` on; `into` ends within the block.
    pub(crate) fn new(stats: &'a Stats, version: &Version, offset: u64, into: &'a mut [u8], mode: ReadMode) -> Self {
        let sector = SECTOR_BYTES as u64;
        let start = offset / sector * sector;
        let block_end = version.block_end(offset);
        let end = (offset + into.len() as u64).next_multiple_of(sector).min(block_end);
        debug_assert!(offset + into.len() as u64 <= block_end);
        let index = (offset / u64::from(version.info.block_bytes)) as u32;
        Self { stats, index, start, end, lead: (offset - start) as usize, into, mode }
    }

    fn length(&self) -> u32 {
        (self.end - self.start) as u32
    }
}

impl Work for ReadWork<'_> {
    fn target(&self) -> Target {
        Target::Block(self.index)
    }

    fn queue(&mut self, connection: &mut Connection, handle: Handle) {
        connection.queue(&Read { handle, length: self.length(), offset: self.start, mode: self.mode });
    }

    fn payload_expected(&self) -> usize {
        self.length() as usize
    }

    fn receive(&mut self, connection: &mut Connection, deadline: Deadline) -> Result<(), Fault> {
        connection.read_sectors(self.start..self.end, self.lead, self.into, deadline)?;
        let (reads, bytes) = if connection.is_unix() {
            (&self.stats.inline_reads, &self.stats.inline_bytes)
        } else {
            (&self.stats.tcp_reads, &self.stats.tcp_bytes)
        };
        add(reads, 1);
        add(bytes, self.end - self.start);
        Ok(())
    }

    fn refetch(&mut self) -> bool {
        core::mem::replace(&mut self.mode, ReadMode::Refetch) != ReadMode::Refetch
    }
}

/// The descriptor of a complete block.
pub(crate) struct MapWork {
    pub(crate) index: u32,
    pub(crate) mapped: Option<(OwnedFd, Mapped)>,
}

impl Work for MapWork {
    const LOCAL_ONLY: bool = true;

    fn target(&self) -> Target {
        Target::Block(self.index)
    }

    fn queue(&mut self, connection: &mut Connection, handle: Handle) {
        connection.queue(&Map { handle, index: self.index });
    }

    fn receive(&mut self, connection: &mut Connection, _: Deadline) -> Result<(), Fault> {
        let mapped = connection.reply::<Map>()?;
        self.mapped = Some((connection.take_descriptor()?, mapped));
        Ok(())
    }
}

/// A block is brought into memory.
pub(crate) struct LoadWork {
    pub(crate) index: u32,
}

impl Work for LoadWork {
    fn target(&self) -> Target {
        Target::Block(self.index)
    }

    fn queue(&mut self, connection: &mut Connection, handle: Handle) {
        connection.queue(&Load { handle, index: self.index });
    }

    fn receive(&mut self, connection: &mut Connection, _: Deadline) -> Result<(), Fault> {
        connection.reply::<Load>().map(|_| ())
    }
}

/// A shard forgets the clean blocks of a file.
pub(crate) struct FreeWork {
    pub(crate) worker: WorkerId,
    pub(crate) shard: u16,
    pub(crate) freed_bytes: u64,
}

impl Work for FreeWork {
    fn target(&self) -> Target {
        Target::Shard(self.worker, self.shard)
    }

    fn queue(&mut self, connection: &mut Connection, handle: Handle) {
        connection.queue(&Free { handle });
    }

    fn receive(&mut self, connection: &mut Connection, _: Deadline) -> Result<(), Fault> {
        self.freed_bytes = connection.reply::<Free>()?.bytes;
        Ok(())
    }
}

/// What a shard holds of a file.
pub(crate) struct ResidentWork {
    pub(crate) worker: WorkerId,
    pub(crate) shard: u16,
    pub(crate) blocks: Vec<ResidentBlock>,
}

impl Work for ResidentWork {
    fn target(&self) -> Target {
        Target::Shard(self.worker, self.shard)
    }

    fn queue(&mut self, connection: &mut Connection, handle: Handle) {
        connection.queue(&Resident { handle });
    }

    fn receive(&mut self, connection: &mut Connection, _: Deadline) -> Result<(), Fault> {
        self.blocks = connection.reply::<Resident>()?.blocks;
        Ok(())
    }
}
