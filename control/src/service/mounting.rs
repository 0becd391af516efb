//! Mounts come and go. A store proves that it works before its mount is logged.

use std::sync::Arc;

use citius_wire::{Failure, MountId, NamespacePath, Operation, Outcome, Status};

use super::locks::{Reach, Want};
use super::mounts::{logged_spec, open_checked, store_spec};
use super::{LOCK_PATIENCE, Service};
use crate::state::{Caller, Change, Overlay, Reply};

impl Service {
    /// Adds or removes a mount.
    pub(super) async fn change_mounts(
        self: &Arc<Self>,
        caller: Caller,
        operation: Operation,
    ) -> Result<Outcome, Failure> {
        let (Operation::MountAdd { path, .. } | Operation::MountRemove { path }) = &operation else {
            unreachable!("{operation:?} is not about mounts");
        };
        let path = NamespacePath::parse(path)?;
        let want = [Want { path: path.clone(), reach: Reach::Tree }];
        let locked = tokio::time::timeout(LOCK_PATIENCE, self.locks.lock(&want)).await;
        let _locked = locked.map_err(|_| self.waited_too_long(&path))?;
        if let Some(answer) = self.state(|state| state.answer(caller).map(|answer| answer.cloned()))? {
            return self.outcome(answer?);
        }
        match operation {
            Operation::MountAdd { uri, options, read_only, sync_interval_ms, .. } => {
                self.check_unmounted(&path)?;
                let store = open_checked(&store_spec(&uri, &options, read_only)).await?;
                let spec = logged_spec(&uri, options, read_only, sync_interval_ms)?;
                let path = path.as_str().to_owned();
                let reply = self.propose(Some(caller), Change::MountAdd { path, spec }).await?;
                if let Reply::Mount(id) = reply {
                    self.adopt_mounts(Some((id, store)));
                }
                self.outcome(reply)
            }
            _ => {
                let id = self.mount_at(&path);
                let path = path.as_str().to_owned();
                let reply = self.propose(Some(caller), Change::MountRemove { path }).await?;
                if let Some(id) = id {
                    self.cache.changed_under(id, "");
                }
                self.outcome(reply)
            }
        }
    }

    /// Refuses a mount where one is, before a store is troubled. The log judges again.
    fn check_unmounted(&self, path: &NamespacePath) -> Result<(), Failure> {
        match self.mount_at(path) {
            None => Ok(()),
            Some(_) => {
                let words = format!(
                    "something is mounted at {path} already: remove it first with `citius mount rm {path}`, or choose \
                     another path"
                );
                Err(Failure::new(Status::AlreadyExists, words))
            }
        }
    }

    pub(super) fn mount_at(&self, path: &NamespacePath) -> Option<MountId> {
        self.state(|state| match state.resolve(path).ok()?.overlay {
            Overlay::Mount(mount) => Some(mount.id),
            _ => None,
        })
    }
}
