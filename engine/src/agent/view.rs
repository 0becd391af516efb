//! What a worker knows of the cluster: ring, keys and opened under-stores, as one immutable value.
//!
//! The agent makes a new view whenever the master's is newer and hands it to every shard; a shard holds the one it
//! last got, so serving needs no lock.

use citius_understore::{MountSpec, Secret, UnderStore};
use citius_wire::{ClusterView, Failure, MacKey, MountId, MountSecret, Ring, Status};
use std::collections::HashMap;
use std::sync::Arc;

/// A mount with its store, or why it could not be opened.
#[derive(Clone)]
pub(crate) struct Mounted {
    secret: MountSecret,
    store: Result<Arc<dyn UnderStore>, String>,
}

/// The cluster as of one version.
#[derive(Clone, Default)]
pub(crate) struct View {
    /// The master's number for it; 0 before the first.
    pub(crate) version: u64,
    /// The ring now.
    pub(crate) ring: Ring,
    /// Keys that sign capabilities, newest first.
    pub(crate) keys: Vec<MacKey>,
    mounts: HashMap<MountId, Mounted>,
}

impl View {
    /// The next view: stores of mounts that did not change stay open.
    pub(crate) fn next(&self, cluster: ClusterView) -> Self {
        let mounts = cluster
            .mounts
            .into_iter()
            .map(|secret| {
                let mounted = match self.mounts.get(&secret.mount) {
                    Some(old) if old.secret == secret && old.store.is_ok() => old.clone(),
                    _ => Mounted { store: open(&secret), secret },
                };
                (mounted.secret.mount, mounted)
            })
            .collect();
        Self { version: cluster.version, ring: cluster.ring, keys: cluster.keys, mounts }
    }

    /// The store of a mount.
    ///
    /// # Errors
    /// `NotFound` if there is no such mount here, `UnderStore` if it could not be opened.
    pub(crate) fn store(&self, mount: MountId) -> Result<&Arc<dyn UnderStore>, Failure> {
        let mounted = self.mounts.get(&mount).ok_or_else(|| {
            Failure::new(Status::NotFound, format!("mount {mount} is not known here: it may have been removed"))
        })?;
        mounted.store.as_ref().map_err(|why| Failure::new(Status::UnderStore, why.clone()))
    }

    /// Every mount that is open.
    pub(crate) fn stores(&self) -> impl Iterator<Item = (MountId, &Arc<dyn UnderStore>)> {
        self.mounts.iter().filter_map(|(&mount, mounted)| Some((mount, mounted.store.as_ref().ok()?)))
    }
}

fn open(secret: &MountSecret) -> Result<Arc<dyn UnderStore>, String> {
    let spec = MountSpec {
        uri: secret.uri.clone(),
        options: secret.options.iter().map(|(key, value)| (key.clone(), Secret::new(value.expose()))).collect(),
        read_only: secret.read_only,
    };
    citius_understore::open(&spec).map_err(|error| {
        tracing::error!(mount = %secret.mount, %error, "an under-store cannot be opened");
        error.to_string()
    })
}
