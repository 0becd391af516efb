//! What is at a path: the state first, then the mount's under-store through the cache.
//!
//! ```text
//!  path ──▶ state: a file in memory? hidden? a mount? ──nothing──▶ cache, if believed ──▶ the store
//!            one read lock                                          (near: on this thread; others: a flight)
//! ```
//! The state is asked before the store, never after: a write that is published in between is then seen in the store,
//! and at no moment is it seen in neither.

use std::sync::Arc;

use citius_understore::{Glance, Kind, LocalDirectory, StorePath, UnderStore};
use citius_wire::{Epoch, Failure, FileKey, MountId, NamespacePath, Place, Status};

use super::mounts::Mounted;
use super::provisions::{Directory, Provisions};
use super::{LOCK_PATIENCE, Service, failure};
use crate::state::{Overlay, Resolution, State, WrittenFile};
use crate::sync::{Found, FoundFile, SyncInterval};

/// What is at a path, and in which mount.
pub(super) struct Sight {
    pub(super) mounted: Arc<Mounted>,
    pub(super) seen: Seen,
}

/// What is at a path.
pub(super) enum Seen {
    /// Nothing.
    Nothing,
    /// A directory.
    Directory { modified_ms: u64, is_mount: bool },
    /// A file that only the log knows.
    Written(Written),
    /// A file of the under-store.
    File(FoundFile),
}

/// A complete file that is in memory only.
#[derive(Clone, Copy)]
pub(super) struct Written {
    pub(super) key: FileKey,
    pub(super) place: Place,
    pub(super) epoch: Epoch,
    pub(super) length: u64,
    pub(super) modified_ms: u64,
    pub(super) block_bytes: u32,
    pub(super) is_lost: bool,
}

/// What the state says.
pub(super) enum Known {
    /// All there is to say.
    Seen(Seen),
    /// Ask the store.
    AskStore,
}

impl Written {
    pub(super) fn of(state: &State, file: &WrittenFile) -> Self {
        Self {
            key: file.key,
            place: file.place,
            epoch: file.epoch,
            length: file.length,
            modified_ms: file.modified_ms,
            block_bytes: file.block_bytes,
            is_lost: state.is_lost(file),
        }
    }
}

impl From<Found> for Seen {
    fn from(found: Found) -> Self {
        match found {
            Found::Nothing => Self::Nothing,
            Found::Directory { modified_ms } => Self::Directory { modified_ms, is_mount: false },
            Found::File(file) => Self::File(file),
        }
    }
}

impl Sight {
    /// The path in the mount's under-store.
    pub(super) fn store_path<'a>(&self, path: &'a NamespacePath) -> &'a str {
        within(&self.mounted, path)
    }
}

/// A path that lies in a mount, in the mount's under-store.
pub(super) fn within<'a>(mounted: &Mounted, path: &'a NamespacePath) -> &'a str {
    path.relative_to(&mounted.path).expect("the state resolved the path to this mount")
}

/// The same, as the store takes it.
pub(super) fn store_path_of(mounted: &Mounted, path: &NamespacePath) -> Result<StorePath, Failure> {
    StorePath::parse(within(mounted, path)).map_err(|error| failure::of_store("looking at", &error, path))
}

/// What the state says of a path.
pub(super) fn known(state: &State, path: &NamespacePath) -> Result<(MountId, Known), Failure> {
    let resolution = state.resolve(path)?;
    Ok((resolution.mount.id, known_of(state, &resolution)))
}

/// What the state says of a path that it resolved.
pub(super) fn known_of(state: &State, resolution: &Resolution<'_>) -> Known {
    match resolution.overlay {
        Overlay::None => Known::AskStore,
        Overlay::Hidden => Known::Seen(Seen::Nothing),
        Overlay::File(file) => Known::Seen(Seen::Written(Written::of(state, file))),
        Overlay::Implied => Known::Seen(Seen::Directory { modified_ms: 0, is_mount: false }),
        Overlay::Mount(_) => Known::Seen(Seen::Directory { modified_ms: 0, is_mount: true }),
    }
}

/// Asks a store, and takes "nothing there" for the answer it is.
pub(super) async fn ask(
    store: Arc<dyn UnderStore>,
    mount: MountId,
    store_path: StorePath,
    path: NamespacePath,
    before: Option<Found>,
) -> Result<Found, Failure> {
    if let Some(local) = store.local()
        && let Some(found) =
            read_glance(local.stat_now(&store_path), mount, store_path.as_str(), &path, || before.clone())?
    {
        return Ok(found);
    }
    let answer = store.stat(&store_path).await;
    read_answer(answer, mount, store_path.as_str(), &path, before.as_ref())
}

/// What a store shows on this thread; `None` if it must be waited for. `before` gives what was known, if it matters.
fn read_glance(
    glance: citius_understore::Result<Glance>,
    mount: MountId,
    store_path: &str,
    path: &NamespacePath,
    before: impl FnOnce() -> Option<Found>,
) -> Result<Option<Found>, Failure> {
    match glance {
        Ok(Glance::Found(stat)) => Ok(Some(Found::of_stat(mount, store_path, &stat, before().as_ref()))),
        Ok(Glance::Nothing) => Ok(Some(Found::Nothing)),
        Ok(Glance::Elsewhere) => Ok(None),
        Err(error) => Err(failure::of_store("looking at", &error, path)),
    }
}

fn read_answer(
    answer: citius_understore::Result<citius_understore::Stat>,
    mount: MountId,
    store_path: &str,
    path: &NamespacePath,
    before: Option<&Found>,
) -> Result<Found, Failure> {
    match answer {
        Ok(stat) => {
            debug_assert!(stat.kind == Kind::File || stat.len == 0);
            Ok(Found::of_stat(mount, store_path, &stat, before))
        }
        // Below a file there is nothing, and that is not the fault of who asks.
        Err(citius_understore::Error::NotFound { .. } | citius_understore::Error::NotADirectory { .. }) => {
            Ok(Found::Nothing)
        }
        Err(error) => Err(failure::of_store("looking at", &error, path)),
    }
}

impl Service {
    /// What the state says of a path; `None` while a rename that must be waited for has it.
    pub(super) fn known_now(&self, path: &NamespacePath) -> Result<Option<(MountId, Known)>, Failure> {
        if !self.locks.is_readable(path.as_str()) {
            return Ok(None);
        }
        self.state(|state| known(state, path)).map(Some)
    }

    /// What is at a path of which the state says this, if that can be told without waiting.
    pub(super) fn sight_now(
        &self,
        path: &NamespacePath,
        (id, known): (MountId, Known),
        now_ms: u64,
    ) -> Result<Option<Sight>, Failure> {
        let mounted = self.mounts.find(id)?;
        if let Known::Seen(seen) = known {
            return Ok(Some(Sight { mounted, seen }));
        }
        let store_path = within(&mounted, path);
        if let Some(found) = self.cache.fresh(id, store_path, mounted.interval, now_ms) {
            return Ok(Some(Sight { mounted, seen: found.into() }));
        }
        let Some(local) = mounted.open().and_then(|store| store.local()) else { return Ok(None) };
        let parsed = store_path_of(&mounted, path)?;
        let asked = self.cache.asking(id, store_path, now_ms);
        let before = || self.cache.last(id, store_path);
        let Some(found) = read_glance(local.stat_now(&parsed), id, store_path, path, before)? else {
            return Ok(None);
        };
        self.cache.keep(asked, id, store_path, found.clone());
        Ok(Some(Sight { mounted, seen: found.into() }))
    }

    /// What is at a path, as fresh as its mount's sync interval promises.
    pub(super) async fn sight(&self, path: &NamespacePath, now_ms: u64) -> Result<Sight, Failure> {
        let readable = tokio::time::timeout(LOCK_PATIENCE, self.locks.readable(path.as_str())).await;
        readable.map_err(|_| self.waited_too_long(path))?;
        let (id, known) = self.state(|state| known(state, path))?;
        let mounted = self.mounts.find(id)?;
        if let Known::Seen(seen) = known {
            return Ok(Sight { mounted, seen });
        }
        let store_path = within(&mounted, path);
        let before = self.cache.last(id, store_path);
        let parsed = store_path_of(&mounted, path)?;
        let answer = match mounted.store() {
            Ok(store) => ask(Arc::clone(store), id, parsed, path.clone(), before),
            // What is believed is served although the store is away.
            Err(failure) => match self.cache.fresh(id, store_path, mounted.interval, now_ms) {
                Some(found) => return Ok(Sight { mounted, seen: found.into() }),
                None => return Err(failure),
            },
        };
        let found = self.cache.get(id, store_path, mounted.interval, now_ms, answer).await?;
        Ok(Sight { mounted, seen: found.into() })
    }

    /// What is at a path at this moment, whatever the sync interval: for those who are about to change it, and hold its
    /// lock.
    pub(super) async fn sight_anew(&self, path: &NamespacePath) -> Result<Sight, Failure> {
        let (id, known) = self.state(|state| known(state, path))?;
        let mounted = self.mounts.find(id)?;
        let seen = match known {
            Known::Seen(seen) => seen,
            Known::AskStore => self.found_anew(&mounted, path).await?.into(),
        };
        Ok(Sight { mounted, seen })
    }

    /// The same, of a name that is to be new: a near store shows it in its directory, which the run has opened, and
    /// which is given too.
    pub(super) async fn sight_of_new(
        &self,
        path: &NamespacePath,
        provisions: &Provisions,
    ) -> Result<(Sight, Option<Arc<Directory>>), Failure> {
        let (id, known) = self.state(|state| known(state, path))?;
        let mounted = self.mounts.find(id)?;
        if let Known::Seen(seen) = known {
            return Ok((Sight { mounted, seen }, None));
        }
        let directory = match mounted.open().and_then(|store| store.local()) {
            Some(_) => self.directory_of(path, provisions).await,
            None => None,
        };
        let found = match directory.as_deref().and_then(|directory| directory.opened.as_ref()) {
            Some((mount, opened)) if *mount == id => self.found_in(&mounted, path, opened)?,
            // Mounts may have changed around the directory since the run looked at it.
            _ => None,
        };
        let found = match found {
            Some(found) => found,
            None => self.found_anew(&mounted, path).await?,
        };
        Ok((Sight { mounted, seen: found.into() }, directory))
    }

    /// What a near store has at this moment at a path of an open directory; `None` if that is to be asked elsewhere.
    fn found_in(
        &self,
        mounted: &Mounted,
        path: &NamespacePath,
        opened: &LocalDirectory,
    ) -> Result<Option<Found>, Failure> {
        let store_path = within(mounted, path);
        let asked = self.cache.asking(mounted.id, store_path, self.now_ms());
        let before = || self.cache.last(mounted.id, store_path);
        let glance = opened.stat_now(path.name().unwrap_or_default());
        let found = read_glance(glance, mounted.id, store_path, path, before)?;
        // What is never believed is kept for the hash of its version only.
        if let Some(found) = &found
            && (mounted.interval != SyncInterval::Never || found.file().is_some())
        {
            self.cache.keep(asked, mounted.id, store_path, found.clone());
        }
        Ok(found)
    }

    /// The directory of a path, as its run sees it; `None` of `/`, which lies in none.
    pub(super) async fn directory_of(&self, path: &NamespacePath, provisions: &Provisions) -> Option<Arc<Directory>> {
        let parent = path.parent()?;
        Some(provisions.directory(&parent, self.look_into(&parent)).await)
    }

    async fn look_into(&self, path: &NamespacePath) -> Directory {
        let look = async {
            let (id, known) = self.state(|state| known(state, path))?;
            let mounted = self.mounts.find(id)?;
            let opened = match (&known, mounted.open().and_then(|store| store.local())) {
                (Known::AskStore | Known::Seen(Seen::Directory { .. }), Some(local)) => {
                    local.directory_now(&store_path_of(&mounted, path)?).ok()
                }
                _ => None,
            };
            let seen = match (known, &opened) {
                (Known::Seen(seen), _) => seen,
                (Known::AskStore, Some(_)) => Seen::Directory { modified_ms: 0, is_mount: false },
                // Why it cannot be opened is to be told from a look at it.
                (Known::AskStore, None) => self.found_anew(&mounted, path).await?.into(),
            };
            match seen {
                Seen::Directory { .. } => Ok(opened.map(|opened| (id, opened))),
                Seen::Nothing => {
                    let words = format!("{path}: no such directory; make it first, or ask for parents to be made");
                    Err(Failure::new(Status::NotFound, words))
                }
                Seen::Written(_) | Seen::File(_) => Err(super::listing::not_a_directory(path)),
            }
        };
        match look.await {
            Ok(opened) => Directory { is_there: Ok(()), opened },
            Err(failure) => Directory { is_there: Err(failure), opened: None },
        }
    }

    /// What the store has at a path at this moment.
    pub(super) async fn found_anew(&self, mounted: &Arc<Mounted>, path: &NamespacePath) -> Result<Found, Failure> {
        let store = mounted.store()?;
        let store_path = within(mounted, path);
        let asked = self.cache.asking(mounted.id, store_path, self.now_ms());
        let before = self.cache.last(mounted.id, store_path);
        let parsed = store_path_of(mounted, path)?;
        let found = ask(Arc::clone(store), mounted.id, parsed, path.clone(), before).await?;
        self.cache.keep(asked, mounted.id, store_path, found.clone());
        Ok(found)
    }

    /// Records in the cache that a path of a store, and so perhaps the directories above it, changed.
    pub(super) fn changed(&self, mount: MountId, store_path: &str, found: Option<Found>) {
        let now_ms = self.now_ms();
        self.cache.changed(mount, store_path, found, now_ms);
        // An object store has directories only while something is in them.
        let mut above = store_path;
        while let Some((parent, _)) = above.rsplit_once('/') {
            self.cache.changed(mount, parent, None, now_ms);
            above = parent;
        }
    }
}

/// The refusal of a path where nothing is.
pub(super) fn not_found(path: &NamespacePath) -> Failure {
    Failure::new(Status::NotFound, format!("{path}: no such file or directory"))
}
