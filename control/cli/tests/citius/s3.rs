//! The first minutes over a real S3 server: read, write, rename, delete, and objects that others replace underneath.

use crate::bucket::Prefix;
use crate::support::{Process, noise, poll, put};
use citius_client::{File, Status};
use citius_understore::testing::servers::Pass;

const NAMES: [&str; 8] = ["plain", "with space", "ünïcödé-文字", "per%cent", "ha#sh", "pl+us", "q?mark*", "-dash"];

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[test]
fn objects_of_all_sizes_and_names_are_read() {
    let prefix = Prefix::new("read");
    let sizes = [0, 1, 4096, (2 << 20) - 1, (64 << 20) + 1];
    for size in sizes {
        prefix.put(&format!("sizes/f{size}"), noise(size, size as u64));
    }
    for (i, name) in NAMES.iter().enumerate() {
        prefix.put(&format!("names/{name}"), noise(100 + i, i as u64));
    }
    let local = prefix.local();
    for size in sizes {
        let path = format!("/data/sizes/f{size}");
        let expected = noise(size, size as u64);
        assert!(local.run(&["cat", &path]) == expected, "cold, {size} bytes");
        assert!(local.run(&["cat", &path]) == expected, "warm, {size} bytes");
        let stat = local.json(&["stat", &path]);
        assert_eq!(stat["length"].as_u64(), Some(size as u64));
        assert_eq!(stat["cached_bytes"].as_u64(), Some(size as u64), "{stat}");
    }
    let mut expected = NAMES;
    expected.sort_unstable();
    assert_eq!(lines(&local.text(&["ls", "/data/names"])), expected);
    assert_eq!(lines(&local.text(&["ls", "/data"])), ["names/", "sizes/"]);
    for (i, name) in NAMES.iter().enumerate() {
        assert!(local.run(&["cat", &format!("/data/names/{name}")]) == noise(100 + i, i as u64), "{name}");
    }
    local.fails(3, &["cat", "/data/sizes/missing"]);
}

#[test]
fn what_is_written_renamed_and_deleted_is_so_in_the_bucket() {
    let prefix = Prefix::new("write");
    let own = tempfile::tempdir().unwrap();
    let source = |name: &str, bytes: &[u8]| {
        put(own.path().join(name), bytes);
        format!("file:{}", own.path().join(name).display())
    };
    let mut local = prefix.local();

    // Two blocks: an upload of many parts.
    let long = noise((64 << 20) + 5, 1);
    local.run(&["cp", &source("long", &long), "/data/long"]);
    assert!(prefix.get("long").unwrap() == long);

    local.run(&["cp", &source("empty", &[]), "/data/empty"]);
    assert_eq!(prefix.get("empty"), Some(Vec::new()));
    assert!(local.run(&["cat", "/data/empty"]).is_empty());

    let said = local.fails(1, &["cp", &source("short", &noise(5000, 2)), "/data/long"]);
    assert!(said.contains("/data/long"), "{said}");
    assert!(prefix.get("long").unwrap() == long, "what was refused changed nothing");
    local.run(&["cp", "--force", &source("short", &noise(5000, 2)), "/data/long"]);
    assert!(prefix.get("long").unwrap() == noise(5000, 2));
    assert!(local.run(&["cat", "/data/long"]) == noise(5000, 2));

    local.run(&["mkdir", "/data/names"]);
    for (i, name) in NAMES.iter().enumerate() {
        local.run(&["cp", &source("name", &noise(50 + i, i as u64)), &format!("/data/names/{name}")]);
        assert!(prefix.get(&format!("names/{name}")).unwrap() == noise(50 + i, i as u64), "{name}");
    }

    local.run(&["mv", "/data/long", "/data/names/moved"]);
    assert_eq!(prefix.get("long"), None);
    assert!(prefix.get("names/moved").unwrap() == noise(5000, 2));
    local.fails(3, &["cat", "/data/long"]);
    local.run(&["mv", "/data/names", "/data/renamed"]);
    assert!(local.run(&["cat", "/data/renamed/moved"]) == noise(5000, 2));
    assert!(prefix.get("renamed/per%cent").is_some() && prefix.get("names/per%cent").is_none());

    local.run(&["mkdir", "/data/hollow"]);
    shows(&local, &["empty", "hollow/", "renamed/"]);
    local.run(&["rm", "/data/empty"]);
    assert_eq!(prefix.get("empty"), None);
    local.fails(1, &["rm", "/data/renamed"]);
    assert_eq!(local.terminate(), Some(0));

    // Through an empty cache.
    local.restart();
    shows(&local, &["hollow/", "renamed/"]);
    assert!(local.run(&["cat", "/data/renamed/moved"]) == noise(5000, 2));
    local.run(&["rm", "-r", "/data/renamed"]);
    assert_eq!(prefix.get("renamed/moved"), None);
    shows(&local, &["hollow/"]);
}

/// Sees these names in the mount. SeaweedFS has directories, and lists an emptied one until it has got round to it.
fn shows(local: &Process, names: &[&str]) {
    poll("the names of the mount", || {
        let listed = local.text(&["ls", "/data"]);
        if lines(&listed) == names { Ok(()) } else { Err(listed) }
    });
}

/// Reads all that a file still gives, in order, and how it ended.
fn read_on(file: &File, mut at: u64, piece: usize) -> (Vec<u8>, Option<Status>) {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; piece];
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => return (bytes, None),
            Ok(count) => {
                bytes.extend_from_slice(&buffer[..count]);
                at += count as u64;
            }
            Err(error) => return (bytes, Some(error.status())),
        }
    }
}

#[test]
fn an_object_replaced_by_another_of_the_same_length_is_never_mixed() {
    const LENGTH: usize = (64 << 20) + (4 << 20);
    const FIRST: usize = 4096;
    let prefix = Prefix::new("replace");
    let (old, new) = (noise(LENGTH, 1), noise(LENGTH, 2));
    prefix.put("o", old.clone());
    let local = prefix.local();
    prefix.mount_at(&local, "/always", "0");
    let client = local.client();
    let reader = client.open("/always/o").unwrap();
    let unread = client.open("/always/o").unwrap();
    let mut first = vec![0; FIRST];
    reader.read_exact_at(&mut first, 0).unwrap();
    assert!(first == old[..FIRST]);

    prefix.put("o", new.clone());
    // The second block was not fetched, so whoever began with the old bytes cannot end with them.
    let (rest, status) = read_on(&reader, FIRST as u64, 1 << 20);
    assert!(rest == old[FIRST..FIRST + rest.len()], "a reader that began with the old bytes was given others");
    assert_eq!(status, Some(Status::VersionChanged));
    // A handle that has returned no byte may follow.
    let (all, status) = read_on(&unread, 0, 1 << 20);
    assert_eq!(status, None);
    assert!(all == new, "a handle without a byte follows to the new version, whole");
    assert!(local.run(&["cat", "/always/o"]) == new, "the next open sees the new bytes");
}

/// The story: `cat` took the length of the version that was believed in, then the bytes of the one that was there, and
/// cut the new object to the old length.
#[test]
fn length_and_bytes_are_of_one_version() {
    let prefix = Prefix::new("lengths");
    let (old, new) = (noise(1000, 1), noise(300_000, 2));
    prefix.put("o", old.clone());
    let local = prefix.local();
    prefix.mount_at(&local, "/never", "never");
    let client = local.client();
    let measured = client.open("/never/o").unwrap();
    assert_eq!(measured.len(), 1000);
    let unmeasured = client.open("/never/o").unwrap();
    prefix.put("o", new.clone());
    let refused = measured.read_at(&mut [0; 1000], 0).unwrap_err();
    assert_eq!(refused.status(), Status::VersionChanged, "its length was told");
    let mut bytes = vec![0; 400_000];
    assert_eq!(unmeasured.read_at(&mut bytes, 0).unwrap(), new.len());
    assert!(bytes[..new.len()] == new && unmeasured.len() == new.len() as u64);
    // Each of these meets the old version first: it is believed in for ever.
    for (i, command) in [&["cat"][..], &["tail", "-c", "10"], &["head", "-c", "299999"]].into_iter().enumerate() {
        let (newer, name) = (noise(310_000 + i, i as u64), format!("n{i}"));
        prefix.put(&name, old.clone());
        let path = format!("/never/{name}");
        assert!(local.json(&["stat", &path])["length"] == 1000);
        prefix.put(&name, newer.clone());
        let expected = match i {
            0 => &newer[..],
            1 => &newer[newer.len() - 10..],
            _ => &newer[..299_999],
        };
        assert!(local.run(&[command, &[&path]].concat()) == expected, "{command:?}");
    }
}

#[test]
fn what_is_believed_longer_is_still_one_version() {
    const LENGTH: usize = 3 << 20;
    let prefix = Prefix::new("believe");
    let (old, new) = (noise(LENGTH, 1), noise(LENGTH, 2));
    prefix.put("cached", old.clone());
    prefix.put("cold", old.clone());
    let local = prefix.local();
    prefix.mount_at(&local, "/never", "never");
    prefix.mount_at(&local, "/always", "0");
    local.run(&["load", "/never/cached"]);
    local.run(&["stat", "/never/cold"]);
    prefix.put("cached", new.clone());
    prefix.put("cold", new.clone());
    assert!(local.run(&["cat", "/always/cached"]) == new);
    assert!(local.run(&["cat", "/never/cached"]) == old, "it is asked once, and all of it is in memory");
    // Its old version is believed in and nowhere to be had, which a worker finds: then the bucket is asked again.
    assert!(local.run(&["cat", "/never/cold"]) == new);
}

/// Keys that are given as such have no file in which others would be found: they are changed by a command, while the mount
/// is used. What does not work is not taken, and what is cached stays.
#[test]
fn keys_are_changed_without_a_new_mount() {
    const USAGE: i32 = 2;
    const NOT_FOUND: i32 = 3;
    const DENIED: i32 = 4;
    let (prefix, folder) = (Prefix::new("rotation"), tempfile::tempdir().unwrap());
    let bytes = noise(3 << 20, 1);
    for name in ["a", "b"] {
        prefix.put(name, bytes.clone());
    }
    let gate = prefix.gate();
    let mut local = prefix.local_at(&gate.endpoint());
    assert!(local.run(&["cat", "/data/a"]) == bytes);
    gate.close();
    gate.admit(Pass::keys("another", "hidden-secret", None));
    // The answer to such a question has no words that would say more.
    let said = local.fails(DENIED, &["cat", "/data/b"]);
    assert!(said.contains("denies access"), "{said}");

    let secret = folder.path().join("secret");
    put(&secret, b"hidden-secret\n");
    let secret = format!("aws_secret_access_key=@{}", secret.display());
    let set = ["mount", "set", "/data", "--option"];
    let said = local.fails(DENIED, &[&set[..], &["aws_secret_access_key=hidden-wrong"]].concat());
    assert!(said.contains("refused the keys") && !said.contains("hidden"), "{said}");
    assert!(local.fails(USAGE, &["mount", "set", "/data"]).contains("--option"));
    let said = local.fails(USAGE, &["mount", "set", "/data", "--unset", "aws_nothing"]);
    assert!(said.contains("has no option aws_nothing") && said.contains("aws_secret_access_key"), "{said}");
    let said = local.fails(USAGE, &[&set[..], &["aws_regoin=x"]].concat());
    assert!(said.contains("did you mean aws_region?"), "{said}");
    local.fails(NOT_FOUND, &["mount", "set", "/data/a", "--unset", "aws_region"]);
    assert!(gate.used().is_empty(), "nobody came in by what was not taken: {:?}", gate.used());

    let both = [&set[..], &["aws_access_key_id=another", "--option", &secret]].concat();
    assert_eq!(local.text(&both), format!("/data -> {}\n", prefix.uri()));
    let requests = local.requests("/data").0;
    assert!(local.run(&["cat", "/data/a"]) == bytes);
    assert_eq!(local.requests("/data").0, requests, "what was cached is read again");
    let new = folder.path().join("new");
    put(&new, &noise(9 << 20, 2));
    for _ in 0..2 {
        assert!(local.run(&["cat", "/data/b"]) == bytes);
        local.run(&["cp", "--force", &format!("file:{}", new.display()), "/data/new"]);
        assert!(prefix.get("new").unwrap() == noise(9 << 20, 2));
        assert_eq!(gate.used(), ["another"]);
        // The log has it, and the command line, which has the keys of before, leaves a mount that is there as it is.
        local.terminate();
        local.restart();
    }
    local.run(&["mount", "set", "/data", "--unset", "aws_region"]);
    assert!(local.run(&["cat", "/data/b"]) == bytes);
}
