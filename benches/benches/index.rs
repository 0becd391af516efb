//! What a shard's bookkeeping costs: the lookup of a warm read, a fetch's beginning and end, an eviction.

#![allow(missing_docs, reason = "the macros of criterion make undocumented functions")]

use citius_engine::store::{BlockIndex, Lru};
use citius_wire::{BlockId, FileKey};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use std::hint::black_box;

/// Blocks in the index: what 4 TiB of default blocks are.
const BLOCKS: u32 = 65_536;
const BLOCK_BYTES: u32 = 64 << 20;
const GRAIN_BYTES: u32 = 32 << 10;

fn block(i: u32) -> BlockId {
    // Keys are hashes, so a bench's should look like ones.
    let mut key = [0; 16];
    key[..8].copy_from_slice(&u64::from(i).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    BlockId { file: FileKey(key), index: i % 16 }
}

fn crcs(grains: u32) -> Vec<u32> {
    vec![7; (grains * GRAIN_BYTES / 4096) as usize]
}

fn full(blocks: u32, length: u32) -> BlockIndex<u32, Lru> {
    let mut index = BlockIndex::new(u64::MAX);
    for i in 0..blocks {
        let id = block(i);
        assert!(index.insert(id, length, i, u64::from(length)).is_ok());
        let flight = index.begin_fetch(id, 0..length).expect("nothing flies yet");
        index.complete_fetch(flight, &crcs(length / GRAIN_BYTES));
    }
    index
}

fn lookups(c: &mut Criterion) {
    let mut index = full(BLOCKS, GRAIN_BYTES);
    let mut i = 0_u32;
    c.bench_function("index/lookup 4 KiB, random block of 65,536", |b| {
        b.iter(|| {
            i = i.wrapping_add(40_503) % BLOCKS;
            black_box(index.lookup(block(i), 8192, 4096).map(|hit| hit.crcs[0]).ok())
        });
    });
    let mut index = full(1, BLOCK_BYTES);
    c.bench_function("index/lookup 1 MiB, one whole block", |b| {
        b.iter(|| black_box(index.lookup(block(0), 3 << 20, 1 << 20).map(|hit| hit.crcs.len()).ok()));
    });
}

fn fetches(c: &mut Criterion) {
    let one = crcs(1);
    c.bench_function("index/fetch one grain: missing, begin, complete, invalidate", |b| {
        let mut index: BlockIndex<u32, Lru> = BlockIndex::new(u64::MAX);
        assert!(index.insert(block(0), BLOCK_BYTES, 0, 0).is_ok());
        b.iter(|| {
            let range = index.missing(block(0), 0..4096).remove(0);
            let flight = index.begin_fetch(block(0), range.clone()).expect("it was missing");
            black_box(index.complete_fetch(flight, &one));
            index.invalidate(block(0), range);
        });
    });
    c.bench_function("index/evict and insert", |b| {
        b.iter_batched_ref(
            || full(1024, GRAIN_BYTES),
            |index| {
                let evicted = index.evict().expect("all of them may go");
                assert!(index.insert(block(BLOCKS + 1), GRAIN_BYTES, 0, 0).is_ok());
                black_box(evicted.memory)
            },
            BatchSize::LargeInput,
        );
    });
}

criterion_group!(benches, lookups, fetches);
criterion_main!(benches);
