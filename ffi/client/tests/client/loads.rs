//! Many files brought into memory at once: each is told of once, whatever happens to it and to the others.

use crate::server::{Misbehave, Server};
use crate::{BLOCK, config, connect};
use citius_client::{Client, Config, Error, Local, Status};
use citius_wire::units::block_count;
use citius_wire::{Failure, Kind};
use std::collections::BTreeMap;
use std::time::Duration;

/// The length of a file, so that some have no block, most one, and some many.
fn length(number: usize) -> usize {
    match number % 10 {
        0 => 0,
        9 => 3 * BLOCK as usize + number,
        _ => 1000 + number,
    }
}

fn put(server: &Server, count: usize) -> Vec<String> {
    let path = |number| {
        let path = format!("/f{number}");
        server.put(&path, vec![1; length(number)], BLOCK);
        path
    };
    (0..count).map(path).collect()
}

/// Loads, and gives what was told of each file; one that is told of twice fails the test.
fn load(client: &Client, at_once: usize, paths: &[String]) -> BTreeMap<String, Result<u64, Error>> {
    let mut told = BTreeMap::new();
    let mut left = paths.iter();
    client.load_all(
        at_once,
        |_| left.next(),
        |path, result| assert!(told.insert(path.clone(), result).is_none(), "{path} is told of twice"),
    );
    assert_eq!(told.len(), paths.len());
    told
}

fn all_are_loaded(told: &BTreeMap<String, Result<u64, Error>>) {
    for (path, result) in told {
        let number = path[2..].parse().unwrap();
        assert_eq!(*result.as_ref().unwrap(), length(number) as u64, "{path}");
    }
}

#[test]
fn every_block_is_asked_for_once_and_files_share_calls() {
    for (local, at_once) in [(Local::Never, 1), (Local::Never, 7), (Local::Always, 64), (Local::Never, 4096)] {
        let server = Server::start(3, "x");
        let paths = put(&server, 1000);
        let client = connect(&server, config(local));
        all_are_loaded(&load(&client, at_once, &paths));
        let mut warmed = std::mem::take(&mut *server.state.warmed.lock().unwrap());
        warmed.sort();
        let blocks = |number| block_count(length(number) as u64, BLOCK) as u32;
        let mut expected: Vec<_> =
            (0..1000).flat_map(|number| (0..blocks(number)).map(move |index| (format!("/f{number}"), index))).collect();
        expected.sort();
        assert!(warmed == expected, "{} blocks instead of {}", warmed.len(), expected.len());
        // A call to the master opens at least half of what may be open ahead; one more asks for the ring.
        assert!(server.requests(Kind::Batch) <= 1000 / 60 + 2, "{}", server.requests(Kind::Batch));
        assert_eq!(server.requests(Kind::Attach), 0);
    }
}

#[test]
fn what_cannot_be_loaded_fails_alone() {
    let server = Server::start(2, "x");
    let mut paths = put(&server, 30);
    paths.insert(7, "/missing".to_owned());
    paths.insert(20, "no path".to_owned());
    let refused = Failure::new(Status::PermissionDenied, "the store says no");
    server.inject(Kind::Warm, [Misbehave::Fail(refused)]);
    let mut told = load(&connect(&server, config(Local::Never)), 4, &paths);
    assert_eq!(told.remove("/missing").unwrap().unwrap_err().status(), Status::NotFound);
    assert_eq!(told.remove("no path").unwrap().unwrap_err().status(), Status::InvalidArgument);
    let failed: Vec<_> = told.iter().filter(|(_, result)| result.is_err()).map(|(path, _)| path.clone()).collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    let error = told.remove(&failed[0]).unwrap().unwrap_err();
    assert_eq!((error.status(), error.path()), (Status::PermissionDenied, Some(failed[0].as_str())));
    all_are_loaded(&told);
}

/// Whatever passes is tried again, and costs no other file.
#[test]
fn trouble_that_passes_is_not_told_of() {
    let busy = || Misbehave::Fail(Failure::new(Status::Busy, "not now"));
    let expired = || Misbehave::Fail(Failure::new(Status::CapabilityExpired, "too late"));
    for (kind, faults) in [
        (Kind::Warm, vec![busy(), expired(), busy()]),
        (Kind::Warm, vec![Misbehave::CloseBefore]),
        (Kind::Warm, vec![Misbehave::CloseAfter, busy(), Misbehave::CloseBefore, Misbehave::CloseAfter]),
        (Kind::Warm, (0..200).map(|_| busy()).collect()),
        (Kind::Batch, vec![Misbehave::CloseBefore]),
        (Kind::Load, vec![Misbehave::CloseBefore]),
    ] {
        let server = Server::start(2, "x");
        let paths = put(&server, 300);
        server.inject(kind, faults);
        all_are_loaded(&load(&connect(&server, config(Local::Never)), 32, &paths));
    }
}

#[test]
fn a_broken_protocol_is_told_of() {
    let server = Server::start(1, "x");
    let paths = put(&server, 200);
    server.inject(Kind::Warm, [Misbehave::WrongId]);
    let told = load(&connect(&server, config(Local::Never)), 8, &paths);
    let failed: Vec<_> = told.values().filter_map(|result| result.as_ref().err()).collect();
    assert!(!failed.is_empty() && failed.len() <= 8, "those whose blocks were asked for there: {failed:?}");
    assert!(failed.iter().all(|error| error.status() == Status::Protocol), "{failed:?}");
}

#[test]
fn a_worker_that_says_nothing_is_given_up() {
    let server = Server::start(1, "x");
    let paths = put(&server, 3);
    server.inject(Kind::Warm, [Misbehave::Delay(Duration::from_secs(2))]);
    let short = Duration::from_millis(200);
    let client = connect(&server, Config { timeout: short, transfer_timeout: short, ..config(Local::Never) });
    let told = load(&client, 8, &paths);
    assert!(told["/f0"].is_ok());
    assert!(told.values().filter_map(|result| result.as_ref().err()).all(|error| error.status() == Status::TimedOut));
    assert!(told.values().any(Result::is_err));
}

/// The story: `citius load` waited without a word, for ever, where no worker ran.
#[test]
fn without_a_worker_it_ends_and_says_why() {
    let server = Server::start(1, "x");
    let paths = put(&server, 500);
    server.set_ring(2, &[]);
    let client = connect(&server, Config { timeout: Duration::from_millis(300), ..config(Local::Never) });
    for (path, result) in load(&client, 64, &paths) {
        if length(path[2..].parse().unwrap()) > 0 {
            let error = result.unwrap_err();
            assert_eq!(error.status(), Status::Unavailable);
            assert!(error.to_string().contains("no worker is running"), "{error}");
        }
    }
}

/// A frozen worker keeps its connections. Once it is not in the ring any more its files are asked of others.
#[test]
fn a_worker_that_left_the_ring_is_not_waited_for() {
    let server = Server::start(2, "x");
    let paths = put(&server, 100);
    server.inject(Kind::Warm, [Misbehave::Delay(Duration::from_secs(3600))]);
    let client = connect(&server, Config { transfer_timeout: Duration::from_secs(30), ..config(Local::Never) });
    let ring = std::thread::scope(|scope| {
        let told = scope.spawn(|| load(&client, 16, &paths));
        while server.state.warmed.lock().unwrap().is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        // Which of the two it was that froze is not known: the other takes all, whichever.
        server.set_ring(2, &[]);
        std::thread::sleep(Duration::from_secs(3));
        server.set_ring(3, &[0, 1]);
        told.join().unwrap()
    });
    all_are_loaded(&ring);
}

#[test]
fn blocks_follow_a_ring_that_changes_and_a_socket_that_is_gone() {
    let server = Server::start(3, "x");
    server.set_ring(2, &[0, 1]);
    let paths = put(&server, 300);
    let client = connect(&server, config(Local::Never));
    all_are_loaded(&load(&client, 16, &paths[..100]));
    server.set_ring(3, &[1, 2]);
    all_are_loaded(&load(&client, 16, &paths[100..]));
    // Nobody listens on the sockets of this host: TCP instead.
    let here = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let server = Server::start(1, &here);
    let paths = put(&server, 50);
    server.remove_sockets();
    all_are_loaded(&load(&connect(&server, config(Local::Auto)), 16, &paths));
    assert_eq!(server.requests(Kind::Load), 0, "none had to go the slow way");
}

#[test]
fn files_may_come_late() {
    let server = Server::start(1, "x");
    let paths = put(&server, 100);
    let client = connect(&server, config(Local::Never));
    let (mut left, mut asked, mut told) = (paths.iter(), 0, 0);
    let next = |may_wait| {
        asked += 1;
        if may_wait || asked % 3 == 0 { left.next() } else { None }
    };
    client.load_all(8, next, |_, result| {
        result.unwrap();
        told += 1;
    });
    assert_eq!(told, 100);
}
