//! The contract of [`UnderStore`], point by point, against a real store.
//!
//! Every point works in a directory of its own, compares bodies and not only outcomes, and stands alone. What a store
//! cannot do by its [`Capabilities`](crate::Capabilities) is skipped by name; nothing is skipped silently.

use std::{collections::BTreeSet, fmt, future::Future, ops::Range, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures::{TryStreamExt, future::join_all};

use crate::{
    Ability, Compares, Condition, Depth, Error, FileId, Landing, PAGE_ENTRIES_MAX, Page, Remnant, Result, Settled,
    StagedBody, StagedRecord, StorePath, UnderStore, VersionToken, declared,
};

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

mod content;
mod names;
mod trees;
mod writes;

use self::{content::*, names::*, trees::*, writes::*};

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
    /// What the store says that it can do.
    pub abilities: Vec<Ability>,
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
    odd_names_of_directories,
    backslashes_in_names,
    names_of_the_greatest_length,
    paths_of_the_greatest_length,
    control_characters,
    listing_is_in_name_order,
    listing_is_paged,
    listing_begins_where_it_is_asked,
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

/// How many points there are.
pub fn points() -> usize {
    POINTS.len()
}

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
    // Some find out with their first request what their server can do.
    Report { store: uri, points, abilities: declared(store.capabilities()) }
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
        let mut landed = Landed::at(range.start);
        self.store.read(path, token, range, &mut landed).await?;
        Ok(landed.bytes)
    }

    /// Reads what is said to be all of a version.
    async fn read_whole(&self, path: &StorePath, token: &VersionToken, len: u64) -> Result<Vec<u8>> {
        let mut landed = Landed::at(0);
        self.store.read_whole(path, token, len, &mut landed).await?;
        Ok(landed.bytes)
    }

    async fn get(&self, path: &StorePath) -> Result<Vec<u8>> {
        let stat = self.store.stat(path).await?;
        self.read_whole(path, &stat.token, stat.len).await
    }

    async fn pages(&self, dir: &StorePath) -> Result<Vec<Page>> {
        self.store.list(dir, "").try_collect().await
    }

    /// Holds each entry of a directory's listing against the stat of its path.
    async fn listing_agrees(&self, dir: &StorePath) -> Verdict {
        for page in self.pages(dir).await? {
            for entry in page.entries {
                let stat = self.store.stat(&dir.join(&entry.name)?).await?;
                let agrees = stat.token == entry.stat.token && stat.len == entry.stat.len;
                hold!(agrees, "{} is listed as {:?} and is {stat:?}", entry.name, entry.stat);
            }
        }
        Ok(())
    }

    /// The names of a directory; directories end in a slash.
    async fn names(&self, dir: &StorePath) -> Result<Vec<String>> {
        self.names_after(dir, "").await
    }

    /// The same, of those after a name.
    async fn names_after(&self, dir: &StorePath, after: &str) -> Result<Vec<String>> {
        let pages: Vec<Page> = self.store.list(dir, after).try_collect().await?;
        let entries = pages.into_iter().flat_map(|page| page.entries);
        Ok(entries.map(|entry| if entry.stat.is_file() { entry.name } else { format!("{}/", entry.name) }).collect())
    }
}

/// What a read has landed, from its start on.
struct Landed {
    start: u64,
    bytes: Vec<u8>,
}

impl Landed {
    fn at(start: u64) -> Self {
        Self { start, bytes: Vec::new() }
    }
}

impl Landing for Landed {
    fn land(&mut self, offset: u64, bytes: &[u8]) {
        if offset == self.start {
            self.bytes.clear();
        }
        assert_eq!(offset, self.start + self.bytes.len() as u64, "bytes land in order and without gaps");
        self.bytes.extend_from_slice(bytes);
    }
}
