//! A worker: shards, doors and agent, put together, started and ended.
//!
//! Order of the start: shards (they say what memory they got), listeners (a port in use is found before the cluster is
//! told anything), node, registration, and only then the doors open: who is let in finds a worker that knows its cluster.

use crate::agent::{Node, NodeParts};
use crate::driver::{self, ShardInbox, ShardMessage, ShardParts};
use crate::error::{Error, Result};
use crate::host::{SHARD_ADVICE, ShardThread};
use crate::net::acceptor::{Acceptor, bind_unix, sweep_sockets};
use crate::tier::mem::Limits;
use citius_understore::Bridge;
use citius_wire::units::PAGE_BYTES;
use citius_wire::{Counters, Incarnation, Member, Token, WorkerId};
use std::fmt;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::sync_channel;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Fetches from network under-stores at once, for each shard.
const FETCHES_PER_SHARD: usize = 64;
/// How old a socket must be to be taken for a dead process's: it may be bound and not listen yet.
const SOCKET_AGE_MIN: Duration = Duration::from_secs(60);
/// Of the process's descriptors, one in this many may be a client's socket.
const CONNECTIONS_PART: u64 = 8;
/// One in this many may be a connection before its hello, at each door; within bounds, below which peers would have to be
/// quick, and above which it helps nobody.
const GREETINGS_PART: u64 = 32;
const GREETINGS_RANGE: std::ops::RangeInclusive<u64> = 16..=256;
/// Connections of a worker, at the least and at the most. All may be of one shard, where each has an operation in the
/// ring for receiving and one for sending.
const CONNECTIONS_RANGE: std::ops::RangeInclusive<u64> = 16..=16_384;

/// How a worker is to be.
#[derive(Clone)]
pub struct WorkerConfig {
    /// Its id, kept over its lives.
    pub worker: u64,
    /// This life of it, greater than any before.
    pub incarnation: u64,
    /// `HOST:PORT` of the master's metadata RPC.
    pub master: String,
    /// The cluster's token.
    pub token: Token,
    /// Where it answers reads and writes; port 0 picks one.
    pub data_listen: String,
    /// `HOST:PORT` under which others reach it; `None` for what it listens on.
    pub advertise: Option<String>,
    /// Its Unix socket; `None` for no local clients.
    pub socket_path: Option<PathBuf>,
    /// This host's name.
    pub host: String,
    /// How many shards.
    pub shards: u16,
    /// A core for each shard; shards beyond the list are not pinned.
    pub cores: Vec<usize>,
    /// Bytes of its memory tier.
    pub memory_bytes: u64,
}

/// The memory that a worker got.
#[derive(Clone, Debug)]
pub struct MemoryGrant {
    /// Bytes, over all shards.
    pub bytes: u64,
    /// What they are made of.
    pub backing: &'static str,
    /// What is not as it could be, and what to do about it.
    pub notes: Vec<String>,
}

/// A running worker.
pub struct Worker {
    node: Arc<Node>,
    shards: Vec<Arc<ShardInbox>>,
    threads: Vec<ShardThread>,
    tasks: Vec<JoinHandle<()>>,
    data_address: SocketAddr,
    socket_path: Option<PathBuf>,
    memory: MemoryGrant,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("data_address", &self.data_address).finish_non_exhaustive()
    }
}

impl Worker {
    /// Starts a worker on the calling tokio runtime and registers it.
    ///
    /// # Errors
    /// Why it cannot: a port in use, no io_uring, no memory, a master that refuses.
    pub async fn start(config: WorkerConfig) -> Result<Self> {
        if config.shards == 0 {
            return Err(Error::Config("a worker needs at least one shard".into()));
        }
        let runtime = Handle::current();
        let listener = TcpListener::bind(&config.data_listen).await.map_err(|source| Error::Listen {
            address: config.data_listen.clone(),
            flag: "--data-listen",
            source,
        })?;
        let listen_failed =
            |source| Error::Listen { address: config.data_listen.clone(), flag: "--data-listen", source };
        let data_address = listener.local_addr().map_err(listen_failed)?;
        let (unix, socket_path) = match config.socket_path.as_deref().map(open_socket).transpose() {
            Ok(unix) => (unix, config.socket_path.clone()),
            Err(error) => {
                tracing::warn!(%error, "clients on this machine are served over TCP, without mapped memory");
                (None, None)
            }
        };

        let Shards { threads, inboxes: shards, memory } = start_shards(&config, &runtime).await?;
        let member = Member {
            worker: WorkerId(config.worker),
            incarnation: Incarnation(config.incarnation),
            data_address: config.advertise.clone().unwrap_or_else(|| data_address.to_string()),
            socket_path: socket_name(socket_path.as_deref()),
            host: config.host.clone(),
            shards: config.shards,
            weight: (memory.bytes / PAGE_BYTES as u64).max(1),
        };
        let node = Node::new(NodeParts {
            member,
            master: config.master,
            token: config.token.clone(),
            shards: shards.clone(),
            backing: memory.backing.to_owned(),
            memory_bytes: memory.bytes,
            runtime,
        });
        node.broadcast(|| ShardMessage::Node(Arc::clone(&node)));
        let heartbeat = match node.join().await {
            Ok(heartbeat) => heartbeat,
            Err(error) => {
                end_shards(&shards, threads).await;
                return Err(error);
            }
        };

        let descriptors = Limits::of_process().descriptors;
        let part = |part: u64, range: &std::ops::RangeInclusive<u64>| {
            (descriptors / part).clamp(*range.start(), *range.end()) as usize
        };
        let acceptor = Arc::new(Acceptor {
            token: config.token,
            worker: node.worker,
            epoch: Arc::clone(&node.epoch),
            shards: shards.clone(),
            connections_max: part(CONNECTIONS_PART, &CONNECTIONS_RANGE),
            greetings_max: part(GREETINGS_PART, &GREETINGS_RANGE),
            open: Arc::new(AtomicUsize::new(0)),
        });
        let mut tasks = vec![tokio::spawn(Arc::clone(&acceptor).serve_tcp(listener))];
        if let Some(unix) = unix {
            tasks.push(tokio::spawn(acceptor.serve_unix(unix)));
        }
        let living = Arc::clone(&node);
        tasks.push(tokio::spawn(async move { living.live(heartbeat).await }));
        Ok(Self { node, shards, threads, tasks, data_address, socket_path, memory })
    }

    /// Where it answers.
    pub fn data_address(&self) -> SocketAddr {
        self.data_address
    }

    /// How many shards it has.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The memory that it got.
    pub fn memory(&self) -> &MemoryGrant {
        &self.memory
    }

    /// What its shards counted, summed.
    pub async fn counters(&self) -> Counters {
        self.node.counters().await
    }

    /// Tells the master that it leaves, finishes what is under way, and ends.
    pub async fn stop(self) {
        self.node.leave().await;
        for task in &self.tasks {
            task.abort();
        }
        end_shards(&self.shards, self.threads).await;
        if let Some(path) = self.socket_path {
            // Another process may have replaced it; then it is not ours to mind.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The shards that have started.
struct Shards {
    threads: Vec<ShardThread>,
    inboxes: Vec<Arc<ShardInbox>>,
    memory: MemoryGrant,
}

/// Starts them one by one. If one cannot, those before it end.
async fn start_shards(config: &WorkerConfig, runtime: &Handle) -> Result<Shards> {
    let bridge = Bridge::new(runtime, FETCHES_PER_SHARD * usize::from(config.shards));
    let memory = MemoryGrant { bytes: 0, backing: "", notes: Vec::new() };
    let mut shards = Shards { threads: Vec::new(), inboxes: Vec::new(), memory };
    for number in 0..config.shards {
        if let Err(error) = start_shard(config, number, &bridge, &mut shards) {
            end_shards(&shards.inboxes, shards.threads).await;
            return Err(error);
        }
    }
    Ok(shards)
}

fn start_shard(config: &WorkerConfig, number: u16, bridge: &Bridge, shards: &mut Shards) -> Result<()> {
    let (started, grants) = sync_channel(1);
    let parts = ShardParts {
        number,
        shards: config.shards,
        core: config.cores.get(usize::from(number)).copied(),
        memory_bytes: config.memory_bytes / u64::from(config.shards),
        bridge: bridge.clone(),
    };
    let thread = driver::start(parts, started)?;
    let Ok(started) = grants.recv() else {
        // The executor gave up before it ran anything of ours.
        let reason = thread.join().err().unwrap_or_else(|| "its thread ended at once".to_owned());
        return Err(Error::Shard { shard: number, reason, advice: SHARD_ADVICE });
    };
    shards.threads.push(thread);
    let started = started?;
    shards.inboxes.push(started.inbox);
    let memory = &mut shards.memory;
    memory.bytes += u64::from(started.grant.pages) * PAGE_BYTES as u64;
    memory.backing = started.grant.backing.name();
    if let Some(note) = started.grant.note.filter(|note| !memory.notes.contains(note)) {
        memory.notes.push(note);
    }
    Ok(())
}

async fn end_shards(shards: &[Arc<ShardInbox>], threads: Vec<ShardThread>) {
    for shard in shards {
        shard.insist(ShardMessage::End);
    }
    let join = move || {
        for thread in threads {
            if let Err(reason) = thread.join() {
                tracing::error!(reason, "a shard ended badly");
            }
        }
    };
    let joined = tokio::task::spawn_blocking(join).await;
    if let Err(error) = joined {
        tracing::error!(%error, "the shards' threads cannot be waited for");
    }
}

fn open_socket(path: &Path) -> Result<tokio::net::UnixListener> {
    let failed = |source| Error::Socket { path: path.to_owned(), source };
    if let Some(dir) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        sweep_sockets(dir, SOCKET_AGE_MIN);
    }
    bind_unix(path).map_err(failed)
}

fn socket_name(path: Option<&Path>) -> String {
    path.and_then(Path::to_str).unwrap_or_default().to_owned()
}
