//! The budgets of warm reads, held to by the kernel and by the allocator.
//!
//! Mapped: no system call, no allocation. A thread in strict seccomp may only read, write and exit: any other call
//! kills it. It makes 10,000 warm reads there and reports by a write to a pipe.
//!
//! TCP: two allocations for a 4 KiB read (its parts, its lanes), whatever the number of reads before.
#![allow(clippy::unwrap_used, unsafe_code, dead_code)]

#[path = "client/memory.rs"]
mod memory;
#[path = "client/server.rs"]
mod server;

use citius_client::{Client, Config, Endpoint, File, Local};
use server::{Server, TOKEN};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, FromRawFd as _};

const BLOCK: u32 = 2 << 20;
const READS: u64 = 10_000;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; a constant thread-local never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

fn open(server: &Server, local: Local) -> (Client, File, Vec<u8>) {
    let bytes: Vec<u8> =
        (0..3 * u64::from(BLOCK)).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 29) as u8).collect();
    server.put("/f", bytes.clone(), BLOCK);
    let endpoint = Endpoint { master: server.master.clone(), token: TOKEN };
    let client = Client::connect(endpoint, Config { local, ..Config::default() }).unwrap();
    let file = client.open("/f").unwrap();
    let mut all = vec![0; bytes.len()];
    file.read_at(&mut all, 0).unwrap();
    assert!(all == bytes);
    (client, file, bytes)
}

/// Reads of 4 KiB all over the file, and some that cross blocks. A sum of what was read, and the allocations.
fn read_warm(file: &File, buffer: &mut [u8]) -> [u64; 2] {
    let before = allocations();
    let mut sum = 0_u64;
    for i in 0..READS {
        let offset = i * 7_919_333 % (3 * u64::from(BLOCK) - buffer.len() as u64);
        match file.read_at(buffer, offset) {
            Ok(count) => {
                sum = sum.wrapping_mul(31).wrapping_add(u64::from(buffer[count - 1])).wrapping_add(count as u64)
            }
            Err(_) => return [0, u64::MAX],
        }
    }
    [sum, allocations() - before]
}

#[test]
fn warm_mapped_reads_make_no_call_and_no_allocation() {
    let server = Server::start(1, "x");
    let (client, file, bytes) = open(&server, Local::Always);
    assert_eq!(client.stats().maps, 3);
    let stats = client.stats();
    let mut buffer = [0; 4096];
    let expected = (0..READS).fold(0_u64, |sum, i| {
        let offset = (i * 7_919_333 % (bytes.len() as u64 - 4096)) as usize;
        sum.wrapping_mul(31).wrapping_add(u64::from(bytes[offset + 4095])).wrapping_add(4096)
    });
    assert_eq!(read_warm(&file, &mut buffer), [expected, 0]);

    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors.
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    // SAFETY: both descriptors are new and owned by nobody else.
    let (mut reader, writer) = unsafe { (std::fs::File::from_raw_fd(ends[0]), std::fs::File::from_raw_fd(ends[1])) };
    let writer_fd = writer.as_raw_fd();
    let in_jail = file.clone();
    // The thread ends by the bare exit call: the ordinary end of a thread makes calls that would kill it. So it is not
    // joined; its report is its end.
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        // SAFETY: no pointers are passed.
        let jailed = unsafe { libc::prctl(libc::PR_SET_SECCOMP, 1) };
        let mut report = [u64::MAX; 2];
        if jailed == 0 {
            report = read_warm(&in_jail, &mut buffer);
        }
        // SAFETY: the report is 16 bytes and lives until the call returns; exit ends this thread alone, whose stack
        // and values are given up.
        unsafe {
            libc::write(writer_fd, report.as_ptr().cast(), 16);
            libc::syscall(libc::SYS_exit, 0);
        }
    });
    let mut report = [0; 16];
    // A thread that was killed leaves no report: wait for it with a bound.
    let mut poll = libc::pollfd { fd: reader.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd is passed.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 30_000) };
    assert_eq!(ready, 1, "the jailed thread was killed: a warm mapped read made a system call");
    reader.read_exact(&mut report).unwrap();
    let word = |i: usize| u64::from_le_bytes(report[i * 8..][..8].try_into().unwrap());
    assert_eq!([word(0), word(1)], [expected, 0]);
    // Who mapped a block ahead counts that when the block is found already, and so perhaps only now.
    let mut counted = client.stats();
    counted.readaheads = stats.readaheads;
    assert_eq!(counted, stats, "nothing was even counted");
    drop(writer);
}

/// That the jail of the test above holds: a call that is not allowed ends the thread before its report.
#[test]
fn the_jail_kills() {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors.
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) }, 0);
    // SAFETY: both descriptors are new and owned by nobody else.
    let (mut reader, writer) = unsafe { (std::fs::File::from_raw_fd(ends[0]), std::fs::File::from_raw_fd(ends[1])) };
    let writer_fd = writer.as_raw_fd();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // SAFETY: no pointers but that of one byte of static memory are passed.
        unsafe {
            tell.send(libc::gettid()).unwrap();
            assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, 1), 0);
            libc::syscall(libc::SYS_getppid);
            libc::write(writer_fd, b"x".as_ptr().cast(), 1);
            libc::syscall(libc::SYS_exit, 0);
        }
    });
    // The kernel says when the thread is gone.
    let task = format!("/proc/self/task/{}", told.recv().unwrap());
    while std::path::Path::new(&task).exists() {
        std::thread::yield_now();
    }
    assert!(reader.read(&mut [0; 1]).is_err(), "the call was let through");
    drop(writer);
}

#[test]
fn a_warm_tcp_read_allocates_twice() {
    let server = Server::start(1, "x");
    let (_client, file, bytes) = open(&server, Local::Never);
    let mut buffer = [0; 4096];
    file.read_at(&mut buffer, 0).unwrap();
    let before = allocations();
    for i in 0..100 {
        file.read_at(&mut buffer, i * 8192).unwrap();
    }
    let count = allocations() - before;
    assert!(buffer == bytes[99 * 8192..][..4096]);
    assert_eq!(count, 200);
}
