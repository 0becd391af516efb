//! Each command of every day, and what it prints: for people, and for programs.

use crate::support::{Process, citius, noise, put};
use serde_json::Value;
use std::io::Read;
use std::process::Stdio;
use std::time::Instant;

fn over(folder: &tempfile::TempDir) -> Process {
    Process::local(&["--mount", &format!("/data={}", folder.path().display())])
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Asks for the cluster until `wanted` is true of it: figures of workers come with their heartbeats.
fn cluster_until(local: &Process, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + crate::support::PATIENCE;
    loop {
        let cluster = local.json(&["cluster"]);
        if wanted(&cluster) {
            return cluster;
        }
        assert!(Instant::now() < deadline, "it never came to be: {cluster}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

fn mount_of<'a>(cluster: &'a Value, path: &str) -> &'a Value {
    cluster["mounts"].as_array().unwrap().iter().find(|mount| mount["path"] == path).unwrap()
}

#[test]
fn ls_has_a_form_for_each_need() {
    let data = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        put(data.path().join(name), &noise(1536, 1));
    }
    put(data.path().join("sub/deep/d"), b"d");
    let local = over(&data);
    assert_eq!(lines(&local.text(&["ls", "/data"])), ["a", "b", "c", "sub/"]);
    assert_eq!(lines(&local.text(&["ls", "/data/b"])), ["/data/b"]);
    assert_eq!(lines(&local.text(&["ls", "--limit", "2", "/data"])), ["a", "b"]);
    assert_eq!(lines(&local.text(&["ls", "--after", "a", "--limit", "1", "/data"])), ["b"]);
    assert_eq!(lines(&local.text(&["ls", "--after", "sub", "/data"])), Vec::<&str>::new());
    let tree = local.text(&["ls", "-R", "/data"]);
    assert_eq!(lines(&tree), ["/data:", "a", "b", "c", "sub/", "", "/data/sub:", "deep/", "", "/data/sub/deep:", "d"]);
    let long = local.text(&["ls", "-l", "/data"]);
    assert!(lines(&long)[0].contains("1536") && lines(&long)[0].contains("persisted"), "{long}");
    assert!(local.text(&["ls", "-lH", "/data"]).contains("1.5 KiB"));
    let entries = json_lines(&local.text(&["--json", "ls", "-R", "/data"]));
    let paths: Vec<_> = entries.iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/data/a", "/data/b", "/data/c", "/data/sub", "/data/sub/deep", "/data/sub/deep/d"]);
    assert_eq!((&entries[0]["kind"], &entries[0]["length"]), (&Value::from("file"), &Value::from(1536)));
    assert_eq!(entries[3]["kind"], "directory");
    assert_eq!(lines(&local.text(&["ls"])), ["data/"]);
    // What can be listed is, and what cannot is told.
    let output = local.try_run(&["ls", "/data/a", "/data/none"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(7), b"/data/a\n".as_slice()));
}

#[test]
fn head_and_tail_count_lines_and_bytes() {
    let data = tempfile::tempdir().unwrap();
    let numbers: String = (0..50_000).map(|i| format!("{i}\n")).collect();
    put(data.path().join("n"), numbers.as_bytes());
    put(data.path().join("open"), b"one\ntwo");
    put(data.path().join("empty"), b"");
    let local = over(&data);
    let run = |arguments: &[&str]| local.text(arguments);
    assert_eq!(run(&["head", "/data/n"]), (0..10).map(|i| format!("{i}\n")).collect::<String>());
    assert_eq!(run(&["head", "-n", "2", "/data/n"]), "0\n1\n");
    assert_eq!(run(&["head", "-n", "0", "/data/n"]), "");
    assert_eq!(run(&["head", "-n", "99999", "/data/n"]), numbers);
    assert_eq!(run(&["head", "-c", "3", "/data/n"]), "0\n1");
    assert_eq!(run(&["tail", "-n", "2", "/data/n"]), "49998\n49999\n");
    assert_eq!(run(&["tail", "-n", "40000", "/data/n"]), numbers[numbers.find("10000\n").unwrap()..]);
    assert_eq!(run(&["tail", "-c", "6", "/data/n"]), "49999\n");
    assert_eq!(run(&["tail", "-c", "1GiB", "/data/n"]), numbers);
    assert_eq!(run(&["tail", "-n", "1", "/data/open"]), "two");
    assert_eq!(run(&["head", "/data/empty"]) + &run(&["tail", "/data/empty"]), "");
}

#[test]
fn trees_are_copied_in_within_and_out() {
    let data = tempfile::tempdir().unwrap();
    let own = tempfile::tempdir().unwrap();
    let tree = own.path().join("tree");
    let files = [("a", 0), ("sub/b", 5000), ("sub/deep/c d", 3 << 20), ("sub/ü", 1)];
    for (i, (name, length)) in files.iter().enumerate() {
        put(tree.join(name), &noise(*length, i as u64));
    }
    std::fs::create_dir(tree.join("hollow")).unwrap();
    let local = over(&data);
    // What begins with / is of the namespace.
    let said = local.fails(3, &["cp", "-r", tree.to_str().unwrap(), "/data/t"]);
    assert!(said.contains(&format!("write file:{}", tree.display())), "{said}");
    local.fails(2, &["cp", &format!("file:{}", tree.display()), "/data/t"]);
    local.run(&["cp", "-r", &format!("file:{}", tree.display()), "/data/t"]);
    local.run(&["cp", "-r", "/data/t", "/copy"]);
    // Into what is there, as cp(1) does.
    local.run(&["cp", "-r", "/data/t/sub", "/copy/hollow"]);
    let out = own.path().join("out");
    local.run(&["cp", "-r", "/copy", &format!("file:{}", out.display())]);
    for (i, (name, length)) in files.iter().enumerate() {
        let expected = noise(*length, i as u64);
        assert!(std::fs::read(data.path().join("t").join(name)).unwrap() == expected, "in: {name}");
        assert!(std::fs::read(out.join(name)).unwrap() == expected, "out: {name}");
        if let Some(below) = name.strip_prefix("sub/") {
            assert!(std::fs::read(out.join("hollow/sub").join(below)).unwrap() == expected, "into: {name}");
        }
    }
    assert!(data.path().join("t/hollow").is_dir());
    let said = local.fails(1, &["cp", "/copy/a", &format!("file:{}", out.join("a").display())]);
    assert!(said.contains("--force"), "{said}");
    local.run(&["cp", "--force", "/copy/sub/b", &format!("file:{}", out.join("a").display())]);
    assert!(std::fs::read(out.join("a")).unwrap() == noise(5000, 1));
    let parts = std::fs::read_dir(&out)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("citius-part"));
    assert_eq!(parts.count(), 0);
}

/// A name of 255 bytes leaves no room for a passing name made of it, and a pipe would be read for ever.
#[test]
fn long_names_are_copied_out_and_pipes_left_out() {
    let data = tempfile::tempdir().unwrap();
    let own = tempfile::tempdir().unwrap();
    let long = "n".repeat(255);
    put(own.path().join("in").join(&long), b"long");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        own.path().join("in/pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let local = over(&data);
    let side = |name: &str| format!("file:{}", own.path().join(name).display());
    let said = local.fails(7, &["cp", "-r", &side("in"), "/data/t"]);
    assert!(said.contains("pipe is neither a file nor a folder"), "{said}");
    local.run(&["cp", "-r", "/data/t", &side("out")]);
    assert_eq!(std::fs::read(own.path().join("out").join(&long)).unwrap(), b"long");
    assert_eq!(std::fs::read_dir(own.path().join("out")).unwrap().count(), 1);
}

#[test]
fn names_are_made_moved_and_removed() {
    let data = tempfile::tempdir().unwrap();
    put(data.path().join("f"), b"f");
    put(data.path().join("g"), b"g");
    let local = over(&data);
    local.fails(3, &["mkdir", "/data/p/q"]);
    local.run(&["mkdir", "-p", "/data/p/q/r"]);
    local.run(&["mkdir", "-p", "/data/p/q/r"]);
    local.fails(1, &["mkdir", "/data/p"]);
    assert!(data.path().join("p/q/r").is_dir());
    local.fails(1, &["mv", "/data/f", "/data/g"]);
    local.run(&["mv", "--force", "/data/f", "/data/g"]);
    assert_eq!(std::fs::read(data.path().join("g")).unwrap(), b"f");
    local.run(&["mv", "/data/g", "/data/p"]);
    assert_eq!(local.text(&["cat", "/data/p/g"]), "f");
    local.fails(2, &["mv", "/data/p", "/data/p/q/s"]);
    local.fails(1, &["mv", "/data/p/g", "/elsewhere"]);
    let said = local.fails(1, &["rm", "/data/p"]);
    assert!(said.contains("rm -r"), "{said}");
    local.run(&["rm", "-r", "/data/p"]);
    assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 0);
    local.fails(3, &["rm", "/data/p"]);
    local.run(&["rm", "--force", "/data/p"]);
    local.fails(2, &["rm", "-r", "/data"]);
}

#[test]
fn links_are_followed_beneath_and_refused_where_they_escape() {
    let outside = tempfile::tempdir().unwrap();
    put(outside.path().join("secret"), b"not yours");
    let data = tempfile::tempdir().unwrap();
    put(data.path().join("keep/f"), b"inside");
    let link = |to: &str, from: &str| std::os::unix::fs::symlink(to, data.path().join(from)).unwrap();
    std::fs::create_dir(data.path().join("d")).unwrap();
    link("keep/f", "beneath");
    link("../keep/f", "d/up");
    link("keep", "folder");
    link(".", "loop");
    link(outside.path().join("secret").to_str().unwrap(), "absolute");
    link("../../../../../../etc/passwd", "d/climbs");
    link("nowhere", "dangling");
    let local = over(&data);
    for path in ["/data/beneath", "/data/d/up", "/data/folder/f", "/data/d/../keep/f", "/data/./keep/f"] {
        assert_eq!(local.text(&["cat", path]), "inside", "{path}");
    }
    for path in ["/data/absolute", "/data/d/climbs"] {
        for command in ["cat", "stat"] {
            let said = local.fails(4, &[command, path]);
            assert!(said.contains("leads out of the mounted folder"), "{said}");
        }
    }
    local.fails(4, &["cat", "/data/../../etc/passwd"]);
    local.fails(4, &["cat", "/.."]);
    local.fails(3, &["cat", "/data/dangling"]);
    // A listing goes on without what it cannot show, and says so.
    let output = local.try_run(&["ls", "/data"]);
    assert!(output.status.success());
    assert_eq!(lines(&String::from_utf8(output.stdout).unwrap()), ["beneath", "d/", "folder/", "keep/"]);
    assert!(String::from_utf8(output.stderr).unwrap().contains("3 name(s) in /data are not shown"));
    // Nothing that is removed through a link's parent takes what the link leads to.
    local.run(&["rm", "-r", "/data/d"]);
    assert_eq!(std::fs::read(data.path().join("keep/f")).unwrap(), b"inside");
    assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"not yours");
    local.try_run(&["rm", "-r", "/data/folder"]);
    assert_eq!(std::fs::read(data.path().join("keep/f")).unwrap(), b"inside");
}

/// The story: a folder with a link to its own parent was listed, copied and loaded forty levels deep, until the kernel
/// refused to follow more links.
#[test]
fn links_that_lead_back_are_left_out_and_said_so() {
    let data = tempfile::tempdir().unwrap();
    let link = |to: &str, from: &str| std::os::unix::fs::symlink(to, data.path().join(from)).unwrap();
    put(data.path().join("t/a/f"), b"once");
    put(data.path().join("t/b/g"), b"two");
    link("..", "t/a/up");
    // Two that lead to each other, neither of them to what it is in.
    link("../b", "t/a/other");
    link("../a", "t/b/other");
    let local = over(&data);
    let said = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();

    let output = local.try_run(&["ls", "-R", "/data/t"]);
    assert!(output.status.success());
    let listed = String::from_utf8(output.stdout.clone()).unwrap();
    let headings: Vec<_> = listed.lines().filter_map(|line| line.strip_suffix(':')).collect();
    assert_eq!(headings, ["/data/t", "/data/t/a", "/data/t/a/other", "/data/t/b", "/data/t/b/other"]);
    assert_eq!(said(&output).lines().count(), 3, "{}", said(&output));
    assert!(said(&output).contains("1 name(s) in /data/t/a are not shown"), "{}", said(&output));
    assert_eq!(local.text(&["cat", "/data/t/a/up/b/g"]), "two", "asked for by its path it is followed");

    let own = tempfile::tempdir().unwrap();
    let out = own.path().join("out");
    let output = local.try_run(&["cp", "-r", "/data/t", &format!("file:{}", out.display())]);
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    assert!(said(&output).contains("2 name(s) in /data/t/b/other are not shown"), "{}", said(&output));
    let mut copied = crate::support::below(&out);
    copied.sort_unstable();
    assert_eq!(copied, ["a/f", "a/other/g", "b/g", "b/other/f"].map(|name| out.join(name)));

    for (command, code) in [("load", 7), ("free", 0)] {
        let output = local.try_run(&[command, "/data/t"]);
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        assert!(said(&output).contains("in 4 file(s)"), "{}", said(&output));
    }

    // The other way, from a folder of this machine.
    let output = local.try_run(&["cp", "-r", &format!("file:{}", data.path().join("t").display()), "/in"]);
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    assert!(said(&output).contains("t/a/up is a symbolic link back"), "{}", said(&output));
    for name in ["a/f", "a/other/g", "b/g", "b/other/f"] {
        local.run(&["cat", &format!("/in/{name}")]);
    }
    local.fails(3, &["stat", "/in/a/up"]);
    local.fails(3, &["stat", "/in/a/other/other"]);
}

#[test]
fn stat_and_cluster_tell_programs_all_they_ask() {
    let data = tempfile::tempdir().unwrap();
    let length = (64 << 20) + 4096;
    put(data.path().join("f"), &noise(length, 1));
    let local = over(&data);
    let stat = local.json(&["stat", "/data/f"]);
    assert_eq!((&stat["path"], &stat["kind"]), (&Value::from("/data/f"), &Value::from("file")));
    assert_eq!(stat["length"].as_u64(), Some(length as u64));
    assert_eq!(stat["version"].as_str().map(str::len), Some(32), "{stat}");
    assert_eq!((&stat["persisted"], &stat["cached_bytes"]), (&Value::from(true), &Value::from(0)));
    local.run(&["load", "/data/f", "--wait"]);
    let stat = local.json(&["stat", "/data/f"]);
    assert_eq!(stat["cached_bytes"].as_u64(), Some(length as u64));
    let blocks = stat["blocks"].as_array().unwrap();
    let of = |i: usize| (blocks[i]["index"].as_u64(), blocks[i]["length"].as_u64(), blocks[i]["tiers"]["mem"].as_u64());
    assert_eq!(blocks.len(), 2);
    assert_eq!(of(0), (Some(0), Some(64 << 20), Some(64 << 20)));
    assert_eq!(of(1), (Some(1), Some(4096), Some(4096)));

    let read_bytes = |cluster: &Value| mount_of(cluster, "/data")["under_store"]["read_bytes"].as_u64().unwrap();
    let cluster = cluster_until(&local, |cluster| read_bytes(cluster) >= length as u64);
    assert_eq!(read_bytes(&cluster), length as u64, "each byte is fetched once");
    assert!(mount_of(&cluster, "/data")["under_store"]["read_requests"].as_u64().unwrap() > 0);
    assert_eq!(cluster["endpoints"]["rpc"].as_str(), Some(local.endpoint().as_str()));
    assert!(cluster["endpoints"]["http"].as_str().unwrap().starts_with("127.0.0.1:"));
    let worker = &cluster["workers"][0];
    assert_eq!(worker["live"], true);
    assert_eq!(worker["tiers"]["mem"]["capacity_bytes"].as_u64(), Some(512 << 20));
    assert!(worker["tiers"]["mem"]["used_bytes"].as_u64().unwrap() >= length as u64);

    // What is loaded is read without another look at the content in the under-store.
    let requests = worker["counters"]["requests"].as_u64().unwrap();
    assert!(local.run(&["cat", "/data/f"]) == noise(length, 1));
    // Reads through the Unix socket and by maps, and these heads by frames: the heartbeat that tells of them tells of
    // all fetches before.
    local.run(&["head", "-c", "100", "/data/f"]);
    let cluster = cluster_until(&local, |cluster| {
        cluster["workers"][0]["counters"]["requests"].as_u64().unwrap() > requests
            || cluster["workers"][0]["counters"]["maps"].as_u64().unwrap() > 0
    });
    assert_eq!(read_bytes(&cluster), length as u64);

    local.run(&["free", "/data/f"]);
    assert_eq!(local.json(&["stat", "/data/f"])["cached_bytes"].as_u64(), Some(0));
    assert!(local.run(&["cat", "/data/f"]) == noise(length, 1));
    cluster_until(&local, |cluster| read_bytes(cluster) == 2 * length as u64);
}

#[test]
fn mounts_come_and_go() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    put(one.path().join("f"), b"one");
    put(two.path().join("g"), b"two");
    let mut local = Process::local(&[]);
    let folder = one.path().to_str().unwrap();
    local.run(&["mount", "add", "/m", folder]);
    assert_eq!(local.text(&["cat", "/m/f"]), "one");
    local.run(&["mount", "add", "/m/inner", two.path().to_str().unwrap(), "--read-only"]);
    assert_eq!(local.text(&["cat", "/m/inner/g"]), "two");
    local.fails(4, &["rm", "/m/inner/g"]);
    local.fails(4, &["mkdir", "/m/inner/d"]);
    let mounts = json_lines(&local.text(&["--json", "mount", "ls"]));
    let paths: Vec<_> = mounts.iter().map(|mount| mount["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/", "/m", "/m/inner"]);
    assert_eq!(mounts[2]["read_only"], true);
    assert!(local.text(&["mount", "ls"]).contains(folder));
    assert_eq!(local.terminate(), Some(0));
    local.restart();
    assert_eq!(local.text(&["cat", "/m/inner/g"]), "two");
    local.run(&["mount", "rm", "/m/inner"]);
    local.fails(3, &["cat", "/m/inner/g"]);
    local.run(&["mount", "rm", "/m"]);
    local.fails(3, &["ls", "/m"]);
    local.fails(3, &["mount", "rm", "/m"]);
    assert_eq!(std::fs::read(one.path().join("f")).unwrap(), b"one", "a mount that goes leaves its files");
}

#[test]
fn what_is_ephemeral_leaves_nothing() {
    let data = tempfile::tempdir().unwrap();
    put(data.path().join("f"), b"f");
    let mut local = Process::local(&["--ephemeral", "--mount", &format!("/data={}", data.path().display())]);
    let source = data.path().join("f");
    local.run(&["cp", &format!("file:{}", source.display()), "/in-root"]);
    assert_eq!(local.text(&["cat", "/in-root"]), "f");
    assert_eq!(local.terminate(), Some(0));
    assert!(!local.home.exists(), "there was no home before");
    local.restart();
    local.fails(3, &["cat", "/in-root"]);
    // Killed, it cannot clean; the next start does.
    local.run(&["cp", &format!("file:{}", source.display()), "/in-root"]);
    local.kill();
    local.restart();
    let passing = std::fs::read_dir(&local.home)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("passing-"));
    assert_eq!(passing.count(), 1);
    local.fails(3, &["cat", "/in-root"]);
}

#[test]
fn who_stops_listening_ends_a_command_without_noise() {
    let data = tempfile::tempdir().unwrap();
    put(data.path().join("f"), &noise(16 << 20, 1));
    std::os::unix::fs::symlink("/etc", data.path().join("escapes")).unwrap();
    let local = over(&data);
    let mut child = local.command(&["cat", "/data/f"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 1000];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
    assert!(first == noise(1000, 1)[..]);
    // A note that nobody hears is no reason to fail either.
    let mut command = local.command(&["ls", "/data"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), b"f\n".as_slice()));
}

#[test]
fn bench_measures_and_tidies_up() {
    let data = tempfile::tempdir().unwrap();
    let local = over(&data);
    let said = local.text(&["bench", "--path", "/data", "--bytes", "8MiB", "--count", "50"]);
    for word in ["write", "cold", "warm", "stat", "create", "memcpy", "loopback"] {
        assert!(said.to_lowercase().contains(word), "no {word} in:\n{said}");
    }
    json_lines(&local.text(&["--json", "bench", "--bytes", "8MiB", "--count", "10"]));
    assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 0);
    assert_eq!(local.text(&["ls", "/"]), "data/\n");
}

#[test]
fn without_a_cluster_the_next_command_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("h");
    let run = |arguments: &[&str]| citius().arg("--home").arg(&home).args(arguments).output().unwrap();
    let output = run(&["ls", "/"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("citius local"));
    std::fs::create_dir(&home).unwrap();
    assert_eq!(run(&["ls", "/"]).status.code(), Some(5));
    assert_eq!(run(&["cat"]).status.code(), Some(2));
    assert_eq!(run(&["nonsense"]).status.code(), Some(2));
}

/// One link out of the mount, of which nothing can be cached, made `free` of the whole tree exit 7.
#[test]
fn free_leaves_out_what_cannot_be_cached_and_load_says_that_it_is_missing() {
    let data = tempfile::tempdir().unwrap();
    put(data.path().join("d/a"), &noise(5000, 2));
    std::os::unix::fs::symlink("/etc/hostname", data.path().join("d/out")).unwrap();
    let local = over(&data);
    local.fails(7, &["load", "/data"]);
    let output = local.try_run(&["free", "/data"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 name(s) in /data/d are not shown") && said.contains("in 1 file(s)"), "{said}");
    assert_eq!(local.json(&["stat", "/data/d/a"])["cached_bytes"], 0);
}

/// `cp -r /data /data/sub` made sub/sub/sub... until paths were too long; and so did the other names of one folder.
#[test]
fn a_directory_is_not_copied_into_itself() {
    let data = tempfile::tempdir().unwrap();
    put(data.path().join("a"), b"a");
    put(data.path().join("in/b"), b"b");
    let local = over(&data);
    local.run(&["mount", "add", "/again", &data.path().join("in").display().to_string()]);
    let here = format!("file:{}", data.path().display());
    let below = format!("file:{}/in/deep", data.path().display());
    for (from, to) in [
        ("/data", "/data/sub"),
        ("/data", "/data"),
        ("/data", "/data/in"),
        ("/data", "/again/sub"),
        (here.as_str(), "/data/sub"),
        (here.as_str(), "/again"),
        ("/data", below.as_str()),
    ] {
        let said = local.fails(2, &["cp", "-r", from, to]);
        assert!(said.contains("into itself"), "{from} to {to}: {said}");
    }
    let mut names: Vec<_> = crate::support::below(data.path());
    names.sort();
    assert_eq!(names, [data.path().join("a"), data.path().join("in/b")]);
    // What only looks like it is copied.
    local.run(&["cp", "-r", "/data/in", "/data/in2"]);
    local.run(&["cp", "-r", "/again", "/data/other"]);
    assert_eq!((local.text(&["cat", "/data/in2/b"]), local.text(&["cat", "/data/other/b"])), ("b".into(), "b".into()));
}

/// The first of several sources that was missing kept those behind it from being copied.
#[test]
fn cp_goes_on_behind_a_source_that_is_missing() {
    let data = tempfile::tempdir().unwrap();
    for name in ["a", "c", "to/x"] {
        put(data.path().join(name), name.as_bytes());
    }
    let local = over(&data);
    let said = local.fails(7, &["cp", "/data/a", "/data/b", "/data/c", "/data/to"]);
    assert!(said.contains("/data/b does not exist") && said.contains("2 files copied, 1 failed"), "{said}");
    assert_eq!(local.text(&["cat", "/data/to/a", "/data/to/c"]), "ac");
    let said = local.fails(3, &["cp", "/data/b", "/data/d"]);
    assert!(!said.contains("copied"), "nothing was: {said}");
}

/// `load`, `free` and every error but the last were lines for people, also under --json.
#[test]
fn everything_is_json_that_was_asked_for_as_json() {
    let data = tempfile::tempdir().unwrap();
    put(data.path().join("a"), &noise(5000, 3));
    put(data.path().join("b"), b"b");
    std::os::unix::fs::symlink("/etc/hostname", data.path().join("out")).unwrap();
    let local = over(&data);
    let sum =
        |files: u64, failed: u64, bytes: u64| serde_json::json!({"files": files, "failed": failed, "bytes": bytes});
    assert_eq!(local.json(&["load", "/data/a"]), sum(1, 0, 5000));
    assert_eq!(local.json(&["free", "/data"]), sum(2, 0, 5000));
    assert_eq!(local.json(&["cp", "/data/a", "/data/c"]), sum(1, 0, 5000));
    let commands: [&[&str]; 7] = [
        &["cat", "/none", "/neither"],
        &["rm", "/none", "/neither"],
        &["load", "/data", "/none", "/neither"],
        &["cp", "/none", "/neither", "/data"],
        &["ls", "/data", "/none"],
        &["ls", "--bogus"],
        &["nonsense"],
    ];
    for command in commands {
        let output = local.try_run(&[&["--json"], command].concat());
        assert!(!output.status.success());
        let said = String::from_utf8(output.stderr).unwrap();
        let errors = json_lines(&said);
        assert!(!errors.is_empty(), "{command:?}");
        assert!(errors.iter().all(|error| error["error"]["message"].is_string()), "{command:?}: {said}");
        assert_eq!(errors.last().unwrap()["error"]["exit_code"], output.status.code().unwrap(), "{command:?}");
        drop(json_lines(&String::from_utf8(output.stdout).unwrap()));
    }
}

/// The log of a home was readable by all who could reach it.
#[test]
fn no_file_of_a_home_is_open_to_others() {
    use std::os::unix::fs::PermissionsExt;
    let mut local = Process::local(&[]);
    local.run(&["mkdir", "/d"]);
    assert_eq!(local.terminate(), Some(0));
    local.restart();
    let files = crate::support::below(&local.home);
    assert!(files.len() > 5, "{files:?}");
    for file in files {
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", file.display());
    }
}

/// After Ctrl-C in a copy, the next copy to that path was refused for a minute, and one out of the namespace left its
/// passing file in the user's folder.
#[test]
fn an_interrupted_copy_takes_back_what_it_did() {
    let data = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    std::fs::File::create(data.path().join("big")).unwrap().set_len(8 << 30).unwrap();
    put(other.path().join("small"), b"small");
    let local = over(&data);
    let interrupt = |from: &str, to: &str, begun: &dyn Fn() -> bool| {
        let copy = local.command(&["cp", from, to]).stderr(Stdio::piped()).spawn().unwrap();
        crate::support::poll("the copy has begun", || if begun() { Ok(()) } else { Err(String::new()) });
        let kill = std::process::Command::new("kill").arg("-INT").arg(copy.id().to_string()).status().unwrap();
        assert!(kill.success());
        let output = copy.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let names = || std::fs::read_dir(other.path()).unwrap().count();
    let out = other.path().join("out");
    interrupt("/data/big", &format!("file:{}", out.display()), &|| names() == 2);
    assert_eq!(names(), 1, "the passing file is gone");

    let big = format!("file:{}", data.path().join("big").display());
    interrupt(&big, "/to", &|| !crate::support::below(&local.home.join("root")).is_empty());
    local.run(&["cp", &format!("file:{}", other.path().join("small").display()), "/to"]);
    assert_eq!(local.text(&["cat", "/to"]), "small");
}
