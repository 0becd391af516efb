//! What a mount would meet, step by step: for the person who mounts it.
//!
//! ```text
//!  settings ▶ network ▶ keys ▶ bucket ▶ list ▶ read ▶ (if asked) write ▶ create only ▶ replace ▶ large write ▶ rename
//! ```
//! The first step that fails says why, and what to do; those after it that need it are left out. Without [`Probe::Write`]
//! nothing is changed. With it, one hidden directory is made, used and deleted, and what the store says of its conditions
//! is put to the proof: some servers take conditions and ignore them.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures::StreamExt;

use crate::{
    Capabilities, Compares, Condition, Depth, Entry, Error, ErrorClass, FileId, MountSpec, PATH_BYTES_MAX, Result,
    Stat, StorePath, UnderStore, open,
};

/// How long one step may take.
const STEP_PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of the first file that are read.
const READ_BYTES: u64 = 4096;
/// Bytes of the large write: more than a small one of any store.
const LARGE_BYTES: usize = 9 << 20;
/// Bytes of one piece of it.
const PIECE_BYTES: usize = 1 << 20;

/// Whether the store may be changed to see what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Nothing is written.
    Read,
    /// A directory of ours is made, used and deleted.
    Write,
}

/// What came of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It works; with what was seen.
    Passed(String),
    /// It does not; with the reason and what to do, and what kind of failure that is.
    Failed(String, ErrorClass),
    /// It was not tried; with the reason.
    Skipped(String),
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What.
    pub name: &'static str,
    /// What came of it.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
}

/// How an ability is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// The system is documented so.
    Declared,
    /// It was seen just now.
    Seen,
}

/// One thing that the store can or cannot do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ability {
    /// What.
    pub name: &'static str,
    /// How it does that.
    pub answer: Cow<'static, str>,
    /// How this is known.
    pub known: Known,
}

/// What a mount would meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// The URI, without secrets.
    pub uri: String,
    /// What was tried, in order.
    pub steps: Vec<Step>,
    /// What the store can do; empty if there is none.
    pub abilities: Vec<Ability>,
}

impl Diagnosis {
    /// The first step that failed.
    pub fn failure(&self) -> Option<&Step> {
        self.steps.iter().find(|step| matches!(step.outcome, Outcome::Failed(..)))
    }
}

/// The steps of [`UnderStore::check`], which stops at the first that fails.
const CHECKED: [&str; 4] = ["network", "keys", "place", "list"];

/// Where a failure of the check belongs among them.
fn checked_step(error: &Error) -> usize {
    match error {
        Error::Unreachable { .. } | Error::Untrusted { .. } | Error::TimedOut { .. } | Error::Away { .. } => 0,
        // A folder whose file system is of another machine, or of a program that has ended.
        Error::Io { .. } if error.is_transient() => 0,
        Error::WrongKeys { .. } | Error::MissingKeys { .. } | Error::ClockSkew { .. } => 1,
        // Opening the mount has looked at all others: what is left is whether the server is the one that is meant.
        Error::InvalidOption { .. } => 1,
        Error::MissingBucket { .. }
        | Error::WrongRegion { .. }
        | Error::MissingFolder { .. }
        | Error::NotAFolder { .. }
        | Error::NotFound { .. } => 2,
        _ => 3,
    }
}

/// Finds out what a mount would meet. Must be called inside a tokio runtime.
pub async fn diagnose(spec: &MountSpec, probe: Probe) -> Diagnosis {
    let mut course = Course { steps: Vec::new(), last: Instant::now() };
    let uri = spec.redacted_uri();
    let store = match open(spec) {
        Ok(store) => {
            course.passed("settings", "the URI and the options are understood");
            store
        }
        Err(error) => {
            course.failed("settings", &error);
            return Diagnosis { uri, steps: course.steps, abilities: Vec::new() };
        }
    };
    let abilities = diagnose_store(&store, spec.read_only, probe, &mut course).await;
    Diagnosis { uri, steps: course.steps, abilities }
}

/// As [`diagnose`], for a store that is open.
pub async fn diagnose_open(store: &Arc<dyn UnderStore>, read_only: bool, probe: Probe) -> Diagnosis {
    let mut course = Course { steps: Vec::new(), last: Instant::now() };
    let abilities = diagnose_store(store, read_only, probe, &mut course).await;
    Diagnosis { uri: store.uri().to_owned(), steps: course.steps, abilities }
}

async fn diagnose_store(
    store: &Arc<dyn UnderStore>,
    read_only: bool,
    probe: Probe,
    course: &mut Course,
) -> Vec<Ability> {
    let checked = limited(store.uri(), store.check()).await;
    // Some find out with their first request what their server can do.
    let capabilities = store.capabilities();
    let mut abilities = declared(capabilities);
    if let Err(error) = checked {
        let at = checked_step(&error);
        CHECKED[..at].iter().for_each(|name| course.passed(name, ""));
        course.failed(CHECKED[at], &error);
        return abilities;
    }
    CHECKED[..3].iter().for_each(|name| course.passed(name, ""));
    if capabilities.lists {
        let page = limited("/", first_page(store)).await;
        let Some(entries) = course.tried("list", page, |entries| match entries.len() {
            0 => "it is empty".to_owned(),
            1 => "1 name".to_owned(),
            count => format!("{count} names on the first page"),
        }) else {
            return abilities;
        };
        read_first(store, &entries, course).await;
    } else {
        course.skipped("list", "it does not tell what is in a directory; its files are read by path");
        course.skipped("read", "no path of a file is known");
    }
    match (probe, read_only) {
        (Probe::Read, _) => {
            course.skipped("write", "not asked for; --write tries it, in a directory that it deletes again")
        }
        (Probe::Write, true) => course.skipped("write", "the mount is read-only"),
        (Probe::Write, false) if !capabilities.writes => course.skipped("write", "it takes no writes"),
        (Probe::Write, false) => write_all(store, course, &mut abilities).await,
    }
    abilities
}

/// The steps so far, and when the last of them ended.
struct Course {
    steps: Vec<Step>,
    last: Instant,
}

impl Course {
    fn push(&mut self, name: &'static str, outcome: Outcome) {
        let now = Instant::now();
        self.steps.push(Step { name, outcome, took: now - self.last });
        self.last = now;
    }

    fn passed(&mut self, name: &'static str, what: impl Into<String>) {
        self.push(name, Outcome::Passed(what.into()));
    }

    fn skipped(&mut self, name: &'static str, why: &str) {
        self.push(name, Outcome::Skipped(why.to_owned()));
    }

    fn failed(&mut self, name: &'static str, error: &Error) {
        self.push(name, Outcome::Failed(error.to_string(), error.class()));
    }

    /// The store did something else than it said.
    fn belied(&mut self, name: &'static str, what: &str) {
        self.push(name, Outcome::Failed(what.to_owned(), ErrorClass::UnderStore));
    }

    fn tried<T>(&mut self, name: &'static str, result: Result<T>, what: impl FnOnce(&T) -> String) -> Option<T> {
        match result {
            Ok(value) => {
                self.passed(name, what(&value));
                Some(value)
            }
            Err(error) => {
                self.failed(name, &error);
                None
            }
        }
    }
}

async fn limited<T>(shown: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Error::TimedOut { path: shown.to_owned(), seconds: STEP_PATIENCE.as_secs() };
    tokio::time::timeout(STEP_PATIENCE, call).await.map_err(late)?
}

async fn first_page(store: &Arc<dyn UnderStore>) -> Result<Vec<Entry>> {
    match store.list(&StorePath::root(), "").next().await {
        Some(page) => Ok(page?.entries),
        None => Ok(Vec::new()),
    }
}

async fn read_first(store: &Arc<dyn UnderStore>, entries: &[Entry], course: &mut Course) {
    let Some(file) = entries.iter().find(|entry| entry.stat.is_file() && entry.stat.len > 0) else {
        return course.skipped("read", "there is no file with content on the first page");
    };
    let bytes = file.stat.len.min(READ_BYTES);
    let reading = async {
        let path = StorePath::parse(&file.name)?;
        read(store, &path, &file.stat, bytes).await
    };
    let reading = limited(&file.name, reading).await;
    course.tried("read", reading, |read| format!("{} bytes of {:?}", read.len(), file.name));
}

async fn read(store: &Arc<dyn UnderStore>, path: &StorePath, stat: &Stat, bytes: u64) -> Result<Vec<u8>> {
    let mut landed = Vec::with_capacity(bytes as usize);
    let mut landing = |at: u64, piece: &[u8]| {
        landed.truncate(at as usize);
        landed.extend_from_slice(piece);
    };
    store.read(path, &stat.token, 0..bytes, &mut landing).await?;
    Ok(landed)
}

/// A directory that no user has: its name says whose it is, and when it was made.
fn probe_dir() -> Result<StorePath> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    StorePath::parse(&format!("citius-check-{}-{}", now.as_micros(), std::process::id()))
}

async fn write_all(store: &Arc<dyn UnderStore>, course: &mut Course, abilities: &mut [Ability]) {
    let dir = match probe_dir() {
        Ok(dir) => dir,
        Err(error) => return course.failed("write", &error),
    };
    let mut probes = Probes { store, dir: &dir, course, abilities, serial: 0 };
    probes.run().await;
    let deleting = limited(dir.as_str(), store.delete_dir(&dir, Depth::Recursive)).await;
    match deleting {
        // A directory that is a prefix went with its last object.
        Ok(()) | Err(Error::NotFound { .. }) => course.passed("clean up", "nothing is left"),
        Err(error) => {
            let words = format!("delete the directory {dir} by hand: {error}");
            course.push("clean up", Outcome::Failed(words, error.class()));
        }
    }
}

/// The writing steps.
struct Probes<'a> {
    store: &'a Arc<dyn UnderStore>,
    dir: &'a StorePath,
    course: &'a mut Course,
    abilities: &'a mut [Ability],
    serial: u8,
}

impl Probes<'_> {
    async fn run(&mut self) {
        let made = limited(self.dir.as_str(), self.store.mkdir(self.dir)).await;
        if let Err(error) = made {
            return self.course.failed("write", &error);
        }
        let (Ok(small), Ok(large), Ok(moved)) =
            (self.dir.join("small"), self.dir.join("large"), self.dir.join("moved"))
        else {
            return self.course.skipped("write", "its names would be too long here");
        };
        let first = Bytes::from_static(b"citius: the first write\n");
        let wrote = self.put(&small, std::slice::from_ref(&first), &Condition::MustNotExist).await;
        let came_back = match wrote {
            Ok(()) => self.content(&small).await,
            Err(error) => Err(error),
        };
        match came_back {
            Ok((_, content)) if content == first => self.course.passed("write", "what was written came back"),
            Ok(_) => return self.course.belied("write", "other bytes came back than were written"),
            Err(error) => return self.course.failed("write", &error),
        }
        self.condition("create only", "create a file only where none is", &small, &Condition::MustNotExist).await;
        self.replace(&small).await;
        self.large(&large).await;
        let renamed = limited(small.as_str(), self.store.rename(&small, &moved, &Condition::MustNotExist)).await;
        self.course.tried("rename", renamed, |_| String::new());
    }

    fn file_id(&mut self) -> FileId {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.serial += 1;
        FileId((now.as_nanos() << 8 | u128::from(self.serial)).to_be_bytes())
    }

    async fn put(&mut self, path: &StorePath, pieces: &[Bytes], condition: &Condition) -> Result<()> {
        let len = pieces.iter().map(|piece| piece.len() as u64).sum();
        let file_id = self.file_id();
        limited(path.as_str(), async {
            let mut staged = self.store.stage(path, file_id, Some(len)).await?;
            let written = async {
                for piece in pieces {
                    staged.write(piece.clone()).await?;
                }
                staged.seal().await?;
                staged.publish(condition).await
            };
            let written = written.await;
            if written.is_err() {
                // The failure is what is told; the directory is deleted anyway.
                let _ = staged.abandon().await;
            }
            written.map(drop)
        })
        .await
    }

    async fn content(&self, path: &StorePath) -> Result<(Stat, Vec<u8>)> {
        limited(path.as_str(), async {
            let stat = self.store.stat(path).await?;
            let content = read(self.store, path, &stat, stat.len).await?;
            Ok((stat, content))
        })
        .await
    }

    /// Whether a write under a condition that does not hold is refused.
    async fn condition(&mut self, step: &'static str, ability: &str, path: &StorePath, condition: &Condition) {
        let second = Bytes::from_static(b"citius: a write that must be refused\n");
        match self.put(path, &[second], condition).await {
            Err(Error::AlreadyExists { .. } | Error::Conflict { .. }) => {
                self.course.passed(step, "refused, as it must be");
                self.seen(ability, None);
            }
            Err(error) => self.course.failed(step, &error),
            Ok(()) => {
                let words =
                    "the store took a condition and ignored it; two writers of one name can overwrite each other here";
                self.course.belied(step, words);
                self.seen(ability, Some("no: the store ignores the condition"));
            }
        }
    }

    async fn replace(&mut self, path: &StorePath) {
        const ABILITY: &str = "replace only the version that was read";
        let token = match self.content(path).await {
            Ok((stat, _)) => stat.token,
            Err(error) => return self.course.failed("replace", &error),
        };
        let third = Bytes::from_static(b"citius: the third write\n");
        if let Err(error) = self.put(path, &[third], &Condition::Replaces(token.clone())).await {
            return self.course.failed("replace", &error);
        }
        self.condition("replace", ABILITY, path, &Condition::Replaces(token)).await;
    }

    async fn large(&mut self, path: &StorePath) {
        let pieces: Vec<Bytes> =
            (0..LARGE_BYTES / PIECE_BYTES).map(|at| Bytes::from(vec![at as u8; PIECE_BYTES])).collect();
        let wrote = self.put(path, &pieces, &Condition::Any).await;
        let came_back = match wrote {
            Ok(()) => self.content(path).await,
            Err(error) => Err(error),
        };
        match came_back {
            Ok((_, content)) if content == pieces.concat() => {
                self.course.passed("large write", format!("{} MiB came back", LARGE_BYTES >> 20));
            }
            Ok(_) => self.course.belied("large write", "other bytes came back than were written"),
            Err(error) => self.course.failed("large write", &error),
        }
    }

    fn seen(&mut self, name: &str, instead: Option<&'static str>) {
        if let Some(ability) = self.abilities.iter_mut().find(|ability| ability.name == name) {
            ability.known = Known::Seen;
            if let Some(other) = instead {
                ability.answer = other.into();
            }
        }
    }
}

/// What the system is documented to do, in words.
pub fn declared(capabilities: Capabilities) -> Vec<Ability> {
    let compares = |how| match how {
        Compares::Atomically => "yes, in one step",
        Compares::JustBefore => "looked at just before; another program may slip between",
    };
    let yes = |is| if is { "yes" } else { "no" };
    let Capabilities {
        writes,
        lists,
        create_only,
        replace,
        large_writes,
        native_rename,
        real_directories,
        shared_upload,
        descriptors,
        file_bytes_max,
        control_characters,
        refused_characters,
        path_bytes_max,
        drops_parts,
    } = capabilities;
    if !writes {
        let answers = [
            ("write, rename and delete", "no: it is only read"),
            ("list directories", if lists { "yes" } else { "no: its files are read by path" }),
            ("workers read its files without a copy through memory", yes(descriptors)),
        ];
        return answers.map(|(name, answer)| Ability { name, answer: answer.into(), known: Known::Declared }).into();
    }
    let answers = [
        ("create a file only where none is", compares(create_only)),
        ("replace only the version that was read", compares(replace)),
        ("both, for writes of many parts", compares(large_writes)),
        (
            "rename a directory",
            if native_rename { "in one step" } else { "each file is copied, looked at, then deleted" },
        ),
        (
            "directories",
            if real_directories { "exist by themselves" } else { "are what names have in common, or hidden markers" },
        ),
        ("several workers upload one file", yes(shared_upload)),
        ("workers read its files without a copy through memory", yes(descriptors)),
        ("control characters in names", yes(control_characters)),
        (
            "what a dead write has uploaded",
            if drops_parts {
                "is dropped by the store itself, in time"
            } else {
                "is known to the master's log, and deleted"
            },
        ),
        (
            "every other character in names",
            if refused_characters.is_empty() { "yes" } else { "no: some are refused by name" },
        ),
        (
            "long paths",
            if path_bytes_max < PATH_BYTES_MAX {
                "as long as the store's keys may be, with the mounted prefix: some 1,000 bytes; others are refused by name"
            } else {
                "yes"
            },
        ),
    ];
    let told = answers.map(|(name, answer)| Ability { name, answer: answer.into(), known: Known::Declared });
    let largest = file_bytes_max.map(|bytes| Ability {
        name: "the largest file",
        answer: format!("{} GiB", bytes >> 30).into(),
        known: Known::Declared,
    });
    told.into_iter().chain(largest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(diagnosis: &Diagnosis) -> Vec<(&'static str, char)> {
        let letter = |outcome: &Outcome| match outcome {
            Outcome::Passed(_) => '+',
            Outcome::Failed(..) => '-',
            Outcome::Skipped(_) => '.',
        };
        diagnosis.steps.iter().map(|step| (step.name, letter(&step.outcome))).collect()
    }

    #[tokio::test]
    async fn a_folder_passes_every_step_and_is_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("f"), "content").unwrap();
        let spec = MountSpec::new(folder.path().to_str().unwrap());
        let diagnosis = diagnose(&spec, Probe::Write).await;
        let expected = [
            ("settings", '+'),
            ("network", '+'),
            ("keys", '+'),
            ("place", '+'),
            ("list", '+'),
            ("read", '+'),
            ("write", '+'),
            ("create only", '+'),
            ("replace", '+'),
            ("large write", '+'),
            ("rename", '+'),
            ("clean up", '+'),
        ];
        assert_eq!(names(&diagnosis), expected, "{diagnosis:?}");
        assert_eq!(diagnosis.failure(), None);
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["f"]);
        let seen = diagnosis.abilities.iter().filter(|ability| ability.known == Known::Seen).count();
        assert_eq!(seen, 2);
    }

    #[tokio::test]
    async fn nothing_is_written_unless_asked_or_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let spec = MountSpec::new(folder.path().to_str().unwrap());
        let diagnosis = diagnose(&spec, Probe::Read).await;
        assert_eq!(names(&diagnosis)[4..], [("list", '+'), ("read", '.'), ("write", '.')]);
        let diagnosis = diagnose(&MountSpec { read_only: true, ..spec }, Probe::Write).await;
        assert_eq!(names(&diagnosis)[4..], [("list", '+'), ("read", '.'), ("write", '.')]);
        assert!(diagnosis.abilities[0].name.contains("write") && diagnosis.abilities[0].answer.starts_with("no"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_fails_is_said_once_and_nothing_after_it_is_claimed() {
        let diagnosis = diagnose(&MountSpec::new("/no/such/folder"), Probe::Write).await;
        assert_eq!(names(&diagnosis), [("settings", '+'), ("network", '+'), ("keys", '+'), ("place", '-')]);
        let diagnosis = diagnose(&MountSpec::new("gopher://x"), Probe::Write).await;
        assert_eq!(names(&diagnosis), [("settings", '-')]);
        assert!(diagnosis.abilities.is_empty());
    }
}
