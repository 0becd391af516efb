//! The mapped side of an open file: when a block is worth mapping, mapping it once, and reading it.
//!
//! Mapping has the worker complete the block, so one small read of a cold file must not do it. It is worth it for a
//! view, which asks for it; for a large read; for a sequential run; and for a block that is read again and again.

use crate::blocks::Slot;
use crate::config::{MAP_AFTER_READS, MAP_READ_BYTES_MIN};
use crate::connection::Fault;
use crate::deadline::Deadline;
use crate::dispatch::{Item, dispatch};
use crate::error::Error;
use crate::file::{FileState, Span};
use crate::mapping::{BadSector, MapError, MappedBlock, Touch};
use crate::stats::add;
use crate::version::Version;
use crate::view::View;
use crate::works::{MapWork, ReadWork};
use citius_wire::units::SECTOR_BYTES;
use citius_wire::{ReadMode, Status};
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Instant;

/// How a span was read from mapped memory.
pub(crate) enum Reading {
    /// All of it.
    Done,
    /// A sector did not match: the map is given up, and the worker is to be asked for bytes fetched anew.
    Damaged,
    /// Its block is not mapped, and is not to be.
    Unmapped,
}

/// Recognises a sequential reader. Two threads that read one handle may hide each other's sequence, which costs maps
/// and no more.
#[derive(Default)]
pub(crate) struct Sequence {
    end: AtomicU64,
    run_bytes: AtomicU64,
}

impl Sequence {
    /// Notes a read that was not warm, and gives the bytes that were read in sequence up to its end.
    pub(crate) fn note(&self, offset: u64, length: u64) -> u64 {
        let continues = self.end.swap(offset + length, Ordering::Relaxed) == offset;
        let before = if continues { self.run_bytes.load(Ordering::Relaxed) } else { 0 };
        self.run_bytes.store(before + length, Ordering::Relaxed);
        before + length
    }
}

impl FileState {
    /// Reads a span from mapped memory, mapping its block if that is worth it.
    pub(crate) fn read_mapped(
        self: &Arc<Self>,
        version: &Version,
        span: &mut Span<'_>,
        run_bytes: u64,
        deadline: Deadline,
    ) -> Result<Reading, Error> {
        if !self.client.config.map || !self.client.config.cache {
            return Ok(Reading::Unmapped);
        }
        let Some(slot) = version.slots.get_or_make(span.index, &self.client.blocks) else {
            return Ok(Reading::Unmapped);
        };
        let block = match slot.block() {
            Some(block) => block,
            None => {
                let length = span.into.len() as u64;
                // A short last block, or a small file, is not worth a map for being read through once.
                let soon = length.max(run_bytes).min(u64::from(version.block_length(span.index)));
                let is_worth_it = soon >= MAP_READ_BYTES_MIN || slot.count_read() >= MAP_AFTER_READS;
                if !is_worth_it || slot.is_refused() || !self.is_local(version, span.index, deadline)? {
                    return Ok(Reading::Unmapped);
                }
                // A read that begins the file, or goes on where the last one ended, will be followed by the next.
                if run_bytes > length || span.offset == 0 {
                    slot.lead();
                }
                if slot.take_lead() {
                    self.read_ahead(version, span.index);
                }
                let mut mapped = self.map_block(version, span.index, slot, deadline);
                if mapped.as_ref().is_err_and(|error| error.status() == Status::NoSpace)
                    && self.client.blocks.give_up_idle(&self.client.stats)
                {
                    mapped = self.map_block(version, span.index, slot, deadline);
                }
                match mapped {
                    Ok(block) => block,
                    Err(error) if may_read_inline(error.status()) => {
                        slot.refuse();
                        return Ok(Reading::Unmapped);
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let start = (span.offset % u64::from(version.info.block_bytes)) as u32;
        match block.copy(start, span.into) {
            Ok(touch) => {
                if touch == Touch::First && slot.take_lead() {
                    self.read_ahead(version, span.index);
                }
                Ok(Reading::Done)
            }
            Err(_) => {
                add(&self.client.stats.refetches, 1);
                slot.give_up(&block);
                Ok(Reading::Damaged)
            }
        }
    }

    /// See [`crate::File::view`].
    pub(crate) fn view(
        self: &Arc<Self>,
        version: &Version,
        offset: u64,
        length: usize,
        deadline: Deadline,
    ) -> Result<View, Error> {
        let left = version.info.length.saturating_sub(offset);
        if left == 0 || length == 0 {
            return Ok(View::empty());
        }
        let block_bytes = u64::from(version.info.block_bytes);
        let index = (offset / block_bytes) as u32;
        let start = (offset % block_bytes) as usize;
        let end = start + (version.block_end(offset) - offset).min(length as u64) as usize;
        let refused = |why: &str| Error::new(Status::Unsupported, format!("no view: {why}; read the bytes instead"));
        if !self.client.config.map {
            return Err(refused("maps are turned off in this client"));
        }
        let Some(slot) = version.slots.get_or_make(index, &self.client.blocks) else {
            return Err(refused("the file has more blocks than may be mapped"));
        };
        let mut is_second = false;
        loop {
            let block = match slot.block() {
                Some(block) => block,
                None => self.map_block(version, index, slot, deadline)?,
            };
            match block.view(start..end).map(|(_, touch)| touch) {
                Ok(touch) => {
                    if touch == Touch::First && slot.take_lead() {
                        self.read_ahead(version, index);
                    }
                    return Ok(View::new(block, start..end));
                }
                Err(bad) => {
                    slot.give_up(&block);
                    let at = u64::from(index) * block_bytes + u64::from(bad.start);
                    if core::mem::replace(&mut is_second, true) {
                        let message = format!("the sector at {at} does not match its checksum, nor does a second copy");
                        return Err(Error::new(Status::Corrupt, message));
                    }
                    add(&self.client.stats.refetches, 1);
                    self.refetch(version, at, bad, deadline)?;
                }
            }
        }
    }

    /// Has the worker fetch a damaged sector anew, so that the next map of its block is whole.
    fn refetch(&self, version: &Version, at: u64, bad: BadSector, deadline: Deadline) -> Result<(), Error> {
        debug_assert!((bad.start as usize).is_multiple_of(SECTOR_BYTES));
        let mut sector = [0; SECTOR_BYTES];
        let length = (version.block_end(at) - at).min(SECTOR_BYTES as u64) as usize;
        let work = ReadWork::new(&self.client.stats, version, at, &mut sector[..length], ReadMode::Refetch);
        dispatch(&self.client, version, vec![Item::new(work)], deadline).map(drop)
    }

    /// Maps a block, unless another thread has or does: then it waits for that, and fails as that fails. Were each to
    /// try in turn, a store that is away would keep the last one waiting as many times as there are readers.
    fn map_block(
        &self,
        version: &Version,
        index: u32,
        slot: &Arc<Slot>,
        deadline: Deadline,
    ) -> Result<Arc<MappedBlock>, Error> {
        let asked = Instant::now();
        let Some(mut filling) = slot.filling.try_lock_until(deadline.at()) else {
            let message = format!("block {index} was not mapped within {:?}", deadline.allowed());
            return Err(Error::new(Status::TimedOut, message));
        };
        if let Some(block) = slot.block() {
            return Ok(block);
        }
        if let Some((_, error)) = filling.as_ref().filter(|(failed, _)| *failed >= asked) {
            return Err(error.clone());
        }
        *filling = None;
        self.fill(version, index, slot, deadline).inspect_err(|error| {
            // What ended by the deadline of one is not over for others.
            if deadline.remaining().is_some() {
                *filling = Some((Instant::now(), error.clone()));
            }
        })
    }

    /// Maps a block. The caller holds the slot's `filling`.
    fn fill(
        &self,
        version: &Version,
        index: u32,
        slot: &Arc<Slot>,
        deadline: Deadline,
    ) -> Result<Arc<MappedBlock>, Error> {
        let item = Item::new(MapWork { index, mapped: None });
        let mut works = dispatch(&self.client, version, vec![item], deadline)?;
        let Some((descriptor, mapped)) = works.next().and_then(|work| work.mapped) else {
            return Err(Error::new(Status::Internal, "a map was answered and is not there"));
        };
        if mapped.length != version.block_length(index) {
            let fault = Fault::Unexpected("it mapped a block of another length than the file's");
            return Err(Error::of_fault(fault, "its worker"));
        }
        let block = MappedBlock::new(&descriptor, mapped.length, mapped.crcs).map_err(|error| match error {
            MapError::Kernel(error) => Error::new(
                Status::Unsupported,
                format!("the kernel does not map block {index}: {error}; vm.max_map_count may be too low"),
            ),
            error @ MapError::Unfit(_) => Error::new(Status::Protocol, error.to_string()),
        })?;
        add(&self.client.stats.maps, 1);
        let block = Arc::new(block);
        self.client.blocks.admit(slot, block.clone(), &self.client.stats);
        Ok(block)
    }

    /// Has the blocks after `index` mapped soon.
    pub(crate) fn read_ahead(self: &Arc<Self>, version: &Version, index: u32) {
        let next = index.saturating_add(1);
        let ahead = self.client.config.readahead_blocks;
        for index in next..next.saturating_add(ahead).min(version.block_count()) {
            if version.slots.get(index).is_none_or(|slot| slot.try_read().is_none()) {
                self.client.readahead.push(self, index);
            }
        }
    }

    /// Maps a block ahead of its reader, on a thread of the client. A failure is the reader's to meet.
    pub(crate) fn map_ahead(&self, index: u32) {
        let deadline = self.client.transfer_deadline();
        let version = self.current();
        let Some(slot) = version.slots.get_or_make(index, &self.client.blocks) else { return };
        if slot.is_refused() || slot.try_read().is_some() {
            return;
        }
        // The first touch leads on, so the reader never has to stop to ask for the next.
        slot.lead();
        if self.map_block(version, index, slot, deadline).is_ok() {
            add(&self.client.stats.readaheads, 1);
        }
    }

    /// Whether the owner of a block is reached by its Unix socket.
    fn is_local(&self, version: &Version, index: u32, deadline: Deadline) -> Result<bool, Error> {
        let routes = version.routes(&self.client, deadline)?;
        Ok(routes.owner(version.place(), index).is_some_and(|owner| routes.is_local(owner)))
    }
}

/// Whether bytes of a block that was not given out may still be read over its socket.
fn may_read_inline(status: Status) -> bool {
    matches!(status, Status::Unsupported | Status::NoSpace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_grows_while_reads_follow_each_other() {
        let sequence = Sequence::default();
        assert_eq!(sequence.note(0, 100), 100);
        assert_eq!(sequence.note(100, 100), 200);
        assert_eq!(sequence.note(200, 50), 250);
        assert_eq!(sequence.note(0, 50), 50);
        assert_eq!(sequence.note(51, 10), 10);
    }
}
