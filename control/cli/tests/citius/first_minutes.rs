//! The first ten minutes of a user, over a folder: start, list, read, copy, stat, stop, start again.

use crate::support::{Process, noise, put};

const NAMES: [&str; 8] = ["plain", "with space", "ünïcödé-文字", "per%cent", "ha#sh", "pl+us", "q?mark*", "-dash"];

#[test]
fn bytes_read_equal_bytes_stored_for_all_sizes() {
    let data = tempfile::tempdir().unwrap();
    let sizes = [0, 1, 4096, (2 << 20) - 1, (64 << 20) + 1];
    for size in sizes {
        put(data.path().join(format!("f{size}")), &noise(size, size as u64));
    }
    let local = Process::local(&["--mount", &format!("/data={}", data.path().display())]);
    for size in sizes {
        let path = format!("/data/f{size}");
        let expected = noise(size, size as u64);
        assert!(local.run(&["cat", &path]) == expected, "cold, {size} bytes");
        assert!(local.run(&["cat", &path]) == expected, "warm, {size} bytes");
        let stat = local.json(&["stat", &path]);
        assert_eq!((stat["length"].as_u64(), stat["persisted"].as_bool()), (Some(size as u64), Some(true)));
        assert_eq!(stat["cached_bytes"].as_u64(), Some(size as u64), "{stat}");
    }
}

#[test]
fn odd_names_are_listed_and_read() {
    let data = tempfile::tempdir().unwrap();
    for (i, name) in NAMES.iter().enumerate() {
        put(data.path().join(name), &noise(100 + i, i as u64));
    }
    let local = Process::local(&["--mount", &format!("/data={}", data.path().display())]);
    let mut expected = NAMES.map(str::to_owned).to_vec();
    expected.sort_unstable();
    let listed: Vec<String> = local.text(&["ls", "/data"]).lines().map(str::to_owned).collect();
    assert_eq!(listed, expected);
    for (i, name) in NAMES.iter().enumerate() {
        assert!(local.run(&["cat", &format!("/data/{name}")]) == noise(100 + i, i as u64), "{name}");
    }
}

#[test]
fn what_is_written_survives_a_clean_end_and_is_in_the_folder() {
    let data = tempfile::tempdir().unwrap();
    let own = tempfile::tempdir().unwrap();
    let source = own.path().join("in");
    put(&source, &noise(5 << 20, 1));
    let mut local = Process::local(&["--mount", &format!("/data={}", data.path().display())]);
    local.run(&["mkdir", "/data/d"]);
    local.run(&["cp", &format!("file:{}", source.display()), "/data/d/f"]);
    assert!(std::fs::read(data.path().join("d/f")).unwrap() == noise(5 << 20, 1));
    assert_eq!(local.terminate(), Some(0));
    local.restart();
    assert!(local.run(&["cat", "/data/d/f"]) == noise(5 << 20, 1));
    let mounts = local.text(&["--json", "mount", "ls"]);
    assert!(mounts.contains("\"/data\""), "{mounts}");
}
