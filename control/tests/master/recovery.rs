//! What a master that starts anew finds half done, it finishes or undoes.

use crate::client::{Client, status};
use crate::rig::{Rig, beat, eventually, register, store_path};
use crate::writes::intend;
use citius_control::{FaultHook, FaultPoint};
use citius_understore::FileId;
use citius_wire::{Failure, FileKey, Operation, Outcome, Status, WriteType};
use std::fs;
use std::path::Path;

/// The master dies with an intent logged, and with it done but not logged as such: for each kind of intent, the next
/// start ends it, whoever asks again is told that it was done, and it was done once.
#[test]
fn intents_are_resumed_from_each_step() {
    type Prepare = fn(&Path, &mut Client);
    type Ask = fn() -> Operation;
    type Check = fn(&Path, &mut Client);
    let cases: [(&str, Prepare, Ask, Check); 5] = [
        (
            "mkdir",
            |_, _| {},
            || Operation::Mkdir { path: "/d".into(), parents: false },
            |root, client| assert!(root.join("d").is_dir() && client.is_there("/d")),
        ),
        (
            "mkdir with parents",
            |_, _| {},
            || Operation::Mkdir { path: "/d/e/f".into(), parents: true },
            |root, client| assert!(root.join("d/e/f").is_dir() && client.is_there("/d/e/f")),
        ),
        (
            "delete a tree",
            |root, client| {
                fs::create_dir_all(root.join("d/e")).unwrap();
                fs::write(root.join("d/e/f"), "x").unwrap();
                client.memory_file("/d/m", 3);
            },
            || Operation::Delete { path: "/d".into(), recursive: true },
            |root, client| assert!(!root.join("d").exists() && !client.is_there("/d") && !client.is_there("/d/m")),
        ),
        (
            "rename over a file",
            |root, _| {
                fs::write(root.join("a"), "new").unwrap();
                fs::write(root.join("b"), "older").unwrap();
            },
            || Operation::Rename { from: "/a".into(), to: "/b".into(), overwrite: true },
            |root, client| {
                assert_eq!(fs::read(root.join("b")).unwrap(), b"new");
                assert!(!client.is_there("/a") && client.stat("/b").unwrap().length == 3);
            },
        ),
        (
            "rename a directory with files in memory",
            |root, client| {
                fs::create_dir(root.join("d")).unwrap();
                fs::write(root.join("d/f"), "x").unwrap();
                client.memory_file("/d/m", 3);
            },
            || Operation::Rename { from: "/d".into(), to: "/e".into(), overwrite: false },
            |root, client| {
                assert!(root.join("e/f").exists() && !root.join("d").exists());
                assert!(client.is_there("/e/f") && client.is_there("/e/m") && !client.is_there("/d/m"));
            },
        ),
    ];
    for point in [FaultPoint::IntentLogged, FaultPoint::IntentActed] {
        for (name, prepare, ask, check) in &cases {
            eprintln!("{name}, dying at {point:?}");
            let mut rig = Rig::with(|config| config.fault = Some(FaultHook::new(move |here| here == point)));
            let mut client = rig.client();
            register(&mut client, 1, 1);
            prepare(&rig.root(), &mut client);
            assert_eq!(status(client.batch_at(500, vec![ask()]).remove(0)), Status::Unavailable);
            rig.crash();
            rig.start(|_| {});
            let mut client = rig.client();
            // It waits for the resumed intent and gets its answer.
            eventually("the retry is answered", || match client.batch_at(500, vec![ask()]).remove(0) {
                Ok(outcome) => outcome == Outcome::Done,
                Err(failure) => {
                    assert_eq!(failure.status, Status::Unavailable, "{name}: {failure}");
                    false
                }
            });
            check(&rig.root(), &mut client);
            let Outcome::Cluster(cluster) = client.one(Operation::Cluster).unwrap() else { panic!() };
            assert!(!cluster.warnings.iter().any(|it| it.contains("changes of names")), "{:?}", cluster.warnings);
        }
    }
}

/// A rename that may not overwrite, and was cut short before its store did anything, leaves what somebody else put at its
/// target meanwhile.
#[test]
fn a_resumed_rename_overwrites_nothing_of_others() {
    let mut rig = Rig::with(|config| config.fault = Some(FaultHook::new(|here| here == FaultPoint::IntentLogged)));
    fs::write(rig.root().join("a"), "ours").unwrap();
    let mut client = rig.client();
    let rename = || Operation::Rename { from: "/a".into(), to: "/b".into(), overwrite: false };
    client.batch_at(1, vec![rename()]).remove(0).unwrap_err();
    rig.crash();
    fs::write(rig.root().join("b"), "another's").unwrap();
    rig.start(|_| {});
    let mut client = rig.client();
    let refused = eventually_refused(&mut client, rename);
    assert_eq!(refused.status, Status::AlreadyExists, "{refused}");
    assert_eq!(fs::read(rig.root().join("a")).unwrap(), b"ours");
    assert_eq!(fs::read(rig.root().join("b")).unwrap(), b"another's");
}

/// The answer of an intent that comes to nothing, once it has.
fn eventually_refused(client: &mut Client, ask: impl Fn() -> Operation) -> Failure {
    let mut refused = None;
    eventually("the retry is answered", || {
        let failure = client.batch_at(1, vec![ask()]).remove(0).unwrap_err();
        let is_over = failure.status != Status::Unavailable;
        refused = is_over.then_some(failure);
        is_over
    });
    refused.unwrap()
}

/// A rename holds its readers until the store has done it: nobody sees the name at neither place, or at both.
#[test]
fn readers_wait_for_a_rename_that_died() {
    let mut rig = Rig::with(|config| config.fault = Some(FaultHook::new(|here| here == FaultPoint::IntentLogged)));
    fs::write(rig.root().join("a"), "x").unwrap();
    let mut client = rig.client();
    let rename = || Operation::Rename { from: "/a".into(), to: "/b".into(), overwrite: false };
    client.batch_at(1, vec![rename()]).remove(0).unwrap_err();
    rig.crash();
    rig.start(|_| {});
    let mut client = rig.client();
    eventually("it is resumed", || client.is_there("/b"));
    assert!(!client.is_there("/a"));
}

/// The worker dies between the logged intent and its word that it is done. What it published is completed, what it did
/// not is cleaned; the writer that asks again learns which.
#[test]
fn publications_whose_worker_is_gone_are_settled() {
    for is_published in [true, false] {
        let mut rig = Rig::new();
        let mut client = rig.client();
        register(&mut client, 1, 1);
        let created = client.create("/f", WriteType::CacheThrough).unwrap();
        let (record, condition) = intend(&rig, &mut client, "/f", &created, b"content").unwrap();
        let mut token = None;
        if is_published {
            let store = rig.root_store();
            token = Some(rig.runtime.as_ref().unwrap().block_on(store.publish(&record, &condition)).unwrap());
        }
        assert_eq!(
            status(client.delete("/f", false)),
            if is_published { Status::Unavailable } else { Status::NotFound }
        );
        rig.crash();
        rig.start(|_| {});
        let mut client = rig.client();
        // Its next life: the one that published is over.
        register(&mut client, 1, 2);
        eventually("it is settled", || match client.done(Operation::Renew { file: created.file }) {
            Ok(()) => false,
            Err(failure) => matches!(failure.status, Status::Aborted | Status::InvalidArgument),
        });
        assert_eq!(client.is_there("/f"), is_published);
        assert_eq!(rig.root().join("f").exists(), is_published);
        eventually("no temporary is left", || rig.temporaries().is_empty());
        if let Some(token) = token {
            // The publisher's own word, late: the same answer.
            let done = Operation::PublishDone { file: created.file, token: token.as_bytes().to_vec() };
            let Outcome::Persisted { file } = client.one(done).unwrap() else { panic!() };
            assert_eq!(client.stat("/f").unwrap().version, file);
        }
    }
}

/// Temporaries of writes that nobody knows any more go at the next start; those of a write under way stay.
#[test]
fn temporaries_of_the_dead_are_swept() {
    let mut rig = Rig::new();
    let mut client = rig.client();
    register(&mut client, 1, 1);
    let living = client.create("/living", WriteType::CacheThrough).unwrap().file;
    let dead = FileKey([0xdd; 16]);
    rig.runtime.as_ref().unwrap().block_on(async {
        for file in [living, dead] {
            let store = rig.root_store();
            let mut staged = store.stage(&store_path("x"), FileId(file.0), None).await.unwrap();
            staged.write("bytes".into()).await.unwrap();
            staged.seal().await.unwrap();
        }
    });
    assert_eq!(rig.temporaries().len(), 2);
    rig.crash();
    rig.start(|_| {});
    eventually("the dead one's goes", || rig.temporaries() == [living.to_string()]);
}

/// What an aborted write had staged, and said so, is cleaned by the master.
#[test]
fn remains_are_cleaned() {
    let rig = Rig::new();
    let mut client = rig.client();
    register(&mut client, 1, 1);
    let created = client.create("/f", WriteType::CacheThrough).unwrap();
    let record = rig.runtime.as_ref().unwrap().block_on(async {
        let store = rig.root_store();
        let mut staged = store.stage(&store_path("f"), FileId(created.file.0), None).await.unwrap();
        staged.write("bytes".into()).await.unwrap();
        staged.seal().await.unwrap()
    });
    client.done(Operation::StageStarted { file: created.file, record: record.encode() }).unwrap();
    client.done(Operation::Abort { file: created.file }).unwrap();
    eventually("they are cleaned", || rig.temporaries().is_empty());
    eventually("and the log knows", || match client.one(Operation::Cluster).unwrap() {
        Outcome::Cluster(cluster) => !cluster.warnings.iter().any(|it| it.contains("aborted writes")),
        other => panic!("{other:?}"),
    });
    client.ask(&beat(1, 1)).unwrap();
}
