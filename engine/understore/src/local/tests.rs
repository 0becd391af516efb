//! What a local file system can do to us that no other store can: links, odd kinds of files, changes in place.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File, OpenOptions, Permissions},
    io::Write,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    },
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use futures::TryStreamExt;
use tempfile::TempDir;

use super::*;
use crate::{PAGE_ENTRIES_MAX, Page, StagedBody, testing::FuseFolder};

fn folder() -> (TempDir, LocalStore) {
    let outer = tempfile::tempdir().unwrap();
    fs::create_dir(outer.path().join("mounted")).unwrap();
    let store = LocalStore::new(outer.path().join("mounted")).unwrap();
    store.inner.open_root().unwrap();
    (outer, store)
}

fn seen(store: &LocalStore, at: &str) -> Stat {
    match store.stat_now(&path(at)).unwrap() {
        Glance::Found(stat) => stat,
        other => panic!("{at}: {other:?}"),
    }
}

fn path(text: &str) -> StorePath {
    StorePath::parse(text).unwrap()
}

async fn pages(store: &LocalStore, dir: &str) -> Vec<Page> {
    store.list(&path(dir), "").try_collect().await.unwrap()
}

async fn sealed(store: &LocalStore, at: &str, content: &[u8], id: u8) -> (Box<dyn Staged>, StagedRecord) {
    let mut staged = store.stage(&path(at), FileId([id; 16]), None).await.unwrap();
    staged.write(Bytes::copy_from_slice(content)).await.unwrap();
    let record = staged.seal().await.unwrap();
    (staged, record)
}

/// Everything below a folder, with links not followed.
fn tree(at: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut stack = vec![at.to_owned()];
    while let Some(dir) = stack.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            found.insert(entry.path().strip_prefix(at).unwrap().to_string_lossy().into_owned());
            if entry.file_type().unwrap().is_dir() {
                stack.push(entry.path());
            }
        }
    }
    found
}

#[tokio::test]
async fn links_are_followed_beneath_the_mount_and_refused_out_of_it() {
    let (outer, store) = folder();
    let root = outer.path().join("mounted");
    fs::write(outer.path().join("secret"), "secret").unwrap();
    fs::create_dir_all(root.join("dir/sub")).unwrap();
    fs::write(root.join("file"), "inside").unwrap();
    symlink("../file", root.join("dir/good")).unwrap();
    symlink("../../secret", root.join("dir/bad")).unwrap();
    symlink(outer.path().join("secret"), root.join("dir/absolute")).unwrap();
    symlink(root.join("file"), root.join("dir/absolute-inside")).unwrap();
    symlink("..", root.join("up")).unwrap();
    symlink("nowhere", root.join("dir/dangling")).unwrap();
    symlink("loop", root.join("dir/loop")).unwrap();
    symlink("../dir", root.join("dir/back")).unwrap();
    let held = File::open(outer.path()).unwrap();
    let magic = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
    symlink(magic, root.join("dir/magic")).unwrap();

    let good = store.stat(&path("dir/good")).await.unwrap();
    assert_eq!(good, store.stat(&path("file")).await.unwrap());
    // An absolute link is refused also where it leads back in: its meaning changes with the mount.
    for bad in ["dir/bad", "dir/absolute", "dir/absolute-inside", "up/secret", "up", "dir/magic/secret"] {
        let refused = store.stat(&path(bad)).await;
        assert!(matches!(refused, Err(Error::EscapesMount { .. })), "{bad}: {refused:?}");
        let read = store.open_local(&path(bad), &good.token).await;
        assert!(matches!(read, Err(Error::EscapesMount { .. })), "{bad}: {read:?}");
    }
    let staged = store.stage(&path("up/new"), FileId([1; 16]), None).await;
    assert!(matches!(staged.err(), Some(Error::EscapesMount { .. })));
    assert!(matches!(store.mkdir(&path("up/new")).await, Err(Error::EscapesMount { .. })));
    assert!(matches!(store.delete_file(&path("up/secret")).await, Err(Error::EscapesMount { .. })));
    let moved = store.rename(&path("file"), &path("up/file"), &Condition::Any).await;
    assert!(matches!(moved, Err(Error::EscapesMount { .. })));

    let page = pages(&store, "dir").await.remove(0);
    let names: Vec<_> = page.entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["good", "sub"]);
    let refused: Vec<_> = page.refused.iter().map(|refusal| (refusal.name.as_str(), refusal.reason)).collect();
    let out = "a symbolic link leads out of the mounted folder";
    assert_eq!(
        refused,
        [
            ("absolute", out),
            ("absolute-inside", out),
            ("back", "a symbolic link back to a folder that it is in"),
            ("bad", out),
            ("dangling", "a symbolic link to nothing"),
            ("loop", "a loop of symbolic links"),
            ("magic", out),
        ]
    );
    assert_eq!(fs::read(outer.path().join("secret")).unwrap(), b"secret");
}

#[tokio::test]
async fn a_recursive_deletion_removes_links_and_not_what_they_point_to() {
    let (outer, store) = folder();
    let root = outer.path().join("mounted");
    fs::create_dir(outer.path().join("outside")).unwrap();
    fs::write(outer.path().join("outside/kept"), "kept").unwrap();
    fs::create_dir_all(root.join("dir/a/b/c")).unwrap();
    fs::create_dir(root.join("neighbour")).unwrap();
    fs::write(root.join("neighbour/kept"), "kept").unwrap();
    symlink("../../outside", root.join("dir/out")).unwrap();
    symlink("../neighbour", root.join("dir/near")).unwrap();
    for name in 0..3000 {
        fs::write(root.join(format!("dir/a/b/{name}")), "x").unwrap();
    }
    store.delete_dir(&path("dir"), Depth::Recursive).await.unwrap();
    let left = tree(outer.path());
    let expected = ["mounted", "mounted/neighbour", "mounted/neighbour/kept", "outside", "outside/kept"];
    assert_eq!(left, expected.map(str::to_owned).into());
    // A link to a directory is a name of its own: deleting it as a file leaves the directory.
    symlink("neighbour", root.join("link")).unwrap();
    store.delete_file(&path("link")).await.unwrap();
    assert!(root.join("neighbour/kept").exists());
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_by_name_and_fails_no_list() {
    let (outer, store) = folder();
    let root = outer.path().join("mounted");
    fs::write(root.join(OsStr::from_bytes(b"not-\xff-utf8")), "x").unwrap();
    fs::write(root.join("fine\n\t"), "x").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
    let page = pages(&store, "").await.remove(0);
    assert_eq!(page.entries.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["fine\n\t"]);
    let refused: Vec<_> = page.refused.iter().map(|refusal| refusal.reason).collect();
    assert_eq!(refused, ["the name is not UTF-8", "a pipe", "a socket"]);
    // Opening a pipe must neither hang nor succeed.
    let token = VersionToken::new(&[]).unwrap();
    assert!(matches!(store.open_local(&path("pipe"), &token).await, Err(Error::NotAFile { what: "a pipe", .. })));
    assert!(matches!(store.stat(&path("socket")).await, Err(Error::NotAFile { .. })));
}

#[tokio::test]
async fn a_hundred_thousand_names_are_listed_in_order() {
    const COUNT: usize = 100_000;
    let (outer, store) = folder();
    let root = outer.path().join("mounted");
    for name in 0..COUNT {
        File::create(root.join(format!("{:05}", (name * 7919) % COUNT))).unwrap();
    }
    let mut stream = store.list(&StorePath::root(), "");
    let mut next = 0;
    while let Some(page) = stream.try_next().await.unwrap() {
        assert!(page.entries.len() <= PAGE_ENTRIES_MAX && page.refused.is_empty());
        for entry in page.entries {
            assert_eq!(entry.name, format!("{next:05}"));
            assert!(entry.stat.is_file());
            next += 1;
        }
    }
    assert_eq!(next, COUNT);
}

#[tokio::test]
async fn a_change_in_place_is_seen_after_reading() {
    let (outer, store) = folder();
    let file = outer.path().join("mounted/f");
    fs::write(&file, vec![1; 3 << 20]).unwrap();
    let token = seen(&store, "f").token;
    let fd = store.open_local(&path("f"), &token).await.unwrap().unwrap();
    let flags = rustix::fs::fcntl_getfl(&fd).unwrap();
    assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK), "io_uring would answer EAGAIN");
    store.check_local(&path("f"), &fd, &token).unwrap();
    let mut landed = 0;
    let mut landing = |_: u64, bytes: &[u8]| {
        if landed == 0 {
            // Kernels before 6.13 stamp times in ticks of up to 10 ms.
            std::thread::sleep(Duration::from_millis(20));
            OpenOptions::new().write(true).open(&file).unwrap().write_all_at(&[2], 0).unwrap();
        }
        landed += bytes.len();
    };
    let read = store.read(&path("f"), &token, 0..3 << 20, &mut landing).await;
    assert!(matches!(read, Err(Error::VersionChanged { .. })), "{read:?}");
    let checked = store.check_local(&path("f"), &fd, &token);
    assert!(matches!(checked, Err(Error::VersionChanged { .. })));
}

#[tokio::test]
async fn a_file_that_shrinks_is_never_padded() {
    let (outer, store) = folder();
    let file = outer.path().join("mounted/f");
    fs::write(&file, vec![1; 3 << 20]).unwrap();
    let token = seen(&store, "f").token;
    let mut landing = |_: u64, _: &[u8]| OpenOptions::new().write(true).open(&file).unwrap().set_len(100).unwrap();
    let read = store.read(&path("f"), &token, 0..3 << 20, &mut landing).await;
    assert!(matches!(read, Err(Error::WrongLength { .. } | Error::VersionChanged { .. })), "{read:?}");
}

#[tokio::test]
async fn a_replaced_file_keeps_its_permissions() {
    let (outer, store) = folder();
    let file = outer.path().join("mounted/f");
    fs::write(&file, "old").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
    let token = seen(&store, "f").token;
    let (mut staged, _) = sealed(&store, "f", b"new", 1).await;
    staged.publish(&Condition::Replaces(token)).await.unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"new");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
}

#[tokio::test]
async fn temporaries_are_hidden_found_and_gone() {
    let (outer, store) = folder();
    let root = outer.path().join("mounted");
    let (staged, record) = sealed(&store, "f", b"content", 9).await;
    // The process that staged it dies.
    std::mem::forget(staged);
    assert_eq!(tree(&root).len(), 2, "a folder and a temporary in it: {:?}", tree(&root));
    assert!(pages(&store, "").await.iter().all(|page| page.entries.is_empty() && page.refused.is_empty()));
    for reserved in [".citius-staging", ".citius-staging/x", ".citius-staging-x", "d/.citius-staging-x"] {
        assert!(matches!(store.stat(&path(reserved)).await, Err(Error::Unnameable { .. })), "{reserved}");
        let staged = store.stage(&path(reserved), FileId([1; 16]), None).await;
        assert!(matches!(staged.err(), Some(Error::Unnameable { .. })), "{reserved}");
    }
    // Restarted over the same folder.
    let again = LocalStore::new(root.clone()).unwrap();
    let nobody = again.sweep(&|_| false).await.unwrap();
    assert_eq!((nobody.seen, nobody.removed), (1, 0));
    assert_eq!(again.settle(&record).await.unwrap(), Settled::Absent);
    assert!(tree(&root).is_empty(), "{:?}", tree(&root));
    assert_eq!(again.sweep(&|_| true).await.unwrap(), Swept::default());
    // Names that only look like ours are left alone.
    fs::write(root.join(".citius-stagingx"), "user's").unwrap();
    assert!(again.stat(&path(".citius-stagingx")).await.unwrap().is_file());
}

#[tokio::test]
async fn a_settled_write_is_told_from_a_file_of_the_same_content() {
    let (outer, store) = folder();
    let file = outer.path().join("mounted/f");
    let (mut staged, record) = sealed(&store, "f", b"same", 3).await;
    staged.publish(&Condition::Any).await.unwrap();
    assert!(matches!(store.settle(&record).await.unwrap(), Settled::Published(_)));
    // Somebody else writes the same bytes under the same name, as a new file and then in place.
    fs::write(file.with_extension("tmp"), "same").unwrap();
    fs::rename(file.with_extension("tmp"), &file).unwrap();
    assert_eq!(store.settle(&record).await.unwrap(), Settled::Absent);
    assert_eq!(fs::read(&file).unwrap(), b"same");
}

#[tokio::test]
async fn a_damaged_temporary_is_not_published() {
    let (outer, store) = folder();
    let (mut staged, record) = sealed(&store, "f", b"content", 4).await;
    let StagedBody::Temp { name, .. } = &record.body else { panic!("a local write is a temporary: {record:?}") };
    std::thread::sleep(Duration::from_millis(20));
    let temp = outer.path().join("mounted").join(name);
    OpenOptions::new().append(true).open(temp).unwrap().write_all(b"more").unwrap();
    for published in [staged.publish(&Condition::Any).await, store.publish(&record, &Condition::Any).await] {
        assert!(matches!(published, Err(Error::StagedLost { .. })), "{published:?}");
    }
    assert!(matches!(store.stat(&path("f")).await, Err(Error::NotFound { .. })));
}

/// Every victim is a file of this test's own folder: should the resolution ever let a record out of the mount, settling
/// it deletes what it names, and that must never be a file of the machine.
#[tokio::test]
async fn hostile_records_lead_nowhere() {
    let (outer, store) = folder();
    let secret = outer.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let inode = fs::metadata(&secret).unwrap().ino();
    let absolute = secret.to_str().unwrap();
    for name in ["../secret", absolute, ""] {
        let body = StagedBody::Temp { name: name.into(), inode, mtime_ns: 0 };
        let record = StagedRecord { path: path("f"), file_id: FileId([0; 16]), len: 6, body };
        assert!(store.publish(&record, &Condition::Any).await.is_err(), "{name}");
        let _ = store.settle(&record).await;
        assert_eq!(fs::read(&secret).unwrap(), b"secret", "{name} led out of the mount");
    }
}

#[tokio::test]
async fn a_folder_that_went_away_is_found_by_the_check() {
    let (outer, store) = folder();
    store.check().await.unwrap();
    let root = outer.path().join("mounted");
    fs::rename(&root, outer.path().join("moved")).unwrap();
    assert!(matches!(store.check().await, Err(Error::MissingFolder { .. })));
    fs::create_dir(&root).unwrap();
    assert!(matches!(store.check().await, Err(Error::MissingFolder { .. })), "another folder in its place");
}

/// A name seen in its open directory is what its whole path is, whatever it is: also where the answer is a refusal.
#[test]
fn a_name_in_its_directory_is_what_its_path_is() {
    let (outer, store) = folder();
    let root = outer.path().join("mounted");
    fs::write(outer.path().join("secret"), "secret").unwrap();
    fs::create_dir_all(root.join("d/below")).unwrap();
    fs::write(root.join("d/file"), "content").unwrap();
    fs::write(root.join("d/ü %#+"), "odd").unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("d/pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    symlink("file", root.join("d/link")).unwrap();
    symlink("../d/below", root.join("d/up-and-down")).unwrap();
    symlink("nothing", root.join("d/dangling")).unwrap();
    symlink("loop", root.join("d/loop")).unwrap();
    symlink("../../secret", root.join("d/out")).unwrap();
    symlink(outer.path().join("secret"), root.join("d/absolute")).unwrap();
    symlink("d", root.join("linked")).unwrap();

    let names = ["file", "ü %#+", "below", "link", "up-and-down", "dangling", "loop", "out", "absolute", "pipe"];
    let other = ["nothing", ".citius-staging-x", ".citius-stagingx", "", ".", "..", "below/..", "x/../file", "a\0b"];
    let long = "n".repeat(256);
    for dir in ["d", "linked"] {
        let opened = store.directory_now(&path(dir)).unwrap();
        for name in names.into_iter().chain(other).chain([long.as_str()]) {
            let whole = path(dir).join(name).and_then(|path| store.stat_now(&path));
            let seen = opened.stat_now(name);
            assert_eq!(format!("{seen:?}"), format!("{whole:?}"), "{dir}/{name}");
            assert_eq!(matches!(seen, Ok(Glance::Elsewhere)), ["out", "absolute"].contains(&name), "{dir}/{name}");
        }
    }
    assert!(store.directory_now(&path("d/file")).is_err() && store.directory_now(&path("nothing")).is_err());
    assert!(matches!(store.directory_now(&path("d/out")), Err(Error::EscapesMount { .. })));
}

/// The kernel takes no path of 4,096 bytes, though it would take the last name: both ways refuse it.
#[test]
fn a_path_too_long_is_refused_in_its_directory_too() {
    let (outer, store) = folder();
    let mut names = vec!["x".repeat(239); 15];
    names.push("x".repeat(240));
    // Made one by one, each in the one above: the folder's own path is in the way of the whole.
    let mut dir = File::open(outer.path().join("mounted")).unwrap();
    for name in &names {
        rustix::fs::mkdirat(&dir, name, 0o700.into()).unwrap();
        dir = File::from(rustix::fs::openat(&dir, name, rustix::fs::OFlags::RDONLY, Mode::empty()).unwrap());
    }
    let dir = path(&names.join("/"));
    let opened = store.directory_now(&dir).unwrap();
    for (name_bytes, is_refused) in [(254, false), (255, true)] {
        let name = "y".repeat(name_bytes);
        let whole = store.stat_now(&dir.join(&name).unwrap());
        assert_eq!(matches!(whole, Err(Error::Unnameable { .. })), is_refused, "{whole:?}");
        assert_eq!(matches!(opened.stat_now(&name), Err(Error::Unnameable { .. })), is_refused);
    }
}

/// Once it is known which names a directory has, what is made in it by others is seen at once all the same, and each look
/// still counts as a request.
#[test]
fn what_is_made_underneath_a_known_directory_is_seen_at_once() {
    let (outer, store) = folder();
    let root = outer.path().join("mounted");
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("d/old"), "old").unwrap();
    let opened = store.directory_now(&path("d")).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let before = store.traffic().totals().requests;
    for number in 0..200 {
        assert_eq!(opened.stat_now(&format!("part-{number}")).unwrap(), Glance::Nothing);
    }
    assert_eq!(store.traffic().totals().requests - before, 200);
    let dir = store.inner.root().open_beneath(&path("d"), rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
    let may_know = store.inner.known.may_know(store.inner.root().dir(), &dir);
    assert_eq!(store.inner.known.lack(&dir, "part-0"), may_know);

    fs::write(root.join("d/part-0"), "new").unwrap();
    symlink("part-2", root.join("d/part-1")).unwrap();
    fs::rename(root.join("d/old"), root.join("d/part-2")).unwrap();
    for name in ["part-0", "part-1", "part-2"] {
        assert_eq!(opened.stat_now(name).unwrap(), Glance::Found(seen(&store, &format!("d/{name}"))));
    }
    assert_eq!(seen(&store, "d/part-1"), seen(&store, "d/part-2"));
    assert_eq!(opened.stat_now("old").unwrap(), Glance::Nothing);
}

/// The server of a folder went away. Every thread that asked about the folder hung with it: of the master those that
/// answer all clients, of a worker its shards.
#[tokio::test]
async fn a_file_system_that_is_away_keeps_nobody_waiting_for_long() {
    let Some(fuse) = fuse_folder(&[("f", b"content")]) else { return };
    let patience = Patience {
        look: Duration::from_millis(300),
        work: Duration::from_millis(300),
        overdue: Duration::from_millis(30),
    };
    let store = LocalStore::waiting_for(fuse.path().to_owned(), patience).unwrap();
    store.check().await.unwrap();
    assert!(store.local().is_none(), "it would be asked on the calling thread");
    let stat = store.stat(&path("f")).await.unwrap();
    let mut read = Vec::new();
    let mut landing = |_: u64, bytes: &[u8]| read.extend_from_slice(bytes);
    store.read(&path("f"), &stat.token, 0..7, &mut landing).await.unwrap();
    assert_eq!(read, b"content");
    assert_eq!(pages(&store, "").await[0].entries[0].name, "f");

    fuse.hang();
    for _ in 0..3 {
        let error = store.stat(&path("f")).await.unwrap_err();
        let target = format!("file://{}/f", fuse.path().display());
        assert!(matches!(&error, Error::Away { target: named, .. } if *named == target), "{error}");
        let read = store.read(&path("f"), &stat.token, 0..7, &mut |_: u64, _: &[u8]| {}).await;
        assert!(matches!(read, Err(Error::Away { .. })), "{read:?}");
        let listed: Result<Vec<Page>> = store.list(&path(""), "").try_collect().await;
        assert!(matches!(listed, Err(Error::Away { .. })), "{listed:?}");
        assert!(matches!(store.check().await, Err(Error::Away { .. })));
    }
    // Nor is it waited for when it is first opened: nothing is asked before the first call.
    let late = LocalStore::waiting_for(fuse.path().to_owned(), patience).unwrap();
    assert!(late.local().is_none());
    assert!(matches!(late.check().await, Err(Error::Away { .. })));

    fuse.answer();
    while store.stat(&path("f")).await.is_err() {}
    assert_eq!(store.stat(&path("f")).await.unwrap(), stat);
}

/// A folder of this machine may have another file system mounted below it, which is away.
#[tokio::test]
async fn what_is_mounted_below_a_near_folder_is_not_asked_on_the_calling_thread() {
    let Some(fuse) = fuse_folder(&[("f", b"content")]) else { return };
    // The mounted folder lies in the folder of temporary files, which is on this machine.
    let (above, name) = (fuse.path().parent().unwrap(), fuse.path().file_name().unwrap().to_str().unwrap());
    let store = LocalStore::new(above.to_owned()).unwrap();
    store.check().await.unwrap();
    let file = path(name).join("f").unwrap();
    let stat = store.stat(&file).await.unwrap();
    fuse.hang();
    let local = store.local().expect("the folder itself is near");
    assert_eq!(local.stat_now(&path(name)).unwrap(), Glance::Elsewhere);
    assert_eq!(local.stat_now(&file).unwrap(), Glance::Elsewhere);
    assert_eq!(local.directory_now(&path("")).unwrap().stat_now(name).unwrap(), Glance::Elsewhere);
    assert!(local.directory_now(&path(name)).is_err());
    assert!(!fuse.keeps_someone_waiting());
    fuse.answer();
    assert!(local.open_local(&file, &stat.token).await.unwrap().is_none(), "a shard would read it in its ring");
}

/// `None` where the user may not mount one, which is said.
fn fuse_folder(files: &[(&str, &[u8])]) -> Option<FuseFolder> {
    match FuseFolder::mount(files) {
        Ok(folder) => Some(folder),
        Err(error) if !rustix::process::geteuid().is_root() => {
            println!("not run, as only root may mount a FUSE file system: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}
