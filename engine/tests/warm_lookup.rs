//! A warm read finds its bytes without allocating: the index, the checksums and the span to send from.
//!
//! The allocator of this whole test binary counts, so it has one test and nothing beside it.

#![allow(unsafe_code)]

use citius_engine::ring::Ring;
use citius_engine::store::{BlockIndex, Fetched, Lru, sector_crcs, verify_sectors};
use citius_engine::tier::mem::{Backing, BackingChoice, Memory, PagePool, Slab};
use citius_wire::units::PAGE_BYTES;
use citius_wire::{BlockId, FileKey};
use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting touches a const-initialised thread-local, which
// itself allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn block_on<F: Future>(ring: &Ring, future: F) -> F::Output {
    let mut cx = Context::from_waker(Waker::noop());
    let mut future = pin!(future);
    for _ in 0..1000 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        assert!(ring.drain(Duration::from_secs(20)), "an operation never ends");
    }
    panic!("a future waits for nothing");
}

#[test]
fn warm_lookup_allocates_nothing() {
    let ring = Ring::new(16).unwrap();
    let only = BackingChoice::Only(Backing::Small);
    let (pool, _) = PagePool::start(ring.handle(), only, 16 * PAGE_BYTES as u64, 1).unwrap();
    let slab = Slab::new(pool.clone());
    let mut index: BlockIndex<Memory, Lru> = BlockIndex::new(u64::MAX);

    let lengths = [5 * PAGE_BYTES + 17, 10_000, 1];
    for (number, length) in lengths.into_iter().enumerate() {
        let id = BlockId { file: FileKey([number as u8; 16]), index: 0 };
        let memory = block_on(&ring, Memory::new(&pool, &slab, length)).unwrap();
        block_on(&ring, memory.prepare(0..length)).unwrap();
        let mut fill = memory.fill(0..length).unwrap();
        fill.bytes_mut().iter_mut().enumerate().for_each(|(at, byte)| *byte = (at % 253) as u8);
        let crcs = sector_crcs(fill.bytes());
        drop(fill);
        index.insert(id, length as u32, memory.clone(), memory.bytes_allocated()).ok().unwrap();
        let flight = index.begin_fetch(id, 0..length as u32).unwrap();
        assert_eq!(index.complete_fetch(flight, &crcs), Fetched::Completed);
    }

    let before = ALLOCATIONS.get();
    for round in 0..10_000u32 {
        let number = round as usize % lengths.len();
        let id = BlockId { file: FileKey([number as u8; 16]), index: 0 };
        let hit = index.lookup(id, (round * 4099) % lengths[number] as u32, 8192).unwrap();
        let span = hit.memory.span(hit.range.start as usize..hit.range.end as usize);
        // SAFETY: nothing fills these blocks any more.
        assert_eq!(verify_sectors(unsafe { span.bytes() }, hit.crcs), Ok(()));
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    assert!(ALLOCATIONS.get() > 0, "the counter counts");
    index.validate();
}
