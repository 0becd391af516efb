//! Answering reads.
//!
//! A warm read needs no task and no allocation, and its payload is sent from the page. All warm reads that came together
//! are first found, then answered: one wait for the memory that their checksums lie in, not one each. Everything else is
//! cold: it may wait, and what it gives does not refer to the index.

use super::fetch::nowhere;
use super::{Shard, tally};
use crate::net::outbox::Outbox;
use crate::ring::{Span, SpanMut};
use crate::shard::{Attached, Wanted};
use crate::store::{Located, verify_sectors};
use citius_wire::{Failure, Kind, Read, ReadMode, ReadReply, ReadReplyView, Status};
use std::rc::Rc;

/// Tries to serve from memory what was just fetched, before it is read past the cache.
const TRIES_MAX: usize = 4;

/// A warm read that is to be answered next.
pub(crate) struct Found {
    /// The request.
    pub(crate) id: u64,
    /// The file that it reads.
    pub(crate) file: Rc<Attached>,
    /// What it reads.
    pub(crate) read: Read,
    block_start: u64,
    located: Located,
}

/// The answer to a read that waited.
pub(crate) struct ColdAnswer {
    /// Its head.
    pub(crate) reply: ReadReply,
    /// Its bytes.
    pub(crate) payload: Vec<Span>,
}

impl Shard {
    /// Finds a read that can be answered from memory at once.
    ///
    /// # Errors
    /// A read that nobody can answer.
    pub(crate) fn find_warm(&self, file: &Rc<Attached>, read: &Read, id: u64) -> Result<Option<Found>, Failure> {
        let mut blocks = self.blocks.borrow_mut();
        let wanted = file.read_range(read.offset, read.length, |block| Some(blocks.stat(block)?.length))?;
        if read.mode == ReadMode::Refetch {
            return Ok(None);
        }
        let Ok(located) = blocks.locate(wanted.block, wanted.range.start, wanted.range.end - wanted.range.start) else {
            return Ok(None);
        };
        file.readahead.note(wanted.offset(), wanted.block_start + u64::from(wanted.range.end));
        Ok(Some(Found { id, file: Rc::clone(file), read: *read, block_start: wanted.block_start, located }))
    }

    /// Answers what was found; what is gone meanwhile stays in `found`.
    pub(crate) fn answer_found(&self, found: &mut Vec<Found>, outbox: &mut Outbox) {
        let blocks = self.blocks.borrow();
        found.retain(|found| {
            let Some(hit) = blocks.hit(&found.located) else { return true };
            let range = hit.range.start as usize..hit.range.end as usize;
            let view = ReadReplyView { offset: found.block_start + u64::from(hit.range.start), crcs: hit.crcs };
            tally(&self.counters.requests, 1);
            tally(&self.counters.hits, 1);
            tally(&self.counters.read_bytes, range.len() as u64);
            outbox.reply_with(Kind::Read, found.id, &view, [hit.memory.span(range)]);
            false
        });
    }

    /// Answers a read that has to wait for bytes.
    ///
    /// # Errors
    /// `WrongEpoch`, or why the bytes cannot be had.
    pub(crate) async fn read_cold(self: &Rc<Self>, file: &Rc<Attached>, read: &Read) -> Result<ColdAnswer, Failure> {
        let wanted =
            file.read_range(read.offset, read.length, |block| Some(self.blocks.borrow().stat(block)?.length))?;
        if read.mode == ReadMode::Resident {
            return Err(Failure::new(Status::NotFound, format!("not all of it is here: {}", wanted.block)));
        }
        self.check_owner(file, wanted.block.index).await?;
        tally(&self.counters.misses, 1);
        if read.mode == ReadMode::Refetch {
            self.distrust(file, &wanted)?;
        }
        let ahead = file.readahead.note(wanted.offset(), wanted.block_start + u64::from(wanted.range.end));
        if read.mode != ReadMode::NoCache {
            for _ in 0..TRIES_MAX {
                match self.fill(file, &wanted, ahead).await {
                    Ok(()) => {}
                    // What is here may not go: read past it.
                    Err(failure) if failure.status == Status::NoSpace && file.token.is_some() => break,
                    Err(failure) => return Err(failure),
                }
                if let Some(answer) = self.in_memory(&wanted) {
                    return Ok(answer);
                }
            }
        }
        self.past_cache(file, &wanted).await
    }

    fn in_memory(&self, wanted: &Wanted) -> Option<ColdAnswer> {
        let mut blocks = self.blocks.borrow_mut();
        let hit = blocks.lookup(wanted.block, wanted.range.start, wanted.range.end - wanted.range.start).ok()?;
        let range = hit.range.start as usize..hit.range.end as usize;
        tally(&self.counters.read_bytes, range.len() as u64);
        Some(ColdAnswer {
            reply: ReadReply { offset: wanted.block_start + u64::from(hit.range.start), crcs: hit.crcs.into() },
            payload: vec![hit.memory.span(range)],
        })
    }

    /// Reads into memory of the answer's own, which is kept no longer than the answer.
    async fn past_cache(&self, file: &Attached, wanted: &Wanted) -> Result<ColdAnswer, Failure> {
        if file.token.is_none() {
            return Err(nowhere(file, wanted.block));
        }
        let store = self.store(file.right.mount).await?;
        let length = (wanted.range.end - wanted.range.start) as usize;
        let into = SpanMut::from(vec![0; length]);
        let (pieces, crcs) = self.fetch_into(file, &store, wanted.offset(), into).await?;
        tally(&self.counters.read_bytes, length as u64);
        Ok(ColdAnswer {
            reply: ReadReply { offset: wanted.offset(), crcs: crcs.into() },
            payload: pieces.into_iter().map(Span::from).collect(),
        })
    }

    /// A reader found sectors that do not match: looks at ours, and forgets them if they are the ones that are wrong.
    ///
    /// # Errors
    /// `Corrupt` if ours are wrong and there is no other copy.
    fn distrust(&self, file: &Attached, wanted: &Wanted) -> Result<(), Failure> {
        let mut blocks = self.blocks.borrow_mut();
        let Ok(hit) = blocks.lookup(wanted.block, wanted.range.start, wanted.range.end - wanted.range.start) else {
            return Ok(());
        };
        let span = hit.memory.span(hit.range.start as usize..hit.range.end as usize);
        // SAFETY: a hit is valid, and valid grains are written by nobody while a span of them lives.
        #[allow(unsafe_code)]
        let verdict = verify_sectors(unsafe { span.bytes() }, hit.crcs);
        let Err(sector) = verdict else { return Ok(()) };
        // The whole block goes, not the sector: answers on their way and clients' mappings may refer to its memory, so
        // nothing in it may be written again, and memory that has lied once is not worth more of our trust.
        let removed = if file.token.is_some() { blocks.remove(wanted.block) } else { None };
        drop(blocks);
        tally(&self.counters.refetched_sectors, 1);
        tracing::error!(block = %wanted.block, sector, "memory is damaged: a sector does not match its checksum");
        if removed.is_none() {
            return Err(Failure::new(
                Status::Corrupt,
                format!("{} is damaged in memory, and there is no other copy", file.right.path),
            ));
        }
        Ok(())
    }
}
