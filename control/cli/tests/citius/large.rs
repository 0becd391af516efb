//! Large things: a file of twice the memory tier, and a directory of 100,000 files.

use crate::support::{Process, noise, put};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{ChildStdout, Stdio};

const PIECE_BYTES: usize = 1 << 20;
const PIECES: usize = 1024;
const ENTRIES: usize = 100_000;

/// A piece of the large file: noise, marked with its number so that no two pieces are alike.
fn mark(piece: &mut [u8], number: usize) {
    piece[..8].copy_from_slice(&number.to_le_bytes());
    piece[PIECE_BYTES - 8..].copy_from_slice(&number.to_le_bytes());
}

/// Compares a stream with the large file, piece by piece, with no more than a piece in memory.
fn compare(mut stream: impl Read) {
    let mut expected = noise(PIECE_BYTES, 9);
    let mut found = vec![0; PIECE_BYTES];
    for number in 0..PIECES {
        mark(&mut expected, number);
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

/// 1 GiB through a tier of 512 MiB, cold, copied within the namespace, and read again: blocks go while others come.
#[test]
fn a_file_larger_than_memory_is_read_and_written() {
    let data = tempfile::tempdir().unwrap();
    let mut file = std::fs::File::create(data.path().join("large")).unwrap();
    let mut piece = noise(PIECE_BYTES, 9);
    for number in 0..PIECES {
        mark(&mut piece, number);
        file.write_all(&piece).unwrap();
    }
    drop(file);
    let local = Process::local(&["--mount", &format!("/data={}", data.path().display())]);
    cat(&local, "/data/large", compare);
    local.run(&["cp", "/data/large", "/data/copy"]);
    compare(std::fs::File::open(data.path().join("copy")).unwrap());
    cat(&local, "/data/copy", compare);
    let cached = local.json(&["stat", "/data/copy"])["cached_bytes"].as_u64().unwrap();
    assert!(cached > 0 && cached <= 512 << 20, "{cached}");
}

#[test]
fn a_directory_of_100_000_files_is_listed_whole_and_in_order() {
    let data = tempfile::tempdir().unwrap();
    let dir = data.path().join("many");
    std::fs::create_dir(&dir).unwrap();
    for i in 0..ENTRIES {
        std::fs::File::create(dir.join(format!("f{i}"))).unwrap();
    }
    put(dir.join("f500"), b"x");
    let local = Process::local(&["--mount", &format!("/data={}", data.path().display())]);
    let mut expected: Vec<String> = (0..ENTRIES).map(|i| format!("f{i}")).collect();
    expected.sort_unstable();
    let mut child = local.command(&["ls", "/data/many"]).stdout(Stdio::piped()).spawn().unwrap();
    let listed: Vec<String> = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    assert!(child.wait().unwrap().success());
    assert_eq!(listed.len(), ENTRIES);
    assert!(listed == expected);
    // From the middle, as a page of a browser would.
    let page = local.text(&["ls", "--after", &expected[70_000], "--limit", "3", "/data/many"]);
    assert_eq!(page.lines().collect::<Vec<_>>(), expected[70_001..70_004]);
    assert_eq!(local.text(&["cat", "/data/many/f500"]), "x");
}
