//! The state of a cluster that cannot be refetched, as a deterministic machine.
//!
//! | file | what it holds |
//! |---|---|
//! | `command` | what can change the state, what it gives back, what others must do |
//! | `cluster` | how clusters, mounts and workers begin and end |
//! | `write` | how writes begin, go on and end |
//! | `rename` | how names change: mkdir, delete, rename |
//! | `read` | questions, answered under a read lock |
//! | `namespace`, `names`, `children` | the tree of names that only the log knows |
//! | `files` | written files, remains, fates |
//! | `workers`, `mounts`, `intents`, `sessions` | what their names say |
//! | `snapshot` | the state as bytes |
//!
//! The state knows everything that is true before an under-store is asked: files being written, complete files that
//! are in memory only, names that are about to change, mounts, workers. It reads no clock, draws no random number and
//! does no I/O; [`State::apply`] of the same commands at the same times gives the same state, replies and effects.
//!
//! What holds, and [`State::validate`] checks:
//! - A command that is refused changes nothing, but that its caller's session remembers the refusal.
//! - A refusal that invites a retry ([`Status::is_retryable`]) is not remembered, so that the retry is tried.
//! - Each file hangs on one name, as what everyone sees or as what is being written there, and one path has one of each.
//! - A name that an intent claims changes by that intent only.
//! - The ring of a file's epoch is kept as long as the file is.

mod children;
mod cluster;
mod command;
mod files;
mod intents;
mod mounts;
mod names;
mod namespace;
mod read;
mod rename;
mod sessions;
mod snapshot;
mod workers;
mod write;

#[cfg(test)]
mod tests;

pub use command::{Action, Applied, Caller, Change, Command, Create, Effect, MountOptions, MountSpec, Reply};
pub use files::{
    AbortReason, FATES_MAX, Fate, Intended, Phase, Publisher, RECORD_BYTES_MAX, Remains, Staged, TOKEN_BYTES_MAX,
    WRITES_MAX, WrittenFile,
};
pub use intents::{INTENTS_MAX, Intent, IntentId};
pub use mounts::{MOUNTS_MAX, Mount};
pub use namespace::{INODES_MAX, Inode};
pub use read::{Overlay, Resolution};
pub use sessions::{ANSWERS_MAX, ANSWERS_PER_CLIENT_MAX, Answer, CLIENTS_MAX};
pub use workers::Worker;

use citius_wire::{ClusterId, Failure, FileKey, MacKey, Status, WriteType};
use files::{Fates, Files};
use intents::Intents;
use mounts::Mounts;
use namespace::{Links, Namespace};
use sessions::Sessions;
use std::collections::BTreeMap;
use workers::Workers;

/// Who the cluster is.
struct Identity {
    cluster: ClusterId,
    keys: Vec<MacKey>,
}

/// All that the log knows.
pub struct State {
    identity: Option<Identity>,
    mounts: Mounts,
    workers: Workers,
    namespace: Namespace,
    files: Files,
    remains: BTreeMap<FileKey, Remains>,
    fates: Fates,
    intents: Intents,
    sessions: Sessions,
    view_version: u64,
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// The state before the first command.
    pub fn new() -> Self {
        Self {
            identity: None,
            mounts: Mounts::new(),
            workers: Workers::new(),
            namespace: Namespace::new(),
            files: Files::default(),
            remains: BTreeMap::new(),
            fates: Fates::default(),
            intents: Intents::new(),
            sessions: Sessions::new(),
            view_version: 0,
        }
    }

    /// Applies one command at a time that never goes back.
    ///
    /// # Errors
    /// The refusal, for who asked. Nothing has changed then, and there are no effects.
    pub fn apply(&mut self, command: &Command, now_ms: u64) -> Result<Applied, Failure> {
        let Some(caller) = command.caller else { return self.change(command, now_ms) };
        if let Some(answer) = self.sessions.answer(caller)? {
            return answer.clone().map(|reply| Applied { reply, effects: Vec::new() });
        }
        let result = self.change(command, now_ms);
        match &result {
            Ok(applied) => self.sessions.record(caller, Ok(applied.reply.clone())),
            Err(failure) if failure.status.is_retryable() => {}
            Err(failure) => self.sessions.record(caller, Err(failure.clone())),
        }
        result
    }

    fn change(&mut self, command: &Command, now_ms: u64) -> Result<Applied, Failure> {
        if self.identity.is_none() && !matches!(command.change, Change::Init { .. }) {
            return Err(not_set_up());
        }
        let mut effects = Vec::new();
        let out = &mut effects;
        let reply = match &command.change {
            Change::Init { cluster, keys, root } => self.init(*cluster, keys, root, out)?,
            Change::MountAdd { path, spec } => self.mount_add(path, spec, out)?,
            Change::MountRemove { path } => self.mount_remove(path, out)?,
            Change::MountSet { path, options } => self.mount_set(path, options, out)?,
            Change::Register { member, backing, memory_bytes } => {
                let worker = Worker {
                    member: member.clone(),
                    backing: backing.clone(),
                    memory_bytes: *memory_bytes,
                    live: true,
                    changed_ms: now_ms,
                };
                self.register(worker, out)?
            }
            Change::WorkerGone { worker, incarnation } => {
                self.worker_gone(Publisher { worker: *worker, incarnation: *incarnation }, now_ms, out)
            }
            Change::Create(create) => self.create(create, command.caller, now_ms, out)?,
            Change::Renew { file, lease_ms } => self.renew(*file, command.caller, now_ms + u64::from(*lease_ms))?,
            Change::Complete { file, length } => self.complete(*file, *length, command.caller, now_ms, out)?,
            Change::Abort { file, reason } => self.abort(*file, *reason, command.caller, now_ms, out)?,
            Change::StageStarted { file, record, publisher } => self.stage_started(*file, record, *publisher)?,
            Change::PublishIntent { file, length, record, publisher } => {
                self.publish_intent(*file, *length, record, *publisher)?
            }
            Change::PublishDone { file, token } => self.publish_done(*file, token, out)?,
            Change::PublishFailed { file } => self.publish_failed(*file, out)?,
            Change::RemainsCleaned { file } => {
                self.remains.remove(file);
                Reply::Done
            }
            Change::IntentBegin { mount, action } => self.intent_begin(*mount, action, command.caller, out)?,
            Change::IntentDone { intent, result } => self.intent_done(*intent, result, out),
        };
        Ok(Applied { reply, effects })
    }

    /// Checks every invariant.
    ///
    /// # Panics
    /// If one does not hold: then this program is wrong, or the memory of this machine.
    pub fn validate(&self) {
        self.mounts.validate();
        self.workers.validate();
        self.namespace.validate();
        self.files.validate();
        self.fates.validate();
        self.intents.validate();
        self.sessions.validate();
        self.validate_links();

        for (ring, files) in self.workers.rings() {
            let found = self.files.iter().filter(|file| file.epoch == ring.epoch).count();
            assert_eq!(found as u64, files, "files that epoch {} places", ring.epoch);
        }
        assert!(self.remains.len() + self.files.writes_count() <= WRITES_MAX);
        for (key, remains) in &self.remains {
            assert!(self.files.find(*key).is_none(), "a file that is here left nothing");
            assert!(self.mounts.by_id.contains_key(&remains.mount));
        }
        for (key, _) in self.fates.iter() {
            assert!(self.files.find(key).is_none(), "a write that ended is not here");
        }
    }

    /// Checks that names and what is linked to them agree both ways.
    fn validate_links(&self) {
        let (mut files, mut mounts, mut claims) = (0, 0, 0);
        for (inode, _) in self.namespace.subtree(Inode::ROOT) {
            let Links { file, writer, mount, claim } = *self.namespace.links(inode);
            let path = self.namespace.path(inode);
            for slot in [file, writer].into_iter().flatten() {
                let written = self.files.get(slot);
                files += 1;
                assert_eq!(written.inode, inode);
                assert_eq!(written.is_complete(), Some(slot) == file, "{path}: complete files are seen, others not");
                assert_eq!(self.mount_of(&path).map(|mount| mount.id), Some(written.mount));
                assert!(!self.namespace.has_children(inode), "{path}: nothing lies below a file");
                let longest = written.block_count(written.length);
                assert!(longest.is_some(), "{path}: its blocks can be counted");
                assert!(written.write_type != WriteType::MustCache || written.is_leased() || written.is_complete());
            }
            if let Some(id) = mount {
                mounts += 1;
                assert_eq!(self.mounts.by_id.get(&id).map(|mount| &mount.path), Some(&path));
                assert!(file.is_none() && writer.is_none() && claim.is_none(), "{path}: a mount is only a mount");
            }
            if let Some(claim) = claim {
                claims += 1;
                let intent = self.intents.by_id.get(&claim.intent).expect("a claim is of an intent");
                assert_eq!(intent.action.purpose(), claim.purpose);
                assert!(intent.action.paths().any(|claimed| claimed == path.as_str()), "{path} is the intent's");
                assert!(writer.is_none(), "{path}: who claims a name has ended its write");
                assert!(!claim.hides() || (file.is_none() && !self.namespace.has_children(inode)));
            }
        }
        assert_eq!(files, self.files.len());
        assert_eq!(mounts, self.mounts.by_id.len());
        assert_eq!(claims, self.intents.by_id.values().map(|intent| intent.action.paths().count()).sum::<usize>());
    }
}

fn not_set_up() -> Failure {
    Failure::new(Status::Unavailable, "the cluster is being set up: try again in a moment")
}
