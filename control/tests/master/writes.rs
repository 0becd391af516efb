//! Files being written: who may, until when, what readers see meanwhile, and what a retry is told.

use crate::client::{Client, status};
use crate::rig::{Rig, eventually, register, store_path};
use citius_understore::{Condition, FileId, StagedRecord, VersionToken};
use citius_wire::{
    Access, Created, Failure, FileKey, Incarnation, Operation, Origin, Outcome, Persistence, Right, Status, WorkerId,
    WriteType,
};
use std::fs;

/// Plays the worker's part of a write: stages, asks, publishes, tells.
pub(crate) fn publish(
    rig: &Rig,
    client: &mut Client,
    path: &str,
    created: &Created,
    content: &'static [u8],
) -> Result<FileKey, Failure> {
    let (record, condition) = intend(rig, client, path, created, content)?;
    let token = rig.runtime.as_ref().unwrap().block_on(rig.root_store().publish(&record, &condition));
    let token = token.map_err(|error| Failure::new(Status::Conflict, error.to_string()))?;
    match client.one(Operation::PublishDone { file: created.file, token: token.as_bytes().to_vec() })? {
        Outcome::Persisted { file } => Ok(file),
        other => panic!("{other:?}"),
    }
}

/// Up to the logged intent.
pub(crate) fn intend(
    rig: &Rig,
    client: &mut Client,
    path: &str,
    created: &Created,
    content: &'static [u8],
) -> Result<(StagedRecord, Condition), Failure> {
    let record = rig.runtime.as_ref().unwrap().block_on(async {
        let store = rig.root_store();
        let mut staged = store.stage(&store_path(path), FileId(created.file.0), None).await.unwrap();
        staged.write(content.into()).await.unwrap();
        staged.seal().await.unwrap()
    });
    let intent = Operation::PublishIntent {
        file: created.file,
        length: content.len() as u64,
        record: record.encode(),
        worker: WorkerId(1),
        incarnation: Incarnation(1),
    };
    match client.one(intent)? {
        Outcome::Intent { replaces: None } => Ok((record, Condition::MustNotExist)),
        Outcome::Intent { replaces: Some(token) } => {
            Ok((record, Condition::Replaces(VersionToken::new(&token).unwrap())))
        }
        other => panic!("{other:?}"),
    }
}

fn writing_rig() -> (Rig, Client) {
    let rig = Rig::new();
    let mut client = rig.client();
    register(&mut client, 1, 1);
    (rig, client)
}

#[test]
fn a_file_is_seen_when_it_is_published_and_not_before() {
    let (rig, mut client) = writing_rig();
    let created = client.create("/f", WriteType::CacheThrough).unwrap();
    assert!(!client.is_there("/f") && client.names("/").is_empty());
    let key = publish(&rig, &mut client, "/f", &created, b"content").unwrap();
    let info = client.stat("/f").unwrap();
    assert_eq!((info.version, info.length, info.persistence), (key, 7, Persistence::Persisted));
    assert_eq!(fs::read(rig.root().join("f")).unwrap(), b"content");
    assert_eq!(rig.temporaries(), [""; 0]);
}

#[test]
fn overwriting_keeps_the_old_one_until_the_new_one_is_whole() {
    let (rig, mut client) = writing_rig();
    fs::write(rig.root().join("f"), "old").unwrap();
    let old = client.stat("/f").unwrap();
    assert_eq!(status(client.create("/f", WriteType::CacheThrough)), Status::AlreadyExists);
    let created = client.create_as("/f", WriteType::CacheThrough, true, false).unwrap();
    assert_eq!(client.stat("/f").unwrap(), old);
    publish(&rig, &mut client, "/f", &created, b"newer").unwrap();
    assert_eq!(client.stat("/f").unwrap().length, 5);

    // Somebody else changes it between create and close: nothing is overwritten.
    let created = client.create_as("/f", WriteType::CacheThrough, true, false).unwrap();
    fs::write(rig.root().join("f"), "somebody else's").unwrap();
    let (record, condition) = intend(&rig, &mut client, "/f", &created, b"mine").unwrap();
    let conflict = rig.runtime.as_ref().unwrap().block_on(rig.root_store().publish(&record, &condition));
    assert!(matches!(conflict, Err(citius_understore::Error::Conflict { .. })));
    let store = rig.root_store();
    rig.runtime.as_ref().unwrap().block_on(store.settle(&record)).unwrap();
    client.done(Operation::PublishFailed { file: created.file }).unwrap();
    assert_eq!(client.stat("/f").unwrap().length, 15);
    assert_eq!(rig.temporaries(), [""; 0]);
}

#[test]
fn one_writer_a_path() {
    let (rig, mut client) = writing_rig();
    let mut other = rig.client_as(2);
    let created = client.create("/f", WriteType::MustCache).unwrap();
    assert_eq!(status(other.create("/f", WriteType::MustCache)), Status::FileBusy);
    assert_eq!(status(other.done(Operation::Complete { file: created.file, length: 1 })), Status::PermissionDenied);
    client.done(Operation::Renew { file: created.file }).unwrap();
    client.done(Operation::Abort { file: created.file }).unwrap();
    client.done(Operation::Abort { file: created.file }).unwrap();
    assert_eq!(status(client.done(Operation::Complete { file: created.file, length: 1 })), Status::Aborted);
    other.create("/f", WriteType::MustCache).unwrap();

    // Deleting wins over writing.
    fs::write(rig.root().join("g"), "old").unwrap();
    let created = client.create_as("/g", WriteType::MustCache, true, false).unwrap();
    other.delete("/g", false).unwrap();
    let failure = client.done(Operation::Complete { file: created.file, length: 1 }).unwrap_err();
    assert!(failure.status == Status::Aborted && failure.message.contains("deleted"), "{failure}");
    assert!(!client.is_there("/g"));
}

#[test]
fn creating_needs_a_directory_or_leave_to_make_it() {
    let (rig, mut client) = writing_rig();
    assert_eq!(status(client.create("/a/b/f", WriteType::CacheThrough)), Status::NotFound);
    let created = client.create_as("/a/b/f", WriteType::CacheThrough, false, true).unwrap();
    assert!(rig.root().join("a/b").is_dir());
    publish(&rig, &mut client, "/a/b/f", &created, b"x").unwrap();
    assert_eq!(status(client.create("/a/b", WriteType::CacheThrough)), Status::IsADirectory);
    assert_eq!(status(client.create("/a/b/f/g", WriteType::CacheThrough)), Status::NotADirectory);
    assert_eq!(status(client.create("/", WriteType::CacheThrough)), Status::IsADirectory);
    let odd = Operation::Create {
        path: "/odd".into(),
        overwrite: false,
        parents: false,
        write_type: WriteType::Through,
        block_bytes: 4096,
    };
    assert_eq!(status(client.one(odd)), Status::InvalidArgument);
}

#[test]
fn without_a_worker_nothing_is_written() {
    let rig = Rig::new();
    let failure = rig.client().create("/f", WriteType::CacheThrough).unwrap_err();
    assert!(failure.status == Status::Unavailable && failure.message.contains("citius worker"), "{failure}");
}

/// What the master signs is what the worker checks.
#[test]
fn capabilities_say_what_a_worker_needs() {
    let rig = Rig::new();
    let mut client = rig.client();
    let keys = register(&mut client, 1, 1).view.keys;
    fs::create_dir(rig.root().join("d")).unwrap();
    fs::write(rig.root().join("d/f"), "12345").unwrap();
    let opened = client.open("/d/f").unwrap();
    let right = Right::check(&opened.capability, &keys, opened.expires_ms - 1).unwrap();
    assert_eq!((right.path.as_str(), right.length, right.access), ("d/f", 5, Access::Read));
    assert_eq!((right.file, right.place, right.user.as_str()), (opened.info.version, opened.place, "owner"));
    let Origin::UnderStore { token } = right.origin else { panic!("{:?}", right.origin) };
    assert_eq!(FileKey::of_version(right.mount, "d/f", &token), right.file);
    let expired = Right::check(&opened.capability, &keys, opened.expires_ms).unwrap_err();
    assert_eq!(expired.status, Status::CapabilityExpired);
    assert_eq!(status(client.open("/d")), Status::IsADirectory);
    assert_eq!(status(client.open("/nothing")), Status::NotFound);

    let created = client.create("/d/new", WriteType::Through).unwrap();
    let right = Right::check(&created.capability, &keys, 0).unwrap();
    assert_eq!((right.access, right.path.as_str(), right.file), (Access::Write, "d/new", created.file));
    assert_eq!(right.origin, Origin::Writer { write_type: WriteType::Through, epoch: created.epoch });
}

/// A retry under the same serials is told what the first try was, even by a master that was started anew in between.
#[test]
fn a_retry_gets_the_first_answer() {
    let (mut rig, mut client) = writing_rig();
    fs::write(rig.root().join("x"), "").unwrap();
    let operations = vec![
        Operation::Create {
            path: "/f".into(),
            overwrite: false,
            parents: false,
            write_type: WriteType::MustCache,
            block_bytes: 0,
        },
        Operation::Mkdir { path: "/d".into(), parents: false },
        Operation::Delete { path: "/x".into(), recursive: false },
        Operation::MountAdd {
            path: "/m".into(),
            uri: "memory://retry".into(),
            options: vec![],
            read_only: false,
            sync_interval_ms: None,
        },
    ];
    let first = client.batch_at(100, operations.clone());
    let file = |results: &[Result<Outcome, Failure>]| match &results[0] {
        Ok(Outcome::Created(created)) => created.file,
        other => panic!("{other:?}"),
    };
    for i in 0..3 {
        let again = client.batch_at(100, operations.clone());
        assert!(again.iter().all(Result::is_ok), "{again:?}");
        assert_eq!(file(&again), file(&first));
        if i == 0 {
            rig.restart();
            client = rig.client();
        }
    }
    let anew = client.batch_at(200, operations);
    let statuses: Vec<_> = anew.into_iter().map(status).collect();
    assert_eq!(statuses, [Status::FileBusy, Status::AlreadyExists, Status::NotFound, Status::AlreadyExists]);
}

#[test]
fn a_silent_writer_loses_its_file() {
    let mut rig = Rig::new();
    rig.stop();
    rig.start(|config| config.lease_ms = 200);
    let mut client = rig.client();
    register(&mut client, 1, 1);
    let created = client.create("/f", WriteType::MustCache).unwrap();
    assert_eq!(created.lease_ms, 200);
    // Renewing also tells: it fails once the write is given up, and here nobody renews but to look.
    let mut other = rig.client_as(2);
    eventually("the lease ends", || other.create("/f", WriteType::MustCache).is_ok());
    let failure = client.done(Operation::Complete { file: created.file, length: 1 }).unwrap_err();
    assert!(failure.status == Status::Aborted && failure.message.contains("lease"), "{failure}");
}

/// Memory does not outlive its worker: the file is there, says that it is lost, and can be deleted or written anew.
#[test]
fn lost_files_say_so() {
    let (_rig, mut client) = writing_rig();
    client.memory_file("/a", 5);
    client.memory_file("/b", 5);
    client.memory_file("/empty", 0);
    register(&mut client, 1, 2);
    assert_eq!(client.stat("/a").unwrap().persistence, Persistence::Lost);
    assert_eq!(client.stat("/empty").unwrap().persistence, Persistence::MemoryOnly, "there was nothing to lose");
    assert_eq!(status(client.open("/a")), Status::DataLost);
    assert_eq!(client.list("/").unwrap()[0].persistence, Persistence::Lost);
    client.delete("/a", false).unwrap();
    let created = client.create_as("/b", WriteType::MustCache, true, false).unwrap();
    client.done(Operation::Complete { file: created.file, length: 6 }).unwrap();
    assert_eq!(client.stat("/b").unwrap().persistence, Persistence::MemoryOnly);
}
