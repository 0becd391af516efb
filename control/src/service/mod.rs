//! What a master does for those who ask, between the log's state and the under-stores.
//!
//! | file | what it does |
//! |---|---|
//! | `ledger` | the state as the log's machine |
//! | `mounts` | under-stores at work |
//! | `sight` | what is at a path: state first, then the under-store through the cache |
//! | `reading` | `stat`, `open` and `ring`, at once where memory has the answer |
//! | `listing` | a directory: pages of the store merged with names of the log |
//! | `batch` | operations in order, in runs that share one entry of the log |
//! | `abreast` | futures side by side |
//! | `provisions` | what the operations of a run share while they are prepared |
//! | `locks` | one change of a name after the other |
//! | `writing` | files being written: create, renew, publish |
//! | `naming` | mkdir, delete, rename: intents, and what they do to a store |
//! | `postponed` | changes of names that wait for their store, and why |
//! | `mounting` | mounts come and go |
//! | `members`, `roster` | workers, their heartbeats and their tasks |
//! | `report` | what people are shown |
//! | `failure` | errors of stores and of the log, as failures |
//! | `fault` | where tests let a master die |
//!
//! A path is resolved as docs/guarantees.md says: what the log knows is true before the under-store is asked, and of a
//! file that the under-store holds, the under-store is the truth.

mod abreast;
mod batch;
mod checkup;
mod failure;
mod fault;
mod halves;
mod ledger;
mod listing;
mod locks;
mod members;
mod mounting;
mod mounts;
mod naming;
mod postponed;
mod provisions;
mod reading;
mod report;
mod roster;
mod sight;
mod traffic;
mod writing;

pub use checkup::check_under_store;
pub use fault::{FaultHook, FaultPoint};
pub(crate) use ledger::Ledger;
pub(crate) use listing::PageSink;
pub(crate) use mounts::{REOPEN_PAUSE, open_checked, store_spec};
pub(crate) use report::redacted_uri;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use citius_wire::{Failure, NamespacePath, Status, Welcome, Work, WorkerId};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::raft::Raft;
use crate::rpc::RpcCounters;
use crate::state::{Applied, Caller, Change, Command, Effect, Reply, State};
use crate::sync::MetadataCache;
use locks::PathLocks;
use mounts::{MountTable, Mounted};
use postponed::Postponed;
use roster::Roster;

/// How long an operation waits for others that hold its path.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
/// How long the start of a master waits for its mounts to open.
const OPEN_PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of commands in one proposal: far below what an entry may hold.
const PROPOSAL_BYTES_MAX: usize = 8 << 20;
/// Bytes of a command that are expected.
const COMMAND_BYTES_COMMON: usize = 256;

/// The release that runs.
pub(crate) const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// How a master behaves; see [`crate::MasterConfig`].
#[derive(Clone)]
pub(crate) struct Conduct {
    pub(crate) lease_ms: u32,
    pub(crate) heartbeat_ms: u32,
    pub(crate) heartbeats_missed_max: u32,
    pub(crate) capability_ms: u64,
    pub(crate) cache_entries_max: usize,
    pub(crate) fault: Option<FaultHook>,
}

/// Where a master listens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses {
    pub(crate) rpc: String,
    pub(crate) http: String,
}

/// The service: shared by RPC, HTTP and the schedule.
pub(crate) struct Service {
    pub(crate) raft: Raft<Ledger>,
    pub(crate) conduct: Conduct,
    pub(crate) addresses: Addresses,
    pub(crate) rpc: Arc<RpcCounters>,
    /// Rung when something is to be cleaned or settled in an under-store.
    pub(crate) chores: Notify,
    pub(crate) started: Instant,
    runtime: Handle,
    mounts: MountTable,
    cache: MetadataCache,
    locks: PathLocks,
    postponed: Postponed,
    roster: Roster,
}

impl Service {
    /// A service over an open log. Mounts are not open yet: see [`Service::open_mounts`].
    pub(crate) fn new(raft: Raft<Ledger>, conduct: Conduct, addresses: Addresses, runtime: Handle) -> Arc<Self> {
        Arc::new(Self {
            raft,
            addresses,
            rpc: Arc::default(),
            chores: Notify::new(),
            started: Instant::now(),
            runtime,
            mounts: MountTable::default(),
            cache: MetadataCache::new(conduct.cache_entries_max),
            locks: PathLocks::default(),
            postponed: Postponed::default(),
            roster: Roster::default(),
            conduct,
        })
    }

    /// Milliseconds since 1970, by this machine's clock.
    pub(crate) fn now_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
    }

    /// Reads the state under a short lock.
    pub(crate) fn state<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        self.raft.with_state(|ledger| read(&ledger.state))
    }

    /// Checks that what is read now is linearizable.
    ///
    /// # Errors
    /// `NotLeader`, or `LogStopped`.
    pub(crate) fn check_lease(&self) -> Result<(), Failure> {
        self.raft.read_lease().map_err(|error| failure::of_log(&error))
    }

    /// The answer to a hello.
    pub(crate) fn welcome(&self) -> Welcome {
        let epoch = self.state(|state| state.ring().epoch);
        Welcome { worker: WorkerId(0), epoch, shards: 0, release: RELEASE.to_owned() }
    }

    /// Logs one change and carries out what follows from it.
    pub(crate) async fn propose(&self, caller: Option<Caller>, change: Change) -> Result<Reply, Failure> {
        let command = Command { caller, change }.encode();
        let applied = self.raft.propose(command).await.map_err(|error| failure::of_log(&error))?;
        self.conclude(applied)
    }

    /// Logs changes in order, as few entries as their size allows, and carries out what follows. If the log fails, all
    /// that it did not answer fail alike.
    pub(crate) async fn propose_all(&self, commands: &[Command]) -> Vec<Result<Reply, Failure>> {
        let mut replies = Vec::with_capacity(commands.len());
        let mut commands = encoded(commands).peekable();
        while commands.peek().is_some() {
            let (mut entry, mut bytes) = (Vec::new(), 0);
            while let Some(command) =
                commands.next_if(|next| entry.is_empty() || bytes + next.len() <= PROPOSAL_BYTES_MAX)
            {
                bytes += command.len();
                entry.push(command);
            }
            let count = entry.len();
            match self.raft.propose_batch(entry).await {
                Ok(applied) => replies.extend(applied.into_iter().map(|applied| self.conclude(applied))),
                Err(error) => {
                    let failure = failure::of_log(&error);
                    replies.extend(std::iter::repeat_n(Err(failure), count));
                }
            }
        }
        replies
    }

    fn conclude(&self, applied: Result<Applied, Failure>) -> Result<Reply, Failure> {
        let Applied { reply, effects } = applied?;
        for effect in effects {
            self.carry_out(effect);
        }
        Ok(reply)
    }

    fn carry_out(&self, effect: Effect) {
        match effect {
            Effect::Forget { file, ring } => self.roster.assign(&ring, &Work::Drop { file }),
            Effect::Rekey { from, to, ring } => self.roster.assign(&ring, &Work::Rekey { from, to }),
            Effect::Remains(_) => self.chores.notify_one(),
            Effect::View => self.adopt_mounts(None),
            // Its writer learns it when it next says something.
            Effect::Aborted { .. } => {}
        }
    }

    /// Brings the mount table up to the state; mounts that are new are opened in the background.
    fn adopt_mounts(&self, opened: Option<(citius_wire::MountId, Arc<dyn citius_understore::UnderStore>)>) {
        let fresh = self.state(|state| self.mounts.adopt(state.mounts(), opened));
        for mounted in fresh {
            self.runtime.spawn(async move { mounted.try_open().await });
        }
    }

    /// Opens every mount of the state, and gives them a moment for it; those that need longer go on in the background.
    pub(crate) async fn open_mounts(&self) {
        drop(self.state(|state| self.mounts.adopt(state.mounts(), None)));
        let opening = self.mounts.all().into_iter().map(|mounted| {
            self.runtime.spawn(async move {
                mounted.try_open().await;
            })
        });
        drop(tokio::time::timeout(OPEN_PATIENCE, futures::future::join_all(opening.collect::<Vec<_>>())).await);
    }

    /// All mounts at work.
    pub(crate) fn mounts(&self) -> Vec<Arc<Mounted>> {
        self.mounts.all()
    }

    /// A failure of a path that was waited for too long.
    fn waited_too_long(&self, path: &NamespacePath) -> Failure {
        let why = self.postponed.why(path).map_or("try again when they are done".to_owned(), |failure| failure.message);
        let seconds = LOCK_PATIENCE.as_secs();
        let words = format!("{path} was being changed by other operations for {seconds} s: {why}");
        Failure::new(Status::Unavailable, words)
    }

    /// Lets a test's master die here: whether it did.
    fn dies_at(&self, point: FaultPoint) -> bool {
        self.conduct.fault.as_ref().is_some_and(|hook| hook.strikes(point))
    }
}

/// The bytes of commands, which share one buffer.
fn encoded(commands: &[Command]) -> impl Iterator<Item = Bytes> + use<> {
    let mut bytes = Vec::with_capacity(commands.len() * COMMAND_BYTES_COMMON);
    let mut ends = Vec::with_capacity(commands.len());
    for command in commands {
        bytes = command.encode_behind(bytes);
        ends.push(bytes.len());
    }
    let (bytes, mut start) = (Bytes::from(bytes), 0);
    ends.into_iter().map(move |end| bytes.slice(std::mem::replace(&mut start, end)..end))
}
