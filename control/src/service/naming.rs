//! mkdir, delete, rename: logged as intents, done in the under-store, logged as done.
//!
//! ```text
//!  lock ▶ look ▶ IntentBegin ▶ the store ▶ IntentDone ▶ unlock
//!                    │ crash: the next start resumes here, with the same steps; each can be repeated
//!                    └ the store does not answer: the client is told so, and the intent goes on in the background
//! ```

use std::sync::Arc;
use std::time::Duration;

use citius_understore::{Condition, Depth, Error as StoreError, Kind, StorePath, UnderStore};
use citius_wire::{Failure, MountId, NamespacePath, Status};
use futures::StreamExt;

use super::abreast::abreast;
use super::batch::Prepared;
use super::halves::is_half;
use super::locks::{Locked, Reach, Want};
use super::mounts::Mounted;
use super::provisions::{Directory, Provisions};
use super::sight::{Seen, Sight, not_found};
use super::{FaultPoint, Service, failure};
use crate::state::{Action, Change, Command, Intent, IntentId};

/// Intents of one run that wait for their stores at once.
const AT_ONCE_MAX: usize = 32;
/// The pause before an intent whose store did not answer is tried again; it doubles up to [`RETRY_PAUSE_MAX`].
const RETRY_PAUSE: Duration = Duration::from_millis(200);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// What acting on an intent came to.
enum Act {
    /// It is over, with this result.
    Over(Result<(), Failure>),
    /// The store cannot tell now.
    Later(Failure),
}

impl Service {
    pub(super) async fn prepare_mkdir(
        &self,
        path: &NamespacePath,
        parents: bool,
        provisions: &Provisions,
    ) -> Result<Prepared, Failure> {
        let (sight, directory) = self.sight_of_new(path, provisions).await?;
        match sight.seen {
            Seen::Nothing => {}
            Seen::Directory { .. } if parents => {}
            Seen::Directory { .. } | Seen::Written(_) | Seen::File(_) => {
                return Err(Failure::new(Status::AlreadyExists, format!("{path} exists already")));
            }
        }
        if !parents {
            self.check_parent(path, directory, provisions).await?;
        }
        sight.mounted.check_writable(path)?;
        let action = Action::Mkdir { path: path.as_str().to_owned(), parents };
        Ok(intend(sight.mounted.id, action))
    }

    pub(super) async fn prepare_delete(&self, path: &NamespacePath, recursive: bool) -> Result<Prepared, Failure> {
        let sight = self.sight_anew(path).await?;
        match sight.seen {
            Seen::Nothing => return Err(not_found(path)),
            Seen::Directory { is_mount: false, .. } if !recursive => self.check_empty(&sight, path).await?,
            _ => {}
        }
        sight.mounted.check_writable(path)?;
        let action = Action::Delete { path: path.as_str().to_owned(), recursive };
        Ok(intend(sight.mounted.id, action))
    }

    pub(super) async fn prepare_rename(
        &self,
        from: &NamespacePath,
        to: &NamespacePath,
        overwrite: bool,
        provisions: &Provisions,
    ) -> Result<Prepared, Failure> {
        let source = self.sight_anew(from).await?;
        let is_directory = match source.seen {
            Seen::Nothing => return Err(not_found(from)),
            Seen::Directory { .. } => true,
            Seen::Written(_) | Seen::File(_) => false,
        };
        let target = self.sight_anew(to).await?;
        if target.mounted.id == source.mounted.id && from != to {
            match target.seen {
                Seen::Nothing => self.check_parent(to, None, provisions).await?,
                Seen::Directory { .. } => {
                    return Err(Failure::new(
                        Status::AlreadyExists,
                        format!("{to} is a directory, and stays: name a path in it"),
                    ));
                }
                Seen::Written(_) | Seen::File(_) if is_directory || !overwrite => {
                    let words = format!("{to} exists already: delete it first, or overwrite a file with a file");
                    return Err(Failure::new(Status::AlreadyExists, words));
                }
                Seen::Written(_) | Seen::File(_) => {}
            }
        }
        source.mounted.check_writable(from)?;
        let (from, to) = (from.as_str().to_owned(), to.as_str().to_owned());
        Ok(intend(source.mounted.id, Action::Rename { from, to, overwrite }))
    }

    /// Checks that the directory of a path is there, which may have been looked at.
    pub(super) async fn check_parent(
        &self,
        path: &NamespacePath,
        looked_at: Option<Arc<Directory>>,
        provisions: &Provisions,
    ) -> Result<(), Failure> {
        let directory = match looked_at {
            Some(directory) => Some(directory),
            None => self.directory_of(path, provisions).await,
        };
        directory.map_or(Ok(()), |directory| directory.is_there.clone())
    }

    /// Checks that a directory has no entries, before the log hides it.
    async fn check_empty(&self, sight: &Sight, path: &NamespacePath) -> Result<(), Failure> {
        let is_empty_in_log = self.state(|state| state.children(path, "").next().is_none());
        let mut pages = sight.mounted.store()?.list(&super::sight::store_path_of(&sight.mounted, path)?, "");
        let mut is_empty = is_empty_in_log;
        while is_empty && let Some(page) = pages.next().await {
            match page {
                Ok(page) => is_empty = page.entries.is_empty() && page.refused.is_empty(),
                Err(StoreError::NotFound { .. }) => break,
                Err(error) => return Err(failure::of_store("listing", &error, path)),
            }
        }
        if is_empty {
            return Ok(());
        }
        let words = format!("{path} is a directory with entries: delete them first, or delete recursively");
        Err(Failure::new(Status::NotEmpty, words))
    }

    /// Carries out intents that were just logged, and logs that they are done. The locks are held until all are; where a
    /// store does not answer, they stay with the intent.
    pub(super) async fn act_on(self: &Arc<Self>, ids: Vec<IntentId>, locked: Locked) -> Vec<Result<(), Failure>> {
        if ids.is_empty() {
            return Vec::new();
        }
        if self.dies_at(FaultPoint::IntentLogged) {
            return die(ids.len(), locked);
        }
        let acts: Vec<Act> = abreast(ids.len(), AT_ONCE_MAX, |i| self.act(ids[i], false)).await;
        if self.dies_at(FaultPoint::IntentActed) {
            return die(ids.len(), locked);
        }
        let done = ids.iter().zip(&acts).filter_map(|(id, act)| match act {
            Act::Over(result) => Some(self.done(*id, result.clone())),
            Act::Later(_) => None,
        });
        let mut logged = self.propose_all(&done.collect::<Vec<_>>()).await.into_iter();
        let (mut results, mut later) = (Vec::with_capacity(ids.len()), Vec::new());
        for (id, act) in ids.into_iter().zip(acts) {
            results.push(match act {
                // Only what is logged as done is told to be.
                Act::Over(result) => logged.next().expect("each command has a reply").and(result),
                Act::Later(failure) => {
                    later.push(id);
                    Err(failure)
                }
            });
        }
        if !later.is_empty() {
            let service = Arc::clone(self);
            self.runtime.spawn(async move {
                for id in later {
                    service.finish(id).await;
                }
                drop(locked);
            });
        }
        results
    }

    /// Takes up an intent that a master before this one left, or that was left to the background.
    pub(crate) async fn resume(self: &Arc<Self>, id: IntentId) {
        let Some(intent) = self.state(|state| state.intent(id).cloned()) else { return };
        let reach = match intent.action {
            Action::Mkdir { .. } => Reach::Name,
            Action::Delete { .. } => Reach::Tree,
            Action::Rename { .. } => Reach::Rename,
        };
        let paths = intent.action.paths().filter_map(|path| NamespacePath::parse(path).ok());
        let wants: Vec<Want> = paths.map(|path| Want { path, reach }).collect();
        let locked = self.locks.lock(&wants).await;
        self.finish(id).await;
        drop(locked);
    }

    /// Acts on an intent until it is over. Whoever calls holds its locks.
    async fn finish(&self, id: IntentId) {
        let mut pause = RETRY_PAUSE;
        loop {
            match self.act(id, true).await {
                Act::Over(result) => {
                    let command = self.done(id, result);
                    match self.propose(None, command.change).await {
                        Ok(_) => return self.postponed.end(id),
                        Err(failure) => tracing::warn!(%failure, "the end of an intent could not be logged"),
                    }
                }
                Act::Later(failure) => tracing::warn!(%failure, "an intent waits for its under-store"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }

    fn done(&self, intent: IntentId, result: Result<(), Failure>) -> Command {
        Command { caller: None, change: Change::IntentDone { intent, result } }
    }

    /// Does in the store what an intent says, once. `is_resumed` if it may have been begun before: then what is there
    /// already is taken for its work.
    async fn act(&self, id: IntentId, is_resumed: bool) -> Act {
        let Some(intent) = self.state(|state| state.intent(id).cloned()) else { return Act::Over(Ok(())) };
        let place = async {
            let mounted = self.mounts.find(intent.mount)?;
            let store = Arc::clone(mounted.store()?);
            let parse = |path: &str| StorePath::parse(path).map_err(|error| failure::of_mount(&error));
            Ok::<_, Failure>((mounted, store, parse(&intent.store_path)?, parse(&intent.store_path_to)?))
        };
        let (mounted, store, at, to) = match place.await {
            Ok(place) => place,
            Err(failure) if failure.status.is_retryable() => return self.postpone(&intent, &failure),
            Err(failure) => return Act::Over(Err(failure)),
        };
        let done = match &intent.action {
            Action::Mkdir { parents, .. } => mkdir(&*store, &at, *parents, is_resumed).await,
            Action::Delete { recursive, .. } => delete(&*store, &at, *recursive).await,
            Action::Rename { overwrite, .. } => rename(&*store, &at, &to, &intent, *overwrite, is_resumed).await,
        };
        self.forget_names(&intent, !matches!(done, Ok(Changed::Name)));
        match done {
            Ok(_) => Act::Over(Ok(())),
            Err(error) => {
                let failure = explain(&error, &mounted, &intent);
                if error.is_transient() { self.postpone(&intent, &failure) } else { Act::Over(Err(failure)) }
            }
        }
    }

    /// Leaves an intent for later, and keeps why for who waits for it meanwhile.
    fn postpone(&self, intent: &Intent, failure: &Failure) -> Act {
        let words = format!("{failure}; it is tried again until it is done");
        let failure = Failure::new(Status::Unavailable, words);
        self.postponed.put(intent, failure.clone());
        Act::Later(failure)
    }

    /// Drops from the cache what an intent changed: one name of each path, or all that it knows below them too.
    fn forget_names(&self, intent: &Intent, is_tree: bool) {
        let second = matches!(intent.action, Action::Rename { .. }).then_some(&intent.store_path_to);
        for path in std::iter::once(&intent.store_path).chain(second) {
            if is_tree {
                self.cache.changed_under(intent.mount, path);
            }
            self.changed(intent.mount, path, None);
        }
    }
}

fn intend(mount: MountId, action: Action) -> Prepared {
    Change::IntentBegin { mount, action }.into()
}

/// The end of a master in a test: its locks are never freed, its clients never answered rightly.
fn die(count: usize, locked: Locked) -> Vec<Result<(), Failure>> {
    std::mem::forget(locked);
    (0..count).map(|_| Err(Failure::new(Status::Unavailable, "the master died here, as a test asked"))).collect()
}

/// A store's error in the namespace's names: of the path that it is about, as far as that can be told.
fn explain(error: &StoreError, mounted: &Mounted, intent: &Intent) -> Failure {
    let (first, second) = (&intent.store_path, &intent.store_path_to);
    let about = match error {
        StoreError::AlreadyExists { .. } | StoreError::NotADirectory { .. } | StoreError::Conflict { .. }
            if !second.is_empty() =>
        {
            second
        }
        _ => first,
    };
    let doing = match intent.action {
        Action::Mkdir { .. } => "making",
        Action::Delete { .. } => "deleting",
        Action::Rename { .. } => "renaming",
    };
    match mounted.namespace_path(about) {
        Ok(path) => failure::of_store(doing, error, &path),
        Err(_) => failure::of_mount(error),
    }
}

/// How much of a store an act changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Changed {
    /// Names, and nothing below them.
    Name,
    /// Perhaps all below them.
    Tree,
}

type Done = citius_understore::Result<Changed>;

async fn mkdir(store: &dyn UnderStore, path: &StorePath, parents: bool, is_resumed: bool) -> Done {
    if parents {
        mkdir_all(store, path).await?;
        return Ok(Changed::Name);
    }
    match store.mkdir(path).await {
        Err(error) if is_resumed && is_directory_there(store, path, &error).await? => Ok(Changed::Name),
        other => other.map(|()| Changed::Name),
    }
}

/// Makes a directory and those above it; what is there stays. It can be repeated, and leaves at worst empty directories.
pub(super) async fn mkdir_all(store: &dyn UnderStore, path: &StorePath) -> citius_understore::Result<()> {
    let mut missing = Vec::new();
    let mut next = Some(path.clone());
    while let Some(path) = next.filter(|path| !path.is_root()) {
        match store.stat(&path).await {
            Ok(stat) if stat.kind == Kind::Dir => break,
            Ok(_) => return Err(StoreError::NotADirectory { path: path.to_string() }),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        next = path.parent();
        missing.push(path);
    }
    for path in missing.iter().rev() {
        match store.mkdir(path).await {
            Err(error) if is_directory_there(store, path, &error).await? => {}
            other => other?,
        }
    }
    Ok(())
}

async fn is_directory_there(
    store: &dyn UnderStore,
    path: &StorePath,
    error: &StoreError,
) -> citius_understore::Result<bool> {
    Ok(matches!(error, StoreError::AlreadyExists { .. }) && store.stat(path).await?.kind == Kind::Dir)
}

async fn delete(store: &dyn UnderStore, path: &StorePath, recursive: bool) -> Done {
    let deleted = match store.stat(path).await {
        Ok(stat) if stat.kind == Kind::File => store.delete_file(path).await.map(|()| Changed::Name),
        Ok(_) => {
            let depth = if recursive { Depth::Recursive } else { Depth::Empty };
            store.delete_dir(path, depth).await.map(|()| Changed::Tree)
        }
        Err(error) => Err(error),
    };
    match deleted {
        // Only the log knew it, or somebody else was faster: it is gone, and what lay below it went before.
        Err(error) if is_nothing(&error) => Ok(Changed::Name),
        other => other,
    }
}

async fn rename(
    store: &dyn UnderStore,
    from: &StorePath,
    to: &StorePath,
    intent: &Intent,
    overwrite: bool,
    is_resumed: bool,
) -> Done {
    if intent.moves_overlay_file {
        // An older version that the store may have at the source would be uncovered.
        return delete(store, from, false).await;
    }
    match store.stat(from).await {
        // A directory that only names of the log made; or it has moved before.
        Err(error) if is_nothing(&error) => return Ok(Changed::Tree),
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    // What stands at the target may be the first half of our own work, where a rename has two.
    let is_half_done =
        is_resumed && !overwrite && !store.capabilities().native_rename && is_half(store, from, to).await?;
    let condition = if overwrite || is_half_done { Condition::Any } else { Condition::MustNotExist };
    let moved = store.rename(from, to, &condition).await?;
    Ok(if moved.is_file() { Changed::Name } else { Changed::Tree })
}

fn is_nothing(error: &StoreError) -> bool {
    matches!(error, StoreError::NotFound { .. } | StoreError::NotADirectory { .. })
}
