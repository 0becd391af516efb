//! `stat`, `open` and `ring`: at once where memory, or a local file system on this thread, has the answer.
//!
//! What one `stat` costs at once: two short read locks, one shard of the cache, and the strings of the answer.

use citius_wire::units::BLOCK_BYTES_DEFAULT;
use citius_wire::{
    Access, EntryKind, Epoch, Failure, FileInfo, FileKey, MountId, NamespacePath, Opened, Operation, Origin, Outcome,
    Persistence, Place, Right, Ring, Status,
};

use super::Service;
use super::sight::{Known, Seen, Sight, not_found};

/// The user that capabilities are given to, until there are users.
pub(super) const OWNER: &str = "owner";
/// Operations of one batch that are answered at once: each may be a system call, and others wait meanwhile.
const AT_ONCE_MAX: usize = 64;

type ArchivedBatch = <citius_wire::Batch as rkyv::Archive>::Archived;
type ArchivedOperation = <Operation as rkyv::Archive>::Archived;

impl Service {
    /// Answers a batch into `results` if all of it can be answered without waiting; whether it did.
    pub(crate) fn answer_now(
        &self,
        batch: &ArchivedBatch,
        now_ms: u64,
        results: &mut Vec<Result<Outcome, Failure>>,
    ) -> bool {
        if batch.operations.len() > AT_ONCE_MAX || self.check_lease().is_err() {
            return false;
        }
        for operation in batch.operations.iter() {
            let result = match operation {
                ArchivedOperation::Stat { path } => self.stat_now(path.as_str(), now_ms),
                ArchivedOperation::Open { path, stale } if stale.is_none() => self.open_now(path.as_str(), now_ms),
                ArchivedOperation::Ring { epoch } => Some(self.ring(Epoch(epoch.0.into()))),
                _ => None,
            };
            match result {
                Some(result) => results.push(result),
                None => return false,
            }
        }
        true
    }

    fn stat_now(&self, path: &str, now_ms: u64) -> Option<Result<Outcome, Failure>> {
        let answer = || {
            let path = NamespacePath::parse(path)?;
            let Some(known) = self.known_now(&path)? else { return Ok(None) };
            // What the state knows needs no look at the mount.
            if let (mount, Known::Seen(seen)) = &known {
                let info = entry(*mount, path.as_str().to_owned(), seen).ok_or_else(|| not_found(&path))?;
                return Ok(Some(Outcome::Info(info)));
            }
            let Some(sight) = self.sight_now(&path, known, now_ms)? else { return Ok(None) };
            info(&sight, &path).map(|info| Some(Outcome::Info(info)))
        };
        answer().transpose()
    }

    fn open_now(&self, path: &str, now_ms: u64) -> Option<Result<Outcome, Failure>> {
        let answer = || {
            let path = NamespacePath::parse(path)?;
            let Some(known) = self.known_now(&path)? else { return Ok(None) };
            let Some(sight) = self.sight_now(&path, known, now_ms)? else { return Ok(None) };
            self.opened(&sight, &path, now_ms).map(|opened| Some(Outcome::Opened(Box::new(opened))))
        };
        answer().transpose()
    }

    /// Answers an operation that changes nothing, waiting where it must.
    pub(super) async fn read(&self, operation: &Operation) -> Result<Outcome, Failure> {
        let now_ms = self.now_ms();
        match operation {
            Operation::Stat { path } => {
                let path = NamespacePath::parse(path)?;
                Ok(Outcome::Info(info(&self.sight(&path, now_ms).await?, &path)?))
            }
            Operation::Open { path, stale } => {
                let path = NamespacePath::parse(path)?;
                let mut sight = self.sight(&path, now_ms).await?;
                if matches!(&sight.seen, Seen::File(file) if Some(file.version) == *stale) {
                    sight.seen = self.found_anew(&sight.mounted, &path).await?.into();
                }
                Ok(Outcome::Opened(Box::new(self.opened(&sight, &path, now_ms)?)))
            }
            Operation::Ring { epoch } => self.ring(*epoch),
            Operation::MountList => Ok(Outcome::Mounts(self.mount_infos())),
            Operation::Cluster => Ok(Outcome::Cluster(Box::new(self.cluster_info()))),
            other => unreachable!("{other:?} changes something, or is new: the batch sorts it elsewhere"),
        }
    }

    fn ring(&self, epoch: Epoch) -> Result<Outcome, Failure> {
        let ring = self.state(|state| match epoch {
            Epoch(0) => Some(Ring::clone(state.ring())),
            epoch => state.ring_of(epoch).map(|ring| Ring::clone(ring)),
        });
        ring.map(|ring| Outcome::Ring(Box::new(ring))).ok_or_else(|| {
            let words = format!("the ring of epoch {epoch} is forgotten, as no file needs it: open the file again");
            Failure::new(Status::NotFound, words)
        })
    }

    fn opened(&self, sight: &Sight, path: &NamespacePath, now_ms: u64) -> Result<Opened, Failure> {
        let info = info(sight, path)?;
        let mount = sight.mounted.id;
        let store_path = sight.store_path(path);
        let (origin, place, epoch) = match &sight.seen {
            Seen::File(file) => {
                let origin = Origin::UnderStore { token: file.token.as_bytes().to_vec() };
                (origin, Place::of_path(mount, store_path), self.state(|state| state.ring().epoch))
            }
            Seen::Written(file) if file.is_lost => {
                let words = format!(
                    "{path} was in memory only, and every worker that held a part of it must be there to read it: one \
                     is gone; write it again, or delete it"
                );
                return Err(Failure::new(Status::DataLost, words));
            }
            Seen::Written(file) => (Origin::Memory { epoch: file.epoch }, file.place, file.epoch),
            Seen::Nothing | Seen::Directory { .. } => {
                let words = format!("{path} is a directory: list it instead");
                return Err(Failure::new(Status::IsADirectory, words));
            }
        };
        let expires_ms = now_ms + self.conduct.capability_ms;
        let right = Right {
            file: info.version,
            place,
            mount,
            path: store_path.to_owned(),
            origin,
            length: info.length,
            block_bytes: info.block_bytes,
            access: Access::Read,
            user: OWNER.to_owned(),
            expires_ms,
        };
        Ok(Opened { info, place, epoch, capability: self.sign(&right)?, expires_ms })
    }

    /// Signs with the newest key.
    pub(super) fn sign(&self, right: &Right) -> Result<Vec<u8>, Failure> {
        let key = self.state(|state| state.keys().first().cloned());
        let key = key.ok_or_else(|| Failure::new(Status::Unavailable, "the cluster is being set up: try again"))?;
        Ok(right.sign(&key))
    }
}

/// What `stat` says of what is there.
fn info(sight: &Sight, path: &NamespacePath) -> Result<FileInfo, Failure> {
    entry(sight.mounted.id, path.as_str().to_owned(), &sight.seen).ok_or_else(|| not_found(path))
}

/// What `stat` and `list` say; `None` of nothing.
pub(super) fn entry(mount: MountId, path: String, seen: &Seen) -> Option<FileInfo> {
    let directory = FileInfo {
        path,
        kind: EntryKind::Directory,
        length: 0,
        modified_ms: 0,
        version: FileKey([0; 16]),
        persistence: Persistence::Persisted,
        block_bytes: 0,
        mount,
        is_mount: false,
    };
    Some(match seen {
        Seen::Nothing => return None,
        Seen::Directory { modified_ms, is_mount } => {
            FileInfo { modified_ms: *modified_ms, is_mount: *is_mount, ..directory }
        }
        Seen::Written(file) => FileInfo {
            kind: EntryKind::File,
            length: file.length,
            modified_ms: file.modified_ms,
            version: file.key,
            persistence: if file.is_lost { Persistence::Lost } else { Persistence::MemoryOnly },
            block_bytes: file.block_bytes,
            ..directory
        },
        Seen::File(file) => FileInfo {
            kind: EntryKind::File,
            length: file.length,
            modified_ms: file.modified_ms,
            version: file.version,
            block_bytes: BLOCK_BYTES_DEFAULT,
            ..directory
        },
    })
}
