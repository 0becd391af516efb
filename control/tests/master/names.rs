//! What names mean: stat, mkdir, delete, rename, and what survives a restart.

use crate::client::status;
use crate::rig::{Rig, register};
use citius_wire::{EntryKind, Operation, Outcome, Persistence, Status, WriteType};
use std::fs;

#[test]
fn the_under_store_is_the_truth() {
    let rig = Rig::new();
    let mut client = rig.client();
    assert!(client.stat("/").unwrap().is_mount);
    assert_eq!(status(client.stat("/a")), Status::NotFound);
    for name in ["a", "with space", "ünïcode", "100%", "a#b", "a+b"] {
        fs::write(rig.root().join(name), name).unwrap();
        let info = client.stat(&format!("/{name}")).unwrap();
        assert_eq!((info.path, info.length, info.kind), (format!("/{name}"), name.len() as u64, EntryKind::File));
        assert_eq!(info.persistence, Persistence::Persisted);
    }
    let before = client.stat("/a").unwrap().version;
    fs::write(rig.root().join("a"), "b").unwrap();
    assert_ne!(client.stat("/a").unwrap().version, before, "a new version is seen at once");
    fs::remove_file(rig.root().join("a")).unwrap();
    assert!(!client.is_there("/a"));
    assert_eq!(status(client.stat("a")), Status::InvalidArgument);
    assert_eq!(status(client.stat("/../etc")), Status::EscapesMount);
    assert_eq!(client.stat("/x/../with space").unwrap().path, "/with space");
    std::os::unix::fs::symlink("/etc", rig.root().join("etc")).unwrap();
    assert_eq!(status(client.stat("/etc/passwd")), Status::EscapesMount);
}

#[test]
fn directories_are_made_and_removed() {
    let rig = Rig::new();
    let mut client = rig.client();
    client.mkdir("/a", false).unwrap();
    assert!(rig.root().join("a").is_dir());
    assert_eq!(status(client.mkdir("/a", false)), Status::AlreadyExists);
    client.mkdir("/a", true).unwrap();
    assert_eq!(status(client.mkdir("/b/c", false)), Status::NotFound);
    client.mkdir("/b/c/d", true).unwrap();
    assert_eq!(client.kind("/b/c/d"), EntryKind::Directory);
    fs::write(rig.root().join("b/f"), "x").unwrap();
    assert_eq!(status(client.mkdir("/b/f", true)), Status::AlreadyExists);
    assert_eq!(status(client.mkdir("/b/f/g", true)), Status::NotADirectory);
    assert_eq!(status(client.delete("/b", false)), Status::NotEmpty);
    assert!(client.is_there("/b/f"), "a refused delete hides nothing");
    assert_eq!(status(client.delete("/nothing", true)), Status::NotFound);
    client.delete("/b", true).unwrap();
    assert!(!rig.root().join("b").exists() && !client.is_there("/b"));
    client.delete("/a", false).unwrap();
    assert_eq!(status(client.delete("/", true)), Status::InvalidArgument);
    assert_eq!(client.names("/"), [""; 0]);
}

#[test]
fn names_move_in_the_store_and_in_the_log() {
    let rig = Rig::new();
    let mut client = rig.client();
    register(&mut client, 1, 1);
    fs::create_dir_all(rig.root().join("d/e")).unwrap();
    fs::write(rig.root().join("d/stored"), "stored").unwrap();
    let key = client.memory_file("/d/e/memory", 5);
    client.rename("/d", "/moved", false).unwrap();
    assert!(!client.is_there("/d") && !client.is_there("/d/e/memory"));
    assert_eq!(client.stat("/moved/stored").unwrap().length, 6);
    let info = client.stat("/moved/e/memory").unwrap();
    assert_eq!((info.version, info.persistence), (key, Persistence::MemoryOnly));

    fs::write(rig.root().join("x"), "x").unwrap();
    assert_eq!(status(client.rename("/x", "/moved/stored", false)), Status::AlreadyExists);
    client.rename("/x", "/moved/stored", true).unwrap();
    assert_eq!(fs::read(rig.root().join("moved/stored")).unwrap(), b"x");
    assert_eq!(status(client.rename("/nothing", "/n", true)), Status::NotFound);
    assert_eq!(status(client.rename("/moved", "/moved/e/in", true)), Status::InvalidArgument);
    assert_eq!(status(client.rename("/moved/stored", "/no/dir", true)), Status::NotFound);
    assert_eq!(status(client.rename("/moved/stored", "/moved/e", true)), Status::AlreadyExists);
    let other = tempfile::tempdir().unwrap();
    client.mount("/other", other.path().to_str().unwrap(), None).unwrap();
    assert_eq!(status(client.rename("/moved/stored", "/other/s", false)), Status::CrossMount);
    assert_eq!(status(client.rename("/other", "/o", false)), Status::InvalidArgument);
    assert_eq!(client.stat("/moved/stored").unwrap().length, 1);
}

/// A file in memory over an older one in the store: when it moves or goes, the older one must not come to light.
#[test]
fn what_a_file_in_memory_hides_goes_with_it() {
    let rig = Rig::new();
    let mut client = rig.client();
    register(&mut client, 1, 1);
    for name in ["moves", "goes"] {
        fs::write(rig.root().join(name), "old").unwrap();
        let created = client.create_as(&format!("/{name}"), WriteType::MustCache, true, false).unwrap();
        assert_eq!(client.stat(&format!("/{name}")).unwrap().length, 3, "the old one until the new one is whole");
        client.done(Operation::Complete { file: created.file, length: 10 }).unwrap();
        assert_eq!(client.stat(&format!("/{name}")).unwrap().length, 10);
    }
    client.rename("/moves", "/moved", false).unwrap();
    client.delete("/goes", false).unwrap();
    assert!(!client.is_there("/moves") && !client.is_there("/goes"));
    assert_eq!(client.names("/"), ["moved"]);
}

#[test]
fn the_namespace_survives_a_restart() {
    let mut rig = Rig::new();
    let mut client = rig.client();
    register(&mut client, 1, 1);
    let folder = tempfile::tempdir().unwrap();
    client.mount("/data", folder.path().to_str().unwrap(), Some(1234)).unwrap();
    client.mkdir("/dir", false).unwrap();
    let key = client.memory_file("/dir/memory", 7);
    let mounts = client.one(Operation::MountList).unwrap();
    for crash in [false, true] {
        if crash {
            rig.crash();
            rig.start(|_| {});
        } else {
            rig.restart();
        }
        let mut client = rig.client();
        assert_eq!(client.stat("/dir/memory").unwrap().version, key);
        let Outcome::Mounts(now) = client.one(Operation::MountList).unwrap() else { panic!() };
        let Outcome::Mounts(before) = &mounts else { panic!() };
        let shown = |all: &[citius_wire::MountInfo]| {
            all.iter().map(|it| (it.mount, it.path.clone(), it.uri.clone(), it.sync_interval_ms)).collect::<Vec<_>>()
        };
        assert_eq!(shown(&now), shown(before));
        assert_eq!(now[1].sync_interval_ms, 1234);
    }
}

#[test]
fn operations_of_a_batch_see_what_went_before() {
    let rig = Rig::new();
    let mut client = rig.client();
    let path = |path: &str| path.to_owned();
    let results = client.batch(vec![
        Operation::Mkdir { path: path("/a"), parents: false },
        Operation::Mkdir { path: path("/b"), parents: false },
        Operation::Stat { path: path("/a") },
        Operation::Stat { path: path("bad") },
        Operation::Rename { from: path("/a"), to: path("/c"), overwrite: false },
        Operation::Mkdir { path: path("/c/d"), parents: false },
        Operation::Delete { path: path("/c"), recursive: true },
        Operation::Mkdir { path: path("/c"), parents: false },
        Operation::Stat { path: path("/c/d") },
        Operation::Mkdir { path: path("/nothing/x"), parents: false },
    ]);
    let is_ok: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(is_ok, [true, true, true, false, true, true, true, true, false, false], "{results:?}");
    assert_eq!(client.names("/"), ["b", "c"]);
}

/// Many clients change the same few names: every answer is one that some order explains, and the store agrees in the
/// end.
#[test]
fn changes_of_one_name_come_one_after_the_other() {
    let rig = Rig::new();
    let made: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8_u8)
            .map(|id| {
                let rig = &rig;
                scope.spawn(move || {
                    let mut client = rig.client_as(id + 1);
                    (0..20).filter(|i| client.mkdir(&format!("/d{i}"), false).is_ok()).count()
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert_eq!(made, 20, "each directory was made by exactly one of eight");
    assert_eq!(rig.client().list("/").unwrap().len(), 20);
}
