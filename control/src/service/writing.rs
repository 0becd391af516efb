//! Files being written, from the right to write them to their key in the under-store.

use std::sync::Arc;

use citius_understore::VersionToken;
use citius_wire::units::{BLOCK_BYTES_DEFAULT, is_block_bytes};
use citius_wire::{
    Access, Created, Epoch, Failure, FileKey, MountId, NamespacePath, Operation, Origin, Outcome, Place, Right, Status,
    WriteType,
};

use super::batch::{Prepared, Published};
use super::naming::mkdir_all;
use super::provisions::{Directory, Provisions};
use super::reading::OWNER;
use super::sight::{Seen, Sight, store_path_of, within};
use super::{Service, failure};
use crate::state::{AbortReason, Change, Create, Publisher, Reply, WrittenFile};
use crate::sync::{Found, FoundFile};

/// How a file is to be created.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    pub(super) overwrite: bool,
    pub(super) parents: bool,
    pub(super) write_type: WriteType,
    /// 0 for the default.
    pub(super) block_bytes: u32,
}

impl Service {
    pub(super) async fn prepare_create(
        &self,
        path: &NamespacePath,
        manner: Manner,
        provisions: &Provisions,
    ) -> Result<Prepared, Failure> {
        let block_bytes = if manner.block_bytes == 0 { BLOCK_BYTES_DEFAULT } else { manner.block_bytes };
        if !is_block_bytes(block_bytes) {
            let words = format!("{path}: blocks of {block_bytes} bytes are not whole pages of 2 MiB up to 1 GiB");
            return Err(Failure::new(Status::InvalidArgument, words));
        }
        let (sight, directory) = self.sight_of_new(path, provisions).await?;
        sight.mounted.check_writable(path)?;
        let exists =
            || Failure::new(Status::AlreadyExists, format!("{path} exists: delete it, or ask to overwrite it"));
        let replaces = match &sight.seen {
            Seen::Directory { .. } => {
                let words = format!("{path} is a directory: write to a name inside it");
                return Err(Failure::new(Status::IsADirectory, words));
            }
            Seen::Written(_) | Seen::File(_) if !manner.overwrite => return Err(exists()),
            Seen::File(file) => Some(file.token.as_bytes().to_vec()),
            // The log's file hides what the store may have.
            Seen::Written(_) => {
                let below = self.found_anew(&sight.mounted, path).await?;
                below.file().map(|file| file.token.as_bytes().to_vec())
            }
            Seen::Nothing => {
                self.ready_parent(&sight, path, directory, manner.parents, provisions).await?;
                None
            }
        };
        let create = Create {
            path: path.as_str().to_owned(),
            mount: sight.mounted.id,
            place: Place::of_path(sight.mounted.id, sight.store_path(path)),
            file: provisions.key()?,
            write_type: manner.write_type,
            block_bytes,
            overwrite: manner.overwrite,
            replaces,
            lease_ms: self.conduct.lease_ms,
        };
        Ok(Change::Create(create).into())
    }

    /// Checks that the directory of a new file is there, or makes it.
    async fn ready_parent(
        &self,
        sight: &Sight,
        path: &NamespacePath,
        directory: Option<Arc<Directory>>,
        parents: bool,
        provisions: &Provisions,
    ) -> Result<(), Failure> {
        let missing = match self.check_parent(path, directory, provisions).await {
            Err(failure) if parents && failure.status == Status::NotFound => path.parent(),
            other => return other,
        };
        let Some(parent) = missing else { return Ok(()) };
        // Not an intent: what a crash leaves of it is directories, as of any `mkdir -p`.
        let store_path = store_path_of(&sight.mounted, &parent)?;
        let made = mkdir_all(&**sight.mounted.store()?, &store_path).await;
        self.changed(sight.mounted.id, store_path.as_str(), None);
        made.map_err(|error| failure::of_store("making", &error, &parent))?;
        provisions.made(&parent);
        Ok(())
    }

    /// What is to be logged for an operation on a file being written.
    pub(super) fn prepare_file(&self, operation: &Operation) -> Result<Prepared, Failure> {
        Ok(match operation.clone() {
            Operation::Renew { file } => Change::Renew { file, lease_ms: self.conduct.lease_ms }.into(),
            Operation::Complete { file, length } => Change::Complete { file, length }.into(),
            Operation::Abort { file } => Change::Abort { file, reason: AbortReason::Writer }.into(),
            Operation::StageStarted { file, record } => Change::StageStarted { file, record, publisher: None }.into(),
            Operation::PublishIntent { file, length, record, worker, incarnation } => {
                let publisher = Publisher { worker, incarnation };
                Change::PublishIntent { file, length, record, publisher }.into()
            }
            Operation::PublishDone { file, token } => {
                let published = self.published(file, &token)?;
                Prepared { change: Change::PublishDone { file, token }, published }
            }
            Operation::PublishFailed { file } => Change::PublishFailed { file }.into(),
            other => {
                let words = format!("this master does not know how to do {other:?}: it is of an older release");
                return Err(Failure::new(Status::Unsupported, words));
            }
        })
    }

    /// What the under-store has once a file is published with this token. The log forgets the file with that, so it is
    /// asked before.
    pub(super) fn published(&self, file: FileKey, token: &[u8]) -> Result<Option<Published>, Failure> {
        let known = self.state(|state| {
            let file = state.file(file)?;
            let path = state.path_of(file);
            let mount = state.mount(file.mount)?;
            let store_path = path.relative_to(&mount.path)?.to_owned();
            Some((mount.id, store_path, file.length))
        });
        let Some((mount, store_path, length)) = known else { return Ok(None) };
        let token = VersionToken::new(token).map_err(|error| failure::of_mount(&error))?;
        let version = FileKey::of_version(mount, &store_path, token.as_bytes());
        let found = Found::File(FoundFile { length, modified_ms: self.now_ms(), token, version });
        Ok(Some(Published { mount, store_path, found }))
    }

    /// Logs that a publication happened whose worker could not say so.
    pub(crate) async fn publish_done(&self, file: FileKey, token: Vec<u8>) -> Result<(), Failure> {
        let published = self.published(file, &token)?;
        self.propose(None, Change::PublishDone { file, token }).await?;
        if let Some(Published { mount, store_path, found }) = published {
            self.changed(mount, &store_path, Some(found));
        }
        Ok(())
    }

    /// The outcome of a reply; also of one that was given before.
    pub(super) fn outcome(&self, reply: Reply) -> Result<Outcome, Failure> {
        match reply {
            Reply::Done | Reply::Registered(_) | Reply::Intent(_) => Ok(Outcome::Done),
            Reply::Created { file, .. } => self.outcome_of_earlier_create(file),
            Reply::Condition { replaces } => Ok(Outcome::Intent { replaces }),
            Reply::Persisted(file) => Ok(Outcome::Persisted { file }),
            Reply::Mount(mount) => self.mount_info(mount).map(|info| Outcome::Mount(Box::new(info))),
        }
    }

    /// The outcome of a create that was logged just now: all that the answer says is in what was logged.
    pub(super) fn outcome_of_create(
        &self,
        path: &NamespacePath,
        create: &Create,
        epoch: Epoch,
    ) -> Result<Outcome, Failure> {
        let mounted = self.mounts.find(create.mount)?;
        let Create { file, mount, place, block_bytes, write_type, .. } = *create;
        let path = within(&mounted, path).to_owned();
        self.created(Begun { file, mount, place, epoch, block_bytes, write_type, path })
    }

    /// The same, of a create that was logged before.
    fn outcome_of_earlier_create(&self, file: FileKey) -> Result<Outcome, Failure> {
        let begun = self.state(|state| {
            let WrittenFile { key, mount, place, epoch, block_bytes, write_type, .. } = *state.file(file)?;
            let path = state.path_of(state.file(file)?);
            let path = path.relative_to(&state.mount(mount)?.path)?.to_owned();
            Some(Begun { file: key, mount, place, epoch, block_bytes, write_type, path })
        });
        self.created(begun.ok_or_else(|| {
            let words = format!("the write of file {file} was given up meanwhile: create it again");
            Failure::new(Status::Aborted, words)
        })?)
    }

    fn created(&self, begun: Begun) -> Result<Outcome, Failure> {
        let Begun { file, mount, place, epoch, block_bytes, write_type, path } = begun;
        let right = Right {
            file,
            place,
            mount,
            path,
            origin: Origin::Writer { write_type, epoch },
            length: 0,
            block_bytes,
            access: Access::Write,
            user: OWNER.to_owned(),
            expires_ms: self.now_ms() + self.conduct.capability_ms,
        };
        let capability = self.sign(&right)?;
        let lease_ms = self.conduct.lease_ms;
        let created = Created { file, place, epoch, block_bytes, write_type, capability, lease_ms };
        Ok(Outcome::Created(Box::new(created)))
    }
}

/// A file whose write has begun, as its writer is to know it.
struct Begun {
    file: FileKey,
    mount: MountId,
    place: Place,
    epoch: Epoch,
    block_bytes: u32,
    write_type: WriteType,
    /// In the mount's under-store.
    path: String,
}
