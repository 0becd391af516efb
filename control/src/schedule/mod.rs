//! What a master does unasked: it resumes what another left, ends what nobody will end, and tries again what failed.
//!
//! | task | when |
//! |---|---|
//! | resume intents | once, at start |
//! | expire writer leases; lose silent workers | each second |
//! | settle publications whose worker is gone; clean remains of aborted writes | at start, when rung for, and each few seconds |
//! | sweep temporaries of dead files | at start, and after a worker left |
//! | open mounts that are degraded | each few seconds |
//!
//! Each is idempotent and none is needed for an answer, so all of them log what failed and try again.

mod chores;
mod leases;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::service::{REOPEN_PAUSE, Service};

/// How often leases and silent workers are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How often chores are looked at when nobody rang.
const CHORES_PAUSE: Duration = Duration::from_secs(5);
/// Intents that are resumed at once.
const RESUMED_AT_ONCE_MAX: usize = 16;

/// Starts all of it on `runtime`; it ends when `stop` says so.
pub(crate) fn start(service: &Arc<Service>, runtime: &Handle, stop: &watch::Receiver<bool>) {
    let tasks: [(&str, futures::future::BoxFuture<'static, ()>); 4] = [
        ("intents", Box::pin(resume_intents(Arc::clone(service)))),
        ("leases", Box::pin(tick(Arc::clone(service)))),
        ("chores", Box::pin(do_chores(Arc::clone(service)))),
        ("mounts", Box::pin(open_mounts(Arc::clone(service)))),
    ];
    for (name, task) in tasks {
        let mut stop = stop.clone();
        runtime.spawn(async move {
            tokio::select! {
                () = task => tracing::debug!(name, "nothing is left to do"),
                _ = stop.wait_for(|stop| *stop) => {}
            }
        });
    }
}

/// Takes up every intent that was not done when the last master stopped. New ones are no business of this task.
async fn resume_intents(service: Arc<Service>) {
    let left: Vec<_> = service.state(|state| state.intents().map(|intent| intent.id).collect());
    if !left.is_empty() {
        tracing::info!(count = left.len(), "resuming changes of names that were under way");
    }
    stream::iter(left).for_each_concurrent(RESUMED_AT_ONCE_MAX, |id| service.resume(id)).await;
}

async fn tick(service: Arc<Service>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if service.check_lease().is_ok() {
            leases::expire(&service).await;
            service.lose_the_silent().await;
        }
    }
}

async fn do_chores(service: Arc<Service>) {
    let mut swept = None;
    loop {
        if service.check_lease().is_ok() {
            chores::settle(&service).await;
            chores::clean(&service).await;
            // A worker that is gone may have left temporaries that no record names.
            let epoch = service.state(|state| state.ring().epoch);
            if swept != Some(epoch) {
                chores::sweep(&service).await;
                swept = Some(epoch);
            }
        }
        tokio::select! {
            () = service.chores.notified() => {}
            () = tokio::time::sleep(CHORES_PAUSE) => {}
        }
    }
}

async fn open_mounts(service: Arc<Service>) {
    loop {
        tokio::time::sleep(REOPEN_PAUSE).await;
        let closed = service.mounts().into_iter().filter(|mounted| mounted.open().is_none());
        // All at once: one that does not answer keeps no other closed.
        let tries = closed.map(async |mounted| {
            if mounted.try_open().await {
                tracing::info!(mount = %mounted.path, "a degraded mount works again");
                service.chores.notify_one();
            }
        });
        futures::future::join_all(tries).await;
    }
}
