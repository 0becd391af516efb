//! The log as the rest of the control plane sees it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::impls::BasicNode;
use openraft::{RaftMetrics, SnapshotPolicy};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::Result;
use super::alone::Alone;
use super::applier::{Applied, Applier, Snapshots};
use super::batch::framed_bytes;
use super::config::{Config, ENTRY_BYTES_MAX, MEMBER_ID, PROPOSALS_QUEUED_MAX, READY_WAIT};
use super::error::Error;
use super::keeper::{self, Pace};
use super::latch::Latch;
use super::log::{LogStore, index_after};
use super::machine::Machine;
use super::private;
use super::proposer::{Faults, Proposal, Proposer};
use super::snapshot::SnapshotDir;
use super::storage::LogStorage;
use super::types::Types;
use super::wal::WalLog;

type Core<M> = openraft::Raft<Types, Applier<M>>;

/// A handle to the replicated log and the state it makes. Clones are the same log; when the last
/// is dropped the log closes in the background.
pub struct Raft<M: Machine> {
    shared: Arc<Shared<M>>,
    queue: mpsc::Sender<Proposal<M::Reply>>,
}

impl<M: Machine> Clone for Raft<M> {
    fn clone(&self) -> Self {
        Raft { shared: self.shared.clone(), queue: self.queue.clone() }
    }
}

/// What handles and the raft thread share.
struct Shared<M> {
    snapshots: Arc<Snapshots<M>>,
    /// Whether this member leads and has applied an entry of its own term.
    serving: AtomicBool,
    faults: Faults,
    /// Weak: the raft thread closes the log although handles may still be about.
    log: Weak<Mutex<WalLog>>,
    stop: Arc<Notify>,
    stopped: watch::Receiver<bool>,
}

/// Figures of the log. Indices count from 0, so "none" is one less than the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// Whether this member leads.
    pub leads: bool,
    /// Entries ever written: the index that the next one gets.
    pub next_index: u64,
    /// Entries ever applied: the index that is applied next.
    pub applied_next_index: u64,
    /// The first index not in the current snapshot; 0 without a snapshot.
    pub snapshot_next_index: u64,
    /// Size of the current snapshot.
    pub snapshot_bytes: u64,
    /// Size of the log's files.
    pub log_bytes: u64,
    /// Batches of writes that were synced since the log was opened.
    pub syncs: u64,
}

impl<M: Machine> Raft<M> {
    /// Opens the log in `dir`, or starts one, and brings `machine`, which must be empty, to the
    /// state it records. Returns once this member leads and everything acknowledged is applied.
    pub async fn open(dir: impl Into<PathBuf>, config: Config, machine: M) -> Result<Raft<M>> {
        let dir = dir.into();
        let (tell, told) = oneshot::channel();
        let (tell_stopped, stopped) = watch::channel(false);
        let path = dir.clone();
        std::thread::Builder::new()
            .name("citius-raft".to_string())
            .spawn(move || {
                run(&path, &config, machine, stopped, tell);
                tell_stopped.send_replace(true);
            })
            .map_err(Error::io("start a thread for the log in", &dir))?;
        told.await.unwrap_or_else(|_| {
            let why = "its thread panicked while opening; the panic is in the output".to_string();
            Err(Error::Failed { path: dir, why })
        })
    }

    /// Puts a command into the log. The reply comes once the command is durable and applied.
    ///
    /// Commands of concurrent callers share entries; their order in the log is any. Dropping the
    /// future does not take the command back.
    ///
    /// # Errors
    /// [`Error::NotLeader`], [`Error::TooLarge`]: not logged. [`Error::Failed`],
    /// [`Error::Uncertain`], [`Error::Closed`]: it may have been, so retry with a serial that the
    /// machine deduplicates.
    pub async fn propose(&self, command: impl Into<Bytes>) -> Result<M::Reply> {
        let command = command.into();
        check_size(std::iter::once(command.len()))?;
        let (reply, replied) = oneshot::channel();
        self.enqueue(Proposal::One { command, reply }, replied).await
    }

    /// Puts commands into the log as parts of one entry: all or none of them are logged, and
    /// nothing of other callers is applied between them. The replies are in their order.
    ///
    /// # Errors
    /// As [`Raft::propose`].
    pub async fn propose_batch(&self, commands: Vec<Bytes>) -> Result<Vec<M::Reply>> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        check_size(commands.iter().map(Bytes::len))?;
        let (reply, replied) = oneshot::channel();
        self.enqueue(Proposal::Many { commands, reply }, replied).await
    }

    async fn enqueue<T>(&self, proposal: Proposal<M::Reply>, replied: oneshot::Receiver<Result<T>>) -> Result<T> {
        let stopped = || self.shared.faults.stopped();
        if self.stopped_by().is_some() {
            return Err(stopped());
        }
        self.queue.send(proposal).await.map_err(|_| stopped())?;
        replied.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Reads the state. Commands wait while `read` runs, so it should be short; it must not
    /// propose, read again, or wait for anything.
    ///
    /// What it sees is linearizable if [`Raft::read_lease`] said so at any time after the request
    /// came in.
    pub fn with_state<T>(&self, read: impl FnOnce(&M) -> T) -> T {
        read(&self.shared.snapshots.applied.read().machine)
    }

    /// Whether local reads are linearizable now: two atomic loads.
    ///
    /// A sole member's lease holds for as long as it leads: nobody else can acknowledge a write,
    /// and it replies only after applying. With more members this is where a quorum's answers
    /// within the lease time are to be counted; until then a member of such a cluster never serves.
    ///
    /// # Errors
    /// [`Error::NotLeader`]; [`Error::Failed`] if the log stopped.
    pub fn read_lease(&self) -> Result<()> {
        if self.shared.faults.latch.why().is_some() {
            return Err(self.shared.faults.stopped());
        }
        if !self.shared.serving.load(Ordering::Acquire) {
            return Err(Error::NotLeader { leader: None });
        }
        Ok(())
    }

    /// The error that stopped the log, if one did.
    pub fn stopped_by(&self) -> Option<&str> {
        self.shared.faults.latch.why()
    }

    /// Figures of the log; those of a closed log are zero where they came from its files.
    pub fn metrics(&self) -> Metrics {
        let (snapshot, snapshot_bytes) = self.shared.snapshots.dir.figures();
        let (bounds, stats) = match self.shared.log.upgrade() {
            Some(log) => {
                let log = log.lock();
                (Some(log.bounds()), log.stats())
            }
            None => Default::default(),
        };
        Metrics {
            leads: self.shared.serving.load(Ordering::Acquire),
            next_index: index_after(bounds.and_then(|bounds| bounds.last)),
            applied_next_index: index_after(self.shared.snapshots.applied.read().head.last),
            snapshot_next_index: index_after(snapshot),
            snapshot_bytes,
            log_bytes: stats.bytes_on_disk,
            syncs: stats.syncs,
        }
    }

    /// Closes the log: what was proposed is carried out, what comes later is refused. Returns when
    /// its files are closed and another process may open them.
    pub async fn shutdown(&self) {
        self.shared.stop.notify_one();
        let mut stopped = self.shared.stopped.clone();
        // An error means the thread is gone without saying so: it panicked, and is stopped too.
        drop(stopped.wait_for(|stopped| *stopped).await);
    }
}

fn check_size(commands: impl Iterator<Item = usize>) -> Result<()> {
    let bytes = framed_bytes(commands);
    if bytes > ENTRY_BYTES_MAX {
        return Err(Error::TooLarge { bytes, bytes_max: ENTRY_BYTES_MAX });
    }
    Ok(())
}

/// The raft thread. openraft's tasks, the proposer and the applier pass an entry on some ten times
/// before it is answered; on one thread that is a queue, across threads each would be a wake-up.
fn run<M: Machine>(
    dir: &Path,
    config: &Config,
    machine: M,
    stopped: watch::Receiver<bool>,
    tell: oneshot::Sender<Result<Raft<M>>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(tell.send(Err(Error::io("start a runtime for the log in", dir)(error)))),
    };
    runtime.block_on(async {
        match start(dir, config, machine, stopped).await {
            Err(error) => drop(tell.send(Err(error))),
            Ok((core, raft, proposer)) => {
                let shared = raft.shared.clone();
                drop(tell.send(Ok(raft)));
                proposer.run().await;
                shared.serving.store(false, Ordering::Release);
                // An error is a panic of openraft's task, which the panic hook has reported.
                drop(core.shutdown().await);
            }
        }
    });
    // Dropping the runtime ends the tasks and with them the log, which syncs and unlocks.
}

type Started<M> = (Core<M>, Raft<M>, Proposer<M>);

async fn start<M: Machine>(
    dir: &Path,
    config: &Config,
    mut machine: M,
    stopped: watch::Receiver<bool>,
) -> Result<Started<M>> {
    private::create_dir(dir).map_err(Error::io("create the folder", dir))?;
    let latch = Arc::new(Latch::default());
    let faults = Faults { dir: dir.into(), latch: latch.clone() };
    // The log first: it holds the lock.
    let log = WalLog::open(dir, config, latch.clone())?;
    let (snapshot_dir, head) = SnapshotDir::open(&dir.join("snapshots"), &mut machine)?;
    let purged = log.bounds().purged;
    if index_after(purged) > index_after(head.last) {
        let what = format!("its log starts after {purged:?}, but the snapshot ends at {:?}", head.last);
        return Err(Error::corrupt(dir, what));
    }

    let log = Arc::new(Mutex::new(log));
    let applied = Arc::new(RwLock::new(Applied { machine, head }));
    let pace = Pace::new(config.snapshot_log_bytes.max(snapshot_dir.figures().1));
    let snapshots = Arc::new(Snapshots::new(applied, snapshot_dir, pace));
    let core = Core::new(
        MEMBER_ID,
        Arc::new(openraft_config()),
        Alone,
        LogStorage::new(log.clone()),
        Applier::new(snapshots.clone(), latch),
    )
    .await
    .map_err(|fatal| faults.fatal(&fatal))?;
    lead(&core, config, &faults, &snapshots.applied).await?;
    tokio::spawn(keeper::keep(core.clone(), snapshots.clone(), config.snapshot_log_bytes));

    let (queue, queued) = mpsc::channel(PROPOSALS_QUEUED_MAX);
    let stop = Arc::new(Notify::new());
    let shared = Arc::new(Shared {
        snapshots,
        serving: AtomicBool::new(true),
        faults: faults.clone(),
        log: Arc::downgrade(&log),
        stop: stop.clone(),
        stopped,
    });
    tokio::spawn(watch_leadership(core.clone(), Arc::downgrade(&shared)));
    let proposer = Proposer { raft: core.clone(), queue: queued, stop, faults };
    Ok((core, Raft { shared, queue }, proposer))
}

/// Founds the cluster or stands for election at once, as a sole member need not wait to hear
/// whether somebody leads; returns when everything in the log is applied.
async fn lead<M: Machine>(
    core: &Core<M>,
    config: &Config,
    faults: &Faults,
    applied: &RwLock<Applied<M>>,
) -> Result<()> {
    let fatal = |fatal| faults.fatal(&fatal);
    if !core.is_initialized().await.map_err(fatal)? {
        let members = BTreeMap::from([(MEMBER_ID, BasicNode::new(&config.address))]);
        if let Err(error) = core.initialize(members).await {
            let why = format!("cannot found the cluster: {error}");
            return Err(Error::Failed { path: faults.dir.to_path_buf(), why });
        }
    } else {
        let is_sole = core
            .with_raft_state(|state| state.membership_state.effective().voter_ids().eq([MEMBER_ID]))
            .await
            .map_err(fatal)?;
        if !is_sole {
            return Err(Error::corrupt(
                &faults.dir,
                "it belongs to a cluster of several members, which this version cannot join",
            ));
        }
        core.trigger().elect(false).await.map_err(fatal)?;
    }
    let mut applied_before = None;
    while core.wait(Some(READY_WAIT)).metrics(has_applied_own_term, "leading").await.is_err() {
        let applied_now = applied.read().head.last;
        match faults.stopped() {
            Error::Closed if applied_now > applied_before => applied_before = applied_now,
            Error::Closed => {
                let waited_ms = READY_WAIT.as_millis() as u64;
                return Err(Error::NotReady { path: faults.dir.to_path_buf(), waited_ms });
            }
            failed => return Err(failed),
        }
    }
    Ok(())
}

/// Raft's condition for reads: an entry of the leader's own term is committed, and so all before.
fn has_applied_own_term(metrics: &RaftMetrics<Types>) -> bool {
    let applied = metrics.last_applied.as_ref();
    metrics.state.is_leader() && applied.is_some_and(|id| id.leader_id.term == metrics.current_term)
}

/// Ends the lease when leadership does. A sole member loses it only by failing.
async fn watch_leadership<M: Machine>(core: Core<M>, shared: Weak<Shared<M>>) {
    let mut metrics = core.server_metrics();
    loop {
        let leads = {
            let now = metrics.borrow_watched();
            now.state.is_leader() && now.membership_config.voter_ids().eq([MEMBER_ID])
        };
        let closed = leads && metrics.changed().await.is_err();
        if !leads || closed {
            if let Some(shared) = shared.upgrade() {
                shared.serving.store(false, Ordering::Release);
            }
            return;
        }
    }
}

fn openraft_config() -> openraft::Config {
    openraft::Config {
        cluster_name: "citius".to_string(),
        // A sole member hears from nobody and stands for election by itself: these only set how
        // often the idle ticker wakes (a fifth of the heartbeat).
        heartbeat_interval: 500,
        election_timeout_min: 1500,
        election_timeout_max: 3000,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        api_channel_size: Some(1024),
        notification_channel_size: Some(1024),
        // A restarted leader is elected anew: its first entry then covers what it had committed,
        // which is not recorded apart (storage.rs).
        enable_leader_restore: Some(false),
        ..openraft::Config::default()
    }
}
