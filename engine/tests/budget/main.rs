//! What warm reads over TCP cost a shard: system calls, by strace(1); allocations, by an allocator that counts those of
//! the shard's thread; copies, by a memcpy of our own that counts its bytes. The whole binary is one test, so that there
//! is one shard and nothing beside it.

#![allow(clippy::unwrap_used, unsafe_code, dead_code)]

#[path = "../worker/cluster.rs"]
mod cluster;
#[path = "../worker/peer.rs"]
mod peer;

use citius_wire::{Handle, Read, ReadMode};
use cluster::{Cluster, noise};
use peer::Peer;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

/// Batches that are counted.
const BATCHES: u64 = 100;
/// Receive, send, and the one sleep in the ring that both submits the next wait and waits.
const CALLS_PER_BATCH: u64 = 3;
/// Bytes that may be copied for a request of [`READ_BYTES`]: its head and the head of its answer, and no payload.
const COPIED_BYTES_PER_READ_MAX: u64 = 512;
/// Bytes of one read.
const READ_BYTES: u32 = 4096;
/// The thread whose costs are counted.
static COUNTED_THREAD: AtomicI32 = AtomicI32::new(0);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static COPIED_BYTES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static OWN: Cell<i32> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; what is done beside it allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if OWN.get() == 0 {
            OWN.set(rustix::thread::gettid().as_raw_nonzero().get());
        }
        if OWN.get() == COUNTED_THREAD.load(Ordering::Relaxed) {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
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

/// Takes the place of the C library's in all of this binary.
///
/// # Safety
/// As C's: both ranges are valid and do not overlap.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    // SAFETY: memmove asks for less.
    unsafe { memmove(to, from, length) }
}

/// As [`memcpy`], for ranges that may overlap.
///
/// # Safety
/// As C's: both ranges are valid.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    if OWN.get() != 0 && OWN.get() == COUNTED_THREAD.load(Ordering::Relaxed) {
        COPIED_BYTES.fetch_add(length as u64, Ordering::Relaxed);
    }
    let is_forward = to.cast_const() <= from;
    for i in 0..length {
        let at = if is_forward { i } else { length - 1 - i };
        // Volatile, or the compiler would make a call of memmove of it.
        // SAFETY: `at` is below the length, for which the caller vouches.
        unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
    }
    to
}

/// The thread of the only shard of this process.
fn shard_thread() -> i32 {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap().path());
    let named = |path: &std::path::PathBuf| {
        std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("citius-shard-0"))
    };
    // The executor's helper threads inherit the name; the shard's own thread is the oldest.
    let ids = threads.filter(named).map(|path| path.file_name().unwrap().to_str().unwrap().parse().unwrap());
    ids.min().expect("the shard has a thread")
}

/// A tracer of one thread.
struct Strace {
    child: Child,
    trace: tempfile::NamedTempFile,
}

impl Strace {
    fn attach(thread: i32) -> Self {
        // A hardened kernel lets a process be traced by its descendants only if it says so.
        rustix::process::set_ptracer(rustix::process::PTracer::Any).ok();
        let trace = tempfile::NamedTempFile::new().unwrap();
        let mut child = Command::new("strace")
            .args(["-p", &thread.to_string(), "-o"])
            .arg(trace.path())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace is needed to count system calls: install the package strace");
        let mut said = String::new();
        BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
        assert!(said.contains("attached"), "strace may not trace this process: {said}");
        Self { child, trace }
    }

    /// Lets go of the thread, and gives how often each call was made and, after a `!`, how often it would have blocked.
    fn finish(mut self) -> BTreeMap<String, u64> {
        let id = rustix::process::Pid::from_child(&self.child);
        // A signal that comes while strace is between two waits is lost on it.
        cluster::wait_until("strace lets go", || {
            rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
            self.child.try_wait().unwrap().is_some()
        });
        let mut calls = BTreeMap::new();
        for line in std::fs::read_to_string(self.trace.path()).unwrap().lines() {
            let Some((name, rest)) = line.split_once('(') else { continue };
            let name = name.trim_start_matches("<... ").to_owned();
            if rest.contains("EAGAIN") {
                *calls.entry(format!("{name}!")).or_default() += 1;
            } else {
                *calls.entry(name).or_default() += 1;
            }
        }
        calls
    }
}

/// Reads `depth` times at once, again and again, with one send a batch.
fn read_batches(peer: &mut Peer, handle: Handle, depth: u64, batches: u64) {
    for batch in 0..batches {
        let reads = (0..depth).map(|i| {
            let offset = (batch * depth + i) * 7 % 256 * u64::from(READ_BYTES);
            Read { handle, offset, length: READ_BYTES, mode: ReadMode::Cache }
        });
        peer.send_all(reads);
        for _ in 0..depth {
            let answer = peer.receive().unwrap();
            assert_eq!((answer.read::<Read>().unwrap().crcs.len(), answer.payload.len()), (1, READ_BYTES as usize));
        }
    }
}

/// What the shard's thread allocated and copied, in calls and bytes, while `work` was done.
fn memory_costs(shard: i32, work: impl FnOnce()) -> (u64, u64) {
    let now = || (ALLOCATIONS.load(Ordering::Relaxed), COPIED_BYTES.load(Ordering::Relaxed));
    COUNTED_THREAD.store(shard, Ordering::Relaxed);
    let before = now();
    work();
    let after = now();
    COUNTED_THREAD.store(0, Ordering::Relaxed);
    (after.0 - before.0, after.1 - before.1)
}

#[test]
fn warm_reads_over_tcp_keep_to_their_budget() {
    let cluster = Cluster::start();
    let right = cluster.put("f", &noise(1 << 20, 1));
    let mut peer = cluster.tcp();
    let handle = peer.attach(&right);
    let shard = shard_thread();
    let (_, copied) = memory_costs(shard, || drop(peer.read(handle, 0, 1 << 20).unwrap()));
    assert!(copied > 0, "copies are counted");
    for depth in [1, 32] {
        read_batches(&mut peer, handle, depth, 20);
        let (allocations, copied) = memory_costs(shard, || read_batches(&mut peer, handle, depth, BATCHES));
        let strace = Strace::attach(shard);
        read_batches(&mut peer, handle, depth, BATCHES);
        let calls = strace.finish();
        let count = |name: &str| calls.get(name).copied().unwrap_or(0);
        let all: u64 = calls.values().sum();
        // A batch that is cut in two by a full socket or a late packet costs a little more; it is rare.
        let rare = BATCHES / 10;
        let what = format!("at depth {depth}: {calls:?}, {allocations} allocations, {copied} bytes copied");
        assert!((BATCHES..=BATCHES + rare).contains(&count("recvfrom")), "one receive a batch, {what}");
        assert!((BATCHES..=BATCHES + rare).contains(&count("sendmsg")), "one send a batch, {what}");
        assert!(all <= BATCHES * CALLS_PER_BATCH + rare, "no other calls than the sleep's, {what}");
        assert!(allocations <= rare, "none a request, {what}");
        assert!(copied <= BATCHES * depth * COPIED_BYTES_PER_READ_MAX, "no payload is copied, {what}");
    }
}
