//! Digests: what a store tells of the bytes that it sends, and what it is told of those that it is sent.
//!
//! A store compares what arrives before it keeps it, and refuses what was damaged on the way; a read compares what arrives
//! before it is done. Both are here once; where a digest stands, and how it is spelled, each store's requests know.
//!
//! | digest | who | GB/s of one core |
//! |---|---|---|
//! | CRC32, CRC32C, CRC64/NVME | Amazon S3 and those that tell as it does; CRC32C Google, CRC64/NVME Azure | 25 to 40 |
//! | CRC64/XZ | Alibaba | 40 |
//! | MD5 | Swift, Azurite; Alibaba, of what it is sent | 0.7 |
//!
//! CRCs cost nothing beside a copy. MD5 costs more than all else that is done with a byte, so of what is read it is compared
//! only where the request around it costs as much, up to [`MD5_READ_BYTES_MAX`]; of what is sent it is made everywhere, for a
//! server that wants it makes it as well.

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest as Crc};
use md5::{Digest as _, Md5};

/// Bytes of a body up to which an MD5 is compared.
pub(crate) const MD5_READ_BYTES_MAX: u64 = 64 << 10;
/// Bytes after which whoever makes a digest lets others of its thread go on.
const PIECE_BYTES: usize = 1 << 20;

/// How a digest is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Crc32,
    Crc32c,
    Crc64Nvme,
    /// That of ECMA-182, mirrored.
    Crc64Xz,
    Md5,
}

impl Kind {
    /// Its name in errors.
    fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64/NVME",
            Self::Crc64Xz => "CRC64",
            Self::Md5 => "MD5",
        }
    }

    fn len(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme | Self::Crc64Xz => 8,
            Self::Md5 => 16,
        }
    }

    /// The digest of content.
    pub(crate) async fn of(self, content: &[Bytes]) -> Digest {
        let mut running = Running::new(self);
        for piece in content.iter().flat_map(|bytes| bytes.chunks(PIECE_BYTES)) {
            running.update(piece);
            tokio::task::yield_now().await;
        }
        running.finish()
    }
}

/// A digest of some content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digest {
    kind: Kind,
    /// Its number, the first byte the highest.
    value: u128,
}

impl Digest {
    /// From base64 of its bytes, the highest first.
    pub(crate) fn from_base64(kind: Kind, text: &str) -> Option<Self> {
        let bytes = BASE64.decode(text.trim()).ok().filter(|bytes| bytes.len() == kind.len())?;
        Some(Self { kind, value: bytes.iter().fold(0, |value, byte| value << 8 | u128::from(*byte)) })
    }

    /// From base64 of its bytes, the lowest first.
    pub(crate) fn from_base64_reversed(kind: Kind, text: &str) -> Option<Self> {
        let digest = Self::from_base64(kind, text)?;
        Some(Self { kind, value: digest.value.swap_bytes() >> (128 - 8 * kind.len()) })
    }

    /// From a number.
    pub(crate) fn from_decimal(kind: Kind, text: &str) -> Option<Self> {
        let value: u64 = text.trim().parse().ok()?;
        Some(Self { kind, value: value.into() })
    }

    /// From hexadecimal digits.
    pub(crate) fn from_hex(kind: Kind, text: &str) -> Option<Self> {
        let is_hex = text.len() == 2 * kind.len() && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        Some(Self { kind, value: is_hex.then(|| u128::from_str_radix(text, 16).ok())?? })
    }

    pub(crate) fn to_base64(self) -> String {
        BASE64.encode(&self.value.to_be_bytes()[16 - self.kind.len()..])
    }

    pub(crate) fn to_base64_reversed(self) -> String {
        BASE64.encode(&self.value.to_le_bytes()[..self.kind.len()])
    }

    pub(crate) fn to_hex(self) -> String {
        format!("{:0width$x}", self.value, width = 2 * self.kind.len())
    }

    /// Its number in decimal digits.
    #[cfg(feature = "testing")]
    pub(crate) fn to_decimal(self) -> String {
        self.value.to_string()
    }

    /// A comparison with so many bytes that are to come, if it is worth what it costs.
    pub(super) fn check(self, len: u64) -> Option<Check> {
        let is_cheap = self.kind != Kind::Md5 || len <= MD5_READ_BYTES_MAX;
        is_cheap.then(|| Check { told: self, running: Running::new(self.kind) })
    }
}

/// A digest in the making.
enum Running {
    Crc(Kind, Box<Crc>),
    Md5(Md5),
}

impl Running {
    fn new(kind: Kind) -> Self {
        let algorithm = match kind {
            Kind::Crc32 => CrcAlgorithm::Crc32IsoHdlc,
            Kind::Crc32c => CrcAlgorithm::Crc32Iscsi,
            Kind::Crc64Nvme => CrcAlgorithm::Crc64Nvme,
            Kind::Crc64Xz => CrcAlgorithm::Crc64Xz,
            Kind::Md5 => return Self::Md5(Md5::new()),
        };
        Self::Crc(kind, Box::new(Crc::new(algorithm)))
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc(_, crc) => crc.update(bytes),
            Self::Md5(md5) => md5.update(bytes),
        }
    }

    fn finish(self) -> Digest {
        match self {
            Self::Crc(kind, crc) => Digest { kind, value: crc.finalize().into() },
            Self::Md5(md5) => Digest { kind: Kind::Md5, value: u128::from_be_bytes(md5.finalize().into()) },
        }
    }
}

/// Bytes that arrive, and the digest that was told of all of them.
pub(super) struct Check {
    told: Digest,
    running: Running,
}

impl Check {
    /// Takes the next bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.running.update(bytes);
    }

    /// Whether they are what was told of; if not, the name of the digest that says so.
    pub(super) fn finish(self) -> Result<(), &'static str> {
        if self.running.finish() == self.told { Ok(()) } else { Err(self.told.kind.name()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KINDS: [Kind; 5] = [Kind::Crc32, Kind::Crc32c, Kind::Crc64Nvme, Kind::Crc64Xz, Kind::Md5];

    /// The check values of the catalogue of parametrised CRC algorithms, and RFC 1321's way with the same text.
    #[tokio::test]
    async fn digests_are_those_that_everybody_makes() {
        let content = [Bytes::from_static(b"1234"), Bytes::from_static(b"56789")];
        let expected = [
            (Kind::Crc32, "cbf43926"),
            (Kind::Crc32c, "e3069283"),
            (Kind::Crc64Nvme, "ae8b14860a799888"),
            (Kind::Crc64Xz, "995dc9bbdf1939fa"),
            (Kind::Md5, "25f9e794323b453885f5181f1b624d0b"),
        ];
        for (kind, hex) in expected {
            assert_eq!(kind.of(&content).await.to_hex(), hex, "{kind:?}");
        }
        assert_eq!(Kind::Crc32c.of(&content).await.to_base64(), "4waSgw==");
        assert_eq!(Kind::Crc64Nvme.of(&content).await.to_base64_reversed(), "iJh5CoYUi64=");
        assert_eq!(Kind::Md5.of(&[]).await.to_hex(), "d41d8cd98f00b204e9800998ecf8427e");
    }

    #[test]
    fn what_is_no_digest_is_not_taken_for_one() {
        // Of parts, as Amazon tells it; of another length; of nothing.
        for text in ["4waSgw==-3", "iJh5CoYUi64=", "", "4waSgw", "!"] {
            assert_eq!(Digest::from_base64(Kind::Crc32c, text), None, "{text}");
        }
        for text in
            ["25f9e794323b453885f5181f1b624d0b-2", "25f9e794323b453885f5181f1b624d", "+5f9e794323b453885f5181f1b624d0b"]
        {
            assert_eq!(Digest::from_hex(Kind::Md5, text), None, "{text}");
        }
        for text in ["-1", "18446744073709551616", "x", ""] {
            assert_eq!(Digest::from_decimal(Kind::Crc64Xz, text), None, "{text}");
        }
    }

    #[test]
    fn md5_is_compared_of_small_bodies_only() {
        let digest = |kind| Digest { kind, value: 0 };
        assert!(digest(Kind::Md5).check(MD5_READ_BYTES_MAX).is_some());
        assert!(digest(Kind::Md5).check(MD5_READ_BYTES_MAX + 1).is_none());
        assert!(digest(Kind::Crc32c).check(u64::MAX).is_some());
    }

    proptest! {
        /// However the bytes are cut, the right ones are taken; with any one bit flipped they are not.
        #[test]
        fn one_flipped_bit_is_seen(
            mut content in prop::collection::vec(any::<u8>(), 1..300),
            cut in any::<prop::sample::Index>(),
            bit in any::<prop::sample::Index>(),
        ) {
            for kind in KINDS {
                let mut running = Running::new(kind);
                running.update(&content);
                let told = running.finish();
                for spelled in [
                    Digest::from_base64(kind, &told.to_base64()),
                    Digest::from_base64_reversed(kind, &told.to_base64_reversed()),
                    Digest::from_hex(kind, &told.to_hex()),
                ] {
                    prop_assert_eq!(spelled, Some(told));
                }
                let holds = |content: &[u8]| {
                    let mut check = told.check(content.len() as u64).expect("it is small");
                    let (head, tail) = content.split_at(cut.index(content.len()));
                    check.update(head);
                    check.update(tail);
                    check.finish()
                };
                prop_assert_eq!(holds(&content), Ok(()));
                let at = bit.index(8 * content.len());
                content[at / 8] ^= 1 << (at % 8);
                prop_assert_eq!(holds(&content), Err(kind.name()));
                content[at / 8] ^= 1 << (at % 8);
            }
        }
    }
}
