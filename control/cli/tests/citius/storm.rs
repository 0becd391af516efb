//! A whole cluster whose way to its bucket is a storm: a mixed workload of several tasks meets thousands of faults, and
//! keeps what it was promised.
//!
//! Every name has one task that changes it, and everybody reads it. What may be there is known: what was last acknowledged,
//! or any attempt since. Nobody ever reads anything else, neither through the mount nor in the bucket itself; and when the
//! storm is over, both have the same.

use crate::bucket::Prefix;
use crate::support::{Process, dice, noise, poll};
use citius_client::{Client, Config, CreateOptions, Error, Status, WriteType};
use citius_understore::testing::servers::{HttpFault, Storm};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Faults after which the storm is over; `ci/test --all` has the time for more.
const FAULTS: u64 = if cfg!(feature = "more-servers") { 10_000 } else { 2_000 };
/// How long it may take to come so far, on any machine.
const STORM_MAX: Duration = Duration::from_secs(FAULTS / 5);
/// Faults of a hundred requests.
const SHARE: u64 = 30;
const WRITERS: u64 = 8;
const READERS: u64 = 4;
/// The names of one writer, in a directory of its own.
const NAMES: [&str; 6] = ["a", "b", "c", "d/x", "d/y", "d/e/z"];
const BLOCK_BYTES: u32 = 4 << 20;
/// Bytes of a write of several parts, at least; smaller ones are a single put.
const LARGE_BYTES: usize = (8 << 20) + 1;
const LENGTH_MAX: usize = LARGE_BYTES + (1 << 20);
/// How far apart two contents may begin in the noise that all are cut from.
const SHIFT_MAX: u64 = 1 << 20;
/// The traffic's budget (`engine/understore/src/traffic/retry.rs`): what it holds, and what each request and second adds.
/// Master and worker have one each.
const RETRIES_HELD: f64 = 2.0 * 100.0;
const RETRIES_PER_REQUEST: f64 = 0.2;
const RETRIES_PER_SECOND: f64 = 2.0 * 1.0;

/// What is at a name: nothing, or a part of the noise.
type Content = Option<(usize, usize)>;

/// What has been, or may have been, at a name since the storm began; nothing at first.
struct History {
    contents: Vec<Content>,
    /// The place of the last one of which it is known that nothing else is there.
    certain: usize,
}

/// The truth beside the workload.
struct Truth {
    noise: Vec<u8>,
    names: Mutex<BTreeMap<String, History>>,
}

impl Truth {
    fn new() -> Self {
        Self { noise: noise(LENGTH_MAX + SHIFT_MAX as usize, 7), names: Mutex::default() }
    }

    fn bytes(&self, (start, length): (usize, usize)) -> &[u8] {
        &self.noise[start..start + length]
    }

    fn say(&self, name: &str, content: Content, is_certain: bool) {
        let mut names = self.names.lock().unwrap();
        let history = names.entry(name.to_owned()).or_insert_with(|| History { contents: vec![None], certain: 0 });
        history.contents.push(content);
        if is_certain {
            history.certain = history.contents.len() - 1;
        }
    }

    /// Since when whoever looks now finds something that is said to have been there.
    fn since(&self, name: &str) -> usize {
        self.names.lock().unwrap().get(name).map_or(0, |history| history.certain)
    }

    fn may_be(&self, name: &str, since: usize, is_it: impl Fn(Content) -> bool) -> bool {
        match self.names.lock().unwrap().get(name) {
            Some(history) => history.contents[since..].iter().any(|content| is_it(*content)),
            None => is_it(None),
        }
    }

    /// What is at a name, if that is certain.
    fn certain(&self, name: &str) -> Content {
        let names = self.names.lock().unwrap();
        let history = names.get(name).filter(|history| history.certain + 1 == history.contents.len())?;
        history.contents[history.certain]
    }

    /// Whether these may be the bytes from an offset on of all that was there.
    fn may_read(&self, name: &str, since: usize, length: u64, range: Range<usize>, bytes: &[u8]) -> bool {
        self.may_be(name, since, |content| {
            content.is_some_and(|content| {
                content.1 as u64 == length && self.bytes(content).get(range.clone()) == Some(bytes)
            })
        })
    }
}

/// What the tasks share.
struct Work<'a> {
    storm: &'a Storm,
    prefix: &'a Prefix,
    client: &'a Client,
    /// One that maps nothing.
    unmapped: &'a Client,
    truth: &'a Truth,
    failures: AtomicU64,
    /// Those failures that do not say what they must.
    dumb: Mutex<Vec<String>>,
    steps: Mutex<BTreeMap<&'static str, u64>>,
    deadline: Instant,
}

/// What is done to a path, and what it may be called where it fails.
struct Doing {
    what: &'static str,
    words: &'static [&'static str],
}

const READ: Doing = Doing { what: "read", words: &["reading", "looking at", "being read"] };
const WRITE: Doing = Doing { what: "write", words: &["writing", "publishing", "looking at", "making"] };
const DELETE: Doing = Doing { what: "delete", words: &["deleting", "looking at", "listing"] };
const RENAME: Doing = Doing { what: "rename", words: &["renaming", "looking at"] };
const LIST: Doing = Doing { what: "list", words: &["listing", "looking at"] };
const LOAD: Doing = Doing { what: "load", words: &["reading", "looking at", "being read"] };

/// How the faults are told: one of these is in every failure.
const CAUSES: [&str; 15] = [
    "InternalError",
    "HTTP 500",
    "is asked too much",
    "refused the keys (ExpiredToken",
    "denies access (HTTP 403",
    "does not answer (",
    "has not answered for a while",
    "under-store sent",
    "does not match the digest (CRC64/NVME)",
    "changed in the under-store",
    "the store does not say which bytes it sends",
    "it was asked for a ListBucketResult",
    "its answer is no whole",
    "the staged write",
    "the file was replaced",
];

impl Work<'_> {
    fn goes_on(&self) -> bool {
        assert!(Instant::now() < self.deadline, "the storm does not come on: {:?}", self.storm.met());
        self.storm.met().values().sum::<u64>() < FAULTS
    }

    fn done(&self, what: &'static str) {
        *self.steps.lock().unwrap().entry(what).or_insert(0) += 1;
    }

    /// Holds a failure against what it must say: where, what was tried, and why it failed.
    fn failed(&self, doing: &Doing, path: &str, error: &Error) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let said = error.to_string();
        let has_one_of = |words: &[&str]| words.iter().any(|words| said.contains(words));
        let is_told = said.contains(path) && has_one_of(doing.words) && has_one_of(&CAUSES);
        // Who comes while another change of the path is not over is told that.
        let waits = error.status() == Status::FileBusy || said.contains("was being changed");
        let waits = waits && said.contains(path);
        if !is_told && !waits {
            self.dumb.lock().unwrap().push(format!("{}: {error:?}", doing.what));
        }
    }

    /// A name of a writer.
    fn name(state: &mut u64, writer: u64) -> String {
        format!("w{writer}/{}", NAMES[dice(state) as usize % NAMES.len()])
    }

    /// A name where something may be, if that is soon found.
    fn name_of_something(&self, state: &mut u64) -> String {
        let mut name = String::new();
        for _ in 0..NAMES.len() {
            let writer = dice(state) % WRITERS;
            name = Self::name(state, writer);
            if self.truth.may_be(&name, self.truth.since(&name), |content| content.is_some()) {
                break;
            }
        }
        name
    }

    fn change(&self, writer: u64) {
        let mut state = writer * 7919 + 1;
        while self.goes_on() {
            match dice(&mut state) % 20 {
                0..14 => self.write(&mut state, writer),
                14..17 => self.rename(&mut state, writer),
                17..19 => self.delete(&Self::name(&mut state, writer), false),
                _ => self.delete(&format!("w{writer}/d"), true),
            }
        }
    }

    fn write(&self, state: &mut u64, writer: u64) {
        let name = Self::name(state, writer);
        let path = format!("/data/{name}");
        let length = match dice(state) % 8 {
            0 => 0,
            1..6 => dice(state) as usize % 100_000,
            6 => (BLOCK_BYTES as usize) + 1,
            _ => LARGE_BYTES + dice(state) as usize % (1 << 20),
        };
        let content = ((dice(state) % SHIFT_MAX) as usize, length);
        let write_type = if dice(state).is_multiple_of(2) { WriteType::CacheThrough } else { WriteType::Through };
        let block_bytes = if dice(state).is_multiple_of(2) { BLOCK_BYTES } else { 0 };
        let options = CreateOptions { overwrite: true, parents: true, write_type, block_bytes };
        let mut file = match self.client.create(&path, options) {
            Ok(file) => file,
            Err(error) => return self.failed(&WRITE, &path, &error),
        };
        if let Err(error) = file.append(self.truth.bytes(content)) {
            return self.failed(&WRITE, &path, &error);
        }
        self.truth.say(&name, Some(content), false);
        match file.close() {
            Ok(_) => {
                self.truth.say(&name, Some(content), true);
                self.done("write");
            }
            Err(error) => self.failed(&WRITE, &path, &error),
        }
    }

    fn rename(&self, state: &mut u64, writer: u64) {
        let (from, to) = (Self::name(state, writer), Self::name(state, writer));
        let Some(content) = self.truth.certain(&from).filter(|_| from != to) else { return };
        self.truth.say(&to, Some(content), false);
        self.truth.say(&from, None, false);
        let path = format!("/data/{from}");
        match self.client.rename(&path, &format!("/data/{to}"), true) {
            Ok(()) => {
                self.truth.say(&to, Some(content), true);
                self.truth.say(&from, None, true);
                self.done("rename");
            }
            // Its directory was never made, or went with the last file in it.
            Err(error) if error.status() == Status::NotFound && to.contains("/d/") => {}
            Err(error) => self.failed(&RENAME, &path, &error),
        }
    }

    fn delete(&self, name: &str, recursive: bool) {
        let path = format!("/data/{name}");
        let is_in = |other: &&String| **other == name || other.starts_with(&format!("{name}/"));
        let gone: Vec<_> = self.truth.names.lock().unwrap().keys().filter(is_in).cloned().collect();
        let say = |is_certain| gone.iter().for_each(|name| self.truth.say(name, None, is_certain));
        say(false);
        match self.client.delete(&path, recursive) {
            Ok(()) => {
                say(true);
                self.done("delete");
            }
            Err(error) if error.status() == Status::NotFound => {}
            Err(error) => self.failed(&DELETE, &path, &error),
        }
    }

    /// Reads, cold or warm, whole or in part; lists and loads now and then.
    fn look(&self, reader: u64) {
        let mut state = reader * 104_729 + 1;
        while self.goes_on() {
            let writer = dice(&mut state) % WRITERS;
            match dice(&mut state) % 24 {
                0..5 => self.list(&format!("w{writer}")),
                5 => self.load(writer),
                _ => {
                    let name = self.name_of_something(&mut state);
                    self.read(&mut state, &name);
                }
            }
        }
    }

    fn read(&self, state: &mut u64, name: &str) {
        let path = format!("/data/{name}");
        let since = self.truth.since(name);
        // By one that maps, a block is completed; by the other, what is asked for comes.
        let client = if dice(state).is_multiple_of(2) { self.client } else { self.unmapped };
        let read = client.open(&path).and_then(|file| {
            if !dice(state).is_multiple_of(4) {
                file.free()?;
            }
            let length = file.len();
            let start = if dice(state).is_multiple_of(2) { 0 } else { dice(state) % (length + 1) };
            let wanted = if dice(state).is_multiple_of(2) { length - start } else { dice(state) % 300_000 };
            let mut bytes = vec![0; wanted.min(length - start) as usize];
            file.read_exact_at(&mut bytes, start)?;
            Ok((length, start as usize, bytes))
        });
        match read {
            Ok((length, start, bytes)) => {
                let range = start..start + bytes.len();
                let is_right = self.truth.may_read(name, since, length, range.clone(), &bytes);
                assert!(is_right, "{path}: {range:?} of {length} bytes that never were there");
                self.done("read");
            }
            Err(error) if error.status() == Status::NotFound => {
                let is_right = self.truth.may_be(name, since, |content| content.is_none());
                assert!(is_right, "{path} is there, and is not found: {error}");
                self.done("miss");
            }
            Err(error) => self.failed(&READ, &path, &error),
        }
    }

    fn list(&self, dir: &str) {
        let path = format!("/data/{dir}");
        let listed: Result<Vec<_>, _> = self.client.list(&path).and_then(Iterator::collect);
        match listed {
            Ok(listed) => {
                for entry in listed {
                    let name = entry.path.rsplit('/').next().unwrap();
                    assert!(["a", "b", "c", "d"].contains(&name), "{path} has never had {name}");
                }
                self.done("list");
            }
            Err(error) if error.status() == Status::NotFound => {}
            Err(error) => self.failed(&LIST, &path, &error),
        }
    }

    fn load(&self, writer: u64) {
        let mut paths = NAMES.iter().map(|name| format!("/data/w{writer}/{name}"));
        self.client.load_all(
            4,
            |_| paths.next(),
            |path, loaded| match loaded {
                Ok(_) => self.done("load"),
                Err(error) if error.status() == Status::NotFound => {}
                Err(error) => self.failed(&LOAD, &path, &error),
            },
        );
    }

    /// Looks into the bucket, past the storm: what is published is whole.
    fn watch(&self) {
        let mut state = 31;
        while self.goes_on() {
            let writer = dice(&mut state) % WRITERS;
            let name = Self::name(&mut state, writer);
            let since = self.truth.since(&name);
            let Ok(found) = self.prefix.try_get(&name) else { continue };
            let is_right = self
                .truth
                .may_be(&name, since, |content| content.map(|content| self.truth.bytes(content)) == found.as_deref());
            assert!(is_right, "{name} is published with {:?} bytes, which it never had", found.map(|it| it.len()));
            self.done("watch");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What is where when all is over: the bucket has of each name what it may have, the mount has the same, and so has the
    /// cache.
    fn verify(&self) {
        poll("the storm's last changes are over", || {
            let warnings = self.client.cluster().unwrap().warnings;
            let open = warnings.iter().find(|words| words.contains("published") || words.contains("changes of names"));
            open.map_or(Ok(()), |words| Err(words.clone()))
        });
        let mut there = 0;
        for writer in 0..WRITERS {
            for name in NAMES.map(|name| format!("w{writer}/{name}")) {
                let found = self.prefix.get(&name);
                let is_right = self.truth.may_be(&name, self.truth.since(&name), |content| {
                    content.map(|content| self.truth.bytes(content)) == found.as_deref()
                });
                assert!(is_right, "{name} has {:?} bytes, which it may not have", found.map(|it| it.len()));
                there += u64::from(found.is_some());
                let path = format!("/data/{name}");
                for temper in ["as it is cached", "cold", "warm"] {
                    let read = self.client.open(&path).and_then(|file| {
                        if temper == "cold" {
                            file.free()?;
                        }
                        let mut bytes = vec![0; file.len() as usize];
                        file.read_exact_at(&mut bytes, 0).map(|()| bytes)
                    });
                    let read = match read {
                        Err(error) if error.status() == Status::NotFound => None,
                        read => Some(read.unwrap()),
                    };
                    assert!(read == found, "{path}, {temper}, is not what the bucket has");
                }
            }
            let mut listed = self.prefix.entries(&format!("w{writer}"));
            listed.retain(|(name, _)| !["a", "b", "c", "d"].contains(&name.as_str()));
            assert!(listed.is_empty(), "nobody wrote {listed:?}");
        }
        assert!(there > 0);
        // Their ids were lost on the way; a sweep takes them when they are old.
        println!("{} uploads whose begin nobody was told of", self.prefix.uploads().len());
    }
}

#[test]
fn two_thousand_faults_on_the_way_to_a_bucket_cost_nothing_that_was_promised() {
    let prefix = Prefix::new("storm");
    let storm = Storm::before(prefix.endpoint().strip_prefix("http://").unwrap(), 1).unwrap();
    let local = Process::local(&[]);
    // Whoever opens a file asks the store, and who waits for an answer does not wait long.
    let options = ["--sync-interval", "0", "--option", "request_timeout=3s", "--option", "retry_timeout=15s"];
    prefix.mount_through(&storm.endpoint(), &local, "/data", &options);
    let begun = Instant::now();
    // As long as commands wait: longer than the master lets one change of a name wait for another.
    let config = Config { timeout: Duration::from_secs(60), ..Config::default() };
    let (client, unmapped) = (local.client_with(config.clone()), local.client_with(Config { map: false, ..config }));
    let truth = Truth::new();
    let work = Work {
        storm: &storm,
        prefix: &prefix,
        client: &client,
        unmapped: &unmapped,
        truth: &truth,
        failures: AtomicU64::new(0),
        dumb: Mutex::default(),
        steps: Mutex::default(),
        deadline: begun + STORM_MAX,
    };
    for writer in 0..WRITERS {
        client.mkdir(&format!("/data/w{writer}"), false).unwrap();
    }
    storm.rage(SHARE);
    std::thread::scope(|scope| {
        let work = &work;
        (0..WRITERS).for_each(|writer| drop(scope.spawn(move || work.change(writer))));
        (0..READERS).for_each(|reader| drop(scope.spawn(move || work.look(reader))));
        scope.spawn(move || work.watch());
    });
    storm.rage(0);
    let (met, seconds) = (storm.met(), begun.elapsed().as_secs_f64());
    let failures = work.failures.load(Ordering::Relaxed);
    println!("{} faults of {} requests in {seconds:.0} s: {met:?}", met.values().sum::<u64>(), storm.requests());
    println!("{:?}, and {failures} failures", work.steps.lock().unwrap());
    assert_eq!(met.len(), HttpFault::KINDS, "of each kind there is one");
    let dumb = std::mem::take(&mut *work.dumb.lock().unwrap());
    assert!(dumb.is_empty(), "these do not say what they must: {dumb:#?}");
    work.verify();
    let told = local.under_store("/data");
    let count = |name: &str| told[name].as_u64().unwrap();
    let (requests, retries) = (count("read_requests") + count("other_requests"), count("retries"));
    println!("{retries} retries of {requests} requests, {} more denied", count("retries_denied"));
    let seconds = begun.elapsed().as_secs_f64();
    let most = RETRIES_HELD + RETRIES_PER_REQUEST * requests as f64 + RETRIES_PER_SECOND * seconds;
    assert!(retries > 0 && retries as f64 <= most, "{retries} retries of {requests} requests in {seconds} s");
}
