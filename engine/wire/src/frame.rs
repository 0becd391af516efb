//! The frame: what every message on every Citius connection is wrapped in.
//!
//! ```text
//!  0       4        5       6        8            12           16                 24               32
//!  +-------+--------+-------+--------+------------+------------+------------------+----------------+
//!  | magic | version| kind  | flags  | header_len | header_crc | payload_len      | request_id     |
//!  | u32   | u8     | u8    | u16    | u32        | u32        | u64              | u64            |
//!  +-------+--------+-------+--------+------------+------------+------------------+----------------+
//!  | header: zeros up to a multiple of 16, then an rkyv archive, whose root is at the end          |
//!  +-----------------------------------------------------------------------------------------------+
//!  | payload: raw bytes, payload_len of them, never copied into the archive                        |
//!  +-----------------------------------------------------------------------------------------------+
//! ```
//!
//! All integers are little endian. `header_crc` is CRC32C over the prelude, with zeros in its own place, and then the
//! header, so a flipped bit anywhere but in the payload (which carries its own sector checksums) is found before
//! anything is believed. CRC32C, because processors have an instruction for it that is fast for a few bytes too: the
//! head of a frame is seldom more than 200. Both lengths are bounded before anything is allocated, and `header_len`
//! counts the zeros.

use crate::status::{Failure, Status};
use core::fmt;

/// Bytes of the prelude.
pub const PRELUDE_BYTES: usize = 32;
/// `CTIU` read as a little-endian word.
pub const MAGIC: u32 = u32::from_le_bytes(*b"CTIU");
/// The version of the frame and of the messages in it. A peer of another version is refused by name.
pub const PROTOCOL_VERSION: u8 = 1;
/// Headers are padded to this.
pub const HEADER_ALIGN: usize = 16;
/// The longest header: a listing page or a batch of operations.
pub const HEADER_BYTES_MAX: usize = 4 << 20;
/// The longest payload: what one read or write may carry.
pub const PAYLOAD_BYTES_MAX: usize = 8 << 20;
/// The longest frame.
pub const FRAME_BYTES_MAX: usize = PRELUDE_BYTES + HEADER_BYTES_MAX + PAYLOAD_BYTES_MAX;
/// The longest frame that is read from a peer who has not shown its token yet: a hello, with room to grow.
pub const HELLO_FRAME_BYTES_MAX: usize = 1 << 10;

/// What a frame is about. A reply has the kind of its request and [`Flags::REPLY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// First frame of a connection: who is there, and with what token.
    Hello = 1,
    /// A batch of namespace operations.
    Batch = 2,
    /// A directory, streamed page by page ([`Flags::MORE`]).
    List = 3,
    /// A worker joins.
    Register = 4,
    /// A worker says that it lives, and how it is.
    Heartbeat = 5,
    /// A capability becomes a handle of this connection.
    Attach = 16,
    /// A handle is given back.
    Detach = 17,
    /// Bytes of one block.
    Read = 18,
    /// Bytes into one block of a file being written.
    Write = 19,
    /// A block of a file being written has all its bytes.
    Seal = 20,
    /// A sealed block may be staged in the under-store by the publisher.
    Stage = 21,
    /// All blocks are sealed: publish the file.
    Publish = 22,
    /// Bring a block into memory.
    Load = 23,
    /// Forget clean blocks of a file.
    Free = 24,
    /// Which blocks of a file are here.
    Resident = 25,
    /// A descriptor of a complete block (Unix socket only).
    Map = 26,
    /// A descriptor to write a block into (Unix socket only).
    MapWrite = 27,
    /// The publisher has taken a block that another worker holds.
    Staged = 28,
    /// What a shard counts.
    Counters = 29,
    /// Bring a block of a file into memory that is not attached.
    Warm = 30,
}

impl Kind {
    /// Every kind, for tests and tables.
    pub const ALL: [Self; 20] = [
        Self::Hello,
        Self::Batch,
        Self::List,
        Self::Register,
        Self::Heartbeat,
        Self::Attach,
        Self::Detach,
        Self::Read,
        Self::Write,
        Self::Seal,
        Self::Stage,
        Self::Publish,
        Self::Load,
        Self::Free,
        Self::Resident,
        Self::Map,
        Self::MapWrite,
        Self::Staged,
        Self::Counters,
        Self::Warm,
    ];

    const fn from_byte(byte: u8) -> Option<Self> {
        let mut i = 0;
        while i < Self::ALL.len() {
            if Self::ALL[i] as u8 == byte {
                return Some(Self::ALL[i]);
            }
            i += 1;
        }
        None
    }
}

/// Bits of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u16);

impl Flags {
    /// The frame answers a request.
    pub const REPLY: Self = Self(1);
    /// The header is a [`Failure`].
    pub const FAILED: Self = Self(1 << 1);
    /// Another frame of the same answer follows.
    pub const MORE: Self = Self(1 << 2);
    /// A file descriptor rides on the first byte of this frame (Unix socket only).
    pub const DESCRIPTOR: Self = Self(1 << 3);

    const KNOWN: u16 = 0b1111;

    /// Whether all bits of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The fixed first 32 bytes of a frame, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prelude {
    /// What the frame is about.
    pub kind: Kind,
    /// Its bits.
    pub flags: Flags,
    /// Bytes of the header, padding included.
    pub header_len: u32,
    /// CRC32C of prelude and header; see the module.
    pub header_crc: u32,
    /// Bytes of the payload.
    pub payload_len: u64,
    /// Chosen by who asks, echoed by who answers; replies may come in any order.
    pub request_id: u64,
}

/// Why bytes are not a frame. Each is final for its connection: after one, nothing that follows can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The first word is another protocol's.
    Magic(u32),
    /// The peer speaks another version.
    Version(u8),
    /// No such kind.
    Kind(u8),
    /// Bits that this version does not know.
    Flags(u16),
    /// A header longer than [`HEADER_BYTES_MAX`], or not padded to [`HEADER_ALIGN`].
    HeaderLength(u32),
    /// A payload longer than [`PAYLOAD_BYTES_MAX`].
    PayloadLength(u64),
    /// A frame longer than this connection takes now; see `FrameBuffer::limit_frames`.
    FrameLength {
        /// Bytes of the frame.
        bytes: usize,
        /// Bytes that it may have.
        limit: usize,
    },
    /// Prelude or header are damaged.
    Checksum {
        /// What the frame says.
        said: u32,
        /// What its bytes give.
        found: u32,
    },
    /// The header is no archive of the message that its kind names.
    Archive(Kind),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic(word) => write!(f, "not a Citius frame: it starts with {word:#010x} instead of {MAGIC:#010x}"),
            Self::Version(version) => {
                write!(
                    f,
                    "the peer speaks protocol version {version}, this side {PROTOCOL_VERSION}: run the same release on both"
                )
            }
            Self::Kind(kind) => write!(f, "frame of unknown kind {kind}"),
            Self::Flags(flags) => write!(f, "frame with unknown flags {flags:#06x}"),
            Self::HeaderLength(length) => {
                write!(f, "frame header of {length} bytes: at most {HEADER_BYTES_MAX}, in multiples of {HEADER_ALIGN}")
            }
            Self::PayloadLength(length) => write!(f, "frame payload of {length} bytes: at most {PAYLOAD_BYTES_MAX}"),
            Self::FrameLength { bytes, limit } => {
                write!(f, "frame of {bytes} bytes where this connection takes at most {limit}")
            }
            Self::Checksum { said, found } => {
                write!(f, "frame header is damaged: checksum {found:#010x}, the frame says {said:#010x}")
            }
            Self::Archive(kind) => write!(f, "the header of a {kind:?} frame is malformed"),
        }
    }
}

impl std::error::Error for FrameError {}

impl From<FrameError> for Failure {
    fn from(error: FrameError) -> Self {
        Self::new(Status::Protocol, error.to_string())
    }
}

impl Prelude {
    /// Parses and bounds a prelude. The checksum is judged by [`Prelude::verify`], once the header is there.
    ///
    /// # Errors
    /// Any [`FrameError`] but `Checksum` and `Archive`.
    pub fn parse(bytes: &[u8; PRELUDE_BYTES]) -> Result<Self, FrameError> {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if u32_at(0) != MAGIC {
            return Err(FrameError::Magic(u32_at(0)));
        }
        if bytes[4] != PROTOCOL_VERSION {
            return Err(FrameError::Version(bytes[4]));
        }
        let kind = Kind::from_byte(bytes[5]).ok_or(FrameError::Kind(bytes[5]))?;
        let flags = u16::from_le_bytes([bytes[6], bytes[7]]);
        if flags & !Flags::KNOWN != 0 {
            return Err(FrameError::Flags(flags));
        }
        let header_len = u32_at(8);
        if header_len as usize > HEADER_BYTES_MAX || !(header_len as usize).is_multiple_of(HEADER_ALIGN) {
            return Err(FrameError::HeaderLength(header_len));
        }
        let payload_len = u64_at(16);
        if payload_len > PAYLOAD_BYTES_MAX as u64 {
            return Err(FrameError::PayloadLength(payload_len));
        }
        Ok(Self { kind, flags: Flags(flags), header_len, header_crc: u32_at(12), payload_len, request_id: u64_at(24) })
    }

    /// The 32 bytes of this prelude.
    pub fn to_bytes(&self) -> [u8; PRELUDE_BYTES] {
        let mut bytes = [0; PRELUDE_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4] = PROTOCOL_VERSION;
        bytes[5] = self.kind as u8;
        bytes[6..8].copy_from_slice(&self.flags.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.header_len.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.header_crc.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.payload_len.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.request_id.to_le_bytes());
        bytes
    }

    /// The checksum that this prelude must carry before `header`.
    pub fn checksum(&self, header: &[u8]) -> u32 {
        let prelude = Self { header_crc: 0, ..*self }.to_bytes();
        crc32c::crc32c_append(crc32c::crc32c(&prelude), header)
    }

    /// Judges the checksum.
    ///
    /// # Errors
    /// [`FrameError::Checksum`].
    pub fn verify(&self, header: &[u8]) -> Result<(), FrameError> {
        debug_assert_eq!(header.len(), self.header_len as usize);
        let found = self.checksum(header);
        if found == self.header_crc { Ok(()) } else { Err(FrameError::Checksum { said: self.header_crc, found }) }
    }

    /// Bytes of prelude, header and payload together.
    pub const fn frame_bytes(&self) -> usize {
        PRELUDE_BYTES + self.header_len as usize + self.payload_len as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prelude() -> Prelude {
        let mut prelude = Prelude {
            kind: Kind::Read,
            flags: Flags::REPLY,
            header_len: 16,
            header_crc: 0,
            payload_len: 4096,
            request_id: 0x0102_0304_0506_0708,
        };
        prelude.header_crc = prelude.checksum(&[9; 16]);
        prelude
    }

    #[test]
    fn golden_bytes() {
        let expected: [u8; 32] = [
            b'C', b'T', b'I', b'U', 1, 18, 1, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2,
            1,
        ];
        let mut found = prelude().to_bytes();
        found[12..16].fill(0);
        assert_eq!(found, expected);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let good = prelude().to_bytes();
        let judge = |bytes: &[u8; 32], header: &[u8]| {
            Prelude::parse(bytes).and_then(|p| {
                if p.header_len as usize != header.len() {
                    return Err(FrameError::HeaderLength(p.header_len));
                }
                p.verify(header)
            })
        };
        assert_eq!(judge(&good, &[9; 16]), Ok(()));
        for bit in 0..256 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(judge(&bad, &[9; 16]).is_err(), "bit {bit} of the prelude");
        }
        for bit in 0..128 {
            let mut header = [9; 16];
            header[bit / 8] ^= 1 << (bit % 8);
            assert!(judge(&good, &header).is_err(), "bit {bit} of the header");
        }
    }

    #[test]
    fn lengths_are_bounded_at_and_past_the_limit() {
        let mut p = prelude();
        p.payload_len = PAYLOAD_BYTES_MAX as u64;
        assert!(Prelude::parse(&p.to_bytes()).is_ok());
        p.payload_len += 1;
        assert_eq!(Prelude::parse(&p.to_bytes()), Err(FrameError::PayloadLength(p.payload_len)));
        let mut p = prelude();
        p.header_len = HEADER_BYTES_MAX as u32;
        assert!(Prelude::parse(&p.to_bytes()).is_ok());
        for wrong in [HEADER_BYTES_MAX as u32 + 16, 17] {
            p.header_len = wrong;
            assert_eq!(Prelude::parse(&p.to_bytes()), Err(FrameError::HeaderLength(wrong)));
        }
    }
}
