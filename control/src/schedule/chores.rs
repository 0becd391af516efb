//! What writes leave in under-stores when they do not end as they should.
//!
//! *Settle* a publication whose worker is gone: make sure that it cannot happen any more, then look whether it did.
//! *Clean* what an aborted write had staged. *Sweep* temporaries that no record names, because their worker died before
//! it said anything.
//!
//! Mounts do not wait for each other: one whose store gives no answer is left alone until the next round.

use std::ops::ControlFlow;
use std::sync::Arc;

use citius_understore::{ErrorClass, FileId, Remnant, Settled, StagedRecord, UnderStore};
use citius_wire::{FileKey, MountId};
use futures::future::join_all;

use crate::service::Service;
use crate::state::{Change, Phase, Remains, WrittenFile};

/// Chores done in one round; the rest waits for the next.
const CHORES_AT_ONCE_MAX: usize = 256;

/// What is to be settled or cleaned.
#[derive(Clone)]
struct Chore {
    file: FileKey,
    mount: MountId,
    record: Vec<u8>,
}

/// Settles the publications whose workers are gone.
pub(super) async fn settle(service: &Arc<Service>) {
    let orphans: Vec<Chore> = service.state(|state| {
        let orphan = |file: &WrittenFile| match &file.phase {
            Phase::Intent(intended) if !state.is_live(intended.publisher) => {
                Some(Chore { file: file.key, mount: file.mount, record: intended.record.clone() })
            }
            _ => None,
        };
        state.unsettled().filter_map(orphan).take(CHORES_AT_ONCE_MAX).collect()
    });
    mount_by_mount(orphans, |chore| settle_one(service, chore)).await;
}

async fn settle_one(service: &Arc<Service>, chore: Chore) -> ControlFlow<()> {
    let file = chore.file;
    let change = match fate_of(service, &chore).await? {
        Some(Settled::Published(token)) => {
            let token = token.as_bytes().to_vec();
            match service.publish_done(file, token).await {
                Ok(()) => tracing::info!(%file, "a publication whose worker is gone had happened"),
                Err(failure) => tracing::warn!(%file, %failure, "a settled publication could not be logged"),
            }
            return ControlFlow::Continue(());
        }
        Some(Settled::Absent) => Change::PublishFailed { file },
        None => return ControlFlow::Continue(()),
    };
    match service.propose(None, change).await {
        Ok(_) => tracing::info!(%file, "a publication whose worker is gone did not happen"),
        Err(failure) => tracing::warn!(%file, %failure, "a settled publication could not be logged"),
    }
    ControlFlow::Continue(())
}

/// Cleans what aborted writes had staged. None of it was published: that takes an intent, and then it is settled.
pub(super) async fn clean(service: &Arc<Service>) {
    let left: Vec<Chore> = service.state(|state| {
        let chore =
            |(file, remains): (FileKey, &Remains)| Chore { file, mount: remains.mount, record: remains.record.clone() };
        state.remains().map(chore).take(CHORES_AT_ONCE_MAX).collect()
    });
    mount_by_mount(left, |chore| clean_one(service, chore)).await;
}

async fn clean_one(service: &Arc<Service>, chore: Chore) -> ControlFlow<()> {
    let file = chore.file;
    match fate_of(service, &chore).await? {
        None => return ControlFlow::Continue(()),
        Some(Settled::Absent) => {}
        Some(Settled::Published(_)) => {
            tracing::error!(%file, "an aborted write is in its under-store although its publication was never logged");
        }
    }
    if let Err(failure) = service.propose(None, Change::RemainsCleaned { file }).await {
        tracing::warn!(%file, %failure, "it could not be logged that a write's remains are cleaned");
    }
    ControlFlow::Continue(())
}

/// Does the chores of a mount one after the other until one says to stop, and those of all mounts side by side.
async fn mount_by_mount<Done: Future<Output = ControlFlow<()>>>(mut chores: Vec<Chore>, one: impl Fn(Chore) -> Done) {
    chores.sort_by_key(|chore| chore.mount);
    let one = &one;
    let mounts = chores.chunk_by(|first, next| first.mount == next.mount).map(|chores| async move {
        for chore in chores {
            if one(chore.clone()).await.is_break() {
                break;
            }
        }
    });
    join_all(mounts).await;
}

/// Asks the store, after making sure that the answer stays true. `None` if it cannot be had of this chore now, a break if
/// it can be had of none in this mount.
async fn fate_of(service: &Service, chore: &Chore) -> ControlFlow<(), Option<Settled>> {
    let file = chore.file;
    let Some(store) = store_of(service, chore.mount) else { return ControlFlow::Break(()) };
    let record = match StagedRecord::decode(&chore.record) {
        Ok(record) => record,
        Err(error) => {
            tracing::error!(%file, %error, "the record of a staged write cannot be read; it stays as it is");
            return ControlFlow::Continue(None);
        }
    };
    match store.settle(&record).await {
        Ok(settled) => ControlFlow::Continue(Some(settled)),
        Err(error) => {
            tracing::warn!(%file, %error, "what a write left cannot be settled yet");
            match error.class() {
                ErrorClass::TimedOut | ErrorClass::Unavailable => ControlFlow::Break(()),
                _ => ControlFlow::Continue(None),
            }
        }
    }
}

fn store_of(service: &Service, mount: MountId) -> Option<Arc<dyn UnderStore>> {
    service.mounts().into_iter().find(|mounted| mounted.id == mount)?.open().cloned()
}

/// Removes the temporaries of files that the state does not know. An upload that no record names may be another
/// program's, and stays.
pub(super) async fn sweep(service: &Arc<Service>) {
    join_all(service.mounts().into_iter().map(|mounted| async move {
        let Some(store) = mounted.open().cloned().filter(|store| store.capabilities().writes) else { return };
        let dead = |remnant: &Remnant| match remnant {
            Remnant::Temp { file_id: FileId(id), .. } => service.state(|state| state.file(FileKey(*id)).is_none()),
            Remnant::Upload { .. } => false,
        };
        match store.sweep(&dead).await {
            Ok(swept) if swept.removed > 0 => {
                tracing::info!(mount = %mounted.path, removed = swept.removed, "temporaries of dead writes are removed");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(mount = %mounted.path, %error, "temporaries could not be swept"),
        }
    }))
    .await;
}
