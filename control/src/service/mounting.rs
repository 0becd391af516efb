//! Mounts come, change and go. A store proves that it works before its mount, or another option of it, is logged.

use std::sync::Arc;

use citius_understore::MountSpec as StoreSpec;
use citius_wire::{Failure, MountId, NamespacePath, Operation, Outcome, SecretText, Status};

use super::locks::{Reach, Want};
use super::mounts::{check_names, logged_spec, open_checked, store_spec};
use super::{LOCK_PATIENCE, Service};
use crate::state::{Caller, Change, MountOptions, Overlay, Reply};

impl Service {
    /// Adds, changes or removes a mount.
    pub(super) async fn change_mounts(
        self: &Arc<Self>,
        caller: Caller,
        operation: Operation,
    ) -> Result<Outcome, Failure> {
        let (path, reach) = match &operation {
            Operation::MountAdd { path, .. } | Operation::MountRemove { path } => (path, Reach::Tree),
            // Whatever goes on in the mount may be waiting for its other keys.
            Operation::MountSet { path, .. } => (path, Reach::Name),
            other => unreachable!("{other:?} is not about mounts"),
        };
        let path = NamespacePath::parse(path)?;
        let want = [Want { path: path.clone(), reach }];
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
            Operation::MountSet { options, unset, .. } => {
                let (spec, options) = self.spec_with(&path, options, &unset)?;
                open_checked(&spec).await?;
                let path = path.as_str().to_owned();
                let reply = self.propose(Some(caller), Change::MountSet { path, options }).await?;
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

    /// What a mount would be with some options changed, and others gone.
    fn spec_with(
        &self,
        path: &NamespacePath,
        options: Vec<(String, SecretText)>,
        unset: &[String],
    ) -> Result<(StoreSpec, MountOptions), Failure> {
        let mount = self.mount_at(path).and_then(|id| self.state(|state| state.mount(id).cloned()));
        let mount = mount.ok_or_else(|| {
            let words = format!("nothing is mounted at {path}: `citius mount ls` shows what is mounted where");
            Failure::new(Status::NotFound, words)
        })?;
        let is = |one: &str, other: &str| one.eq_ignore_ascii_case(other);
        let mut all = mount.options.0;
        for name in unset {
            let Some(at) = all.iter().position(|(known, _)| is(known, name)) else {
                let known: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
                let words = format!("the mount at {path} has no option {name}; it has {}", known.join(", "));
                return Err(Failure::new(Status::InvalidArgument, words.trim_end_matches("; it has ")));
            };
            all.remove(at);
        }
        for (name, value) in options {
            match all.iter_mut().find(|(known, _)| is(known, &name)) {
                Some((_, known)) => *known = value,
                None => all.push((name, value)),
            }
        }
        check_names(&all)?;
        Ok((store_spec(&mount.uri, &all, mount.read_only), MountOptions(all)))
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
