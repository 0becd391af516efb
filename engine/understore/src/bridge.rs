//! From a shard's thread to tokio: fetches that must never block the shard.
//!
//! A shard hands over a [`FetchJob`] and goes on; the job runs on tokio, its bytes go straight from the network's
//! buffers into the job's landing, and its `done` is called exactly once, from a tokio thread, whatever happens
//! (also when the runtime ends first). The landing is dropped before `done` is called, so whoever lent pages to
//! it may take them back then.
//!
//! Bounds, for each store, so that one that is slow or away keeps nobody from the others: [`Bridge::new`]'s
//! `in_flight_max` jobs run, [`QUEUED_MAX`] more wait in order, and the next one is handed back with [`Error::Busy`].

use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc},
};

use crate::{Error, Landing, Result, StorePath, UnderStore, VersionToken};

/// Jobs of one store that wait while `in_flight_max` others run.
pub const QUEUED_MAX: usize = 4096;

/// One conditional ranged read.
pub struct FetchJob {
    /// From which store.
    pub store: Arc<dyn UnderStore>,
    /// Which file.
    pub path: StorePath,
    /// Which version.
    pub token: VersionToken,
    /// Which bytes.
    pub range: Range<u64>,
    /// Whether the version has no more.
    pub is_whole: bool,
    /// Where to.
    pub landing: Box<dyn Landing>,
    /// Whom to tell.
    pub done: Box<dyn FnOnce(Result<()>) + Send>,
}

impl fmt::Debug for FetchJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchJob").field("path", &self.path).field("range", &self.range).finish_non_exhaustive()
    }
}

/// A job that found no room, given back untouched: nothing was read and `done` was not called.
#[derive(Debug)]
pub struct Rejected {
    /// The job.
    pub job: Box<FetchJob>,
    /// Why.
    pub error: Error,
}

/// The way over. Clones share the same bounds.
#[derive(Debug, Clone)]
pub struct Bridge {
    runtime: Handle,
    in_flight_max: usize,
    /// By the address of the store, which no other store has while the lane knows of it.
    lanes: Arc<Mutex<HashMap<usize, Lane>>>,
}

/// The way to one store.
#[derive(Debug)]
struct Lane {
    store: Weak<dyn UnderStore>,
    queue: mpsc::Sender<Ticket>,
}

impl Bridge {
    /// A bridge to `runtime`, on which each store may have so many jobs at once.
    pub fn new(runtime: &Handle, in_flight_max: usize) -> Self {
        assert!(in_flight_max > 0, "a bridge that runs nothing would keep every job waiting for ever");
        Self { runtime: runtime.clone(), in_flight_max, lanes: Arc::default() }
    }

    /// Hands a job over without ever blocking.
    pub fn fetch(&self, job: FetchJob) -> std::result::Result<(), Rejected> {
        match self.lane(&job.store).try_reserve_owned() {
            Ok(place) => {
                place.send(Ticket::new(job));
                Ok(())
            }
            Err(mpsc::error::TrySendError::Full(_)) => Err(Rejected {
                job: Box::new(job),
                error: Error::Busy { what: "fetches from one under-store", limit: QUEUED_MAX },
            }),
            Err(mpsc::error::TrySendError::Closed(_)) => {
                let error = Error::Cancelled { path: job.path.to_string() };
                Err(Rejected { job: Box::new(job), error })
            }
        }
    }

    /// The queue of a store, which its first job opens. Those of stores that are gone are closed then.
    fn lane(&self, store: &Arc<dyn UnderStore>) -> mpsc::Sender<Ticket> {
        let address = Arc::as_ptr(store).cast::<()>().addr();
        let mut lanes = self.lanes.lock();
        if let Some(lane) = lanes.get(&address) {
            return lane.queue.clone();
        }
        lanes.retain(|_, lane| lane.store.strong_count() > 0);
        let queue = self.open_queue();
        lanes.insert(address, Lane { store: Arc::downgrade(store), queue: queue.clone() });
        queue
    }

    /// Starts a dispatcher; it ends when the last sender into its queue is dropped.
    fn open_queue(&self) -> mpsc::Sender<Ticket> {
        let (queue, mut jobs) = mpsc::channel::<Ticket>(QUEUED_MAX);
        let slots = Arc::new(Semaphore::new(self.in_flight_max));
        self.runtime.spawn(async move {
            while let Some(ticket) = jobs.recv().await {
                let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
                tokio::spawn(async move {
                    ticket.run().await;
                    drop(slot);
                });
            }
        });
        queue
    }
}

/// A job that will be answered: by running, or by being dropped.
struct Ticket {
    /// None once answered.
    job: Option<FetchJob>,
}

impl Ticket {
    fn new(job: FetchJob) -> Self {
        Self { job: Some(job) }
    }

    async fn run(mut self) {
        let job = self.job.as_mut().expect("a ticket is answered once");
        let result = match job.is_whole {
            true => job.store.read_whole(&job.path, &job.token, job.range.end, &mut *job.landing).await,
            false => job.store.read(&job.path, &job.token, job.range.clone(), &mut *job.landing).await,
        };
        self.answer(result);
    }

    fn answer(&mut self, result: Result<()>) {
        if let Some(FetchJob { landing, done, .. }) = self.job.take() {
            drop(landing);
            done(result);
        }
    }
}

/// Covers a runtime that shuts down and a landing that panics.
impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(job) = &self.job {
            let error = Error::Cancelled { path: job.path.to_string() };
            self.answer(Err(error));
        }
    }
}
