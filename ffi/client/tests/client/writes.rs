//! Writers: every way in, every way to fail, and what an acknowledgement means.

use crate::server::{Misbehave, Server};
use crate::{BLOCK, config, connect, pattern};
use citius_client::{Client, Config, CreateOptions, Local, Operation, Persistence, Status, WriteType};
use citius_wire::{Failure, Kind};
use proptest::prelude::*;
use std::io::Write as _;
use std::sync::atomic::Ordering;

fn options(write_type: WriteType) -> CreateOptions {
    CreateOptions { write_type, block_bytes: BLOCK, ..CreateOptions::default() }
}

fn write(client: &Client, path: &str, bytes: &[u8], write_type: WriteType) -> citius_client::Written {
    let mut writer = client.create(path, options(write_type)).unwrap();
    writer.write_all(bytes).unwrap();
    writer.close().unwrap()
}

fn aborted(server: &Server) -> bool {
    server.state.mutations.lock().unwrap().iter().any(|operation| matches!(operation, Operation::Abort { .. }))
}

#[test]
fn every_write_type_by_every_way() {
    for local in [Local::Never, Local::Always] {
        let server = Server::start(3, "x");
        let client = connect(&server, config(local));
        for write_type in WriteType::ALL {
            for length in [0, 1, 1 << 20, (1 << 20) + 1, BLOCK as usize, 3 * BLOCK as usize + 5] {
                let (bytes, path) = (pattern(length), format!("/{}-{length}", write_type.name()));
                let written = write(&client, &path, &bytes, write_type);
                assert_eq!((written.length, written.path.as_str()), (length as u64, path.as_str()));
                assert!(*server.bytes_of(&path).unwrap() == bytes, "{path}");
                let file = client.open(&path).unwrap();
                assert_eq!(file.info().version, written.version);
                let in_memory = write_type == WriteType::MustCache;
                assert_eq!(file.info().persistence == Persistence::MemoryOnly, in_memory);
                let mut found = vec![0; length];
                file.read_at(&mut found, 0).unwrap();
                assert!(found == bytes);
            }
        }
        let stats = client.stats();
        assert!(stats.frame_write_bytes > 0);
        assert_eq!(stats.mapped_write_bytes > 0, local == Local::Always);
        assert!(!aborted(&server));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    /// However a file is cut into writes, it is their concatenation.
    #[test]
    fn any_cut_gives_the_same_file(cuts in prop::collection::vec(0_usize..3_000_000, 0..6), local: bool) {
        let server = Server::start(2, "x");
        let client = connect(&server, config(if local { Local::Always } else { Local::Never }));
        let bytes = pattern(cuts.iter().sum());
        let mut writer = client.create("/f", options(WriteType::CacheThrough)).unwrap();
        let mut rest = &bytes[..];
        for cut in cuts {
            let (part, tail) = rest.split_at(cut);
            writer.append(part).unwrap();
            rest = tail;
        }
        prop_assert_eq!(writer.close().unwrap().length, bytes.len() as u64);
        prop_assert!(*server.bytes_of("/f").unwrap() == bytes);
    }
}

#[test]
fn a_dropped_writer_leaves_nothing() {
    let server = Server::start(1, "x");
    let client = connect(&server, config(Local::Always));
    let mut writer = client.create("/f", options(WriteType::CacheThrough)).unwrap();
    writer.write_all(&pattern(5_000_000)).unwrap();
    drop(writer);
    assert!(aborted(&server));
    assert_eq!(client.stat("/f").unwrap_err().status(), Status::NotFound);
}

#[test]
fn the_first_failure_is_final() {
    for (kind, status) in [
        (Kind::Write, Status::NoSpace),
        (Kind::Seal, Status::Corrupt),
        (Kind::Stage, Status::UnderStore),
        (Kind::Publish, Status::Conflict),
    ] {
        let server = Server::start(1, "x");
        let client = connect(&server, config(Local::Never));
        server.inject(kind, [Misbehave::Fail(Failure::new(status, "as told"))]);
        let mut writer = client.create("/f", options(WriteType::CacheThrough)).unwrap();
        let first = writer.append(&pattern(3 * BLOCK as usize));
        if let Err(error) = &first {
            assert_eq!(error.status(), status);
            assert_eq!(writer.append(b"x").unwrap_err().status(), status);
            assert_eq!(std::io::Write::flush(&mut writer).unwrap_err().kind(), error.io_kind());
        }
        let error = writer.close().unwrap_err();
        assert_eq!((error.status(), error.path()), (status, Some("/f")), "{kind:?}");
        assert!(aborted(&server), "{kind:?}");
        assert!(server.bytes_of("/f").is_none());
    }
}

#[test]
fn a_connection_that_breaks_under_a_block_ends_the_file() {
    for local in [Local::Never, Local::Always] {
        let server = Server::start(1, "x");
        let client = connect(&server, config(local));
        server.inject(if local == Local::Never { Kind::Write } else { Kind::Seal }, [Misbehave::CloseBefore]);
        let mut writer = client.create("/f", options(WriteType::CacheThrough)).unwrap();
        let written = writer.append(&pattern(2 * BLOCK as usize + 1));
        let closed = writer.close();
        assert!(written.is_err() && closed.unwrap_err().status() == Status::Unavailable);
        assert!(aborted(&server) && server.bytes_of("/f").is_none());
    }
}

#[test]
fn staging_and_publishing_survive_broken_connections() {
    let server = Server::start(2, "x");
    let client = connect(&server, config(Local::Never));
    let busy = || Misbehave::Fail(Failure::new(Status::Busy, "not now"));
    server.inject(Kind::Stage, [Misbehave::CloseAfter, busy(), Misbehave::CloseBefore]);
    server.inject(Kind::Publish, [Misbehave::CloseAfter, busy()]);
    let bytes = pattern(9 * BLOCK as usize + 1);
    write(&client, "/f", &bytes, WriteType::Through);
    assert!(*server.bytes_of("/f").unwrap() == bytes);
    assert!(client.stats().retries >= 4 && !aborted(&server));
}

#[test]
fn a_lost_lease_ends_the_file() {
    let server = Server::start(1, "x");
    server.state.lease_ms.store(150, Ordering::Relaxed);
    let client = connect(&server, config(Local::Never));
    let mut kept = client.create("/kept", options(WriteType::CacheThrough)).unwrap();
    let mut gone = client.create("/gone", options(WriteType::CacheThrough)).unwrap();
    client.delete("/gone", false).unwrap();
    let error = loop {
        match gone.append(b"x") {
            Ok(()) => std::thread::yield_now(),
            Err(error) => break error,
        }
    };
    assert_eq!(error.status(), Status::Aborted);
    assert_eq!(gone.close().unwrap_err().status(), Status::Aborted);
    kept.append(b"still here").unwrap();
    kept.close().unwrap();
    let renewals = |operation: &&Operation| matches!(operation, Operation::Renew { .. });
    assert!(server.state.mutations.lock().unwrap().iter().filter(renewals).count() >= 1);
    assert_eq!(server.bytes_of("/kept").unwrap()[..], *b"still here");
}

#[test]
fn what_exists_is_replaced_only_on_request() {
    let server = Server::start(1, "x");
    let client = connect(&server, config(Local::Never));
    write(&client, "/f", b"old", WriteType::CacheThrough);
    let error = client.create("/f", options(WriteType::CacheThrough)).unwrap_err();
    assert_eq!((error.status(), error.path()), (Status::AlreadyExists, Some("/f")));
    let reader = client.open("/f").unwrap();
    let mut writer =
        client.create("/f", CreateOptions { overwrite: true, ..options(WriteType::CacheThrough) }).unwrap();
    writer.append(b"newer").unwrap();
    assert_eq!(reader.len(), 3, "until close the old version is there");
    writer.close().unwrap();
    assert_eq!(server.bytes_of("/f").unwrap()[..], *b"newer");
}

#[test]
fn a_worker_without_writable_maps_takes_frames() {
    let server = Server::start(1, "x");
    let client = connect(&server, config(Local::Always));
    let unsupported = || Misbehave::Fail(Failure::new(Status::Unsupported, "not on this backing"));
    server.inject(Kind::MapWrite, [unsupported(), unsupported()]);
    let bytes = pattern(2 * BLOCK as usize);
    write(&client, "/f", &bytes, WriteType::CacheThrough);
    assert!(*server.bytes_of("/f").unwrap() == bytes);
    assert_eq!(client.stats().mapped_write_bytes, 0);
    let off = connect(&server, Config { map: false, ..config(Local::Always) });
    write(&off, "/g", &bytes, WriteType::CacheThrough);
    assert!(*server.bytes_of("/g").unwrap() == bytes);
}
