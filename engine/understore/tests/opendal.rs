//! What is reached through OpenDAL, on a real server and on a folder: that it is read as it is, and never written.

#![allow(clippy::unwrap_used)]

mod scripted;

use std::{fs, path::Path, sync::Arc};

use citius_understore::{
    Condition, Error, FileId, MountSpec, Outcome, Probe, StorePath, UnderStore, diagnose, open,
    testing::servers::SeaweedFs,
};
use futures::TryStreamExt;

use self::scripted::{answer, scripted};

/// More than one piece of a transfer, and of no round length.
const LARGE: usize = (5 << 20) + 123;

fn path(text: &str) -> StorePath {
    StorePath::parse(text).unwrap()
}

async fn names(store: &Arc<dyn UnderStore>, dir: &StorePath) -> Vec<(String, bool, u64)> {
    let pages: Vec<_> = store.list(dir, "").try_collect().await.unwrap();
    let entries = pages.into_iter().flat_map(|page| page.entries);
    entries.map(|entry| (entry.name, entry.stat.is_file(), entry.stat.len)).collect()
}

async fn content(store: &Arc<dyn UnderStore>, name: &str) -> Vec<u8> {
    let stat = store.stat(&path(name)).await.unwrap();
    part(store, name, 0..stat.len).await.unwrap()
}

async fn part(store: &Arc<dyn UnderStore>, name: &str, range: std::ops::Range<u64>) -> Result<Vec<u8>, Error> {
    let stat = store.stat(&path(name)).await?;
    let mut bytes = vec![0; (range.end - range.start) as usize];
    let start = range.start;
    let mut landing = |offset: u64, piece: &[u8]| {
        let at = (offset - start) as usize;
        bytes[at..at + piece.len()].copy_from_slice(piece);
    };
    store.read(&path(name), &stat.token, range, &mut landing).await?;
    Ok(bytes)
}

fn fill(folder: &Path) -> Vec<u8> {
    let large: Vec<u8> = (0..LARGE).map(|i| (i * 7 + i / 251) as u8).collect();
    fs::create_dir_all(folder.join("sub/inner")).unwrap();
    fs::write(folder.join("large"), &large).unwrap();
    fs::write(folder.join("empty"), b"").unwrap();
    for name in ["with space", "per%cent", "ha#sh", "pl+us", "-dash", "\u{fc}n\u{ef}c\u{f6}d\u{e9}", "dot."] {
        fs::write(folder.join("sub").join(name), name).unwrap();
    }
    large
}

/// Whatever is read from the store is what lies in the folder.
async fn is_read_as_it_is(store: &Arc<dyn UnderStore>, folder: &Path, large: &[u8]) {
    store.check().await.unwrap();
    let root = names(store, &StorePath::root()).await;
    let expected = [("empty", true, 0), ("large", true, LARGE as u64), ("sub", false, 0)];
    assert_eq!(root, expected.map(|(name, is_file, len)| (name.to_owned(), is_file, len)));
    let mut expected: Vec<_> = fs::read_dir(folder.join("sub")).unwrap().map(|entry| entry.unwrap()).collect();
    expected.sort_by_key(fs::DirEntry::file_name);
    let expected: Vec<String> = expected.iter().map(|entry| entry.file_name().into_string().unwrap()).collect();
    let listed: Vec<String> = names(store, &path("sub")).await.into_iter().map(|(name, ..)| name).collect();
    assert_eq!(listed, expected);
    for name in expected.iter().filter(|name| *name != "inner") {
        assert_eq!(content(store, &format!("sub/{name}")).await, name.as_bytes(), "{name}");
    }
    assert_eq!(names(store, &path("sub/inner")).await, []);
    assert!(content(store, "large").await == large);
    assert!(content(store, "empty").await.is_empty());
    for range in [0..1, 1..LARGE as u64, 3_000_000..3_000_001, LARGE as u64 - 1..LARGE as u64] {
        let expected = &large[range.start as usize..range.end as usize];
        assert!(part(store, "large", range.clone()).await.unwrap() == expected, "{range:?}");
    }
    for missing in ["missing", "sub/missing", "missing/below", "large/below"] {
        let error = store.stat(&path(missing)).await.unwrap_err();
        assert!(error.is_not_found(), "{missing}: {error:?}");
    }
    let error = store.list(&path("missing"), "").try_next().await.unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
    let error = store.list(&path("large"), "").try_next().await.unwrap_err();
    assert!(matches!(error, Error::NotADirectory { .. }), "{error:?}");
    // Another program writes: the version that was seen is gone, and the new one is read.
    let before = store.stat(&path("large")).await.unwrap();
    fs::write(folder.join("large"), b"another").unwrap();
    let error = store.read(&path("large"), &before.token, 0..7, &mut |_: u64, _: &[u8]| {}).await.unwrap_err();
    assert!(matches!(error, Error::VersionChanged { .. }), "{error:?}");
    assert_eq!(content(store, "large").await, b"another");
}

async fn is_never_written(store: &Arc<dyn UnderStore>) {
    assert!(!store.capabilities().writes);
    let refused = [
        store.mkdir(&path("made")).await.unwrap_err(),
        store.delete_file(&path("empty")).await.unwrap_err(),
        store.rename(&path("empty"), &path("moved"), &Condition::Any).await.unwrap_err(),
        store.stage(&path("new"), FileId([1; 16]), None).await.err().unwrap(),
    ];
    assert!(refused.iter().all(|error| matches!(error, Error::ReadOnly { .. })), "{refused:?}");
}

/// What is refused of a server, and that looking at it makes nothing there.
#[tokio::test(flavor = "multi_thread")]
async fn a_server() {
    let server = SeaweedFs::start().await.unwrap();
    let endpoint = server.webdav();
    let native = open(&MountSpec::new(endpoint.replace("http", "webdav"))).unwrap();
    native.mkdir(&path("pre fix%")).await.unwrap();
    native.mkdir(&path("pre fix%/sub")).await.unwrap();
    let spec = |folder: &str| {
        let spec = MountSpec::new(format!("opendal+webdav:///{folder}")).option("endpoint", &endpoint);
        MountSpec { read_only: true, ..spec.option("username", "me").option("password", "hidden") }
    };
    let store = open(&spec("pre fix%")).unwrap();
    store.check().await.unwrap();
    assert_eq!(names(&store, &StorePath::root()).await, [("sub".to_owned(), false, 0)]);
    is_never_written(&store).await;
    assert_eq!(names(&native, &path("pre fix%")).await, [("sub".to_owned(), false, 0)]);
    // A folder that is not there is not made by looking at it.
    let error = open(&spec("absent/folder")).unwrap().check().await.unwrap_err();
    assert!(matches!(error, Error::MissingFolder { .. }), "{error:?}");
    assert!(native.stat(&path("absent")).await.unwrap_err().is_not_found());
    let diagnosis = diagnose(&spec("pre fix%"), Probe::Write).await;
    assert_eq!(diagnosis.failure(), None, "{diagnosis:?}");
    let write = diagnosis.steps.iter().find(|step| step.name == "write").unwrap();
    assert!(matches!(&write.outcome, Outcome::Skipped(why) if why.contains("read-only")), "{write:?}");
    server.stop().unwrap();
    let error = open(&spec("")).unwrap().list(&StorePath::root(), "").try_next().await.unwrap_err();
    assert!(
        matches!(error, Error::Unreachable { .. }) && !format!("{error} {error:?}").contains("hidden"),
        "{error:?}"
    );
}

/// A wrong password was told as the page of HTML that the server sends with a 401.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_refused() {
    let (endpoint, _asked) = scripted(vec![answer(401, &[], "<html>Unauthorized</html>")]);
    let spec = MountSpec::new("opendal+webdav:///f").option("endpoint", endpoint);
    let spec = MountSpec { read_only: true, ..spec.option("username", "me").option("password", "hidden") };
    let error = open(&spec).unwrap().check().await.unwrap_err();
    assert!(matches!(error, Error::WrongKeys { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("HTTP 401") && text.contains("password") && !text.contains("html"), "{text}");
}

/// A service that lists names only.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let large = fill(folder.path());
    let spec = MountSpec::new(format!("opendal+fs://{}", folder.path().display()));
    let store = open(&MountSpec { read_only: true, ..spec }).unwrap();
    is_read_as_it_is(&store, folder.path(), &large).await;
    is_never_written(&store).await;
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "nothing was made or deleted");
    // What OpenDAL would read another file for is refused by name, and stops no listing.
    fs::write(folder.path().join("sub/large "), b"the longer name").unwrap();
    fs::write(folder.path().join("sub/large"), b"the shorter name").unwrap();
    assert!(store.stat(&path("sub/large ")).await.is_err());
    assert_eq!(content(&store, "sub/large").await, b"the shorter name");
    fs::create_dir(folder.path().join("sub/room ")).unwrap();
    fs::write(folder.path().join("sub/room /file"), b"below").unwrap();
    assert_eq!(content(&store, "sub/room /file").await, b"below");
    assert_eq!(names(&store, &path("sub/room ")).await, [("file".to_owned(), true, 5)]);
}
