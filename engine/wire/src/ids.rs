//! Newtype ids. Two ids of different things never compare, and each prints the way a user sees it.

use core::fmt;
use rkyv::{Archive, Deserialize, Serialize};

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl $name {
            /// Reads the 32 hexadecimal digits that `Display` writes.
            pub fn from_hex(text: &str) -> Option<Self> {
                crate::hex::from_hex(text).map(Self)
            }
        }
    };
}

macro_rules! id_number {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(
            Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord,
        )]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id128! {
    /// Names one version of one file: BLAKE3 of mount, path and version token for a file of an under-store,
    /// an id minted in the log for one that is not there yet. See [`FileKey::of_version`].
    FileKey
}
id128! {
    /// Names one client process for as long as it lives; with a [`Serial`] it makes retries idempotent.
    ClientId
}
id128! {
    /// Names a cluster: minted when its first master starts, so that two clusters are never confused.
    ClusterId
}

id_number! {
    /// A mount, never reused within a cluster.
    MountId(u32)
}
/// A worker: a node's shards. It keeps its id over restarts; see [`Incarnation`]. It is drawn at random and printed as 16
/// hexadecimal digits.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u64);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkerId({self})")
    }
}

id_number! {
    /// One life of a worker process. Memory does not outlive it.
    Incarnation(u64)
}
id_number! {
    /// The version of the ring of live workers.
    Epoch(u64)
}
id_number! {
    /// A client's number for one of its operations, increasing, deduplicated by the state machine.
    Serial(u64)
}
id_number! {
    /// A capability attached to one connection, as reads on that connection name it.
    Handle(u32)
}

/// A block: a fixed span of one version of a file.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId {
    /// The file, in one version.
    pub file: FileKey,
    /// Which of its blocks, from 0.
    pub index: u32,
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.file, self.index)
    }
}

impl FileKey {
    /// The key of a file that an under-store holds: 128 bits of BLAKE3 over mount, path and version token.
    ///
    /// Each part is preceded by its length, so that no two triples hash the same bytes.
    pub fn of_version(mount: MountId, path: &str, token: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("citius 2026 file key of an under-store version");
        hasher.update(&mount.0.to_le_bytes());
        hasher.update(&(path.len() as u64).to_le_bytes());
        hasher.update(path.as_bytes());
        hasher.update(&(token.len() as u64).to_le_bytes());
        hasher.update(token);
        Self(first_16(&hasher.finalize()))
    }
}

/// Where the blocks of a file go, whatever its version: a hash of mount and path, fixed when the file is created.
///
/// Placement follows the path and not the file key, so a file that is written, persisted and re-keyed stays on the
/// workers that hold it, and a new version of a file lands where the old one was.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place(pub u64);

impl Place {
    /// The place of an under-store path.
    pub fn of_path(mount: MountId, path: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("citius 2026 place of a path");
        hasher.update(&mount.0.to_le_bytes());
        hasher.update(path.as_bytes());
        let bytes = first_16(&hasher.finalize());
        Self(u64::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]]))
    }
}

fn first_16(hash: &blake3::Hash) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_refuses_others() {
        let key = FileKey::of_version(MountId(7), "a/b", b"etag");
        assert_eq!(FileKey::from_hex(&key.to_string()), Some(key));
        assert_eq!(FileKey::from_hex("00"), None);
        assert_eq!(FileKey::from_hex(&"zz".repeat(16)), None);
        assert_eq!(FileKey::from_hex(&"+1".repeat(16)), None);
        assert_eq!(FileKey::from_hex(&"é".repeat(16)), None);
    }

    #[test]
    fn a_worker_is_called_the_same_everywhere() {
        // A log said 11068046444225730969 of what `citius cluster` calls 9999999999999999.
        let worker = WorkerId(0xab_cdef);
        assert_eq!(
            (worker.to_string().as_str(), format!("{worker:?}").as_str()),
            ("0000000000abcdef", "WorkerId(0000000000abcdef)")
        );
    }

    #[test]
    fn key_depends_on_each_part_and_not_on_their_joint() {
        let key = |mount, path, token: &str| FileKey::of_version(MountId(mount), path, token.as_bytes());
        let base = key(1, "ab", "c");
        assert_ne!(base, key(2, "ab", "c"));
        assert_ne!(base, key(1, "a", "bc"));
        assert_ne!(base, key(1, "ab", "d"));
        assert_eq!(base, key(1, "ab", "c"));
    }
}
