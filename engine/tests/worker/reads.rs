//! Reads, warm and cold, over TCP.

use crate::cluster::{BLOCK_BYTES, Cluster, KEY, LATE_MOUNT, MEMORY_BYTES, noise};
use citius_engine::store::verify_sectors;
use citius_wire::units::GRAIN_BYTES;
use citius_wire::{
    Detach, Done, Free, Handle, MacKey, Place, Read, ReadMode, Resident, Right, Status, TRANSFER_BYTES_MAX, Warm,
};
use std::io::{Seek, SeekFrom, Write};

const GRAIN: u64 = GRAIN_BYTES as u64;

#[test]
fn a_cold_read_fetches_its_grains_and_a_warm_one_nothing() {
    let cluster = Cluster::start();
    let bytes = noise(40 << 20, 1);
    let right = cluster.put("f", &bytes);
    let mut peer = cluster.tcp();
    let handle = peer.attach(&right);
    for (offset, length, fetched) in [
        (0, 1, GRAIN),
        (100, 4000, GRAIN),
        (GRAIN - 1, 2, 2 * GRAIN),
        (20 << 20, 4096, 3 * GRAIN),
        ((40 << 20) - 1, 1, 4 * GRAIN),
    ] {
        let got = peer.read(handle, offset, length).unwrap();
        assert!(got == bytes[offset as usize..offset as usize + length as usize], "{length} bytes at {offset}");
        assert_eq!(cluster.counters().fetched_bytes, fetched, "after {length} bytes at {offset}");
    }
    let counters = cluster.counters();
    assert_eq!((counters.misses, counters.hits, counters.failures), (4, 1, 0));
    assert_eq!(counters.blocks, 3);
}

#[test]
fn many_readers_of_one_grain_make_one_fetch() {
    let cluster = Cluster::start();
    let bytes = noise(10 << 20, 2);
    let right = cluster.put("f", &bytes);
    let mut peers: Vec<_> = (0..4).map(|_| cluster.tcp()).collect();
    let handles: Vec<_> = peers.iter_mut().map(|peer| peer.attach(&right)).collect();
    for (peer, handle) in peers.iter_mut().zip(&handles) {
        let read = |i: u64| Read { handle: *handle, offset: i * 4096, length: 4096, mode: ReadMode::Cache };
        // From the last to the first, which is no run to be read ahead of.
        peer.send_all((0..8).rev().map(read));
    }
    for peer in &mut peers {
        for _ in 0..8 {
            let answer = peer.receive().unwrap();
            let reply = answer.read::<Read>().unwrap();
            assert!(answer.payload == bytes[reply.offset as usize..reply.offset as usize + 4096]);
        }
    }
    assert_eq!(cluster.counters().fetched_bytes, GRAIN);
}

#[test]
fn runs_are_read_ahead_and_random_reads_are_not() {
    let cluster = Cluster::start();
    let bytes = noise(16 << 20, 3);
    let right = cluster.put("f", &bytes);
    let mut peer = cluster.tcp();
    let handle = peer.attach(&right);
    for i in 0..16_u64 {
        let offset = (i * 7 % 16) << 20;
        peer.read(handle, offset, 4096).unwrap();
    }
    assert_eq!(cluster.counters().fetched_bytes, 16 * GRAIN, "jumps pay for their own grains only");
    let misses = cluster.counters().misses;
    for i in 0..512_u64 {
        let offset = i * GRAIN;
        let got = peer.read(handle, offset, GRAIN as u32).unwrap();
        assert!(got == bytes[offset as usize..offset as usize + GRAIN_BYTES]);
    }
    let misses = cluster.counters().misses - misses;
    assert!(misses < 512 / 4, "{misses} reads of a run of 512 waited");
    assert_eq!(cluster.counters().fetched_bytes, 16 << 20, "nothing is fetched twice");
}

#[test]
fn no_cache_keeps_nothing() {
    let cluster = Cluster::start();
    let bytes = noise(5 << 20, 4);
    let right = cluster.put("f", &bytes);
    let mut peer = cluster.tcp();
    let handle = peer.attach(&right);
    for round in 1..=2 {
        let got = peer.read_as(ReadMode::NoCache, handle, 8192, 8192).unwrap();
        assert!(got == bytes[8192..16384]);
        assert_eq!(cluster.counters().fetched_bytes, round * 8192, "exactly what was asked for, each time");
    }
    assert!(peer.ask(&Resident { handle }).unwrap().blocks.is_empty());
    peer.read(handle, 0, 1).unwrap();
    assert_eq!(peer.ask(&Resident { handle }).unwrap().blocks.len(), 1);
    assert_eq!(peer.ask(&Free { handle }).unwrap().bytes, GRAIN);
    assert!(peer.ask(&Resident { handle }).unwrap().blocks.is_empty());
}

/// The bit is flipped where hardware would: in the page, behind the worker's back.
/// What a worker answers to one that owns the block now: what it has, and nothing that it would have to fetch.
#[test]
fn a_read_of_what_is_resident_fetches_nothing() {
    let cluster = Cluster::start();
    let bytes = noise(3 << 20, 5);
    let right = cluster.put("f", &bytes);
    let mut peer = cluster.tcp();
    let handle = peer.attach(&right);
    let failure = peer.read_as(ReadMode::Resident, handle, 0, 4096).unwrap_err();
    assert_eq!((failure.status, cluster.counters().fetched_bytes), (Status::NotFound, 0));
    peer.read(handle, 0, 4096).unwrap();
    let fetched = cluster.counters().fetched_bytes;
    assert!(peer.read_as(ReadMode::Resident, handle, 0, 8192).unwrap() == bytes[..8192]);
    let past = 2 << 20;
    assert_eq!(peer.read_as(ReadMode::Resident, handle, past, 4096).unwrap_err().status, Status::NotFound);
    assert_eq!(cluster.counters().fetched_bytes, fetched);
}

#[test]
fn a_flipped_bit_is_found_and_fetched_anew() {
    let cluster = Cluster::start();
    let bytes = noise(9 << 20, 5);
    let right = cluster.put("f", &bytes);
    let mut peer = cluster.tcp();
    let handle = peer.attach(&right);
    peer.read(handle, 0, 4096).unwrap();
    // A reader who is wrong costs nothing but a look.
    assert!(peer.read_as(ReadMode::Refetch, handle, 0, 4096).unwrap() == bytes[..4096]);
    assert_eq!(cluster.counters().refetched_sectors, 0);

    flip_first_bit_of_block(&bytes[..16]);
    peer.send(&Read { handle, offset: 0, length: 4096, mode: ReadMode::Cache });
    let answer = peer.receive().unwrap();
    assert!(verify_sectors(&answer.payload, &answer.read::<Read>().unwrap().crcs).is_err(), "the test flips a bit");
    assert!(peer.read_as(ReadMode::Refetch, handle, 0, 4096).unwrap() == bytes[..4096]);
    assert_eq!(cluster.counters().refetched_sectors, 1);
    assert!(peer.read(handle, 0, 4096).unwrap() == bytes[..4096]);
}

/// Finds the block that begins with `start` among this process's memfds and flips its first bit.
pub(crate) fn flip_first_bit_of_block(start: &[u8]) {
    let mut memory = std::fs::File::options().read(true).write(true).open("/proc/self/mem").unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    for line in maps.lines().filter(|line| line.contains("/memfd:citius-block") && line.contains(" rw-s ")) {
        let address = u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
        let mut found = vec![0; start.len()];
        memory.seek(SeekFrom::Start(address)).unwrap();
        // Blocks of other tests come and go.
        if std::io::Read::read_exact(&mut memory, &mut found).is_ok() && found == start {
            memory.seek(SeekFrom::Start(address)).unwrap();
            memory.write_all(&[start[0] ^ 1]).unwrap();
            return;
        }
    }
    panic!("no block of this process begins so");
}

#[test]
fn who_may_not_is_told_why() {
    let cluster = Cluster::start();
    let right = cluster.put("f", &noise(8192, 6));
    let mut peer = cluster.tcp();
    let forged = peer.try_attach(&right.sign(&MacKey([1; 32]))).unwrap_err();
    assert_eq!(forged.status, Status::CapabilityForged);
    let mut expired = right.clone();
    expired.expires_ms = 1;
    assert_eq!(peer.try_attach(&expired.sign(&KEY)).unwrap_err().status, Status::CapabilityExpired);

    let handle = peer.attach(&right);
    for (offset, length) in [(0, 0), (8192, 1), (0, TRANSFER_BYTES_MAX + 1), (u64::MAX, 1)] {
        let failure = peer.read(handle, offset, length).unwrap_err();
        assert_eq!(failure.status, Status::InvalidArgument, "{length} bytes at {offset}: {failure}");
    }
    peer.ask(&Detach { handle }).unwrap();
    assert_eq!(peer.read(handle, 0, 1).unwrap_err().status, Status::InvalidArgument);
    assert_eq!(peer.write(handle, 0, b"x").unwrap_err().status, Status::InvalidArgument, "and its payload is skipped");
    let handle = peer.attach(&right);
    assert_eq!(peer.write(handle, 0, b"x").unwrap_err().status, Status::PermissionDenied);
    assert_eq!(peer.read(handle, 0, 8192).unwrap(), noise(8192, 6));
}

/// Who loads files that it does not read attaches none of them.
#[test]
fn a_block_is_brought_into_memory_by_its_capability_alone() {
    let cluster = Cluster::start();
    let bytes = noise(100_000, 9);
    let right = cluster.put("f", &bytes);
    let mut peer = cluster.tcp();
    let mut warm = |capability, index| peer.ask(&Warm { capability, index }).map_err(|failure| failure.status);
    assert_eq!(warm(right.sign(&MacKey([1; 32])), 0), Err(Status::CapabilityForged));
    let expired = Right { expires_ms: 1, ..right.clone() };
    assert_eq!(warm(expired.sign(&KEY), 0), Err(Status::CapabilityExpired));
    assert_eq!(warm(right.sign(&KEY), 1), Err(Status::InvalidArgument), "it has one block");
    assert_eq!(cluster.counters().fetched_bytes, 0);
    assert_eq!(warm(right.sign(&KEY), 0), Ok(Done {}));
    assert_eq!(cluster.counters().fetched_bytes, bytes.len() as u64);
    let handle = peer.attach(&right);
    assert_eq!(handle, Handle(0), "no handle was taken before");
    assert!(peer.read(handle, 0, 100_000).unwrap() == bytes);
    assert_eq!(cluster.counters().fetched_bytes, bytes.len() as u64, "what was loaded is read from memory");
}

#[test]
fn another_version_is_refused_and_never_mixed_in() {
    let cluster = Cluster::start();
    let right = cluster.put("f", &noise(1 << 20, 7));
    let mut peer = cluster.tcp();
    let handle = peer.attach(&right);
    assert!(peer.read(handle, 0, 4096).unwrap() == noise(1 << 20, 7)[..4096]);
    std::fs::write(cluster.folder.path().join("data/new"), noise(1 << 20, 8)).unwrap();
    std::fs::rename(cluster.folder.path().join("data/new"), cluster.folder.path().join("data/f")).unwrap();
    let failure = peer.read(handle, 512 << 10, 4096).unwrap_err();
    assert_eq!(failure.status, Status::VersionChanged, "{failure}");
    let handle = peer.attach(&cluster.right_to("f"));
    assert!(peer.read(handle, 512 << 10, 4096).unwrap() == noise(1 << 20, 8)[512 << 10..][..4096]);
}

#[test]
fn what_is_new_is_asked_for_once_it_is_met() {
    let cluster = Cluster::start();
    let mut right = cluster.put("f", &noise(4096, 9));
    right.mount = LATE_MOUNT;
    let mut peer = cluster.tcp();
    let handle = peer.attach(&right);
    assert!(peer.read(handle, 0, 4096).unwrap() == noise(4096, 9), "its mount is younger than the worker's view");
    right.mount = citius_wire::MountId(77);
    right.file.0[15] = 1;
    let handle = peer.attach(&right);
    assert_eq!(peer.read(handle, 0, 4096).unwrap_err().status, Status::NotFound);
}

#[test]
fn blocks_of_others_are_refused_with_the_ring() {
    let cluster = Cluster::start();
    let right = cluster.put("f", &noise(4096, 10));
    let ring = cluster.add_member();
    // The worker learns the ring when it meets what it does not know.
    let mut late = right.clone();
    late.mount = LATE_MOUNT;
    let mut peer = cluster.tcp();
    let handle = peer.attach(&late);
    peer.read(handle, 0, 1).ok();
    let (mut own, mut foreign) = (0, 0);
    for place in 0..32 {
        let mut right = right.clone();
        right.place = Place(place);
        right.file.0[15] = place as u8 + 1;
        let handle = peer.attach(&right);
        match peer.read(handle, 0, 4096) {
            Ok(bytes) => {
                assert!(bytes == noise(4096, 10));
                assert_eq!(ring.owner(Place(place), 0).unwrap().member, 0);
                own += 1;
            }
            Err(failure) => {
                assert_eq!((failure.status, failure.ring.as_deref()), (Status::WrongEpoch, Some(&ring)));
                foreign += 1;
            }
        }
    }
    assert!(own > 4 && foreign > 4, "{own} own, {foreign} of the other");
    assert!(cluster.counters().wrong_epochs >= foreign);
}

#[test]
fn what_does_not_fit_is_evicted_or_read_past_the_cache() {
    let cluster = Cluster::start();
    let files: Vec<_> = (0..8).map(|i| cluster.put(&format!("f{i}"), &noise(BLOCK_BYTES as usize, 20 + i))).collect();
    assert!(files.len() as u64 * u64::from(BLOCK_BYTES) > MEMORY_BYTES);
    let mut peer = cluster.tcp();
    for _ in 0..2 {
        for (i, right) in files.iter().enumerate() {
            let expected = noise(BLOCK_BYTES as usize, 20 + i as u64);
            let handle = peer.attach(right);
            for offset in (0..u64::from(BLOCK_BYTES)).step_by(TRANSFER_BYTES_MAX as usize) {
                let got = peer.read(handle, offset, TRANSFER_BYTES_MAX).unwrap();
                assert!(got == expected[offset as usize..][..TRANSFER_BYTES_MAX as usize], "file {i} at {offset}");
            }
        }
    }
    let counters = cluster.counters();
    assert!(counters.evictions >= 4, "{counters:?}");
    assert!(counters.memory_used_bytes <= MEMORY_BYTES);
}
