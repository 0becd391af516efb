//! The memory tier on whatever pages this machine grants; each test prints which.
//!
//! The same code runs on all backings that are to be had. Where the system's hugepage pool is empty, hugepages are left
//! out; nothing here changes the pool.

use super::memfd::{Memfd, SEALS_IMMUTABLE};
use super::*;
use crate::ring::tests::block_on;
use crate::ring::{Ring, Span};
use citius_wire::units::PAGE_BYTES;
use rustix::fs::{self, FallocateFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mprotect, munmap};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(20);

/// Hugepages are one pool for all tests of this process, so the tests that take some take turns.
static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Runs `test` with a pool of `pages` pages of each backing that this machine has, and checks that all come back.
fn on_each_backing(pages: u32, test: impl Fn(&Ring, &PagePool)) {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for backing in [Backing::Hugetlb, Backing::Thp, Backing::Small] {
        let ring = Ring::new(64).unwrap();
        let bytes = u64::from(pages) * PAGE_BYTES as u64;
        match PagePool::start(ring.handle(), BackingChoice::Only(backing), bytes, 1) {
            Ok((pool, grant)) if grant.pages == pages => {
                println!("backing {backing}: {pages} pages");
                test(&ring, &pool);
                assert!(block_on(&ring, pool.wait_free(pages)), "all pages come back: {:?}", pool.usage());
                assert!(ring.drain(WAIT));
            }
            Ok((_, grant)) => println!("backing {backing}: skipped, only {} of {pages} pages", grant.pages),
            Err(error) => println!("backing {backing}: skipped, {error}"),
        }
    }
}

fn filled_block(ring: &Ring, pool: &PagePool, length: usize, seed: u8) -> Rc<BlockMem> {
    let block = BlockMem::new(pool, length).unwrap();
    block_on(ring, block.prepare(0..length)).unwrap();
    block.fill(0..length).unwrap().bytes_mut().iter_mut().enumerate().for_each(|(i, byte)| *byte = pattern(i, seed));
    block
}

fn pattern(i: usize, seed: u8) -> u8 {
    (i % 251) as u8 ^ seed
}

fn assert_pattern(bytes: &[u8], seed: u8) {
    assert!(bytes.iter().enumerate().all(|(i, byte)| *byte == pattern(i, seed)));
}

/// What a span holds, of memory that nothing writes at the moment.
fn copied(span: &Span) -> Vec<u8> {
    // SAFETY: the tests call this between fills, or on exported blocks.
    unsafe { span.bytes() }.to_vec()
}

/// A client's mapping of a descriptor.
struct ClientMap {
    start: *mut core::ffi::c_void,
    len: usize,
}

impl ClientMap {
    fn new(fd: &OwnedFd, len: usize, protection: ProtFlags) -> rustix::io::Result<Self> {
        // SAFETY: the kernel chooses the address.
        let start = unsafe { mmap(core::ptr::null_mut(), len, protection, MapFlags::SHARED, fd, 0)? };
        Ok(Self { start, len })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped and readable until drop.
        unsafe { core::slice::from_raw_parts(self.start.cast(), self.len) }
    }

    fn write(&self, at: usize, byte: u8) {
        assert!(at < self.len);
        // SAFETY: within the mapping; only tests that mapped it writable call this.
        unsafe { self.start.cast::<u8>().add(at).write_volatile(byte) };
    }
}

impl Drop for ClientMap {
    fn drop(&mut self) {
        // SAFETY: the mapping made above.
        unsafe { munmap(self.start, self.len).unwrap() };
    }
}

#[test]
fn best_backing_is_granted_and_explained() {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let ring = Ring::new(8).unwrap();
    let (pool, grant) = PagePool::start(ring.handle(), BackingChoice::Best, 64 << 20, 1).unwrap();
    println!("granted {grant:?}");
    assert_eq!(pool.backing(), grant.backing);
    assert_eq!(pool.usage().pages_free, grant.pages);
    match grant.note {
        Some(note) => assert!(note.contains("sysctl vm.nr_hugepages="), "{note}"),
        None => assert_eq!((grant.backing, grant.pages), (Backing::Hugetlb, 32)),
    }
}

#[test]
fn start_touches_no_memory() {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let ring = Ring::new(8).unwrap();
    // Far more than this machine has: counted, not touched, or granted as far as there are hugepages.
    let (pool, grant) = PagePool::start(ring.handle(), BackingChoice::Best, 1 << 42, 1).unwrap();
    println!("granted {} of {} pages", grant.pages, (1u64 << 42) / PAGE_BYTES as u64);
    assert_eq!(pool.usage().pages_used, 0);
}

#[test]
fn pages_are_allocated_one_by_one_and_come_back() {
    on_each_backing(8, |ring, pool| {
        let block = BlockMem::new(pool, 4 * PAGE_BYTES).unwrap();
        assert_eq!(block.bytes_allocated(), 0, "making a block allocates nothing");
        block_on(ring, block.prepare(PAGE_BYTES + 5..PAGE_BYTES + 6)).unwrap();
        assert_eq!(block.bytes_allocated(), PAGE_BYTES as u64, "of which one is wanted, one is allocated");
        assert_eq!((pool.usage().pages_used, pool.usage().pages_free), (1, 7));
        block_on(ring, block.prepare(PAGE_BYTES - 1..3 * PAGE_BYTES)).unwrap();
        assert_eq!(pool.usage().pages_used, 3);
        let mut fill = block.fill(PAGE_BYTES..2 * PAGE_BYTES).unwrap();
        fill.bytes_mut().fill(7);
        assert!(fill.bytes().iter().all(|byte| *byte == 7));
    });
}

#[test]
#[should_panic(expected = "not allocated")]
fn touching_an_absent_page_is_a_panic_and_no_signal() {
    let ring = Ring::new(8).unwrap();
    let (pool, _) = PagePool::start(ring.handle(), BackingChoice::Only(Backing::Small), 1 << 23, 1).unwrap();
    let block = BlockMem::new(&pool, 2 * PAGE_BYTES).unwrap();
    block_on(&ring, block.prepare(0..PAGE_BYTES)).unwrap();
    let _ = block.span(PAGE_BYTES - 1..PAGE_BYTES + 1);
}

#[test]
fn full_pool_is_an_error_until_something_goes() {
    on_each_backing(4, |ring, pool| {
        let first = BlockMem::new(pool, 3 * PAGE_BYTES).unwrap();
        block_on(ring, first.prepare(0..3 * PAGE_BYTES)).unwrap();
        let second = BlockMem::new(pool, 2 * PAGE_BYTES).unwrap();
        let error = block_on(ring, second.prepare(0..2 * PAGE_BYTES)).unwrap_err();
        assert!(matches!(error, MemError::NoPages { wanted_pages: 2, free_pages: 1 }), "{error}");
        assert!(!block_on(ring, pool.wait_free(2)), "nothing is on its way back");
        let lease = first.span(0..10);
        drop(first);
        assert!(block_on(ring, second.prepare(0..2 * PAGE_BYTES)).is_err(), "evicted, but a send still has it");
        drop(lease);
        block_on(ring, second.prepare(0..2 * PAGE_BYTES)).unwrap();
    });
}

#[test]
fn many_waiters_for_one_page_share_its_allocation() {
    on_each_backing(4, |ring, pool| {
        let block = BlockMem::new(pool, 4 * PAGE_BYTES).unwrap();
        let all = (0..50).map(|i| block.prepare((i % 4) * PAGE_BYTES..4 * PAGE_BYTES));
        for result in block_on(ring, futures::future::join_all(all)) {
            result.unwrap();
        }
        assert_eq!(pool.usage().pages_used, 4);
    });
}

#[test]
fn dropped_prepare_loses_no_page() {
    on_each_backing(4, |ring, pool| {
        let block = BlockMem::new(pool, 4 * PAGE_BYTES).unwrap();
        {
            let mut prepare = Box::pin(block.prepare(0..4 * PAGE_BYTES));
            let waker = std::task::Waker::noop();
            assert!(prepare.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
        }
        drop(block);
        assert!(ring.drain(WAIT));
        let usage = pool.usage();
        assert_eq!(usage.pages_free + usage.pages_recycled, 4, "{usage:?}");
    });
}

#[test]
fn block_never_shown_is_recycled_with_its_pages() {
    on_each_backing(8, |ring, pool| {
        let block = filled_block(ring, pool, 3 * PAGE_BYTES, 1);
        let address = block.span(0..1).as_ptr();
        drop(block);
        assert_eq!(pool.usage().pages_recycled, 3);
        let other_size = BlockMem::new(pool, 2 * PAGE_BYTES).unwrap();
        assert_eq!(other_size.bytes_allocated(), 0);
        let again = BlockMem::new(pool, 2 * PAGE_BYTES + 1).unwrap();
        assert_eq!(again.bytes_allocated(), 3 * PAGE_BYTES as u64);
        assert_eq!(again.span(0..1).as_ptr(), address);
        drop(again);
        block_on(ring, other_size.prepare(0..2 * PAGE_BYTES)).unwrap();
        let big = BlockMem::new(pool, 6 * PAGE_BYTES).unwrap();
        block_on(ring, big.prepare(0..6 * PAGE_BYTES)).unwrap();
        assert_eq!(pool.usage().pages_recycled, 0, "recycled pages make room when others want them");
    });
}

#[test]
fn exported_block_cannot_be_changed_by_anybody() {
    on_each_backing(8, |ring, pool| {
        let length = PAGE_BYTES + 4097;
        let block = filled_block(ring, pool, length, 3);
        let sending = block.span(0..length);
        block.export().unwrap();
        block.export().unwrap();
        assert_pattern(&copied(&sending), 3);
        let client = block.descriptor().unwrap();
        let map = ClientMap::new(&client, 2 * PAGE_BYTES, ProtFlags::READ).unwrap();
        assert_pattern(&map.bytes()[..length], 3);
        assert!(map.bytes()[length..].iter().all(|byte| *byte == 0));

        assert!(rustix::io::pwrite(&client, b"x", 0).is_err());
        assert!(fs::ftruncate(&client, 0).is_err());
        assert!(
            fs::fallocate(&client, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, PAGE_BYTES as u64)
                .is_err()
        );
        assert!(fs::fcntl_add_seals(&client, SealFlags::EXEC).is_err(), "nor sealed further");
        let writable = ProtFlags::READ | ProtFlags::WRITE;
        assert!(ClientMap::new(&client, 2 * PAGE_BYTES, writable).is_err(), "nor mapped for writing");
        let both = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: the range of the mapping above, which the kernel refuses to change.
        let made_writable = unsafe { mprotect(map.start, map.len, both) };
        assert_eq!(made_writable, Err(Errno::ACCESS));
        // The superuser may open it for writing whatever its mode, and then the seals are what stops it.
        let path = format!("/proc/self/fd/{}", client.as_raw_fd());
        match fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
            Err(error) => assert!(matches!(error, Errno::ACCESS | Errno::PERM), "{error}"),
            Ok(reopened) => {
                assert!(rustix::io::pwrite(&reopened, b"x", 0).is_err());
                assert!(fs::ftruncate(&reopened, 0).is_err());
                assert!(ClientMap::new(&reopened, PAGE_BYTES, writable).is_err());
            }
        }
        assert!(matches!(block.fill(0..1), Err(MemError::Busy)), "nor by the shard");

        // Eviction: the client still reads what it mapped, and the memfd is used for nothing else.
        drop((block, sending));
        assert!(ring.drain(WAIT));
        assert_eq!(pool.usage().pages_recycled, 0);
        let next = filled_block(ring, pool, length, 99);
        assert_pattern(&map.bytes()[..length], 3);
        drop(next);
    });
}

#[test]
fn export_waits_for_fills_and_clears_what_was_there() {
    on_each_backing(4, |ring, pool| {
        drop(filled_block(ring, pool, 2 * PAGE_BYTES, 0xAA));
        let block = BlockMem::new(pool, PAGE_BYTES + 10).unwrap();
        assert_eq!(block.bytes_allocated(), 2 * PAGE_BYTES as u64, "recycled, with another file's bytes");
        let fill = block.fill(0..4096).unwrap();
        assert!(matches!(block.fill(4095..4097), Err(MemError::Busy)), "one writer a byte");
        let (mut first, second) = fill.split_at(2048);
        first.bytes_mut().fill(1);
        drop(first);
        assert!(matches!(block.export(), Err(MemError::Busy)));
        drop(second);
        block.fill(0..PAGE_BYTES + 10).unwrap().bytes_mut().fill(2);
        block.export().unwrap();
        let map = ClientMap::new(&block.descriptor().unwrap(), 2 * PAGE_BYTES, ProtFlags::READ).unwrap();
        assert!(map.bytes()[..PAGE_BYTES + 10].iter().all(|byte| *byte == 2));
        assert!(map.bytes()[PAGE_BYTES + 10..].iter().all(|byte| *byte == 0), "nothing of another user is in it");
    });
}

#[test]
fn disk_reads_land_in_the_block() {
    on_each_backing(4, |ring, pool| {
        let file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..3_000_000).map(|i| pattern(i, 5)).collect();
        rustix::io::pwrite(&file, &content, 0).unwrap();
        let block = BlockMem::new(pool, content.len()).unwrap();
        block_on(ring, block.prepare(0..content.len())).unwrap();
        let file = Rc::new(file);
        let reads = (0..content.len()).step_by(1 << 20).map(|at| {
            let end = content.len().min(at + (1 << 20));
            ring.read_at(&file, block.fill(at..end).unwrap(), at as u64)
        });
        for (count, span) in block_on(ring, futures::future::join_all(reads)) {
            assert_eq!(count.unwrap(), span.len());
        }
        block.export().unwrap();
        assert_pattern(&copied(&block.span(0..content.len())), 5);
    });
}

#[test]
fn memory_outlives_eviction_while_the_kernel_writes_it() {
    on_each_backing(2, |ring, pool| {
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        let block = BlockMem::new(pool, PAGE_BYTES).unwrap();
        block_on(ring, block.prepare(0..PAGE_BYTES)).unwrap();
        let read = ring.read_at(Rc::new(near), block.fill(0..4096).unwrap(), 0);
        ring.flush().unwrap();
        drop(block);
        assert_eq!((pool.usage().pages_used, pool.usage().pages_recycled), (1, 0), "the receive still has it");
        rustix::io::write(&far, b"late").unwrap();
        let (count, span) = block_on(ring, read);
        assert_eq!((count.unwrap(), &span.bytes()[..4]), (4, &b"late"[..]));
    });
}

#[test]
fn lent_range_survives_eviction_and_comes_back_by_the_flag() {
    on_each_backing(2, |ring, pool| {
        let loans = Loans::default();
        let block = BlockMem::new(pool, PAGE_BYTES).unwrap();
        block_on(ring, block.prepare(0..PAGE_BYTES)).unwrap();
        let (mut lent, loan) = loans.lend(block.fill(0..32 << 10).unwrap()).ok().unwrap();
        drop((loan, block));
        assert_eq!(pool.usage().pages_used, 1);
        std::thread::spawn(move || lent.bytes_mut().fill(9)).join().unwrap();
        assert_eq!(pool.usage().pages_recycled, 0);
        assert_eq!(loans.collect(), 1);
        assert_eq!(pool.usage().pages_recycled, 1, "its last user gone, the block is");
    });
}

#[test]
fn local_writer_hands_over_a_block() {
    on_each_backing(4, |ring, pool| {
        let write = block_on(ring, LocalWrite::new(pool, 2 * PAGE_BYTES)).unwrap();
        let client = write.descriptor().unwrap();
        assert!(fs::ftruncate(&client, 0).is_err() && fs::ftruncate(&client, 8 * PAGE_BYTES as u64).is_err());
        let map = ClientMap::new(&client, 2 * PAGE_BYTES, ProtFlags::READ | ProtFlags::WRITE).unwrap();
        let length = PAGE_BYTES + 77;
        (0..length).for_each(|i| map.write(i, pattern(i, 4)));
        let Err((MemError::StillMapped, write)) = write.adopt(length) else { panic!("adopted under a writer") };
        map.write(0, pattern(0, 4));
        drop(map);
        let block = write.adopt(length).ok().unwrap();
        assert!(block.is_exported());
        assert_pattern(&copied(&block.span(0..length)), 4);
        assert!(rustix::io::pwrite(&client, b"x", 0).is_err(), "the writer's descriptor writes no more");
        assert!(ClientMap::new(&client, PAGE_BYTES, ProtFlags::READ | ProtFlags::WRITE).is_err());
        let reader = ClientMap::new(&block.descriptor().unwrap(), 2 * PAGE_BYTES, ProtFlags::READ).unwrap();
        assert_pattern(&reader.bytes()[..length], 4);
    });
}

#[test]
fn what_a_hostile_writer_hands_over_is_refused() {
    on_each_backing(4, |ring, pool| {
        let fresh = || block_on(ring, LocalWrite::new(pool, 2 * PAGE_BYTES)).unwrap();
        let refused = |write: LocalWrite, length: usize| match write.adopt(length) {
            Err((MemError::Refused { why }, _)) => why,
            Err((error, _)) => panic!("{error}"),
            Ok(_) => panic!("adopted"),
        };
        assert!(refused(fresh(), 2 * PAGE_BYTES + 1).contains("longer"));
        let write = fresh();
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fs::fallocate(write.descriptor().unwrap(), punch, 0, PAGE_BYTES as u64).unwrap();
        assert!(refused(write, PAGE_BYTES).contains("freed"));
        let write = fresh();
        let map =
            ClientMap::new(&write.descriptor().unwrap(), 2 * PAGE_BYTES, ProtFlags::READ | ProtFlags::WRITE).unwrap();
        map.write(100, 1);
        drop(map);
        assert!(refused(write, 100).contains("past"));
        let write = fresh();
        fs::fcntl_add_seals(write.descriptor().unwrap(), SealFlags::SEAL).unwrap();
        assert!(refused(write, 100).contains("sealed"));
    });
}

#[test]
fn slab_objects_share_pages_and_give_them_back() {
    on_each_backing(16, |ring, pool| {
        let slab = Slab::new(pool.clone());
        let lengths: Vec<usize> = (0..600).map(|i| [1, 4096, 4097, 20_000][i % 4]).collect();
        let objects: Vec<_> = lengths.iter().map(|length| block_on(ring, slab.object(*length)).unwrap()).collect();
        for (i, object) in objects.iter().enumerate() {
            object.fill(0..object.length()).unwrap().bytes_mut().fill(i as u8);
        }
        for (i, object) in objects.iter().enumerate() {
            assert!(copied(&object.span(0..object.length())).iter().all(|byte| *byte == i as u8));
        }
        let usage = slab.usage();
        println!("{usage:?}");
        assert_eq!((usage.objects, usage.segments), (600, 1));
        assert!(usage.pages <= 6, "600 small files in {} pages", usage.pages);
        let lease = objects[3].span(0..10);
        drop(objects);
        assert!(ring.drain(WAIT));
        assert_eq!((slab.usage().objects, slab.usage().pages), (1, 1), "the page under a lease stays");
        drop(lease);
        assert!(ring.drain(WAIT));
        assert_eq!(slab.usage().pages, 0);
    });
}

#[test]
fn slab_object_moves_to_a_block_to_be_mapped() {
    on_each_backing(8, |ring, pool| {
        let slab = Slab::new(pool.clone());
        let length = 3 * PAGE_BYTES + 123;
        let object = block_on(ring, slab.object(length)).unwrap();
        let mut fill = object.fill(0..length).unwrap();
        fill.bytes_mut().iter_mut().enumerate().for_each(|(i, byte)| *byte = pattern(i, 8));
        assert!(matches!(block_on(ring, object.to_block()), Err(MemError::Busy)));
        drop(fill);
        let block = block_on(ring, object.to_block()).unwrap();
        drop(object);
        block.export().unwrap();
        let map = ClientMap::new(&block.descriptor().unwrap(), 4 * PAGE_BYTES, ProtFlags::READ).unwrap();
        assert_pattern(&map.bytes()[..length], 8);
    });
}

#[test]
fn full_slab_refuses_and_recovers() {
    on_each_backing(4, |ring, pool| {
        let slab = Slab::new(pool.clone());
        let first = block_on(ring, slab.object(5 << 20)).unwrap();
        let error = block_on(ring, slab.object(5 << 20)).err().unwrap();
        assert!(matches!(error, MemError::NoPages { .. }), "{error}");
        assert_eq!(slab.usage().objects, 1, "what could not be allocated holds no slot");
        drop(first);
        block_on(ring, slab.object(5 << 20)).unwrap();
    });
}

#[test]
fn pages_that_others_took_are_owed_and_nothing_faults() {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let available = super::backing::hugepages_available() as u32;
    if !(8..=4096).contains(&available) {
        println!("skipped: {available} hugepages available, 8 to 4096 needed");
        return;
    }
    let ring = Ring::new(8).unwrap();
    let bytes = u64::from(available) * PAGE_BYTES as u64;
    let choice = BackingChoice::Only(Backing::Hugetlb);
    let (pool, grant) = PagePool::start(ring.handle(), choice, bytes, 1).unwrap();
    assert_eq!(grant.pages, available);
    assert_eq!(super::backing::hugepages_available(), 0, "all are reserved, though none is touched");
    let thief = Memfd::create(Backing::Hugetlb, "thief", PAGE_BYTES).unwrap();
    assert_eq!(fs::fallocate(&thief, FallocateFlags::empty(), 0, PAGE_BYTES as u64), Err(Errno::NOSPC));

    // Between the ballast's giving a page up and the block's taking it, the thief takes it.
    let block = BlockMem::new(&pool, 2 * PAGE_BYTES).unwrap();
    let mut prepare = Box::pin(block.prepare(0..PAGE_BYTES));
    let waker = std::task::Waker::noop();
    assert!(prepare.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
    fs::fallocate(&thief, FallocateFlags::empty(), 0, PAGE_BYTES as u64).unwrap();
    let error = block_on(&ring, prepare).unwrap_err();
    assert!(matches!(error, MemError::PagesLost { pages: 1, .. }), "{error}");
    assert_eq!((pool.usage().pages_owed, pool.usage().pages_free), (1, available - 1));
    block_on(&ring, block.prepare(0..2 * PAGE_BYTES)).unwrap();
    drop(thief);
    assert!(block_on(&ring, pool.wait_free(available - 2)), "what comes back to the system is reserved again");
    assert_eq!(pool.usage().pages_owed, 0);
    drop(block);
    assert!(block_on(&ring, pool.wait_free(available)));
}

#[test]
fn seals_of_an_exported_block() {
    let memfd = Memfd::create(Backing::Small, "test", PAGE_BYTES).unwrap();
    assert!(!memfd.seals().unwrap().contains(SealFlags::WRITE));
    memfd.seal(SEALS_IMMUTABLE).unwrap();
    assert!(memfd.seals().unwrap().contains(SEALS_IMMUTABLE));
    assert_eq!(fs::fstat(memfd.as_fd()).unwrap().st_mode & 0o7777, 0o400);
}
