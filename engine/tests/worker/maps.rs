//! Blocks shown to local clients, and blocks that local clients write.

#![allow(unsafe_code)]

use crate::cluster::{BLOCK_BYTES, Cluster, HOUR_MS, KEY, MEMORY_BYTES, noise};
use crate::peer::Peer;
use citius_engine::store::verify_sectors;
use citius_wire::units::{BLOCK_BYTES_DEFAULT, PAGE_BYTES};
use citius_wire::{Handle, Load, Map, MapWrite, Resident, Right, Seal, Status, Warm, Work, WriteType};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::os::fd::{AsFd, OwnedFd};

/// A mapping of whole pages, as a client makes it.
struct Mapping {
    start: *mut u8,
    length: usize,
}

impl Mapping {
    fn new(descriptor: impl AsFd, length: usize, protection: ProtFlags) -> rustix::io::Result<Self> {
        let length = length.next_multiple_of(PAGE_BYTES);
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let start = unsafe { mmap(std::ptr::null_mut(), length, protection, MapFlags::SHARED, descriptor, 0)? };
        Ok(Self { start: start.cast(), length })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped until drop; a block that is shown does not change, and one that is written only by us.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: mapped for writing until drop, by this test alone: the worker does not touch it before the seal.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: ours, and borrowed by nobody.
        unsafe { munmap(self.start.cast(), self.length) }.unwrap();
    }
}

fn map(peer: &mut Peer, handle: Handle, index: u32, expected: &[u8]) -> (Mapping, OwnedFd) {
    let reply = peer.ask(&Map { handle, index }).unwrap();
    let descriptor = peer.descriptor();
    let mapping = Mapping::new(&descriptor, reply.length as usize, ProtFlags::READ).unwrap();
    let (bytes, tail) = mapping.bytes().split_at(reply.length as usize);
    assert!(bytes == expected);
    assert_eq!(verify_sectors(bytes, &reply.crcs), Ok(()));
    assert!(tail.iter().all(|&byte| byte == 0), "past the block there is nothing of anybody");
    (mapping, descriptor)
}

#[test]
fn blocks_and_small_objects_are_mapped_and_cannot_be_changed() {
    let cluster = Cluster::start();
    let (large, small) = (noise(BLOCK_BYTES as usize + 5000, 1), noise(5000, 2));
    let (large_right, small_right) = (cluster.put("large", &large), cluster.put("small", &small));
    let mut peer = cluster.unix();
    let (large_handle, small_handle) = (peer.attach(&large_right), peer.attach(&small_right));
    // In the slab first, beside others' bytes.
    assert!(peer.read(small_handle, 0, 5000).unwrap() == small);
    let whole = BLOCK_BYTES as usize;
    for (handle, index, expected) in
        [(large_handle, 0, &large[..whole]), (large_handle, 1, &large[whole..]), (small_handle, 0, &small[..])]
    {
        let (mapping, descriptor) = map(&mut peer, handle, index, expected);
        assert!(Mapping::new(&descriptor, 1, ProtFlags::READ | ProtFlags::WRITE).is_err(), "not for writing");
        assert!(rustix::fs::ftruncate(&descriptor, 0).is_err(), "nor cut under others");
        // A second map, and reads in frames, see the same.
        map(&mut peer, handle, index, expected);
        let start = u64::from(index) * u64::from(BLOCK_BYTES);
        assert!(peer.read(handle, start, 4096).unwrap() == expected[..4096]);
        drop(mapping);
    }
    assert_eq!(peer.ask(&Map { handle: large_handle, index: 2 }).unwrap_err().status, Status::InvalidArgument);
    let mut remote = cluster.tcp();
    let handle = remote.attach(&large_right);
    assert_eq!(remote.ask(&Map { handle, index: 0 }).unwrap_err().status, Status::Unsupported);
    assert_eq!(cluster.counters().maps, 6);
}

#[test]
fn what_is_mapped_stays_whole_though_it_is_evicted() {
    let cluster = Cluster::start();
    let count = 2 * MEMORY_BYTES / u64::from(BLOCK_BYTES);
    let bytes = noise(BLOCK_BYTES as usize, 3);
    let mut peer = cluster.unix();
    let mut held = Vec::new();
    for i in 0..count {
        let handle = peer.attach(&cluster.put(&format!("f{i}"), &bytes));
        let mapped = map(&mut peer, handle, 0, &bytes);
        // Half of the tier: hugepages that clients map are not there for others.
        if held.len() as u64 * u64::from(BLOCK_BYTES) < MEMORY_BYTES / 2 {
            held.push(mapped);
        }
    }
    let counters = cluster.counters();
    assert!(counters.evictions >= count / 2, "{counters:?}");
    assert!(held.iter().all(|(mapping, _)| mapping.bytes()[..bytes.len()] == bytes[..]));
    // The tier still takes others.
    let handle = peer.attach(&cluster.put("more", &bytes));
    assert!(peer.read(handle, 0, 4096).unwrap() == bytes[..4096]);
}

/// The story: a reader of a whole block gave up after 64 landings, and a block of 64 MiB is fetched in 128.
#[test]
fn a_block_of_many_pieces_is_loaded_whole() {
    let cluster = Cluster::start();
    let bytes = noise(48 << 20, 4);
    let mut right = cluster.put("f", &bytes);
    right.block_bytes = 64 << 20;
    let mut peer = cluster.unix();
    let handle = peer.attach(&right);
    peer.ask(&Load { handle, index: 0 }).unwrap();
    let resident = peer.ask(&Resident { handle }).unwrap().blocks;
    assert_eq!((resident.len(), resident[0].memory_bytes, resident[0].complete), (1, 48 << 20, true));
    assert_eq!(cluster.counters().fetched_bytes, 48 << 20);
    map(&mut peer, handle, 0, &bytes);
}

/// The story: blocks that were loaded at once each held the pages of a part, and all failed for want of the rest.
#[test]
fn blocks_that_do_not_fit_together_are_loaded_one_after_the_other() {
    let cluster = Cluster::start();
    let length = MEMORY_BYTES as usize / 5 * 2;
    let whole = |right| Right { block_bytes: BLOCK_BYTES_DEFAULT, ..right };
    let rights: Vec<_> = (0..12).map(|i| whole(cluster.put(&format!("f{i}"), &noise(length, i)))).collect();
    std::thread::scope(|scope| {
        let loads: Vec<_> = rights
            .iter()
            .map(|right| {
                let (mut peer, warm) = (cluster.unix(), Warm { capability: right.sign(&KEY), index: 0 });
                scope.spawn(move || peer.ask(&warm))
            })
            .collect();
        for load in loads {
            load.join().unwrap().unwrap();
        }
    });
    assert!(cluster.counters().evictions > 0, "they fit together, and this tested nothing");
}

#[test]
fn a_mapped_writer_hands_its_block_over_once_it_has_let_go() {
    let cluster = Cluster::start_beating(HOUR_MS);
    let mut peer = cluster.unix();
    let right = cluster.writing(1, WriteType::MustCache);
    let handle = peer.attach(&right);
    let bytes = noise(3_000_001, 5);
    peer.ask(&MapWrite { handle, index: 0 }).unwrap();
    let descriptor = peer.descriptor();
    // The answer may be lost: asked again, it is the same block.
    peer.ask(&MapWrite { handle, index: 0 }).unwrap();
    let again = peer.descriptor();
    let mut mapping = Mapping::new(&descriptor, BLOCK_BYTES as usize, ProtFlags::READ | ProtFlags::WRITE).unwrap();
    mapping.bytes_mut()[..bytes.len()].copy_from_slice(&bytes);
    assert!(Mapping::new(&again, 4096, ProtFlags::READ).unwrap().bytes()[..4096] == bytes[..4096]);
    let pinned = cluster.counters().memory_pinned_bytes;
    assert_eq!(pinned, u64::from(BLOCK_BYTES), "what is being written holds its room");

    let seal = Seal { handle, index: 0, length: bytes.len() as u32 };
    assert_eq!(peer.ask(&seal).unwrap_err().status, Status::Unavailable, "it is still mapped");
    drop(mapping);
    drop((descriptor, again));
    assert_eq!(
        peer.ask(&Seal { handle, index: 0, length: 4096 }).unwrap_err().status,
        Status::InvalidArgument,
        "there is more in it"
    );
    peer.ask(&seal).unwrap();
    peer.ask(&seal).unwrap();
    assert!(peer.read(handle, 0, 1 << 20).unwrap() == bytes[..1 << 20]);
    assert_eq!(peer.ask(&MapWrite { handle, index: 0 }).unwrap_err().status, Status::InvalidArgument);
    assert_eq!(cluster.counters().memory_pinned_bytes, 3 << 20, "and then only what its bytes need");
}

#[test]
fn the_memory_of_a_dead_writer_comes_back_with_the_drop_of_its_file() {
    let cluster = Cluster::start_beating(20);
    let right = cluster.writing(2, WriteType::MustCache);
    let mut peer = cluster.unix();
    let handle = peer.attach(&right);
    peer.ask(&MapWrite { handle, index: 0 }).unwrap();
    peer.write(handle, u64::from(BLOCK_BYTES), &noise(9 << 10, 6)).unwrap();
    drop(peer);
    assert!(cluster.counters().memory_pinned_bytes > u64::from(BLOCK_BYTES));
    cluster.order(Work::Drop { file: right.file });
    crate::cluster::wait_until("its memory is back", || {
        let counters = cluster.counters();
        (counters.memory_pinned_bytes, counters.memory_used_bytes) == (0, 0)
    });
}
