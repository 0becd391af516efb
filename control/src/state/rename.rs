//! How names change: mkdir, delete, rename.
//!
//! Each is an intent: logged first, then done in the under-store, then logged as done. What happens when:
//!
//! | | at `IntentBegin` | at `IntentDone`, if the under-store did it |
//! |---|---|---|
//! | mkdir | the name is claimed | |
//! | delete | the name is claimed and hidden; files below are dropped, writes below aborted | |
//! | rename | both names are claimed; writes at and below both are aborted | files at and below move |
//!
//! A rename shows nothing before the under-store has done it: a reader would otherwise find the file under neither
//! name. Both claims are deep, so what moves in the end is what was there in the beginning.

use super::State;
use super::command::{Action, Caller, Effect, Reply};
use super::files::{AbortReason, FileSlot};
use super::intents::{Claim, INTENTS_MAX, Intent, IntentId, Purpose};
use super::namespace::Inode;
use super::write::{exists, not_now, publishing};
use citius_wire::{Failure, MountId, NamespacePath, PATH_BYTES_MAX, Status};

impl Action {
    /// What its names are claimed for.
    pub(super) fn purpose(&self) -> Purpose {
        match self {
            Self::Mkdir { .. } => Purpose::Mkdir,
            Self::Delete { .. } => Purpose::Delete,
            Self::Rename { .. } => Purpose::Rename,
        }
    }

    /// The names that it claims; the source of a rename first.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        let (first, second) = match self {
            Self::Mkdir { path, .. } | Self::Delete { path, .. } => (path, None),
            Self::Rename { from, to, .. } => (from, Some(to)),
        };
        std::iter::once(first).chain(second).map(String::as_str)
    }
}

/// What lies at and below a path that is about to go.
#[derive(Default)]
struct Family {
    files: Vec<FileSlot>,
    writers: Vec<FileSlot>,
    /// The longest path of them, in bytes below the first.
    path_bytes_max: usize,
}

impl State {
    pub(super) fn intent_begin(
        &mut self,
        mount: MountId,
        action: &Action,
        caller: Option<Caller>,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, Failure> {
        if self.intents.is_full() {
            let text = format!("{INTENTS_MAX} changes of names are under way: try again when some are done");
            return Err(Failure::new(Status::Busy, text));
        }
        if !self.namespace.has_room() {
            let text = "the master holds as many names as it can: delete must-cache files";
            return Err(Failure::new(Status::NoSpace, text));
        }
        match action {
            Action::Mkdir { path, parents } => {
                let path = NamespacePath::parse(path)?;
                self.check_mkdir(&path, mount, *parents)?;
                let action = Action::Mkdir { path: path.as_str().to_owned(), parents: *parents };
                Ok(self.claim(mount, action, caller, &[path], false))
            }
            Action::Delete { path, recursive } => {
                let path = NamespacePath::parse(path)?;
                let family = self.check_delete(&path, mount, *recursive)?;
                let action = Action::Delete { path: path.as_str().to_owned(), recursive: *recursive };
                let reply = self.claim(mount, action, caller, &[path], false);
                family.files.iter().for_each(|slot| self.forget(*slot, effects));
                family.writers.iter().for_each(|slot| self.give_up(*slot, AbortReason::Deleted, effects));
                Ok(reply)
            }
            Action::Rename { from, to, overwrite } => {
                let (from, to) = (NamespacePath::parse(from)?, NamespacePath::parse(to)?);
                let (writers, moves_overlay_file) = self.check_rename(&from, &to, mount, *overwrite)?;
                let (from_text, to_text) = (from.as_str().to_owned(), to.as_str().to_owned());
                let action = Action::Rename { from: from_text, to: to_text, overwrite: *overwrite };
                let reply = self.claim(mount, action, caller, &[from, to], moves_overlay_file);
                writers.iter().for_each(|slot| self.give_up(*slot, AbortReason::Renamed, effects));
                Ok(reply)
            }
        }
    }

    fn check_mkdir(&self, path: &NamespacePath, mount: MountId, parents: bool) -> Result<(), Failure> {
        let Some(inode) = self.survey_writable(path, mount)? else { return Ok(()) };
        let links = self.namespace.links(inode);
        if links.claim.is_some() {
            return Err(not_now(path));
        }
        if links.writer.is_some() {
            let text = format!("{path} is being written as a file: make the directory elsewhere");
            return Err(Failure::new(Status::FileBusy, text));
        }
        let is_directory = self.namespace.has_children(inode);
        if links.mount.is_some() || links.file.is_some() || (is_directory && !parents) {
            let what = if links.file.is_some() { "a file" } else { "a directory" };
            return Err(Failure::new(Status::AlreadyExists, format!("{path} exists already, as {what}")));
        }
        Ok(())
    }

    fn check_delete(&self, path: &NamespacePath, mount: MountId, recursive: bool) -> Result<Family, Failure> {
        self.check_no_mount(path, "delete")?;
        let inode = self.survey_writable(path, mount)?;
        let family = self.family(path, inode, "delete")?;
        if !recursive && inode.is_some_and(|inode| self.namespace.has_children(inode)) {
            let text = format!(
                "{path} is a directory, and files in it are in memory or being written: delete it recursively, or them \
                 first"
            );
            return Err(Failure::new(Status::NotEmpty, text));
        }
        Ok(family)
    }

    /// The writes that a rename ends, and whether what it moves is a file of the log.
    fn check_rename(
        &self,
        from: &NamespacePath,
        to: &NamespacePath,
        mount: MountId,
        overwrite: bool,
    ) -> Result<(Vec<FileSlot>, bool), Failure> {
        let refuse = |status, text: String| Err(Failure::new(status, text));
        self.check_no_mount(from, "rename")?;
        self.check_no_mount(to, "rename over")?;
        if self.mount_of(from).map(|mount| mount.id) != self.mount_of(to).map(|mount| mount.id) {
            let text = format!("{from} and {to} lie in two mounts: copy, and then delete the source");
            return refuse(Status::CrossMount, text);
        }
        if to.is_under(from) {
            return refuse(
                Status::InvalidArgument,
                format!("{from} cannot be moved to {to}, which is itself or inside it"),
            );
        }
        if from.is_under(to) {
            return refuse(Status::AlreadyExists, format!("{to} is a directory that holds {from}"));
        }
        let (from_inode, to_inode) = (self.survey_writable(from, mount)?, self.survey(to)?);
        let mut moved = self.family(from, from_inode, "rename")?;
        let replaced = self.family(to, to_inode, "rename over")?;
        let is_directory = |inode: Option<Inode>| inode.is_some_and(|inode| self.namespace.has_children(inode));
        if is_directory(to_inode) || (!replaced.files.is_empty() && !overwrite) {
            return Err(exists(to));
        }
        if is_directory(from_inode) && !replaced.files.is_empty() {
            return refuse(Status::NotADirectory, format!("{to} is a file, and {from} a directory: delete {to} first"));
        }
        if to.as_str().len() + moved.path_bytes_max > PATH_BYTES_MAX {
            let text = format!("a path below {from} would have more than {PATH_BYTES_MAX} bytes below {to}");
            return refuse(Status::InvalidName, text);
        }
        let moves_overlay_file = from_inode.is_some_and(|inode| self.namespace.links(inode).file.is_some());
        moved.writers.extend(replaced.writers);
        Ok((moved.writers, moves_overlay_file))
    }

    fn check_no_mount(&self, path: &NamespacePath, verb: &str) -> Result<(), Failure> {
        let is_mount = |inode| self.namespace.links(inode).mount.is_some();
        if !self.namespace.find(path).is_some_and(is_mount) {
            return Ok(());
        }
        let text = format!("cannot {verb} {path}: a mount begins there; remove it with `citius mount rm {path}`");
        Err(Failure::new(Status::InvalidArgument, text))
    }

    /// Collects what lies at and below a path, if all of it may go.
    fn family(&self, path: &NamespacePath, inode: Option<Inode>, verb: &str) -> Result<Family, Failure> {
        let mut family = Family::default();
        let Some(inode) = inode else { return Ok(family) };
        for (member, path_bytes) in self.namespace.subtree(inode) {
            let links = self.namespace.links(member);
            if links.mount.is_some() {
                let at = self.namespace.path(member);
                let text =
                    format!("cannot {verb} {path}: a mount begins at {at}; remove it with `citius mount rm {at}`");
                return Err(Failure::new(Status::InvalidArgument, text));
            }
            if links.claim.is_some() {
                return Err(not_now(&self.namespace.path(member)));
            }
            if links.writer.is_some_and(|writer| self.files.get(writer).is_unsettled()) {
                return Err(publishing(&self.namespace.path(member)));
            }
            family.files.extend(links.file);
            family.writers.extend(links.writer);
            family.path_bytes_max = family.path_bytes_max.max(path_bytes);
        }
        Ok(family)
    }

    /// Logs the intent and claims its paths.
    fn claim(
        &mut self,
        mount: MountId,
        action: Action,
        caller: Option<Caller>,
        paths: &[NamespacePath],
        moves_overlay_file: bool,
    ) -> Reply {
        let id = self.intents.mint();
        let claim = Claim { intent: id, purpose: action.purpose() };
        for path in paths {
            self.namespace.link(path, |links| links.claim = Some(claim));
        }
        let store_path = |path: Option<&NamespacePath>| path.map_or("", |path| self.store_path(mount, path)).to_owned();
        let intent = Intent {
            id,
            caller,
            mount,
            action,
            store_path: store_path(paths.first()),
            store_path_to: store_path(paths.get(1)),
            moves_overlay_file,
        };
        self.intents.by_id.insert(id, intent);
        Reply::Intent(id)
    }

    pub(super) fn intent_done(
        &mut self,
        id: IntentId,
        result: &Result<(), Failure>,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        // The leader before this one may have logged it too.
        let Some(intent) = self.intents.by_id.remove(&id) else { return Reply::Done };
        let paths: Vec<NamespacePath> =
            intent.action.paths().map(|path| NamespacePath::parse(path).expect("it was one when it began")).collect();
        if let ([_, to], Ok(())) = (&paths[..], result)
            && let Some(replaced) = self.namespace.find(to).and_then(|inode| self.namespace.links(inode).file)
        {
            self.forget(replaced, effects);
        }
        for path in &paths {
            let inode = self.namespace.find(path).expect("a claim holds its name");
            self.namespace.relink(inode, |links| links.claim = None);
        }
        if let ([from, to], Ok(())) = (&paths[..], result)
            && let Some(inode) = self.namespace.find(from)
        {
            self.namespace.relocate(inode, to);
        }
        if let Some(caller) = intent.caller {
            let answer = match result {
                Ok(()) => Some(Ok(Reply::Done)),
                Err(failure) if failure.status.is_retryable() => None,
                Err(failure) => Some(Err(failure.clone())),
            };
            self.sessions.amend(caller, answer);
        }
        Reply::Done
    }
}
