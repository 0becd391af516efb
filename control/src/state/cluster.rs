//! How clusters, mounts and workers begin and end.

use super::command::{Effect, MountOptions, MountSpec, Reply};
use super::files::{AbortReason, Publisher, WrittenFile};
use super::mounts::{MOUNTS_MAX, Mount};
use super::namespace::Inode;
use super::workers::Worker;
use super::{Identity, State};
use citius_wire::{ClusterId, Failure, FileKey, MacKey, MountId, NamespacePath, Status};

impl State {
    pub(super) fn init(
        &mut self,
        cluster: ClusterId,
        keys: &[MacKey],
        root: &MountSpec,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, Failure> {
        if let Some(identity) = &self.identity {
            if identity.cluster == cluster {
                return Ok(Reply::Done);
            }
            let text =
                format!("this log is of cluster {}: start cluster {cluster} in a home of its own", identity.cluster);
            return Err(Failure::new(Status::AlreadyExists, text));
        }
        if keys.is_empty() {
            return Err(Failure::new(Status::InvalidArgument, "a cluster needs a key to sign capabilities with"));
        }
        self.identity = Some(Identity { cluster, keys: keys.to_vec() });
        self.enter_mount(NamespacePath::root(), root, effects);
        Ok(Reply::Done)
    }

    pub(super) fn mount_add(
        &mut self,
        path: &str,
        spec: &MountSpec,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, Failure> {
        let path = NamespacePath::parse(path)?;
        if self.mounts.is_full() {
            let text = format!("there are {MOUNTS_MAX} mounts, and no more: remove one with `citius mount rm`");
            return Err(Failure::new(Status::NoSpace, text));
        }
        if let Some(inode) = self.survey(&path)? {
            if let Some(id) = self.namespace.links(inode).mount {
                let uri_at = format!("mount {id} is at {path} already: remove it first with `citius mount rm {path}`");
                return Err(Failure::new(Status::AlreadyExists, uri_at));
            }
            let text = if self.namespace.subtree(inode).any(|(below, _)| self.namespace.links(below).mount.is_some()) {
                format!(
                    "a mount lies below {path} and would be hidden: remove it, mount at {path}, then mount it again"
                )
            } else {
                format!(
                    "files at or below {path} are being written, changed, or kept in memory only, and would be hidden: \
                     wait for them, or move or delete them, or mount elsewhere"
                )
            };
            return Err(Failure::new(Status::FileBusy, text));
        }
        Ok(Reply::Mount(self.enter_mount(path, spec, effects)))
    }

    pub(super) fn mount_set(
        &mut self,
        path: &str,
        options: &MountOptions,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, Failure> {
        let (_, id) = self.mounted_at(&NamespacePath::parse(path)?)?;
        let mount = self.mounts.by_id.get_mut(&id).expect("the namespace names mounts that are there");
        mount.options = options.clone();
        self.changed_view(effects);
        Ok(Reply::Mount(id))
    }

    fn mounted_at(&self, path: &NamespacePath) -> Result<(Inode, MountId), Failure> {
        let inode = self.namespace.find(path);
        inode.and_then(|inode| Some((inode, self.namespace.links(inode).mount?))).ok_or_else(|| {
            let text = format!("nothing is mounted at {path}: `citius mount ls` shows what is mounted where");
            Failure::new(Status::NotFound, text)
        })
    }

    pub(super) fn mount_remove(&mut self, path: &str, effects: &mut Vec<Effect>) -> Result<Reply, Failure> {
        let path = NamespacePath::parse(path)?;
        let (inode, id) = self.mounted_at(&path)?;
        if inode == Inode::ROOT {
            let text = "the mount at / holds all that lies in no other mount and cannot be removed";
            return Err(Failure::new(Status::InvalidArgument, text));
        }
        for (below, _) in self.namespace.subtree(inode).filter(|(below, _)| *below != inode) {
            let links = self.namespace.links(below);
            let at = || self.namespace.path(below);
            let (status, text) = if links.mount.is_some() {
                (Status::InvalidArgument, format!("another mount lies below, at {}: remove that first", at()))
            } else if links.file.is_some() {
                (Status::NotEmpty, format!("{} is in memory only and would be lost: move or delete it first", at()))
            } else if links.writer.is_some() || links.claim.is_some() {
                (Status::FileBusy, format!("{} is being written or changed: try again when that is done", at()))
            } else {
                continue;
            };
            return Err(Failure::new(status, format!("cannot unmount {path}: {text}")));
        }
        let remains_count = self.remains.values().filter(|remains| remains.mount == id).count();
        if remains_count > 0 {
            let text = format!(
                "cannot unmount {path}: what {remains_count} aborted writes left there is still being cleaned; try \
                 again when its under-store has answered"
            );
            return Err(Failure::new(Status::FileBusy, text));
        }
        self.mounts.by_id.remove(&id);
        self.namespace.relink(inode, |links| links.mount = None);
        self.changed_view(effects);
        Ok(Reply::Done)
    }

    fn enter_mount(&mut self, path: NamespacePath, spec: &MountSpec, effects: &mut Vec<Effect>) -> MountId {
        let id = self.mounts.mint();
        self.namespace.link(&path, |links| links.mount = Some(id));
        let mount = Mount {
            id,
            path,
            uri: spec.uri.clone(),
            options: spec.options.clone(),
            read_only: spec.read_only,
            sync_interval_ms: spec.sync_interval_ms,
        };
        self.mounts.by_id.insert(id, mount);
        self.changed_view(effects);
        id
    }

    pub(super) fn register(&mut self, worker: Worker, effects: &mut Vec<Effect>) -> Result<Reply, Failure> {
        let (ended, is_changed) = self.workers.register(worker)?;
        if is_changed {
            self.changed_view(effects);
        }
        if let Some(ended) = ended {
            self.abort_published_by(ended, effects);
        }
        Ok(Reply::Registered(self.workers.ring().epoch))
    }

    pub(super) fn worker_gone(&mut self, gone: Publisher, now_ms: u64, effects: &mut Vec<Effect>) -> Reply {
        if self.workers.leave(gone, now_ms) {
            self.changed_view(effects);
            self.abort_published_by(gone, effects);
        }
        Reply::Done
    }

    /// Gives up the writes whose publisher is gone. Those whose intent is logged stay, for the master to settle.
    fn abort_published_by(&mut self, gone: Publisher, effects: &mut Vec<Effect>) {
        let is_its = |file: &&WrittenFile| self.workers.is_publisher(file.epoch, file.place, gone);
        let keys: Vec<FileKey> = self.files.leased().filter(is_its).map(|file| file.key).collect();
        for key in keys {
            let slot = self.files.find(key).expect("it was just found");
            self.give_up(slot, AbortReason::WorkerLost, effects);
        }
    }

    fn changed_view(&mut self, effects: &mut Vec<Effect>) {
        self.view_version += 1;
        effects.push(Effect::View);
    }
}
