//! The index against a naive twin, step by step, and the cases that have a story.

use super::*;
use citius_wire::units::{BLOCK_BYTES_DEFAULT, GRAIN_BYTES, SECTOR_BYTES, SECTORS_PER_GRAIN};
use citius_wire::{BlockId, FileKey};
use core::ops::Range;
use proptest::prelude::*;
use std::collections::BTreeMap;

const GRAIN: u32 = GRAIN_BYTES as u32;

type Index = BlockIndex<u32>;

fn id(file: u8, index: u32) -> BlockId {
    BlockId { file: FileKey([file; 16]), index }
}

fn crcs_for(bytes: &Range<u32>, seed: u32) -> Vec<u32> {
    let first = bytes.start as usize / SECTOR_BYTES;
    let last = (bytes.end as usize).div_ceil(SECTOR_BYTES);
    (first..last).map(|sector| seed.wrapping_add(sector as u32)).collect()
}

fn only(range: Range<u32>) -> Vec<Range<u32>> {
    std::iter::once(range).collect()
}

fn fetch(index: &mut Index, id: BlockId, range: Range<u32>, seed: u32) -> Fetched {
    let flight = index.begin_fetch(id, range).unwrap();
    let crcs = crcs_for(&flight.bytes(), seed);
    index.complete_fetch(flight, &crcs)
}

#[test]
fn a_cold_read_fetches_its_grains_and_then_hits() {
    let mut index = Index::new(u64::MAX);
    let block = id(1, 0);
    assert_eq!(index.lookup(block, 0, 1).unwrap_err(), Miss::Absent);
    index.insert(block, BLOCK_BYTES_DEFAULT, 77, 2 << 20).unwrap();
    assert_eq!(index.insert(block, 1, 78, 0), Err(78), "one block an id");
    let at = 10 * GRAIN + 5000;
    assert_eq!(index.lookup(block, at, 4096).unwrap_err(), Miss::Partial);
    assert_eq!(index.missing(block, at..at + 4096), only(10 * GRAIN..11 * GRAIN), "one grain for one small read");
    assert_eq!(fetch(&mut index, block, 10 * GRAIN..11 * GRAIN, 100), Fetched::Stored);
    let hit = index.lookup(block, at, 4096).unwrap();
    let sector = SECTOR_BYTES as u32;
    assert_eq!((hit.memory, hit.range), (&77, 10 * GRAIN + sector..10 * GRAIN + 3 * sector), "widened to sectors");
    let first = 10 * SECTORS_PER_GRAIN as u32 + 1;
    assert_eq!(hit.crcs, [100 + first, 100 + first + 1]);
    let stat = index.stat(block).unwrap();
    assert_eq!((stat.bytes_valid, stat.bytes_held, stat.state), (GRAIN, 2 << 20, BlockState::Filling));
}

/// Several reads are located before the first is answered: what happens to a block in between must not be answered.
#[test]
fn what_was_located_is_a_hit_only_while_it_is_here() {
    let mut index = Index::new(u64::MAX);
    let block = id(1, 0);
    let filled = |index: &mut Index, memory| {
        index.insert(block, 2 * GRAIN, memory, 0).unwrap();
        fetch(index, block, 0..2 * GRAIN, memory);
        index.locate(block, 0, 10).unwrap()
    };
    let first = filled(&mut index, 5);
    let last = index.locate(block, GRAIN + 1, GRAIN).unwrap();
    assert_eq!(index.hit(&first).unwrap().crcs, [5]);
    assert!(index.invalidate(block, GRAIN..GRAIN + 1));
    assert!(index.hit(&last).is_none(), "not valid any more");
    assert_eq!(*index.hit(&first).unwrap().memory, 5);
    index.remove(block).unwrap();
    assert!(index.hit(&first).is_none(), "gone");
    let again = filled(&mut index, 6);
    assert!(index.hit(&first).is_none(), "another block is in its place");
    assert_eq!(index.hit(&again).unwrap().crcs, [6]);
}

#[test]
fn missing_joins_neighbours_and_leaves_out_what_flies() {
    let mut index = Index::new(u64::MAX);
    let block = id(1, 3);
    let length = 20 * GRAIN + 17;
    index.insert(block, length, 0, 0).unwrap();
    let flight = index.begin_fetch(block, 4 * GRAIN..6 * GRAIN).unwrap();
    assert!(index.begin_fetch(block, 5 * GRAIN..6 * GRAIN).is_none(), "one flight a grain");
    assert!(index.begin_fetch(block, 20 * GRAIN..length + 1).is_none(), "nothing past the end");
    fetch(&mut index, block, 9 * GRAIN..10 * GRAIN, 0);
    assert_eq!(index.missing(block, 0..u32::MAX), [0..4 * GRAIN, 6 * GRAIN..9 * GRAIN, 10 * GRAIN..length]);
    assert!(index.is_flying(block, 5 * GRAIN..5 * GRAIN + 1) && !index.is_flying(block, 6 * GRAIN..7 * GRAIN));
    assert!(index.fail_fetch(flight));
    assert_eq!(index.missing(block, 4 * GRAIN..6 * GRAIN), only(4 * GRAIN..6 * GRAIN));
    for range in index.missing(block, 0..length) {
        fetch(&mut index, block, range, 0);
    }
    let stat = index.stat(block).unwrap();
    assert_eq!((stat.bytes_valid, stat.state), (length, BlockState::Complete));
    let hit = index.lookup(block, length - 1, 100).unwrap();
    assert_eq!((hit.range, hit.crcs.len()), (20 * GRAIN..length, 1), "the last sector is short");
    assert_eq!(index.lookup(block, length, 10).unwrap().crcs, [0u32; 0]);
    index.validate();
}

/// A fetch began, its block was evicted by a delete and the same block inserted again: the old fetch's bytes went to
/// memory that the new block does not have, so they must not make its grains valid.
#[test]
fn a_flight_that_outlives_its_block_touches_no_other() {
    let mut index = Index::new(u64::MAX);
    let block = id(1, 0);
    index.insert(block, GRAIN, 1, 0).unwrap();
    let flight = index.begin_fetch(block, 0..GRAIN).unwrap();
    assert_eq!(index.remove(block).unwrap().memory, 1);
    index.insert(block, GRAIN, 2, 0).unwrap();
    let second = index.begin_fetch(block, 0..GRAIN).unwrap();
    let crcs = crcs_for(&flight.bytes(), 0);
    assert_eq!(index.complete_fetch(flight, &crcs), Fetched::Gone);
    assert_eq!(index.lookup(block, 0, 1).unwrap_err(), Miss::Partial);
    assert_eq!(index.complete_fetch(second, &crcs), Fetched::Completed);
    index.validate();
}

#[test]
fn what_may_not_go_is_never_evicted() {
    let mut index = Index::new(100);
    for i in 0..4 {
        index.insert(id(1, i), GRAIN, i, 50).unwrap();
    }
    assert!(index.set_dirty(id(1, 0), true));
    assert!(index.pin(id(1, 1)) && index.pin(id(1, 1)) && index.unpin(id(1, 1)));
    let flight = index.begin_fetch(id(1, 2), 0..GRAIN).unwrap();
    assert_eq!(index.evict_for(0).unwrap().memory, 3);
    assert!(index.evict_for(0).is_none(), "150 of 100 held, and nothing may go");
    index.set_dirty(id(1, 0), false);
    assert!(index.fail_fetch(flight));
    assert_eq!(index.evict_for(0).unwrap().memory, 0);
    assert!(index.evict_for(0).is_none(), "100 of 100 held");
    assert_eq!(index.evict_for(1).unwrap().memory, 2);
    assert!(index.evict().is_none());
    index.validate();
}

#[test]
fn a_persisted_file_gets_its_new_key() {
    let mut index = Index::new(u64::MAX);
    for i in 0..3 {
        index.insert(id(1, i), GRAIN, i, 10).unwrap();
    }
    fetch(&mut index, id(1, 1), 0..GRAIN, 5);
    let flight = index.begin_fetch(id(1, 2), 0..GRAIN).unwrap();
    index.insert(id(2, 0), GRAIN, 90, 1).unwrap();
    index.insert(id(2, 7), GRAIN, 97, 1).unwrap();
    let displaced = index.rekey(FileKey([1; 16]), FileKey([2; 16]));
    assert_eq!(displaced.iter().map(|evicted| evicted.memory).collect::<Vec<_>>(), [90]);
    index.validate();
    assert_eq!(index.blocks_of(FileKey([1; 16])).count(), 0);
    let mut indexes: Vec<u32> = index.blocks_of(FileKey([2; 16])).map(|stat| stat.id.index).collect();
    indexes.sort_unstable();
    assert_eq!(indexes, [0, 1, 2, 7]);
    assert_eq!(index.lookup(id(2, 1), 0, 1).unwrap().memory, &1);
    let crcs = crcs_for(&flight.bytes(), 0);
    assert_eq!(index.complete_fetch(flight, &crcs), Fetched::Completed, "fetches under way go on");
    assert!(index.lookup(id(2, 2), 0, GRAIN).is_ok());
    assert!(index.rekey(FileKey([2; 16]), FileKey([2; 16])).is_empty());
    assert_eq!(index.remove_file(FileKey([2; 16])).len(), 4);
    assert!(index.is_empty() && index.bytes_held() == 0);
    index.validate();
}

#[test]
fn corrupt_grains_are_fetched_again_but_not_those_shown_to_clients() {
    let mut index = Index::new(u64::MAX);
    let block = id(1, 0);
    index.insert(block, 3 * GRAIN, 0, 0).unwrap();
    assert!(!index.set_exported(block), "not before it is complete");
    fetch(&mut index, block, 0..3 * GRAIN, 0);
    assert!(index.invalidate(block, GRAIN + 5..GRAIN + 6));
    assert_eq!(index.missing(block, 0..3 * GRAIN), only(GRAIN..2 * GRAIN));
    assert!(index.crcs(block).is_none());
    fetch(&mut index, block, GRAIN..2 * GRAIN, 0);
    assert_eq!(index.crcs(block).unwrap().len(), 3 * SECTORS_PER_GRAIN);
    assert!(index.set_exported(block));
    assert!(!index.invalidate(block, 0..1));
    assert_eq!(index.replace_memory(block, 5, 12), Some(0));
    assert_eq!((index.memory(block), index.bytes_held()), (Some(&5), 12));
    index.validate();
}

/// One step of a history. Small numbers, so that steps meet.
#[derive(Clone, Debug)]
enum Step {
    Insert { file: u8, block: u32, length: u32, bytes: u64 },
    Lookup { file: u8, block: u32, offset: u32, len: u32 },
    Begin { file: u8, block: u32, offset: u32, len: u32 },
    End { which: usize, is_good: bool },
    Dirty { file: u8, block: u32, is_dirty: bool },
    Pin { file: u8, block: u32, is_pin: bool },
    Invalidate { file: u8, block: u32, offset: u32, len: u32 },
    Account { file: u8, block: u32, bytes: u64 },
    Evict,
    Remove { file: u8, block: u32 },
    RemoveFile { file: u8 },
    Rekey { old: u8, new: u8 },
}

const LENGTH_MAX: u32 = 70 * GRAIN;

fn steps() -> impl Strategy<Value = Step> {
    let file = 0u8..3;
    let block = 0u32..3;
    let at = (file.clone(), block);
    let range = (0..LENGTH_MAX, 0..8 * GRAIN);
    prop_oneof![
        3 => (at.clone(), 1..LENGTH_MAX, 0..1000u64).prop_map(|((file, block), length, bytes)| Step::Insert { file, block, length, bytes }),
        4 => (at.clone(), range.clone()).prop_map(|((file, block), (offset, len))| Step::Lookup { file, block, offset, len }),
        6 => (at.clone(), range.clone()).prop_map(|((file, block), (offset, len))| Step::Begin { file, block, offset, len }),
        6 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(which, is_good)| Step::End { which, is_good }),
        1 => (at.clone(), any::<bool>()).prop_map(|((file, block), is_dirty)| Step::Dirty { file, block, is_dirty }),
        1 => (at.clone(), any::<bool>()).prop_map(|((file, block), is_pin)| Step::Pin { file, block, is_pin }),
        1 => (at.clone(), range).prop_map(|((file, block), (offset, len))| Step::Invalidate { file, block, offset, len }),
        1 => (at.clone(), 0..1000u64).prop_map(|((file, block), bytes)| Step::Account { file, block, bytes }),
        2 => Just(Step::Evict),
        1 => at.prop_map(|(file, block)| Step::Remove { file, block }),
        1 => file.clone().prop_map(|file| Step::RemoveFile { file }),
        1 => (file.clone(), file).prop_map(|(old, new)| Step::Rekey { old, new }),
    ]
}

/// What a grain is, in the twin.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Grain {
    Missing,
    Flying,
    Valid,
}

/// The naive twin of one block.
struct Naive {
    life: u32,
    length: u32,
    bytes: u64,
    grains: Vec<Grain>,
    crcs: Vec<u32>,
    is_dirty: bool,
    pins: u32,
    flights: u32,
}

impl Naive {
    fn may_go(&self) -> bool {
        !self.is_dirty && self.pins == 0 && self.flights == 0
    }

    fn grains_in(&self, offset: u32, len: u32) -> Vec<usize> {
        let end = offset.saturating_add(len).min(self.length);
        (0..self.grains.len())
            .filter(|g| *g as u32 * GRAIN < end && (*g as u32 + 1) * GRAIN > offset && offset < end)
            .collect()
    }
}

/// A map, a list in order of use, and nothing clever.
#[derive(Default)]
struct Twin {
    blocks: BTreeMap<BlockId, Naive>,
    /// Lives of the blocks that may go, the least recently used first.
    order: Vec<u32>,
    lives: u32,
}

impl Twin {
    fn change(&mut self, id: BlockId, change: impl FnOnce(&mut Naive)) -> bool {
        let Some(block) = self.blocks.get_mut(&id) else { return false };
        let before = block.may_go();
        change(block);
        let (after, life) = (block.may_go(), block.life);
        if before != after {
            self.order.retain(|other| *other != life);
            if after {
                self.order.push(life);
            }
        }
        true
    }

    fn remove(&mut self, id: BlockId) -> Option<u32> {
        let block = self.blocks.remove(&id)?;
        self.order.retain(|life| *life != block.life);
        Some(block.life)
    }

    fn with_life(&self, life: u32) -> Option<BlockId> {
        self.blocks.iter().find(|(_, block)| block.life == life).map(|(id, _)| *id)
    }
}

/// Runs a history on both, comparing every answer. The memory of a block is the number of its life.
#[allow(clippy::too_many_lines, reason = "one arm for each step, index and twin side by side")]
fn run(history: Vec<Step>) {
    let mut index = Index::new(5_000);
    let mut twin = Twin::default();
    let mut flights: Vec<(Flight, u32)> = Vec::new();
    for (time, step) in history.into_iter().enumerate() {
        match step {
            Step::Insert { file, block, length, bytes } => {
                let at = id(file, block);
                let life = twin.lives;
                twin.lives += 1;
                assert_eq!(index.insert(at, length, life, bytes).is_ok(), !twin.blocks.contains_key(&at));
                if let std::collections::btree_map::Entry::Vacant(vacant) = twin.blocks.entry(at) {
                    let grains = vec![Grain::Missing; length.div_ceil(GRAIN) as usize];
                    let crcs = vec![0; (length as usize).div_ceil(SECTOR_BYTES)];
                    vacant.insert(Naive { life, length, bytes, grains, crcs, is_dirty: false, pins: 0, flights: 0 });
                    twin.order.push(life);
                }
            }
            Step::Lookup { file, block, offset, len } => {
                lookup_on_both(&mut index, &mut twin, id(file, block), offset, len)
            }
            Step::Begin { file, block, offset, len } => {
                let at = id(file, block);
                let missing = index.missing(at, offset..offset.saturating_add(len));
                let naive = twin.blocks.get(&at).map(|b| {
                    let grains = b.grains_in(offset, len).into_iter().filter(|g| b.grains[*g] == Grain::Missing);
                    grains.map(|g| g as u32).collect::<Vec<_>>()
                });
                let grains: Vec<u32> =
                    missing.iter().flat_map(|range| range.start / GRAIN..range.end.div_ceil(GRAIN)).collect();
                assert_eq!(grains, naive.unwrap_or_default());
                assert!(
                    missing.windows(2).all(|pair| pair[0].end < pair[1].start),
                    "neighbours are joined: {missing:?}"
                );
                for range in missing {
                    let flight = index.begin_fetch(at, range.clone()).unwrap();
                    assert_eq!(flight.bytes(), range);
                    twin.change(at, |b| {
                        b.grains_in(range.start, range.end - range.start)
                            .into_iter()
                            .for_each(|g| b.grains[g] = Grain::Flying);
                        b.flights += 1;
                    });
                    flights.push((flight, twin.blocks[&at].life));
                }
            }
            Step::End { which, is_good } if !flights.is_empty() => {
                let (flight, life) = flights.swap_remove(which % flights.len());
                let bytes = flight.bytes();
                let crcs = crcs_for(&bytes, time as u32);
                let at = twin.with_life(life);
                if let Some(at) = at {
                    twin.change(at, |b| {
                        let now = if is_good { Grain::Valid } else { Grain::Missing };
                        b.grains_in(bytes.start, bytes.end - bytes.start).into_iter().for_each(|g| b.grains[g] = now);
                        if is_good {
                            let first = bytes.start as usize / SECTOR_BYTES;
                            b.crcs[first..first + crcs.len()].copy_from_slice(&crcs);
                        }
                        b.flights -= 1;
                    });
                }
                if is_good {
                    let expected = match at {
                        None => Fetched::Gone,
                        Some(at) if twin.blocks[&at].grains.iter().all(|g| *g == Grain::Valid) => Fetched::Completed,
                        Some(_) => Fetched::Stored,
                    };
                    assert_eq!(index.complete_fetch(flight, &crcs), expected);
                } else {
                    assert_eq!(index.fail_fetch(flight), at.is_some());
                }
            }
            Step::End { .. } => {}
            Step::Dirty { file, block, is_dirty } => {
                assert_eq!(
                    index.set_dirty(id(file, block), is_dirty),
                    twin.change(id(file, block), |b| b.is_dirty = is_dirty)
                );
            }
            Step::Pin { file, block, is_pin } => {
                let at = id(file, block);
                let pins = twin.blocks.get(&at).map_or(0, |b| b.pins);
                if is_pin {
                    assert_eq!(index.pin(at), twin.change(at, |b| b.pins += 1));
                } else if pins > 0 {
                    assert_eq!(index.unpin(at), twin.change(at, |b| b.pins -= 1));
                }
            }
            Step::Invalidate { file, block, offset, len } => {
                let at = id(file, block);
                let is_there = twin.change(at, |b| {
                    for g in b.grains_in(offset, len) {
                        if b.grains[g] == Grain::Valid {
                            b.grains[g] = Grain::Missing;
                        }
                    }
                });
                assert_eq!(index.invalidate(at, offset..offset.saturating_add(len)), is_there);
            }
            Step::Account { file, block, bytes } => {
                assert_eq!(index.account(id(file, block), bytes), twin.change(id(file, block), |b| b.bytes = bytes));
            }
            Step::Evict => {
                let expected = twin.order.first().copied();
                assert_eq!(index.evict().map(|evicted| evicted.memory), expected);
                if let Some(at) = expected.and_then(|life| twin.with_life(life)) {
                    twin.remove(at);
                }
            }
            Step::Remove { file, block } => {
                assert_eq!(index.remove(id(file, block)).map(|evicted| evicted.memory), twin.remove(id(file, block)));
            }
            Step::RemoveFile { file } => {
                let mut removed: Vec<u32> =
                    index.remove_file(FileKey([file; 16])).iter().map(|evicted| evicted.memory).collect();
                let mut expected: Vec<u32> = (0..3).filter_map(|block| twin.remove(id(file, block))).collect();
                removed.sort_unstable();
                expected.sort_unstable();
                assert_eq!(removed, expected);
            }
            Step::Rekey { old, new } => rekey_on_both(&mut index, &mut twin, old, new),
        }
        index.validate();
        assert_eq!(index.len(), twin.blocks.len());
        assert_eq!(index.bytes_held(), twin.blocks.values().map(|b| b.bytes).sum::<u64>());
    }
}

fn lookup_on_both(index: &mut Index, twin: &mut Twin, at: BlockId, offset: u32, len: u32) {
    let found = index.lookup(at, offset, len);
    let Some(block) = twin.blocks.get(&at) else {
        assert_eq!(found.unwrap_err(), Miss::Absent);
        return;
    };
    if block.may_go() {
        twin.order.retain(|life| *life != block.life);
        twin.order.push(block.life);
    }
    let is_here = block.grains_in(offset, len).iter().all(|g| block.grains[*g] == Grain::Valid);
    match found {
        Err(miss) => assert_eq!((miss, is_here), (Miss::Partial, false)),
        Ok(hit) => {
            assert!(is_here);
            assert_eq!(*hit.memory, block.life);
            let end = offset.saturating_add(len).min(block.length);
            if offset < end {
                assert!(hit.range.start <= offset && hit.range.end >= end && hit.range.end <= block.length);
                assert!(
                    (hit.range.start as usize).is_multiple_of(SECTOR_BYTES)
                        && offset - hit.range.start < SECTOR_BYTES as u32
                );
                let first = hit.range.start as usize / SECTOR_BYTES;
                assert_eq!(hit.crcs, &block.crcs[first..(hit.range.end as usize).div_ceil(SECTOR_BYTES)]);
            } else {
                assert!(hit.range.is_empty() && hit.crcs.is_empty());
            }
        }
    }
}

fn rekey_on_both(index: &mut Index, twin: &mut Twin, old: u8, new: u8) {
    let mut displaced: Vec<u32> =
        index.rekey(FileKey([old; 16]), FileKey([new; 16])).iter().map(|evicted| evicted.memory).collect();
    let mut expected = Vec::new();
    if old != new {
        for block in 0..3 {
            if let Some(moved) = twin.blocks.remove(&id(old, block)) {
                expected.extend(twin.remove(id(new, block)));
                twin.blocks.insert(id(new, block), moved);
            }
        }
    }
    displaced.sort_unstable();
    expected.sort_unstable();
    assert_eq!(displaced, expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn behaves_as_the_naive_twin(history in prop::collection::vec(steps(), 1..120)) {
        run(history);
    }
}
