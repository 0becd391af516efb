//! What all object stores have in common, over a bucket in memory: the contract, a million names, and faults of every
//! kind of request.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use citius_understore::{
    Condition, Depth, Error, FileId, PAGE_ENTRIES_MAX, Settled, Stat, StorePath, UnderStore,
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

/// What is declared to be too large, or no name, is refused before a request is made for it.
#[tokio::test]
async fn what_a_store_cannot_hold_is_refused_before_it_is_sent() {
    let bucket = Bucket::default();
    let store = bucket.mount("");
    let largest = store.capabilities().file_bytes_max.unwrap();
    assert!(store.stage(&path("f"), FileId([1; 16]), Some(largest)).await.is_ok());
    let error = store.stage(&path("f"), FileId([2; 16]), Some(largest + 1)).await.err().unwrap();
    assert!(matches!(error, Error::TooLarge { bytes_max, .. } if bytes_max == largest), "{error}");
    assert!(error.to_string().contains(&largest.to_string()), "{error}");
    assert!(!store.capabilities().control_characters);
    let error = store.stage(&path("a\nb"), FileId([3; 16]), None).await.err().unwrap();
    assert!(matches!(error, Error::Unnameable { .. }), "{error}");
    assert_eq!(bucket.all_keys().len(), 0);
}

/// A directory is copied only if all of it can be: a name that is too long in its new place is found before that, and be it
/// the last of many.
#[tokio::test]
async fn a_directory_that_cannot_be_moved_whole_is_not_begun() {
    const COUNT: usize = 2 * PAGE_ENTRIES_MAX;
    let bucket = Bucket::default();
    for number in 0..COUNT {
        bucket.put_object(&format!("d/part-{number:04}"), Bytes::from_static(b"x"));
    }
    let store = bucket.mount("");
    let long = "z".repeat(store.capabilities().path_bytes_max - "d/".len());
    bucket.put_object(&format!("d/{long}"), Bytes::from_static(b"x"));
    let error = store.rename(&path("d"), &path("longer"), &Condition::MustNotExist).await.unwrap_err();
    assert!(matches!(error, Error::Unnameable { .. }), "{error}");
    assert!(bucket.all_keys().iter().all(|key| key.starts_with("d/")), "something was copied");
    assert_eq!(bucket.all_keys().len(), COUNT + 1);
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

/// A directory whose target could not be looked at was said to be there already, and whoever moved it to choose another
/// name.
#[tokio::test]
async fn a_target_that_nobody_could_look_at_is_not_said_to_be_there() {
    let bucket = Bucket::with_faults(|request, key| match (request, key) {
        (Request::Head, "e") => RequestFault::Unreachable,
        _ => RequestFault::None,
    });
    bucket.put_object("d/f", Bytes::from_static(b"x"));
    let moved = bucket.mount("").rename(&path("d"), &path("e"), &Condition::MustNotExist).await;
    assert!(matches!(moved, Err(Error::Unreachable { .. })), "{moved:?}");
    assert_eq!(bucket.all_keys(), ["d/f"]);
}

/// What a directory holds is copied eight at a time, and then deleted so. The clock is the runtime's own, which goes on when
/// nobody has anything left to do: what begins at one moment is under way at once.
#[tokio::test(start_paused = true)]
async fn a_directory_is_moved_eight_objects_at_a_time() {
    const AT_ONCE: usize = 8;
    for slow in [Request::Copy, Request::Delete] {
        let begun: Arc<Mutex<BTreeMap<tokio::time::Instant, usize>>> = Arc::default();
        let tell = Arc::clone(&begun);
        let bucket = Bucket::with_faults(move |request, _| {
            if request != slow {
                return RequestFault::None;
            }
            *tell.lock().unwrap().entry(tokio::time::Instant::now()).or_default() += 1;
            RequestFault::Slow
        });
        for number in 0..3 * AT_ONCE {
            bucket.put_object(&format!("d/{number}"), vec![number as u8; 10]);
        }
        bucket.mount("").rename(&path("d"), &path("e"), &Condition::MustNotExist).await.unwrap();
        let together: Vec<usize> = begun.lock().unwrap().values().copied().collect();
        assert_eq!(together, [AT_ONCE; 3], "{slow:?}");
        assert_eq!(bucket.all_keys().len(), 3 * AT_ONCE);
        assert!(bucket.all_keys().iter().all(|key| key.starts_with("e/")));
    }
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
/// Programs that work on one bucket at once, each by a mount of its own, as masters and workers do.
const PARTIES: usize = 4;
/// What each does in one storm.
const STEPS: u64 = 30;
/// Tries of a read: the first, and as many as `retries_max` allows.
const READ_TRIES_MAX: usize = 6;
/// The traffic's budget (`traffic/retry.rs`): what it holds, and what each request and second adds.
const RETRIES_HELD: f64 = 100.0;
const RETRIES_PER_REQUEST: f64 = 0.2;
const RETRIES_PER_SECOND: f64 = 1.0;

type Kinds = BTreeMap<RequestFault, u64>;

/// How the user is told of a fault; none where nobody needs to be.
fn words_of(fault: RequestFault) -> Option<&'static str> {
    Some(match fault {
        RequestFault::None | RequestFault::Slow => return None,
        RequestFault::Fail => "the under-store failed: HTTP 500",
        RequestFault::Throttled => "memory is asked too much (503 SlowDown",
        RequestFault::Expired => "memory refused the keys (the token has expired",
        RequestFault::AnswerLost => "the under-store failed: the connection was reset",
        RequestFault::TimedOut => "the under-store took longer than",
        RequestFault::Unreachable => "memory does not answer (nobody listens",
        RequestFault::OtherVersion | RequestFault::ConditionIgnored => "changed in the under-store since it was opened",
        // What was deleted cannot be copied, nor its directory be empty.
        RequestFault::StaleKeys => "the directory is not empty",
        RequestFault::Truncated | RequestFault::WrongRange => "bytes where",
        RequestFault::CutOff | RequestFault::Overlong => "memory does not answer (the connection was reset",
        RequestFault::Damaged => "does not match the digest (CRC64/NVME)",
    })
}

/// What has been, or may have been, at a name since the storm began; nothing at first. Only the party whose name it is adds
/// to it, before it does something and once it knows what came of it; so whoever looks finds one of those that were added
/// since the last that is certain.
#[derive(Default)]
struct History {
    states: Vec<Option<Bytes>>,
    /// The place of the last one of which it is known that nothing else is there.
    certain: usize,
}

#[derive(Default)]
struct Histories(Mutex<BTreeMap<String, History>>);

impl Histories {
    fn add(&self, name: &str, state: Option<Bytes>, is_certain: bool) {
        let mut histories = self.0.lock().unwrap();
        let history = histories.entry(name.to_owned()).or_insert_with(|| History { states: vec![None], certain: 0 });
        history.states.push(state);
        if is_certain {
            history.certain = history.states.len() - 1;
        }
    }

    fn certain(&self, name: &str) -> usize {
        self.0.lock().unwrap().get(name).map_or(0, |history| history.certain)
    }

    /// Whether something that may have been there since satisfies.
    fn had(&self, name: &str, since: usize, is_it: impl Fn(Option<&Bytes>) -> bool) -> bool {
        match self.0.lock().unwrap().get(name) {
            Some(history) => history.states[since..].iter().any(|state| is_it(state.as_ref())),
            None => is_it(None),
        }
    }

    /// Whether it may have changed since.
    fn moved(&self, name: &str, since: usize) -> bool {
        self.0.lock().unwrap().get(name).is_some_and(|history| history.states.len() > since + 1)
    }
}

/// What the faults of all storms came to.
#[derive(Default)]
struct Tally {
    /// Requests that met one.
    met: Mutex<Kinds>,
    /// Errors that told of one.
    told: Mutex<Kinds>,
}

/// One program at work: it alone changes the names below a directory of its own, and it reads everybody's.
struct Party {
    bucket: Bucket,
    store: Arc<dyn UnderStore>,
    number: usize,
    truth: BTreeMap<String, Bytes>,
    histories: Arc<Histories>,
    tally: Arc<Tally>,
    /// What the requests of the step under way met, in order.
    met: Arc<Mutex<Vec<(Request, RequestFault)>>>,
    dice: Dice,
    next_id: u128,
}

/// What gets meet in a gale: always the same, and nearly every one, so that also their last tries fail.
const GALES: [RequestFault; 6] = [
    RequestFault::CutOff,
    RequestFault::Overlong,
    RequestFault::Damaged,
    RequestFault::Truncated,
    RequestFault::WrongRange,
    RequestFault::ConditionIgnored,
];

/// What a request meets, by the dice.
fn fault_of(request: Request, gale: Option<RequestFault>, dice: &mut Dice) -> RequestFault {
    match (request, gale) {
        (Request::Get, Some(fault)) if dice.roll(10) > 0 => return fault,
        _ if dice.roll(100) >= 25 => return RequestFault::None,
        _ => {}
    }
    match (request, dice.roll(14)) {
        (Request::Get, 0) => RequestFault::Truncated,
        (Request::Get, 1) => RequestFault::CutOff,
        (Request::Get, 2) => RequestFault::WrongRange,
        (Request::Get, 3) => RequestFault::ConditionIgnored,
        (Request::Get | Request::Head, 4 | 5) => RequestFault::OtherVersion,
        (Request::Get, 6) => RequestFault::Overlong,
        (Request::Get, 8..) => RequestFault::Damaged,
        (Request::Keys, 0..6) => RequestFault::StaleKeys,
        (_, 0..3) => RequestFault::AnswerLost,
        (_, 3..6) => RequestFault::TimedOut,
        (_, 6 | 7) => RequestFault::Unreachable,
        (_, 8 | 9) => RequestFault::Throttled,
        (_, 10) => RequestFault::Expired,
        (_, 11) => RequestFault::Slow,
        _ => RequestFault::Fail,
    }
}

impl Party {
    fn new(seed: u64, number: usize, bucket: &Bucket, storm: &Storm) -> Self {
        let gale = GALES.get(seed as usize % (2 * GALES.len())).copied();
        let seed = seed * PARTIES as u64 + number as u64;
        let (rages, tally) = (Arc::clone(&storm.rages), Arc::clone(&storm.tally));
        let met: Arc<Mutex<Vec<_>>> = Arc::default();
        let (meeting, dice) = (Arc::clone(&met), Mutex::new(Dice(seed ^ 0xfa17)));
        let bucket = bucket.beside(move |request, _| {
            let fault = match rages.load(Relaxed) {
                true => fault_of(request, gale, &mut dice.lock().unwrap()),
                false => RequestFault::None,
            };
            meeting.lock().unwrap().push((request, fault));
            if fault != RequestFault::None {
                *tally.met.lock().unwrap().entry(fault).or_insert(0) += 1;
            }
            fault
        });
        Self {
            store: bucket.mount("p"),
            bucket,
            number,
            truth: BTreeMap::new(),
            histories: Arc::clone(&storm.histories),
            tally: Arc::clone(&storm.tally),
            met,
            dice: Dice(seed),
            next_id: 1,
        }
    }

    /// A name that is this party's.
    fn name(&mut self) -> String {
        format!("t{}/{}", self.number, NAMES[self.dice.roll(NAMES.len() as u64) as usize])
    }

    /// Bytes that no other write has.
    fn content(&mut self) -> Bytes {
        let len = match self.dice.roll(4) {
            0 => 0,
            1 => self.dice.roll(5000),
            2 => (1 << 20) + self.dice.roll(3),
            _ => 2_500_000 + self.dice.roll(1000),
        };
        let seed = self.next_id as u64 * PARTIES as u64 + self.number as u64;
        (0..len).map(|at| (at.wrapping_mul(31).wrapping_add(seed * 7919) >> 3) as u8).collect::<Vec<_>>().into()
    }

    async fn step(&mut self) {
        self.met.lock().unwrap().clear();
        match self.dice.roll(24) {
            0..8 => self.write().await,
            8..13 => self.read_own().await,
            13..18 => self.read_another().await,
            18..20 => self.delete().await,
            20..23 => self.rename().await,
            _ => self.delete_tree().await,
        }
        self.check();
    }

    /// Holds an error against what it must say: what was tried, of what, and the cause, which is a fault that this step met
    /// or what `is_due` says. Of which mount it is, only they know who have several.
    fn failed(&self, doing: &str, name: &str, error: &Error, is_due: bool) {
        let told = error.told(doing, name);
        assert!(told.starts_with(&format!("{doing} {name}: ")), "{told}");
        let met = self.met.lock().unwrap();
        let causes: HashSet<_> =
            met.iter().map(|(_, fault)| *fault).filter(|fault| says(error, &told, *fault)).collect();
        assert!(is_due || !causes.is_empty(), "nothing that was met is its cause: {told}: {met:?}");
        for fault in causes {
            *self.tally.told.lock().unwrap().entry(fault).or_insert(0) += 1;
        }
    }

    /// A write, published or settled as a master would: what it said to whom decides what must be there.
    async fn write(&mut self) {
        let (name, content) = (self.name(), self.content());
        let mut file_id = self.next_id.to_be_bytes();
        file_id[0] = self.number as u8;
        self.next_id += 1;
        let mut staged = match self.store.stage(&path(&name), FileId(file_id), None).await {
            Ok(staged) => staged,
            Err(error) => return self.failed("writing", &name, &error, false),
        };
        let written = async {
            for piece in content.chunks(700_001) {
                staged.write(content.slice_ref(piece)).await?;
            }
            staged.seal().await
        };
        let record = match written.await {
            Ok(record) => record,
            Err(error) => {
                self.failed("writing", &name, &error, false);
                // What the log knows of it is enough to end it.
                let begun = staged.begun();
                drop(staged);
                assert_eq!(self.settled(&begun).await, Settled::Absent, "it was never published");
                return;
            }
        };
        let is_there = self.truth.contains_key(&name);
        let condition = match is_there {
            true if self.dice.roll(4) == 0 => Condition::MustNotExist,
            false if self.dice.roll(2) == 0 => Condition::MustNotExist,
            _ => Condition::Any,
        };
        self.histories.add(&name, Some(content.clone()), false);
        let is_published = match staged.publish(&condition).await {
            Ok(_) => true,
            Err(error) => {
                let is_refused = is_there && condition == Condition::MustNotExist && error.refuses_publication();
                // What was done by a request whose answer was lost is in the way of the next.
                let lost = [RequestFault::AnswerLost, RequestFault::TimedOut];
                let was_lost = self.met.lock().unwrap().iter().any(|(_, fault)| lost.contains(fault));
                let is_in_the_way = was_lost && (error.refuses_publication() || is_lost(&error));
                self.failed("publishing", &name, &error, is_refused || is_in_the_way);
                matches!(self.settled(&record).await, Settled::Published(_))
            }
        };
        if is_published {
            assert!(condition == Condition::Any || !is_there, "{name} was replaced");
            self.truth.insert(name.clone(), content);
        }
        self.knows(&name);
    }

    /// What the truth says of a name is certain.
    fn knows(&self, name: &str) {
        self.histories.add(name, self.truth.get(name).cloned(), true);
    }

    async fn settled(&self, record: &citius_understore::StagedRecord) -> Settled {
        loop {
            match self.store.settle(record).await {
                Ok(settled) => return settled,
                Err(error) => self.failed("settling", record.path.as_str(), &error, false),
            }
        }
    }

    /// A read of a file that nobody else changes, except that another program may replace it in between.
    async fn read_own(&mut self) {
        // Now and then one that is not there.
        let (name, there) = (self.name(), self.dice.roll(8) as usize);
        let name = self.truth.keys().nth(there).cloned().unwrap_or(name);
        let stat = match self.store.stat(&path(&name)).await {
            Ok(stat) => stat,
            Err(error) => {
                let is_due = error.is_not_found() && !self.truth.contains_key(&name);
                return self.failed("looking at", &name, &error, is_due);
            }
        };
        let truth = self.truth.get(&name).unwrap_or_else(|| panic!("{name} is there, and was never written"));
        assert_eq!(stat.len, truth.len() as u64, "{name}");
        let is_replaced = self.dice.roll(3) == 0;
        if is_replaced {
            // By another program, which knows nothing of versions.
            let other: Bytes = self.truth[&name].iter().map(|byte| !byte).collect::<Vec<_>>().into();
            self.histories.add(&name, Some(other.clone()), false);
            self.bucket.put_object(&format!("p/{name}"), other.clone());
            self.truth.insert(name.clone(), other);
            self.knows(&name);
        }
        match self.read(&name, &stat).await {
            Ok((range, landed, is_told)) => {
                assert!(!is_replaced, "{name}: another version than was asked for");
                let is_right = landed == self.truth[&name][range];
                assert!(is_right || !is_told, "{name}: other bytes than were written");
            }
            Err(error) => {
                let is_due = is_replaced && matches!(error, Error::VersionChanged { .. });
                self.failed("reading", &name, &error, is_due);
            }
        }
    }

    /// A read of what another party may be changing: it gives an error, or bytes of one version that may have been there.
    async fn read_another(&mut self) {
        let mut name = String::new();
        for _ in 0..NAMES.len() {
            let number = self.dice.roll(PARTIES as u64);
            name = format!("t{number}/{}", NAMES[self.dice.roll(NAMES.len() as u64) as usize]);
            if self.histories.had(&name, self.histories.certain(&name), |state| state.is_some()) {
                break;
            }
        }
        let since = self.histories.certain(&name);
        let looked = self.store.stat(&path(&name)).await;
        let read = match &looked {
            Ok(stat) => self.read(&name, stat).await.map(|read| (stat.len, read)),
            Err(Error::NotFound { .. }) if self.histories.had(&name, since, |state| state.is_none()) => return,
            Err(error) => return self.failed("looking at", &name, error, false),
        };
        match read {
            Ok((len, (range, landed, is_told))) => {
                let is_one = self.histories.had(&name, since, |state| {
                    state.is_some_and(|state| {
                        let is_right = || state[range.clone()] == landed;
                        state.len() as u64 == len && (!is_told || is_right())
                    })
                });
                assert!(is_one, "{name}: bytes of no version that was there");
            }
            Err(error) => {
                let is_due = matches!(error, Error::VersionChanged { .. } | Error::NotFound { .. });
                self.failed("reading", &name, &error, is_due && self.histories.moved(&name, since));
            }
        }
    }

    /// The bytes of a version, whole or in part, and whether the store told digests of all that it sent damaged.
    async fn read(&mut self, name: &str, stat: &Stat) -> Result<(Range<usize>, Vec<u8>, bool), Error> {
        let is_whole = self.dice.roll(2) == 0;
        let start = if is_whole { 0 } else { self.dice.roll(stat.len + 1) };
        let end = if is_whole { stat.len } else { start + self.dice.roll(stat.len - start + 1) };
        let (_, untold) = self.bucket.damaged();
        let gets = || self.met.lock().unwrap().iter().filter(|(request, _)| *request == Request::Get).count();
        let asked = gets();
        let mut landed = Vec::new();
        let mut landing = landing_at(start, &mut landed);
        let read = match is_whole {
            true => self.store.read_whole(&path(name), &stat.token, end, &mut landing).await,
            false => self.store.read(&path(name), &stat.token, start..end, &mut landing).await,
        };
        drop(landing);
        assert!(gets() - asked <= READ_TRIES_MAX, "{name} was asked for {} times", gets() - asked);
        read.map(|()| (start as usize..end as usize, landed, self.bucket.damaged().1 == untold))
    }

    async fn delete(&mut self) {
        let name = self.name();
        self.histories.add(&name, None, false);
        loop {
            match self.store.delete_file(&path(&name)).await {
                Ok(()) | Err(Error::NotFound { .. }) => break,
                Err(error) => self.failed("deleting", &name, &error, false),
            }
        }
        self.truth.remove(&name);
        self.knows(&name);
    }

    /// A rename is called again until it is done, as an intent of the log is.
    async fn rename(&mut self) {
        let (from, to) = (self.name(), self.name());
        let Some(moved) = self.truth.get(&from).cloned().filter(|_| from != to) else { return };
        self.histories.add(&to, Some(moved.clone()), false);
        self.histories.add(&from, None, false);
        loop {
            match self.store.rename(&path(&from), &path(&to), &Condition::Any).await {
                Ok(_) | Err(Error::NotFound { .. }) => break,
                Err(error) => self.failed("renaming", &from, &error, false),
            }
        }
        self.truth.remove(&from);
        self.truth.insert(to.clone(), moved);
        self.knows(&to);
        self.knows(&from);
    }

    async fn delete_tree(&mut self) {
        let tree = format!("t{}/d", self.number);
        let below: Vec<_> = self.truth.keys().filter(|name| name.starts_with(&format!("{tree}/"))).cloned().collect();
        for name in &below {
            self.histories.add(name, None, false);
        }
        loop {
            match self.store.delete_dir(&path(&tree), Depth::Recursive).await {
                Ok(()) | Err(Error::NotFound { .. }) => break,
                Err(error) => self.failed("deleting", &tree, &error, false),
            }
        }
        for name in &below {
            self.truth.remove(name);
            self.knows(name);
        }
    }

    /// The bucket holds what was acknowledged to this party, whole, and nothing else below its directory.
    fn check(&self) {
        let mine = format!("p/t{}/", self.number);
        let is_file_of_mine = |key: &String| key.starts_with(&mine) && !key.ends_with('/');
        let files: HashSet<_> = self.bucket.all_keys().into_iter().filter(is_file_of_mine).collect();
        let expected: HashSet<_> = self.truth.keys().map(|name| format!("p/{name}")).collect();
        assert_eq!(files, expected);
        for (name, content) in &self.truth {
            assert!(self.bucket.object(&format!("p/{name}")).unwrap() == *content, "{name} is not what was written");
        }
    }
}

fn is_lost(error: &Error) -> bool {
    matches!(error, Error::StagedLost { .. })
}

/// Whether an error is what a fault is told as.
fn says(error: &Error, told: &str, fault: RequestFault) -> bool {
    match fault {
        // What a stale list still has is gone when it is asked for.
        RequestFault::StaleKeys if error.is_not_found() => true,
        _ => words_of(fault).is_some_and(|words| told.contains(words)),
    }
}

/// Several programs on one bucket, and what happens to their requests.
struct Storm {
    rages: Arc<AtomicBool>,
    histories: Arc<Histories>,
    tally: Arc<Tally>,
}

impl Storm {
    fn new(tally: &Arc<Tally>) -> Self {
        let rages = Arc::new(AtomicBool::new(true));
        Self { rages, histories: Arc::default(), tally: Arc::clone(tally) }
    }

    /// Lets it rage and cease. Gives the retries there were, and the bodies that were damaged, told and untold.
    async fn pass(&self, seed: u64, habits: Habits) -> (u64, (u64, u64)) {
        let bucket = Bucket::default().with_habits(habits);
        let begun = tokio::time::Instant::now();
        let parties = (0..PARTIES).map(|number| Party::new(seed, number, &bucket, self));
        let parties = futures::future::join_all(parties.map(async |mut party| {
            for _ in 0..STEPS {
                party.step().await;
            }
            party
        }));
        let parties = parties.await;
        self.rages.store(false, Relaxed);
        // What a crash of the publisher left is found, though its begin was never told.
        parties[0].store.sweep(&|_| true).await.unwrap();
        if habits == Habits::Amazon {
            assert_eq!(bucket.uploads_under_way(), 0);
        }
        let seconds = begun.elapsed().as_secs_f64();
        let (mut retries, mut damaged) = (0, (0, 0));
        for party in &parties {
            party.check();
            let totals = party.store.traffic().totals();
            let most = RETRIES_HELD + RETRIES_PER_REQUEST * totals.requests as f64 + RETRIES_PER_SECOND * seconds;
            assert!(totals.retries as f64 <= most, "{} retries of {} requests", totals.retries, totals.requests);
            retries += totals.retries;
            let (told, untold) = party.bucket.damaged();
            damaged = (damaged.0 + told, damaged.1 + untold);
        }
        (retries, damaged)
    }
}

/// Ten thousand faults in writes, reads, renames and deletions of several programs at once: no half file, no mixture,
/// nothing acknowledged is lost, no upload is left, retries are bounded, and every failure says what was tried, of what, and
/// which of the faults it comes from. Time is tokio's own: what is waited for is over at once.
#[tokio::test(start_paused = true)]
async fn ten_thousand_faults_leave_what_was_acknowledged() {
    const FAULTS: u64 = 10_000;
    /// Kinds of faults, without the lack of one.
    const KINDS: usize = 15;
    let tally = Arc::new(Tally::default());
    let (mut seed, mut retries, mut damaged) = (0, 0, (0, 0));
    while tally.met.lock().unwrap().values().sum::<u64>() < FAULTS {
        seed += 1;
        let habits = if seed % 2 == 0 { Habits::Azure } else { Habits::Amazon };
        let passed = Storm::new(&tally).pass(seed, habits).await;
        retries += passed.0;
        damaged = (damaged.0 + passed.1.0, damaged.1 + passed.1.1);
    }
    let (met, told) = (tally.met.lock().unwrap(), tally.told.lock().unwrap());
    println!("{} faults in {seed} storms, {retries} retries: {met:?}", met.values().sum::<u64>());
    println!("told as {} errors: {told:?}", told.values().sum::<u64>());
    println!("of the damaged bodies {} were told with their digests, and seen; {} were not", damaged.0, damaged.1);
    assert!(damaged.0 > 10 && damaged.1 > 10 && retries > 100, "{damaged:?} {retries}");
    assert_eq!(met.len(), KINDS, "{met:?}");
    // What is only late is no error, and what is listed though it is gone seldom is one.
    let silent = [RequestFault::Slow, RequestFault::StaleKeys];
    let untold: Vec<_> = met.keys().filter(|fault| !told.contains_key(fault) && !silent.contains(fault)).collect();
    assert!(untold.is_empty(), "nobody was told of {untold:?}");
}
