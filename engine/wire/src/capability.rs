//! A capability: a signed, expiring right to one version of one file.
//!
//! The master signs it at `open` or `create`; a worker checks it once per connection and can then serve the file
//! alone, misses included, because it says all there is to know: where the bytes are in the under-store and which
//! version they must have. It is a bearer right, so it travels only on connections that began with the token.
//!
//! ```text
//! +----------------------+-----------------------------------------------+
//! | rkyv archive of Right| MAC: keyed BLAKE3 of the archive, 32 bytes    |
//! +----------------------+-----------------------------------------------+
//! ```

use crate::ids::{Epoch, FileKey, MountId, Place};
use crate::status::{Failure, Status};
use core::fmt;
use rkyv::{Archive, Deserialize, Serialize};

/// Bytes of the MAC.
pub const MAC_BYTES: usize = 32;
/// The longest capability: a path of 4,096 bytes, a token, and the rest.
pub const CAPABILITY_BYTES_MAX: usize = 8 << 10;

/// The secret that masters sign with and workers check with. It never prints.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq)]
pub struct MacKey(pub [u8; 32]);

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(..)")
    }
}

/// How a capability prints: by its length, because it is a bearer right and messages end up in logs.
pub(crate) struct Hidden<'a>(pub(crate) &'a [u8]);

impl fmt::Debug for Hidden<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

/// What a capability lets its holder do.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy, PartialEq, Eq))]
#[repr(u8)]
pub enum Access {
    /// Read the file.
    Read = 1,
    /// Write its blocks, seal and publish them; reads of what was written are allowed too.
    Write = 2,
}

/// Where the bytes of a file are when no worker has them.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the under-store, in exactly this version.
    UnderStore {
        /// The version token that every fetch is conditional on.
        token: Vec<u8>,
    },
    /// Nowhere else: a miss is a loss. Blocks were placed by this epoch.
    Memory {
        /// The epoch of the ring that placed them.
        epoch: Epoch,
    },
    /// Being written: blocks come from the holder.
    Writer {
        /// How the write is to end.
        write_type: WriteType,
        /// The epoch of the ring that places its blocks.
        epoch: Epoch,
    },
}

/// What a returned close of a written file means.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
#[rkyv(derive(Debug, Clone, Copy, PartialEq, Eq))]
#[repr(u8)]
pub enum WriteType {
    /// Whole in the under-store, and cached.
    #[default]
    CacheThrough = 1,
    /// Whole in the under-store.
    Through = 2,
    /// Whole in memory, gone with it.
    MustCache = 3,
}

impl WriteType {
    /// The name that CLI, docs and status use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CacheThrough => "cache-through",
            Self::Through => "through",
            Self::MustCache => "must-cache",
        }
    }

    /// Every write type, in the order the documentation names them.
    pub const ALL: [Self; 3] = [Self::CacheThrough, Self::Through, Self::MustCache];
}

/// The content of a capability.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// The file, in one version.
    pub file: FileKey,
    /// Where its blocks go.
    pub place: Place,
    /// The mount it lies in.
    pub mount: MountId,
    /// Its path in the mount's under-store.
    pub path: String,
    /// Where its bytes are.
    pub origin: Origin,
    /// Its length; of a file being written, 0.
    pub length: u64,
    /// Its block size.
    pub block_bytes: u32,
    /// What the holder may do.
    pub access: Access,
    /// Who it was given to.
    pub user: String,
    /// When it ends, in milliseconds since 1970.
    pub expires_ms: u64,
}

impl Right {
    /// Signs the right.
    pub fn sign(&self, key: &MacKey) -> Vec<u8> {
        /// What a right and its MAC seldom exceed.
        const BYTES_COMMON: usize = 256;
        let mut bytes = rkyv::api::high::to_bytes_in::<_, rkyv::rancor::Error>(self, Vec::with_capacity(BYTES_COMMON))
            .expect("archiving into memory fails only when memory does");
        let mac = blake3::keyed_hash(&key.0, &bytes);
        bytes.extend_from_slice(mac.as_bytes());
        debug_assert!(bytes.len() <= CAPABILITY_BYTES_MAX);
        bytes
    }

    /// Checks MAC and expiry and gives the right.
    ///
    /// # Errors
    /// `CapabilityForged` if any byte is not as signed by one of `keys`, `CapabilityExpired` if it was but is past its time.
    pub fn check(capability: &[u8], keys: &[MacKey], now_ms: u64) -> Result<Self, Failure> {
        let forged = || Failure::new(Status::CapabilityForged, "the capability is not one that this cluster signed");
        if capability.len() <= MAC_BYTES || capability.len() > CAPABILITY_BYTES_MAX {
            return Err(forged());
        }
        let (archive, mac) = capability.split_at(capability.len() - MAC_BYTES);
        let mut said = [0; MAC_BYTES];
        said.copy_from_slice(mac);
        // blake3::Hash compares in constant time.
        let said = blake3::Hash::from_bytes(said);
        if !keys.iter().any(|key| blake3::keyed_hash(&key.0, archive) == said) {
            return Err(forged());
        }
        let right = rkyv::from_bytes::<Self, rkyv::rancor::Error>(archive).map_err(|_| forged())?;
        if now_ms >= right.expires_ms {
            return Err(Failure::new(
                Status::CapabilityExpired,
                "the capability is past its time: open the file again",
            ));
        }
        Ok(right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right() -> Right {
        Right {
            file: FileKey([1; 16]),
            place: Place(2),
            mount: MountId(3),
            path: "a/ü %#+".into(),
            origin: Origin::UnderStore { token: b"etag".to_vec() },
            length: 5,
            block_bytes: 64 << 20,
            access: Access::Read,
            user: "me".into(),
            expires_ms: 1_000,
        }
    }

    #[test]
    fn round_trip_under_either_of_two_keys() {
        let (old, new) = (MacKey([1; 32]), MacKey([2; 32]));
        let keys = [new.clone(), old.clone()];
        for key in [&old, &new] {
            assert_eq!(Right::check(&right().sign(key), &keys, 999), Ok(right()));
        }
    }

    #[test]
    fn expiry_is_at_the_millisecond() {
        let key = MacKey([1; 32]);
        let error = Right::check(&right().sign(&key), std::slice::from_ref(&key), 1_000).unwrap_err();
        assert_eq!(error.status, Status::CapabilityExpired);
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_a_forgery() {
        let key = MacKey([1; 32]);
        let good = right().sign(&key);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let error = Right::check(&bad, std::slice::from_ref(&key), 0).unwrap_err();
            assert_eq!(error.status, Status::CapabilityForged);
        }
        for length in 0..good.len() {
            assert!(Right::check(&good[..length], std::slice::from_ref(&key), 0).is_err());
        }
    }

    #[test]
    fn the_key_never_prints() {
        assert_eq!(format!("{:?}", MacKey([7; 32])), "MacKey(..)");
    }
}
