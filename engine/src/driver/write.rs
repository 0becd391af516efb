//! Taking in blocks of files being written, and handing them to the publisher.
//!
//! ```text
//! absent --Write--> open (memory, bytes so far, running checksums) --Seal--> in the index, complete, dirty
//!        --MapWrite--> in a local writer's hands -------------------Seal--> sealed by the kernel, checksummed, dirty
//!                                                             staged --> may be evicted: the under-store has it
//! ```
//! One request at a time is at work on a block: a second one, which can only be the same one said again on another
//! connection, is told to wait. A block grows at its end only, so its checksums are computed once, as its bytes come.
//! Dirty blocks are never evicted; a block that the publisher has staged is no longer the only copy of anything that was
//! promised.

use super::{Lent, Shard, tally};
use crate::agent::Step;
use crate::fault;
use crate::ring::SpanMut;
use crate::shard::Attached;
use crate::store::{BlockState, Evicted, SectorCrcs};
use crate::tier::mem::{BlockMem, LocalWrite, MemError, Memory};
use citius_wire::units::{BLOCK_BYTES_DEFAULT, PAGE_BYTES};
use citius_wire::{BlockId, Failure, FileKey, Origin, Right, Status, TRANSFER_BYTES_MAX, WriteType};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// A block whose first write is shorter than this is taken for a short one, and gets memory of just that size.
const SHORT_BYTES: usize = 1 << 20;
/// Bytes of a local writer's block that are checksummed before others get their turn.
const CHECKSUM_PIECE_BYTES: usize = 256 << 10;
/// Pages of a tier that lends whole blocks to local writers: each takes all of its pages before it is known how many it
/// needs, and in a small tier that is most of them.
const MAP_TIER_PAGES_MIN: u32 = 4 * (BLOCK_BYTES_DEFAULT as usize / PAGE_BYTES) as u32;
/// Blocks that are being written on one shard at once.
const OPEN_MAX: usize = 16 << 10;

/// The blocks that are being written.
#[derive(Default)]
pub(super) struct Writing {
    open: RefCell<HashMap<BlockId, Open>>,
    lent: RefCell<HashMap<BlockId, LocalWrite>>,
    /// The files that have blocks here.
    files: RefCell<HashMap<FileKey, Noted>>,
    /// Blocks that a request is at work on.
    claimed: Rc<RefCell<HashSet<BlockId>>>,
}

/// The right to be the one request that is at work on a block, until dropped.
struct Claim {
    claimed: Rc<RefCell<HashSet<BlockId>>>,
    block: BlockId,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claimed.borrow_mut().remove(&self.block);
    }
}

struct Open {
    memory: Memory,
    written: usize,
    crcs: SectorCrcs,
}

/// What is noted of a file being written.
struct Noted {
    /// Since when it has had blocks here, in milliseconds since 1970.
    since_ms: u64,
    block_bytes: u32,
    /// Whether its blocks are on their way into an under-store, and give their room back there.
    is_passing: bool,
}

/// Bytes on their way into a block.
pub(crate) struct Pending {
    claim: Claim,
    start: usize,
    span: SpanMut,
}

impl Pending {
    /// Where they go.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.span.bytes_mut()
    }
}

impl Writing {
    /// Forgets a file: it is published, or given up.
    pub(super) fn forget(&self, file: FileKey) {
        let open: Vec<_> = self.open.borrow_mut().extract_if(|block, _| block.file == file).collect();
        let lent: Vec<_> = self.lent.borrow_mut().extract_if(|block, _| block.file == file).collect();
        self.files.borrow_mut().remove(&file);
        drop((open, lent));
    }

    /// Files that have been written here for longer than `age` and are still not published.
    pub(super) fn older_than(&self, age: Duration, now_ms: u64) -> Vec<FileKey> {
        let limit = now_ms.saturating_sub(age.as_millis() as u64);
        self.files.borrow().iter().filter(|(_, noted)| noted.since_ms <= limit).map(|(file, _)| *file).collect()
    }

    /// Blocks that are being written.
    pub(super) fn blocks(&self) -> usize {
        self.open.borrow().len() + self.lent.borrow().len()
    }

    /// Bytes of memory that they hold.
    pub(super) fn bytes_held(&self) -> u64 {
        let open: u64 = self.open.borrow().values().map(|open| open.memory.bytes_allocated()).sum();
        let lent: u64 = self.lent.borrow().values().map(LocalWrite::bytes_allocated).sum();
        open + lent
    }

    fn claim(&self, right: &Right, index: u32) -> Result<Claim, Failure> {
        let block = BlockId { file: right.file, index };
        if self.claimed.borrow_mut().insert(block) {
            return Ok(Claim { claimed: Rc::clone(&self.claimed), block });
        }
        Err(Failure::new(
            Status::Busy,
            format!("another request is at work on block {index} of {}: try again", right.path),
        ))
    }

    fn note(&self, right: &Right, now_ms: u64) {
        let noted = Noted { since_ms: now_ms, block_bytes: right.block_bytes, is_passing: is_passing(right) };
        self.files.borrow_mut().entry(right.file).or_insert(noted);
    }

    /// Whether the blocks of a file are on their way into an under-store.
    pub(super) fn is_passing(&self, file: FileKey) -> bool {
        self.files.borrow().get(&file).is_some_and(|noted| noted.is_passing)
    }

    /// Blocks that are begun, with the bytes that each may come to hold: a local writer's has them from the start.
    pub(super) fn begun(&self) -> Vec<(FileKey, u64)> {
        let (open, lent) = (self.open.borrow(), self.lent.borrow());
        let open = open.iter().map(|(block, open)| (block.file, open.memory.length() as u64));
        open.chain(lent.iter().map(|(block, lent)| (block.file, lent.bytes_allocated()))).collect()
    }

    /// The block size of a file that is being written here.
    pub(super) fn block_bytes(&self, file: FileKey) -> Option<u32> {
        self.files.borrow().get(&file).map(|noted| noted.block_bytes)
    }

    fn check_room(&self) -> Result<(), Failure> {
        if self.blocks() < OPEN_MAX {
            return Ok(());
        }
        Err(Failure::new(Status::Busy, format!("{OPEN_MAX} blocks are being written on this shard at once: try again")))
    }
}

impl Shard {
    /// Makes room for the next bytes of a block.
    ///
    /// # Errors
    /// `InvalidArgument` if they are not the next ones, or cross the block's end; `NoSpace`.
    pub(crate) async fn write_prepare(&self, file: &Attached, offset: u64, length: usize) -> Result<Pending, Failure> {
        let right = file.for_writing()?;
        let refuse = |why: &str| {
            Failure::new(
                Status::InvalidArgument,
                format!("a write of {length} bytes at {offset} of {}: {why}", right.path),
            )
        };
        let block_bytes = right.block_bytes as usize;
        let index = u32::try_from(offset / block_bytes as u64).map_err(|_| refuse("no file is so long"))?;
        let start = (offset % block_bytes as u64) as usize;
        let end = start + length;
        if length == 0 || length > TRANSFER_BYTES_MAX as usize || end > block_bytes {
            return Err(refuse("it should have 1 byte to 4 MiB, and stay within a block"));
        }
        let claim = self.writing.claim(right, index)?;
        let block = claim.block;
        if self.blocks.borrow().stat(block).is_some() {
            return Err(refuse("the block is sealed"));
        }
        let take_room = async || {
            let written = self.writing.open.borrow().get(&block).map(|open| open.written);
            if written.is_none() && start > 0 {
                return Err(given_up(right));
            }
            if start != written.unwrap_or(0) {
                return Err(refuse("a block is written from its start to its end"));
            }
            let memory = self.memory_to_write(right, block, start, end).await?;
            self.prepare(None, &memory, start..end).await?;
            Ok(memory)
        };
        let held = self.writing.open.borrow().get(&block).map(|open| open.memory.length());
        if end >= SHORT_BYTES && held.is_none_or(|length| end > length) {
            self.await_room_for(block_bytes).await?;
        }
        let memory = self.with_patience(take_room).await?;
        let span = memory.fill(start..end).map_err(|error| Failure::new(Status::Conflict, error.to_string()))?;
        Ok(Pending { claim, start, span })
    }

    /// The memory of an open block, long enough for bytes up to `end`.
    async fn memory_to_write(
        &self,
        right: &Right,
        block: BlockId,
        start: usize,
        end: usize,
    ) -> Result<Memory, Failure> {
        let block_bytes = right.block_bytes as usize;
        let held = self.writing.open.borrow().get(&block).map(|open| open.memory.clone());
        match held {
            Some(memory) if end <= memory.length() => Ok(memory),
            Some(short) => {
                // It was taken for a short block and is not: the one copy that this costs is of less than 1 MiB.
                let memory = self.memory(block_bytes).await?;
                self.prepare(None, &memory, 0..end).await?;
                copy(&short, &memory, start)?;
                if let Some(open) = self.writing.open.borrow_mut().get_mut(&block) {
                    open.memory = memory.clone();
                }
                Ok(memory)
            }
            None => {
                self.writing.check_room()?;
                let memory = self.memory(if end < SHORT_BYTES { end } else { block_bytes }).await?;
                let open = Open { memory: memory.clone(), written: 0, crcs: SectorCrcs::default() };
                self.writing.open.borrow_mut().insert(block, open);
                self.writing.note(right, self.now_ms());
                Ok(memory)
            }
        }
    }

    /// The bytes have come.
    ///
    /// # Errors
    /// `Aborted` if the file was given up meanwhile.
    #[allow(clippy::needless_pass_by_value, reason = "bytes arrive once, and with them ends the claim on their block")]
    pub(crate) fn write_done(&self, file: &Attached, pending: Pending) -> Result<(), Failure> {
        let mut open = self.writing.open.borrow_mut();
        let Some(open) = open.get_mut(&pending.claim.block).filter(|open| open.written == pending.start) else {
            return Err(given_up(&file.right));
        };
        open.crcs.push(pending.span.bytes());
        open.written += pending.span.len();
        tally(&self.counters.written_bytes, pending.span.len() as u64);
        Ok(())
    }

    /// A block is whole. Sealing it twice is no error.
    ///
    /// # Errors
    /// `InvalidArgument` if it has other bytes than its writer says; `Aborted` if it has none, because the file was given
    /// up, or because none were written; `Unavailable` while a local writer still maps it.
    pub(crate) async fn seal(&self, file: &Attached, index: u32, length: u32) -> Result<(), Failure> {
        let right = file.for_writing()?;
        let claim = self.writing.claim(right, index)?;
        let block = claim.block;
        let lent = self.writing.lent.borrow_mut().remove(&block);
        if let Some(lent) = lent {
            return self.adopt(right, block, lent, length).await;
        }
        let open = self.writing.open.borrow_mut().remove(&block);
        let Some(open) = open else {
            let sealed = self.blocks.borrow().stat(block);
            return match sealed {
                Some(stat) if stat.length == length && stat.state != BlockState::Filling => Ok(()),
                Some(_) => Err(Failure::new(
                    Status::InvalidArgument,
                    format!("block {index} of {} was sealed with another length", right.path),
                )),
                None => Err(given_up(right)),
            };
        };
        if open.written != length as usize {
            let written = open.written;
            self.writing.open.borrow_mut().insert(block, open);
            return Err(Failure::new(
                Status::InvalidArgument,
                format!("block {index} of {} has {written} bytes and was sealed with {length}", right.path),
            ));
        }
        self.settle_in(right, block, length, open.memory, &open.crcs.finish());
        Ok(())
    }

    /// A fresh block in a local writer's hands.
    ///
    /// # Errors
    /// `Unsupported` if there is no room for a whole block, and `InvalidArgument` if the block is being written already.
    pub(crate) async fn map_write(&self, file: &Attached, index: u32) -> Result<OwnedFd, Failure> {
        let right = file.for_writing()?;
        let claim = self.writing.claim(right, index)?;
        let block = claim.block;
        if self.writing.open.borrow().contains_key(&block) || self.blocks.borrow().stat(block).is_some() {
            return Err(Failure::new(
                Status::InvalidArgument,
                format!("block {index} of {} is being written in frames, or sealed", right.path),
            ));
        }
        let is_lent = self.writing.lent.borrow().contains_key(&block);
        if !is_lent {
            self.writing.check_room()?;
            if self.pool.usage().pages_granted < MAP_TIER_PAGES_MIN {
                let words = "the memory tier is too small to lend whole blocks: write in frames";
                return Err(Failure::new(Status::Unsupported, words));
            }
            self.await_room_for(right.block_bytes as usize).await?;
            self.make_descriptor_room();
            let lent = self.with_room(async || LocalWrite::new(&self.pool, right.block_bytes as usize).await).await;
            self.writing.lent.borrow_mut().insert(block, lent.map_err(in_frames)?);
            self.writing.note(right, self.now_ms());
        }
        // Asked again, because the answer was lost, the writer gets the same block again.
        let lent = self.writing.lent.borrow();
        let descriptor = lent.get(&block).ok_or_else(|| given_up(right))?.descriptor();
        descriptor.map_err(|error| Failure::new(Status::Busy, error.to_string()))
    }

    async fn adopt(&self, right: &Right, block: BlockId, lent: LocalWrite, length: u32) -> Result<(), Failure> {
        let memory = match lent.adopt(length as usize) {
            Ok(memory) => memory,
            Err((error, lent)) => {
                self.writing.lent.borrow_mut().insert(block, lent);
                let status = match error {
                    MemError::StillMapped => Status::Unavailable,
                    _ => Status::InvalidArgument,
                };
                return Err(Failure::new(status, format!("block {} of {}: {error}", block.index, right.path)));
            }
        };
        let mut crcs = SectorCrcs::with_capacity(length as usize);
        for start in (0..length as usize).step_by(CHECKSUM_PIECE_BYTES) {
            let end = (start + CHECKSUM_PIECE_BYTES).min(length as usize);
            let span = memory.span(start..end);
            // SAFETY: the kernel has sealed the block against writing, by whomever.
            #[allow(unsafe_code)]
            crcs.push(unsafe { span.bytes() });
            self.host.yield_now().await;
        }
        tally(&self.counters.written_bytes, u64::from(length));
        let memory = self.fitted(memory, length as usize).await?;
        self.settle_in(right, block, length, memory, &crcs.finish());
        Ok(())
    }

    /// A block of which only a part is used moves to memory of its size, or it would hold pages for nothing. Where there
    /// is no room for both at once it stays where it is: its bytes are here, and a write must not fail for tidiness.
    async fn fitted(&self, memory: Rc<BlockMem>, length: usize) -> Result<Memory, Failure> {
        let needed = (length.div_ceil(PAGE_BYTES) * PAGE_BYTES) as u64;
        if memory.bytes_allocated() <= needed {
            return Ok(Memory::Block(memory));
        }
        let small = match self.memory(length).await {
            Ok(small) => self.prepare(None, &small, 0..length).await.map(|()| small),
            Err(failure) => Err(failure),
        };
        match small {
            Ok(small) => copy(&Memory::Block(memory), &small, length).map(|()| small),
            Err(failure) if failure.status == Status::NoSpace => Ok(Memory::Block(memory)),
            Err(failure) => Err(failure),
        }
    }

    /// Puts a whole written block into the index: complete, dirty.
    fn settle_in(&self, right: &Right, block: BlockId, length: u32, memory: Memory, crcs: &[u32]) {
        // What the kernel has sealed cannot be struck.
        if cfg!(debug_assertions)
            && let Ok(run) = memory.fill(0..length as usize)
        {
            fault::strike(&mut [run]);
        }
        let bytes = memory.bytes_allocated();
        let is_immutable = matches!(&memory, Memory::Block(memory) if memory.is_exported());
        let mut blocks = self.blocks.borrow_mut();
        let replaced: Option<Evicted<Memory>> = blocks.remove(block);
        let inserted = blocks.insert(block, length, memory, bytes);
        debug_assert!(inserted.is_ok(), "it was just removed");
        blocks.set_dirty(block, true);
        let flight = blocks.begin_fetch(block, 0..length).expect("nothing of a new block is valid or flying");
        blocks.complete_fetch(flight, crcs);
        if is_immutable {
            blocks.set_exported(block);
        }
        drop(blocks);
        drop(replaced);
        // Again, because the file may have been forgotten meanwhile: then the master is asked about these blocks some day.
        self.writing.note(right, self.now_ms());
    }

    /// Lends a sealed block to the publisher.
    pub(super) fn lend(&self, block: BlockId) -> Result<Lent, Failure> {
        let blocks = self.blocks.borrow();
        let stat = blocks.stat(block).filter(|stat| stat.state != BlockState::Filling);
        let (Some(stat), Some(memory), Some(crcs)) = (stat, blocks.memory(block), blocks.crcs(block)) else {
            return Err(Failure::new(
                Status::Aborted,
                format!("block {block} is not here to be staged: its file was given up, or it was not sealed"),
            ));
        };
        self.ledger
            .lend(memory.span(0..stat.length as usize), crcs.into())
            .ok_or_else(|| Failure::new(Status::Busy, "too many blocks are being published at once: try again"))
    }

    /// The publisher has a block: it may be evicted, or, if it is not to be cached, goes now.
    pub(super) fn staged(&self, block: BlockId, keep: bool) {
        let mut blocks = self.blocks.borrow_mut();
        blocks.set_dirty(block, false);
        let gone = if keep { None } else { blocks.remove(block) };
        drop(blocks);
        drop(gone);
    }

    /// The publisher, another worker, says that it has a block of this shard.
    ///
    /// # Errors
    /// `PermissionDenied` to anybody without the right to write.
    pub(crate) fn staged_elsewhere(&self, file: &Attached, index: u32) -> Result<(), Failure> {
        let right = file.for_writing()?;
        self.staged(BlockId { file: right.file, index }, keeps_blocks(right));
        Ok(())
    }

    /// Hands a sealed block to the publisher, and waits until it is staged.
    ///
    /// # Errors
    /// What the under-store or the master said; the write is then over.
    pub(crate) async fn stage(&self, file: &Attached, index: u32, length: u32) -> Result<(), Failure> {
        let (done, answer) = oneshot::channel();
        self.publisher_step(file, Step::Stage { index, length, done })?;
        answer.await.map_err(|_| ending())?
    }

    /// Makes a written file visible in its under-store, and gives the key that it has from then on.
    ///
    /// # Errors
    /// As [`Shard::stage`].
    pub(crate) async fn publish(&self, file: &Attached, length: u64) -> Result<FileKey, Failure> {
        let (done, answer) = oneshot::channel();
        self.publisher_step(file, Step::Publish { length, done })?;
        answer.await.map_err(|_| ending())?
    }

    fn publisher_step(&self, file: &Attached, step: Step) -> Result<(), Failure> {
        let right: &Arc<Right> = file.for_writing()?;
        if !matches!(right.origin, Origin::Writer { .. }) {
            return Err(Failure::new(Status::PermissionDenied, format!("{} is not being written", right.path)));
        }
        let node = self.node()?;
        node.publisher.step(node, right, step);
        Ok(())
    }
}

/// Whether the blocks of a file being written go on into an under-store.
fn is_passing(right: &Right) -> bool {
    matches!(right.origin, Origin::Writer { write_type: WriteType::CacheThrough | WriteType::Through, .. })
}

/// Whether the blocks of a written file stay cached once its under-store has them.
pub(crate) fn keeps_blocks(right: &Right) -> bool {
    matches!(right.origin, Origin::Writer { write_type: WriteType::CacheThrough | WriteType::MustCache, .. })
}

/// A whole block has no room at once; a writer whose frames bring what it has, page by page, may still find some.
fn in_frames(failure: Failure) -> Failure {
    match failure.status {
        Status::NoSpace => Failure { status: Status::Unsupported, ..failure },
        _ => failure,
    }
}

/// The bytes of a file being written are not here: its deletion, its abort or the end of its lease took them.
fn given_up(right: &Right) -> Failure {
    Failure::new(
        Status::Aborted,
        format!("the write of {} was given up: the file was deleted, renamed, or its writer silent", right.path),
    )
}

pub(super) fn ending() -> Failure {
    Failure::new(Status::Unavailable, "the worker is ending")
}

/// Copies the first `length` bytes.
fn copy(from: &Memory, to: &Memory, length: usize) -> Result<(), Failure> {
    let source = from.span(0..length);
    let mut target = to.fill(0..length).map_err(|error| Failure::new(Status::Internal, error.to_string()))?;
    // SAFETY: the source is a block at rest: its writer waits for this, or the kernel has sealed it.
    #[allow(unsafe_code)]
    target.bytes_mut().copy_from_slice(unsafe { source.bytes() });
    Ok(())
}
