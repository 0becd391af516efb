//! Real servers killed, and paused, in the middle of a mixed workload: no read gives wrong bytes, what was acknowledged is there
//! with exactly its bytes, what was not is wholly there or wholly absent once it is settled, every failure says of what it
//! is, and retries are bounded.
//!
//! Servers that keep what they acknowledge in memory have nothing to start again with: of Ceph only its gateway is killed, unless
//! it is on bluestore, and Azurite, which writes down what it has every few seconds, is only paused.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
#[cfg(feature = "more-servers")]
use citius_understore::testing::servers::{CephFs, Dialect, Minio, Sftp, Swift, Webdav};
use citius_understore::{
    Condition, Error, FileId, MountSpec, Settled, StagedRecord, StorePath, UnderStore, open,
    testing::servers::{Azurite, CephGateway, CephStore, Gluster, Hdfs, SeaweedFs, Server, StandIn},
};
use tokio::task::JoinSet;

/// Bytes of the file that is read all the time, and of a write of several parts.
const KNOWN_BYTES: usize = 12 << 20;
const LARGE_BYTES: usize = (9 << 20) + 4321;
const SMALL_BYTES: usize = 70_001;
/// Things that are done before a fault, and after it.
const STEPS: u64 = 25;
/// How long the workload may take to come so far: servers start anew meanwhile.
const ROUND_MAX: Duration = Duration::from_secs(240);
const PAUSE: Duration = Duration::from_secs(3);
/// The traffic's budget (`traffic/retry.rs`): what it holds, and what each request and second adds.
const RETRIES_HELD: f64 = 100.0;
const RETRIES_PER_REQUEST: f64 = 0.2;
const RETRIES_PER_SECOND: f64 = 1.0;

/// A server that can be killed.
trait Killable: Server + Sized {
    fn killed_and_started(&mut self) -> impl Future<Output = io::Result<()>>;
    fn ended(self) -> io::Result<()>;
}

macro_rules! killable {
    ($($system:ty),+ $(,)?) => {
        $(impl Killable for $system {
            fn killed_and_started(&mut self) -> impl Future<Output = io::Result<()>> {
                self.restart()
            }

            fn ended(self) -> io::Result<()> {
                self.stop()
            }
        })+
    };
}

killable!(SeaweedFs, StandIn, CephGateway, Azurite, Hdfs, Gluster);
#[cfg(feature = "more-servers")]
killable!(CephFs, Minio, Swift, Webdav, Sftp);

fn path(text: &str) -> StorePath {
    StorePath::parse(text).unwrap()
}

/// Content that differs at every offset and for every seed.
fn body(len: usize, seed: u64) -> Bytes {
    let mixed = |at: usize| (at as u64).wrapping_mul(31).wrapping_add(seed.wrapping_mul(7919)) >> 3;
    (0..len).map(|at| mixed(at) as u8).collect::<Vec<u8>>().into()
}

/// A file that must be there, or a write that nobody knows the end of.
#[derive(Debug)]
enum Written {
    Acknowledged {
        name: String,
        len: usize,
        seed: u64,
    },
    Doubtful {
        record: StagedRecord,
        len: usize,
        seed: u64,
    },
    /// A rename whose answer was lost: one of the two names has it, or both.
    Moving {
        from: String,
        to: String,
        len: usize,
        seed: u64,
    },
}

/// What the tasks of a workload share.
struct Work {
    store: Arc<dyn UnderStore>,
    /// What errors may call the server.
    endpoint: String,
    written: Mutex<Vec<Written>>,
    steps: AtomicU64,
    failures: AtomicU64,
    next: AtomicU64,
    /// Steps after which the tasks end.
    steps_max: AtomicU64,
}

impl Work {
    fn goes_on(&self) -> bool {
        self.steps.load(Relaxed) < self.steps_max.load(Relaxed)
    }

    fn done(&self) {
        self.steps.fetch_add(1, Relaxed);
    }

    /// Holds a failure against what all of them must say.
    async fn failed(&self, name: &str, error: &Error) {
        let text = error.to_string();
        // A file system's temporaries are named by their writes.
        let is_of = [name, &self.endpoint, ".citius-staging/"].iter().any(|what| text.contains(what));
        assert!(is_of, "it does not say of what it is: {text}");
        assert!(
            error.is_transient() || matches!(error, Error::StagedLost { .. } | Error::Conflict { .. }),
            "{error:?}"
        );
        self.failures.fetch_add(1, Relaxed);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    async fn read(self: Arc<Self>, known: Bytes) {
        while self.goes_on() {
            let number = self.next.fetch_add(1, Relaxed) as usize;
            let start = number.wrapping_mul(1_234_577) % (KNOWN_BYTES - 1);
            let end = KNOWN_BYTES.min(start + 1 + number.wrapping_mul(77_773) % (3 << 20));
            match self.get("known", start as u64..end as u64).await {
                Ok(bytes) => {
                    assert!(bytes == known[start..end], "wrong bytes at {start}..{end}");
                    self.done();
                }
                Err(error) => self.failed("known", &error).await,
            }
        }
    }

    async fn get(&self, name: &str, range: std::ops::Range<u64>) -> Result<Vec<u8>, Error> {
        let stat = self.store.stat(&path(name)).await?;
        let mut bytes = Vec::new();
        let mut landing = |at: u64, part: &[u8]| {
            assert_eq!(at, range.start + bytes.len() as u64, "bytes land in order and once");
            bytes.extend_from_slice(part);
        };
        self.store.read(&path(name), &stat.token, range.clone(), &mut landing).await?;
        assert_eq!(bytes.len() as u64, range.end - range.start);
        Ok(bytes)
    }

    /// Writes files that were never there, each with bytes of its own. Every third is renamed when it is there.
    async fn write(self: Arc<Self>, len: usize) {
        while self.goes_on() {
            let seed = self.next.fetch_add(1, Relaxed);
            let name = format!("f{seed}");
            match self.put(&name, len, seed).await {
                Ok(()) if seed.is_multiple_of(3) => self.rename(name, len, seed).await,
                Ok(()) => self.keep(Written::Acknowledged { name, len, seed }),
                Err((error, record)) => {
                    if let Some(record) = record {
                        self.keep(Written::Doubtful { record, len, seed });
                    }
                    self.failed(&name, &error).await;
                }
            }
        }
    }

    fn keep(&self, written: Written) {
        self.written.lock().unwrap().push(written);
        self.done();
    }

    async fn put(&self, name: &str, len: usize, seed: u64) -> Result<(), (Error, Option<StagedRecord>)> {
        let mut id = [7; 16];
        id[8..].copy_from_slice(&seed.to_be_bytes());
        let staged = self.store.stage(&path(name), FileId(id), Some(len as u64)).await;
        let mut staged = staged.map_err(|error| (error, None))?;
        let content = body(len, seed);
        let wrote = async {
            for piece in content.chunks(1 << 20) {
                staged.write(content.slice_ref(piece)).await?;
            }
            staged.publish(&Condition::MustNotExist).await
        };
        match wrote.await {
            Ok(_) => Ok(()),
            Err(error) => Err((error, Some(staged.begun()))),
        }
    }

    async fn rename(&self, from: String, len: usize, seed: u64) {
        let to = format!("{from}-moved");
        match self.store.rename(&path(&from), &path(&to), &Condition::MustNotExist).await {
            Ok(_) => self.keep(Written::Acknowledged { name: to, len, seed }),
            Err(error) => {
                let shown = from.clone();
                self.keep(Written::Moving { from, to, len, seed });
                self.failed(&shown, &error).await;
            }
        }
    }

    /// Does what must succeed now that the server is back, with some patience.
    async fn patiently<T>(&self, what: &str, call: impl AsyncFn() -> Result<T, Error>) -> Result<T, Error> {
        let deadline = Instant::now() + ROUND_MAX;
        loop {
            match call().await {
                Err(error) if error.is_transient() => {
                    assert!(Instant::now() < deadline, "{what}: {error}");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                other => return other,
            }
        }
    }

    /// Whether a file is there, with exactly its bytes or not at all.
    async fn is_whole(&self, name: &str, len: usize, seed: u64) -> bool {
        let got = self.patiently(name, async || {
            let there = self.store.stat(&path(name)).await?.len;
            assert_eq!(there, len as u64, "{name} is there in part");
            self.get(name, 0..there).await
        });
        match got.await {
            Ok(bytes) => {
                assert!(bytes == body(len, seed), "{name} has other bytes");
                true
            }
            Err(Error::NotFound { .. }) => false,
            Err(other) => panic!("{name}: {other}"),
        }
    }

    async fn verify(&self, written: Written) -> &'static str {
        match written {
            Written::Acknowledged { name, len, seed } => {
                assert!(self.is_whole(&name, len, seed).await, "{name} was acknowledged and is gone");
                "acknowledged"
            }
            Written::Doubtful { record, len, seed } => {
                let name = record.path.to_string();
                let settled = self.patiently(&name, async || self.store.settle(&record).await).await;
                let is_published = matches!(settled, Ok(Settled::Published(_)));
                assert_eq!(self.is_whole(&name, len, seed).await, is_published, "{name}: {settled:?}");
                if is_published { "settled as published" } else { "settled as absent" }
            }
            Written::Moving { from, to, len, seed } => {
                let (is_here, is_there) = (self.is_whole(&from, len, seed).await, self.is_whole(&to, len, seed).await);
                assert!(is_here || is_there, "{from} was lost on its way to {to}");
                "on its way"
            }
        }
    }
}

/// One workload with a fault in its middle.
async fn round(work: &Arc<Work>, known: &Bytes, strike: impl AsyncFnOnce() -> io::Result<()>) -> io::Result<()> {
    let begun = work.steps.load(Relaxed);
    work.steps_max.store(u64::MAX, Relaxed);
    let mut tasks = JoinSet::new();
    for _ in 0..2 {
        tasks.spawn(Arc::clone(work).read(known.clone()));
    }
    for len in [LARGE_BYTES, SMALL_BYTES, SMALL_BYTES + 1] {
        tasks.spawn(Arc::clone(work).write(len));
    }
    let reaches = async |steps: u64| {
        let deadline = Instant::now() + ROUND_MAX;
        while work.steps.load(Relaxed) < steps {
            assert!(Instant::now() < deadline, "the workload does not come on: {} steps", work.steps.load(Relaxed));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    reaches(begun + STEPS).await;
    strike().await?;
    let back = work.steps.load(Relaxed);
    work.steps_max.store(back + STEPS, Relaxed);
    while let Some(ended) = tokio::time::timeout(ROUND_MAX, tasks.join_next()).await.expect("a task hangs") {
        ended.unwrap();
    }
    Ok(())
}

async fn endures(name: &str, mut server: impl Killable, spec: MountSpec, fault: Fault) {
    let start = Instant::now();
    let store = open(&spec).unwrap();
    store.check().await.unwrap();
    let is_endpoint = |name: &str| ["endpoint", "auth_url", "base_url"].iter().any(|end| name.ends_with(end));
    let endpoint = spec.options.iter().find(|(name, _)| is_endpoint(name));
    let endpoint = endpoint.map_or(spec.uri.as_str(), |(_, value)| value.expose());
    let endpoint = url::Url::parse(endpoint).unwrap();
    // What is mounted on this machine is called by its folder.
    let endpoint = match endpoint.port() {
        Some(port) => format!("{}:{port}", endpoint.host_str().unwrap()),
        None => endpoint.path().to_owned(),
    };
    let work = Arc::new(Work {
        store: Arc::clone(&store),
        endpoint,
        written: Mutex::default(),
        steps: AtomicU64::new(0),
        failures: AtomicU64::new(0),
        next: AtomicU64::new(1),
        steps_max: AtomicU64::new(u64::MAX),
    });
    work.put("known", KNOWN_BYTES, 0).await.unwrap();
    let known = body(KNOWN_BYTES, 0);
    round(&work, &known, async || {
        server.pause()?;
        tokio::time::sleep(PAUSE).await;
        server.resume()
    })
    .await
    .unwrap();
    let paused = work.failures.load(Relaxed);
    if fault == Fault::Kill {
        round(&work, &known, async || server.killed_and_started().await).await.unwrap();
    }
    let written = std::mem::take(&mut *work.written.lock().unwrap());
    let verified = futures::future::join_all(written.into_iter().map(|written| work.verify(written))).await;
    let totals = store.traffic().totals();
    let seconds = start.elapsed().as_secs_f64();
    let retries_max = RETRIES_HELD + RETRIES_PER_REQUEST * totals.requests as f64 + RETRIES_PER_SECOND * seconds;
    assert!(totals.retries as f64 <= retries_max, "{} retries of {} requests", totals.retries, totals.requests);
    let mut outcomes = std::collections::BTreeMap::new();
    for outcome in verified {
        *outcomes.entry(outcome).or_insert(0) += 1;
    }
    println!(
        "{name}: {} steps, {paused} failures when paused, {} when killed, {} retries of {} requests, writes {outcomes:?}, {seconds:.1} s",
        work.steps.load(Relaxed),
        work.failures.load(Relaxed) - paused,
        totals.retries,
        totals.requests,
    );
    server.ended().unwrap();
}

/// How the middle of a workload is struck, after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    /// By the pause alone.
    None,
}

/// With patience for no longer than a test has.
fn impatient(spec: MountSpec) -> MountSpec {
    spec.option("request_timeout", "5s").option("retry_timeout", "15s")
}

macro_rules! systems {
    ($($(#[$attribute:meta])* $name:ident: $start:expr, |$server:ident| $spec:expr, $fault:expr;)+) => {
        $($(#[$attribute])* #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let $server = $start.await.unwrap();
            let spec = $spec;
            endures(stringify!($name), $server, spec, $fault).await;
        })+
    };
}

systems! {
    s3_of_seaweedfs: SeaweedFs::start(), |server| impatient(server.s3().mount("p")), Fault::Kill;
    s3_of_ceph: CephGateway::start(CephStore::Memory), |server| impatient(server.s3().mount("p")), Fault::Kill;
    azurite: Azurite::start(), |server| impatient(server.mount("p")), Fault::None;
    hdfs: Hdfs::start(), |server| {
        let spec = MountSpec::new(format!("{}{}", server.name_node(), server.folder()));
        impatient(spec.option("hadoop_user", server.user()))
    }, Fault::Kill;
    gluster: Gluster::start(), |server| MountSpec::new(format!("file://{}", server.path().display())), Fault::Kill;
}

#[cfg(feature = "more-servers")]
systems! {
    webdav_of_seaweedfs: SeaweedFs::start(), |server| {
        impatient(MountSpec::new(server.webdav().replace("http:", "webdav:")))
    }, Fault::Kill;
    gcs: StandIn::start(Dialect::Gcs), |server| impatient(server.mount("p")), Fault::Kill;
    oss: StandIn::start(Dialect::Oss), |server| impatient(server.mount("p")), Fault::Kill;
    swift_of_ceph: CephGateway::start(CephStore::Memory), |server| impatient(server.swift_mount("p")), Fault::Kill;
    s3_of_ceph_on_bluestore: CephGateway::start(CephStore::Bluestore), |server| {
        impatient(server.s3().mount("p"))
    }, Fault::Kill;
    cephfs: CephFs::start(CephStore::Bluestore), |server| {
        MountSpec::new(format!("file://{}", server.path().display()))
    }, Fault::Kill;
    s3_of_minio: Minio::start(), |server| impatient(server.s3().mount("p")), Fault::Kill;
    swift: Swift::start(), |server| impatient(server.mount("p")), Fault::Kill;
    webdav_of_apache: Webdav::start(), |server| {
        let (user, password) = server.keys();
        impatient(MountSpec::new(server.endpoint()).option("webdav_user", user).option("webdav_password", password))
    }, Fault::Kill;
    sftp: Sftp::start(), |server| {
        let spec = MountSpec::new(format!("sftp://{}{}", server.address(), server.folder().display()))
            .option("sftp_user", server.user())
            .option("sftp_key_file", server.key_file().display().to_string())
            .option("sftp_known_hosts", server.known_hosts().display().to_string());
        impatient(spec)
    }, Fault::Kill;
}
