//! The blocks of one shard: pure bookkeeping over memory that it only holds.
//!
//! ```text
//!            insert            begin_fetch         complete_fetch
//! (absent) ---------> missing ------------> flying ---------------> valid       each grain
//!                        ^                     |                      |
//!                        +----- fail_fetch ----+                      |
//!                        +------------------- invalidate -------------+
//! ```
//!
//! Invariants, which [`BlockIndex::validate`] checks: a grain is never both valid and flying; the accounted bytes are the
//! sum over the blocks; the policy knows exactly the blocks that may go; each block is in the list of its file once. A
//! flight names the life of a block, so that one which ends after its block was removed touches no other block.

use super::entry::{BlockStat, Entry, sectors_of};
use super::grains::grains_of;
use super::key_hash;
use super::policy::{Lru, Policy};
use super::prefetch::prefetch;
use citius_wire::units::{GRAIN_BYTES, SECTOR_BYTES};
use citius_wire::{BlockId, FileKey};
use core::ops::Range;
use hashbrown::HashTable;

/// The blocks of one shard; `M` is a counted reference to a block's memory.
pub struct BlockIndex<M, P = Lru> {
    slots: Vec<Slot<M>>,
    vacant: Vec<u32>,
    by_id: HashTable<u32>,
    by_file: HashTable<FileBlocks>,
    policy: P,
    bytes_held: u64,
    bytes_max: u64,
}

struct Slot<M> {
    /// Counts the blocks that have been here.
    life: u32,
    entry: Option<Box<Entry<M>>>,
}

/// The list of the resident blocks of one file, through their entries.
#[derive(Debug)]
struct FileBlocks {
    file: FileKey,
    newest: u32,
}

/// Bytes that are here.
#[derive(Debug)]
pub struct Hit<'a, M> {
    /// The block's memory.
    pub memory: &'a M,
    /// The bytes asked for, widened to sectors and clipped to the block.
    pub range: Range<u32>,
    /// The checksum of each sector of `range`.
    pub crcs: &'a [u32],
}

/// Where bytes are that [`BlockIndex::locate`] found; of use for as long as their block stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    slot: u32,
    life: u32,
    range: Range<u32>,
}

/// Why bytes cannot be served from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// The block is not resident.
    Absent,
    /// The block is resident and some of the bytes are not valid; [`BlockIndex::missing`] says which to fetch.
    Partial,
}

/// A fetch of some grains of a block, which nobody else fetches meanwhile. End it by `complete_fetch` or `fail_fetch`.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "grains stay in flight until the fetch is completed or failed"]
pub struct Flight {
    slot: u32,
    life: u32,
    grains: Range<u32>,
    bytes: Range<u32>,
}

impl Flight {
    /// The bytes to fetch, within the block: whole grains, except at the block's end.
    pub fn bytes(&self) -> Range<u32> {
        self.bytes.clone()
    }
}

/// How a fetch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// The bytes are valid now, and the block still lacks some.
    Stored,
    /// The bytes are valid now, and so is the whole block.
    Completed,
    /// The block was removed meanwhile; the bytes are of use to nobody but their reader.
    Gone,
}

/// A block that left the index, with its memory, which is freed when the last reference to it goes.
#[derive(Debug)]
pub struct Evicted<M> {
    /// What it was.
    pub stat: BlockStat,
    /// Its memory.
    pub memory: M,
}

impl<M, P: Policy + Default> BlockIndex<M, P> {
    /// An empty index that wants to hold at most `bytes_max` bytes.
    pub fn new(bytes_max: u64) -> Self {
        Self {
            slots: Vec::new(),
            vacant: Vec::new(),
            by_id: HashTable::new(),
            by_file: HashTable::new(),
            policy: P::default(),
            bytes_held: 0,
            bytes_max,
        }
    }
}

/// Reading.
impl<M, P: Policy> BlockIndex<M, P> {
    /// The bytes at `offset`, if all of them are here, counting it as a use. No allocation, constant time.
    ///
    /// # Errors
    /// What is missing. Bytes past the block's end are not asked for, so nothing at all is a hit of nothing.
    pub fn lookup(&mut self, id: BlockId, offset: u32, len: u32) -> Result<Hit<'_, M>, Miss> {
        let located = self.locate(id, offset, len)?;
        Ok(self.hit(&located).expect("it was just found"))
    }

    /// The first half of [`lookup`](Self::lookup): finds the bytes and asks the CPU for their checksums, which come from
    /// far away (m: 90 ns each for 4 KiB reads of 1 GiB). Who has several reads locates all of them before the first
    /// [`hit`](Self::hit), so that the waits are one.
    ///
    /// # Errors
    /// As `lookup`.
    pub fn locate(&mut self, id: BlockId, offset: u32, len: u32) -> Result<Located, Miss> {
        let slot = self.find(id).ok_or(Miss::Absent)?;
        if self.entry(slot).may_go() {
            self.policy.touch(slot);
        }
        let entry = self.entry(slot);
        let range = clip(offset, len, entry.length);
        if !entry.has(&range) {
            return Err(Miss::Partial);
        }
        prefetch(&entry.crcs, sectors_of(&range).start);
        Ok(Located { slot, life: self.slots[slot as usize].life, range })
    }

    /// The second half: the bytes that were located, if they are still here.
    pub fn hit(&self, located: &Located) -> Option<Hit<'_, M>> {
        let cell = &self.slots[located.slot as usize];
        let range = &located.range;
        let entry = cell.entry.as_ref().filter(|entry| cell.life == located.life && entry.has(range))?;
        let sector = SECTOR_BYTES as u32;
        let start = range.start / sector * sector;
        let end = if range.is_empty() { start } else { range.end.next_multiple_of(sector).min(entry.length) };
        Some(Hit { memory: &entry.memory, range: start..end, crcs: &entry.crcs[sectors_of(range)] })
    }

    /// What is told of a block, without counting it as a use.
    pub fn stat(&self, id: BlockId) -> Option<BlockStat> {
        Some(self.entry(self.find(id)?).stat())
    }

    /// A block's memory, without counting it as a use.
    pub fn memory(&self, id: BlockId) -> Option<&M> {
        Some(&self.entry(self.find(id)?).memory)
    }

    /// The checksums of all sectors of a complete block, to pass beside its descriptor.
    pub fn crcs(&self, id: BlockId) -> Option<&[u32]> {
        let entry = self.entry(self.find(id)?);
        entry.is_complete.then_some(&*entry.crcs)
    }

    /// The resident blocks of a file, in no order.
    pub fn blocks_of(&self, file: FileKey) -> impl Iterator<Item = BlockStat> + '_ {
        let newest =
            self.by_file.find(key_hash::of_file(file), |blocks| blocks.file == file).map(|blocks| blocks.newest);
        std::iter::successors(newest, |slot| self.entry(*slot).older_sibling).map(|slot| self.entry(slot).stat())
    }

    /// All resident blocks, in no order.
    pub fn blocks(&self) -> impl Iterator<Item = BlockStat> + '_ {
        self.slots.iter().filter_map(|slot| Some(slot.entry.as_ref()?.stat()))
    }

    /// Number of resident blocks.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is no resident block.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Bytes accounted to all blocks.
    pub fn bytes_held(&self) -> u64 {
        self.bytes_held
    }

    /// Bytes that the index wants to hold at most.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }
}

/// Changing.
impl<M, P: Policy> BlockIndex<M, P> {
    /// Adds a block of which nothing is valid yet; gives the memory back if it is already resident.
    pub fn insert(&mut self, id: BlockId, length: u32, memory: M, bytes_held: u64) -> Result<(), M> {
        if self.find(id).is_some() {
            return Err(memory);
        }
        let entry = Box::new(Entry::new(id, length, memory, bytes_held));
        let slot = match self.vacant.pop() {
            Some(slot) => {
                self.slots[slot as usize].entry = Some(entry);
                slot
            }
            None => {
                self.slots.push(Slot { life: 0, entry: Some(entry) });
                self.slots.len() as u32 - 1
            }
        };
        self.bytes_held += bytes_held;
        self.link(slot);
        self.policy.admit(slot);
        Ok(())
    }

    /// Sets the bytes accounted to a block, as its pages come; false if it is not resident.
    pub fn account(&mut self, id: BlockId, bytes_held: u64) -> bool {
        let Some(slot) = self.find(id) else { return false };
        let before = std::mem::replace(&mut self.entry_mut(slot).bytes_held, bytes_held);
        self.bytes_held = self.bytes_held - before + bytes_held;
        true
    }

    /// Puts a block's bytes elsewhere, as when a small object moves to a memfd; gives the old memory back.
    ///
    /// The new memory must have the same valid bytes. `None`, with nothing changed, if the block is not resident or
    /// fetches into the old memory are under way.
    pub fn replace_memory(&mut self, id: BlockId, memory: M, bytes_held: u64) -> Option<M> {
        let slot = self.find(id)?;
        let entry = self.entry_mut(slot);
        if entry.flights > 0 {
            return None;
        }
        let old = std::mem::replace(&mut entry.memory, memory);
        self.account(id, bytes_held);
        Some(old)
    }

    /// Marks the only copy of bytes (never evicted), or says that there is another now; false if it is not resident.
    pub fn set_dirty(&mut self, id: BlockId, is_dirty: bool) -> bool {
        self.change(id, |entry| entry.is_dirty = is_dirty)
    }

    /// Keeps a block until a matching [`unpin`](Self::unpin); false if it is not resident.
    pub fn pin(&mut self, id: BlockId) -> bool {
        self.change(id, |entry| entry.pins += 1)
    }

    /// Takes one pin back; false if the block is not resident.
    ///
    /// # Panics
    /// If it has none.
    pub fn unpin(&mut self, id: BlockId) -> bool {
        self.change(id, |entry| entry.pins = entry.pins.checked_sub(1).expect("a pin for each unpin"))
    }

    /// Marks a complete block as shown to clients; false if it is not resident and complete.
    pub fn set_exported(&mut self, id: BlockId) -> bool {
        let Some(slot) = self.find(id) else { return false };
        let entry = self.entry_mut(slot);
        entry.is_exported |= entry.is_complete;
        entry.is_exported
    }

    /// The block that should go next, taken out. `None` if no block may go.
    pub fn evict(&mut self) -> Option<Evicted<M>> {
        let slot = self.policy.victim()?;
        debug_assert!(self.entry(slot).may_go());
        Some(self.take(slot))
    }

    /// As [`evict`](Self::evict), if more is held than [`bytes_max`](Self::bytes_max) or would be with `bytes` more.
    pub fn evict_for(&mut self, bytes: u64) -> Option<Evicted<M>> {
        if self.bytes_held.saturating_add(bytes) <= self.bytes_max { None } else { self.evict() }
    }

    /// Removes a block, whatever it is.
    pub fn remove(&mut self, id: BlockId) -> Option<Evicted<M>> {
        let slot = self.find(id)?;
        Some(self.take(slot))
    }

    /// Removes all blocks of a file, whatever they are.
    pub fn remove_file(&mut self, file: FileKey) -> Vec<Evicted<M>> {
        let ids: Vec<BlockId> = self.blocks_of(file).map(|stat| stat.id).collect();
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    /// Gives the blocks of `old` the key `new`, as when an unpersisted file reaches its under-store.
    ///
    /// Fetches under way go on. A block that is already resident under the new key makes way, and is given back.
    pub fn rekey(&mut self, old: FileKey, new: FileKey) -> Vec<Evicted<M>> {
        let ids: Vec<BlockId> = self.blocks_of(old).map(|stat| stat.id).collect();
        let mut displaced = Vec::new();
        if old == new {
            return displaced;
        }
        for id in ids {
            let renamed = BlockId { file: new, index: id.index };
            displaced.extend(self.remove(renamed));
            let slot = self.find(id).expect("just listed");
            self.unlink(slot);
            self.entry_mut(slot).id = renamed;
            self.link(slot);
        }
        displaced
    }
}

/// Fetching: one flight a grain, however many wait for it.
impl<M, P: Policy> BlockIndex<M, P> {
    /// What nobody fetches yet of the grains that hold `range`: byte ranges of whole grains, neighbours joined.
    ///
    /// Empty means that everything is valid or on its way, or that the block is not resident.
    pub fn missing(&self, id: BlockId, range: Range<u32>) -> Vec<Range<u32>> {
        let Some(slot) = self.find(id) else { return Vec::new() };
        let entry = self.entry(slot);
        let mut ranges: Vec<Range<u32>> = Vec::new();
        for grain in grains_of(&clip(range.start, range.end.saturating_sub(range.start), entry.length)) {
            if entry.valid.contains(grain) || entry.flying.contains(grain) {
                continue;
            }
            let bytes = entry.bytes_of(&(grain..grain + 1));
            match ranges.last_mut() {
                Some(last) if last.end == bytes.start => last.end = bytes.end,
                _ => ranges.push(bytes),
            }
        }
        ranges
    }

    /// Whether any byte of `range` is on its way, so that a reader for whom nothing is missing has to wait.
    pub fn is_flying(&self, id: BlockId, range: Range<u32>) -> bool {
        self.find(id).is_some_and(|slot| self.entry(slot).flying.contains_any(grains_of(&range)))
    }

    /// Begins to fetch one of the ranges that [`missing`](Self::missing) gave, or a part of it in whole grains.
    ///
    /// `None` if the block is not resident, or a grain of the range is valid or in flight already.
    pub fn begin_fetch(&mut self, id: BlockId, range: Range<u32>) -> Option<Flight> {
        let slot = self.find(id)?;
        let life = self.slots[slot as usize].life;
        let entry = self.entry(slot);
        let grains = grains_of(&range);
        if range.is_empty() || range.end > entry.length {
            return None;
        }
        if entry.valid.contains_any(grains.clone()) || entry.flying.contains_any(grains.clone()) {
            return None;
        }
        let bytes = entry.bytes_of(&grains);
        self.change(id, |entry| {
            entry.flying.insert(grains.clone());
            entry.flights += 1;
        });
        Some(Flight { slot, life, grains, bytes })
    }

    /// The bytes of a flight are in the block's memory, and these are the checksums of its sectors.
    ///
    /// # Panics
    /// If there is not one checksum a sector.
    #[allow(clippy::needless_pass_by_value, reason = "a flight ends once")]
    pub fn complete_fetch(&mut self, flight: Flight, crcs: &[u32]) -> Fetched {
        let sectors = sectors_of(&flight.bytes);
        assert_eq!(crcs.len(), sectors.len(), "one checksum for each sector of {:?}", flight.bytes);
        let Some(id) = self.land(&flight) else { return Fetched::Gone };
        let grain_count = |entry: &Entry<M>| entry.grain_count();
        let mut is_complete = false;
        self.change(id, |entry| {
            entry.flying.remove(flight.grains.clone());
            entry.valid.insert(flight.grains.clone());
            entry.crcs[sectors].copy_from_slice(crcs);
            entry.flights -= 1;
            entry.is_complete = entry.valid.len() == grain_count(entry);
            is_complete = entry.is_complete;
        });
        if is_complete { Fetched::Completed } else { Fetched::Stored }
    }

    /// A fetch came to nothing; its grains are missing again. False if the block was removed meanwhile.
    #[allow(clippy::needless_pass_by_value, reason = "a flight ends once")]
    pub fn fail_fetch(&mut self, flight: Flight) -> bool {
        let Some(id) = self.land(&flight) else { return false };
        self.change(id, |entry| {
            entry.flying.remove(flight.grains.clone());
            entry.flights -= 1;
        })
    }

    /// Forgets that the grains of `range` are valid, because their bytes do not match their checksums.
    ///
    /// False if the block is not resident, or is exported: then it can only be removed.
    pub fn invalidate(&mut self, id: BlockId, range: Range<u32>) -> bool {
        let Some(slot) = self.find(id) else { return false };
        let entry = self.entry_mut(slot);
        if entry.is_exported {
            return false;
        }
        let grains = grains_of(&clip(range.start, range.end.saturating_sub(range.start), entry.length));
        if !grains.is_empty() {
            entry.valid.remove(grains);
            entry.is_complete = false;
        }
        true
    }

    /// The block of a flight, if it is still the one that the flight began for.
    fn land(&self, flight: &Flight) -> Option<BlockId> {
        let slot = &self.slots[flight.slot as usize];
        let entry = slot.entry.as_ref().filter(|_| slot.life == flight.life)?;
        assert!(entry.flying.contains_all(flight.grains.clone()), "a flight lands once");
        Some(entry.id)
    }
}

impl<M, P: Policy> BlockIndex<M, P> {
    fn find(&self, id: BlockId) -> Option<u32> {
        self.by_id.find(key_hash::of_block(id), |slot| self.entry(*slot).id == id).copied()
    }

    fn entry(&self, slot: u32) -> &Entry<M> {
        self.slots[slot as usize].entry.as_ref().expect("a listed slot has a block")
    }

    fn entry_mut(&mut self, slot: u32) -> &mut Entry<M> {
        self.slots[slot as usize].entry.as_mut().expect("a listed slot has a block")
    }

    /// Changes a block and tells the policy if it may go now, or may not any more.
    fn change(&mut self, id: BlockId, change: impl FnOnce(&mut Entry<M>)) -> bool {
        let Some(slot) = self.find(id) else { return false };
        let entry = self.entry_mut(slot);
        let before = entry.may_go();
        change(entry);
        match (before, entry.may_go()) {
            (false, true) => self.policy.admit(slot),
            (true, false) => self.policy.forget(slot),
            _ => {}
        }
        true
    }

    fn take(&mut self, slot: u32) -> Evicted<M> {
        self.unlink(slot);
        if self.entry(slot).may_go() {
            self.policy.forget(slot);
        }
        let cell = &mut self.slots[slot as usize];
        cell.life = cell.life.wrapping_add(1);
        let entry = cell.entry.take().expect("a listed slot has a block");
        self.vacant.push(slot);
        self.bytes_held -= entry.bytes_held;
        Evicted { stat: entry.stat(), memory: entry.memory }
    }

    /// Makes a block findable by its id and its file.
    fn link(&mut self, slot: u32) {
        let id = self.entry(slot).id;
        let slots = &self.slots;
        let hash_of_slot = |slot: &u32| key_hash::of_block(slots[*slot as usize].entry.as_ref().expect("listed").id);
        self.by_id.insert_unique(key_hash::of_block(id), slot, hash_of_slot);
        let hash = key_hash::of_file(id.file);
        let older = match self.by_file.find_mut(hash, |blocks| blocks.file == id.file) {
            Some(blocks) => Some(std::mem::replace(&mut blocks.newest, slot)),
            None => {
                let blocks = FileBlocks { file: id.file, newest: slot };
                self.by_file.insert_unique(hash, blocks, |blocks| key_hash::of_file(blocks.file));
                None
            }
        };
        if let Some(older) = older {
            self.entry_mut(older).newer_sibling = Some(slot);
        }
        let entry = self.entry_mut(slot);
        (entry.older_sibling, entry.newer_sibling) = (older, None);
    }

    fn unlink(&mut self, slot: u32) {
        let Entry { id, older_sibling: older, newer_sibling: newer, .. } = *self.entry(slot);
        let found = self.by_id.find_entry(key_hash::of_block(id), |other| *other == slot);
        found.expect("a block is listed under its id").remove();
        if let Some(older) = older {
            self.entry_mut(older).newer_sibling = newer;
        }
        if let Some(newer) = newer {
            self.entry_mut(newer).older_sibling = older;
            return;
        }
        // It was the newest of its file.
        let found = self.by_file.find_entry(key_hash::of_file(id.file), |blocks| blocks.file == id.file);
        let mut found = found.expect("a block is listed under its file");
        match older {
            Some(older) => found.get_mut().newest = older,
            None => drop(found.remove()),
        }
    }

    /// Checks every invariant, for tests and the simulator.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn validate(&self) {
        let entries =
            || self.slots.iter().enumerate().filter_map(|(slot, cell)| Some((slot as u32, cell.entry.as_ref()?)));
        assert_eq!(entries().count(), self.by_id.len());
        assert_eq!(self.vacant.len() + self.by_id.len(), self.slots.len());
        assert_eq!(entries().map(|(_, entry)| entry.bytes_held).sum::<u64>(), self.bytes_held);
        let mut listed = 0;
        for blocks in &self.by_file {
            assert!(self.entry(blocks.newest).newer_sibling.is_none());
            let mut slot = Some(blocks.newest);
            while let Some(at) = slot {
                assert_eq!(self.entry(at).id.file, blocks.file);
                if let Some(older) = self.entry(at).older_sibling {
                    assert_eq!(self.entry(older).newer_sibling, Some(at));
                }
                listed += 1;
                assert!(listed <= self.by_id.len(), "a list of blocks has a loop");
                slot = self.entry(at).older_sibling;
            }
        }
        assert_eq!(listed, self.by_id.len());
        for (slot, entry) in entries() {
            assert_eq!(self.find(entry.id), Some(slot));
            let grains = 0..entry.grain_count();
            assert!(grains.clone().all(|grain| !(entry.valid.contains(grain) && entry.flying.contains(grain))));
            assert_eq!(entry.is_complete, entry.valid.contains_all(grains.clone()));
            assert_eq!(entry.flights == 0, !entry.flying.contains_any(grains));
            assert!(entry.is_complete || !entry.is_exported);
            assert_eq!(entry.crcs.len(), (entry.length as usize).div_ceil(SECTOR_BYTES));
        }
        if let Some(victim) = self.policy.victim() {
            assert!(self.entry(victim).may_go(), "the policy names only blocks that may go");
        }
    }
}

/// The part of `len` bytes at `offset` that lies within a block of `length` bytes.
fn clip(offset: u32, len: u32, length: u32) -> Range<u32> {
    let start = offset.min(length);
    start..start.saturating_add(len).min(length)
}

const _: () = assert!(GRAIN_BYTES.is_multiple_of(SECTOR_BYTES), "a grain's checksums are its own");
