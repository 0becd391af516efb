//! Bringing missing grains of a block into its pages, each once, however many wait for them.
//!
//! ```text
//! near under-store:  prepare pages -> ring read into the page -> is it still the version? -> checksums -> valid
//! others:            prepare pages -> lend the range to tokio: copy and checksum off this core -> valid
//! ```
//! Near is a folder of this machine. One whose file system asks a server is as far as a network store: what waits for it
//! must be neither this core nor the kernel threads of its ring, which other files need.
//!
//! A worker that joined lately asks the former owner of a block of a far store first. A near one is as near as any peer.
//!
//! A fetch belongs to the shard and not to who asked first: it goes on when the asker is gone.

use super::files::OpenFile;
use super::{Shard, tally};
use crate::agent::{Node, Peer};
use crate::failure;
use crate::fault;
use crate::host::guarded;
use crate::ring::{Fd, SpanMut};
use crate::shard::{Attached, Wanted};
use crate::store::{Flight, SectorCrcs};
use crate::tier::mem::{self, Memory};
use citius_understore::{Bridge, FetchJob, Landing, Rejected, UnderStore};
use citius_wire::units::GRAIN_BYTES;
use citius_wire::{BlockId, Failure, Origin, Right, Status};
use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// Bytes of one read of a near under-store: long enough for a disk, short enough not to hold the core.
const LOCAL_PIECE_BYTES: u32 = 512 << 10;
/// Bytes of one request to any other.
const NETWORK_PIECE_BYTES: u32 = 16 << 20;
/// What a fetch is called when it fails.
const READING: &str = "reading";
/// Rounds of fetching and finding evicted, past which the tier is too small for what is asked of it at once.
const ROUNDS_MAX: usize = 64;

const _: () = assert!(
    (LOCAL_PIECE_BYTES as usize).is_multiple_of(GRAIN_BYTES)
        && (NETWORK_PIECE_BYTES as usize).is_multiple_of(GRAIN_BYTES)
);

impl Shard {
    /// Makes the wanted bytes valid, and begins to fetch `ahead` more of the block.
    ///
    /// # Errors
    /// What the under-store said; `NoSpace`; `DataLost` for bytes that are nowhere else.
    pub(super) async fn fill(self: &Rc<Self>, file: &Rc<Attached>, wanted: &Wanted, ahead: u32) -> Result<(), Failure> {
        for _ in 0..ROUNDS_MAX {
            if self.is_here(wanted) {
                return Ok(());
            }
            if file.token.is_none() {
                return Err(nowhere(file, wanted.block));
            }
            self.admit(wanted).await?;
            let with_ahead = wanted.range.start..wanted.range.end.saturating_add(ahead).min(wanted.block_length);
            let store = self.store(file.right.mount).await?;
            if self.blocks.borrow().is_flying(wanted.block, wanted.range.clone()) {
                store.traffic().count_saved(1);
            }
            self.take_off(file, &store, wanted, with_ahead);
            self.landed(wanted).await?;
        }
        Err(self.full())
    }

    /// Waits until nothing that is wanted is on its way.
    ///
    /// # Errors
    /// Why some of it did not come. What else is fetched of the block, such as what lies ahead, may fail unheard.
    async fn landed(&self, wanted: &Wanted) -> Result<(), Failure> {
        let mut failed = Ok(());
        while let Some(wait) = self.flights.wait(wanted.block) {
            if !self.blocks.borrow().is_flying(wanted.block, wanted.range.clone()) {
                break;
            }
            let landing = wait.landing().await;
            if landing.is_err() && !self.blocks.borrow().missing(wanted.block, wanted.range.clone()).is_empty() {
                failed = landing;
            }
        }
        if self.is_here(wanted) { Ok(()) } else { failed }
    }

    fn is_here(&self, wanted: &Wanted) -> bool {
        let Range { start, end } = wanted.range;
        self.blocks.borrow_mut().lookup(wanted.block, start, end - start).is_ok()
    }

    /// Makes the block resident, with nothing valid yet.
    async fn admit(&self, wanted: &Wanted) -> Result<(), Failure> {
        if self.blocks.borrow().stat(wanted.block).is_some() {
            return Ok(());
        }
        let memory = self.memory(wanted.block_length as usize).await?;
        let bytes = memory.bytes_allocated();
        let inserted = self.blocks.borrow_mut().insert(wanted.block, wanted.block_length, memory, bytes);
        // Another reader may have been faster; then its memory stays and ours goes, past the borrow.
        drop(inserted);
        Ok(())
    }

    /// Starts a fetch for all of `range` that is neither valid nor on its way.
    fn take_off(self: &Rc<Self>, file: &Rc<Attached>, store: &Arc<dyn UnderStore>, wanted: &Wanted, range: Range<u32>) {
        let piece_bytes = if store.local().is_some() { LOCAL_PIECE_BYTES } else { NETWORK_PIECE_BYTES };
        let missing = self.blocks.borrow().missing(wanted.block, range);
        for piece in missing.into_iter().flat_map(|run| pieces(run, piece_bytes)) {
            let mut blocks = self.blocks.borrow_mut();
            let Some(memory) = blocks.memory(wanted.block).cloned() else { break };
            let Some(flight) = blocks.begin_fetch(wanted.block, piece) else { continue };
            drop(blocks);
            self.flights.departed(wanted.block);
            let trip = Trip {
                file: Rc::clone(file),
                store: Arc::clone(store),
                block: wanted.block,
                block_start: wanted.block_start,
                memory,
            };
            let this = Rc::clone(self);
            self.host.spawn(async move { this.fly(&trip, flight).await });
        }
    }

    async fn fly(self: &Rc<Self>, trip: &Trip, flight: Flight) {
        let range = flight.bytes();
        let fetched = guarded(self.fetch(trip, range.clone())).await.unwrap_or_else(|| {
            Err(Failure::new(Status::Internal, "a defect in the worker ended a fetch; its log has the place"))
        });
        let result = match fetched {
            Ok(crcs) => {
                self.blocks.borrow_mut().complete_fetch(flight, &crcs);
                Ok(())
            }
            Err(failure) => {
                self.blocks.borrow_mut().fail_fetch(flight);
                Err(failure)
            }
        };
        self.flights.landed(trip.block, result);
    }

    /// Fetches a range of a block into its memory, and gives the checksums of its sectors.
    async fn fetch(self: &Rc<Self>, trip: &Trip, range: Range<u32>) -> Result<Vec<u32>, Failure> {
        let within = range.start as usize..range.end as usize;
        self.prepare(Some(trip.block), &trip.memory, within.clone()).await?;
        let into = trip
            .memory
            .fill(within)
            .map_err(|error| Failure::new(Status::Internal, format!("{error}: grains {range:?} of {}", trip.block)))?;
        let offset = trip.block_start + u64::from(range.start);
        let (mut pieces, crcs) = self.fetch_into(&trip.file, &trip.store, offset, into).await?;
        fault::strike(&mut pieces);
        Ok(crcs)
    }

    /// Fetches into any memory, and gives the pieces of it back with the checksums.
    pub(super) async fn fetch_into(
        &self,
        file: &Attached,
        store: &Arc<dyn UnderStore>,
        offset: u64,
        into: SpanMut,
    ) -> Result<(Vec<SpanMut>, Vec<u32>), Failure> {
        if store.local().is_some()
            && let Some(open) = self.open(file, store).await?
        {
            return self.read_local(file, &open, offset, into).await;
        }
        let (span, crcs) = self.read_network(file, store, offset, into).await?;
        Ok((vec![span], crcs))
    }

    async fn read_local(
        &self,
        file: &Attached,
        open: &OpenFile,
        offset: u64,
        into: SpanMut,
    ) -> Result<(Vec<SpanMut>, Vec<u32>), Failure> {
        let length = into.len();
        let mut crcs = SectorCrcs::with_capacity(length);
        let (mut rest, mut done, mut at) = (into, Vec::new(), 0);
        while at < length {
            let read = self.ring.read_at(Fd::from(&open.descriptor), rest, offset + at as u64);
            let (count, span) = read.await;
            let count = count
                .map_err(|error| Failure::new(Status::UnderStore, format!("{READING} {}: {error}", file.right.path)))?;
            let traffic = open.store.traffic();
            traffic.count_request();
            traffic.count_content();
            traffic.count_read(count as u64);
            if count == 0 {
                // Shorter than the version that was opened.
                self.files.forget(file.right.file);
                return Err(changed(file));
            }
            let (read, unread) = span.split_at(count);
            crcs.push(read.bytes());
            done.push(read);
            rest = unread;
            at += count;
            self.host.yield_now().await;
        }
        // Whoever wrote in place while we read has changed its times: what we have may be a mixture.
        open.check().inspect_err(|_| self.files.forget(file.right.file))?;
        tally(&self.counters.fetched_bytes, length as u64);
        Ok((done, crcs.finish()))
    }

    /// The open file of a near under-store; `None` if it lies in another file system that is mounted there. Opening is
    /// done off this core: its directories may have to come from a disk.
    async fn open(&self, file: &Attached, store: &Arc<dyn UnderStore>) -> Result<Option<Rc<OpenFile>>, Failure> {
        let key = file.right.file;
        if let Some(open) = self.files.get(key) {
            return Ok(Some(open));
        }
        let token = file.token.clone().ok_or_else(|| nowhere(file, BlockId { file: key, index: 0 }))?;
        let (sender, receiver) = oneshot::channel();
        let (path, wanted, opener) = (file.path.clone(), token.clone(), Arc::clone(store));
        self.node()?.runtime.spawn(async move {
            let opened = match opener.local() {
                Some(local) => local.open_local(&path, &wanted).await,
                None => Ok(None),
            };
            // Who asked may be gone.
            drop(sender.send(opened));
        });
        let opened = receiver
            .await
            .map_err(|_| Failure::new(Status::Unavailable, "the worker is ending"))?
            .map_err(|error| gone_or(file, &error))?;
        let Some(descriptor) = opened else { return Ok(None) };
        let (store, path) = (Arc::clone(store), file.path.clone());
        let open = Rc::new(OpenFile { store, path, token, descriptor: Rc::new(descriptor) });
        self.files.keep(key, Rc::clone(&open));
        Ok(Some(open))
    }

    async fn read_network(
        &self,
        file: &Attached,
        store: &Arc<dyn UnderStore>,
        offset: u64,
        into: SpanMut,
    ) -> Result<(SpanMut, Vec<u32>), Failure> {
        let token = file.token.clone().ok_or_else(|| nowhere(file, BlockId { file: file.right.file, index: 0 }))?;
        let busy = || Failure::new(Status::Busy, "too many fetches from under-stores at once: try again");
        let length = into.len() as u64;
        let (lent, loan) = self.loans.lend(into).map_err(|_| busy())?;
        let crcs = Arc::new(Mutex::new(Vec::new()));
        let (sender, receiver) = oneshot::channel();
        let is_moved = Arc::new(AtomicBool::new(false));
        let job = FetchJob {
            store: Arc::clone(store),
            path: file.path.clone(),
            token,
            range: offset..offset + length,
            is_whole: offset == 0 && length == file.right.length,
            landing: Box::new(Touchdown::new(lent, offset, &crcs)),
            done: Box::new(move |result| drop(sender.send(result))),
        };
        let node = self.node()?;
        match node.former_owner(&file.right, offset) {
            Some(owner) => {
                let (asking, right, bridge) = (Arc::clone(node), Arc::clone(&file.right), self.bridge.clone());
                let told = Arc::clone(&is_moved);
                node.runtime.spawn(async move {
                    if let Some(job) = from_former_owner(&asking, &owner, &right, job, &told).await {
                        from_store(&bridge, job);
                    }
                });
            }
            None => self
                .bridge
                .fetch(job)
                .map_err(|rejected| failure::of_store(READING, &file.right.path, &rejected.error))?,
        }
        receiver
            .await
            .map_err(|_| Failure::new(Status::Unavailable, "the worker is ending"))?
            .map_err(|error| gone_or(file, &error))?;
        let span = loan.reclaim().map_err(|_| Failure::new(Status::Internal, "a landing outlived its fetch"))?;
        let crcs = std::mem::take(&mut *crcs.lock().unwrap_or_else(PoisonError::into_inner));
        let is_moved = is_moved.load(Ordering::Relaxed);
        tally(if is_moved { &self.counters.moved_bytes } else { &self.counters.fetched_bytes }, length);
        Ok((span, crcs))
    }
}

/// Does a job with what a block's former owner has, or gives it back.
async fn from_former_owner(
    node: &Node,
    owner: &Peer,
    right: &Right,
    mut job: FetchJob,
    is_moved: &AtomicBool,
) -> Option<FetchJob> {
    match node.resident_at(owner, right, job.range.clone()).await {
        Ok(bytes) => {
            job.landing.land(job.range.start, &bytes);
            is_moved.store(true, Ordering::Relaxed);
            finish(job, Ok(()));
            None
        }
        Err(failure) => {
            tracing::debug!(%failure, "a former owner has no answer");
            Some(job)
        }
    }
}

/// Hands a job over; one that finds no room is answered with that.
fn from_store(bridge: &Bridge, job: FetchJob) {
    if let Err(Rejected { job, error }) = bridge.fetch(job) {
        finish(*job, Err(error));
    }
}

/// Tells how a job ended. Its landing goes first: the shard takes its pages back when it is told.
fn finish(job: FetchJob, result: citius_understore::Result<()>) {
    let FetchJob { landing, done, .. } = job;
    drop(landing);
    done(result);
}

/// What a fetch needs to know of its block.
struct Trip {
    file: Rc<Attached>,
    store: Arc<dyn UnderStore>,
    block: BlockId,
    block_start: u64,
    memory: Memory,
}

/// Where bytes from a network come down: copied once into the page, with their checksums, on tokio's thread.
struct Touchdown {
    lent: mem::Lent,
    /// Where the range begins in its file.
    start: u64,
    at: usize,
    crcs: SectorCrcs,
    out: Arc<Mutex<Vec<u32>>>,
}

impl Touchdown {
    fn new(lent: mem::Lent, start: u64, out: &Arc<Mutex<Vec<u32>>>) -> Self {
        Self { crcs: SectorCrcs::with_capacity(lent.len()), lent, start, at: 0, out: Arc::clone(out) }
    }
}

impl Landing for Touchdown {
    fn land(&mut self, offset: u64, bytes: &[u8]) {
        if offset == self.start && self.at > 0 {
            (self.at, self.crcs) = (0, SectorCrcs::with_capacity(self.lent.len()));
        }
        let end = self.at + bytes.len();
        self.lent.bytes_mut()[self.at..end].copy_from_slice(bytes);
        self.crcs.push(&self.lent.bytes()[self.at..end]);
        self.at = end;
    }
}

impl Drop for Touchdown {
    fn drop(&mut self) {
        let crcs = std::mem::take(&mut self.crcs).finish();
        *self.out.lock().unwrap_or_else(PoisonError::into_inner) = crcs;
    }
}

/// Cuts a range into pieces of at most `bytes`.
fn pieces(range: Range<u32>, bytes: u32) -> impl Iterator<Item = Range<u32>> {
    let Range { start, end } = range;
    (start..end).step_by(bytes as usize).map(move |at| at..at.saturating_add(bytes).min(end))
}

/// A store's error about an open file. One that is not there any more was there when it was opened: it changed.
fn gone_or(file: &Attached, error: &citius_understore::Error) -> Failure {
    if error.is_not_found() { changed(file) } else { failure::of_store(READING, &file.right.path, error) }
}

fn changed(file: &Attached) -> Failure {
    Failure::new(
        Status::VersionChanged,
        format!("{READING} {}: changed in the under-store since it was opened; open it again", file.right.path),
    )
}

/// A block that should be here, is not, and is in no under-store.
pub(super) fn nowhere(file: &Attached, block: BlockId) -> Failure {
    match file.right.origin {
        Origin::Writer { .. } => {
            Failure::new(Status::NotFound, format!("block {} of {} is not written yet", block.index, file.right.path))
        }
        Origin::Memory { .. } | Origin::UnderStore { .. } => Failure::new(
            Status::DataLost,
            format!("{} was in memory only, and its memory is gone: delete it, or write it again", file.right.path),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_tile_a_range() {
        assert_eq!(pieces(0..10, 4).collect::<Vec<_>>(), [0..4, 4..8, 8..10]);
        assert_eq!(pieces(8..8, 4).count(), 0);
    }
}
