//! What an under-store said of a path, as the control plane keeps it.

use citius_understore::{Kind, Stat, VersionToken};
use citius_wire::{FileKey, MountId};

/// An answer of a store. That nothing is there is an answer too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing is there.
    Nothing,
    /// A directory.
    Directory {
        /// Its last change, in milliseconds since 1970; 0 where the store keeps none.
        modified_ms: u64,
    },
    /// A file, in one version.
    File(FoundFile),
}

/// A file of an under-store, in one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundFile {
    /// Bytes.
    pub(crate) length: u64,
    /// Last change, in milliseconds since 1970.
    pub(crate) modified_ms: u64,
    /// The version as the store tells it.
    pub(crate) token: VersionToken,
    /// The version as Citius tells it. Kept, because hashing it costs more than all else in a `stat`.
    pub(crate) version: FileKey,
}

impl Found {
    /// What `stat` says of `path`. `before` is what was known: the same version needs no new hash.
    pub(crate) fn of_stat(mount: MountId, path: &str, stat: &Stat, before: Option<&Self>) -> Self {
        let modified_ms = u64::try_from(stat.mtime_ms).unwrap_or(0);
        match stat.kind {
            Kind::Dir => Self::Directory { modified_ms },
            Kind::File => {
                let version = match before {
                    Some(Self::File(file)) if file.token == stat.token => file.version,
                    _ => FileKey::of_version(mount, path, stat.token.as_bytes()),
                };
                Self::File(FoundFile { length: stat.len, modified_ms, token: stat.token.clone(), version })
            }
        }
    }

    /// The file, if it is one.
    pub(crate) fn file(&self) -> Option<&FoundFile> {
        match self {
            Self::File(file) => Some(file),
            _ => None,
        }
    }
}
