//! The contract of [`UnderStore`], point by point, against a real store.
//!
//! Every point works in a directory of its own, compares bodies and not only outcomes, and stands alone. What a store
//! cannot do by its [`Capabilities`](crate::Capabilities) is skipped by name; nothing is skipped silently.

use std::{collections::BTreeSet, fmt, future::Future, ops::Range, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures::{TryStreamExt, future::join_all};

use crate::{
    Compares, Condition, Depth, Error, FileId, PAGE_ENTRIES_MAX, Page, Remnant, Result, Settled, StagedBody,
    StagedRecord, StorePath, UnderStore, VersionToken,
};

/// Bytes of a write that is more than a small one everywhere.
const LARGE_BYTES: usize = (9 << 20) + 4321;

/// How a point ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It does not, and how.
    Failed(String),
    /// The store says that it cannot.
    Skipped(&'static str),
}

/// One point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// Its name.
    pub name: &'static str,
    /// How it ended.
    pub outcome: Outcome,
}

/// What a run found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The store's URI.
    pub store: String,
    /// All points, in order.
    pub points: Vec<Point>,
}

impl Report {
    /// How many points hold.
    pub fn passed(&self) -> usize {
        self.points.iter().filter(|point| point.outcome == Outcome::Passed).count()
    }

    /// The points that do not hold.
    pub fn failures(&self) -> impl Iterator<Item = &Point> {
        self.points.iter().filter(|point| matches!(point.outcome, Outcome::Failed(_)))
    }

    /// The points that were not tried.
    pub fn skipped(&self) -> impl Iterator<Item = &Point> {
        self.points.iter().filter(|point| matches!(point.outcome, Outcome::Skipped(_)))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} of {} points hold", self.store, self.passed(), self.points.len())?;
        for point in &self.points {
            match &point.outcome {
                Outcome::Passed => {}
                Outcome::Failed(how) => writeln!(f, "  FAILED  {}: {how}", point.name)?,
                Outcome::Skipped(why) => writeln!(f, "  skipped {}: {why}", point.name)?,
            }
        }
        Ok(())
    }
}

/// Why a point ends early.
enum Stop {
    Skip(&'static str),
    Fail(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Fail(format!("{error} ({error:?})"))
    }
}

type Verdict<T = ()> = std::result::Result<T, Stop>;
type Run = for<'a> fn(&'a Bench) -> Pin<Box<dyn Future<Output = Verdict> + Send + 'a>>;

/// Fails the point unless the condition holds.
macro_rules! hold {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(Stop::Fail(format!($($text)+)));
        }
    };
}

/// Fails the point unless the call was refused in this way.
macro_rules! refused {
    ($call:expr, $($pattern:tt)+) => {
        match $call {
            Err($($pattern)+) => {}
            other => return Err(Stop::Fail(format!("{} gave {:?}", stringify!($call), other.map(|_| "a success")))),
        }
    };
}

macro_rules! points {
    ($($name:ident),+ $(,)?) => {
        const NAMES: &[&str] = &[$(stringify!($name)),+];
        const POINTS: &[(&str, Run)] = &[$((stringify!($name), |bench| Box::pin($name(bench)))),+];
    };
}

points![
    empty_file,
    bodies_of_many_sizes,
    ranges,
    empty_range_checks_the_version,
    range_past_the_end_is_an_error,
    replaced_file_is_never_mixed,
    equal_length_is_another_version,
    missing_paths,
    root_is_a_directory,
    odd_names,
    backslashes_in_names,
    names_of_the_greatest_length,
    control_characters,
    listing_is_in_name_order,
    listing_is_paged,
    listing_of_nothing_and_of_a_file,
    mkdir_and_empty_directories,
    delete_file,
    delete_dir_only_if_empty,
    delete_dir_recursively,
    rename_file,
    rename_conditions,
    rename_directory,
    rename_into_itself,
    publish_only_if_absent,
    publish_only_replacing,
    publish_twice_is_once,
    staged_is_invisible,
    settle_before_publishing,
    settle_after_publishing,
    settle_after_being_overwritten,
    settle_what_was_only_begun,
    abandon_leaves_nothing,
    publish_by_another_process,
    shared_upload,
    many_small_writes,
    sweep_takes_the_dead_only,
    one_creator_wins,
    one_replacer_wins,
    many_readers_at_once,
    writes_of_one_path_leave_one_whole_body,
    traffic_is_counted,
    descriptors_show_one_version,
];

/// Runs every point on a store that holds nothing of importance.
pub async fn conformance(store: Arc<dyn UnderStore>) -> Report {
    let mut points = Vec::new();
    let uri = store.uri().to_owned();
    for (name, run) in POINTS {
        let outcome = match Bench::new(&store, name).await {
            Ok(bench) => match run(&bench).await {
                Ok(()) => Outcome::Passed,
                Err(Stop::Skip(why)) => Outcome::Skipped(why),
                Err(Stop::Fail(how)) => Outcome::Failed(how),
            },
            Err(error) => Outcome::Failed(format!("no directory for it: {error}")),
        };
        points.push(Point { name, outcome });
    }
    Report { store: uri, points }
}

/// A store, and a directory in it for one point.
struct Bench {
    store: Arc<dyn UnderStore>,
    dir: StorePath,
}

/// Content that differs at every offset and for every seed.
fn body(len: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect::<Vec<u8>>()
        .into()
}

/// A file id that no other write of this run has.
fn fresh_id() -> FileId {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::time::{SystemTime, UNIX_EPOCH};

    static NEXT: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let mut id = [0; 16];
    id[..8].copy_from_slice(&nanos.to_be_bytes());
    id[8..12].copy_from_slice(&std::process::id().to_be_bytes());
    id[12..].copy_from_slice(&(NEXT.fetch_add(1, Relaxed) as u32).to_be_bytes());
    FileId(id)
}

impl Bench {
    async fn new(store: &Arc<dyn UnderStore>, name: &str) -> Result<Self> {
        let dir = StorePath::parse(name)?;
        store.mkdir(&dir).await?;
        Ok(Self { store: Arc::clone(store), dir })
    }

    fn at(&self, name: &str) -> StorePath {
        StorePath::parse(&format!("{}/{name}", self.dir)).expect("the points use names that are paths")
    }

    async fn put_if(&self, path: &StorePath, content: &Bytes, condition: &Condition) -> Result<VersionToken> {
        let mut staged = self.store.stage(path, fresh_id(), Some(content.len() as u64)).await?;
        staged.write(content.clone()).await?;
        staged.seal().await?;
        let published = staged.publish(condition).await;
        if published.is_err() {
            staged.abandon().await?;
        }
        published
    }

    async fn put(&self, path: &StorePath, content: &Bytes) -> Result<VersionToken> {
        self.put_if(path, content, &Condition::Any).await
    }

    async fn read(&self, path: &StorePath, token: &VersionToken, range: Range<u64>) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut next = range.start;
        let mut landing = |offset: u64, bytes: &[u8]| {
            assert_eq!(offset, next, "bytes land in order and without gaps");
            next += bytes.len() as u64;
            out.extend_from_slice(bytes);
        };
        self.store.read(path, token, range, &mut landing).await?;
        Ok(out)
    }

    async fn get(&self, path: &StorePath) -> Result<Vec<u8>> {
        let stat = self.store.stat(path).await?;
        self.read(path, &stat.token, 0..stat.len).await
    }

    async fn pages(&self, dir: &StorePath) -> Result<Vec<Page>> {
        self.store.list(dir).try_collect().await
    }

    /// The names of a directory; directories end in a slash.
    async fn names(&self, dir: &StorePath) -> Result<Vec<String>> {
        let pages = self.pages(dir).await?;
        let entries = pages.into_iter().flat_map(|page| page.entries);
        Ok(entries.map(|entry| if entry.stat.is_file() { entry.name } else { format!("{}/", entry.name) }).collect())
    }
}

async fn empty_file(bench: &Bench) -> Verdict {
    let path = bench.at("empty");
    let token = bench.put(&path, &Bytes::new()).await?;
    let stat = bench.store.stat(&path).await?;
    hold!(stat.is_file() && stat.len == 0 && stat.token == token, "{stat:?}");
    hold!(bench.get(&path).await?.is_empty(), "bytes came out of an empty file");
    hold!(bench.names(&bench.dir).await? == ["empty"], "it is not listed");
    Ok(())
}

async fn bodies_of_many_sizes(bench: &Bench) -> Verdict {
    for len in [1, 4095, 4096, 1 << 20, (2 << 20) - 1, (8 << 20) - 1, 8 << 20, (8 << 20) + 1, 17 << 20] {
        let (path, content) = (bench.at(&format!("of-{len}")), body(len, len as u64));
        let token = bench.put(&path, &content).await?;
        let stat = bench.store.stat(&path).await?;
        hold!(stat.token == token, "published {token:?}, found {:?} for {len} bytes", stat.token);
        hold!(stat.len == len as u64, "{} bytes instead of {len}", stat.len);
        hold!(stat.mtime_ms > 0, "no modification time");
        hold!(bench.get(&path).await? == content, "another body of {len} bytes came back");
    }
    Ok(())
}

async fn ranges(bench: &Bench) -> Verdict {
    let (path, content) = (bench.at("f"), body(3 << 20, 1));
    let token = bench.put(&path, &content).await?;
    let end = content.len() as u64;
    for range in [0..1, 0..end, end - 1..end, 4096..8192, (1 << 20) - 1..(1 << 20) + 1, 12345..end - 1] {
        let expected = &content[range.start as usize..range.end as usize];
        hold!(bench.read(&path, &token, range.clone()).await? == expected, "range {range:?} came back wrong");
    }
    Ok(())
}

async fn empty_range_checks_the_version(bench: &Bench) -> Verdict {
    let path = bench.at("f");
    let old = bench.put(&path, &body(10, 1)).await?;
    hold!(bench.read(&path, &old, 5..5).await?.is_empty(), "bytes came out of an empty range");
    bench.put(&path, &body(10, 2)).await?;
    refused!(bench.read(&path, &old, 5..5).await, Error::VersionChanged { .. });
    Ok(())
}

async fn range_past_the_end_is_an_error(bench: &Bench) -> Verdict {
    let path = bench.at("f");
    let token = bench.put(&path, &body(100, 1)).await?;
    hold!(bench.read(&path, &token, 50..101).await.is_err(), "a range past the end was read");
    hold!(bench.read(&path, &token, 100..200).await.is_err(), "a range behind the end was read");
    Ok(())
}

async fn replaced_file_is_never_mixed(bench: &Bench) -> Verdict {
    let (path, old, new) = (bench.at("f"), body(1 << 20, 1), body(1 << 20, 2));
    let token = bench.put(&path, &old).await?;
    hold!(bench.read(&path, &token, 0..4096).await? == old[..4096], "wrong bytes before");
    bench.put(&path, &new).await?;
    refused!(bench.read(&path, &token, 4096..8192).await, Error::VersionChanged { .. });
    hold!(bench.get(&path).await? == new, "wrong bytes after");
    bench.store.delete_file(&path).await?;
    refused!(bench.read(&path, &token, 0..1).await, Error::NotFound { .. } | Error::VersionChanged { .. });
    Ok(())
}

async fn equal_length_is_another_version(bench: &Bench) -> Verdict {
    let path = bench.at("f");
    let mut tokens = BTreeSet::new();
    for seed in 0..5 {
        let token = bench.put(&path, &body(1000, seed)).await?;
        hold!(tokens.insert(token.clone()), "version {token:?} came twice for different content");
    }
    Ok(())
}

async fn missing_paths(bench: &Bench) -> Verdict {
    let token = bench.put(&bench.at("f"), &body(1, 1)).await?;
    for name in ["none", "none/below", "f/below"] {
        refused!(bench.store.stat(&bench.at(name)).await, Error::NotFound { .. });
    }
    refused!(bench.read(&bench.at("none"), &token, 0..1).await, Error::NotFound { .. });
    refused!(bench.store.rename(&bench.at("none"), &bench.at("b"), &Condition::Any).await, Error::NotFound { .. });
    Ok(())
}

async fn root_is_a_directory(bench: &Bench) -> Verdict {
    hold!(!bench.store.stat(&StorePath::root()).await?.is_file(), "the root is a file");
    hold!(!bench.store.stat(&bench.dir).await?.is_file(), "a directory is a file");
    let listed = bench.names(&StorePath::root()).await?;
    hold!(listed.contains(&format!("{}/", bench.dir)), "the root lists {listed:?}");
    hold!(bench.store.delete_dir(&StorePath::root(), Depth::Recursive).await.is_err(), "the root was deleted");
    Ok(())
}

/// Names that have broken stores, clients or encodings before.
const ODD: &[&str] = &[
    " leading and trailing ",
    "100%",
    "a%231",
    "a#1",
    "a+b c",
    "a&b=c;d,e",
    "brackets[]{}<>",
    "colon:pipe|star*",
    "dots...",
    "nfc-\u{e9}",
    "nfd-e\u{301}",
    "question?mark",
    "quotes'\"`",
    "tilde~caret^at@dollar$",
    "trailing.",
    "漢字",
    "😀",
];

async fn odd_names(bench: &Bench) -> Verdict {
    for (seed, name) in ODD.iter().enumerate() {
        bench.put(&bench.at(name), &body(100, seed as u64)).await?;
        bench.put(&bench.at(&format!("dir/{name}/f")), &body(50, seed as u64)).await.or_else(|error| match error {
            // Real directories have to be made first.
            Error::NotFound { .. } => Ok(VersionToken::new(&[])?),
            other => Err(other),
        })?;
    }
    let mut expected: Vec<String> = ODD.iter().map(|name| (*name).to_owned()).collect();
    expected.sort();
    let listed = bench.names(&bench.dir).await?;
    let files: Vec<String> = listed.into_iter().filter(|name| !name.ends_with('/')).collect();
    hold!(files == expected, "listed {files:?}");
    for (seed, name) in ODD.iter().enumerate() {
        hold!(bench.get(&bench.at(name)).await? == body(100, seed as u64), "{name:?} has another body");
    }
    bench.store.rename(&bench.at(ODD[1]), &bench.at("renamed %+#"), &Condition::MustNotExist).await?;
    hold!(bench.get(&bench.at("renamed %+#")).await? == body(100, 1), "the renamed body is another");
    for name in &ODD[2..] {
        bench.store.delete_file(&bench.at(name)).await?;
    }
    let left: Vec<String> = bench.names(&bench.dir).await?.into_iter().filter(|name| !name.ends_with('/')).collect();
    hold!(left == [ODD[0], "renamed %+#"], "left are {left:?}");
    Ok(())
}

async fn backslashes_in_names(bench: &Bench) -> Verdict {
    bench.put(&bench.at("back\\slash"), &body(10, 1)).await?;
    let listed = bench.names(&bench.dir).await?;
    if listed == ["back/"] {
        return Err(Stop::Skip("the server takes a backslash for a slash"));
    }
    hold!(listed == ["back\\slash"], "listed {listed:?}");
    hold!(bench.get(&bench.at("back\\slash")).await? == body(10, 1), "it has another body");
    Ok(())
}

async fn names_of_the_greatest_length(bench: &Bench) -> Verdict {
    let name = "n".repeat(crate::COMPONENT_BYTES_MAX);
    bench.put(&bench.at(&name), &body(10, 1)).await?;
    hold!(bench.names(&bench.dir).await? == [name.clone()], "it is not listed as it was written");
    hold!(bench.get(&bench.at(&name)).await? == body(10, 1), "it has another body");
    Ok(())
}

async fn control_characters(bench: &Bench) -> Verdict {
    let path = bench.at("a\nb\x01c");
    if bench.store.capabilities().control_characters {
        bench.put(&path, &body(10, 1)).await?;
        hold!(bench.get(&path).await? == body(10, 1), "it has another body");
        hold!(bench.names(&bench.dir).await? == ["a\nb\x01c"], "it is not listed as it was written");
    } else {
        refused!(bench.put(&path, &body(10, 1)).await, Error::Unnameable { .. });
        refused!(bench.store.stat(&path).await, Error::Unnameable { .. });
    }
    Ok(())
}

async fn listing_is_in_name_order(bench: &Bench) -> Verdict {
    let dir = bench.at("d");
    bench.store.mkdir(&dir).await?;
    bench.store.mkdir(&bench.at("d/a")).await?;
    bench.store.mkdir(&bench.at("d/b!")).await?;
    for name in ["a-b", "a.txt", "a/inner", "a/z", "a0", "B", "b", "ab", "b!/x", "ü", "z-1"] {
        bench.put(&bench.at(&format!("d/{name}")), &body(3, 1)).await?;
    }
    let listed = bench.names(&dir).await?;
    let expected = ["B", "a/", "a-b", "a.txt", "a0", "ab", "b", "b!/", "z-1", "ü"];
    hold!(listed == expected, "listed {listed:?}");
    let inner = bench.names(&bench.at("d/a")).await?;
    hold!(inner == ["inner", "z"], "listed {inner:?}");
    for page in bench.pages(&dir).await? {
        for entry in page.entries {
            let stat = bench.store.stat(&dir.join(&entry.name)?).await?;
            hold!(stat.token == entry.stat.token && stat.len == entry.stat.len, "{}: {stat:?} {entry:?}", entry.name);
        }
    }
    Ok(())
}

async fn listing_is_paged(bench: &Bench) -> Verdict {
    const COUNT: usize = 2 * PAGE_ENTRIES_MAX + 37;
    let content = body(1, 1);
    // One directory that could sort before all of them, so that they have to wait for it.
    let names: Vec<String> = (0..COUNT).map(|number| format!("part-{number:05}")).collect();
    let paths: Vec<StorePath> = names.iter().map(|name| bench.at(name)).collect();
    for batch in paths.chunks(16) {
        futures::future::try_join_all(batch.iter().map(|path| bench.put(path, &content))).await?;
    }
    bench.store.mkdir(&bench.at("part")).await?;
    let pages = bench.pages(&bench.dir).await?;
    hold!(pages.len() > 2, "{} pages", pages.len());
    hold!(pages.iter().all(|page| page.entries.len() + page.refused.len() <= PAGE_ENTRIES_MAX), "a page is too long");
    hold!(pages.iter().all(|page| page.refused.is_empty()), "something was refused");
    let listed: Vec<&str> = pages.iter().flat_map(|page| &page.entries).map(|entry| entry.name.as_str()).collect();
    let expected: Vec<&str> = std::iter::once("part").chain(names.iter().map(String::as_str)).collect();
    hold!(listed == expected, "{} names instead of {}, or out of order", listed.len(), expected.len());
    bench.store.delete_dir(&bench.dir, Depth::Recursive).await?;
    Ok(())
}

async fn listing_of_nothing_and_of_a_file(bench: &Bench) -> Verdict {
    hold!(bench.names(&bench.dir).await?.is_empty(), "an empty directory has entries");
    bench.put(&bench.at("f"), &body(1, 1)).await?;
    refused!(bench.names(&bench.at("f")).await, Error::NotADirectory { .. });
    refused!(bench.names(&bench.at("none")).await, Error::NotFound { .. });
    Ok(())
}

async fn mkdir_and_empty_directories(bench: &Bench) -> Verdict {
    bench.store.mkdir(&bench.at("d")).await?;
    hold!(bench.names(&bench.dir).await? == ["d/"], "it is not listed");
    hold!(!bench.store.stat(&bench.at("d")).await?.is_file(), "it is a file");
    hold!(bench.names(&bench.at("d")).await?.is_empty(), "it lists itself");
    refused!(bench.store.mkdir(&bench.at("d")).await, Error::AlreadyExists { .. });
    bench.put(&bench.at("f"), &body(1, 1)).await?;
    refused!(bench.store.mkdir(&bench.at("f")).await, Error::AlreadyExists { .. });
    bench.put(&bench.at("d/f"), &body(1, 1)).await?;
    bench.store.delete_file(&bench.at("d/f")).await?;
    hold!(bench.names(&bench.dir).await? == ["d/", "f"], "it went with its last file");
    Ok(())
}

async fn delete_file(bench: &Bench) -> Verdict {
    bench.put(&bench.at("f"), &body(1, 1)).await?;
    bench.put(&bench.at("f2"), &body(1, 2)).await?;
    bench.store.mkdir(&bench.at("d")).await?;
    bench.store.delete_file(&bench.at("f")).await?;
    refused!(bench.store.delete_file(&bench.at("f")).await, Error::NotFound { .. });
    refused!(bench.store.delete_file(&bench.at("d")).await, Error::IsADirectory { .. });
    hold!(bench.names(&bench.dir).await? == ["d/", "f2"], "the wrong thing was deleted");
    Ok(())
}

async fn delete_dir_only_if_empty(bench: &Bench) -> Verdict {
    bench.store.mkdir(&bench.at("d")).await?;
    bench.put(&bench.at("d/f"), &body(5, 1)).await?;
    refused!(bench.store.delete_dir(&bench.at("d"), Depth::Empty).await, Error::NotEmpty { .. });
    hold!(bench.get(&bench.at("d/f")).await? == body(5, 1), "the refusal changed the content");
    refused!(bench.store.delete_dir(&bench.at("d/f"), Depth::Empty).await, Error::NotADirectory { .. });
    refused!(bench.store.delete_dir(&bench.at("none"), Depth::Empty).await, Error::NotFound { .. });
    bench.store.delete_file(&bench.at("d/f")).await?;
    bench.store.delete_dir(&bench.at("d"), Depth::Empty).await?;
    hold!(bench.names(&bench.dir).await?.is_empty(), "it is still there");
    Ok(())
}

async fn delete_dir_recursively(bench: &Bench) -> Verdict {
    for dir in ["d", "d/e", "d/e/g", "d/e/empty", "dd"] {
        bench.store.mkdir(&bench.at(dir)).await?;
    }
    for number in 0..40 {
        bench.put(&bench.at(&format!("d/e/g/{number}")), &body(1, 1)).await?;
    }
    for name in ["d/f", "d/e/f", "dd/f", "d.f"] {
        bench.put(&bench.at(name), &body(7, 7)).await?;
    }
    refused!(bench.store.delete_dir(&bench.at("d.f"), Depth::Recursive).await, Error::NotADirectory { .. });
    bench.store.delete_dir(&bench.at("d"), Depth::Recursive).await?;
    let left = bench.names(&bench.dir).await?;
    hold!(left == ["d.f", "dd/"], "left are {left:?}");
    hold!(bench.get(&bench.at("dd/f")).await? == body(7, 7), "a neighbour has changed");
    refused!(bench.store.delete_dir(&bench.at("d"), Depth::Recursive).await, Error::NotFound { .. });
    Ok(())
}

async fn rename_file(bench: &Bench) -> Verdict {
    for (seed, len) in [0, 1, LARGE_BYTES].into_iter().enumerate() {
        let (from, to) = (bench.at(&format!("from-{len}")), bench.at(&format!("to-{len}")));
        let content = body(len, seed as u64);
        bench.put(&from, &content).await?;
        let stat = bench.store.rename(&from, &to, &Condition::MustNotExist).await?;
        hold!(stat == bench.store.stat(&to).await?, "it answered another stat: {stat:?}");
        hold!(bench.get(&to).await? == content, "another body arrived");
        refused!(bench.store.stat(&from).await, Error::NotFound { .. });
    }
    Ok(())
}

async fn rename_conditions(bench: &Bench) -> Verdict {
    let (a, b) = (bench.at("a"), bench.at("b"));
    bench.put(&a, &body(10, 1)).await?;
    let old = bench.put(&b, &body(10, 2)).await?;
    let now = bench.put(&b, &body(10, 3)).await?;
    refused!(bench.store.rename(&a, &b, &Condition::MustNotExist).await, Error::AlreadyExists { .. });
    refused!(bench.store.rename(&a, &b, &Condition::Replaces(old.clone())).await, Error::Conflict { .. });
    refused!(bench.store.rename(&a, &bench.at("c"), &Condition::Replaces(old)).await, Error::Conflict { .. });
    hold!(bench.get(&a).await? == body(10, 1) && bench.get(&b).await? == body(10, 3), "a refusal changed something");
    bench.store.rename(&a, &b, &Condition::Replaces(now)).await?;
    hold!(bench.get(&b).await? == body(10, 1), "the wrong body won");
    bench.put(&a, &body(10, 4)).await?;
    bench.store.rename(&a, &b, &Condition::Any).await?;
    hold!(bench.get(&b).await? == body(10, 4), "the wrong body won");
    bench.store.mkdir(&bench.at("d")).await?;
    hold!(bench.store.rename(&b, &bench.at("d"), &Condition::Any).await.is_err(), "a file replaced a directory");
    hold!(bench.names(&bench.dir).await? == ["b", "d/"], "names are left over");
    Ok(())
}

async fn rename_directory(bench: &Bench) -> Verdict {
    for dir in ["d", "d/e", "d/empty", "dx", "taken"] {
        bench.store.mkdir(&bench.at(dir)).await?;
    }
    for (seed, name) in ["d/f", "d/e/g", "dx/f"].iter().enumerate() {
        bench.put(&bench.at(name), &body(100, seed as u64)).await?;
    }
    bench.put(&bench.at("taken/t"), &body(1, 1)).await?;
    let (d, n) = (bench.at("d"), bench.at("n"));
    refused!(bench.store.rename(&d, &bench.at("taken"), &Condition::MustNotExist).await, Error::AlreadyExists { .. });
    let stat = bench.store.rename(&d, &n, &Condition::MustNotExist).await?;
    hold!(!stat.is_file(), "it answered {stat:?}");
    let left = bench.names(&bench.dir).await?;
    hold!(left == ["dx/", "n/", "taken/"], "left are {left:?}");
    hold!(bench.names(&n).await? == ["e/", "empty/", "f"], "not everything arrived");
    hold!(bench.get(&bench.at("n/f")).await? == body(100, 0), "n/f has another body");
    hold!(bench.get(&bench.at("n/e/g")).await? == body(100, 1), "n/e/g has another body");
    hold!(bench.get(&bench.at("dx/f")).await? == body(100, 2), "a neighbour moved");
    Ok(())
}

async fn rename_into_itself(bench: &Bench) -> Verdict {
    bench.store.mkdir(&bench.at("d")).await?;
    bench.put(&bench.at("d/f"), &body(9, 9)).await?;
    let inside = bench.store.rename(&bench.at("d"), &bench.at("d/e"), &Condition::MustNotExist).await;
    hold!(inside.is_err(), "a directory moved into itself");
    bench.store.rename(&bench.at("d/f"), &bench.at("d/f"), &Condition::Any).await?;
    hold!(bench.get(&bench.at("d/f")).await? == body(9, 9), "renaming a file to itself lost it");
    Ok(())
}

async fn publish_only_if_absent(bench: &Bench) -> Verdict {
    for len in [10, LARGE_BYTES] {
        let path = bench.at(&format!("f-{len}"));
        bench.put_if(&path, &body(len, 1), &Condition::MustNotExist).await?;
        refused!(bench.put_if(&path, &body(len, 2), &Condition::MustNotExist).await, Error::AlreadyExists { .. });
        hold!(bench.get(&path).await? == body(len, 1), "the refused write is visible ({len} bytes)");
    }
    bench.store.mkdir(&bench.at("d")).await?;
    Ok(())
}

async fn publish_only_replacing(bench: &Bench) -> Verdict {
    for len in [10, LARGE_BYTES] {
        let path = bench.at(&format!("f-{len}"));
        let first = bench.put(&path, &body(len, 1)).await?;
        let second = bench.put_if(&path, &body(len, 2), &Condition::Replaces(first.clone())).await?;
        refused!(bench.put_if(&path, &body(len, 3), &Condition::Replaces(first)).await, Error::Conflict { .. });
        hold!(bench.get(&path).await? == body(len, 2), "the refused write is visible ({len} bytes)");
        bench.store.delete_file(&path).await?;
        refused!(bench.put_if(&path, &body(len, 4), &Condition::Replaces(second)).await, Error::Conflict { .. });
        refused!(bench.store.stat(&path).await, Error::NotFound { .. });
    }
    Ok(())
}

async fn publish_twice_is_once(bench: &Bench) -> Verdict {
    for len in [10, LARGE_BYTES] {
        let path = bench.at(&format!("f-{len}"));
        let mut staged = bench.store.stage(&path, fresh_id(), Some(len as u64)).await?;
        staged.write(body(len, 1)).await?;
        staged.seal().await?;
        let first = staged.publish(&Condition::MustNotExist).await?;
        let second = staged.publish(&Condition::MustNotExist).await?;
        hold!(first == second, "{first:?} and then {second:?}");
        hold!(bench.get(&path).await? == body(len, 1), "another body");
    }
    Ok(())
}

async fn staged_is_invisible(bench: &Bench) -> Verdict {
    for len in [10, LARGE_BYTES] {
        let path = bench.at("f");
        let mut staged = bench.store.stage(&path, fresh_id(), Some(len as u64)).await?;
        staged.write(body(len, 1)).await?;
        staged.seal().await?;
        refused!(bench.store.stat(&path).await, Error::NotFound { .. });
        hold!(bench.names(&bench.dir).await?.is_empty(), "it is listed before it is published");
        let root = bench.pages(&StorePath::root()).await?;
        let names: Vec<_> = root.iter().flat_map(|page| &page.entries).map(|entry| &entry.name).collect();
        hold!(names.iter().all(|name| NAMES.contains(&name.as_str())), "the root lists {names:?}");
        hold!(root.iter().all(|page| page.refused.is_empty()), "the root refuses names: {root:?}");
        staged.abandon().await?;
    }
    Ok(())
}

/// Seals a large write and gives its record the way another process would get it.
async fn sealed(bench: &Bench, path: &StorePath, seed: u64) -> Verdict<(Box<dyn crate::Staged>, StagedRecord)> {
    let mut staged = bench.store.stage(path, fresh_id(), Some(LARGE_BYTES as u64)).await?;
    staged.write(body(LARGE_BYTES, seed)).await?;
    let record = staged.seal().await?;
    hold!(!matches!(record.body, StagedBody::Small { .. }), "{LARGE_BYTES} bytes make a small put");
    let copied = StagedRecord::decode(&record.encode())?;
    hold!(copied == record, "the record changed on its way");
    Ok((staged, copied))
}

async fn settle_before_publishing(bench: &Bench) -> Verdict {
    let path = bench.at("f");
    let (mut staged, record) = sealed(bench, &path, 1).await?;
    for _ in 0..2 {
        hold!(bench.store.settle(&record).await? == Settled::Absent, "it is not absent");
    }
    hold!(staged.publish(&Condition::Any).await.is_err(), "it was published after it was settled");
    hold!(bench.store.publish(&record, &Condition::Any).await.is_err(), "its record was published");
    refused!(bench.store.stat(&path).await, Error::NotFound { .. });
    hold!(bench.names(&bench.dir).await?.is_empty(), "something is left");
    Ok(())
}

async fn settle_after_publishing(bench: &Bench) -> Verdict {
    for len in [10, LARGE_BYTES] {
        let path = bench.at(&format!("f-{len}"));
        let mut staged = bench.store.stage(&path, fresh_id(), None).await?;
        staged.write(body(len, 1)).await?;
        let record = staged.seal().await?;
        let token = staged.publish(&Condition::MustNotExist).await?;
        drop(staged);
        for _ in 0..2 {
            let settled = bench.store.settle(&record).await?;
            hold!(settled == Settled::Published(token.clone()), "{settled:?} instead of {token:?}");
        }
        hold!(bench.get(&path).await? == body(len, 1), "settling changed the body");
    }
    Ok(())
}

async fn settle_after_being_overwritten(bench: &Bench) -> Verdict {
    let path = bench.at("f");
    let (mut staged, record) = sealed(bench, &path, 1).await?;
    staged.publish(&Condition::Any).await?;
    bench.put(&path, &body(LARGE_BYTES, 2)).await?;
    hold!(bench.store.settle(&record).await? == Settled::Absent, "another's write is taken for ours");
    hold!(bench.get(&path).await? == body(LARGE_BYTES, 2), "settling changed another's write");
    Ok(())
}

async fn settle_what_was_only_begun(bench: &Bench) -> Verdict {
    let (path, file_id) = (bench.at("f"), fresh_id());
    let mut staged = bench.store.stage(&path, file_id, Some(LARGE_BYTES as u64)).await?;
    staged.write(body(LARGE_BYTES, 1)).await?;
    let begun = StagedRecord::decode(&staged.begun().encode())?;
    // The process dies here: nothing is cleaned up by it.
    std::mem::forget(staged);
    hold!(bench.store.settle(&begun).await? == Settled::Absent, "it is not absent");
    let named = StagedRecord::named(path.clone(), file_id);
    hold!(bench.store.settle(&named).await? == Settled::Absent, "it is not absent by name");
    hold!(bench.names(&bench.dir).await?.is_empty(), "something is left");
    let swept = bench.store.sweep(&|remnant| is_of(remnant, &path, file_id)).await?;
    hold!(swept.removed == 0, "{} remains were still to be swept", swept.removed);
    Ok(())
}

async fn abandon_leaves_nothing(bench: &Bench) -> Verdict {
    for len in [10, LARGE_BYTES] {
        let (path, file_id) = (bench.at("f"), fresh_id());
        let mut staged = bench.store.stage(&path, file_id, Some(len as u64)).await?;
        staged.write(body(len, 1)).await?;
        staged.seal().await?;
        staged.abandon().await?;
        drop(staged);
        hold!(bench.names(&bench.dir).await?.is_empty(), "something is left");
        let swept = bench.store.sweep(&|remnant| is_of(remnant, &path, file_id)).await?;
        hold!(swept.removed == 0, "{} remains were still to be swept", swept.removed);
    }
    Ok(())
}

async fn publish_by_another_process(bench: &Bench) -> Verdict {
    let path = bench.at("f");
    let (staged, record) = sealed(bench, &path, 5).await?;
    std::mem::forget(staged);
    let token = bench.store.publish(&record, &Condition::MustNotExist).await?;
    hold!(bench.store.stat(&path).await?.token == token, "another version is there");
    hold!(bench.get(&path).await? == body(LARGE_BYTES, 5), "another body is there");
    hold!(bench.store.publish(&record, &Condition::MustNotExist).await? == token, "the second time differs");
    Ok(())
}

async fn shared_upload(bench: &Bench) -> Verdict {
    const PART: usize = 5 << 20;
    if !bench.store.capabilities().shared_upload {
        return Err(Stop::Skip("the store takes a write from one writer only"));
    }
    let (path, content) = (bench.at("f"), body(2 * PART + 777, 3));
    let mut staged = bench.store.stage(&path, fresh_id(), Some(content.len() as u64)).await?;
    let record = StagedRecord::decode(&staged.share().await?.encode())?;
    // Parts come from different writers and out of order; one of them in two pieces.
    let third = bench.store.put_part(&record, 3, vec![content.slice(2 * PART..)]).await?;
    let pieces = vec![content.slice(..100), content.slice(100..PART)];
    let (first, second) = futures::future::try_join(
        bench.store.put_part(&record, 1, pieces),
        bench.store.put_part(&record, 2, vec![content.slice(PART..2 * PART)]),
    )
    .await?;
    staged.adopt(vec![third, first])?;
    staged.adopt(vec![second])?;
    let sealed = staged.seal().await?;
    hold!(sealed.len == content.len() as u64, "the record says {} bytes", sealed.len);
    staged.publish(&Condition::MustNotExist).await?;
    hold!(bench.get(&path).await? == content, "another body is there");
    Ok(())
}

async fn many_small_writes(bench: &Bench) -> Verdict {
    let (path, content) = (bench.at("f"), body(LARGE_BYTES, 8));
    let mut staged = bench.store.stage(&path, fresh_id(), None).await?;
    let mut at = 0;
    for step in (1..).map(|step: usize| step * 977 % 65_536 + 1) {
        let end = (at + step).min(content.len());
        staged.write(content.slice(at..end)).await?;
        at = end;
        if at == content.len() {
            break;
        }
    }
    staged.publish(&Condition::Any).await?;
    hold!(bench.get(&path).await? == content, "another body is there");
    Ok(())
}

fn is_of(remnant: &Remnant, path: &StorePath, id: FileId) -> bool {
    match remnant {
        Remnant::Temp { file_id, .. } => *file_id == id,
        Remnant::Upload { path: at, .. } => at == path,
    }
}

async fn sweep_takes_the_dead_only(bench: &Bench) -> Verdict {
    let (dead, live) = (bench.at("dead"), bench.at("live"));
    let (staged, record) = sealed(bench, &dead, 1).await?;
    std::mem::forget(staged);
    let (mut living, _) = sealed(bench, &live, 2).await?;
    let id = record.file_id;
    let swept = bench.store.sweep(&|remnant| is_of(remnant, &dead, id)).await?;
    hold!(swept.removed == 1, "{swept:?}");
    hold!(swept.seen >= 2, "{swept:?}");
    let again = bench.store.sweep(&|remnant| is_of(remnant, &dead, id)).await?;
    hold!(again.removed == 0, "{again:?}");
    hold!(bench.store.publish(&record, &Condition::Any).await.is_err(), "what was swept was published");
    living.publish(&Condition::Any).await?;
    hold!(bench.get(&live).await? == body(LARGE_BYTES, 2), "the living was swept");
    Ok(())
}

/// Small writes race always; large ones where the store promises one winner for them too.
fn race_sizes(bench: &Bench) -> impl Iterator<Item = usize> {
    let large = bench.store.capabilities().large_writes == Compares::Atomically;
    [10].into_iter().chain(large.then_some(LARGE_BYTES))
}

/// Publishes many sealed writes of one path at once; gives how many said that they had won, and the seeds.
async fn race(bench: &Bench, path: &StorePath, len: usize, condition: &Condition) -> Verdict<Vec<u64>> {
    let contestants = (1..=4_u64).map(|seed| async move {
        let won = bench.put_if(path, &body(len, seed), condition).await;
        match won {
            Ok(_) => Ok(Some(seed)),
            Err(Error::AlreadyExists { .. } | Error::Conflict { .. }) => Ok(None),
            Err(other) => Err(Stop::from(other)),
        }
    });
    let mut winners = Vec::new();
    for result in join_all(contestants).await {
        winners.extend(result?);
    }
    Ok(winners)
}

async fn one_creator_wins(bench: &Bench) -> Verdict {
    if bench.store.capabilities().create_only != Compares::Atomically {
        return Err(Stop::Skip("the store looks just before it creates"));
    }
    for len in race_sizes(bench) {
        for round in 0..5 {
            let path = bench.at(&format!("f-{len}-{round}"));
            let winners = race(bench, &path, len, &Condition::MustNotExist).await?;
            hold!(winners.len() == 1, "{} writers of {len} bytes created one file", winners.len());
            hold!(bench.get(&path).await? == body(len, winners[0]), "the winner's body is not there");
        }
    }
    Ok(())
}

async fn one_replacer_wins(bench: &Bench) -> Verdict {
    if bench.store.capabilities().replace != Compares::Atomically {
        return Err(Stop::Skip("the store compares just before it replaces"));
    }
    for len in race_sizes(bench) {
        for round in 0..5 {
            let path = bench.at(&format!("f-{len}-{round}"));
            let token = bench.put(&path, &body(len, 99)).await?;
            let winners = race(bench, &path, len, &Condition::Replaces(token)).await?;
            hold!(winners.len() == 1, "{} writers of {len} bytes replaced one version", winners.len());
            hold!(bench.get(&path).await? == body(len, winners[0]), "the winner's body is not there");
        }
    }
    Ok(())
}

async fn many_readers_at_once(bench: &Bench) -> Verdict {
    let (path, content) = (bench.at("f"), body(4 << 20, 4));
    let token = bench.put(&path, &content).await?;
    let reads = (0..64_u64).map(|reader| {
        let (path, token) = (&path, &token);
        async move {
            let range = reader * 60_000..reader * 60_000 + 123_456;
            Ok::<_, Error>((range.clone(), bench.read(path, token, range).await?))
        }
    });
    for result in join_all(reads).await {
        let (range, bytes) = result?;
        hold!(bytes == content[range.start as usize..range.end as usize], "range {range:?} came back wrong");
    }
    Ok(())
}

async fn writes_of_one_path_leave_one_whole_body(bench: &Bench) -> Verdict {
    let path = bench.at("f");
    for len in [1000, LARGE_BYTES] {
        let writers = (0..4_u64).map(|seed| {
            let path = &path;
            async move {
                match bench.put(path, &body(len, seed)).await {
                    // Replaced at once: it was whole, and is history.
                    Ok(_) | Err(Error::Conflict { .. }) => Ok(()),
                    Err(other) => Err(Stop::from(other)),
                }
            }
        });
        for result in join_all(writers).await {
            result?;
        }
        let found = bench.get(&path).await?;
        hold!((0..4).any(|seed| found == body(len, seed)), "a mixture of bodies is there");
    }
    Ok(())
}

async fn traffic_is_counted(bench: &Bench) -> Verdict {
    let path = bench.at("f");
    let before = bench.store.traffic().totals();
    let token = bench.put(&path, &body(5000, 1)).await?;
    bench.read(&path, &token, 1000..4000).await?;
    let after = bench.store.traffic().totals();
    // Other points do not run beside this one.
    hold!(after.bytes_written - before.bytes_written == 5000, "{before:?} {after:?}");
    hold!(after.bytes_read - before.bytes_read == 3000, "{before:?} {after:?}");
    hold!(after.requests - before.requests >= 2, "{before:?} {after:?}");
    Ok(())
}

async fn descriptors_show_one_version(bench: &Bench) -> Verdict {
    let Some(local) = bench.store.local() else {
        return Err(Stop::Skip("the store is not a local file system"));
    };
    let (path, content) = (bench.at("f"), body(10_000, 1));
    let token = bench.put(&path, &content).await?;
    hold!(local.stat_now(&path)?.token == token, "the stat of this thread differs");
    let fd = local.open_local(&path, &token)?;
    let mut read = vec![0; content.len()];
    let got = rustix::io::pread(&fd, &mut read, 0).map_err(|errno| Stop::Fail(errno.to_string()))?;
    hold!(got == content.len() && read == content, "the descriptor shows another body");
    local.check_local(&path, &fd, &token)?;
    bench.put(&path, &body(10_000, 2)).await?;
    refused!(local.open_local(&path, &token), Error::VersionChanged { .. });
    Ok(())
}
