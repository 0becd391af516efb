//! The hot path allocates nothing in steady state: neither writing the answer to a read, nor reading the question.

#![allow(clippy::unwrap_used)]
#![allow(unsafe_code)]

use citius_wire::{Encoder, Flags, FrameBuffer, Handle, Kind, Read, ReadMode, ReadReply, ReadReplyView};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, counting what this thread asks of it.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; the counter is a constant-initialised thread-local,
// which neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ROUNDS: u64 = 100;

/// Allocations of `ROUNDS` rounds that follow one that warms up.
fn steady_allocations(mut round: impl FnMut()) -> u64 {
    round();
    let before = ALLOCATIONS.get();
    (0..ROUNDS).for_each(|_| round());
    ALLOCATIONS.get() - before
}

#[test]
fn the_counter_counts() {
    let count = steady_allocations(|| drop(std::hint::black_box(vec![1_u8; 100])));
    assert_eq!(count, ROUNDS);
}

#[test]
fn writing_a_reply_of_one_sector() {
    let crcs = [0xdead_beef_u32; 1024];
    let (mut encoder, mut out) = (Encoder::default(), Vec::new());
    // 1 MiB reads carry 256 checksums; the longest carry 1,024.
    for sectors in [1, 256, 1024] {
        let count = steady_allocations(|| {
            out.clear();
            let view = ReadReplyView { offset: 4096, crcs: &crcs[..sectors] };
            encoder.encode(&mut out, Kind::Read, Flags::REPLY, 7, &view, 4096);
        });
        assert_eq!(count, 0, "{sectors} sectors");
    }
}

#[test]
fn writing_and_reading_a_request() {
    let read = Read { handle: Handle(1), length: 4096, offset: 8192, mode: ReadMode::Cache };
    let (mut encoder, mut out, mut buffer) = (Encoder::default(), Vec::new(), FrameBuffer::new(4096));
    let mut offsets = 0;
    let count = steady_allocations(|| {
        out.clear();
        for id in 0..32 {
            encoder.request(&mut out, id, &read, 0);
        }
        buffer.spare()[..out.len()].copy_from_slice(&out);
        buffer.filled(out.len());
        while let Some(head) = buffer.next_head().unwrap() {
            let read = head.access::<Read>().unwrap();
            offsets += read.offset.to_native();
        }
    });
    assert_eq!(count, 0);
    assert_eq!(offsets, 8192 * 32 * (ROUNDS + 1));
}

#[test]
fn reading_a_reply_in_place() {
    let mut frame = Vec::new();
    Encoder::default().encode(&mut frame, Kind::Read, Flags::REPLY, 7, &ReadReplyView { offset: 0, crcs: &[1, 2] }, 0);
    let mut buffer = FrameBuffer::new(4096);
    let mut sum = 0;
    let count = steady_allocations(|| {
        buffer.spare()[..frame.len()].copy_from_slice(&frame);
        buffer.filled(frame.len());
        let head = buffer.next_head().unwrap().unwrap();
        sum += head.access::<ReadReply>().unwrap().crcs.iter().map(|crc| u64::from(crc.to_native())).sum::<u64>();
    });
    assert_eq!(count, 0);
    assert_eq!(sum, 3 * (ROUNDS + 1));
}
