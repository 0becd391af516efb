//! The under-stores at work: one for each mount of the state, opened at start and whenever one is added.
//!
//! A mount that cannot be opened is degraded, never a reason not to start: its paths answer `Unavailable` with the
//! store's own words, the cluster's warnings name it, and it is tried again until it opens.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use citius_understore::{MountSpec as StoreSpec, Secret, UnderStore, redact};
use citius_wire::{Failure, MountId, NamespacePath, SecretText, Status};
use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};

use crate::state::{Mount, MountSpec};
use crate::sync::SyncInterval;

/// The pause before a mount that did not open is tried again.
pub(crate) const REOPEN_PAUSE: Duration = Duration::from_secs(5);
/// How long a mount may take to prove that it works.
pub(crate) const CHECK_PATIENCE: Duration = Duration::from_secs(20);

/// A mount at work.
pub(crate) struct Mounted {
    pub(crate) id: MountId,
    pub(crate) path: NamespacePath,
    pub(crate) read_only: bool,
    pub(crate) interval: SyncInterval,
    pub(crate) sync_interval_ms: i64,
    /// The URI, without what must not be shown.
    pub(crate) uri_shown: String,
    /// The options, without what must not be shown.
    pub(crate) options_shown: Vec<(String, String)>,
    spec: StoreSpec,
    /// The store, while it is not known to work: checked again and again, it bounds what hangs in a folder that is away.
    untried: OnceLock<Arc<dyn UnderStore>>,
    store: OnceLock<Arc<dyn UnderStore>>,
    /// Why it is not open.
    problem: Mutex<Option<String>>,
}

/// All mounts at work, by id.
#[derive(Default)]
pub(crate) struct MountTable {
    mounts: RwLock<HashMap<MountId, Arc<Mounted>>>,
}

/// What the understore room needs to know of a mount.
pub(crate) fn store_spec(uri: &str, options: &[(String, SecretText)], read_only: bool) -> StoreSpec {
    let options: BTreeMap<String, Secret> =
        options.iter().map(|(name, value)| (name.clone(), Secret::new(value.expose()))).collect();
    StoreSpec { uri: uri.to_owned(), options, read_only }
}

/// Opens a store and proves that it works.
///
/// # Errors
/// The store's own, named error; `TimedOut` if it does not answer in time.
pub(crate) async fn open_checked(spec: &StoreSpec) -> Result<Arc<dyn UnderStore>, Failure> {
    let store = citius_understore::open(spec).map_err(|error| super::failure::of_mount(&error))?;
    check(&store, spec).await?;
    Ok(store)
}

async fn check(store: &Arc<dyn UnderStore>, spec: &StoreSpec) -> Result<(), Failure> {
    match tokio::time::timeout(CHECK_PATIENCE, store.check()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(super::failure::of_mount(&error)),
        Err(_) => {
            let seconds = CHECK_PATIENCE.as_secs();
            let words = format!("{} did not answer within {seconds} s: check that it runs", spec.redacted_uri());
            Err(Failure::new(Status::TimedOut, words))
        }
    }
}

impl Mounted {
    /// A mount of the state, not open yet.
    ///
    /// # Errors
    /// If its sync interval makes no sense, which the state would not have taken.
    fn new(mount: &Mount, spec: StoreSpec) -> Result<Self, Failure> {
        Ok(Self {
            id: mount.id,
            path: mount.path.clone(),
            read_only: mount.read_only,
            interval: SyncInterval::from_ms(mount.sync_interval_ms)?,
            sync_interval_ms: mount.sync_interval_ms,
            uri_shown: redact(&mount.uri),
            options_shown: spec.redacted_options().into_iter().collect(),
            spec,
            untried: OnceLock::new(),
            store: OnceLock::new(),
            problem: Mutex::new(None),
        })
    }

    /// What is mounted.
    pub(crate) fn spec(&self) -> &StoreSpec {
        &self.spec
    }

    /// The store, if it is open.
    pub(crate) fn open(&self) -> Option<&Arc<dyn UnderStore>> {
        self.store.get()
    }

    /// Refuses a change of what lies at a path, where whoever mounted it wants none or its store takes none: before anything
    /// is logged or sent.
    ///
    /// # Errors
    /// `ReadOnly`.
    pub(crate) fn check_writable(&self, path: &NamespacePath) -> Result<(), Failure> {
        let words = if self.read_only {
            format!("{path} lies in the mount at {}, which is read-only", self.path)
        } else if self.open().is_some_and(|store| !store.capabilities().writes) {
            let (at, uri) = (&self.path, &self.uri_shown);
            format!("{path} lies in the mount at {at}, whose under-store {uri} takes no writes: write to another mount")
        } else {
            return Ok(());
        };
        Err(Failure::new(Status::ReadOnly, words))
    }

    /// The store.
    ///
    /// # Errors
    /// `Unavailable` while it is not open.
    pub(crate) fn store(&self) -> Result<&Arc<dyn UnderStore>, Failure> {
        self.store.get().ok_or_else(|| {
            let reason = self.problem().unwrap_or_else(|| "it is being opened".to_owned());
            let words = format!("the mount at {} ({}) is not open: {reason}", self.path, self.uri_shown);
            Failure::new(Status::Unavailable, words)
        })
    }

    /// Why it is not open, in the store's words.
    pub(crate) fn problem(&self) -> Option<String> {
        self.problem.lock().clone()
    }

    /// Tries to open it; whether it is open now.
    pub(crate) async fn try_open(&self) -> bool {
        if self.store.get().is_some() {
            return true;
        }
        match self.try_store().await {
            Ok(store) => {
                // Two may try at once; either's store is as good.
                drop(self.store.set(store));
                *self.problem.lock() = None;
                true
            }
            Err(failure) => {
                let before = self.problem.lock().replace(failure.message.clone());
                if before.as_ref() != Some(&failure.message) {
                    tracing::warn!(mount = %self.path, reason = %failure, "a mount is degraded; it is tried again");
                }
                false
            }
        }
    }

    async fn try_store(&self) -> Result<Arc<dyn UnderStore>, Failure> {
        let store = match self.untried.get() {
            Some(store) => store,
            None => {
                let opened = citius_understore::open(&self.spec).map_err(|error| super::failure::of_mount(&error))?;
                self.untried.get_or_init(|| opened)
            }
        };
        check(store, &self.spec).await?;
        Ok(Arc::clone(store))
    }

    /// Opens what has proven to work elsewhere, with other options than before: nobody finds the mount closed meanwhile.
    fn open_as_proven(&self) {
        if let Ok(store) = citius_understore::open(&self.spec) {
            drop(self.store.set(store));
        }
    }

    /// The path in its namespace of a path of its store.
    pub(crate) fn namespace_path(&self, store_path: &str) -> Result<NamespacePath, Failure> {
        NamespacePath::parse(&format!("{}/{store_path}", self.path))
    }
}

impl MountTable {
    /// A mount, if it is known here.
    pub(crate) fn get(&self, id: MountId) -> Option<Arc<Mounted>> {
        self.mounts.read().get(&id).cloned()
    }

    /// A mount that the state names.
    ///
    /// # Errors
    /// `Unavailable` in the moment between the state's learning of it and ours.
    pub(crate) fn find(&self, id: MountId) -> Result<Arc<Mounted>, Failure> {
        self.get(id).ok_or_else(|| Failure::new(Status::Unavailable, "mounts are changing just now: try again"))
    }

    /// All mounts, by id.
    pub(crate) fn all(&self) -> Vec<Arc<Mounted>> {
        let mut all: Vec<_> = self.mounts.read().values().cloned().collect();
        all.sort_by_key(|mounted| mounted.id);
        all
    }

    /// Takes over the mounts of the state; `opened` is the store of one that was opened before it was logged. Gives
    /// those that are to be opened.
    pub(crate) fn adopt<'a>(
        &self,
        mounts: impl Iterator<Item = &'a Mount>,
        opened: Option<(MountId, Arc<dyn UnderStore>)>,
    ) -> Vec<Arc<Mounted>> {
        let mut table = self.mounts.write();
        let mut kept = HashMap::new();
        let mut fresh = Vec::new();
        for mount in mounts {
            let spec = store_spec(&mount.uri, &mount.options.0, mount.read_only);
            let old = table.remove(&mount.id);
            if let Some(mounted) = old.as_ref().filter(|mounted| mounted.spec == spec) {
                kept.insert(mount.id, Arc::clone(mounted));
                continue;
            }
            match Mounted::new(mount, spec) {
                Ok(mounted) => {
                    if old.is_some() {
                        mounted.open_as_proven();
                    }
                    let mounted = Arc::new(mounted);
                    kept.insert(mount.id, Arc::clone(&mounted));
                    fresh.push(mounted);
                }
                Err(failure) => tracing::error!(mount = %mount.path, %failure, "a mount of the log cannot be used"),
            }
        }
        if let Some((id, store)) = opened
            && let Some(mounted) = kept.get(&id)
        {
            drop(mounted.store.set(store));
        }
        fresh.retain(|mounted| mounted.open().is_none());
        *table = kept;
        fresh
    }
}

/// Refuses an option that is given twice.
pub(crate) fn check_names(options: &[(String, SecretText)]) -> Result<(), Failure> {
    let mut names: Vec<&str> = options.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(twice) => {
            let words = format!("the option {} is given twice: leave one out", twice[0]);
            Err(Failure::new(Status::InvalidArgument, words))
        }
        None => Ok(()),
    }
}

/// The spec that is logged for a mount that a client asks for.
///
/// # Errors
/// `InvalidArgument` for an option given twice or an interval that makes no sense.
pub(crate) fn logged_spec(
    uri: &str,
    options: Vec<(String, SecretText)>,
    read_only: bool,
    sync_interval_ms: Option<i64>,
) -> Result<MountSpec, Failure> {
    check_names(&options)?;
    let uri = citius_understore::with_small_scheme(uri).into_owned();
    let sync_interval_ms = sync_interval_ms.unwrap_or_else(|| SyncInterval::default_ms(&uri));
    SyncInterval::from_ms(sync_interval_ms)?;
    Ok(MountSpec { uri, options: crate::state::MountOptions(options), read_only, sync_interval_ms })
}
