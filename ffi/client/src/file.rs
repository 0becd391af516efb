//! An open file: read at any offset, from any thread.
//!
//! ```text
//! read_at ──► every block mapped and verified? ── yes ──► copy                     (no call, no lock, no allocation)
//!                      │ no
//!                      ▼
//!             block by block: mapped ──► verify, copy        worth mapping ──► map, verify, copy
//!                             else ──► pieces ──► dispatch: the owners' connections, TCP or Unix
//! ```
//!
//! A file is one version from the first byte, or the first word of its length, that it returned. Before that it follows a
//! replacement by itself: the versions form a list whose last is current.

use crate::client::{Client, Shared};
use crate::config::{READ_PIECE_BYTES, VERSIONS_MAX};
use crate::deadline::Deadline;
use crate::dispatch::{Item, dispatch, no_worker_runs};
use crate::error::Error;
use crate::local::{Reading, Sequence};
use crate::mapping::Touch;
use crate::namespace::normal;
use crate::retry::Retry;
use crate::stats::add;
use crate::version::{Version, changed};
use crate::view::{View, Views};
use crate::works::{FreeWork, LoadWork, ReadWork, ResidentWork};
use citius_wire::units::SECTOR_BYTES;
use citius_wire::{FileInfo, NamespacePath, ReadMode, ResidentBlock, Status, WorkerId};
use core::fmt;
use core::ops::Range;
use core::sync::atomic::Ordering;
use parking_lot::Mutex;
use std::sync::Arc;

/// Blocks that one call of [`File::load`] asks for before it waits.
const LOAD_BLOCKS_MAX: u32 = 1024;

/// A file open for reading. Cheap to clone; all clones are one handle, usable from any thread.
#[derive(Clone)]
pub struct File(Arc<FileState>);

pub(crate) struct FileState {
    pub(crate) client: Arc<Shared>,
    first: Version,
    /// Held by who replaces the current version, or pins it.
    turning: Mutex<()>,
    sequence: Sequence,
}

/// A part of a block in some worker's tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockResidence {
    /// Which worker.
    pub worker: WorkerId,
    /// Which shard of it.
    pub shard: u16,
    /// What it holds.
    pub block: ResidentBlock,
}

/// Where a block is read from, for schedulers that place work beside data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockLocation {
    /// Its first byte, in the file.
    pub offset: u64,
    /// Its bytes.
    pub length: u32,
    /// The worker that owns it.
    pub worker: WorkerId,
    /// That worker's host.
    pub host: String,
    /// `HOST:PORT` of its data listener.
    pub address: String,
}

/// One block's part of a read.
pub(crate) struct Span<'a> {
    pub(crate) index: u32,
    /// In the file.
    pub(crate) offset: u64,
    pub(crate) into: &'a mut [u8],
}

impl Client {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// `NotFound`, `IsADirectory`, `DataLost`, or any class that a master answers with.
    pub fn open(&self, path: &str) -> Result<File, Error> {
        let path = normal(path)?;
        Ok(File::of(&self.0, Version::open(&self.0, &path, self.0.deadline())?))
    }
}

impl File {
    /// A file whose first version is this one.
    pub(crate) fn of(client: &Arc<Shared>, first: Version) -> Self {
        let (client, turning) = (Arc::clone(client), Mutex::new(()));
        Self(Arc::new(FileState { client, first, turning, sequence: Sequence::default() }))
    }

    /// Bytes of the file. Who has been told them reads that version from then on, or `VersionChanged`: bytes of another
    /// one, cut to this length, would be of none.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.0.pinned().info.length
    }

    /// What was opened. As [`File::len`], it decides on the version.
    pub fn info(&self) -> FileInfo {
        self.0.pinned().info.clone()
    }

    /// The path that was opened.
    pub fn path(&self) -> &NamespacePath {
        &self.0.first.path
    }

    /// Reads from `offset` on; less than `buffer` only where the file ends.
    ///
    /// Budget of a warm mapped read: no system call, no allocation, no wait; `tests/warm_read_budget.rs` holds it to
    /// that. A warm read of up to 1 MiB over a socket: one `sendmsg` and, for 4 KiB, one `recv`, and two allocations.
    ///
    /// # Errors
    /// `VersionChanged`, `DataLost`, `Corrupt`, `TimedOut`, or any class that a worker answers with. What `buffer` holds
    /// then means nothing.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Error> {
        match self.0.read_warm(buffer, offset) {
            Some(count) => Ok(count),
            None => self.0.read_cold(&mut [(offset, buffer)]),
        }
    }

    /// Fills all of `buffer` from `offset` on.
    ///
    /// # Errors
    /// As [`File::read_at`]; `InvalidArgument` if the file ends before.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), Error> {
        let wanted = buffer.len();
        match self.read_at(buffer, offset)? {
            count if count == wanted => Ok(()),
            count => {
                let message = format!("the file ends at {}, {} bytes short", offset + count as u64, wanted - count);
                Err(Error::new(Status::InvalidArgument, message).at(self.path()))
            }
        }
    }

    /// Reads many ranges at once, from all their owners at the same time, and gives the bytes read in all. Each range is
    /// short only where the file ends.
    ///
    /// # Errors
    /// As [`File::read_at`].
    pub fn readv(&self, ranges: &mut [(u64, &mut [u8])]) -> Result<usize, Error> {
        let mut total = 0;
        for (offset, buffer) in ranges.iter_mut() {
            match self.0.read_warm(buffer, *offset) {
                Some(count) => total += count,
                None => return self.0.read_cold(ranges),
            }
        }
        Ok(total)
    }

    /// The bytes from `offset` on as they lie in the worker's memory, up to `length` of them and not beyond the end of
    /// their block or of the file: see [`File::views`] for ranges that cross blocks.
    ///
    /// # Errors
    /// `Unsupported` if the block's worker is not on this host or maps are turned off; else as [`File::read_at`].
    pub fn view(&self, offset: u64, length: usize) -> Result<View, Error> {
        let deadline = self.0.client.transfer_deadline();
        let act = |version: &Version| self.0.view(version, offset, length, deadline);
        self.0.with_version(deadline, act, |view| !view.is_empty())
    }

    /// Views of a range, one for each block that it touches.
    pub fn views(&self, range: Range<u64>) -> Views<'_> {
        Views::new(self, range)
    }

    /// Brings all blocks into their workers' memory, and returns when they are there.
    ///
    /// # Errors
    /// `NoSpace` if they do not fit; else as [`File::read_at`].
    pub fn load(&self) -> Result<(), Error> {
        let client = &self.0.client;
        let deadline = client.transfer_deadline();
        self.0.with_version(
            deadline,
            |version| {
                for first in (0..version.block_count()).step_by(LOAD_BLOCKS_MAX as usize) {
                    let part = first..version.block_count().min(first.saturating_add(LOAD_BLOCKS_MAX));
                    let items = part.map(|index| Item::new(LoadWork { index })).collect();
                    dispatch(client, version, items, client.transfer_deadline()).map(drop)?;
                }
                Ok(())
            },
            |()| false,
        )
    }

    /// Has every worker forget what it caches of the file, and gives the bytes that were.
    ///
    /// # Errors
    /// As [`File::read_at`].
    pub fn free(&self) -> Result<u64, Error> {
        let client = &self.0.client;
        let deadline = client.deadline();
        self.0.with_version(
            deadline,
            |version| {
                client.blocks.give_up_file(version.info.version);
                let routes = version.routes(client, deadline)?;
                let work = |(worker, shard)| Item::new(FreeWork { worker, shard, freed_bytes: 0 });
                let works = dispatch(client, version, routes.shards().map(work).collect(), deadline)?;
                Ok(works.map(|work| work.freed_bytes).sum())
            },
            |_| false,
        )
    }

    /// What is in which worker's memory, in order of blocks.
    ///
    /// # Errors
    /// As [`File::read_at`].
    pub fn resident(&self) -> Result<Vec<BlockResidence>, Error> {
        let client = &self.0.client;
        let deadline = client.deadline();
        self.0.with_version(
            deadline,
            |version| {
                let routes = version.routes(client, deadline)?;
                let work = |(worker, shard)| Item::new(ResidentWork { worker, shard, blocks: Vec::new() });
                let works = dispatch(client, version, routes.shards().map(work).collect(), deadline)?;
                let mut blocks: Vec<_> = works
                    .flat_map(|work| {
                        let (worker, shard) = (work.worker, work.shard);
                        work.blocks.into_iter().map(move |block| BlockResidence { worker, shard, block })
                    })
                    .collect();
                blocks.sort_by_key(|residence| (residence.block.index, residence.worker));
                Ok(blocks)
            },
            |_| false,
        )
    }

    /// Where the blocks of a range are read from.
    ///
    /// # Errors
    /// `Unavailable` if no worker runs, or the master does not answer.
    pub fn locations(&self, range: Range<u64>) -> Result<Vec<BlockLocation>, Error> {
        let version = self.0.current();
        let routes = version.routes(&self.0.client, self.0.client.deadline())?;
        let block_bytes = u64::from(version.info.block_bytes);
        let end = range.end.min(version.info.length);
        if range.start >= end {
            return Ok(Vec::new());
        }
        let indexes = (range.start / block_bytes) as u32..end.div_ceil(block_bytes) as u32;
        let locate = |index| {
            let owner = routes.owner(version.place(), index).ok_or_else(|| no_worker_runs().at(self.path()))?;
            let member = &routes.ring().members[owner.member];
            Ok(BlockLocation {
                offset: u64::from(index) * block_bytes,
                length: version.block_length(index),
                worker: member.worker,
                host: member.host.clone(),
                address: member.data_address.clone(),
            })
        };
        indexes.map(locate).collect()
    }
}

/// Puts a version in the place of one that nothing was returned of. The caller holds `turning`.
fn succeed(version: &Version, next: Version) {
    let is_first = version.next.set(Box::new(next)).is_ok();
    assert!(is_first, "only the holder of `turning` sets it");
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File({}, {} bytes)", self.path(), self.0.current().info.length)
    }
}

impl FileState {
    /// The version of now: the last of the list, which is as good as always the first.
    pub(crate) fn current(&self) -> &Version {
        let mut version = &self.first;
        while let Some(next) = version.next.get() {
            version = next;
        }
        version
    }

    /// Runs `act` on the current version. If that was replaced and no byte of it was returned, opens the path again and
    /// runs it on the new one. `gives_bytes` says whether a result holds bytes, which pin the version.
    fn with_version<T>(
        self: &Arc<Self>,
        deadline: Deadline,
        mut act: impl FnMut(&Version) -> Result<T, Error>,
        gives_bytes: impl Fn(&T) -> bool,
    ) -> Result<T, Error> {
        let mut retry = Retry::new(deadline, &self.client);
        loop {
            let version = self.current();
            match act(version) {
                Ok(result) if !gives_bytes(&result) || self.pin(version) => return Ok(result),
                // Another thread replaced the version meanwhile.
                Ok(_) => {}
                Err(error) if error.status() == Status::VersionChanged => {
                    self.client.gone.note(&version.path, version.key());
                    self.follow(version, error, &mut retry, deadline)?;
                }
                Err(error) if error.status() == Status::DataLost => self.succeed_lost(version, error, deadline)?,
                Err(error) => return Err(error.at(&version.path)),
            }
        }
    }

    /// The current version, which it stays.
    fn pinned(&self) -> &Version {
        loop {
            let version = self.current();
            if self.pin(version) {
                return version;
            }
        }
    }

    /// Says that bytes of a version are about to be returned. `false` if it is no longer current.
    fn pin(&self, version: &Version) -> bool {
        if version.is_pinned.load(Ordering::Acquire) {
            return true;
        }
        let _turning = self.turning.lock();
        let is_current = version.next.get().is_none();
        if is_current {
            version.is_pinned.store(true, Ordering::Release);
        }
        is_current
    }

    /// Makes the path's version of now the current one, if no byte of `version` was returned.
    fn follow(&self, version: &Version, error: Error, retry: &mut Retry<'_>, deadline: Deadline) -> Result<(), Error> {
        let _turning = self.turning.lock();
        if version.is_pinned.load(Ordering::Acquire) {
            return Err(error.at(&version.path));
        }
        if version.next.get().is_some() {
            return Ok(());
        }
        let followed = core::iter::successors(Some(&self.first), |version| version.next.get().map(|next| &**next));
        if followed.count() >= VERSIONS_MAX {
            return Err(changed(&version.path));
        }
        let next = Version::open(&self.client, &version.path, deadline)?;
        add(&self.client.stats.reopens, 1);
        if next.key() == version.key() {
            // The worker has seen a change that the under-store does not show to the master yet.
            return retry.pause(error.at(&version.path));
        }
        succeed(version, next);
        Ok(())
    }

    /// A worker has nothing of a file that was in memory only. It may have been dropped because the file was replaced or
    /// removed, and then that is what happened to it.
    fn succeed_lost(&self, version: &Version, error: Error, deadline: Deadline) -> Result<(), Error> {
        let _turning = self.turning.lock();
        if version.next.get().is_some() {
            return Ok(());
        }
        let is_pinned = version.is_pinned.load(Ordering::Acquire);
        match Version::open(&self.client, &version.path, deadline) {
            Ok(next) if next.key() != version.key() && !is_pinned => {
                add(&self.client.stats.reopens, 1);
                succeed(version, next);
                Ok(())
            }
            Ok(next) if next.key() != version.key() => Err(changed(&version.path)),
            Err(gone) if gone.status() == Status::NotFound => {
                Err(if is_pinned { changed(&version.path) } else { gone })
            }
            _ => Err(error.at(&version.path)),
        }
    }

    /// Reads what lies in mapped and verified blocks of a pinned version; `None` if not all of it does.
    ///
    /// This is the warm path. It may load atomics, take slots' locks for reading without waiting, and copy.
    fn read_warm(self: &Arc<Self>, buffer: &mut [u8], offset: u64) -> Option<usize> {
        let version = self.current();
        if !version.is_pinned.load(Ordering::Acquire) {
            return None;
        }
        let (length, block_bytes) = (version.info.length, u64::from(version.info.block_bytes));
        let total = length.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let mut done = 0;
        while done < total {
            let at = offset + done as u64;
            let (index, start) = ((at / block_bytes) as u32, at % block_bytes);
            let count = (total - done).min((block_bytes - start) as usize);
            let slot = version.slots.get(index)?;
            let guard = slot.try_read()?;
            let touch = guard.as_ref()?.copy(start as u32, &mut buffer[done..done + count]).ok()?;
            drop(guard);
            if touch == Touch::First && slot.take_lead() {
                self.read_ahead(version, index);
            }
            done += count;
        }
        Some(total)
    }

    /// Reads by whatever way each block has.
    fn read_cold(self: &Arc<Self>, ranges: &mut [(u64, &mut [u8])]) -> Result<usize, Error> {
        let client = &*self.client;
        let deadline = client.deadline();
        let act = |version: &Version| {
            let mut items = Vec::new();
            let mut total = 0;
            for (offset, buffer) in ranges.iter_mut() {
                let count = version.info.length.saturating_sub(*offset).min(buffer.len() as u64) as usize;
                total += count;
                let run_bytes = self.sequence.note(*offset, count as u64);
                split_by_blocks(version, *offset, &mut buffer[..count], |span| {
                    self.read_span(version, span, run_bytes, &mut items, deadline)
                })?;
            }
            if !items.is_empty() {
                dispatch(client, version, items, deadline).map(drop)?;
            }
            Ok(total)
        };
        self.with_version(deadline, act, |count| *count > 0)
    }

    /// Reads a span from mapped memory, or adds what to ask its owner for.
    fn read_span<'a>(
        self: &'a Arc<Self>,
        version: &Version,
        mut span: Span<'a>,
        run_bytes: u64,
        items: &mut Vec<Item<ReadWork<'a>>>,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let client = &*self.client;
        let mode = match self.read_mapped(version, &mut span, run_bytes, deadline)? {
            Reading::Done => return Ok(()),
            Reading::Damaged => ReadMode::Refetch,
            Reading::Unmapped if client.config.cache => ReadMode::Cache,
            Reading::Unmapped => ReadMode::NoCache,
        };
        let (mut offset, mut rest) = (span.offset, span.into);
        while !rest.is_empty() {
            // Pieces end where sectors do, so that no sector is asked for twice.
            let lead = (offset % SECTOR_BYTES as u64) as usize;
            let length = rest.len().min(READ_PIECE_BYTES - lead);
            let (piece, tail) = rest.split_at_mut(length);
            items.push(Item::new(ReadWork::new(&client.stats, version, offset, piece, mode)));
            offset += length as u64;
            rest = tail;
        }
        Ok(())
    }
}

/// Cuts a range, which ends within the file, where its blocks end.
fn split_by_blocks<'a>(
    version: &Version,
    mut offset: u64,
    mut into: &'a mut [u8],
    mut each: impl FnMut(Span<'a>) -> Result<(), Error>,
) -> Result<(), Error> {
    while !into.is_empty() {
        let index = (offset / u64::from(version.info.block_bytes)) as u32;
        let length = (into.len() as u64).min(version.block_end(offset) - offset);
        let (part, rest) = into.split_at_mut(length as usize);
        each(Span { index, offset, into: part })?;
        offset += length;
        into = rest;
    }
    Ok(())
}
