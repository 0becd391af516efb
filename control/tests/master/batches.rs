//! Batches: what shares a run shares looks at the under-store and an entry of the log, and nothing else.

use crate::client::{Client, status};
use crate::rig::{Rig, register};
use citius_wire::{Failure, FileKey, Operation, Outcome, Status, WriteType};
use std::collections::HashSet;
use std::fs;

fn create(path: &str, overwrite: bool, parents: bool) -> Operation {
    Operation::Create { path: path.into(), overwrite, parents, write_type: WriteType::MustCache, block_bytes: 0 }
}

fn new(path: impl AsRef<str>) -> Operation {
    create(path.as_ref(), false, false)
}

/// How each operation of a batch ended, `None` for well.
fn ends(results: &[Result<Outcome, Failure>]) -> Vec<Option<Status>> {
    results.iter().map(|result| result.as_ref().err().map(|failure| failure.status)).collect()
}

fn rig() -> (Rig, Client) {
    let rig = Rig::new();
    let mut client = rig.client();
    register(&mut client, 1, 1);
    (rig, client)
}

/// Every refusal there is, each between two that succeed, all in one run: each has its own answer, and a retry of the
/// whole batch gets the same files.
#[test]
fn a_name_that_is_refused_does_not_harm_its_neighbours() {
    let (rig, mut client) = rig();
    let root = rig.root();
    fs::create_dir_all(root.join("d/below")).unwrap();
    fs::write(root.join("d/file"), "here").unwrap();
    std::os::unix::fs::symlink("/etc", root.join("d/out")).unwrap();
    std::os::unix::fs::symlink("file", root.join("d/link")).unwrap();
    client.memory_file("/d/memory", 1);
    client.create("/d/writing", WriteType::MustCache).unwrap();
    let refused = [
        (new("/d/file"), Status::AlreadyExists),
        (new("/d/link"), Status::AlreadyExists),
        (new("/d/memory"), Status::AlreadyExists),
        (new("/d/below"), Status::IsADirectory),
        (new("/d/writing"), Status::FileBusy),
        (new("/d/out"), Status::EscapesMount),
        (new("/d/out/passwd"), Status::EscapesMount),
        (new("/d/file/x"), Status::NotADirectory),
        (new("/nowhere/x"), Status::NotFound),
        (new("/d/.citius-staging"), Status::InvalidName),
        (new("relative"), Status::InvalidArgument),
        (new(format!("/d/{}", "n".repeat(256))), Status::InvalidName),
    ];
    let mut operations = vec![new("/d/new-0")];
    let mut expected = vec![None];
    for (i, (operation, status)) in refused.into_iter().enumerate() {
        operations.extend([operation, new(format!("/d/new-{}", i + 1))]);
        expected.extend([Some(status), None]);
    }
    // The old version is named in the log, which says what the new one replaces.
    operations.push(create("/d/file", true, false));
    expected.push(None);

    let first = client.serial;
    let results = client.batch(operations.clone());
    assert_eq!(ends(&results), expected);
    let keys = |results: &[Result<Outcome, Failure>]| -> Vec<FileKey> {
        let created = results.iter().flatten();
        created.map(|outcome| if let Outcome::Created(created) = outcome { created.file } else { panic!() }).collect()
    };
    let files = keys(&results);
    assert_eq!(files.iter().collect::<HashSet<_>>().len(), files.len(), "each file has its own key");
    assert_eq!(keys(&client.batch_at(first, operations)), files, "a retry gets what the first try got");
}

/// A run looks at a directory once; the next run looks again, so that what others do meanwhile is seen.
#[test]
fn a_directory_is_looked_at_by_every_run() {
    let (rig, mut client) = rig();
    let dir = rig.root().join("d");
    let all = |from: usize| (from..from + 3).map(|i| new(format!("/d/{i}"))).collect::<Vec<_>>();
    assert_eq!(ends(&client.batch(all(0))), [Some(Status::NotFound); 3]);
    fs::create_dir(&dir).unwrap();
    assert_eq!(ends(&client.batch(all(0))), [None; 3]);
    fs::write(dir.join("4"), "somebody else's").unwrap();
    assert_eq!(ends(&client.batch(all(3))), [None, Some(Status::AlreadyExists), None]);
    fs::remove_dir_all(&dir).unwrap();
    assert_eq!(ends(&client.batch(all(6))), [Some(Status::NotFound); 3]);
    fs::write(&dir, "a file now").unwrap();
    assert_eq!(ends(&client.batch(all(6))), [Some(Status::NotADirectory); 3]);
}

/// The first one that may make a directory makes it for all that follow.
#[test]
fn a_directory_made_for_one_is_there_for_the_next() {
    let (rig, mut client) = rig();
    let batch = vec![new("/a/b/0"), create("/a/b/1", false, true), new("/a/b/2"), create("/a/b/3", false, true)];
    assert_eq!(ends(&client.batch(batch)), [Some(Status::NotFound), None, None, None]);
    assert!(rig.root().join("a/b").is_dir());
}

/// More than one run holds, over several directories, as many clients send them at once: each answer is of its own
/// operation, and what was answered is there after a restart.
#[test]
fn answers_are_in_order_and_kept() {
    let (mut rig, mut client) = rig();
    for dir in 0..3 {
        client.mkdir(&format!("/d{dir}"), false).unwrap();
    }
    let path = |writer: usize, i: usize| format!("/d{}/{writer}-{i}", i % 3);
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let mut client = rig.client_as(10 + writer as u8);
            std::thread::spawn(move || {
                let created = client.batch((0..1500).map(|i| new(path(writer, i))).collect());
                let files = created.into_iter().map(|outcome| match outcome.unwrap() {
                    Outcome::Created(created) => created.file,
                    other => panic!("{other:?}"),
                });
                let complete = files.zip(0..).map(|(file, i)| Operation::Complete { file, length: 1 + i % 7 });
                let completed = client.batch(complete.collect());
                assert!(completed.iter().all(Result::is_ok), "a file is completed under the key it was given");
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    rig.restart();
    let mut client = rig.client();
    for writer in 0..4 {
        for i in (0..1500).step_by(97) {
            assert_eq!(client.stat(&path(writer, i)).unwrap().length, 1 + i as u64 % 7, "{}", path(writer, i));
        }
    }
    assert_eq!(status(client.create("/d0/0-0", WriteType::MustCache)), Status::AlreadyExists);
}

/// What follows sees what went before, also where a name lies in a directory that the same batch makes: once all of
/// these were looked at before the first was made.
#[test]
fn a_name_waits_for_the_directory_that_the_batch_makes() {
    let (rig, mut client) = rig();
    let mkdir = |path: &str, parents| Operation::Mkdir { path: path.into(), parents };
    let batch = vec![
        mkdir("/d", false),
        new("/d/f"),
        mkdir("/d/e", false),
        mkdir("/d/e/g", false),
        mkdir("/a/b/c", true),
        new("/a/x"),
        new("/a/b/x"),
        new("/a/b/c/d/x"),
        mkdir("/z", false),
        new("/y"),
    ];
    let mut expected = vec![None; batch.len()];
    expected[7] = Some(Status::NotFound);
    assert_eq!(ends(&client.batch(batch)), expected);
    assert!(rig.root().join("d/e/g").is_dir() && rig.root().join("a/b/c").is_dir());
}
