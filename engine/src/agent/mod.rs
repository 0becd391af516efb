//! The agent: what a worker does beside serving. It registers, keeps its place in the ring by heartbeats, hands every
//! new view of the cluster to the shards, does the master's small tasks, and publishes written files.
//!
//! It runs on tokio and speaks wire messages; it never touches a shard's memory but through what a shard lends.

mod link;
mod master;
mod peers;
mod publish;
mod rounds;
mod traffic;
mod view;

pub(crate) use publish::{Publisher, Step};
pub(crate) use view::View;

use crate::driver::{Lent, ShardInbox, ShardMessage, keeps_blocks};
use crate::error::{Error, Result};
use bytes::Bytes;
use citius_understore::UnderStore;
use citius_wire::{
    BlockId, Counters, DIRTY_FILES_MAX, Epoch, Failure, FileKey, Heartbeat, Incarnation, MacKey, Member, MountId,
    MountTraffic, Operation, Origin, Outcome, ReadMode, Register, Right, Ring, Status, Task, Token, Work, WorkerId,
};
use master::{MasterClient, unexpected};
pub(crate) use peers::Peer;
use peers::{Asking, Peers};
use rounds::Rounds;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

/// How long starting up tries to register.
const REGISTER_PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two tries to register, or between two heartbeats that failed.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// How long a shard may take to answer a question of the agent.
const SHARD_PATIENCE: Duration = Duration::from_secs(10);
/// How long a read from another worker may take.
const PEER_PATIENCE: Duration = Duration::from_secs(30);
/// How long a block's former owner may take: past that the under-store is asked.
const FORMER_PATIENCE: Duration = Duration::from_secs(2);
/// How long after it joined a worker asks the former owners of its blocks. They forget them by and by, and a question in
/// vain is a round trip more on the way to the under-store.
const NEWCOMER_FOR: Duration = Duration::from_secs(3600);
/// Rings of past epochs that are remembered.
const RINGS_MAX: usize = 64;
/// How long a file may be unpersisted here before the master is asked whether it still knows it.
const DIRTY_AGE: Duration = Duration::from_secs(60);

/// The worker as its agent's tasks see it.
pub(crate) struct Node {
    pub(crate) worker: WorkerId,
    pub(crate) incarnation: Incarnation,
    pub(crate) runtime: Handle,
    pub(crate) master: MasterClient,
    pub(crate) publisher: Publisher,
    pub(crate) epoch: Arc<AtomicU64>,
    shards: Vec<Arc<ShardInbox>>,
    member: Member,
    /// When this worker's life began: for a while after it, what it owns may lie with who owned it before.
    joined: Instant,
    backing: String,
    memory_bytes: u64,
    view: RwLock<Arc<View>>,
    rings: Mutex<HashMap<Epoch, Arc<Ring>>>,
    peers: Peers,
    task_done: AtomicU64,
    leaving: AtomicBool,
    /// When the last refresh of the view ended; held while one is under way, so that many who need it ask once.
    refreshed: tokio::sync::Mutex<Option<Instant>>,
    /// Which unpersisted files the next heartbeat names.
    dirty_rounds: Mutex<Rounds>,
}

/// What a node is made of.
pub(crate) struct NodeParts {
    pub(crate) member: Member,
    pub(crate) master: String,
    pub(crate) token: Token,
    pub(crate) shards: Vec<Arc<ShardInbox>>,
    pub(crate) backing: String,
    pub(crate) memory_bytes: u64,
    pub(crate) runtime: Handle,
}

impl Node {
    pub(crate) fn new(parts: NodeParts) -> Arc<Self> {
        let (worker, incarnation) = (parts.member.worker, parts.member.incarnation);
        Arc::new(Self {
            worker,
            incarnation,
            runtime: parts.runtime,
            master: MasterClient::new(parts.master, parts.token.clone(), worker, incarnation),
            publisher: Publisher::default(),
            epoch: Arc::new(AtomicU64::new(0)),
            shards: parts.shards,
            member: parts.member,
            joined: Instant::now(),
            backing: parts.backing,
            memory_bytes: parts.memory_bytes,
            view: RwLock::new(Arc::new(View::default())),
            rings: Mutex::new(HashMap::new()),
            peers: Peers::new(parts.token, worker),
            task_done: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            refreshed: tokio::sync::Mutex::new(None),
            dirty_rounds: Mutex::default(),
        })
    }

    /// The newest view.
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says the same to every shard.
    pub(crate) fn broadcast(&self, message: impl Fn() -> ShardMessage) {
        for shard in &self.shards {
            if shard.send(message()).is_err() {
                tracing::error!("a shard's inbox is full: a message to it is lost");
            }
        }
    }

    /// Registers and takes the first view.
    ///
    /// # Errors
    /// [`Error::Master`] if the master refuses, or cannot be reached within [`REGISTER_PATIENCE`].
    pub(crate) async fn join(&self) -> Result<Duration> {
        let deadline = Instant::now() + REGISTER_PATIENCE;
        loop {
            let failure = match self.register().await {
                Ok(heartbeat) => return Ok(heartbeat),
                Err(failure) => failure,
            };
            if !failure.status.is_retryable() || Instant::now() >= deadline {
                return Err(Error::Master { address: self.master.address().to_owned(), reason: failure.to_string() });
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    async fn register(&self) -> Result<Duration, Failure> {
        let registered = self
            .master
            .call(&Register {
                member: self.member.clone(),
                backing: self.backing.clone(),
                memory_bytes: self.memory_bytes,
            })
            .await?;
        self.adopt(registered.view);
        Ok(Duration::from_millis(u64::from(registered.heartbeat_ms.max(10))))
    }

    /// Heartbeats until told to leave. A master that does not know us (any more) is registered with again.
    pub(crate) async fn live(&self, mut interval: Duration) {
        while !self.leaving.load(Ordering::Relaxed) {
            sleep(interval).await;
            match self.beat(false).await {
                Ok(()) => {}
                Err(failure) if failure.status == Status::NotFound => match self.register().await {
                    Ok(heartbeat) => interval = heartbeat,
                    Err(failure) => tracing::warn!(%failure, "cannot register again yet"),
                },
                Err(failure) => tracing::warn!(%failure, "a heartbeat failed"),
            }
        }
    }

    /// Tells the master that this worker leaves on purpose.
    pub(crate) async fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        if let Err(failure) = self.beat(true).await {
            tracing::warn!(%failure, "the master was not told that this worker leaves");
        }
    }

    /// Asks the master for what is new, now: a request met a mount, a key or an epoch that this worker does not know.
    pub(crate) async fn refresh(&self) -> Result<(), Failure> {
        let asked = Instant::now();
        let mut refreshed = self.refreshed.lock().await;
        if refreshed.is_some_and(|at| at > asked) {
            return Ok(());
        }
        let result = self.beat(false).await;
        *refreshed = Some(Instant::now());
        result
    }

    /// The under-store of a mount, asking the master about one that is not known yet.
    pub(crate) async fn store(&self, mount: MountId) -> Result<Arc<dyn UnderStore>, Failure> {
        match self.view().store(mount) {
            Err(failure) if failure.status == Status::NotFound => {}
            known => return known.cloned(),
        }
        self.refresh().await?;
        self.view().store(mount).cloned()
    }

    async fn beat(&self, leaving: bool) -> Result<(), Failure> {
        let heartbeat = Heartbeat {
            worker: self.worker,
            incarnation: self.incarnation,
            view_version: self.view().version,
            task_done: self.task_done.load(Ordering::Relaxed),
            counters: self.counters().await,
            traffic: self.traffic(),
            dirty: self.dirty().await,
            leaving,
        };
        let reply = self.master.call(&heartbeat).await?;
        // Two heartbeats may cross. A master that counts anew is registered with again, which takes any view.
        if let Some(view) = reply.view.filter(|view| view.version > self.view().version) {
            self.adopt(*view);
        }
        for task in reply.tasks {
            self.perform(&task);
        }
        Ok(())
    }

    fn perform(&self, task: &Task) {
        if task.number <= self.task_done.load(Ordering::Relaxed) {
            return;
        }
        match task.work {
            Work::Rekey { from, to } => self.broadcast(|| ShardMessage::Rekey { from, to }),
            Work::Drop { file } => {
                self.publisher.forget(file);
                self.broadcast(|| ShardMessage::Drop { file });
            }
        }
        self.task_done.store(task.number, Ordering::Relaxed);
    }

    /// Takes a view and tells the shards to look.
    fn adopt(&self, cluster: citius_wire::ClusterView) {
        let mut slot = self.view.write().unwrap_or_else(PoisonError::into_inner);
        *slot = Arc::new(slot.next(cluster));
        self.epoch.store(slot.ring.epoch.0, Ordering::Relaxed);
        drop(slot);
        self.broadcast(|| ShardMessage::View);
    }

    /// What the shards counted, summed.
    pub(crate) async fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        for answer in self.ask_all(|reply| ShardMessage::Counters { reply }).await {
            sum.add(&answer);
        }
        sum
    }

    async fn dirty(&self) -> Vec<FileKey> {
        let files = self.ask_all(|reply| ShardMessage::Dirty { age: DIRTY_AGE, reply }).await.into_iter().flatten();
        let mut rounds = self.dirty_rounds.lock().unwrap_or_else(PoisonError::into_inner);
        rounds.next(files.collect(), DIRTY_FILES_MAX)
    }

    /// Asks every shard, and gives the answers of those that did.
    async fn ask_all<Answer>(&self, question: impl Fn(oneshot::Sender<Answer>) -> ShardMessage) -> Vec<Answer> {
        let mut waiting = Vec::with_capacity(self.shards.len());
        for shard in &self.shards {
            let (reply, answer) = oneshot::channel();
            if shard.send(question(reply)).is_ok() {
                waiting.push(answer);
            }
        }
        let mut answers = Vec::with_capacity(waiting.len());
        for answer in waiting {
            if let Ok(Ok(answer)) = timeout(SHARD_PATIENCE, answer).await {
                answers.push(answer);
            }
        }
        answers
    }

    fn traffic(&self) -> Vec<MountTraffic> {
        self.view().stores().map(|(mount, store)| traffic::of_mount(mount, store.traffic().totals())).collect()
    }

    /// The bytes of a sealed block of a file being written, from whichever worker of its ring holds it.
    pub(crate) async fn block_of_writer(&self, right: &Right, index: u32, length: u32) -> Result<Bytes, Failure> {
        let Origin::Writer { epoch, .. } = right.origin else {
            return Err(Failure::new(Status::PermissionDenied, "only a file being written can be staged"));
        };
        let ring = self.ring_of(epoch).await?;
        let owner = ring
            .owner(right.place, index)
            .ok_or_else(|| Failure::new(Status::Unavailable, "no worker lives in the ring of this file"))?;
        let member = &ring.members[owner.member];
        if member.worker == self.worker {
            let block = BlockId { file: right.file, index };
            let lent = self.lend(owner.shard, block).await?;
            if lent.as_ref().len() != length as usize {
                return Err(Failure::new(
                    Status::InvalidArgument,
                    format!("block {index} has {} bytes and was to be staged with {length}", lent.as_ref().len()),
                ));
            }
            lent.verify().map_err(|sector| {
                Failure::new(
                    Status::Corrupt,
                    format!(
                        "sector {sector} of block {index} of {} was damaged in memory before it was stored: write the \
                         file again",
                        right.path
                    ),
                )
            })?;
            return Ok(Bytes::from_owner(lent));
        }
        let peer = Peer::of(&ring, owner);
        let start = u64::from(index) * u64::from(right.block_bytes);
        let asking = Asking { right, key: self.signing_key()?, mode: ReadMode::Cache, patience: PEER_PATIENCE };
        let read = self.peers.read(&peer, &asking, start..start + u64::from(length)).await;
        read.map_err(|failure| {
            let is_here = |other: &Member| other.worker == member.worker && other.incarnation == member.incarnation;
            if !failure.status.is_retryable() || self.view().ring.members.iter().any(is_here) {
                return failure;
            }
            // Asking again cannot help: the only copy went with its worker.
            let words = format!("block {index} of {} is gone with its worker: write the file again", right.path);
            Failure::new(Status::Aborted, words)
        })
    }

    /// Tells the shard that holds a block that its under-store has it. If it cannot be told, the block stays pinned
    /// until the file is published: room is lost, nothing else.
    pub(crate) async fn staged(&self, right: &Right, index: u32) {
        let Origin::Writer { epoch, .. } = right.origin else { return };
        let Ok(ring) = self.ring_of(epoch).await else { return };
        let Some(owner) = ring.owner(right.place, index) else { return };
        let member = &ring.members[owner.member];
        if member.worker == self.worker {
            let block = BlockId { file: right.file, index };
            if let Some(shard) = self.shards.get(usize::from(owner.shard)) {
                drop(shard.send(ShardMessage::Staged { block, keep: keeps_blocks(right) }));
            }
            return;
        }
        let peer = Peer::of(&ring, owner);
        let Ok(key) = self.signing_key() else { return };
        let asking = Asking { right, key, mode: ReadMode::Cache, patience: PEER_PATIENCE };
        if let Err(failure) = self.peers.tell_staged(&peer, &asking, index).await {
            tracing::debug!(%failure, "a worker was not told that its block is staged");
        }
    }

    async fn lend(&self, shard: u16, block: BlockId) -> Result<Lent, Failure> {
        let gone = || Failure::new(Status::Unavailable, format!("shard {shard} does not answer"));
        let (reply, answer) = oneshot::channel();
        self.shards
            .get(usize::from(shard))
            .ok_or_else(gone)?
            .send(ShardMessage::Lend { block, reply })
            .map_err(|_| gone())?;
        timeout(SHARD_PATIENCE, answer).await.map_err(|_| gone())?.map_err(|_| gone())?
    }

    /// Who owned the block at `offset` before this worker joined, and may still hold it.
    pub(crate) fn former_owner(&self, right: &Right, offset: u64) -> Option<Peer> {
        if self.joined.elapsed() > NEWCOMER_FOR {
            return None;
        }
        let index = u32::try_from(offset / u64::from(right.block_bytes)).ok()?;
        let view = self.view();
        let owner = view.ring.owner_before(self.worker, right.place, index)?;
        Some(Peer::of(&view.ring, owner))
    }

    /// What a peer has in memory of a range of an under-store file.
    ///
    /// # Errors
    /// `NotFound` if it has not all of it; or why it could not be asked.
    pub(crate) async fn resident_at(&self, peer: &Peer, right: &Right, range: Range<u64>) -> Result<Bytes, Failure> {
        let asking = Asking { right, key: self.signing_key()?, mode: ReadMode::Resident, patience: FORMER_PATIENCE };
        self.peers.read(peer, &asking, range).await
    }

    /// The key that the newest capabilities are signed with.
    fn signing_key(&self) -> Result<MacKey, Failure> {
        let key = self.view().keys.first().cloned();
        key.ok_or_else(|| Failure::new(Status::Unavailable, "no key to sign with yet"))
    }

    /// The ring of an epoch, from memory or from the master.
    async fn ring_of(&self, epoch: Epoch) -> Result<Arc<Ring>, Failure> {
        let view = self.view();
        if view.ring.epoch == epoch {
            return Ok(Arc::new(view.ring.clone()));
        }
        if let Some(ring) = self.rings.lock().unwrap_or_else(PoisonError::into_inner).get(&epoch) {
            return Ok(Arc::clone(ring));
        }
        let ring = match self.master.operate(Operation::Ring { epoch }, PEER_PATIENCE).await? {
            Outcome::Ring(ring) => Arc::new(*ring),
            other => return Err(unexpected(&other, FileKey([0; 16]))),
        };
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        if rings.len() >= RINGS_MAX {
            rings.clear();
        }
        rings.insert(epoch, Arc::clone(&ring));
        Ok(ring)
    }
}
