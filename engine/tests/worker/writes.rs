//! Blocks of files being written, in frames.

use crate::cluster::{BLOCK_BYTES, Cluster, MEMORY_BYTES, noise};
use crate::peer::Peer;
use crate::reads::flip_first_bit_of_block;
use citius_wire::{
    Access, Failure, Handle, Origin, ReadMode, Resident, Right, Seal, Status, TRANSFER_BYTES_MAX, Work, Write,
    WriteType,
};

const MIB: usize = 1 << 20;

#[test]
fn a_block_grows_in_order_and_is_read_once_sealed() {
    let cluster = Cluster::start();
    let mut peer = cluster.tcp();
    let handle = peer.attach(&cluster.writing(1, WriteType::MustCache));
    let bytes = noise(5 * MIB + 77, 1);
    // Short first, so that the block outgrows the memory that it began with; not a multiple of anything.
    let mut at = 0;
    for length in [1, 4095, 100_000, MIB, 3 * MIB] {
        assert_eq!(
            peer.write(handle, at as u64 + 1, b"gap").unwrap_err().status,
            if at == 0 { Status::Aborted } else { Status::InvalidArgument }
        );
        peer.write(handle, at as u64, &bytes[at..at + length]).unwrap();
        at += length;
    }
    assert_eq!(peer.read(handle, 0, 1).unwrap_err().status, Status::InvalidArgument, "it is not sealed");
    let seal = |length: usize| Seal { handle, index: 0, length: length as u32 };
    assert_eq!(peer.ask(&seal(at + 1)).unwrap_err().status, Status::InvalidArgument);
    peer.write(handle, at as u64, &bytes[at..]).unwrap();
    peer.ask(&seal(bytes.len())).unwrap();
    peer.ask(&seal(bytes.len())).unwrap();
    assert_eq!(peer.ask(&seal(1)).unwrap_err().status, Status::InvalidArgument);
    assert_eq!(peer.ask(&Seal { handle, index: 1, length: 1 }).unwrap_err().status, Status::Aborted);
    assert_eq!(peer.write(handle, 0, b"again").unwrap_err().status, Status::InvalidArgument, "sealed is sealed");
    for (offset, length) in [(0, 4 * MIB), (4 * MIB, MIB + 77), (5 * MIB, 77)] {
        assert!(peer.read(handle, offset as u64, length as u32).unwrap() == bytes[offset..offset + length]);
    }
    let blocks = peer.ask(&Resident { handle }).unwrap().blocks;
    assert_eq!((blocks.len(), blocks[0].dirty, blocks[0].complete), (1, true, true));
}

#[test]
fn refused_writes_are_skipped_to_their_last_byte() {
    let cluster = Cluster::start();
    let mut peer = cluster.tcp();
    let right = cluster.writing(2, WriteType::MustCache);
    let handle = peer.attach(&right);
    let long = noise(TRANSFER_BYTES_MAX as usize + 1, 2);
    assert_eq!(peer.write(handle, 0, &long).unwrap_err().status, Status::InvalidArgument, "longer than a transfer");
    assert_eq!(peer.write(handle, 0, b"").unwrap_err().status, Status::InvalidArgument);
    let end = u64::from(BLOCK_BYTES) - 1;
    assert_eq!(peer.write(handle, end, b"xx").unwrap_err().status, Status::InvalidArgument, "across two blocks");
    assert_eq!(peer.write(handle, u64::MAX - 1, b"x").unwrap_err().status, Status::InvalidArgument);
    let mut reader = right.clone();
    reader.access = Access::Read;
    let reading = peer.attach(&reader);
    assert_eq!(peer.write(reading, 0, &long[..MIB]).unwrap_err().status, Status::PermissionDenied);
    peer.write(handle, 0, &long[..MIB]).unwrap();
}

/// The story: two requests at work on one block, which is what a retry on a new connection amounts to, put the bytes
/// of one beside the checksums of the other.
#[test]
fn the_same_write_on_two_connections_does_not_mix() {
    let cluster = Cluster::start();
    let right = cluster.writing(3, WriteType::MustCache);
    let (mut first, mut second) = (cluster.tcp(), cluster.tcp());
    let handles = (first.attach(&right), second.attach(&right));
    let bytes = noise(MIB, 3);
    // The first stops in the middle of its payload.
    let mut frame = Vec::new();
    let write = Write { handle: handles.0, offset: 0 };
    citius_wire::Encoder::default().request(&mut frame, 50, &write, bytes.len());
    first.send_bytes(&frame);
    first.send_bytes(&bytes[..MIB / 2]);
    crate::cluster::wait_until("the first has its block", || cluster.counters().memory_pinned_bytes > 0);
    let failure = second.write(handles.1, 0, &bytes[..100]).unwrap_err();
    assert_eq!(failure.status, Status::Busy, "{failure}");
    // It dies, and the second may go on.
    drop(first);
    crate::cluster::wait_until("the write is free", || second.write(handles.1, 0, &bytes).is_ok());
    second.ask(&Seal { handle: handles.1, index: 0, length: MIB as u32 }).unwrap();
    assert!(second.read(handles.1, 0, MIB as u32).unwrap() == bytes);
}

#[test]
fn a_file_dropped_under_its_writer_aborts_it_and_leaves_nothing() {
    let cluster = Cluster::start_beating(20);
    let right = cluster.writing(4, WriteType::MustCache);
    let mut peer = cluster.tcp();
    let handle = peer.attach(&right);
    peer.write(handle, 0, &noise(MIB, 4)).unwrap();
    peer.ask(&Seal { handle, index: 0, length: MIB as u32 }).unwrap();
    let second = u64::from(BLOCK_BYTES);
    let mut frame = Vec::new();
    citius_wire::Encoder::default().request(&mut frame, 60, &Write { handle, offset: second }, MIB);
    peer.send_bytes(&frame);
    peer.send_bytes(&noise(MIB, 5)[..MIB / 2]);
    cluster.order(Work::Drop { file: right.file });
    crate::cluster::wait_until("the sealed block is gone", || cluster.counters().blocks == 0);
    peer.send_bytes(&noise(MIB, 5)[MIB / 2..]);
    let answer = peer.receive().unwrap();
    assert_eq!((answer.id(), answer.read::<Write>().unwrap_err().status), (60, Status::Aborted));
    crate::cluster::wait_until("its memory is back", || {
        let counters = cluster.counters();
        (counters.memory_pinned_bytes, counters.memory_used_bytes) == (0, 0)
    });
}

#[test]
fn unpersisted_blocks_fill_the_tier_and_reads_go_past_it() {
    let cluster = Cluster::start();
    let mut peer = cluster.tcp();
    let (handle, failure) = fill(&mut peer, &cluster.writing(5, WriteType::MustCache));
    assert_eq!(failure.status, Status::NoSpace, "{failure}");
    assert!(failure.message.contains("64 MiB hold unpersisted files"), "{failure}");
    assert_eq!(cluster.counters().memory_pinned_bytes, MEMORY_BYTES);

    let other = noise(MIB, 7);
    let reading = peer.attach(&cluster.put("other", &other));
    for _ in 0..2 {
        assert!(peer.read(reading, 0, MIB as u32).unwrap() == other, "past the cache");
    }
    assert_eq!(peer.read(handle, 0, 4096).unwrap(), noise(4096, 6));
}

/// Writes a file until it fails, sealing its blocks; gives its handle and the failure.
fn fill(peer: &mut Peer, right: &Right) -> (Handle, Failure) {
    let handle = peer.attach(right);
    let piece = noise(TRANSFER_BYTES_MAX as usize, 6);
    let mut at = 0;
    loop {
        match peer.write(handle, at, &piece) {
            Ok(_) => at += piece.len() as u64,
            Err(failure) => return (handle, failure),
        }
        assert!(at <= MEMORY_BYTES, "more was taken in than there is room for");
        if at.is_multiple_of(u64::from(BLOCK_BYTES)) {
            let index = (at / u64::from(BLOCK_BYTES)) as u32 - 1;
            peer.ask(&Seal { handle, index, length: BLOCK_BYTES }).unwrap();
        }
    }
}

/// The story: a user deleted must-cache files to make room, as the message of a full tier says, and was told again that
/// it is full, until the next heartbeat.
#[test]
fn room_of_a_file_deleted_just_now_is_there_for_the_next_write() {
    let cluster = Cluster::start();
    let mut peer = cluster.tcp();
    let old = cluster.writing(7, WriteType::MustCache);
    fill(&mut peer, &old);
    let new = cluster.writing(8, WriteType::MustCache);
    let handle = peer.attach(&new);
    assert_eq!(peer.write(handle, 0, &noise(MIB, 9)).unwrap_err().status, Status::NoSpace);
    // The worker's next heartbeat is an hour away.
    cluster.leave_order(Work::Drop { file: old.file });
    peer.write(handle, 0, &noise(MIB, 9)).unwrap();
    peer.ask(&Seal { handle, index: 0, length: MIB as u32 }).unwrap();
    assert!(peer.read(handle, 0, MIB as u32).unwrap() == noise(MIB, 9));
}

#[test]
fn bytes_that_are_nowhere_else_are_lost_or_corrupt_and_said_so() {
    let cluster = Cluster::start();
    let mut peer = cluster.tcp();
    let mut right = cluster.writing(6, WriteType::MustCache);
    let handle = peer.attach(&right);
    let bytes = noise(9 * MIB, 8);
    for start in (0..9 * MIB).step_by(3 * MIB) {
        peer.write(handle, start as u64, &bytes[start..start + 3 * MIB]).unwrap();
    }
    peer.ask(&Seal { handle, index: 0, length: 9 << 20 }).unwrap();
    right.origin = Origin::Memory { epoch: citius_wire::Epoch(1) };
    right.access = Access::Read;
    right.length = u64::from(BLOCK_BYTES) + 4096;
    let reading = peer.attach(&right);
    assert_eq!(peer.read(reading, u64::from(BLOCK_BYTES), 4096).unwrap_err().status, Status::DataLost);
    flip_first_bit_of_block(&bytes[..16]);
    let failure = peer.read_as(ReadMode::Refetch, handle, 0, 4096).unwrap_err();
    assert_eq!(failure.status, Status::Corrupt, "{failure}");
    assert!(peer.read(handle, 4096, 4096).unwrap() == bytes[4096..8192], "the rest is as it was");
}
