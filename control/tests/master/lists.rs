//! Listings: every name once, in order, from store and log, however many there are.

use crate::client::status;
use crate::rig::{Rig, register};
use citius_wire::{EntryKind, LIST_PAGE_ENTRIES_MAX, Operation, Persistence, Status, WriteType};
use std::fs;

/// 100,000 names of the store, and names of the log before, between, over and after them.
#[test]
fn a_hundred_thousand_names_merge_with_the_logs() {
    let rig = Rig::new();
    let mut client = rig.client();
    register(&mut client, 1, 1);
    let folder = rig.root().join("d");
    fs::create_dir(&folder).unwrap();
    let mut expected: Vec<String> = (0..100_000).map(|i| format!("f{i:06}")).collect();
    for name in &expected {
        fs::write(folder.join(name), "").unwrap();
    }
    let mut in_memory = vec!["a".to_owned(), "z".to_owned(), "f000500x".to_owned(), "f099999x".to_owned()];
    in_memory.extend((0..2_500).map(|i| format!("g{i:04}")));
    let create = |name: &String| Operation::Create {
        path: format!("/d/{name}"),
        overwrite: true,
        parents: false,
        write_type: WriteType::MustCache,
        block_bytes: 0,
    };
    let over = "f050000".to_owned();
    let all: Vec<_> = in_memory.iter().chain([&over]).map(create).collect();
    let created = client.batch(all);
    let complete = created.into_iter().map(|result| match result.unwrap() {
        citius_wire::Outcome::Created(created) => Operation::Complete { file: created.file, length: 9 },
        other => panic!("{other:?}"),
    });
    let complete = complete.collect();
    assert!(client.batch(complete).iter().all(Result::is_ok));
    // Being written, and so seen by nobody.
    client.create("/d/f000001x", WriteType::MustCache).unwrap();
    let mount = tempfile::tempdir().unwrap();
    client.mount("/d/m/n", mount.path().to_str().unwrap(), None).unwrap();

    expected.extend(in_memory.iter().cloned());
    expected.push("m".into());
    expected.sort();
    let pages = client.pages("/d", "", 0).unwrap();
    assert!(pages.iter().rev().skip(1).all(|page| page.entries.len() == LIST_PAGE_ENTRIES_MAX));
    let entries: Vec<_> = pages.into_iter().flat_map(|page| page.entries).collect();
    let names: Vec<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(names.len(), expected.len());
    assert!(names.iter().zip(&expected).all(|(found, expected)| found == expected));
    let entry = |name: &str| entries.iter().find(|entry| entry.path == name).unwrap();
    assert_eq!((entry(&over).length, entry(&over).persistence), (9, Persistence::MemoryOnly));
    assert_eq!((entry("m").kind, entry("m").is_mount), (EntryKind::Directory, false));
    assert_eq!(entry("f000000").version, client.stat("/d/f000000").unwrap().version);

    let some = client.pages("/d", "f099998", 3).unwrap();
    let names: Vec<_> = some.iter().flat_map(|page| &page.entries).map(|entry| entry.path.as_str()).collect();
    assert_eq!(names, ["f099999", "f099999x", "g0000"]);
}

#[test]
fn what_cannot_be_listed_says_so() {
    let rig = Rig::new();
    let mut client = rig.client();
    register(&mut client, 1, 1);
    fs::write(rig.root().join("f"), "").unwrap();
    client.memory_file("/m", 1);
    assert_eq!(status(client.list("/nothing")), Status::NotFound);
    assert_eq!(status(client.list("/f")), Status::NotADirectory);
    assert_eq!(status(client.list("/m")), Status::NotADirectory);
    assert_eq!(status(client.list("relative")), Status::InvalidArgument);
    use std::os::unix::ffi::OsStrExt;
    fs::write(rig.root().join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
    let pages = client.pages("/", "", 0).unwrap();
    assert_eq!(pages.last().unwrap().unnameable, 1);
    assert_eq!(pages.iter().map(|page| page.entries.len()).sum::<usize>(), 2);
}

/// A reader that stops in the middle of a listing holds up nobody else, and a listing that nobody reads on ends with its
/// connection.
#[test]
fn a_slow_reader_holds_up_only_itself() {
    let rig = Rig::new();
    for i in 0..30_000 {
        fs::write(rig.root().join(format!("file-with-a-long-name-{i:06}")), "").unwrap();
    }
    let mut slow = rig.client_as(1);
    slow.send(&citius_wire::List { path: "/".into(), after: String::new(), limit: 0 });
    let mut other = rig.client_as(2);
    assert_eq!(other.list("/").unwrap().len(), 30_000);
    assert!(other.is_there("/file-with-a-long-name-000000"));
    drop(slow);
    other.mkdir("/after", false).unwrap();
}
