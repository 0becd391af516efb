//! Questions, answered under a read lock: they allocate nothing but where they say so.

use super::State;
use super::command::Caller;
use super::files::{Fate, Publisher, Remains, WrittenFile};
use super::intents::Intent;
use super::mounts::Mount;
use super::namespace::Inode;
use super::sessions::Answer;
use super::workers::Worker;
use super::write::not_now;
use super::{Identity, not_set_up};
use citius_wire::{ClusterId, Epoch, Failure, FileKey, MacKey, MountId, NamespacePath, Ring, Status};
use std::sync::Arc;

/// What is known of a path before its under-store is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlay<'a> {
    /// Nothing: what the under-store says is true.
    None,
    /// There is nothing, whatever the under-store says: it is being deleted, or a file stands above it.
    Hidden,
    /// This file, in memory only, whatever the under-store says.
    File(&'a WrittenFile),
    /// A directory, because something that everyone sees lies below, whatever the under-store says.
    Implied,
    /// A directory: a mount begins here.
    Mount(&'a Mount),
}

/// Where a path leads.
#[derive(Clone, Copy, Debug)]
pub struct Resolution<'a> {
    /// The mount that it lies in: the one with the longest path above it, or at it.
    pub mount: &'a Mount,
    /// The path in the mount's under-store; empty for the mount itself.
    pub store_path: &'a str,
    /// What is known of it.
    pub overlay: Overlay<'a>,
    /// The file being written there, which nobody but its writer sees.
    pub writer: Option<&'a WrittenFile>,
}

impl State {
    /// Where a path leads.
    ///
    /// # Errors
    /// `Unavailable` before the cluster is set up.
    pub fn resolve<'a>(&'a self, path: &'a NamespacePath) -> Result<Resolution<'a>, Failure> {
        let (mut mount, mut mount_end) = (None, 0);
        let (mut overlay, mut writer) = (Overlay::None, None);
        let mut is_hidden = false;
        for step in self.namespace.trail(path) {
            let links = self.namespace.links(step.inode);
            if links.mount.is_some() {
                (mount, mount_end) = (links.mount, step.end);
            }
            is_hidden |= links.claim.is_some_and(|claim| claim.hides());
            if step.is_last {
                overlay = self.overlay(step.inode);
                writer = links.writer.map(|slot| self.files.get(slot));
            } else {
                is_hidden |= links.file.is_some();
            }
        }
        let mount = mount.map(|id| &self.mounts.by_id[&id]).ok_or_else(not_set_up)?;
        let store_path = path.as_str()[mount_end..].trim_start_matches('/');
        Ok(Resolution { mount, store_path, overlay: if is_hidden { Overlay::Hidden } else { overlay }, writer })
    }

    /// What is known of the names in a directory, after a name (all of them if it is empty), in name order. Names that
    /// only the under-store knows are not among them.
    pub fn children<'a>(
        &'a self,
        path: &NamespacePath,
        after: &str,
    ) -> impl Iterator<Item = (&'a str, Overlay<'a>)> + use<'a> {
        self.namespace
            .find(path)
            .map(|inode| self.namespace.children_after(inode, after))
            .into_iter()
            .flatten()
            .map(|(name, inode)| (name, self.overlay(inode)))
            .filter(|(_, overlay)| *overlay != Overlay::None)
    }

    /// The mount that a path lies in; `None` before the cluster is set up.
    pub fn mount_of(&self, path: &NamespacePath) -> Option<&Mount> {
        let mounts = self.namespace.trail(path).filter_map(|step| self.namespace.links(step.inode).mount);
        mounts.last().map(|id| &self.mounts.by_id[&id])
    }

    /// A file that was written and is not persisted.
    pub fn file(&self, key: FileKey) -> Option<&WrittenFile> {
        self.files.by_key(key)
    }

    /// How a write ended, if it did lately.
    pub fn fate(&self, key: FileKey) -> Option<Fate> {
        self.fates.get(key)
    }

    /// The path of a file of the state. Allocates.
    pub fn path_of(&self, file: &WrittenFile) -> NamespacePath {
        self.namespace.path(file.inode)
    }

    /// Whether a file is complete and a worker that held a block of it is gone, the block with it.
    pub fn is_lost(&self, file: &WrittenFile) -> bool {
        let blocks = file.block_count(file.length).expect("it was counted when the file was completed");
        file.is_complete() && self.workers.is_any_owner_gone(file.epoch, file.place, blocks)
    }

    /// A mount.
    pub fn mount(&self, id: MountId) -> Option<&Mount> {
        self.mounts.by_id.get(&id)
    }

    /// All mounts, by id: oldest first.
    pub fn mounts(&self) -> impl Iterator<Item = &Mount> {
        self.mounts.by_id.values()
    }

    /// The ring now.
    pub fn ring(&self) -> &Arc<Ring> {
        self.workers.ring()
    }

    /// The ring of an epoch: the one now, or one that still places a file.
    pub fn ring_of(&self, epoch: Epoch) -> Option<&Arc<Ring>> {
        self.workers.ring_of(epoch)
    }

    /// Workers, live or lately lost, by id.
    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.iter()
    }

    /// Whether this life of a worker is in the ring.
    pub fn is_live(&self, publisher: Publisher) -> bool {
        self.workers.is_live(publisher)
    }

    /// The cluster; `None` before it is set up.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.identity.as_ref().map(|identity| identity.cluster)
    }

    /// The keys that sign capabilities, newest first; none before the cluster is set up.
    pub fn keys(&self) -> &[MacKey] {
        self.identity.as_ref().map_or(&[], |Identity { keys, .. }| keys)
    }

    /// Grows with every change of the ring or the mounts.
    pub fn view_version(&self) -> u64 {
        self.view_version
    }

    /// The answer that a client's operation was given, if it was.
    ///
    /// # Errors
    /// `TimedOut` if it is too long ago to tell.
    pub fn answer(&self, caller: Caller) -> Result<Option<&Answer>, Failure> {
        self.sessions.answer(caller)
    }

    /// Files whose writers did not renew their leases, the longest expired first.
    pub fn expired(&self, now_ms: u64) -> impl Iterator<Item = &WrittenFile> {
        self.files.leased().take_while(move |file| file.lease_until_ms <= now_ms)
    }

    /// Intents that are not done, in the order they were logged.
    pub fn intents(&self) -> impl Iterator<Item = &Intent> {
        self.intents.by_id.values()
    }

    /// One intent, until it is done.
    pub fn intent(&self, id: super::IntentId) -> Option<&Intent> {
        self.intents.by_id.get(&id)
    }

    /// Files whose publisher may be changing the under-store, or died doing so.
    pub fn unsettled(&self) -> impl Iterator<Item = &WrittenFile> {
        self.files.unsettled()
    }

    /// What aborted writes may have left in under-stores.
    pub fn remains(&self) -> impl Iterator<Item = (FileKey, &Remains)> {
        self.remains.iter().map(|(key, remains)| (*key, remains))
    }

    /// Names that only the log knows, with the directories above them and `/`.
    pub fn inode_count(&self) -> usize {
        self.namespace.len()
    }

    /// What is known of an inode, its ancestors apart.
    fn overlay(&self, inode: Inode) -> Overlay<'_> {
        let links = self.namespace.links(inode);
        if let Some(id) = links.mount {
            return Overlay::Mount(&self.mounts.by_id[&id]);
        }
        if links.claim.is_some_and(|claim| claim.hides()) {
            return Overlay::Hidden;
        }
        match links.file {
            Some(slot) => Overlay::File(self.files.get(slot)),
            None if self.namespace.is_visible(inode) => Overlay::Implied,
            None => Overlay::None,
        }
    }

    /// The inode of a path whose directories, as far as the log knows them, let it be changed.
    pub(super) fn survey(&self, path: &NamespacePath) -> Result<Option<Inode>, Failure> {
        self.survey_with_mount(path).map(|(inode, _)| inode)
    }

    /// The same, of a path that still lies in the mount that the proposer found, where one may write.
    pub(super) fn survey_writable(&self, path: &NamespacePath, mount: MountId) -> Result<Option<Inode>, Failure> {
        let (inode, found) = self.survey_with_mount(path)?;
        let found = found.map(|id| &self.mounts.by_id[&id]).ok_or_else(not_set_up)?;
        if found.id != mount {
            let text = format!("mounts changed around {path} just now: try again");
            return Err(Failure::new(Status::Unavailable, text));
        }
        if found.read_only {
            let text = format!("{path} lies in the mount at {}, which is read-only", found.path);
            return Err(Failure::new(Status::ReadOnly, text));
        }
        Ok(inode)
    }

    fn survey_with_mount(&self, path: &NamespacePath) -> Result<(Option<Inode>, Option<MountId>), Failure> {
        let mut mount = None;
        for step in self.namespace.trail(path) {
            let links = self.namespace.links(step.inode);
            mount = links.mount.or(mount);
            if step.is_last {
                return Ok((Some(step.inode), mount));
            }
            if links.claim.is_some_and(|claim| claim.is_deep()) {
                return Err(not_now(&self.namespace.path(step.inode)));
            }
            if links.file.is_some() || links.writer.is_some() {
                let text = format!(
                    "{} is a file, so there is nothing below it: {path} cannot be made or changed",
                    self.namespace.path(step.inode)
                );
                return Err(Failure::new(Status::NotADirectory, text));
            }
        }
        Ok((None, mount))
    }

    /// A path in its mount's under-store.
    pub(super) fn store_path<'a>(&self, mount: MountId, path: &'a NamespacePath) -> &'a str {
        path.relative_to(&self.mounts.by_id[&mount].path).expect("a path lies in its mount")
    }

    /// The ring of a file that is here.
    pub(super) fn ring_at(&self, epoch: Epoch) -> Arc<Ring> {
        Arc::clone(self.workers.ring_of(epoch).expect("a file's ring is kept"))
    }
}
