//! kill -9 at any moment of many writes: what was acknowledged is whole, what was not is whole or not there, and
//! nothing is left lying about.
//!
//! Every path has one writer, so what may be at it is known: what was last acknowledged, or any attempt since whose
//! answer did not come. The under-stores are looked at while no process runs, the namespace after the restart.

use crate::cluster::worker;
use crate::support::{Process, below, dice, noise, poll};
use citius_client::{Client, Config, CreateOptions, Local, Persistence, Status, WriteType};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const ROUNDS: u64 = 100;
/// Rounds in which a worker dies alone.
const WORKER_ROUNDS: u64 = 30;
const WRITERS: u64 = 4;
/// Paths of one writer in each mount: few, so that most writes are overwrites.
const PATHS: u64 = 4;
const BLOCK_BYTES: u32 = 2 << 20;
const LENGTH_MAX: usize = 5 << 20;
/// How far apart two contents may begin in the noise that all are cut from.
const SHIFT_MAX: u64 = 1 << 20;

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Nothing,
    /// A part of the noise.
    Bytes {
        start: usize,
        length: usize,
    },
    /// Written to memory only, which is gone.
    Lost,
}

/// What may be at a path.
struct Possible {
    /// In the namespace, after a restart.
    seen: Vec<Content>,
    /// In the under-store.
    stored: Vec<Content>,
}

impl Possible {
    fn new() -> Self {
        Self { seen: vec![Content::Nothing], stored: vec![Content::Nothing] }
    }

    /// A write or a deletion that may have happened.
    fn add(&mut self, content: Content, in_store: bool) {
        self.seen.push(content);
        if in_store {
            self.stored.push(content);
        }
    }

    /// The same has happened: an answer came, or somebody looked.
    fn settle(&mut self, content: Content, in_store: bool) {
        self.seen = vec![content];
        if in_store {
            self.stored = vec![content];
        }
    }
}

/// What may be where, by path.
#[derive(Default)]
struct Oracle {
    paths: Mutex<BTreeMap<String, Possible>>,
    /// Changed under the lock of `paths`. A writer of an earlier round is not heard any more.
    round: AtomicU64,
    acknowledged: AtomicU64,
}

impl Oracle {
    /// Says what a writer of a round knows of a path. `false` if that round is over.
    fn say(&self, round: u64, path: &str, change: impl FnOnce(&mut Possible)) -> bool {
        let mut paths = self.paths.lock().unwrap();
        let is_now = self.round.load(Ordering::Relaxed) == round;
        if is_now {
            change(paths.entry(path.to_owned()).or_insert_with(Possible::new));
        }
        is_now
    }

    /// Ends a round: what its writers have not said by now stays open.
    fn turn(&self) {
        let _paths = self.paths.lock().unwrap();
        self.round.fetch_add(1, Ordering::Relaxed);
    }

    fn each(&self, mut look: impl FnMut(&str, &mut Possible)) {
        for (path, possible) in self.paths.lock().unwrap().iter_mut() {
            look(path, possible);
        }
    }
}

/// A process with a folder mounted at /data beside its root.
struct Scene {
    process: Process,
    /// The one to be killed, if not all is in one process.
    worker: Option<Process>,
    data: tempfile::TempDir,
    noise: Arc<Vec<u8>>,
    oracle: Arc<Oracle>,
}

impl Scene {
    /// Master and worker in one process.
    fn new() -> Self {
        Self::over(|mount| Process::local(&["--mount", mount]))
    }

    /// A worker beside its master.
    fn of_two() -> Self {
        let master = |mount: &str| Process::start(&["master", "--listen", "127.0.0.1:0", "--mount", mount]);
        let mut scene = Self::over(master);
        scene.worker = Some(worker(&scene.process));
        scene
    }

    fn over(start: impl FnOnce(&str) -> Process) -> Self {
        let data = tempfile::tempdir().unwrap();
        let process = start(&format!("/data={}", data.path().display()));
        let noise = Arc::new(noise(LENGTH_MAX + SHIFT_MAX as usize, 1));
        Self { process, worker: None, data, noise, oracle: Arc::default() }
    }

    /// The process that dies.
    fn victim(&mut self) -> &mut Process {
        self.worker.as_mut().unwrap_or(&mut self.process)
    }

    fn root(&self) -> PathBuf {
        self.process.home.join("root")
    }

    /// Where the under-store keeps a path.
    fn stored_at(&self, path: &str) -> PathBuf {
        match path.strip_prefix("/data/") {
            Some(within) => self.data.path().join(within),
            None => self.root().join(&path[1..]),
        }
    }

    /// Both folders, while nobody runs: every visible file is one that may be there, and all of it.
    fn check_stores(&self) {
        let mut found: Vec<PathBuf> = below(self.data.path());
        found.extend(below(&self.root()));
        found.retain(|path| !is_temporary(path));
        self.oracle.each(|path, possible| {
            let at = self.stored_at(path);
            found.retain(|path| *path != at);
            let bytes = std::fs::read(&at).ok();
            let content = possible.stored.iter().rev().find(|content| self.matches(**content, bytes.as_deref()));
            let Some(content) = content else {
                panic!("{} holds {:?} bytes, not one of {:?}", at.display(), bytes.map(|it| it.len()), possible.stored);
            };
            // A deletion that is logged is carried out by who comes next.
            let content = *content;
            possible.stored.retain(|other| *other == content || *other == Content::Nothing);
        });
        assert!(found.is_empty(), "nobody wrote {found:?}");
    }

    fn matches(&self, content: Content, bytes: Option<&[u8]>) -> bool {
        match (content, bytes) {
            (Content::Nothing, None) => true,
            (Content::Bytes { start, length }, Some(bytes)) => bytes == &self.noise[start..start + length],
            _ => false,
        }
    }

    /// All paths, after a restart: listed, stat'ed and read as one of what may be there. Once recovery has ended it stays
    /// that; before, a publication that the dead had begun may still be found to have happened.
    fn check_namespace(&self, client: &Client, is_recovered: bool) {
        self.oracle.each(|path, possible| {
            let (seen, bytes) = look(client, path);
            let is_right = |content: &&Content| match seen {
                Seen::Nothing => **content == Content::Nothing,
                Seen::Lost => **content == Content::Lost,
                Seen::Whole => self.matches(**content, Some(&bytes)),
            };
            let Some(content) = possible.seen.iter().rev().find(is_right).copied() else {
                panic!("{path} is {seen:?} with {} bytes, not one of {:?}", bytes.len(), possible.seen);
            };
            if is_recovered {
                possible.seen = vec![content];
            }
        });
    }

    /// Waits until recovery has settled what the dead had begun.
    fn await_recovery(&self, client: &Client) {
        poll("no publication or change of names of the dead is open", || {
            let warnings = client.cluster().unwrap().warnings;
            let open = warnings.iter().find(|words| words.contains("published") || words.contains("changes of names"));
            open.map_or(Ok(()), |words| Err(words.clone()))
        });
    }

    /// Waits until recovery has removed what the dead left.
    fn await_clean(&self) {
        poll("no temporary is left in the under-stores", || {
            let left = below(self.data.path()).into_iter().chain(below(&self.root())).find(|path| is_temporary(path));
            left.map_or(Ok(()), |path| Err(format!("{}", path.display())))
        });
    }
}

#[derive(Clone, Copy, Debug)]
enum Seen {
    Nothing,
    Lost,
    Whole,
}

fn look(client: &Client, path: &str) -> (Seen, Vec<u8>) {
    let info = match client.stat(path) {
        Ok(info) => info,
        Err(error) if error.status() == Status::NotFound => return (Seen::Nothing, Vec::new()),
        Err(error) => panic!("{error:?}"),
    };
    if info.persistence == Persistence::Lost {
        match client.open(path).and_then(|file| file.read_at(&mut [0; 1], 0)) {
            Err(error) => assert_eq!(error.status(), Status::DataLost, "{path}"),
            // Recovery has found another version meanwhile.
            Ok(_) => return look(client, path),
        }
        let name = path.rsplit('/').next().unwrap();
        let parent = if path.starts_with("/data/") { "/data" } else { "/" };
        let listed: Vec<_> = client.list(parent).unwrap().map(|entry| entry.unwrap().path).collect();
        assert!(listed.iter().any(|it| it.ends_with(name)), "{path} is lost and not listed: {listed:?}");
        return (Seen::Lost, Vec::new());
    }
    let file = client.open(path).unwrap();
    let mut bytes = vec![0; file.len() as usize];
    match file.read_exact_at(&mut bytes, 0) {
        Err(error) if error.status() == Status::VersionChanged => look(client, path),
        read => {
            read.unwrap();
            (Seen::Whole, bytes)
        }
    }
}

fn is_temporary(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str().to_string_lossy().starts_with(".citius-staging"))
}

/// Writes until the process dies under it.
fn write_on(client: &Client, writer: u64, round: u64, seed: u64, noise: &[u8], oracle: &Oracle) {
    let mut state = seed;
    while oracle.round.load(Ordering::Relaxed) == round {
        let i = dice(&mut state) % PATHS;
        let path = match dice(&mut state) % 2 {
            0 => format!("/data/w{writer}-{i}"),
            _ => format!("/w{writer}-{i}"),
        };
        if dice(&mut state).is_multiple_of(12) {
            oracle.say(round, &path, |possible| possible.add(Content::Nothing, true));
            match client.delete(&path, false) {
                Ok(()) => drop(oracle.say(round, &path, |possible| possible.settle(Content::Nothing, true))),
                Err(error) if matches!(error.status(), Status::NotFound | Status::FileBusy) => {}
                Err(_) => return,
            }
            continue;
        }
        let write_type = match dice(&mut state) % 6 {
            0 | 1 => WriteType::Through,
            2 => WriteType::MustCache,
            _ => WriteType::CacheThrough,
        };
        let length = match dice(&mut state) % 8 {
            0 => 0,
            1 => 1,
            2 => 4096,
            3 => (BLOCK_BYTES as usize) + 1,
            4 => dice(&mut state) as usize % LENGTH_MAX,
            _ => dice(&mut state) as usize % 100_000,
        };
        let start = (dice(&mut state) % SHIFT_MAX) as usize;
        let options =
            CreateOptions { overwrite: true, write_type, block_bytes: BLOCK_BYTES, ..CreateOptions::default() };
        let mut file = match client.create(&path, options) {
            Ok(file) => file,
            Err(error) if error.status() == Status::FileBusy => continue,
            Err(_) => return,
        };
        let in_store = write_type != WriteType::MustCache;
        // In memory only means: gone at the next restart, unless there was nothing to lose.
        let is_kept = in_store || length == 0;
        let content = if is_kept { Content::Bytes { start, length } } else { Content::Lost };
        if file.append(&noise[start..start + length]).is_err() {
            return;
        }
        oracle.say(round, &path, |possible| possible.add(content, in_store));
        if file.close().is_err() {
            return;
        }
        oracle.say(round, &path, |possible| possible.settle(content, in_store));
        oracle.acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_half_is_seen() {
    kill_again_and_again(Scene::new(), ROUNDS);
}

/// The master lives on, and settles what the worker of a life before had begun to publish.
#[test]
fn nothing_acknowledged_is_lost_with_a_worker() {
    kill_again_and_again(Scene::of_two(), WORKER_ROUNDS);
}

fn kill_again_and_again(mut scene: Scene, rounds: u64) {
    let seed = std::env::var("CITIUS_TEST_SEED").map_or_else(
        |_| std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1,
        |text| text.parse().unwrap(),
    );
    println!("CITIUS_TEST_SEED={seed}");
    let mut state = seed;
    let mut ended = Vec::new();
    for round in 0..rounds {
        for writer in 0..WRITERS {
            // Half of them write by mapped memory where it pays, half by TCP.
            let local = if writer % 2 == 0 { Local::Auto } else { Local::Never };
            let patience = Duration::from_millis(500);
            let config = Config { local, timeout: patience, transfer_timeout: patience, ..Config::default() };
            let client = scene.process.client_with(config);
            let (noise, oracle, seed) = (Arc::clone(&scene.noise), Arc::clone(&scene.oracle), dice(&mut state));
            ended.push(std::thread::spawn(move || write_on(&client, writer, round, seed, &noise, &oracle)));
        }
        std::thread::sleep(Duration::from_micros(1_000 + dice(&mut state) % 100_000));
        scene.victim().kill();
        // Answers that were on their way are heard now, or never: then either is right. The writers themselves end
        // later, since each tries for a while to tell the dead master that it gives up.
        std::thread::sleep(Duration::from_millis(10));
        scene.oracle.turn();
        println!("round {round}: {} closes acknowledged", scene.oracle.acknowledged.load(Ordering::Relaxed));
        scene.check_stores();
        scene.victim().restart();
        let client = scene.process.client();
        scene.check_namespace(&client, false);
        scene.await_recovery(&client);
        scene.check_namespace(&client, true);
        scene.await_clean();
    }
    for writer in ended {
        writer.join().unwrap();
    }
    let acknowledged = scene.oracle.acknowledged.load(Ordering::Relaxed);
    assert!(acknowledged > rounds, "only {acknowledged} closes were acknowledged: this tested nothing");
}

#[test]
fn a_must_cache_file_that_died_says_so_and_can_be_replaced_or_deleted() {
    let mut scene = Scene::new();
    let client = scene.process.client();
    let must_cache = CreateOptions { write_type: WriteType::MustCache, ..CreateOptions::default() };
    for path in ["/data/gone", "/data/again"] {
        let mut file = client.create(path, must_cache).unwrap();
        file.append(&scene.noise[..3_000_000]).unwrap();
        file.close().unwrap();
        assert!(scene.process.run(&["cat", path]) == scene.noise[..3_000_000]);
    }
    scene.process.run(&["mkdir", "/data/kept"]);
    scene.process.kill();
    scene.process.restart();

    let said = scene.process.fails(6, &["cat", "/data/gone"]);
    assert!(said.contains("/data/gone") && said.contains("memory"), "{said}");
    assert_eq!(scene.process.text(&["ls", "/data"]), "again\ngone\nkept/\n");
    let stat = scene.process.json(&["stat", "/data/gone"]);
    assert_eq!((stat["length"].as_u64(), stat["persisted"].as_bool()), (Some(3_000_000), Some(false)), "{stat}");

    scene.process.run(&["rm", "/data/gone"]);
    scene.process.fails(3, &["cat", "/data/gone"]);
    let client = scene.process.client();
    let mut file = client.create("/data/again", CreateOptions { overwrite: true, ..CreateOptions::default() }).unwrap();
    file.append(b"again").unwrap();
    file.close().unwrap();
    assert_eq!(scene.process.text(&["cat", "/data/again"]), "again");
    assert_eq!(std::fs::read(scene.data.path().join("again")).unwrap(), b"again");
    assert_eq!(scene.process.text(&["ls", "/data"]), "again\nkept/\n");
}

#[test]
fn mounts_and_names_are_replayed() {
    let mut scene = Scene::new();
    let other = tempfile::tempdir().unwrap();
    crate::support::put(other.path().join("f"), b"there");
    scene.process.run(&["mount", "add", "/other", &other.path().display().to_string(), "--read-only"]);
    scene.process.run(&["mkdir", "-p", "/data/a/b"]);
    scene.process.run(&["mv", "/data/a", "/data/c"]);
    for _ in 0..3 {
        scene.process.kill();
        scene.process.restart();
        assert_eq!(scene.process.text(&["cat", "/other/f"]), "there");
        scene.process.fails(4, &["rm", "/other/f"]);
        assert_eq!(scene.process.text(&["ls", "/data/c"]).trim(), "b/");
        scene.process.fails(3, &["ls", "/data/a"]);
    }
    scene.process.run(&["mount", "rm", "/other"]);
    scene.process.kill();
    scene.process.restart();
    scene.process.fails(3, &["cat", "/other/f"]);
}
