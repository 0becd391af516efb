//! Bad input and poor machines: each ends in a clear error or a degraded mode that says so, and the server serves on.

use crate::support::{PATIENCE, Process, citius, noise, put};
use citius_client::raw::wire::{Batch, ClientId, Encoder, HEADER_BYTES_MAX, Hello, Serial};
use citius_client::{Endpoint, Operation, Token};
use citius_understore::testing::servers::SeaweedFs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

/// Long enough to be found nowhere by chance.
const SECRET: &str = "hunter2-planted-secret-0123456789";
const SMALL: [&str; 6] = ["--listen", "127.0.0.1:0", "--memory", "64MiB", "--shards", "1"];

/// No message of ours may look like this.
fn assert_no_panic(text: &str) {
    for word in ["panicked", "RUST_BACKTRACE", "unwrap"] {
        assert!(!text.contains(word), "{text}");
    }
}

/// A start of `citius local` that must fail with a code; gives what it said.
fn start_fails(code: i32, home: &Path, arguments: &[&str]) -> String {
    let output = citius().arg("local").args(arguments).arg("--home").arg(home).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?} said: {said}");
    assert_no_panic(&said);
    assert!(!home.join("endpoint").exists(), "what did not start announces nothing");
    said
}

fn serves(local: &Process) {
    assert_eq!(local.text(&["cat", "/data/f"]), "served");
    assert_no_panic(&local.log());
}

fn data() -> (tempfile::TempDir, String) {
    let data = tempfile::tempdir().unwrap();
    put(data.path().join("f"), b"served");
    let flag = format!("/data={}", data.path().display());
    (data, flag)
}

#[test]
fn mounts_that_make_no_sense_are_refused_with_words() {
    let (data, flag) = data();
    let local = Process::local(&["--mount", &flag]);
    let folder = data.path().to_str().unwrap();
    let file = data.path().join("f");
    let add = |code, arguments: &[&str], words: &[&str]| {
        let said = local.fails(code, &[&["mount", "add"], arguments].concat());
        for word in words {
            assert!(said.contains(word), "no {word:?} in: {said}");
        }
        assert_no_panic(&said);
        serves(&local);
    };
    add(2, &["/x", "foo://bucket"], &["foo", "s3:", "file:"]);
    add(2, &["/x", "/nonexistent/folder"], &["/nonexistent/folder", "does not exist"]);
    add(2, &["/x", file.to_str().unwrap()], &["folder"]);
    add(2, &["x", folder], &["must start with /"]);
    add(2, &["/x", folder, "--option", "aws_region=x"], &["aws_region"]);
    add(2, &["/x", folder, "--sync-interval", "soon"], &["--sync-interval"]);
    add(2, &["/x", "s3://"], &["s3://"]);
    add(1, &["/data", folder], &["already", "citius mount rm /data"]);
    add(1, &["/", folder], &["already"]);
    local.fails(3, &["mount", "rm", "/none"]);
    local.fails(1, &["cat", "/data"]);
    local.fails(3, &["cat", "/data/none"]);
    local.fails(3, &["ls", "/none"]);
    local.fails(2, &["cat", "data/f"]);
    let json = local.fails(3, &["--json", "cat", "/data/none"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["error"]["exit_code"], &json["error"]["status"]), (&3.into(), &"NotFound".into()));
}

#[test]
fn object_stores_say_what_is_wrong_and_nothing_says_the_secret() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(SeaweedFs::start()).unwrap();
    let (key, secret) = server.s3().keys();
    let uri = format!("s3://{}/secrets", server.s3().name());
    let option = |name: &str, value: &str| ["--option".to_owned(), format!("{name}={value}")];
    let options = |endpoint: &str, key: &str, secret: &str| {
        [
            option("aws_endpoint", endpoint),
            option("aws_access_key_id", key),
            option("aws_secret_access_key", secret),
            option("aws_region", "us-east-1"),
            option("aws_allow_http", "true"),
        ]
        .concat()
    };
    let mut said = String::new();
    let mount =
        [vec!["--mount".to_owned(), format!("/s={uri}")], options(server.s3().endpoint(), key, secret)].concat();
    let mut arguments = vec!["local"];
    arguments.extend(SMALL);
    arguments.extend(mount.iter().map(String::as_str));
    let local = Process::start_in(&[("CITIUS_LOG", "debug")], &arguments);
    let mut add = |code, uri: &str, options: Vec<String>, words: &[&str]| {
        let mut arguments = vec!["mount", "add", "/x", uri];
        arguments.extend(options.iter().map(String::as_str));
        let output = local.command(&arguments).env("CITIUS_LOG", "debug").output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{error}");
        for word in words {
            assert!(error.contains(word), "no {word:?} in: {error}");
        }
        said.push_str(&error);
        said.push_str(&String::from_utf8_lossy(&output.stdout));
    };
    add(4, &uri, options(server.s3().endpoint(), key, SECRET), &["key"]);
    add(4, &uri, options(server.s3().endpoint(), "unknown", SECRET), &["key"]);
    add(2, "s3://missing-bucket", options(server.s3().endpoint(), key, secret), &["missing-bucket"]);
    // Nobody listens on this port, for it is held and never answered.
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}", held.local_addr().unwrap());
    drop(held);
    add(5, &uri, options(&nobody, key, SECRET), &[&nobody, "does not answer"]);
    add(
        2,
        &uri,
        [options(server.s3().endpoint(), key, SECRET), option("aws_secret_acess_key", SECRET).to_vec()].concat(),
        &["aws_secret_acess_key"],
    );
    add(2, &format!("s3://user:{SECRET}@bucket"), options(server.s3().endpoint(), key, secret), &[]);

    local.run(&["mkdir", "/s/d"]);
    let http = local.json(&["cluster"])["endpoints"]["http"].as_str().unwrap().to_owned();
    let token = std::fs::read_to_string(local.home.join("token")).unwrap();
    for arguments in [
        &["mount", "ls"][..],
        &["--json", "mount", "ls"],
        &["cluster"],
        &["--json", "cluster"],
        &["stat", "/s/d"],
        &["ls", "-l", "/s"],
    ] {
        said.push_str(&local.text(arguments));
    }
    for page in ["/metrics", "/api/v1/status", "/readyz", "/nothing"] {
        said.push_str(&http_get(&http, page, Some(token.trim())));
    }
    assert!(said.contains("citius_") && said.contains("/s"), "the pages were there: {said}");
    said.push_str(&local.log());
    for hidden in [SECRET, secret, token.trim()] {
        assert!(!said.contains(hidden), "{hidden} is told:\n{said}");
    }
    assert_no_panic(&said);
}

fn http_get(address: &str, page: &str, token: Option<&str>) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let header = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
    write!(stream, "GET {page} HTTP/1.1\r\nHost: {address}\r\n{header}Connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Who ends a connection.
#[derive(PartialEq, Clone, Copy)]
enum End {
    Ours,
    Theirs,
}

fn told(address: &str, bytes: &[u8]) -> Vec<u8> {
    told_by(End::Ours, address, bytes)
}

/// What a listener says to bytes, until it ends the connection: because it was told enough, or once we end our side.
fn told_by(end: End, address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // A listener that has read enough may have closed already.
    let _ = stream.write_all(bytes);
    if end == End::Ours {
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn frames_that_are_none_end_their_connection_only() {
    let (_data, flag) = data();
    let local = Process::local(&["--mount", &flag]);
    let token = Endpoint::from_home(&local.home).unwrap().token;
    let hello = |token: Token| {
        let mut out = Vec::new();
        Encoder::default().request(&mut out, 1, &Hello { token, client: ClientId([1; 16]), shard: 0 }, 0);
        out
    };
    let mut batch = Vec::new();
    Encoder::default().request(&mut batch, 2, &Batch { first: Serial(1), operations: vec![Operation::MountList] }, 0);
    let mut oversized = batch.clone();
    oversized[8..12].copy_from_slice(&(HEADER_BYTES_MAX as u32 + 16).to_le_bytes());
    let mut endless = batch.clone();
    endless[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut flipped = batch.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let good = hello(token);
    let cluster = local.json(&["cluster"]);
    for address in [local.endpoint(), cluster["workers"][0]["data"].as_str().unwrap().to_owned()] {
        let welcome = told(&address, &good);
        assert!(!welcome.is_empty());
        for bad in [noise(1 << 16, 1), vec![0xff; 64], b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), Vec::new()] {
            told(&address, &bad);
            told(&address, &[good.clone(), bad].concat());
        }
        for bad in [&oversized, &endless, &flipped] {
            let answer = told_by(End::Theirs, &address, &[good.clone(), bad.clone()].concat());
            assert!(answer.len() > welcome.len(), "words come before the end");
        }
        // Right in its form, and for a shard not in its kind.
        told(&address, &[good.clone(), batch.clone()].concat());
        for cut in [1, 31, 32, good.len() - 1] {
            told(&address, &good[..cut]);
        }
        for cut in [1, 31, 32, batch.len() - 1] {
            told(&address, &[good.clone(), batch[..cut].to_vec()].concat());
        }
        let refused = told(&address, &hello(Token([0; 32])));
        assert!(String::from_utf8_lossy(&refused).contains("token"), "a forged token is refused with words");
        serves(&local);
    }
    let http = cluster["endpoints"]["http"].as_str().unwrap();
    assert!(http_get(http, "/healthz", None).starts_with("HTTP/1.1 200"));
    for token in [None, Some("0".repeat(64)), Some("x".to_owned())] {
        for page in ["/metrics", "/api/v1/status", "/readyz"] {
            assert!(http_get(http, page, token.as_deref()).starts_with("HTTP/1.1 401"), "{page}");
        }
    }
    told(http, &noise(1 << 16, 1));
    serves(&local);
}

#[test]
fn a_token_that_is_missing_forged_or_unreadable_is_denied() {
    let (_data, flag) = data();
    let local = Process::local(&["--mount", &flag]);
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        put(dir.path().join(name), text.as_bytes());
        dir.path().join(name).to_str().unwrap().to_owned()
    };
    let (forged, damaged) = (file("forged", &"0".repeat(64)), file("damaged", "abc"));
    let said = local.fails(4, &["--token-file", &forged, "ls", "/"]);
    assert!(said.contains("token"), "{said}");
    let said = local.fails(4, &["--token-file", &damaged, "ls", "/"]);
    assert!(said.contains("64 hexadecimal digits"), "{said}");
    let said = local.fails(3, &["--token-file", "/nonexistent/token", "ls", "/"]);
    assert!(said.contains("/nonexistent/token"), "{said}");
    // A folder can be opened and not read, by root too.
    let said = local.fails(5, &["--token-file", dir.path().to_str().unwrap(), "ls", "/"]);
    assert!(said.contains("cannot read"), "{said}");
    let said = local.fails(4, &["--master", &local.endpoint(), "--token-file", &forged, "cat", "/data/f"]);
    assert!(said.contains("token"), "{said}");
    serves(&local);
}

#[test]
fn a_home_or_port_in_use_or_of_another_version_is_named() {
    let (_data, flag) = data();
    let local = Process::local(&["--mount", &flag]);
    let said = citius().args(["local"]).args(SMALL).arg("--home").arg(&local.home).output().unwrap();
    assert_eq!(said.status.code(), Some(5));
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains(&format!("process {}", local.id())) && said.contains("--home"), "{said}");
    serves(&local);

    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("h");
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let held = held.local_addr().unwrap().to_string();
    let held_again = TcpListener::bind(&held).ok();
    let taken = local.endpoint();
    for flag in ["--listen", "--data-listen", "--http-listen"] {
        let mut arguments = SMALL.to_vec();
        if flag == "--listen" {
            arguments[1] = &taken;
        } else {
            arguments.extend([flag, &taken]);
        }
        let said = start_fails(1, &home, &arguments);
        assert!(said.contains(&taken) && said.contains("in use"), "{said}");
    }
    drop(held_again);
    let said = start_fails(2, &home, &["--listen", "nowhere"]);
    assert!(said.contains("HOST:PORT"), "{said}");
    let said = start_fails(2, &home, &[&SMALL[..2], &["--memory", "1MiB"]].concat());
    assert!(said.contains("--memory"), "{said}");

    std::fs::write(home.join("version"), "citius home 99\n").unwrap();
    let said = start_fails(1, &home, &SMALL);
    assert!(said.contains("citius home 99") && said.contains("--home"), "{said}");
    let file = dir.path().join("file");
    put(&file, b"");
    let output = citius().arg("local").args(SMALL).arg("--home").arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_no_panic(&String::from_utf8_lossy(&output.stderr));
    serves(&local);
}

#[test]
fn a_full_memory_tier_refuses_writes_and_still_reads() {
    let (data, flag) = data();
    put(data.path().join("cold"), &noise(20 << 20, 3));
    let mut arguments = vec!["local"];
    arguments.extend(SMALL);
    arguments.extend(["--mount", &flag]);
    let local = Process::start(&arguments);
    let own = tempfile::tempdir().unwrap();
    let source = format!("file:{}", own.path().join("s").display());
    put(own.path().join("s"), &noise(9 << 20, 4));
    let mut kept = 0;
    let said = loop {
        let output = local.try_run(&["cp", "--write-type", "must-cache", &source, &format!("/k{kept}")]);
        if !output.status.success() {
            assert_eq!(output.status.code(), Some(1));
            break String::from_utf8(output.stderr).unwrap();
        }
        kept += 1;
        assert!(kept <= 7, "seven of these are 63 MiB");
    };
    assert!(said.contains("full") && said.contains("--memory"), "{said}");
    assert!(kept >= 1);
    local.fails(3, &["stat", &format!("/k{kept}")]);
    for _ in 0..2 {
        assert!(local.run(&["cat", "/data/cold"]) == noise(20 << 20, 3), "past the cache");
    }
    serves(&local);
    for i in 0..kept {
        assert!(local.run(&["cat", &format!("/k{i}")]) == noise(9 << 20, 4), "nothing unpersisted was evicted");
    }
    for i in 0..kept {
        local.run(&["rm", &format!("/k{i}")]);
    }
    // At once: a worker that is full asks which files are gone.
    local.run(&["cp", "--write-type", "must-cache", &source, "/again"]);
    assert!(local.run(&["cat", "/again"]) == noise(9 << 20, 4));
    local.run(&["load", "/data/cold"]);
    assert_no_panic(&local.log());
}

/// Short files do not need a whole block's room: the smallest tier takes them, one after another, under each promise.
#[test]
fn the_smallest_tier_takes_files_one_after_another() {
    let (data, flag) = data();
    let mut arguments = vec!["local"];
    arguments.extend(SMALL);
    arguments[4] = "16MiB";
    arguments.extend(["--mount", &flag]);
    let local = Process::start(&arguments);
    let own = tempfile::tempdir().unwrap();
    let source = format!("file:{}", own.path().join("s").display());
    put(own.path().join("s"), &noise(3 << 20, 5));
    for write_type in ["cache-through", "through", "must-cache"] {
        for i in 0..3 {
            let path = format!("/data/{write_type}{i}");
            local.run(&["cp", "--write-type", write_type, &source, &path]);
            assert!(local.run(&["cat", &path]) == noise(3 << 20, 5), "{path}");
        }
    }
    assert_eq!(std::fs::read_dir(data.path()).unwrap().filter(|e| e.is_ok()).count(), 7);
}

/// Runs `citius local` under limits, uses it, and gives what it said.
fn limited(limits: &[&str]) -> String {
    let (data, flag) = data();
    put(data.path().join("long"), &noise(5 << 20, 6));
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("h");
    let mut child = Command::new("prlimit")
        .args(limits)
        .arg(env!("CARGO_BIN_EXE_citius"))
        .arg("local")
        .args(SMALL)
        .args(["--mount", &flag, "--home"])
        .arg(&home)
        .env_remove("CITIUS_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !home.join("endpoint").exists() {
        if child.try_wait().unwrap().is_some() {
            // It may refuse, if it says why.
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{limits:?}: {said}");
            assert_no_panic(&said);
            return said;
        }
        assert!(Instant::now() < deadline, "neither ready nor ended under {limits:?}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let run = |arguments: &[&str]| -> Output { citius().arg("--home").arg(&home).args(arguments).output().unwrap() };
    let cat = run(&["cat", "/data/long"]);
    let copy = run(&["cp", "/data/long", "/copy"]);
    let again = run(&["cat", "/copy"]);
    Command::new("kill").arg(child.id().to_string()).status().unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(cat.stdout == noise(5 << 20, 6), "{limits:?}: {said}\n{}", String::from_utf8_lossy(&cat.stderr));
    assert!(copy.status.success(), "{limits:?}: {said}\n{}", String::from_utf8_lossy(&copy.stderr));
    assert!(again.stdout == noise(5 << 20, 6), "{limits:?}: {said}");
    assert_eq!(output.status.code(), Some(0), "{limits:?}: {said}");
    assert_no_panic(&said);
    said
}

#[test]
fn a_poor_machine_is_served_or_told_why_not() {
    let said = limited(&["--nofile=1024:1024"]);
    assert!(said.contains("is ready"), "{said}");
    for limits in ["--memlock=0:0", "--memlock=65536:65536"] {
        let said = limited(&[limits]);
        assert!(
            said.contains("is ready") || said.contains("memlock") || said.contains("ulimit -l"),
            "{limits}: {said}"
        );
    }
    for limits in ["--nofile=64:64", "--nofile=24:24"] {
        let said = limited(&[limits]);
        assert!(said.contains("is ready") || said.contains("ulimit -n"), "{limits}: {said}");
    }
}

/// The note depends on the machine: it is there exactly where the memory is not of hugepages.
#[test]
fn memory_without_hugepages_says_so_with_the_fix() {
    let local = Process::local(&[]);
    let log = local.log();
    let backing = local.json(&["cluster"])["workers"][0]["backing"].as_str().unwrap().to_owned();
    assert!(log.contains(&backing), "{log}");
    assert_eq!(log.contains("vm.nr_hugepages"), backing != "hugetlb", "{backing}: {log}");
}

/// A thousand connections that say nothing take no room from those who do.
#[test]
fn silent_connections_do_not_shut_others_out() {
    let (_data, flag) = data();
    let local = Process::local(&["--mount", &flag]);
    let data_address = local.json(&["cluster"])["workers"][0]["data"].as_str().unwrap().to_owned();
    let silent: Vec<_> = [local.endpoint(), data_address]
        .iter()
        .flat_map(|address| (0..300).map(move |_| TcpStream::connect(address).unwrap()))
        .collect();
    serves(&local);
    drop(silent);
    serves(&local);
}

/// `--master nonsense` said that it cannot connect, exit code 5, as if trying again could help.
#[test]
fn an_address_that_is_none_is_a_usage_error() {
    for master in ["nonsense", ":7700", "host:", "host:0", "host:99999", "host:7700x"] {
        for command in [&["ls"][..], &["worker", "--home", "/nonexistent/citius-tests/w"]] {
            let output = citius().args(["--master", master]).args(command).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{master}: {said}");
            assert!(said.contains("HOST:PORT"), "{said}");
        }
    }
}

/// Where XDG_RUNTIME_DIR names a folder that is not there, as after su(1), nothing started at all.
#[test]
fn without_a_runtime_folder_all_goes_over_tcp() {
    let (_data, flag) = data();
    let local = Process::start_in(
        &[("XDG_RUNTIME_DIR", "/proc/none/such")],
        &["local", "--listen", "127.0.0.1:0", "--memory", "64MiB", "--shards", "1", "--mount", &flag],
    );
    serves(&local);
    assert!(local.log().contains("served over TCP") && local.log().contains("/proc/none/such"), "{}", local.log());
}
