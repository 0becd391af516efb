//! What all object stores have in common, over a bucket in memory: the contract, a million names, and faults of every
//! kind of request.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use citius_understore::{
    Condition, Depth, Error, FileId, PAGE_ENTRIES_MAX, Settled, StorePath, UnderStore,
    testing::{Bucket, Habits, Request, RequestFault, conformance},
};
use futures::{StreamExt, TryStreamExt};

fn path(text: &str) -> StorePath {
    StorePath::parse(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_in_memory_keeps_the_contract() {
    let bucket = |habits| Bucket::default().with_habits(habits);
    let whole = &["descriptors_show_one_version"][..];
    let timed = &["sweep_takes_the_dead_only", "descriptors_show_one_version"][..];
    let runs = [(Habits::Amazon, ""), (Habits::Amazon, "deep/pre fix%"), (Habits::Azure, ""), (Habits::Azure, "p%/q")];
    // At once, for what time alone fences is waited out.
    let runs = runs.map(async |(habits, prefix)| (habits, conformance(bucket(habits).mount(prefix)).await));
    for (habits, report) in futures::future::join_all(runs).await {
        assert_eq!(report.failures().count(), 0, "{report}");
        let skipped: Vec<_> = report.skipped().map(|point| point.name).collect();
        assert_eq!(skipped, if habits == Habits::Azure { timed } else { whole }, "{report}");
    }
}

/// A directory that sorts before where a listing begins was told when so many names waited for it that the store was asked.
#[tokio::test]
async fn a_listing_begins_where_it_was_asked_to() {
    const COUNT: usize = 3 * PAGE_ENTRIES_MAX;
    let bucket = Bucket::default();
    for number in 0..COUNT {
        bucket.put_object(&format!("part-{number:04}"), Bytes::from_static(b"x"));
    }
    bucket.put_object("part/inside", Bytes::from_static(b"x"));
    let pages: Vec<_> = bucket.mount("").list(&StorePath::root(), "part-0001").try_collect().await.unwrap();
    let names: Vec<String> = pages.into_iter().flat_map(|page| page.entries).map(|entry| entry.name).collect();
    assert_eq!((names.len(), names[0].as_str()), (COUNT - 2, "part-0002"));
}

/// The first page needs three requests (two pages of keys, and whether `part` is a directory, which would come before
/// them all), each later one needs one: nothing is read ahead, and no more is held than a page.
#[tokio::test]
async fn a_million_names_are_listed_a_page_at_a_time() {
    const COUNT: usize = 1_000_000;
    let bucket = Bucket::default();
    for number in 0..COUNT {
        bucket.put_object(&format!("data/part-{number:07}"), Bytes::from_static(b"x"));
    }
    let store = bucket.mount("data");
    let requests = || store.traffic().totals().requests;
    let mut pages = store.list(&StorePath::root(), "");
    let first = pages.next().await.unwrap().unwrap();
    assert_eq!((requests(), first.entries.len()), (3, PAGE_ENTRIES_MAX));
    let (mut next, mut longest) = (0, 0);
    let mut rest = futures::stream::iter([Ok(first)]).chain(pages);
    while let Some(page) = rest.try_next().await.unwrap() {
        longest = longest.max(page.entries.len());
        for entry in page.entries {
            assert_eq!(entry.name, format!("part-{next:07}"));
            next += 1;
        }
    }
    assert_eq!((next, longest), (COUNT, PAGE_ENTRIES_MAX));
    assert!(requests() <= (COUNT / PAGE_ENTRIES_MAX) as u64 + 1, "{} requests", requests());
    let after = bucket.mount("data").list(&StorePath::root(), "part-0999990");
    let names: Vec<_> = after.try_collect::<Vec<_>>().await.unwrap().remove(0).entries;
    assert_eq!(names.first().map(|entry| entry.name.as_str()), Some("part-0999991"));
}

/// Takes what lands in order, from `start` on; at `start` it may begin once more.
fn landing_at(start: u64, landed: &mut Vec<u8>) -> impl FnMut(u64, &[u8]) + Send {
    move |at: u64, bytes: &[u8]| {
        if at == start {
            landed.clear();
        }
        assert_eq!(at, start + landed.len() as u64);
        landed.extend_from_slice(bytes);
    }
}

/// A bit that was flipped on the way is seen in what a digest was told of, and read again; also where the answer broke off
/// and the rest of it is what was damaged, of which by itself no digest is told.
#[tokio::test(start_paused = true)]
async fn what_arrives_damaged_is_read_again() {
    use RequestFault::{CutOff, Damaged};
    const LEN: u64 = 200_000;
    let content: Bytes = (0..LEN).map(|at| ((at * 31) >> 3) as u8).collect::<Vec<_>>().into();
    for (faults, gets) in
        [(vec![Damaged], 2), (vec![Damaged; 3], 4), (vec![CutOff, Damaged], 3), (vec![Damaged, CutOff], 3)]
    {
        let plan = Mutex::new(faults.into_iter());
        let bucket = Bucket::with_faults(move |request, _| match request {
            Request::Get => plan.lock().unwrap().next().unwrap_or(RequestFault::None),
            _ => RequestFault::None,
        });
        bucket.put_object("f", content.clone());
        let store = bucket.mount("");
        let token = store.stat(&path("f")).await.unwrap().token;
        let mut landed = Vec::new();
        store.read_whole(&path("f"), &token, LEN, &mut landing_at(0, &mut landed)).await.unwrap();
        assert!(landed == content);
        assert_eq!(store.traffic().totals().retries, gets - 1);
    }
}

/// What is damaged each time is an error in the end. What no digest was told of is believed, and counted.
#[tokio::test(start_paused = true)]
async fn what_always_arrives_damaged_is_an_error() {
    const LEN: u64 = 300_000;
    for (habits, part) in [(Habits::Amazon, 0..LEN - 1), (Habits::Azure, 0..LEN - 1)] {
        let bucket = Bucket::with_faults(|request, _| match request {
            Request::Get => RequestFault::Damaged,
            _ => RequestFault::None,
        });
        let bucket = bucket.with_habits(habits);
        bucket.put_object("f", vec![7; LEN as usize]);
        let store = bucket.mount("");
        let token = store.stat(&path("f")).await.unwrap().token;
        let mut landed = Vec::new();
        // By Azure's habits it is too long for a digest when it is read whole, and not when a piece of it is.
        let told = if habits == Habits::Amazon { 0..LEN } else { 100..200_100 };
        let read = match habits {
            Habits::Amazon => store.read_whole(&path("f"), &token, LEN, &mut landing_at(0, &mut landed)).await,
            Habits::Azure => store.read(&path("f"), &token, told, &mut landing_at(100, &mut landed)).await,
        };
        let error = read.unwrap_err();
        assert!(matches!(&error, Error::Damaged { path, .. } if path == "f") && error.is_transient(), "{error}");
        let (seen, unseen) = bucket.damaged();
        assert!(seen > 1 && seen == 1 + store.traffic().totals().retries && unseen == 0, "{seen} {unseen}");
        store.read(&path("f"), &token, part, &mut landing_at(0, &mut landed)).await.unwrap();
        assert!(landed.iter().any(|byte| *byte != 7));
        assert_eq!(bucket.damaged(), (seen, 1));
    }
}

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

const NAMES: [&str; 6] = ["a", "b", "d/a", "d/b", "d/e/a", "x y/ü%"];

/// What is in the bucket, and what happens to it.
struct Storm {
    bucket: Bucket,
    store: Arc<dyn UnderStore>,
    rages: Arc<AtomicBool>,
    truth: BTreeMap<&'static str, Bytes>,
    dice: Dice,
    next_id: u128,
}

impl Storm {
    fn new(seed: u64, habits: Habits, faults: Arc<Mutex<BTreeMap<RequestFault, u64>>>) -> Self {
        let rages = Arc::new(AtomicBool::new(true));
        let (is_raging, dice) = (Arc::clone(&rages), Mutex::new(Dice(seed ^ 0xfa17)));
        let bucket = Bucket::with_faults(move |request, _| {
            let mut dice = dice.lock().unwrap();
            if !is_raging.load(Relaxed) || dice.roll(100) >= 25 {
                return RequestFault::None;
            }
            let fault = match (request, dice.roll(14)) {
                (Request::Get, 0) => RequestFault::Truncated,
                (Request::Get, 1) => RequestFault::CutOff,
                (Request::Get, 2) => RequestFault::WrongRange,
                (Request::Get, 3) => RequestFault::ConditionIgnored,
                (Request::Get | Request::Head, 4 | 5) => RequestFault::OtherVersion,
                (Request::Get, 8..) => RequestFault::Damaged,
                (Request::Keys, 0..6) => RequestFault::StaleKeys,
                (_, 0..3) => RequestFault::AnswerLost,
                (_, 3..6) => RequestFault::TimedOut,
                (_, 6 | 7) => RequestFault::Unreachable,
                (_, 8 | 9) => RequestFault::Throttled,
                (_, 10) => RequestFault::Expired,
                (_, 11) => RequestFault::Slow,
                _ => RequestFault::Fail,
            };
            *faults.lock().unwrap().entry(fault).or_insert(0) += 1;
            fault
        });
        let bucket = bucket.with_habits(habits);
        let store = bucket.mount("p");
        Self { bucket, store, rages, truth: BTreeMap::new(), dice: Dice(seed), next_id: 1 }
    }

    fn name(&mut self) -> &'static str {
        NAMES[self.dice.roll(NAMES.len() as u64) as usize]
    }

    /// Bytes that no other write has.
    fn content(&mut self) -> Bytes {
        let len = match self.dice.roll(4) {
            0 => 0,
            1 => self.dice.roll(5000),
            2 => (1 << 20) + self.dice.roll(3),
            _ => 2_500_000 + self.dice.roll(1000),
        };
        let seed = self.next_id as u64;
        (0..len).map(|at| (at.wrapping_mul(31).wrapping_add(seed * 7919) >> 3) as u8).collect::<Vec<_>>().into()
    }

    /// A write, published or settled as a master would: what it said to whom decides what must be there.
    async fn write(&mut self) {
        let (name, content) = (self.name(), self.content());
        let file_id = FileId(self.next_id.to_be_bytes());
        self.next_id += 1;
        let Ok(mut staged) = self.store.stage(&path(name), file_id, None).await else { return };
        for piece in content.chunks(700_001) {
            if staged.write(content.slice_ref(piece)).await.is_err() {
                // What the log knows of it is enough to end it.
                let begun = staged.begun();
                drop(staged);
                return self.settle_absent(&begun).await;
            }
        }
        let Ok(record) = staged.seal().await else {
            let begun = staged.begun();
            drop(staged);
            return self.settle_absent(&begun).await;
        };
        let condition = match self.truth.contains_key(name) {
            true if self.dice.roll(4) == 0 => Condition::MustNotExist,
            false if self.dice.roll(2) == 0 => Condition::MustNotExist,
            _ => Condition::Any,
        };
        match staged.publish(&condition).await {
            Ok(_) => {
                assert!(condition == Condition::Any || !self.truth.contains_key(name), "{name} was replaced");
                self.truth.insert(name, content);
            }
            Err(_) => match self.settled(&record).await {
                Settled::Published(_) => {
                    assert!(condition == Condition::Any || !self.truth.contains_key(name), "{name} was replaced");
                    self.truth.insert(name, content);
                }
                Settled::Absent => {}
            },
        }
    }

    async fn settled(&mut self, record: &citius_understore::StagedRecord) -> Settled {
        loop {
            if let Ok(settled) = self.store.settle(record).await {
                return settled;
            }
        }
    }

    async fn settle_absent(&mut self, record: &citius_understore::StagedRecord) {
        assert_eq!(self.settled(record).await, Settled::Absent, "it was never published");
    }

    /// A read gives an error, or the bytes of the version that was looked at, or damaged ones of which the store told no
    /// digest.
    async fn read(&mut self) {
        let name = self.name();
        let Ok(stat) = self.store.stat(&path(name)).await else { return };
        let truth = self.truth.get(name).unwrap_or_else(|| panic!("{name} is there, and was never written"));
        assert_eq!(stat.len, truth.len() as u64, "{name}");
        let truth = truth.clone();
        let is_replaced = self.dice.roll(3) == 0;
        if is_replaced {
            // By another program, which knows nothing of versions.
            let other: Bytes = truth.iter().map(|byte| !byte).collect::<Vec<_>>().into();
            self.bucket.put_object(&format!("p/{name}"), other.clone());
            self.truth.insert(name, other);
        }
        let is_whole = self.dice.roll(2) == 0;
        let start = if is_whole { 0 } else { self.dice.roll(stat.len + 1) };
        let end = if is_whole { stat.len } else { start + self.dice.roll(stat.len - start + 1) };
        let (_, untold) = self.bucket.damaged();
        let mut landed = Vec::new();
        let mut landing = landing_at(start, &mut landed);
        let read = match is_whole {
            true => self.store.read_whole(&path(name), &stat.token, end, &mut landing).await,
            false => self.store.read(&path(name), &stat.token, start..end, &mut landing).await,
        };
        drop(landing);
        if read.is_ok() {
            assert!(!is_replaced, "{name}: another version than was asked for");
            let is_right = landed == truth[start as usize..end as usize];
            assert!(is_right || self.bucket.damaged().1 > untold, "{name}: other bytes than were written");
        }
    }

    async fn delete(&mut self) {
        let name = self.name();
        loop {
            match self.store.delete_file(&path(name)).await {
                Ok(()) | Err(Error::NotFound { .. }) => break,
                Err(_) => {}
            }
        }
        self.truth.remove(name);
    }

    /// A rename is called again until it is done, as an intent of the log is.
    async fn rename(&mut self) {
        let (from, to) = (self.name(), self.name());
        if !self.truth.contains_key(from) || from == to {
            return;
        }
        loop {
            match self.store.rename(&path(from), &path(to), &Condition::Any).await {
                Ok(_) | Err(Error::NotFound { .. }) => break,
                Err(_) => {}
            }
        }
        let moved = self.truth.remove(from).unwrap();
        self.truth.insert(to, moved);
    }

    async fn delete_tree(&mut self) {
        loop {
            match self.store.delete_dir(&path("d"), Depth::Recursive).await {
                Ok(()) | Err(Error::NotFound { .. }) => break,
                Err(_) => {}
            }
        }
        self.truth.retain(|name, _| !name.starts_with("d/"));
    }

    /// The bucket holds what was acknowledged, whole, and nothing else.
    fn check(&self) {
        let files: HashSet<_> = self.bucket.all_keys().into_iter().filter(|key| !key.ends_with('/')).collect();
        let expected: HashSet<_> = self.truth.keys().map(|name| format!("p/{name}")).collect();
        assert_eq!(files, expected);
        for (name, content) in &self.truth {
            assert!(self.bucket.object(&format!("p/{name}")).unwrap() == *content, "{name} is not what was written");
        }
    }
}

/// Ten thousand faults in writes, reads, renames and deletions: no half file, no mixture, nothing acknowledged is lost, and
/// no upload is left. Time is tokio's own: what is waited for is over at once.
#[tokio::test(start_paused = true)]
async fn ten_thousand_faults_leave_what_was_acknowledged() {
    const FAULTS: u64 = 10_000;
    /// Kinds of faults, with the lack of one.
    const KINDS: usize = 15;
    let (mut told, mut untold) = (0, 0);
    let faults = Arc::new(Mutex::new(BTreeMap::new()));
    let mut seed = 0;
    while faults.lock().unwrap().values().sum::<u64>() < FAULTS {
        seed += 1;
        let habits = if seed % 2 == 0 { Habits::Azure } else { Habits::Amazon };
        let mut storm = Storm::new(seed, habits, Arc::clone(&faults));
        for _ in 0..100 {
            match storm.dice.roll(20) {
                0..10 => storm.write().await,
                10..15 => storm.read().await,
                15..17 => storm.delete().await,
                17..19 => storm.rename().await,
                _ => storm.delete_tree().await,
            }
            storm.check();
        }
        // What a crash of the publisher left is found, though its begin was never told.
        storm.rages.store(false, Relaxed);
        storm.store.sweep(&|_| true).await.unwrap();
        if habits == Habits::Amazon {
            assert_eq!(storm.bucket.uploads_under_way(), 0);
        }
        storm.check();
        let damaged = storm.bucket.damaged();
        (told, untold) = (told + damaged.0, untold + damaged.1);
    }
    let faults = faults.lock().unwrap();
    println!("{} faults in {seed} storms: {faults:?}", faults.values().sum::<u64>());
    println!("of the damaged bodies {told} were told with their digests, and seen; {untold} were not");
    assert!(told > 10 && untold > 10, "{told} {untold}");
    assert_eq!(faults.len(), KINDS - 1, "{faults:?}");
}
