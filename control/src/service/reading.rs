//! `stat`, `open` and `ring`: at once where memory, or a local file system on this thread, has the answer.
//!
//! What one `stat` costs at once: one short read lock, one shard of the cache, and the string of its path, which goes
//! into the answer.

use citius_wire::units::BLOCK_BYTES_DEFAULT;
use citius_wire::{
    Access, EntryKind, Epoch, Failure, FileInfo, FileKey, MountId, NamespacePath, Opened, Operation, Origin, Outcome,
    Persistence, Place, Right, Ring, Status,
};

use super::Service;
use super::sight::{Known, Seen, Sight, known_of, not_found};
use crate::sync::{Found, FoundFile, SyncInterval};

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
            let (mount, facts) = match self.recall(&path, now_ms)? {
                Some((mount, Some(facts))) => (mount, facts),
                Some((mount, None)) => {
                    let Some(sight) = self.sight_now(&path, (mount, Known::AskStore), now_ms)? else { return Ok(None) };
                    (mount, Facts::of(&sight.seen))
                }
                None => return Ok(None),
            };
            facts.info(mount, path).map(|info| Some(Outcome::Info(info)))
        };
        answer().transpose()
    }

    /// What memory has of a path: the log's word, or an answer of the store that is still believed. `None` while a
    /// rename that must be waited for has the path; no facts if the store must be asked.
    fn recall(&self, path: &NamespacePath, now_ms: u64) -> Result<Option<(MountId, Option<Facts>)>, Failure> {
        if !self.locks.is_readable(path.as_str()) {
            return Ok(None);
        }
        self.state(|state| {
            let resolution = state.resolve(path)?;
            let mount = resolution.mount;
            let facts = match known_of(state, &resolution) {
                Known::Seen(seen) => Some(Facts::of(&seen)),
                Known::AskStore => {
                    let interval = SyncInterval::from_ms(mount.sync_interval_ms)?;
                    self.cache.read_fresh(mount.id, resolution.store_path, interval, now_ms, Facts::of_found)
                }
            };
            Ok(Some((mount.id, facts)))
        })
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
            Operation::MountCheck { path, may_write } => {
                let path = NamespacePath::parse(path)?;
                Ok(Outcome::Checkup(Box::new(self.check_mount(&path, *may_write).await?)))
            }
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
            let words = format!(
                "the ring of epoch {epoch} is forgotten, as no file needs it: open the file again, or begin its write anew"
            );
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
    Facts::of(&sight.seen).info(sight.mounted.id, path.clone())
}

/// What `stat` and `list` say; `None` of nothing.
pub(super) fn entry(mount: MountId, path: String, seen: &Seen) -> Option<FileInfo> {
    Facts::of(seen).entry(mount, path)
}

/// What a [`FileInfo`] says, but for where it lies.
#[derive(Clone, Copy)]
enum Facts {
    Nothing,
    Directory { modified_ms: u64, is_mount: bool },
    File { length: u64, modified_ms: u64, version: FileKey, persistence: Persistence, block_bytes: u32 },
}

impl Facts {
    fn of(seen: &Seen) -> Self {
        match seen {
            Seen::Nothing => Self::Nothing,
            Seen::Directory { modified_ms, is_mount } => {
                Self::Directory { modified_ms: *modified_ms, is_mount: *is_mount }
            }
            Seen::Written(file) => Self::File {
                length: file.length,
                modified_ms: file.modified_ms,
                version: file.key,
                persistence: if file.is_lost { Persistence::Lost } else { Persistence::MemoryOnly },
                block_bytes: file.block_bytes,
            },
            Seen::File(file) => Self::of_found_file(file),
        }
    }

    fn of_found(found: &Found) -> Self {
        match found {
            Found::Nothing => Self::Nothing,
            Found::Directory { modified_ms } => Self::Directory { modified_ms: *modified_ms, is_mount: false },
            Found::File(file) => Self::of_found_file(file),
        }
    }

    fn of_found_file(file: &FoundFile) -> Self {
        Self::File {
            length: file.length,
            modified_ms: file.modified_ms,
            version: file.version,
            persistence: Persistence::Persisted,
            block_bytes: BLOCK_BYTES_DEFAULT,
        }
    }

    fn entry(self, mount: MountId, path: String) -> Option<FileInfo> {
        let (kind, length, modified_ms, version, persistence, block_bytes, is_mount) = match self {
            Self::Nothing => return None,
            Self::Directory { modified_ms, is_mount } => {
                (EntryKind::Directory, 0, modified_ms, FileKey([0; 16]), Persistence::Persisted, 0, is_mount)
            }
            Self::File { length, modified_ms, version, persistence, block_bytes } => {
                (EntryKind::File, length, modified_ms, version, persistence, block_bytes, false)
            }
        };
        Some(FileInfo { path, kind, length, modified_ms, version, persistence, block_bytes, mount, is_mount })
    }

    fn info(self, mount: MountId, path: NamespacePath) -> Result<FileInfo, Failure> {
        match self {
            Self::Nothing => Err(not_found(&path)),
            facts => Ok(facts.entry(mount, path.into_string()).expect("there is something")),
        }
    }
}
