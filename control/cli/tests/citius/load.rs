//! `citius load` of whole trees: what it asks the under-store for, and what the death of a worker costs.

use crate::bucket::Prefix;
use crate::cluster::worker;
use crate::support::{Process, noise, poll};
use citius_client::{Config, Local};
use citius_understore::testing::servers::CountingBucket;
use std::process::Stdio;
use std::time::Duration;

const FILES: usize = 1000;

fn name(number: usize) -> String {
    format!("d{}/f{number}", number % 30)
}

/// Every hundredth is empty, and asks for nothing.
fn content(number: usize) -> Vec<u8> {
    noise(if number.is_multiple_of(100) { 0 } else { 3000 + number }, number as u64)
}

fn put_tree(prefix: &Prefix) {
    prefix.put_all((0..FILES).map(|number| (name(number), content(number))));
}

fn is_whole(sum: &serde_json::Value) {
    let bytes: usize = (0..FILES).map(|number| content(number).len()).sum();
    assert_eq!(*sum, serde_json::json!({ "files": FILES, "failed": 0, "bytes": bytes }));
}

#[test]
fn a_tree_is_loaded_by_one_request_a_file_and_read_without_any() {
    let prefix = Prefix::new("load-tree");
    put_tree(&prefix);
    let local = prefix.local();
    is_whole(&local.json(&["load", "/data"]));
    let (loaded, _) = local.requests("/data");
    assert_eq!(loaded, (FILES - FILES / 100) as u64);
    is_whole(&local.json(&["load", "--jobs", "1", "/data"]));
    let client = local.client();
    for number in 0..FILES {
        let file = client.open(&format!("/data/{}", name(number))).unwrap();
        let mut bytes = vec![0; file.len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == content(number), "{}", name(number));
    }
    assert_eq!(local.requests("/data").0, loaded, "what is loaded is asked for once");
}

/// One request for a block of 64 MiB would be as slow as one connection is. The server answers none of these four while it
/// has fewer of them.
#[test]
fn the_parts_of_a_block_are_asked_for_at_once() {
    const BLOCK_BYTES: usize = 64 << 20;
    const PARTS: usize = 4;
    let bytes = noise(BLOCK_BYTES, 1);
    let bucket = CountingBucket::start(bytes.clone().into()).unwrap();
    bucket.answer_together(PARTS);
    let local = Process::mounting(&bucket.mount());
    assert_eq!(local.json(&["load", "/data/f"])["bytes"], BLOCK_BYTES);
    assert_eq!((bucket.gets(), bucket.lonely()), (PARTS as u64, 0));
    assert!(local.run(&["cat", "/data/f"]) == bytes);
    assert_eq!(bucket.gets(), PARTS as u64, "it came from memory");
}

/// What was on its way to a worker that died is asked of the others, and what it had loaded is not counted as loaded twice.
#[test]
fn a_worker_that_dies_costs_no_file() {
    let prefix = Prefix::new("load-death");
    put_tree(&prefix);
    let master = Process::start(&["master", "--listen", "127.0.0.1:0"]);
    let (mut dying, living) = (worker(&master), worker(&master));
    let (uri, options) = (prefix.uri(), prefix.options());
    // So slow that it takes seconds.
    let mount = ["mount", "add", "/data", &uri, "--option", "read_bytes_per_second=1048576"];
    master.run(&mount.into_iter().chain(options.iter().map(String::as_str)).collect::<Vec<_>>());
    let load = master.command(&["--json", "load", "/data"]).stdout(Stdio::piped()).spawn().unwrap();
    poll("both have loaded something", || {
        let cluster = master.json(&["cluster"]);
        let workers = cluster["workers"].as_array().unwrap();
        let is_at_work =
            workers.iter().all(|it| it["counters"]["fetched_bytes"].as_u64().is_some_and(|bytes| bytes > 0));
        if is_at_work { Ok(()) } else { Err(cluster.to_string()) }
    });
    dying.kill();
    let output = load.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    is_whole(&serde_json::from_slice(&output.stdout).unwrap());
    // The worker that lives has what was loaded since, and serves all.
    let client =
        master.client_with(Config { local: Local::Never, timeout: Duration::from_secs(60), ..Config::default() });
    for number in 0..FILES {
        let file = client.open(&format!("/data/{}", name(number))).unwrap();
        let mut bytes = vec![0; file.len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == content(number), "{}", name(number));
    }
    drop(living);
}
