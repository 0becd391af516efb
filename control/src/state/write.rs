//! How writes begin, go on and end. `files` draws the phases.
//!
//! Whatever concerns a file that exists is idempotent: a publisher that lost an answer, or whose master was replaced,
//! asks again under another serial and gets the same answer.

use super::State;
use super::command::{Caller, Create, Effect, Reply};
use super::files::{
    AbortReason, Fate, FileSlot, Intended, Phase, Publisher, RECORD_BYTES_MAX, Remains, Staged, TOKEN_BYTES_MAX,
    WRITES_MAX, WrittenFile,
};
use super::namespace::INODES_MAX;
use citius_wire::{Failure, FileKey, NamespacePath, Status, WriteType, units};

impl State {
    pub(super) fn create(
        &mut self,
        create: &Create,
        caller: Option<Caller>,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, Failure> {
        let refuse = |status, text: String| Err(Failure::new(status, text));
        let path = NamespacePath::parse(&create.path)?;
        let Some(caller) = caller else {
            return refuse(Status::InvalidArgument, format!("only a client can write {path}: name one"));
        };
        self.check_create(create, &path)?;
        let inode = self.survey_writable(&path, create.mount)?;
        let mut expired = None;
        if let Some(inode) = inode {
            let links = *self.namespace.links(inode);
            if links.mount.is_some() || self.namespace.has_children(inode) {
                return refuse(Status::IsADirectory, format!("{path} is a directory: write to a name inside it"));
            }
            if links.claim.is_some() {
                return Err(not_now(&path));
            }
            if let Some(slot) = links.writer {
                let writer = self.files.get(slot);
                if writer.key == create.file && writer.client == caller.client {
                    return Ok(Reply::Created { file: writer.key, epoch: writer.epoch });
                }
                if !writer.is_leased() || now_ms < writer.lease_until_ms {
                    return Err(self.busy(writer, &path, now_ms));
                }
                expired = Some(slot);
            }
            if links.file.is_some() && !create.overwrite {
                return Err(exists(&path));
            }
        }
        if create.replaces.is_some() && !create.overwrite {
            return Err(exists(&path));
        }
        self.check_room(create.file, expired.is_some())?;

        if let Some(slot) = expired {
            self.give_up(slot, AbortReason::LeaseExpired, effects);
        }
        let epoch = self.workers.hold();
        let inode = self.namespace.ensure(&path);
        let slot = self.files.insert(WrittenFile {
            key: create.file,
            inode,
            mount: create.mount,
            place: create.place,
            write_type: create.write_type,
            block_bytes: create.block_bytes,
            length: 0,
            client: caller.client,
            lease_until_ms: now_ms + u64::from(create.lease_ms),
            epoch,
            created_ms: now_ms,
            modified_ms: now_ms,
            overwrite: create.overwrite,
            replaces: create.replaces.as_deref().map(Box::from),
            phase: Phase::Writing,
        });
        self.namespace.relink(inode, |links| links.writer = Some(slot));
        Ok(Reply::Created { file: create.file, epoch })
    }

    /// Checks what can be told from the command alone, and that there is somebody to write to.
    fn check_create(&self, create: &Create, path: &NamespacePath) -> Result<(), Failure> {
        if !units::is_block_bytes(create.block_bytes) {
            let text = format!(
                "blocks of {} bytes: a block is whole pages of {} bytes, from {} to {} bytes",
                create.block_bytes,
                units::PAGE_BYTES,
                units::BLOCK_BYTES_MIN,
                units::BLOCK_BYTES_MAX
            );
            return Err(Failure::new(Status::InvalidArgument, text));
        }
        check_token(create.replaces.as_deref().unwrap_or_default())?;
        if self.workers.ring().members.is_empty() {
            let text = format!("cannot write {path}: no worker is registered; start one with `citius worker`");
            return Err(Failure::new(Status::Unavailable, text));
        }
        Ok(())
    }

    /// Checks that a file more fits, and that its key is new. One that takes the place of another's needs no room.
    fn check_room(&self, key: FileKey, is_exchange: bool) -> Result<(), Failure> {
        let is_used = self.files.find(key).is_some() || self.fates.get(key).is_some();
        if is_used || self.remains.contains_key(&key) {
            return Err(Failure::new(Status::InvalidArgument, format!("file key {key} was used before: mint another")));
        }
        if self.files.writes_count() + self.remains.len() >= WRITES_MAX && !is_exchange {
            let text =
                format!("{WRITES_MAX} files are being written or cleaned up after: try again when some are done");
            return Err(Failure::new(Status::Busy, text));
        }
        if !self.namespace.has_room() {
            let text = format!(
                "the master holds {INODES_MAX} names that are in no under-store, and no more: delete must-cache files"
            );
            return Err(Failure::new(Status::NoSpace, text));
        }
        Ok(())
    }

    pub(super) fn renew(
        &mut self,
        key: FileKey,
        caller: Option<Caller>,
        lease_until_ms: u64,
    ) -> Result<Reply, Failure> {
        let slot = self.written(key)?;
        self.check_writer(slot, caller)?;
        if self.files.get(slot).is_leased() {
            self.files.change(slot, |file| file.lease_until_ms = lease_until_ms.max(file.lease_until_ms));
        }
        Ok(Reply::Done)
    }

    pub(super) fn complete(
        &mut self,
        key: FileKey,
        length: u64,
        caller: Option<Caller>,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, Failure> {
        let slot = self.written(key)?;
        self.check_writer(slot, caller)?;
        let file = self.files.get(slot);
        let path = || self.namespace.path(file.inode);
        if file.write_type != WriteType::MustCache {
            let text = format!("{} is {}: publish it instead", path(), file.write_type.name());
            return Err(Failure::new(Status::InvalidArgument, text));
        }
        if file.is_complete() {
            if file.length == length {
                return Ok(Reply::Done);
            }
            let text = format!("{} was closed at {} bytes, and cannot get {length}", path(), file.length);
            return Err(Failure::new(Status::InvalidArgument, text));
        }
        let blocks = self.check_length(file, length)?;
        if self.workers.is_any_owner_gone(file.epoch, file.place, blocks) {
            let text = format!("{}: a worker that held blocks of it is gone, and they with it: write it again", path());
            return Err(Failure::new(Status::DataLost, text));
        }

        let inode = file.inode;
        if let Some(old) = self.namespace.links(inode).file {
            self.forget(old, effects);
        }
        self.files.change(slot, |file| {
            file.length = length;
            file.modified_ms = now_ms;
            file.phase = Phase::Complete;
        });
        self.namespace.relink(inode, |links| (links.file, links.writer) = (Some(slot), None));
        Ok(Reply::Done)
    }

    pub(super) fn abort(
        &mut self,
        key: FileKey,
        reason: AbortReason,
        caller: Option<Caller>,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, Failure> {
        // Nothing of it is left, which is what was asked for.
        let Some(slot) = self.files.find(key) else { return Ok(Reply::Done) };
        self.check_writer(slot, caller)?;
        let file = self.files.get(slot);
        let path = || self.namespace.path(file.inode);
        if file.is_complete() {
            let text = format!("{} is closed: delete it instead", path());
            return Err(Failure::new(Status::InvalidArgument, text));
        }
        if file.is_unsettled() {
            return Err(publishing(&path()));
        }
        if reason == AbortReason::LeaseExpired && now_ms < file.lease_until_ms {
            let text = format!("the writer of {} has renewed its lease", path());
            return Err(Failure::new(Status::FileBusy, text));
        }
        self.give_up(slot, reason, effects);
        Ok(Reply::Done)
    }

    pub(super) fn stage_started(
        &mut self,
        key: FileKey,
        record: &[u8],
        publisher: Option<Publisher>,
    ) -> Result<Reply, Failure> {
        check_record(record)?;
        let slot = self.written(key)?;
        let file = self.files.get(slot);
        self.check_published(file)?;
        match &file.phase {
            Phase::Writing => {
                let staged = Box::new(Staged { record: record.to_vec(), publisher });
                self.files.change(slot, |file| file.phase = Phase::Staging(staged));
                Ok(Reply::Done)
            }
            Phase::Staging(staged) if staged.record == record => Ok(Reply::Done),
            _ => {
                let text = format!(
                    "{} is being staged under another record: clean up what was staged now",
                    self.namespace.path(file.inode)
                );
                Err(Failure::new(Status::FileBusy, text))
            }
        }
    }

    pub(super) fn publish_intent(
        &mut self,
        key: FileKey,
        length: u64,
        record: &[u8],
        publisher: Publisher,
    ) -> Result<Reply, Failure> {
        check_record(record)?;
        let slot = self.written(key)?;
        let file = self.files.get(slot);
        self.check_published(file)?;
        self.check_length(file, length)?;
        let condition = Reply::Condition { replaces: file.replaces.as_deref().map(Vec::from) };
        match &file.phase {
            Phase::Intent(intended)
                if intended.publisher == publisher && intended.record == record && file.length == length => {}
            Phase::Intent(_) => return Err(publishing(&self.namespace.path(file.inode))),
            _ if !self.workers.is_live(publisher) => {
                let text = format!(
                    "{}: worker {} is not, or no more, in the ring in this life: register first",
                    self.namespace.path(file.inode),
                    publisher.worker
                );
                return Err(Failure::new(Status::Aborted, text));
            }
            _ => self.files.change(slot, |file| {
                file.length = length;
                file.phase = Phase::Intent(Box::new(Intended { record: record.to_vec(), publisher }));
            }),
        }
        Ok(condition)
    }

    pub(super) fn publish_done(
        &mut self,
        key: FileKey,
        token: &[u8],
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, Failure> {
        check_token(token)?;
        if let (None, Some(Fate::Persisted(to))) = (self.files.find(key), self.fates.get(key)) {
            return Ok(Reply::Persisted(to));
        }
        let slot = self.written(key)?;
        let file = self.files.get(slot);
        let path = self.namespace.path(file.inode);
        if !file.is_unsettled() {
            let text = format!("{path} was published without an intent in the log");
            return Err(Failure::new(Status::Protocol, text));
        }
        let to = FileKey::of_version(file.mount, self.store_path(file.mount, &path), token);

        let (inode, write_type) = (file.inode, file.write_type);
        if let Some(old) = self.namespace.links(inode).file {
            self.forget(old, effects);
        }
        let file = self.files.remove(slot);
        let ring = self.ring_at(file.epoch);
        self.namespace.relink(inode, |links| links.writer = None);
        self.workers.release(file.epoch);
        self.fates.record(key, Fate::Persisted(to));
        effects.push(match write_type {
            WriteType::Through => Effect::Forget { file: key, ring },
            _ => Effect::Rekey { from: key, to, ring },
        });
        Ok(Reply::Persisted(to))
    }

    pub(super) fn publish_failed(&mut self, key: FileKey, effects: &mut Vec<Effect>) -> Result<Reply, Failure> {
        let Some(slot) = self.files.find(key) else { return Ok(Reply::Done) };
        self.check_published(self.files.get(slot))?;
        // Nothing is left: whoever says so has looked.
        self.files.change(slot, |file| file.phase = Phase::Writing);
        self.give_up(slot, AbortReason::PublishFailed, effects);
        Ok(Reply::Done)
    }

    /// Ends a write that is not complete; what it may have staged is remembered until it is cleaned.
    pub(super) fn give_up(&mut self, slot: FileSlot, reason: AbortReason, effects: &mut Vec<Effect>) {
        let file = self.files.get(slot);
        assert!(file.is_leased(), "an intent is settled, a complete file is deleted");
        let (key, inode, epoch, mount) = (file.key, file.inode, file.epoch, file.mount);
        if let Phase::Staging(staged) = &file.phase {
            let (staged, path) = (staged.clone(), self.namespace.path(inode));
            let store_path = self.store_path(mount, &path).to_owned();
            let remains = Remains { mount, store_path, record: staged.record, publisher: staged.publisher };
            self.remains.insert(key, remains);
            effects.push(Effect::Remains(key));
        }
        self.files.remove(slot);
        effects.push(Effect::Forget { file: key, ring: self.ring_at(epoch) });
        effects.push(Effect::Aborted { file: key, reason });
        self.workers.release(epoch);
        self.fates.record(key, Fate::Aborted(reason));
        self.namespace.relink(inode, |links| links.writer = None);
    }

    /// Drops a complete file.
    pub(super) fn forget(&mut self, slot: FileSlot, effects: &mut Vec<Effect>) {
        let file = self.files.remove(slot);
        assert!(file.is_complete());
        effects.push(Effect::Forget { file: file.key, ring: self.ring_at(file.epoch) });
        self.workers.release(file.epoch);
        self.namespace.relink(file.inode, |links| links.file = None);
    }

    /// The file that is or was being written; a refusal that tells how it ended if it is gone.
    fn written(&self, key: FileKey) -> Result<FileSlot, Failure> {
        self.files.find(key).ok_or_else(|| match self.fates.get(key) {
            Some(Fate::Aborted(reason)) => Failure::new(
                Status::Aborted,
                format!("the write was given up: {}; write the file again", reason.text()),
            ),
            Some(Fate::Persisted(to)) => {
                Failure::new(Status::InvalidArgument, format!("the file is in its under-store already, as {to}"))
            }
            None => Failure::new(
                Status::Aborted,
                format!("no file {key} is being written: it was given up or deleted; write the file again"),
            ),
        })
    }

    /// Checks that a client speaks of its own write; masters may speak of any.
    fn check_writer(&self, slot: FileSlot, caller: Option<Caller>) -> Result<(), Failure> {
        let file = self.files.get(slot);
        if caller.is_none_or(|caller| caller.client == file.client) {
            return Ok(());
        }
        let text = format!("{} is being written by another client", self.namespace.path(file.inode));
        Err(Failure::new(Status::PermissionDenied, text))
    }

    fn check_published(&self, file: &WrittenFile) -> Result<(), Failure> {
        if file.write_type != WriteType::MustCache {
            return Ok(());
        }
        let text = format!("{} is must-cache and is not published: complete it", self.namespace.path(file.inode));
        Err(Failure::new(Status::InvalidArgument, text))
    }

    /// The blocks of a file that gets this length.
    fn check_length(&self, file: &WrittenFile, length: u64) -> Result<u32, Failure> {
        file.block_count(length).ok_or_else(|| {
            let text = format!(
                "{} of {length} bytes would have more than {} blocks: write it with larger ones",
                self.namespace.path(file.inode),
                u32::MAX
            );
            Failure::new(Status::InvalidArgument, text)
        })
    }

    fn busy(&self, writer: &WrittenFile, path: &NamespacePath, now_ms: u64) -> Failure {
        if writer.is_unsettled() {
            return Failure::new(
                Status::FileBusy,
                format!("another write of {path} is being published: try again then"),
            );
        }
        let left_s = writer.lease_until_ms.saturating_sub(now_ms).div_ceil(1000);
        let text = format!(
            "client {} is writing {path}: wait until it closes the file, or for {left_s} s if it is gone",
            writer.client
        );
        Failure::new(Status::FileBusy, text)
    }
}

/// The refusal of a path that an intent has for itself.
pub(super) fn not_now(path: &NamespacePath) -> Failure {
    let text = format!("{path} is being deleted, renamed or made by another operation: try again when it is done");
    Failure::new(Status::Unavailable, text)
}

/// The refusal of a path whose writer may be changing the under-store.
pub(super) fn publishing(path: &NamespacePath) -> Failure {
    Failure::new(
        Status::Unavailable,
        format!("{path} is being published to its under-store: try again when it is done"),
    )
}

/// The refusal of a path that has something.
pub(super) fn exists(path: &NamespacePath) -> Failure {
    Failure::new(Status::AlreadyExists, format!("{path} exists: delete it, or ask to overwrite it"))
}

fn check_record(record: &[u8]) -> Result<(), Failure> {
    if record.len() <= RECORD_BYTES_MAX {
        return Ok(());
    }
    let text = format!("a record of staging has {} bytes, at most {RECORD_BYTES_MAX} are allowed", record.len());
    Err(Failure::new(Status::InvalidArgument, text))
}

fn check_token(token: &[u8]) -> Result<(), Failure> {
    if token.len() <= TOKEN_BYTES_MAX {
        return Ok(());
    }
    let text = format!("a version token has {} bytes, at most {TOKEN_BYTES_MAX} are allowed", token.len());
    Err(Failure::new(Status::InvalidArgument, text))
}
