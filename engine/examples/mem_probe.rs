//! What the memory tier costs on this machine: `cargo run --release -p citius-engine --example mem_probe`.
//!
//! For each backing that the machine grants: allocating pages through the ring, exporting a block, recycling one, making
//! a small object, and reading a whole block for the first and the second time. Medians over rounds. It changes no
//! setting of the system; grow the hugepage pool first to see hugepages.

#![allow(unsafe_code)]

use citius_engine::ring::{Ring, RingHandle};
use citius_engine::tier::mem::{Backing, BackingChoice, BlockMem, PagePool, Slab};
use citius_wire::units::{BLOCK_BYTES_DEFAULT, PAGE_BYTES};
use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

const ROUNDS: usize = 15;
const BLOCK_BYTES: usize = BLOCK_BYTES_DEFAULT as usize;
/// Pages of the pool: three blocks, so that one may be on its way back while the next is made.
const POOL_BYTES: u64 = 3 * BLOCK_BYTES as u64;

fn main() {
    for backing in [Backing::Hugetlb, Backing::Thp, Backing::Small] {
        let ring = Ring::new(256).expect("io_uring");
        let began = Instant::now();
        match PagePool::start(ring.handle(), BackingChoice::Only(backing), POOL_BYTES, 1) {
            Ok((pool, grant)) if u64::from(grant.pages) * PAGE_BYTES as u64 == POOL_BYTES => {
                report(backing, "start of the pool, 96 pages", began.elapsed());
                probe(&ring, &pool);
            }
            Ok((_, grant)) => report_text(&format!("{backing}: left out, only {} pages", grant.pages)),
            Err(error) => report_text(&format!("{backing}: left out, {error}")),
        }
    }
}

fn probe(ring: &Ring, pool: &PagePool) {
    let backing = pool.backing();
    let (mut empty, mut page, mut whole, mut first, mut second, mut export, mut after, mut recycle) =
        (vec![], vec![], vec![], vec![], vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        let block = timed(&mut empty, || BlockMem::new(pool, BLOCK_BYTES).expect("a block"));
        timed(&mut page, || block_on(ring, block.prepare(0..1)).expect("a page"));
        timed(&mut whole, || block_on(ring, block.prepare(0..BLOCK_BYTES)).expect("all pages"));
        timed(&mut first, || block.fill(0..BLOCK_BYTES).expect("a fill").bytes_mut().fill(1));
        timed(&mut second, || block.fill(0..BLOCK_BYTES).expect("a fill").bytes_mut().fill(2));
        timed(&mut export, || block.export().expect("an export"));
        let span = block.span(0..BLOCK_BYTES);
        timed(&mut after, || {
            // SAFETY: an exported block is immutable.
            let bytes = unsafe { span.bytes() };
            std::hint::black_box(bytes.iter().step_by(4096).map(|byte| u32::from(*byte)).sum::<u32>())
        });
        drop((span, block));
        assert!(ring.drain(Duration::from_secs(20)), "the block's pages come back");
    }
    for _ in 0..ROUNDS {
        let block = BlockMem::new(pool, BLOCK_BYTES).expect("a block");
        block_on(ring, block.prepare(0..BLOCK_BYTES)).expect("all pages");
        drop(block);
        timed(&mut recycle, || {
            let block = BlockMem::new(pool, BLOCK_BYTES).expect("a block");
            block_on(ring, block.prepare(0..BLOCK_BYTES)).expect("all pages");
        });
    }
    let slab = Slab::new(pool.clone());
    block_on(ring, pool.wait_free(64));
    let mut small = vec![];
    let make = |times: &mut Vec<Duration>| timed(times, || block_on(ring, slab.object(4096)).expect("an object"));
    let objects: Vec<_> = (0..10_000).map(|_| make(&mut small)).collect();

    report(backing, "memfd of 64 MiB, sealed and mapped", median(empty));
    report(backing, "one page, alone", median(page));
    report(backing, "31 pages, together", median(whole));
    report(backing, "first write of 64 MiB", median(first));
    report(backing, "second write of 64 MiB", median(second));
    report(backing, "export of 64 MiB", median(export));
    report(backing, "first touch of each 4 KiB after it", median(after));
    report(backing, "recycled block, all pages", median(recycle));
    report(backing, "small object of 4 KiB", median(small));
    report_text(&format!("{backing}: {:?}", slab.usage()));
    drop(objects);
    ring.drain(Duration::from_secs(20));
}

fn timed<T>(times: &mut Vec<Duration>, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = work();
    times.push(began.elapsed());
    result
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn report(backing: Backing, what: &str, took: Duration) {
    report_text(&format!("{:8} {what:40} {:>10.1} us", backing.to_string(), took.as_secs_f64() * 1e6));
}

#[allow(clippy::print_stdout)]
fn report_text(text: &str) {
    println!("{text}");
}

/// Drives one future on this thread, sleeping in the ring as a shard does.
fn block_on<F: Future>(ring: &RingHandle, future: F) -> F::Output {
    let mut cx = Context::from_waker(Waker::noop());
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        ring.flush().expect("a flush");
        if ring.reap() == 0 {
            ring.sleep(None);
            ring.reap();
        }
    }
}
