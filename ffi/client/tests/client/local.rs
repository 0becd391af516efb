//! Reads beside the worker: the Unix socket, mapped blocks, and when which is used.

use crate::server::{Misbehave, Server};
use crate::{BLOCK, config, connect, pattern};
use citius_client::{Client, Config, File, Local, Status};
use citius_wire::{Failure, Kind};
use std::time::Duration;

fn near(server: &Server) -> Client {
    connect(server, Config { readahead_blocks: 0, ..config(Local::Always) })
}

fn check(file: &File, bytes: &[u8], offset: usize, length: usize) {
    let mut found = vec![0; length];
    assert_eq!(file.read_at(&mut found, offset as u64).unwrap(), length);
    assert!(found == bytes[offset..offset + length], "{length} bytes at {offset}");
}

#[test]
fn who_is_local_is_found_out() {
    let here = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let server = Server::start(1, &here);
    let bytes = pattern(100);
    server.put("/f", bytes.clone(), BLOCK);
    let by = |local| {
        let client = connect(&server, config(local));
        check(&client.open("/f").unwrap(), &bytes, 0, 100);
        (client.stats().inline_reads, client.stats().tcp_reads)
    };
    assert_eq!(by(Local::Auto), (1, 0));
    assert_eq!(by(Local::Never), (0, 1));
    // Nobody listens on the socket: TCP instead, unless that was forbidden.
    server.remove_sockets();
    assert_eq!(by(Local::Auto), (0, 1));
    let client = connect(&server, Config { timeout: std::time::Duration::from_millis(200), ..config(Local::Always) });
    let error = client.open("/f").unwrap().read_at(&mut [0; 10], 0).unwrap_err();
    assert_eq!(error.status(), Status::Unavailable);
    assert!(error.to_string().contains(&server.members[0].socket_path), "{error}");
}

#[test]
fn one_small_cold_read_does_not_map() {
    let server = Server::start(1, "x");
    let bytes = pattern(3 * BLOCK as usize);
    server.put("/f", bytes.clone(), BLOCK);
    let client = near(&server);
    let file = client.open("/f").unwrap();
    check(&file, &bytes, 5_000, 4_096);
    let stats = client.stats();
    assert_eq!((stats.maps, stats.inline_reads, server.requests(Kind::Map)), (0, 1, 0));
    assert!(stats.inline_bytes <= 2 * 4_096, "only the sectors it touches");
    // Again and again in one block, it is worth it.
    for i in 0..4 {
        check(&file, &bytes, i * 50_000, 4_096);
    }
    assert_eq!(client.stats().maps, 1);
}

#[test]
fn large_and_sequential_reads_map_and_each_block_once() {
    let server = Server::start(2, "x");
    let bytes = pattern(4 * BLOCK as usize + 77);
    server.put("/f", bytes.clone(), BLOCK);
    let client = near(&server);
    let file = client.open("/f").unwrap();
    check(&file, &bytes, 0, bytes.len());
    let stats = client.stats();
    assert_eq!((stats.maps, stats.inline_reads), (4, 1), "77 bytes are not worth a map");
    let again = client.open("/f").unwrap();
    check(&again, &bytes, 1_000, 4 * BLOCK as usize - 1_000);
    assert_eq!(client.stats().maps, 4, "another handle shares the maps");

    let client = near(&server);
    let file = client.open("/f").unwrap();
    for i in 0..200 {
        check(&file, &bytes, i * 8_192, 8_192);
    }
    assert_eq!(client.stats().maps, 1);
    assert!(client.stats().inline_reads < 35);
}

/// The story: `citius free` opens a file anew and so had nothing to unmap; what an older handle of the process had mapped
/// stayed charged to it.
#[test]
fn free_by_any_handle_gives_up_the_maps_of_all() {
    let server = Server::start(1, "x");
    let bytes = pattern(2 * BLOCK as usize);
    server.put("/f", bytes.clone(), BLOCK);
    let client = near(&server);
    let reader = client.open("/f").unwrap();
    check(&reader, &bytes, 0, bytes.len());
    assert_eq!(client.stats().maps, 2);
    client.open("/f").unwrap().free().unwrap();
    check(&reader, &bytes, 0, bytes.len());
    assert_eq!(client.stats().maps, 4, "the reader had to map anew");
}

#[test]
fn blocks_ahead_of_a_sequential_reader_are_mapped_for_it() {
    let server = Server::start(1, "x");
    let bytes = pattern(6 * BLOCK as usize);
    server.put("/f", bytes.clone(), BLOCK);
    let client = connect(&server, config(Local::Always));
    let file = client.open("/f").unwrap();
    check(&file, &bytes, 0, 1 << 20);
    while client.stats().readaheads < 2 {
        std::thread::yield_now();
    }
    assert_eq!(client.stats().maps, 3);
    check(&file, &bytes, BLOCK as usize, 4_096);
    while client.stats().maps < 4 {
        std::thread::yield_now();
    }
    check(&file, &bytes, 0, bytes.len());
    assert_eq!((client.stats().maps, client.stats().inline_reads), (6, 0));
}

#[test]
fn turned_off_maps_and_no_cache_read_by_the_socket() {
    let server = Server::start(1, "x");
    let bytes = pattern(BLOCK as usize);
    server.put("/f", bytes.clone(), BLOCK);
    for off in [Config { map: false, ..config(Local::Always) }, Config { cache: false, ..config(Local::Always) }] {
        let client = connect(&server, off);
        let file = client.open("/f").unwrap();
        check(&file, &bytes, 0, bytes.len());
        assert_eq!((client.stats().maps, client.stats().inline_bytes), (0, u64::from(BLOCK)));
    }
}

#[test]
fn a_refused_map_is_read_inline_and_a_refused_view_says_so() {
    let server = Server::start(1, "x");
    let bytes = pattern(BLOCK as usize);
    server.put("/f", bytes.clone(), BLOCK);
    let client = near(&server);
    let file = client.open("/f").unwrap();
    let full = || Misbehave::Fail(Failure::new(Status::NoSpace, "pinned files hold the room"));
    server.inject(Kind::Map, [full()]);
    check(&file, &bytes, 0, bytes.len());
    check(&file, &bytes, 0, bytes.len());
    assert_eq!((client.stats().maps, server.requests(Kind::Map)), (0, 1));
    server.inject(Kind::Map, [full()]);
    assert_eq!(file.view(0, 10).unwrap_err().status(), Status::NoSpace);
    let far = connect(&server, config(Local::Never));
    let error = far.open("/f").unwrap().view(0, 10).unwrap_err();
    assert_eq!(error.status(), Status::Unsupported);
    assert!(error.to_string().contains("not on this host"), "{error}");
}

/// Who waits for another's map fails with it. Each once tried in turn: forty readers of a folder whose server was away
/// waited forty times as long as one.
#[test]
fn who_waits_for_a_map_fails_with_it_and_who_comes_later_tries_anew() {
    const READERS: usize = 8;
    let server = Server::start(1, "x");
    let bytes = pattern(BLOCK as usize);
    server.put("/f", bytes.clone(), BLOCK);
    let client = near(&server);
    let file = client.open("/f").unwrap();
    check(&file, &bytes, 0, 100);
    let away = Failure::new(Status::UnderStore, "no answer came");
    server.inject(Kind::Map, std::iter::repeat_n(Misbehave::FailAfter(Duration::from_millis(500), away), READERS));
    std::thread::scope(|scope| {
        let views: Vec<_> = (0..READERS).map(|_| scope.spawn(|| file.view(0, 10).unwrap_err().status())).collect();
        for view in views {
            assert_eq!(view.join().unwrap(), Status::UnderStore);
        }
    });
    // One for them all, or one more for those who came too late for it.
    assert!(server.requests(Kind::Map) < READERS as u64, "{} requests", server.requests(Kind::Map));
    let asked = server.requests(Kind::Map);
    file.view(0, 10).unwrap_err();
    assert_eq!(server.requests(Kind::Map), asked + 1);
}

#[test]
fn a_damaged_map_is_never_served() {
    let server = Server::start(1, "x");
    let bytes = pattern(BLOCK as usize);
    server.put("/f", bytes.clone(), BLOCK);
    let client = near(&server);
    let file = client.open("/f").unwrap();
    server.inject(Kind::Map, [Misbehave::Corrupt]);
    check(&file, &bytes, 0, 1 << 20);
    assert_eq!((client.stats().refetches, client.stats().maps), (1, 1));
    // The next read maps it again, whole now.
    check(&file, &bytes, 0, 1 << 20);
    assert_eq!(client.stats().maps, 2);

    let client = near(&server);
    let file = client.open("/f").unwrap();
    server.inject(Kind::Map, [Misbehave::Corrupt]);
    assert_eq!(file.view(0, 100).unwrap()[..], bytes[..100]);
    assert_eq!((client.stats().refetches, client.stats().maps), (1, 2));

    let client = near(&server);
    let file = client.open("/f").unwrap();
    server.inject(Kind::Map, [Misbehave::Corrupt, Misbehave::Corrupt]);
    assert_eq!(file.view(0, 100).unwrap_err().status(), Status::Corrupt);
}

#[test]
fn views_hold_their_blocks_and_end_with_them() {
    let server = Server::start(1, "x");
    let block = BLOCK as usize;
    let bytes = pattern(3 * block + 10);
    server.put("/f", bytes.clone(), BLOCK);
    let client = connect(&server, Config { mapped_blocks_max: 1, readahead_blocks: 0, ..config(Local::Always) });
    let file = client.open("/f").unwrap();
    let first = file.view(100, usize::MAX).unwrap();
    assert!(first[..] == bytes[100..block]);
    let views: Vec<_> = file.views(block as u64 - 5..u64::MAX).map(Result::unwrap).collect();
    assert_eq!(views.iter().map(|view| view.len()).collect::<Vec<_>>(), [5, block, block, 10]);
    assert!(views.iter().flat_map(|view| view.iter()).eq(&bytes[block - 5..]));
    assert!(client.stats().unmaps >= 3, "only one stays in the cache");
    drop((file, client, server));
    assert!(first[..] == bytes[100..block], "a view outlives them all");
    assert_eq!(first.slice(5..8)[..], bytes[105..108]);
}

#[test]
fn an_empty_view_is_no_error() {
    let server = Server::start(1, "x");
    server.put("/empty", Vec::new(), BLOCK);
    let file = near(&server).open("/empty").unwrap();
    assert!(file.view(0, 10).unwrap().is_empty());
    assert_eq!(file.views(0..100).count(), 0);
}

#[test]
fn a_file_larger_than_the_bound_of_maps_reads_right() {
    let server = Server::start(1, "x");
    let bytes = pattern(8 * BLOCK as usize);
    server.put("/f", bytes.clone(), BLOCK);
    let client = connect(&server, Config { mapped_blocks_max: 2, ..config(Local::Always) });
    let file = client.open("/f").unwrap();
    for _ in 0..2 {
        for i in 0..bytes.len() / 500_000 {
            check(&file, &bytes, i * 500_000, 500_000);
        }
    }
    assert!(client.stats().unmaps > 0);
}
