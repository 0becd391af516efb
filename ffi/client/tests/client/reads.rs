//! Reads by TCP, and what a client does about servers that fail.

use crate::server::{Misbehave, Server};
use crate::{BLOCK, config, connect, pattern};
use citius_client::{Client, Config, Local, Status};
use citius_wire::{Epoch, Failure, Kind, Persistence};
use proptest::prelude::*;
use std::time::Duration;

fn tcp(server: &Server) -> Client {
    connect(server, config(Local::Never))
}

fn read_all(client: &Client, path: &str) -> Vec<u8> {
    let file = client.open(path).unwrap();
    let mut bytes = vec![0; file.len() as usize];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

#[test]
fn sizes_around_every_unit_read_back() {
    let server = Server::start(2, "elsewhere");
    let client = tcp(&server);
    let block = BLOCK as usize;
    for length in [0, 1, 4095, 4096, 4097, 1 << 20, block - 1, block, block + 1, 3 * block + 12_345] {
        let bytes = pattern(length);
        let path = format!("/f{length}");
        server.put(&path, bytes.clone(), BLOCK);
        assert!(read_all(&client, &path) == bytes, "{length}");
    }
    assert_eq!(client.stats().inline_reads, 0);
    assert!(client.stats().tcp_reads > 0);
}

#[test]
fn reads_end_where_the_file_does() {
    let server = Server::start(1, "elsewhere");
    server.put("/f", pattern(10_000), BLOCK);
    let file = tcp(&server).open("/f").unwrap();
    let mut buffer = [0; 8192];
    assert_eq!(file.read_at(&mut buffer, 9_000).unwrap(), 1_000);
    assert_eq!(buffer[..1_000], pattern(10_000)[9_000..]);
    assert_eq!(file.read_at(&mut buffer, 10_000).unwrap(), 0);
    assert_eq!(file.read_at(&mut buffer, u64::MAX).unwrap(), 0);
    assert_eq!(file.read_at(&mut [], 0).unwrap(), 0);
    assert_eq!(file.read_exact_at(&mut buffer, 9_000).unwrap_err().status(), Status::InvalidArgument);
}

#[test]
fn many_small_ranges_are_pipelined_over_all_owners() {
    let server = Server::start(3, "elsewhere");
    let bytes = pattern(6 * BLOCK as usize);
    server.put("/f", bytes.clone(), BLOCK);
    let file = tcp(&server).open("/f").unwrap();
    let mut buffers = vec![[0; 100]; 2_000];
    let offset = |i: usize| (i * 6_007) as u64;
    let mut ranges: Vec<(u64, &mut [u8])> =
        buffers.iter_mut().enumerate().map(|(i, buffer)| (offset(i), &mut buffer[..])).collect();
    assert_eq!(file.readv(&mut ranges).unwrap(), 200_000);
    for (i, buffer) in buffers.iter().enumerate() {
        assert_eq!(buffer[..], bytes[offset(i) as usize..][..100]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Any ranges of any file, over several workers, by TCP, by socket and mapped, equal those of a byte vector.
    #[test]
    fn readv_equals_a_byte_vector(
        length in 1_usize..7_000_000,
        ranges in prop::collection::vec((0_u64..7_100_000, 0_usize..2_500_000), 1..8),
        way in 0..3,
    ) {
        let server = Server::start(3, "elsewhere");
        let bytes = pattern(length);
        server.put("/f", bytes.clone(), BLOCK);
        let local = if way == 0 { Local::Never } else { Local::Always };
        let client = connect(&server, Config { map: way == 2, ..config(local) });
        let file = client.open("/f").unwrap();
        let mut buffers: Vec<Vec<u8>> = ranges.iter().map(|(_, count)| vec![0; *count]).collect();
        let mut asked: Vec<(u64, &mut [u8])> =
            ranges.iter().zip(&mut buffers).map(|((offset, _), buffer)| (*offset, &mut buffer[..])).collect();
        let total = file.readv(&mut asked).unwrap();
        let mut expected_total = 0;
        for ((offset, count), buffer) in ranges.iter().zip(&buffers) {
            let start = (*offset as usize).min(length);
            let end = (start + count).min(length);
            expected_total += end - start;
            prop_assert!(buffer[..end - start] == bytes[start..end]);
            prop_assert!(buffer[end - start..].iter().all(|byte| *byte == 0), "nothing past the end is touched");
        }
        prop_assert_eq!(total, expected_total);
    }
}

#[test]
fn one_handle_serves_many_threads() {
    let server = Server::start(2, "elsewhere");
    let bytes = pattern(4 * BLOCK as usize);
    server.put("/f", bytes.clone(), BLOCK);
    for local in [Local::Never, Local::Always] {
        let client = connect(&server, Config { connections_max: 3, ..config(local) });
        let file = client.open("/f").unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8_usize {
                let (file, bytes) = (&file, &bytes);
                scope.spawn(move || {
                    let mut buffer = vec![0; 70_000];
                    for i in 0..60_usize {
                        let offset = (i * 104_729 + thread * 31_337) % (bytes.len() - buffer.len());
                        assert_eq!(file.read_at(&mut buffer, offset as u64).unwrap(), buffer.len());
                        assert!(buffer == bytes[offset..offset + 70_000]);
                    }
                });
            }
        });
    }
}

#[test]
fn wrong_epoch_brings_the_new_ring() {
    let server = Server::start(3, "elsewhere");
    server.set_ring(2, &[0]);
    let bytes = pattern(5 * BLOCK as usize);
    server.put("/f", bytes.clone(), BLOCK);
    let client = tcp(&server);
    assert!(read_all(&client, "/f") == bytes);
    let file = client.open("/f").unwrap();
    server.set_ring(3, &[0, 1, 2]);
    let mut found = vec![0; bytes.len()];
    file.read_at(&mut found, 0).unwrap();
    assert!(found == bytes);
    assert!(client.stats().wrong_epochs > 0);
    let before = client.stats().wrong_epochs;
    file.read_at(&mut found, 0).unwrap();
    assert_eq!(client.stats().wrong_epochs, before, "the new ring is kept");
}

#[test]
fn a_worker_that_left_is_replaced_by_the_new_ring() {
    let server = Server::start(2, "elsewhere");
    let bytes = pattern(4 * BLOCK as usize);
    server.put("/f", bytes.clone(), BLOCK);
    let client = tcp(&server);
    // The ring names an address where nobody listens; the next one does not.
    let mut gone = server.members[0].clone();
    gone.data_address = "127.0.0.1:1".into();
    gone.worker = citius_wire::WorkerId(77);
    let mut members = server.members.clone();
    members.push(gone);
    server.state.rings.lock().unwrap().push(citius_wire::Ring { epoch: Epoch(2), members });
    let file = client.open("/f").unwrap();
    let reader = std::thread::spawn(move || {
        let mut found = vec![0; file.len() as usize];
        file.read_at(&mut found, 0).map(|_| found)
    });
    std::thread::sleep(Duration::from_millis(50));
    server.set_ring(3, &[0, 1]);
    assert!(reader.join().unwrap().unwrap() == bytes);
}

#[test]
fn a_broken_connection_is_replaced() {
    let server = Server::start(1, "elsewhere");
    let bytes = pattern(BLOCK as usize);
    server.put("/f", bytes.clone(), BLOCK);
    let client = tcp(&server);
    let file = client.open("/f").unwrap();
    let mut found = vec![0; bytes.len()];
    for fault in [Misbehave::CloseBefore, Misbehave::CutPayload, Misbehave::CloseAfter] {
        server.inject(Kind::Read, [fault]);
        found.fill(0);
        assert_eq!(file.read_at(&mut found, 0).unwrap(), found.len());
        assert!(found == bytes);
    }
    assert!(client.stats().retries >= 3);
    // The handle belongs to its connection: a new one is attached anew.
    assert!(server.requests(Kind::Attach) >= 4);
}

#[test]
fn what_may_pass_is_tried_again_and_what_may_not_is_not() {
    let server = Server::start(1, "elsewhere");
    server.put("/f", pattern(100), BLOCK);
    let client = tcp(&server);
    let file = client.open("/f").unwrap();
    let fail = |status| Misbehave::Fail(Failure::new(status, "as told"));
    server.inject(Kind::Read, [fail(Status::Busy), fail(Status::Unavailable)]);
    let mut buffer = [0; 100];
    assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 100);
    let before = server.requests(Kind::Read);
    for status in [Status::DataLost, Status::PermissionDenied, Status::UnderStore, Status::Corrupt] {
        server.inject(Kind::Read, [fail(status)]);
        let error = file.read_at(&mut buffer, 0).unwrap_err();
        assert_eq!((error.status(), error.path(), error.message()), (status, Some("/f"), "as told"));
    }
    assert_eq!(server.requests(Kind::Read), before + 4);
}

#[test]
fn a_deadline_says_who_did_not_answer() {
    let server = Server::start(1, "elsewhere");
    server.put("/f", pattern(100), BLOCK);
    let client = connect(&server, Config { timeout: Duration::from_millis(300), ..config(Local::Never) });
    let file = client.open("/f").unwrap();
    server.inject(Kind::Read, [Misbehave::Delay(Duration::from_secs(3))]);
    let error = file.read_at(&mut [0; 100], 0).unwrap_err();
    assert_eq!(error.status(), Status::TimedOut);
    assert!(error.to_string().contains(&server.members[0].data_address), "{error}");
    assert!(error.to_string().contains("300ms"), "{error}");
}

#[test]
fn a_payload_that_does_not_match_is_fetched_anew_once() {
    let server = Server::start(1, "elsewhere");
    let bytes = pattern(300_000);
    server.put("/f", bytes.clone(), BLOCK);
    let client = tcp(&server);
    let file = client.open("/f").unwrap();
    for (offset, length) in [(0, 300_000), (100, 5), (4_095, 2), (123, 250_000)] {
        server.inject(Kind::Read, [Misbehave::Corrupt]);
        let mut found = vec![0; length];
        assert_eq!(file.read_at(&mut found, offset as u64).unwrap(), length);
        assert!(found == bytes[offset..offset + length]);
    }
    assert_eq!(client.stats().refetches, 4);
    server.inject(Kind::Read, [Misbehave::Corrupt, Misbehave::Corrupt]);
    let error = file.read_at(&mut [0; 100], 0).unwrap_err();
    assert_eq!(error.status(), Status::Corrupt);
    assert_eq!(error.exit_code(), citius_client::ExitCode::Integrity);
    // The connection was fine all along.
    assert_eq!(client.stats().connects, 2);
}

#[test]
fn a_replaced_file_is_followed_only_before_its_first_byte() {
    let server = Server::start(1, "elsewhere");
    let client = tcp(&server);
    server.put("/f", vec![1; 5_000], BLOCK);
    let (fresh, used) = (client.open("/f").unwrap(), client.open("/f").unwrap());
    let mut buffer = [0; 10];
    assert_eq!(used.read_at(&mut buffer, 0).unwrap(), 10);
    server.put("/f", vec![2; 7_000], BLOCK);
    let error = used.read_at(&mut buffer, 0).unwrap_err();
    assert_eq!(error.status(), Status::VersionChanged);
    assert_eq!(fresh.read_at(&mut buffer, 4_990).unwrap(), 10);
    assert_eq!((buffer, fresh.len()), ([2; 10], 7_000));
    assert_eq!(client.stats().reopens, 1);
    server.put("/f", vec![3; 7_000], BLOCK);
    assert_eq!(fresh.read_at(&mut buffer, 0).unwrap_err().status(), Status::VersionChanged);
}

#[test]
fn an_expired_capability_is_renewed_in_silence_once() {
    let server = Server::start(1, "elsewhere");
    let key = server.put("/f", pattern(5_000), BLOCK);
    let client = tcp(&server);
    let file = client.open("/f").unwrap();
    let expired = || Misbehave::Fail(Failure::new(Status::CapabilityExpired, "past its time"));
    let mut buffer = [0; 10];
    server.inject(Kind::Read, [expired()]);
    assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 10);
    assert_eq!((client.stats().reopens, server.requests(Kind::Attach)), (1, 2));
    server.inject(Kind::Read, [expired(), expired()]);
    assert_eq!(file.read_at(&mut buffer, 0).unwrap_err().status(), Status::CapabilityExpired);
    // The renewed right must be one to the same version.
    server.inject(Kind::Read, [expired()]);
    assert_ne!(server.put("/f", pattern(5_000), BLOCK), key);
    assert_eq!(file.read_at(&mut buffer, 0).unwrap_err().status(), Status::VersionChanged);
}

#[test]
fn an_unpersisted_file_is_read_by_the_ring_that_placed_it() {
    let server = Server::start(3, "elsewhere");
    let bytes = pattern(6 * BLOCK as usize);
    server.put_as("/m", bytes.clone(), BLOCK, Persistence::MemoryOnly, Epoch(1));
    server.set_ring(2, &[0]);
    let client = tcp(&server);
    assert!(read_all(&client, "/m") == bytes);
    assert_eq!(client.stats().wrong_epochs, 0);
    server.put_as("/lost", vec![1], BLOCK, Persistence::Lost, Epoch(1));
    assert_eq!(client.open("/lost").unwrap_err().status(), Status::DataLost);
}

#[test]
fn a_broken_protocol_is_an_error_and_not_retried() {
    let server = Server::start(1, "elsewhere");
    server.put("/f", pattern(100), BLOCK);
    let client = tcp(&server);
    let file = client.open("/f").unwrap();
    server.inject(Kind::Read, [Misbehave::WrongId]);
    assert_eq!(file.read_at(&mut [0; 10], 0).unwrap_err().status(), Status::Protocol);
    assert_eq!(file.read_at(&mut [0; 10], 0).unwrap(), 10);
}

#[test]
fn blocks_are_loaded_freed_and_found() {
    let server = Server::start(2, "elsewhere");
    server.put("/f", pattern(5 * BLOCK as usize), BLOCK);
    let client = tcp(&server);
    let file = client.open("/f").unwrap();
    file.load().unwrap();
    assert_eq!(server.requests(Kind::Load), 5);
    let resident = file.resident().unwrap();
    assert_eq!(resident.iter().map(|r| r.block.index).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!(file.free().unwrap(), 40, "two workers of two shards");
    let locations = file.locations(1..u64::MAX).unwrap();
    assert_eq!(locations.len(), 5);
    for (location, resident) in locations.iter().zip(&resident) {
        assert_eq!(location.worker, resident.worker);
    }
    assert!(file.locations(u64::MAX - 1..u64::MAX).unwrap().is_empty());
}

#[test]
fn handles_of_one_connection_are_bounded() {
    let server = Server::start(1, "elsewhere");
    let client = tcp(&server);
    server.put("/f", pattern(100), BLOCK);
    for i in 0..2_200 {
        let path = format!("/f{i}");
        server.put(&path, vec![i as u8; 10], BLOCK);
        let mut buffer = [0; 10];
        client.open(&path).unwrap().read_at(&mut buffer, 0).unwrap();
        assert_eq!(buffer, [i as u8; 10]);
    }
    let detached = server.state.detached.load(std::sync::atomic::Ordering::Relaxed);
    assert!((2_200 - 2 * 1_024..2_200).contains(&detached), "{detached}");
}
