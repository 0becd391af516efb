//! A master: its parts put together, started in order and stopped in order.
//!
//! ```text
//!  start: listeners ▶ format of the home ▶ root store checked ▶ log replayed ▶ cluster founded, the first time
//!         ▶ mounts opened ▶ schedule (resumes, settles, expires) ▶ RPC and HTTP serve
//! ```
//! The listeners come first, so that a port in use is told before anything is touched.
//!
//! The home: `raft/` is the log ([`crate::raft`]) with `raft/format`, which names how it is kept; `root/` is the default
//! under-store of `/`. Whoever calls locks the home.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use citius_wire::{ClusterId, MacKey, NamespacePath, SecretText, Token};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::error::Error;
use crate::http::{HttpServer, Site};
use crate::raft::{self, Raft, private};
use crate::rpc::{self, RpcServer};
use crate::schedule;
use crate::service::{Addresses, Conduct, FaultHook, Ledger, Service, open_checked, redacted_uri, store_spec};
use crate::state::{Change, MountOptions, MountSpec};
use crate::sync::{CACHE_ENTRIES_DEFAULT, SyncInterval};

/// How the home is kept by this release.
const FORMAT: &str = "citius-master 1";

/// How long a client may be gone before its write is given up.
const LEASE_MS_DEFAULT: u32 = 60_000;
/// How often workers are to be heard of.
const HEARTBEAT_MS_DEFAULT: u32 = 1_000;
/// Heartbeats that may be missed before a worker is taken out of the ring.
const HEARTBEATS_MISSED_MAX_DEFAULT: u32 = 10;
/// Of the process's descriptors, one in this many may be a connection of the metadata RPC: the log, the under-stores, and
/// in a process with a worker its blocks, need the others.
const CONNECTIONS_PART: u64 = 8;
/// One in this many may be a connection of HTTP: browsers and scrapers, of which there are few.
const HTTP_CONNECTIONS_PART: u64 = 16;
/// More than a few hundred are of no use.
const HTTP_CONNECTIONS_RANGE: std::ops::RangeInclusive<u64> = 16..=1_024;
/// One in this many may be a connection before its hello, at each door.
const GREETINGS_PART: u64 = 32;
/// Fewer would have to be quick, and more help nobody.
const GREETINGS_RANGE: std::ops::RangeInclusive<u64> = 16..=256;
/// Fewer make no cluster, whatever the limit; more are of no use to the few threads that serve them.
const CONNECTIONS_RANGE: std::ops::RangeInclusive<u64> = 16..=16_384;
/// How long a connection of the metadata RPC may be silent.
const RPC_IDLE_MS_DEFAULT: u64 = 600_000;
/// How long a capability lives.
const CAPABILITY_MS_DEFAULT: u64 = 3_600_000;

/// What `/` is, the first time a home is started.
#[derive(Clone, PartialEq, Eq)]
pub struct RootSpec {
    /// The under-store.
    pub uri: String,
    /// Its options; values may be secrets.
    pub options: Vec<(String, SecretText)>,
    /// How long its metadata is believed: -1 for ever, 0 never, else milliseconds; `None` for its scheme's default.
    pub sync_interval_ms: Option<i64>,
}

impl std::fmt::Debug for RootSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RootSpec").field("uri", &redacted_uri(&self.uri)).finish_non_exhaustive()
    }
}

/// How a master is started.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MasterConfig {
    /// The folder of all state. It is locked by the caller.
    pub home: PathBuf,
    /// Where the metadata RPC listens; port 0 picks one.
    pub rpc_listen: SocketAddr,
    /// Where HTTP listens; port 0 picks one.
    pub http_listen: SocketAddr,
    /// What lets clients and workers in.
    pub token: Token,
    /// The under-store of `/`; by default a folder in the home. Only the first start may choose.
    pub root: Option<RootSpec>,
    /// Names that HTTP clients may call this machine by, beside addresses and `localhost`.
    pub hosts: Vec<String>,
    /// How long a silent writer keeps its file.
    pub lease_ms: u32,
    /// How often workers are to be heard of.
    pub heartbeat_ms: u32,
    /// Heartbeats that may be missed before a worker is taken out of the ring.
    pub heartbeats_missed_max: u32,
    /// How long a capability lives.
    pub capability_ms: u64,
    /// Entries of the cache of under-store metadata.
    pub cache_entries_max: usize,
    /// Threads that serve the metadata RPC, at most 4; 0 for half the cores.
    pub rpc_threads: usize,
    /// Connections of the metadata RPC at a time.
    pub rpc_connections_max: usize,
    /// How long such a connection may be silent.
    pub rpc_idle_ms: u64,
    /// Connections of HTTP that have shown the token, at a time.
    pub http_connections_max: usize,
    /// Log written since the last snapshot that calls for the next one; `None` for the log's own choice.
    pub snapshot_log_bytes: Option<u64>,
    /// Whether `raft/` and `root/` are removed at the end.
    pub ephemeral: bool,
    /// Where a test lets the master die.
    #[doc(hidden)]
    pub fault: Option<FaultHook>,
}

impl MasterConfig {
    /// A master in `home` on ports of the system's choice, with the defaults of everything else.
    pub fn new(home: impl Into<PathBuf>, token: Token) -> Self {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            home: home.into(),
            rpc_listen: any_port,
            http_listen: any_port,
            token,
            root: None,
            hosts: Vec::new(),
            lease_ms: LEASE_MS_DEFAULT,
            heartbeat_ms: HEARTBEAT_MS_DEFAULT,
            heartbeats_missed_max: HEARTBEATS_MISSED_MAX_DEFAULT,
            capability_ms: CAPABILITY_MS_DEFAULT,
            cache_entries_max: CACHE_ENTRIES_DEFAULT,
            rpc_threads: 0,
            rpc_connections_max: part_of_descriptors(CONNECTIONS_PART, CONNECTIONS_RANGE),
            rpc_idle_ms: RPC_IDLE_MS_DEFAULT,
            http_connections_max: part_of_descriptors(HTTP_CONNECTIONS_PART, HTTP_CONNECTIONS_RANGE),
            snapshot_log_bytes: None,
            ephemeral: false,
            fault: None,
        }
    }
}

/// A master at work. Dropped without [`Master::shutdown`], it stops as a crash would stop it.
pub struct Master {
    service: Arc<Service>,
    addresses: (SocketAddr, SocketAddr),
    stop: watch::Sender<bool>,
    rpc: RpcServer,
    http: HttpServer,
    /// What is removed at the end.
    ephemeral: Vec<PathBuf>,
}

impl std::fmt::Debug for Master {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Master").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Master {
    /// Starts a master on the present tokio runtime, and returns when it serves.
    ///
    /// # Errors
    /// Any [`Error`]; nothing is left running then.
    pub async fn start(config: MasterConfig) -> Result<Self, Error> {
        let (rpc_listener, rpc_address) = listen("the metadata RPC", config.rpc_listen)?;
        let (http_listener, http_address) = listen("HTTP", config.http_listen)?;
        let raft_dir = config.home.join("raft");
        check_format(&raft_dir)?;
        let root = root_spec(&config)?;
        let runtime = Handle::current();

        let log = raft::Config {
            address: rpc_address.to_string(),
            ..config.snapshot_log_bytes.map_or_else(raft::Config::default, |snapshot_log_bytes| raft::Config {
                snapshot_log_bytes,
                ..raft::Config::default()
            })
        };
        let raft = Raft::open(&raft_dir, log, Ledger::default()).await?;
        let addresses = Addresses { rpc: rpc_address.to_string(), http: http_address.to_string() };
        let service = Service::new(raft, conduct(&config), addresses, runtime.clone());
        if let Err(error) = found(&service, &config, root).await {
            service.raft.shutdown().await;
            return Err(error);
        }
        service.open_mounts().await;

        let (stop, stopped) = watch::channel(false);
        schedule::start(&service, &runtime, &stopped);
        let greetings_max = part_of_descriptors(GREETINGS_PART, GREETINGS_RANGE);
        let shared = rpc::Shared {
            service: Arc::clone(&service),
            token: config.token.clone(),
            counters: Arc::clone(&service.rpc),
            connections_max: config.rpc_connections_max,
            greetings_max,
            idle_patience: Duration::from_millis(config.rpc_idle_ms),
            elsewhere: runtime.clone(),
            stop: stopped.clone(),
        };
        let rpc = RpcServer::start(rpc_listener, rpc_threads(config.rpc_threads), shared)
            .map_err(Error::listen("the metadata RPC", rpc_address))?;
        let site = Site {
            service: Arc::clone(&service),
            token: config.token,
            hosts: config.hosts,
            connections_max: config.http_connections_max,
            greetings_max,
        };
        let http =
            HttpServer::start(http_listener, site, &runtime, stopped).map_err(Error::listen("HTTP", http_address))?;
        let ephemeral = if config.ephemeral { vec![raft_dir, config.home.join("root")] } else { Vec::new() };
        Ok(Self { service, addresses: (rpc_address, http_address), stop, rpc, http, ephemeral })
    }

    /// Where the metadata RPC listens.
    pub fn rpc_address(&self) -> SocketAddr {
        self.addresses.0
    }

    /// Where HTTP listens.
    pub fn http_address(&self) -> SocketAddr {
        self.addresses.1
    }

    /// Whether it serves. It does once started, until its log fails.
    pub fn ready(&self) -> bool {
        self.service.check_lease().is_ok()
    }

    /// What is not as it should be, in words.
    pub fn warnings(&self) -> Vec<String> {
        self.service.cluster_info().warnings
    }

    /// Stops: accepts nothing more, closes connections, and closes the log with all that it acknowledged. Returns when
    /// another process may start in the same home.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        let rpc = self.rpc;
        drop(tokio::task::spawn_blocking(move || rpc.join()).await);
        self.http.join().await;
        self.service.raft.shutdown().await;
        for folder in self.ephemeral {
            if let Err(error) = fs::remove_dir_all(&folder) {
                tracing::warn!(folder = %folder.display(), %error, "what was ephemeral could not be removed");
            }
        }
    }
}

fn conduct(config: &MasterConfig) -> Conduct {
    Conduct {
        lease_ms: config.lease_ms,
        heartbeat_ms: config.heartbeat_ms,
        heartbeats_missed_max: config.heartbeats_missed_max,
        capability_ms: config.capability_ms,
        cache_entries_max: config.cache_entries_max,
        fault: config.fault.clone(),
    }
}

/// One in `part` of the files that this process may have open, within a range.
fn part_of_descriptors(part: u64, range: std::ops::RangeInclusive<u64>) -> usize {
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    (descriptors / part).clamp(*range.start(), *range.end()) as usize
}

fn rpc_threads(wanted: usize) -> usize {
    match wanted {
        0 => std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2).max(1),
        wanted => wanted,
    }
}

fn listen(what: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let listener = TcpListener::bind(address).map_err(Error::listen(what, address))?;
    let bound = listener.local_addr().map_err(Error::listen(what, address))?;
    Ok((listener, bound))
}

/// Checks how the log is kept, or writes it down the first time.
fn check_format(raft_dir: &Path) -> Result<(), Error> {
    private::create_dir(raft_dir).map_err(Error::home("create", raft_dir))?;
    let path = raft_dir.join("format");
    match fs::read_to_string(&path) {
        Ok(found) if found.trim_end() == FORMAT => Ok(()),
        Ok(found) => {
            let found = found.trim_end().chars().take(80).collect();
            Err(Error::OtherVersion { path, found, known: FORMAT })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // Written aside first: a format cut short by a crash would look like another release's.
            let aside = raft_dir.join("format.new");
            let write = || {
                let mut file = private::create_file(&aside)?;
                file.write_all(format!("{FORMAT}\n").as_bytes())?;
                file.sync_all()
            };
            write().map_err(Error::home("write", &aside))?;
            fs::rename(&aside, &path).map_err(Error::home("rename", &aside))
        }
        Err(error) => Err(Error::home("read", &path)(error)),
    }
}

/// What is to be mounted at `/` if this is the first start.
fn root_spec(config: &MasterConfig) -> Result<MountSpec, Error> {
    let spec = match &config.root {
        Some(root) => root.clone(),
        None => {
            let folder = config.home.join("root");
            fs::create_dir_all(&folder).map_err(Error::home("create", &folder))?;
            let folder = folder.canonicalize().map_err(Error::home("find", &folder))?;
            let uri = folder.to_str().map(|path| format!("file://{path}")).ok_or_else(|| {
                let not_utf8 = std::io::Error::new(std::io::ErrorKind::InvalidInput, "its path is not UTF-8");
                Error::home("use", &folder)(not_utf8)
            })?;
            RootSpec { uri, options: Vec::new(), sync_interval_ms: None }
        }
    };
    let uri = citius_understore::with_small_scheme(&spec.uri).into_owned();
    let sync_interval_ms = spec.sync_interval_ms.unwrap_or_else(|| SyncInterval::default_ms(&uri));
    SyncInterval::from_ms(sync_interval_ms).map_err(Error::Refused)?;
    Ok(MountSpec { uri, options: MountOptions(spec.options), read_only: false, sync_interval_ms })
}

/// Founds the cluster the first time; later, checks that the root is the one it was founded on.
async fn found(service: &Service, config: &MasterConfig, root: MountSpec) -> Result<(), Error> {
    let has = service.state(|state| state.mount_of(&NamespacePath::root()).map(|mount| mount.uri.clone()));
    if let Some(has) = has {
        return match &config.root {
            Some(asked) if asked.uri != has => {
                Err(Error::OtherRoot { has: redacted_uri(&has), asked: redacted_uri(&asked.uri) })
            }
            _ => Ok(()),
        };
    }
    let store = store_spec(&root.uri, &root.options.0, root.read_only);
    open_checked(&store).await.map_err(|failure| Error::Root { reason: failure.message })?;
    let (mut cluster, mut key) = ([0; 16], [0; 32]);
    getrandom::fill(&mut cluster).map_err(|error| Error::Random(error.to_string()))?;
    getrandom::fill(&mut key).map_err(|error| Error::Random(error.to_string()))?;
    let init = Change::Init { cluster: ClusterId(cluster), keys: vec![MacKey(key)], root };
    service.propose(None, init).await.map(drop).map_err(Error::Refused)
}
