//! Keeps the writer leases of a client: one thread renews them all, and lives only while there are writers, or a
//! little longer so that a program that writes many small files does not start one for each.

use crate::client::Shared;
use crate::error::Error;
use citius_wire::{FileKey, Operation, Status};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

/// A lease is renewed when this part of it has passed, so that two renewals may be lost.
const RENEWALS_PER_LEASE: u32 = 3;
/// The shortest time between two renewals, whatever a master grants.
const RENEW_EVERY_MIN: Duration = Duration::from_millis(50);
/// How long the thread outlives the last writer.
const LINGER: Duration = Duration::from_secs(1);

/// All leases of a client.
#[derive(Default)]
pub(crate) struct LeaseKeeper {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    leases: HashMap<FileKey, Kept>,
    is_running: bool,
    is_stopped: bool,
}

struct Kept {
    client: Weak<Shared>,
    every: Duration,
    due: Instant,
    lost: Arc<OnceLock<Error>>,
}

/// One lease; dropping it ends the renewals.
pub(crate) struct Lease {
    keeper: Arc<LeaseKeeper>,
    file: FileKey,
    lost: Arc<OnceLock<Error>>,
}

impl Lease {
    /// Why the lease is gone, if it is.
    pub(crate) fn lost(&self) -> Option<&Error> {
        self.lost.get()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.keeper.state.lock().leases.remove(&self.file);
    }
}

impl LeaseKeeper {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Renews the lease of a file until the result is dropped.
    ///
    /// # Errors
    /// `Unavailable` if no thread can be started.
    pub(crate) fn keep(self: &Arc<Self>, client: &Arc<Shared>, file: FileKey, lease: Duration) -> Result<Lease, Error> {
        let every = (lease / RENEWALS_PER_LEASE).max(RENEW_EVERY_MIN);
        let lost = Arc::new(OnceLock::new());
        let kept = Kept { client: Arc::downgrade(client), every, due: Instant::now() + every, lost: lost.clone() };
        let mut state = self.state.lock();
        state.leases.insert(file, kept);
        if state.is_running {
            self.wake.notify_one();
        } else {
            let keeper = self.clone();
            let spawned = std::thread::Builder::new().name("citius-lease".into()).spawn(move || keeper.run());
            if let Err(error) = spawned {
                state.leases.remove(&file);
                let message = format!("no thread can be started to keep the writer's lease: {error}");
                return Err(Error::new(Status::Unavailable, message));
            }
            state.is_running = true;
        }
        drop(state);
        Ok(Lease { keeper: self.clone(), file, lost })
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.state.lock().is_stopped = true;
        self.wake.notify_one();
    }

    fn run(&self) {
        let mut state = self.state.lock();
        while !state.is_stopped {
            let now = Instant::now();
            let Some(due) = state.leases.values().map(|kept| kept.due).min() else {
                if self.wake.wait_for(&mut state, LINGER).timed_out() && state.leases.is_empty() {
                    break;
                }
                continue;
            };
            if due > now {
                self.wake.wait_until(&mut state, due);
                continue;
            }
            let mut renewals = Vec::new();
            for (file, kept) in state.leases.iter_mut().filter(|(_, kept)| kept.due <= now) {
                kept.due = now + kept.every;
                renewals.push((*file, kept.client.clone(), kept.lost.clone()));
            }
            // The thread may become the last owner of the client, whose end takes this lock.
            parking_lot::MutexGuard::unlocked(&mut state, || renew(&renewals));
        }
        state.is_running = false;
    }
}

/// A lease that is due: its file, whose it is, and where to say that it is gone.
type Due = (FileKey, Weak<Shared>, Arc<OnceLock<Error>>);

fn renew(renewals: &[Due]) {
    // All leases of a keeper are of one client.
    let Some(client) = renewals.iter().find_map(|(_, client, _)| client.upgrade()) else { return };
    for part in renewals.chunks(citius_wire::OPERATIONS_MAX) {
        let operations: Vec<_> = part.iter().map(|(file, _, _)| Operation::Renew { file: *file }).collect();
        for ((_, _, lost), result) in part.iter().zip(client.operate_all(&operations)) {
            // A master that cannot be reached has not taken the lease away; its answer may.
            if let Err(error) = result
                && !error.status().is_retryable()
                && error.status() != Status::TimedOut
            {
                // The first reason stays.
                let _ = lost.set(error);
            }
        }
    }
}
