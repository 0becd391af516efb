//! A file system in memory that loses calls and answers, to which its own clock tells only seconds.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;

use super::{Chunks, Listing, Node, Protocol, Rules, Sink, Span, Tree, What};
use crate::{
    BreakerState, Compares, Condition, Depth, Error, FileId, Result, Settled, Staged, StagedRecord, StorePath,
    TrafficSettings, UnderStore, path::STAGING,
};

const SECOND_NS: i64 = 1_000_000_000;
const DIR: &str = "d";

/// What is at each path, and the content of files.
type Disk = BTreeMap<String, (Node, Vec<u8>)>;

/// What two connections to the same system share.
#[derive(Clone)]
struct Fake {
    disk: Arc<Mutex<Disk>>,
    clock_s: Arc<AtomicI64>,
    calls: Arc<AtomicU64>,
    /// Which call fails, and whether it has had its effect by then.
    fault: Arc<Mutex<Option<(u64, bool)>>>,
    /// Whether every call is lost.
    is_away: Arc<AtomicBool>,
    /// So many renames are told that there is nothing, though there is.
    renames_missed: Arc<AtomicU64>,
    /// Reads so far, and which of them has no answer; none is number 0.
    reads: Arc<AtomicU64>,
    silent_read: Arc<AtomicU64>,
    sets_times: bool,
}

impl Fake {
    fn new(sets_times: bool) -> Self {
        let disk =
            BTreeMap::from([(String::new(), (Node::dir(0), Vec::new())), (DIR.to_owned(), (Node::dir(0), Vec::new()))]);
        let (clock_s, calls) = (Arc::new(AtomicI64::new(1000)), Arc::default());
        Self {
            disk: Arc::new(Mutex::new(disk)),
            clock_s,
            calls,
            fault: Arc::default(),
            is_away: Arc::default(),
            renames_missed: Arc::default(),
            reads: Arc::default(),
            silent_read: Arc::default(),
            sets_times,
        }
    }

    fn tree(&self) -> Tree {
        self.tree_with(TrafficSettings::default())
    }

    fn tree_with(&self, settings: TrafficSettings) -> Tree {
        Tree::new("fake://".to_owned(), settings, Box::new(self.clone()))
    }

    /// Does what a call does, or loses it, or its answer.
    fn call<T>(&self, work: impl FnOnce(&mut Disk) -> Result<T>) -> Result<T> {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let lost =
            || Err(Error::Unreachable { endpoint: "fake".into(), reason: "the call was lost".into(), advice: "" });
        if self.is_away.load(Ordering::Relaxed) {
            return lost();
        }
        let fault = self.fault.lock().filter(|(at, _)| *at == number);
        if fault.is_some_and(|(_, has_effect)| !has_effect) {
            return lost();
        }
        let done = work(&mut self.disk.lock());
        if fault.is_some() { lost() } else { done }
    }

    fn now_ns(&self) -> i64 {
        self.clock_s.load(Ordering::Relaxed) * SECOND_NS
    }

    fn content(&self, path: &str) -> Option<Vec<u8>> {
        self.disk.lock().get(path).map(|(_, content)| content.clone())
    }

    fn temporaries(&self) -> usize {
        self.disk.lock().keys().filter(|path| path.starts_with(&format!("{STAGING}/"))).count()
    }
}

fn missing<T>(path: &str) -> Result<T> {
    Err(Error::NotFound { path: path.to_owned() })
}

fn parent_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

#[async_trait]
impl Protocol for Fake {
    fn endpoint(&self) -> &str {
        "fake"
    }

    fn rules(&self) -> Rules {
        Rules {
            writes: true,
            lists: true,
            create_only: Compares::Atomically,
            mtime_step_ns: self.sets_times.then_some(SECOND_NS),
            keeps_tags: true,
            refuses_full: true,
            refused_characters: "",
        }
    }

    async fn stat(&self, path: &str) -> Result<Node> {
        self.call(|disk| disk.get(path).map(|(node, _)| node.clone()).ok_or(Error::NotFound { path: path.to_owned() }))
    }

    fn list(&self, dir: &str) -> Listing {
        let prefix = format!("{dir}/");
        let listed = self.call(|disk| match disk.get(dir) {
            Some((node, _)) if node.what == What::Dir => Ok(disk
                .iter()
                .rev()
                .filter_map(|(path, (node, _))| {
                    let name = if dir.is_empty() { path.as_str() } else { path.strip_prefix(&prefix)? };
                    (!name.is_empty() && !name.contains('/')).then(|| Ok((Ok(name.to_owned()), node.clone())))
                })
                .collect()),
            Some(_) => Err(Error::NotADirectory { path: dir.to_owned() }),
            None => missing(dir),
        });
        stream::iter(listed.unwrap_or_else(|error| vec![Err(error)])).boxed()
    }

    async fn read(&self, path: &str, span: Span<'_>) -> Result<Chunks> {
        if self.reads.fetch_add(1, Ordering::Relaxed) + 1 == self.silent_read.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        let content = self.call(|disk| disk.get(path).map(|(_, content)| content.clone()).map_or(missing(path), Ok))?;
        let end = content.len().min((span.offset + span.len) as usize);
        let part = content.get(span.offset as usize..end).unwrap_or_default().to_vec();
        Ok(stream::iter([Ok(part.into())]).boxed())
    }

    async fn create(&self, path: &str, _shown: &str) -> Result<Box<dyn Sink>> {
        let node = Node { what: What::File, len: 0, mtime_ns: self.now_ns(), tag: String::new(), mode: None };
        self.call(|disk| match disk.get(path) {
            Some(_) => Err(Error::AlreadyExists { path: path.to_owned() }),
            None if !disk.contains_key(parent_of(path)) => missing(path),
            None => {
                disk.insert(path.to_owned(), (node, Vec::new()));
                Ok(())
            }
        })?;
        Ok(Box::new(FakeSink { fake: self.clone(), path: path.to_owned(), content: Vec::new() }))
    }

    async fn mkdir(&self, path: &str, _is_private: bool) -> Result<()> {
        self.call(|disk| match disk.insert(path.to_owned(), (Node::dir(0), Vec::new())) {
            Some(_) => Err(Error::AlreadyExists { path: path.to_owned() }),
            None => Ok(()),
        })
    }

    async fn rename(&self, from: &str, to: &str, replace: bool) -> Result<()> {
        self.call(|disk| {
            let miss = |left: u64| left.checked_sub(1);
            let is_missed = self.renames_missed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, miss).is_ok();
            if is_missed || !disk.contains_key(parent_of(to)) {
                return missing(to);
            }
            if !replace && disk.contains_key(to) {
                return Err(Error::AlreadyExists { path: to.to_owned() });
            }
            let file = disk.remove(from).map_or(missing(from), Ok)?;
            disk.insert(to.to_owned(), file);
            Ok(())
        })
    }

    async fn delete_file(&self, path: &str) -> Result<()> {
        self.call(|disk| disk.remove(path).map(drop).map_or(missing(path), Ok))
    }

    async fn delete_dir(&self, path: &str) -> Result<()> {
        self.call(|disk| {
            if disk.keys().any(|other| other.starts_with(&format!("{path}/"))) {
                return Err(Error::NotEmpty { path: path.to_owned() });
            }
            disk.remove(path).map(drop).map_or(missing(path), Ok)
        })
    }

    async fn set_mtime(&self, path: &str, mtime_ns: i64) -> Result<()> {
        self.call(|disk| {
            let (node, _) = disk.get_mut(path).map_or(missing(path), Ok)?;
            node.mtime_ns = mtime_ns.div_euclid(SECOND_NS) * SECOND_NS;
            Ok(())
        })
    }
}

struct FakeSink {
    fake: Fake,
    path: String,
    content: Vec<u8>,
}

#[async_trait]
impl Sink for FakeSink {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.content.extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        let (now_ns, content) = (self.fake.now_ns(), std::mem::take(&mut self.content));
        self.fake.call(|disk| {
            let (node, held) = disk.get_mut(&self.path).map_or(missing(&self.path), Ok)?;
            (node.len, node.mtime_ns, *held) = (content.len() as u64, now_ns, content);
            Ok(())
        })
    }
}

fn path(text: &str) -> StorePath {
    StorePath::parse(text).unwrap()
}

fn id(number: u8) -> FileId {
    FileId([number; 16])
}

/// Stages and seals, giving the last record that a control plane would have.
async fn sealed(
    tree: &Tree,
    at: &str,
    number: u8,
    content: &'static [u8],
) -> (Result<()>, StagedRecord, Option<Box<dyn Staged>>) {
    let mut staged = match tree.stage(&path(at), id(number), None).await {
        Ok(staged) => staged,
        Err(error) => return (Err(error), StagedRecord::named(path(at), id(number)), None),
    };
    let written = async {
        staged.write(Bytes::from_static(content)).await?;
        staged.seal().await.map(drop)
    };
    let written = written.await;
    (written, staged.begun(), Some(staged))
}

async fn write(tree: &Tree, at: &str, number: u8, content: &'static [u8]) -> Result<crate::VersionToken> {
    let (written, record, _) = sealed(tree, at, number, content).await;
    written?;
    tree.publish(&record, &Condition::Any).await
}

async fn read(tree: &Tree, at: &str) -> Result<Vec<u8>> {
    let stat = tree.stat(&path(at)).await?;
    let mut out = Vec::new();
    tree.read(&path(at), &stat.token, 0..stat.len, &mut |_: u64, bytes: &[u8]| out.extend_from_slice(bytes)).await?;
    Ok(out)
}

/// Every call of a write is lost once, before and after its effect; whoever then settles says what is so.
#[tokio::test(start_paused = true)]
async fn a_write_that_stops_anywhere_is_settled_truly() {
    for (replaced, has_effect) in [(false, false), (false, true), (true, false), (true, true)] {
        for at in 0.. {
            let fake = Fake::new(true);
            if replaced {
                write(&fake.tree(), "d/f", 1, b"old").await.unwrap();
            }
            fake.calls.store(0, Ordering::Relaxed);
            *fake.fault.lock() = Some((at, has_effect));
            let tree = fake.tree();
            let (stopped, record, staged) = sealed(&tree, "d/f", 2, b"new").await;
            let published = match stopped {
                Ok(()) => tree.publish(&record, &Condition::Any).await,
                Err(error) => Err(error),
            };
            drop(staged);
            let was_reached = fake.calls.load(Ordering::Relaxed) > at;
            *fake.fault.lock() = None;
            // Another process settles twice.
            let other = fake.tree();
            for _ in 0..2 {
                let is_there = fake.content("d/f").as_deref() == Some(b"new".as_slice());
                let settled = other.settle(&record).await.unwrap();
                assert_eq!(matches!(settled, Settled::Published(_)), is_there, "call {at}: {settled:?}");
                if let (Settled::Published(token), Ok(published)) = (&settled, &published) {
                    assert_eq!(token, published, "call {at}");
                }
            }
            assert!(published.is_err() || fake.content("d/f").as_deref() == Some(b"new".as_slice()));
            let before = replaced.then(|| b"old".to_vec());
            assert!(fake.content("d/f") == Some(b"new".to_vec()) || fake.content("d/f") == before, "call {at}");
            assert_eq!(fake.temporaries(), 0, "call {at} left a temporary");
            if !was_reached {
                assert!(at >= 8, "a write makes more calls than {at}");
                break;
            }
        }
    }
}

/// What flows in ten seconds, on stopped time: what was saved up at first is a quarter of a second's.
#[tokio::test(start_paused = true)]
async fn bytes_flow_no_faster_than_the_mount_may() {
    const MIB: u64 = 1 << 20;
    const PIECE: &[u8] = &[7; MIB as usize];
    let seconds = |start: tokio::time::Instant| start.elapsed().as_secs_f64();
    let fake = Fake::new(true);
    let capped = TrafficSettings { write_bytes_per_second: Some(MIB), ..TrafficSettings::default() };
    let (tree, start) = (fake.tree_with(capped), tokio::time::Instant::now());
    let mut staged = tree.stage(&path("d/f"), id(1), None).await.unwrap();
    for _ in 0..10 {
        staged.write(Bytes::from_static(PIECE)).await.unwrap();
    }
    staged.publish(&Condition::Any).await.unwrap();
    let written = seconds(start);

    let start = tokio::time::Instant::now();
    assert_eq!(read(&tree, "d/f").await.unwrap().len(), 10 * PIECE.len());
    assert_eq!(seconds(start), 0.0, "reads have a cap of their own");
    let capped = TrafficSettings { read_bytes_per_second: Some(MIB), ..TrafficSettings::default() };
    assert_eq!(read(&fake.tree_with(capped), "d/f").await.unwrap().len(), 10 * PIECE.len());
    let both = [written, seconds(start)];
    assert!(both.iter().all(|seconds| (9.7..9.8).contains(seconds)), "{both:?} s of writing and reading");
}

/// The first reads teach what is usual; then one has no answer, and another is asked beside it, where that is wanted.
#[tokio::test(start_paused = true)]
async fn a_read_without_an_answer_is_won_by_a_second_one() {
    /// Reads before the first second request (`traffic/hedge.rs`).
    const SAMPLES: u64 = 100;
    for hedge in [true, false] {
        let fake = Fake::new(true);
        write(&fake.tree(), "d/f", 1, b"content").await.unwrap();
        let tree = fake.tree_with(TrafficSettings { hedge, ..TrafficSettings::default() });
        for _ in 0..SAMPLES {
            read(&tree, "d/f").await.unwrap();
        }
        fake.silent_read.store(SAMPLES + 1, Ordering::Relaxed);
        assert_eq!(read(&tree, "d/f").await.unwrap(), b"content");
        let totals = tree.traffic().totals();
        // Without it the time limit of the request ends the wait.
        let wanted = if hedge { (1, 0) } else { (0, 1) };
        assert_eq!((totals.hedges, totals.retries), wanted, "{totals:?}");
        assert_eq!((fake.reads.load(Ordering::Relaxed), totals.in_flight), (SAMPLES + 2, 0));
    }
}

/// Apache says 404 to a MOVE whose target another one replaces at the same moment.
#[tokio::test]
async fn a_rename_that_misses_what_is_there_is_tried_again_and_not_for_ever() {
    let fake = Fake::new(true);
    let tree = fake.tree();
    fake.renames_missed.store(2, Ordering::Relaxed);
    write(&tree, "d/f", 1, b"first").await.unwrap();
    assert_eq!(read(&tree, "d/f").await.unwrap(), b"first");
    fake.renames_missed.store(1000, Ordering::Relaxed);
    let refused = write(&tree, "d/f", 2, b"second").await;
    assert!(matches!(refused, Err(Error::NotFound { .. })), "{refused:?}");
    assert!(fake.renames_missed.load(Ordering::Relaxed) > 980);
    fake.renames_missed.store(0, Ordering::Relaxed);
    // A directory that is gone is believed to be.
    let (_, record, _) = sealed(&tree, "d/f", 3, b"third").await;
    fake.disk.lock().retain(|path, _| path.is_empty() || path.starts_with(STAGING));
    let calls = fake.calls.load(Ordering::Relaxed);
    assert!(matches!(tree.publish(&record, &Condition::Any).await, Err(Error::NotFound { .. })));
    assert!(fake.calls.load(Ordering::Relaxed) - calls <= 8);
}

/// Within one second of the clock and of one length, nothing else tells files apart.
#[tokio::test]
async fn files_of_one_second_are_told_apart() {
    let fake = Fake::new(true);
    let tree = fake.tree();
    let mut tokens = std::collections::BTreeSet::new();
    for number in 0..5 {
        assert!(tokens.insert(write(&tree, "d/f", number, b"12345").await.unwrap()), "a version came twice");
    }
    // Also by a rename, of a file that was there before what it replaces.
    write(&tree, "d/g", 5, b"54321").await.unwrap();
    let stat = tree.rename(&path("d/g"), &path("d/f"), &Condition::Any).await.unwrap();
    assert!(tokens.insert(stat.token), "a version came twice");
    assert_eq!(read(&tree, "d/f").await.unwrap(), b"54321");
    // And the second of two that were sealed at once is refused, for it would be taken for the first.
    let (_, first, _) = sealed(&tree, "d/f", 6, b"first").await;
    let (_, second, _) = sealed(&tree, "d/f", 7, b"secnd").await;
    tree.publish(&first, &Condition::Any).await.unwrap();
    assert!(matches!(tree.publish(&second, &Condition::Any).await, Err(Error::Conflict { .. })));
    assert_eq!(read(&tree, "d/f").await.unwrap(), b"first");
}

#[tokio::test]
async fn where_no_time_can_be_set_what_looks_the_same_is_refused() {
    let fake = Fake::new(false);
    let tree = fake.tree();
    write(&tree, "d/f", 1, b"12345").await.unwrap();
    assert!(matches!(write(&tree, "d/f", 2, b"54321").await, Err(Error::Conflict { .. })));
    assert_eq!(read(&tree, "d/f").await.unwrap(), b"12345");
    fake.clock_s.fetch_add(1, Ordering::Relaxed);
    write(&tree, "d/f", 3, b"54321").await.unwrap();
    assert_eq!(read(&tree, "d/f").await.unwrap(), b"54321");
}

/// The system itself reads whatever is there; what is not the version asked for is told all the same.
#[tokio::test]
async fn a_read_of_another_version_is_refused() {
    let fake = Fake::new(true);
    let tree = fake.tree();
    let old = write(&tree, "d/f", 1, b"old").await.unwrap();
    let new = write(&tree, "d/f", 2, b"new").await.unwrap();
    for range in [0..3, 1..2, 2..2] {
        let mut landed = Vec::new();
        let mut landing = |_: u64, bytes: &[u8]| landed.extend_from_slice(bytes);
        let refused = tree.read(&path("d/f"), &old, range.clone(), &mut landing).await;
        assert!(matches!(refused, Err(Error::VersionChanged { .. })), "{range:?}");
        landed.clear();
        let mut landing = |_: u64, bytes: &[u8]| landed.extend_from_slice(bytes);
        tree.read(&path("d/f"), &new, range.clone(), &mut landing).await.unwrap();
        assert_eq!(landed, b"new"[range.start as usize..range.end as usize]);
    }
    tree.delete_file(&path("d/f")).await.unwrap();
    assert!(matches!(
        tree.read(&path("d/f"), &new, 0..3, &mut |_: u64, _: &[u8]| {}).await,
        Err(Error::NotFound { .. })
    ));
}

/// A record says where its temporary is; one that says otherwise must not move or remove a user's file.
#[tokio::test]
async fn a_record_leads_to_no_file_but_a_temporary() {
    let fake = Fake::new(true);
    let tree = fake.tree();
    write(&tree, "d/victim", 1, b"precious").await.unwrap();
    let (_, mut record, _) = sealed(&tree, "d/f", 2, b"new").await;
    let crate::StagedBody::Temp { name, .. } = &mut record.body else { panic!("{record:?}") };
    *name = "d/victim".to_owned();
    assert!(matches!(tree.publish(&record, &Condition::Any).await, Err(Error::BadRecord { .. })));
    assert!(matches!(tree.settle(&record).await, Err(Error::BadRecord { .. })));
    assert_eq!(read(&tree, "d/victim").await.unwrap(), b"precious");
}

#[tokio::test]
async fn our_own_names_are_hidden_and_refused() {
    let fake = Fake::new(true);
    let tree = fake.tree();
    let (_, _, _staged) = sealed(&tree, "d/f", 1, b"new").await;
    assert_eq!(fake.temporaries(), 1);
    let pages: Vec<_> = tree.list(&StorePath::root(), "").try_collect().await.unwrap();
    let names: Vec<_> = pages.iter().flat_map(|page| &page.entries).map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, [DIR]);
    for name in [STAGING.to_owned(), format!("{STAGING}/{}", id(1)), format!("{STAGING}-x")] {
        assert!(matches!(tree.stat(&path(&name)).await, Err(Error::Unnameable { .. })), "{name}");
        assert!(matches!(tree.mkdir(&path(&name)).await, Err(Error::Unnameable { .. })), "{name}");
        let moved = tree.rename(&path(DIR), &path(&name), &Condition::Any).await;
        assert!(matches!(moved, Err(Error::Unnameable { .. })), "{name}");
    }
}

/// A server that is away is asked so often, then left alone, which the mount's totals show, and later asked again.
#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_is_left_alone() {
    let fake = Fake::new(true);
    let tree = fake.tree();
    let settings = TrafficSettings::default();
    fake.is_away.store(true, Ordering::Relaxed);
    let error = tree.stat(&path("d")).await.unwrap_err();
    assert!(matches!(&error, Error::Unreachable { endpoint, .. } if endpoint == "fake"), "{error:?}");
    assert!(fake.calls.load(Ordering::Relaxed) <= u64::from(settings.retries_max) + 1);
    while tree.traffic().totals().breaker != BreakerState::Open {
        assert!(fake.calls.load(Ordering::Relaxed) < 20, "{:?}", tree.traffic().totals());
        let _ = tree.stat(&path("d")).await;
    }
    let (totals, asked) = (tree.traffic().totals(), fake.calls.load(Ordering::Relaxed));
    assert_eq!((totals.breaker_reason.as_str(), totals.requests), ("the call was lost", asked));
    assert!(totals.retries > 0 && totals.failures.iter().sum::<u64>() == asked, "{totals:?}");
    let refused = tree.stat(&path("d")).await.unwrap_err().to_string();
    assert!(
        refused.contains("has not answered for a while") && fake.calls.load(Ordering::Relaxed) == asked,
        "{refused}"
    );
    fake.is_away.store(false, Ordering::Relaxed);
    tokio::time::sleep(std::time::Duration::from_secs(16)).await;
    tree.stat(&path("d")).await.unwrap();
    assert_eq!(tree.traffic().totals().breaker, BreakerState::Closed);
}

/// Who mounted without Kerberos what wants it was told, now and then, that there was no answer, and not what to set: when
/// the tries of a check took its time, or had the server left alone.
#[tokio::test(start_paused = true)]
async fn a_check_tells_what_its_last_try_met() {
    let fake = Fake::new(true);
    fake.is_away.store(true, Ordering::Relaxed);
    for retry_timeout in [std::time::Duration::from_secs(60), std::time::Duration::from_secs(1)] {
        let rules = TrafficSettings { retries_max: 100, retry_timeout, ..TrafficSettings::default() };
        let tree = Tree::new("fake://".to_owned(), rules, Box::new(fake.clone()));
        let error = tree.check().await.unwrap_err();
        assert!(matches!(&error, Error::Unreachable { reason, .. } if reason == "the call was lost"), "{error:?}");
    }
    fake.is_away.store(false, Ordering::Relaxed);
    fake.tree().check().await.unwrap();
}

/// An answer that is lost says nothing of whether its call was carried out: looks are repeated, and so is a publication,
/// whose temporary tells; a rename that users ask for might move what has come there since.
#[tokio::test(start_paused = true)]
async fn what_might_do_harm_is_not_done_twice() {
    let fake = Fake::new(true);
    let tree = fake.tree();
    let retries = || tree.traffic().totals().retries;
    write(&tree, "d/f", 1, b"one").await.unwrap();
    let lose = |after: u64| *fake.fault.lock() = Some((fake.calls.load(Ordering::Relaxed) + after, true));
    lose(0);
    tree.stat(&path("d/f")).await.unwrap();
    assert_eq!(retries(), 1);
    let (_, record, _) = sealed(&tree, "d/g", 2, b"two").await;
    // Behind the looks at the temporary and at the target.
    lose(2);
    tree.publish(&record, &Condition::MustNotExist).await.unwrap();
    assert_eq!((retries(), read(&tree, "d/g").await.unwrap()), (2, b"two".to_vec()));
    lose(2);
    let renamed = tree.rename(&path("d/f"), &path("d/h"), &Condition::MustNotExist).await;
    assert!(matches!(renamed, Err(Error::Unreachable { .. })), "{renamed:?}");
    assert_eq!((retries(), read(&tree, "d/h").await.unwrap()), (2, b"one".to_vec()));
    lose(1);
    assert!(matches!(tree.delete_file(&path("d/h")).await, Err(Error::Unreachable { .. })));
    assert_eq!(retries(), 2);
}

/// A tree that the system cannot delete whole: the deletion stops anywhere, and is made again.
#[tokio::test(start_paused = true)]
async fn a_deletion_that_stops_anywhere_is_made_again() {
    for at in 0..40 {
        let fake = Fake::new(true);
        let tree = fake.tree();
        for (number, name) in ["d/a", "d/e", "d/e/g", "d/e/g/h"].into_iter().enumerate() {
            if number > 0 {
                tree.mkdir(&path(name)).await.unwrap();
            }
            write(&tree, &format!("{name}.f"), number as u8, b"x").await.unwrap();
        }
        fake.calls.store(0, Ordering::Relaxed);
        *fake.fault.lock() = Some((at, at % 2 == 0));
        if tree.delete_dir(&path(DIR), Depth::Recursive).await.is_err() {
            match tree.delete_dir(&path(DIR), Depth::Recursive).await {
                // The answer to the very last call was lost.
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(other) => panic!("call {at}: {other}"),
            }
        }
        assert_eq!(fake.disk.lock().keys().filter(|path| path.starts_with('d')).count(), 0, "call {at}");
    }
}
