//! The blocks that this process has mapped: each once, found without a lock on the way of a warm read.
//!
//! A block has one [`Slot`] in a process, shared by all files open on it. A file finds its slots by block index; the
//! cache finds them by block. The map in a slot can be taken away by the cache when others need its place, while files
//! keep the slot: a reader holds the slot's lock for reading while it copies, and never waits for it.

use crate::config::MAPPED_INDEX_MAX;
use crate::error::Error;
use crate::mapping::MappedBlock;
use crate::stats::{Stats, add};
use citius_wire::{BlockId, FileKey};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

/// Slots are allocated so many at a time.
const SEGMENT_SLOTS: usize = 64;
/// The cache looks for slots that nobody holds when it knows so many, or twice those that lived at the last look.
const KNOWN_MIN: usize = 1024;

/// One block, mapped or not.
#[derive(Default)]
pub(crate) struct Slot {
    block: RwLock<Option<Arc<MappedBlock>>>,
    /// Held by who maps the block, so that others wait instead of mapping it too. When that failed, and how: for those
    /// who waited meanwhile.
    pub(crate) filling: Mutex<Option<(Instant, Error)>>,
    /// Whether it was read since the cache last looked for a block to give up.
    touched: AtomicBool,
    /// Reads that went to the worker.
    reads: AtomicU32,
    /// Whether the first touch shall have the next blocks mapped: its reader is sequential.
    leads: AtomicBool,
    /// Whether the worker said that it will not give this block out.
    refused: AtomicBool,
}

impl Slot {
    /// The map, for a reader that must not wait: `None` also while it is being changed.
    pub(crate) fn try_read(&self) -> Option<RwLockReadGuard<'_, Option<Arc<MappedBlock>>>> {
        let guard = self.block.try_read()?;
        guard.as_ref()?;
        // Written only when it changes, so that readers on many cores share the line.
        if !self.touched.load(Ordering::Relaxed) {
            self.touched.store(true, Ordering::Relaxed);
        }
        Some(guard)
    }

    /// The map, to hold beyond a read.
    pub(crate) fn block(&self) -> Option<Arc<MappedBlock>> {
        self.touched.store(true, Ordering::Relaxed);
        self.block.read().clone()
    }

    /// Gives the map up, if it is still this one.
    pub(crate) fn give_up(&self, block: &Arc<MappedBlock>) {
        let mut current = self.block.write();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, block)) {
            *current = None;
        }
    }

    /// Counts a read that goes to the worker, and says how many there were.
    pub(crate) fn count_read(&self) -> u32 {
        self.reads.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// Says that the first touch shall have the next blocks mapped.
    pub(crate) fn lead(&self) {
        self.leads.store(true, Ordering::Relaxed);
    }

    /// Whether to have the next blocks mapped now; `true` once.
    pub(crate) fn take_lead(&self) -> bool {
        self.leads.load(Ordering::Relaxed) && self.leads.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }
}

/// The slots of one version of a file, by block index. A small file costs one pointer until it is mapped.
pub(crate) struct SlotTable {
    file: FileKey,
    segments: OnceLock<Box<[Segment]>>,
    block_count: u32,
}

type Segment = OnceLock<Box<[OnceLock<Arc<Slot>>]>>;

impl SlotTable {
    pub(crate) fn new(file: FileKey, block_count: u32) -> Self {
        Self { file, segments: OnceLock::new(), block_count }
    }

    /// The slot of a block, if it was ever asked for.
    pub(crate) fn get(&self, index: u32) -> Option<&Arc<Slot>> {
        let index = index as usize;
        self.segments.get()?.get(index / SEGMENT_SLOTS)?.get()?.get(index % SEGMENT_SLOTS)?.get()
    }

    /// The slot of a block; `None` only past [`MAPPED_INDEX_MAX`] or past the end.
    pub(crate) fn get_or_make(&self, index: u32, cache: &BlockCache) -> Option<&Arc<Slot>> {
        if index >= MAPPED_INDEX_MAX.min(self.block_count) {
            return None;
        }
        let segments = self.segments.get_or_init(|| {
            let count = (self.block_count.min(MAPPED_INDEX_MAX) as usize).div_ceil(SEGMENT_SLOTS);
            (0..count).map(|_| OnceLock::new()).collect()
        });
        let index_in = index as usize;
        let slots = segments[index_in / SEGMENT_SLOTS].get_or_init(|| {
            let first = index_in / SEGMENT_SLOTS * SEGMENT_SLOTS;
            (first..(first + SEGMENT_SLOTS).min(self.block_count as usize)).map(|_| OnceLock::new()).collect()
        });
        let id = BlockId { file: self.file, index };
        Some(slots[index_in % SEGMENT_SLOTS].get_or_init(|| cache.slot(id)))
    }
}

/// All slots of a process by block, and those that are mapped in the order of a clock (Corbató 1968): a bounded number
/// of maps, of which one not touched since the hand last passed is given up for a new one.
pub(crate) struct BlockCache {
    mapped_max: usize,
    state: Mutex<CacheState>,
}

#[derive(Default)]
struct CacheState {
    known: HashMap<BlockId, Weak<Slot>>,
    known_max: usize,
    clock: VecDeque<Arc<Slot>>,
}

impl BlockCache {
    pub(crate) fn new(mapped_max: usize) -> Self {
        Self { mapped_max, state: Mutex::new(CacheState { known_max: KNOWN_MIN, ..CacheState::default() }) }
    }

    fn slot(&self, id: BlockId) -> Arc<Slot> {
        let mut state = self.state.lock();
        if let Some(slot) = state.known.get(&id).and_then(Weak::upgrade) {
            return slot;
        }
        if state.known.len() >= state.known_max {
            state.known.retain(|_, slot| slot.strong_count() > 0);
            state.known_max = (state.known.len() * 2).max(KNOWN_MIN);
        }
        let slot = Arc::new(Slot::default());
        state.known.insert(id, Arc::downgrade(&slot));
        slot
    }

    /// Gives up every map of a file, whichever handle made it.
    pub(crate) fn give_up_file(&self, file: FileKey) {
        let slots: Vec<_> = {
            let state = self.state.lock();
            state.known.iter().filter(|(id, _)| id.file == file).filter_map(|(_, slot)| slot.upgrade()).collect()
        };
        for slot in slots {
            let block = slot.block.write().take();
            drop(block);
        }
    }

    /// Gives up every map that nobody reads just now: a worker without room cannot have the pages of a block back that is
    /// mapped here, though it has evicted it long ago. What is still resident there is mapped again for little.
    ///
    /// Whether there were any.
    pub(crate) fn give_up_idle(&self, stats: &Stats) -> bool {
        let mut given_up = Vec::new();
        for slot in &self.state.lock().clock {
            let Some(mut block) = slot.block.try_write() else { continue };
            // A view keeps its pages anyhow, and would have none of it.
            given_up.extend(block.take_if(|block| Arc::strong_count(block) == 1));
        }
        add(&stats.unmaps, given_up.len() as u64);
        !given_up.is_empty()
    }

    /// Puts a new map into its slot and gives others up for it. The owner holds the slot's `filling`.
    pub(crate) fn admit(&self, slot: &Arc<Slot>, block: Arc<MappedBlock>, stats: &Stats) {
        *slot.block.write() = Some(block);
        // Not yet a read: the first one marks it, so that what was mapped ahead and never read goes first.
        slot.touched.store(false, Ordering::Relaxed);
        let mut given_up = Vec::new();
        {
            let mut state = self.state.lock();
            // A slot whose map was given up for damage is in the clock already.
            if !state.clock.iter().any(|known| Arc::ptr_eq(known, slot)) {
                state.clock.push_back(slot.clone());
            }
            // Every slot is passed at most twice: once to clear its mark, once to be chosen.
            let mut turns = state.clock.len() * 2;
            while state.clock.len() > self.mapped_max && turns > 0 {
                turns -= 1;
                let Some(candidate) = state.clock.pop_front() else { break };
                let is_kept = Arc::ptr_eq(&candidate, slot) || candidate.touched.swap(false, Ordering::Relaxed);
                let taken = if is_kept { None } else { candidate.block.try_write().map(|mut block| block.take()) };
                match taken {
                    Some(block) => given_up.extend(block),
                    None => state.clock.push_back(candidate),
                }
            }
        }
        add(&stats.unmaps, given_up.len() as u64);
        // The maps go here, outside the lock: unmapping 64 MiB of ordinary pages takes a while.
        drop(given_up);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, SealFlags};

    fn block() -> Arc<MappedBlock> {
        let fd = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, 4096).unwrap();
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::WRITE).unwrap();
        Arc::new(MappedBlock::new(&fd, 4096, vec![crc32fast::hash(&[0; 4096])]).unwrap())
    }

    fn id(index: u32) -> BlockId {
        BlockId { file: FileKey([1; 16]), index }
    }

    #[test]
    fn maps_are_bounded_and_what_is_read_stays() {
        let (cache, stats) = (BlockCache::new(4), Stats::default());
        let slots: Vec<_> = (0..20).map(|i| cache.slot(id(i))).collect();
        for slot in &slots {
            cache.admit(slot, block(), &stats);
            assert!(slots[0].try_read().is_some(), "a block that is always read is never the one to go");
            assert!(slots.iter().filter(|slot| slot.block.read().is_some()).count() <= 4);
        }
        assert_eq!(stats.snapshot().unmaps, 16);
    }

    #[test]
    fn a_block_in_use_is_not_taken_and_a_slot_is_shared() {
        let (cache, stats) = (BlockCache::new(1), Stats::default());
        let first = cache.slot(id(0));
        assert!(Arc::ptr_eq(&first, &cache.slot(id(0))));
        cache.admit(&first, block(), &stats);
        let reading = first.try_read().unwrap();
        cache.admit(&cache.slot(id(1)), block(), &stats);
        assert!(reading.is_some() && first.block.read().is_some());
    }

    #[test]
    fn a_file_gives_up_its_maps_and_no_others() {
        let (cache, stats) = (BlockCache::new(4), Stats::default());
        let mine = [cache.slot(id(0)), cache.slot(id(7))];
        let other = cache.slot(BlockId { file: FileKey([2; 16]), index: 0 });
        for slot in mine.iter().chain([&other]) {
            cache.admit(slot, block(), &stats);
        }
        cache.give_up_file(FileKey([1; 16]));
        assert!(mine.iter().all(|slot| slot.block().is_none()) && other.block().is_some());
    }

    #[test]
    fn what_nobody_reads_is_given_up_at_once() {
        let (cache, stats) = (BlockCache::new(4), Stats::default());
        let slots: Vec<_> = (0..4).map(|i| cache.slot(id(i))).collect();
        slots.iter().for_each(|slot| cache.admit(slot, block(), &stats));
        let view = slots[1].block().unwrap();
        let reading = slots[2].try_read().unwrap();
        assert!(cache.give_up_idle(&stats) && !cache.give_up_idle(&stats));
        assert!(slots[0].block().is_none() && slots[3].block().is_none());
        assert!(Arc::ptr_eq(&view, &slots[1].block().unwrap()) && reading.is_some());
        assert_eq!(stats.snapshot().unmaps, 2);
        cache.admit(&slots[0], block(), &stats);
        assert!(slots[0].block().is_some());
    }

    #[test]
    fn slots_that_nobody_holds_are_forgotten() {
        let cache = BlockCache::new(1);
        for i in 0..10 * KNOWN_MIN as u32 {
            drop(cache.slot(id(i)));
        }
        assert!(cache.state.lock().known.len() <= KNOWN_MIN);
    }

    #[test]
    fn a_table_has_slots_up_to_its_end() {
        let cache = BlockCache::new(1);
        let table = SlotTable::new(FileKey([1; 16]), 130);
        assert!(table.get(0).is_none());
        for index in [0, 63, 64, 129] {
            let slot = table.get_or_make(index, &cache).unwrap();
            assert!(Arc::ptr_eq(slot, table.get(index).unwrap()));
        }
        assert!(table.get_or_make(130, &cache).is_none() && table.get(1).is_none());
    }
}
