//! Large things, over a folder and over a real S3 server: a file of twice the memory tier, a directory of 100,000 files,
//! and a bucket of 1,000,000 objects.

use crate::bucket::Prefix;
use crate::support::{PATIENCE, Process, noise, poll, put};
use citius_understore::testing::servers::EndlessBucket;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{ChildStdout, Stdio};
use std::sync::mpsc::channel;

const PIECE_BYTES: usize = 1 << 20;
const PIECES: usize = 1024;
const ENTRIES: usize = 100_000;

/// The pieces of the large file: noise, marked with their numbers so that no two are alike.
fn pieces() -> impl Iterator<Item = Vec<u8>> {
    let plain = noise(PIECE_BYTES, 9);
    (0..PIECES).map(move |number| {
        let mut piece = plain.clone();
        piece[..8].copy_from_slice(&number.to_le_bytes());
        piece[PIECE_BYTES - 8..].copy_from_slice(&number.to_le_bytes());
        piece
    })
}

/// Compares a stream with the large file, piece by piece, with no more than a piece in memory.
fn compare(mut stream: impl Read) {
    let mut found = vec![0; PIECE_BYTES];
    for (number, expected) in pieces().enumerate() {
        stream.read_exact(&mut found).unwrap();
        assert!(found == expected, "piece {number} differs");
    }
    assert_eq!(stream.read(&mut found).unwrap(), 0, "there is more");
}

fn cat(local: &Process, path: &str, then: impl FnOnce(ChildStdout)) {
    let mut child = local.command(&["cat", path]).stdout(Stdio::piped()).spawn().unwrap();
    then(child.stdout.take().unwrap());
    assert!(child.wait().unwrap().success());
}

/// 1 GiB through a tier of 512 MiB, cold, and copied within the namespace: blocks go while others come.
fn read_and_copy(local: &Process) {
    cat(local, "/data/large", compare);
    local.run(&["cp", "/data/large", "/data/copy"]);
    cat(local, "/data/copy", compare);
    let cached = local.json(&["stat", "/data/copy"])["cached_bytes"].as_u64().unwrap();
    assert!(cached > 0 && cached <= 512 << 20, "{cached}");
}

#[test]
fn a_file_larger_than_memory_is_read_and_written() {
    let data = tempfile::tempdir().unwrap();
    let mut file = std::fs::File::create(data.path().join("large")).unwrap();
    pieces().for_each(|piece| file.write_all(&piece).unwrap());
    drop(file);
    let local = Process::local(&["--mount", &format!("/data={}", data.path().display())]);
    read_and_copy(&local);
    compare(std::fs::File::open(data.path().join("copy")).unwrap());
    let load = local.try_run(&["load", "/data/large"]);
    let words = String::from_utf8(load.stderr).unwrap();
    assert!(load.status.success() && words.contains("more than the 512 MiB that the workers have"), "{words}");
}

#[test]
fn an_object_larger_than_memory_is_read_and_written() {
    let prefix = Prefix::new("large");
    prefix.put_pieces("large", (PIECES * PIECE_BYTES) as u64, pieces());
    read_and_copy(&prefix.local());
}

/// The names `f0` to `f99999`, in the order in which they are written.
fn names() -> impl Iterator<Item = String> {
    (0..ENTRIES).map(|i| format!("f{i}"))
}

/// Lists the directory of [`names`] whole, and from its middle, as a page of a browser would.
fn list(local: &Process) {
    let mut expected: Vec<String> = names().collect();
    expected.sort_unstable();
    let mut child = local.command(&["ls", "/data/many"]).stdout(Stdio::piped()).spawn().unwrap();
    let listed: Vec<String> = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    assert!(child.wait().unwrap().success());
    assert_eq!(listed.len(), ENTRIES);
    assert!(listed == expected);
    let page = local.text(&["ls", "--after", &expected[70_000], "--limit", "3", "/data/many"]);
    assert_eq!(page.lines().collect::<Vec<_>>(), expected[70_001..70_004]);
    assert_eq!(local.text(&["cat", "/data/many/f500"]), "x");
}

#[test]
fn a_directory_of_100_000_files_is_listed_whole_and_in_order() {
    let data = tempfile::tempdir().unwrap();
    let dir = data.path().join("many");
    std::fs::create_dir(&dir).unwrap();
    names().for_each(|name| drop(std::fs::File::create(dir.join(name)).unwrap()));
    put(dir.join("f500"), b"x");
    list(&Process::local(&["--mount", &format!("/data={}", data.path().display())]));
}

#[test]
fn a_prefix_of_100_000_objects_is_listed_whole_and_in_order() {
    let prefix = Prefix::new("many");
    prefix.put_all(names().map(|name| (format!("many/{name}"), Vec::new())));
    prefix.put("many/f500", b"x".to_vec());
    list(&prefix.local());
}

/// Who lists a million objects holds a few pages of them, and shows the first before the last is asked for: in the command,
/// and in the master, whose pages wait for a reader that does not read.
#[test]
fn a_bucket_of_1_000_000_objects_is_listed_page_by_page() {
    const OBJECTS: u64 = 1_000_000;
    /// Of a thousand: with no more than these the first names are shown.
    const FIRST_PAGES: u64 = 4;
    /// What a pipe, two sockets and a page on each side hold, and room for a server with larger buffers.
    const PAGES_AHEAD_MAX: u64 = 300;
    /// Names after which the master's cache of answers, which has a bound of its own, is full.
    const CACHE_FULL: u64 = OBJECTS * 4 / 10;
    const COMMAND_BYTES_MAX: u64 = 48 << 20;
    const GROWTH_BYTES_MAX: u64 = 16 << 20;
    let bucket = EndlessBucket::start(OBJECTS).unwrap();
    let local = Process::mounting(&bucket.mount());
    let pages_before = bucket.pages();

    bucket.give(FIRST_PAGES);
    let mut child = local.command(&["ls", "/data"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let (tell, told) = channel();
    std::thread::spawn(move || tell.send((lines.next(), lines)));
    let (first, mut lines) = told.recv_timeout(PATIENCE).expect("the first name waits for pages behind the first");
    assert_eq!(first.unwrap(), EndlessBucket::key(0));
    bucket.give(u64::MAX);
    let ahead = poll("a listing that waits for its reader", || {
        let pages = bucket.pages();
        std::thread::sleep(std::time::Duration::from_millis(300));
        if bucket.pages() == pages { Ok(pages - pages_before) } else { Err(format!("{pages} pages")) }
    });
    assert!(ahead <= PAGES_AHEAD_MAX, "{ahead} pages were asked for before the second name was read");

    let mut command_bytes = 0;
    let mut master_bytes = 0;
    for number in 1..OBJECTS {
        assert_eq!(lines.next().unwrap(), EndlessBucket::key(number));
        match number {
            CACHE_FULL => master_bytes = private_bytes(local.id()),
            // Not later: the pipe may hold the rest, and the command be gone.
            _ if number == OBJECTS * 9 / 10 => command_bytes = private_bytes(child.id()),
            _ => {}
        }
    }
    assert_eq!(lines.next(), None);
    assert!(child.wait().unwrap().success());
    assert_eq!(bucket.pages() - pages_before, OBJECTS / 1000, "a page was asked for twice");
    let grown = private_bytes(local.id()).saturating_sub(master_bytes);
    println!("{ahead} pages ahead of the reader; the command held {command_bytes} bytes; the master grew by {grown}");
    assert!(command_bytes < COMMAND_BYTES_MAX, "the command holds {command_bytes} bytes");
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes more for the last names");
}

/// The memory of a process that is neither shared nor a file's.
fn private_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// The story: eight files were copied in at once, each held a part of the memory, and all of them failed for want of the
/// rest, although each alone succeeds. Now a writer waits for what the others give back. In a tier of this size blocks
/// are written in frames, in one of four blocks through mapped memory.
#[test]
fn files_that_do_not_fit_together_are_written_all_the_same() {
    const FILES: usize = 5;
    let data = tempfile::tempdir().unwrap();
    let own = tempfile::tempdir().unwrap();
    let bytes = |i: usize| noise((90 << 20) + i, i as u64);
    for i in 0..FILES {
        put(own.path().join(format!("f{i}")), &bytes(i));
    }
    for memory in ["160MiB", "288MiB"] {
        let mount = format!("/data={}", data.path().display());
        let local = Process::start(&[
            "local",
            "--listen",
            "127.0.0.1:0",
            "--memory",
            memory,
            "--shards",
            "1",
            "--mount",
            &mount,
        ]);
        local.run(&["cp", "-r", "--force", &format!("file:{}", own.path().display()), "/data/all"]);
        for i in 0..FILES {
            let stored = std::fs::read(data.path().join(format!("all/f{i}"))).unwrap();
            assert!(stored == bytes(i), "f{i} with {memory}");
        }
        local.run(&["rm", "-r", "/data/all"]);
    }
}
