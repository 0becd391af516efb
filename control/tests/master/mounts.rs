//! Mounts: what is refused, what is hidden, and a store that is away.

use crate::client::status;
use crate::rig::{Rig, eventually, register};
use citius_understore::testing::servers::scripted;
use citius_wire::{Operation, Outcome, Status, WriteType};
use std::fs;
use std::sync::{Arc, Mutex};

fn add(path: &str, uri: &str, read_only: bool) -> Operation {
    Operation::MountAdd { path: path.into(), uri: uri.into(), options: vec![], read_only, sync_interval_ms: None }
}

#[test]
fn bad_mounts_are_refused_with_the_stores_own_words() {
    let rig = Rig::new();
    let mut client = rig.client();
    let file = rig.home.path().join("file");
    fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    for (uri, expected, words) in [
        ("gopher://x", Status::InvalidArgument, "unknown"),
        ("relative/path", Status::InvalidArgument, "neither an absolute path"),
        ("/no/such/folder", Status::InvalidArgument, "does not exist"),
        (file, Status::InvalidArgument, "not a folder"),
    ] {
        let failure = client.one(add("/m", uri, false)).unwrap_err();
        assert!(failure.status == expected && failure.message.contains(words), "{uri}: {failure:?}");
    }
    let twice = Operation::MountAdd {
        path: "/m".into(),
        uri: "memory://twice".into(),
        options: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
        read_only: false,
        sync_interval_ms: None,
    };
    assert_eq!(status(client.one(twice)), Status::InvalidArgument);
    let mut odd = add("/m", "memory://odd", false);
    if let Operation::MountAdd { sync_interval_ms, .. } = &mut odd {
        *sync_interval_ms = Some(-5);
    }
    assert_eq!(status(client.one(odd)), Status::InvalidArgument);
    assert_eq!(status(client.one(add("/", "memory://root", false))), Status::AlreadyExists);
    assert!(!client.is_there("/m"), "nothing was mounted");
}

#[test]
fn mounts_nest_hide_and_go() {
    let rig = Rig::new();
    let mut client = rig.client();
    let (outer, inner) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(rig.root().join("m")).unwrap();
    fs::write(rig.root().join("m/hidden"), "").unwrap();
    fs::write(inner.path().join("f"), "").unwrap();
    let Outcome::Mount(info) = client.one(add("/m", outer.path().to_str().unwrap(), false)).unwrap() else { panic!() };
    assert_eq!((info.path.as_str(), info.sync_interval_ms), ("/m", 0));
    assert_eq!(status(client.one(add("/m", inner.path().to_str().unwrap(), false))), Status::AlreadyExists);
    client.mount("/m/deep/er", inner.path().to_str().unwrap(), None).unwrap();
    assert!(!client.is_there("/m/hidden") && client.is_there("/m/deep/er/f"));
    assert_eq!(client.names("/m"), ["deep"]);
    let listed = client.list("/m/deep").unwrap();
    assert!(listed.len() == 1 && listed[0].is_mount && listed[0].path == "er");
    let remove = |path: &str| Operation::MountRemove { path: path.into() };
    assert_eq!(status(client.one(remove("/m"))), Status::InvalidArgument);
    assert_eq!(status(client.one(remove("/"))), Status::InvalidArgument);
    assert_eq!(status(client.one(remove("/nothing"))), Status::NotFound);
    assert_eq!(status(client.delete("/m", true)), Status::InvalidArgument);
    client.done(remove("/m/deep/er")).unwrap();
    client.done(remove("/m")).unwrap();
    assert!(client.is_there("/m/hidden"));
    assert!(inner.path().join("f").exists(), "the under-store keeps its files");
}

#[test]
fn a_read_only_mount_takes_no_writes() {
    let rig = Rig::new();
    let mut client = rig.client();
    register(&mut client, 1, 1);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("f"), "content").unwrap();
    client.one(add("/ro", folder.path().to_str().unwrap(), true)).unwrap();
    assert_eq!(client.stat("/ro/f").unwrap().length, 7);
    assert_eq!(status(client.create("/ro/new", WriteType::CacheThrough)), Status::ReadOnly);
    assert_eq!(status(client.create("/ro/new", WriteType::MustCache)), Status::ReadOnly);
    assert_eq!(status(client.mkdir("/ro/d", false)), Status::ReadOnly);
    assert_eq!(status(client.delete("/ro/f", false)), Status::ReadOnly);
    assert_eq!(status(client.rename("/ro/f", "/ro/g", false)), Status::ReadOnly);
    assert!(folder.path().join("f").exists());
}

/// A folder that is away when a master starts: the master starts, says so, and opens it when it is back.
#[test]
fn a_mount_that_does_not_open_is_degraded_and_comes_back() {
    let mut rig = Rig::new();
    let folder = rig.home.path().join("away");
    fs::create_dir(&folder).unwrap();
    rig.client().mount("/away", folder.to_str().unwrap(), None).unwrap();
    rig.stop();
    fs::rename(&folder, rig.home.path().join("hidden")).unwrap();
    rig.start(|_| {});
    let mut client = rig.client();
    assert_eq!(status(client.stat("/away/f")), Status::Unavailable);
    assert_eq!(status(client.list("/away")), Status::Unavailable);
    let Outcome::Cluster(cluster) = client.one(Operation::Cluster).unwrap() else { panic!() };
    assert!(cluster.warnings.iter().any(|it| it.contains("/away") && it.contains("does not exist")), "{cluster:?}");
    assert!(client.is_there("/"), "the others serve");
    fs::rename(rig.home.path().join("hidden"), &folder).unwrap();
    fs::write(folder.join("f"), "").unwrap();
    eventually("the mount opens again", || client.stat("/away/f").is_ok());
}

/// A web server without WebDAV that has one file; it tells by which methods it was asked.
fn web_server() -> (String, Arc<Mutex<Vec<String>>>) {
    let methods = Arc::<Mutex<Vec<String>>>::default();
    let told = Arc::clone(&methods);
    let endpoint = scripted(usize::MAX, move |head| {
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap_or_default());
        told.lock().unwrap().push(method.to_owned());
        let status = match (method, path) {
            ("HEAD", "/folder/f") => "200 OK\r\ncontent-length: 10\r\netag: \"one\"",
            ("HEAD", "/folder/") => "403 Forbidden\r\ncontent-length: 0",
            ("HEAD", _) => "404 Not Found\r\ncontent-length: 0",
            _ => "405 Method Not Allowed\r\ncontent-length: 0",
        };
        format!("HTTP/1.1 {status}\r\nconnection: close\r\n\r\n").into_bytes()
    });
    (format!("{}/folder", endpoint.unwrap()), methods)
}

/// What it can do is known when it is mounted, and asked before anything is logged or sent.
#[test]
fn a_store_that_takes_no_writes_is_not_asked_to() {
    let rig = Rig::new();
    let mut client = rig.client();
    let (uri, methods) = web_server();
    client.one(add("/web", &uri, false)).unwrap();
    assert!(matches!(client.one(Operation::Stat { path: "/web/f".into() }).unwrap(), Outcome::Info(_)));
    let create = |path: &str, write_type| Operation::Create {
        path: path.into(),
        overwrite: true,
        parents: true,
        write_type,
        block_bytes: 0,
    };
    let changes = [
        create("/web/new", WriteType::Through),
        create("/web/f", WriteType::MustCache),
        create("/web/d/new", WriteType::Through),
        Operation::Mkdir { path: "/web/d".into(), parents: false },
        Operation::Delete { path: "/web/f".into(), recursive: false },
        Operation::Rename { from: "/web/f".into(), to: "/web/g".into(), overwrite: false },
    ];
    for change in changes {
        let failure = client.one(change.clone()).unwrap_err();
        assert_eq!(failure.status, Status::ReadOnly, "{change:?}: {failure}");
        assert!(failure.message.contains("takes no writes") && failure.message.contains(&uri), "{failure}");
    }
    let asked = methods.lock().unwrap();
    assert!(asked.iter().all(|method| method == "PROPFIND" || method == "HEAD"), "{asked:?}");
}
