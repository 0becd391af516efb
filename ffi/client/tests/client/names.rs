//! The namespace: operations, batches, listings, and retries that change nothing twice.

use crate::server::{Misbehave, Server};
use crate::{BLOCK, config, connect};
use citius_client::{Client, Config, Endpoint, Local, Operation, Outcome, Status, Token};
use citius_wire::{Failure, Kind};
use std::sync::atomic::Ordering;
use std::time::Duration;

fn client(server: &Server) -> Client {
    connect(server, config(Local::Never))
}

#[test]
fn a_wrong_token_and_nobody_there_are_told_at_once() {
    let server = Server::start(1, "x");
    let endpoint = Endpoint { master: server.master.clone(), token: Token([1; 32]) };
    assert_eq!(Client::connect(endpoint, Config::default()).unwrap_err().status(), Status::Unauthenticated);
    let endpoint = Endpoint { master: "127.0.0.1:1".into(), token: Token([1; 32]) };
    let error = Client::connect(endpoint, Config::default()).unwrap_err();
    assert_eq!(error.status(), Status::Unavailable);
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
}

#[test]
fn stat_rename_delete() {
    let server = Server::start(1, "x");
    server.put("/a", vec![1; 5], BLOCK);
    let client = client(&server);
    assert_eq!(client.stat("//a/").unwrap().length, 5);
    client.rename("/a", "/b", false).unwrap();
    let error = client.stat("/a").unwrap_err();
    assert_eq!((error.status(), error.path()), (Status::NotFound, Some("/a")));
    client.delete("/b", false).unwrap();
    assert_eq!(client.stat("/b").unwrap_err().exit_code(), citius_client::ExitCode::NotFound);
    assert_eq!(client.stat("relative").unwrap_err().status(), Status::InvalidArgument);
    assert_eq!(client.stat("/..").unwrap_err().status(), Status::EscapesMount);
    assert!(client.mounts().unwrap().is_empty());
}

#[test]
fn a_change_whose_answer_was_lost_is_done_once() {
    let server = Server::start(1, "x");
    let client = client(&server);
    for fault in [Misbehave::CloseAfter, Misbehave::CloseBefore] {
        server.state.mutations.lock().unwrap().clear();
        server.inject(Kind::Batch, [fault]);
        client.mkdir("/d", false).unwrap();
        assert_eq!(server.state.mutations.lock().unwrap().len(), 1);
    }
    assert_eq!(client.stats().retries, 2);
}

/// With its store away, `cp` said that the master did not answer, because the master was about to say again what the store
/// does not do.
#[test]
fn out_of_time_is_blamed_on_what_the_time_was_spent_on() {
    let server = Server::start(1, "x");
    let client = connect(&server, Config { timeout: Duration::from_millis(400), ..config(Local::Never) });
    server.state.busy.store(1, Ordering::Relaxed);
    server.inject(Kind::Batch, [Misbehave::Delay(Duration::ZERO), Misbehave::Delay(Duration::from_secs(2))]);
    let error = client.mkdir("/busy", false).unwrap_err();
    assert_eq!(error.status(), Status::Busy, "{error}");
}

#[test]
fn a_busy_master_is_asked_again() {
    let server = Server::start(1, "x");
    let client = client(&server);
    server.inject(Kind::Batch, [Misbehave::Fail(Failure::new(Status::NotLeader, "ask another"))]);
    server.state.busy.store(2, Ordering::Relaxed);
    client.mkdir("/busy", false).unwrap();
    assert_eq!(client.stats().retries, 3);
}

#[test]
fn a_batch_keeps_order_and_each_operation_its_own_result() {
    let server = Server::start(1, "x");
    server.put("/a", vec![1; 5], BLOCK);
    server.state.busy.store(1, Ordering::Relaxed);
    let client = client(&server);
    let stat = |path: &str| Operation::Stat { path: path.into() };
    let mkdir = |path: &str| Operation::Mkdir { path: path.into(), parents: false };
    let results = client.batch(vec![stat("/a"), mkdir("/busy"), stat("/none"), mkdir("/c")]);
    assert!(matches!(&results[0], Ok(Outcome::Info(info)) if info.length == 5));
    assert!(matches!(results[1], Ok(Outcome::Done)));
    let error = results[2].as_ref().unwrap_err();
    assert_eq!((error.status(), error.path()), (Status::NotFound, Some("/none")));
    assert!(matches!(results[3], Ok(Outcome::Done)));
    assert_eq!(server.state.mutations.lock().unwrap().len(), 2, "what succeeded is not repeated");

    let many = client.batch((0..10_000).map(|i| mkdir(&format!("/d{i}"))).collect());
    assert!(many.len() == 10_000 && many.iter().all(Result::is_ok));
    assert!(client.batch(Vec::new()).is_empty());
    let huge = Operation::StageStarted { file: citius_client::FileKey([0; 16]), record: vec![0; 4 << 20] };
    let results = client.batch(vec![mkdir("/e"), huge, mkdir("/f")]);
    let oks: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(oks, [true, false, true]);
}

#[test]
fn a_listing_streams_its_pages_and_survives_a_broken_one() {
    let server = Server::start(1, "x");
    let names: Vec<String> = (0..20).map(|i| format!("n{i:02}")).collect();
    for name in &names {
        server.put(&format!("/d/{name}"), vec![1], BLOCK);
    }
    let client = client(&server);
    let list = |after: &str, limit| -> Vec<String> {
        client.list_from("/d", after, limit).unwrap().map(|entry| entry.unwrap().path).collect()
    };
    assert_eq!(list("", None), names);
    assert_eq!(list("n04", Some(5)), names[5..10]);
    assert!(list("", Some(0)).is_empty() && list("zzz", None).is_empty());
    server.state.cut_pages.store(1, Ordering::Relaxed);
    assert_eq!(list("", None), names);
    server.state.cut_pages.store(1, Ordering::Relaxed);
    assert_eq!(list("", Some(10)), names[..10]);
    // Dropped early: the connection is not used for anything else.
    let mut early = client.list("/d").unwrap();
    assert_eq!(early.next().unwrap().unwrap().path, "n00");
    drop(early);
    assert_eq!(client.stat("/d/n07").unwrap().length, 1);
    let failed = Misbehave::Fail(Failure::new(Status::NotADirectory, "it is a file"));
    server.inject(Kind::List, [failed]);
    let entries: Vec<_> = client.list("/d/n01").unwrap().collect();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].as_ref().unwrap_err().status(), Status::NotADirectory);
}

#[test]
fn many_listings_held_open_do_not_stop_other_calls() {
    let server = Server::start(1, "x");
    for i in 0..10 {
        server.put(&format!("/d/{i}"), vec![1], BLOCK);
    }
    let client = connect(&server, Config { connections_max: 2, ..config(Local::Never) });
    let mut listings: Vec<_> = (0..8).map(|_| client.list("/d").unwrap()).collect();
    for listing in &mut listings {
        listing.next().unwrap().unwrap();
    }
    assert_eq!(client.stat("/d/3").unwrap().length, 1);
}
