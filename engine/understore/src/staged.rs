//! A write on its way into an under-store, and the record that lets another process finish or undo it.
//!
//! ```text
//! stage ──write──▶ seal ──▶ StagedRecord ─(the control plane logs an Intent)─▶ publish ──▶ VersionToken
//!                                               │ crash, or no answer
//!                                               └────────▶ settle ──▶ Published(token) | Absent
//! ```
//! Until `publish` nothing of a write is visible under its path. A record is small and self-contained: for a
//! temporary file and for a multipart upload any process may publish it. Only a small put keeps its bytes in the
//! process that staged it; such a record can be settled elsewhere, not published. Where a store can be kept from
//! publishing neither by a removal nor by an abort, the record says until when it may be tried.
//!
//! # The record's bytes (little endian)
//! ```text
//! version u8 = 1 | body u8 | file_id [16] | len u64 | path: u16 n, n bytes | body...
//! body 0 named   nothing: only path and id are known
//! body 1 temp    inode u64 | mtime_ns i64 | name: u16 n, n bytes
//! body 2 upload  id: u16 n, n bytes | parts: u32 n, each: number u32 | len u64 | tag: u16 n, n bytes
//! body 3 small   publish_by_ms u64
//! body 4 timed   publish_by_ms u64 | as upload
//! ```

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Condition, Error, Result, StorePath, VersionToken};

/// Parts of one upload; S3 allows no more.
pub const PARTS_MAX: usize = 10_000;
const RECORD_VERSION: u8 = 1;

/// The id that the control plane minted for the file being written. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub [u8; 16]);

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FileId {
    /// Reads the 32 lower-case hex digits that [`fmt::Display`] writes.
    pub fn from_hex(hex: &str) -> Option<Self> {
        if hex.len() != 32 || !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return None;
        }
        u128::from_str_radix(hex, 16).ok().map(|value| Self(value.to_be_bytes()))
    }
}

/// One uploaded part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its place, from 1.
    pub number: u32,
    /// Its bytes.
    pub len: u64,
    /// What the store calls it (an etag).
    pub tag: String,
}

/// Where the bytes of a staged write are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StagedBody {
    /// Not known: only path and id are. Enough to clean up and to look.
    Named,
    /// In a temporary file of the same file system.
    Temp {
        /// Its name, relative to the mount.
        name: String,
        /// Its inode, which the rename keeps.
        inode: u64,
        /// Its modification time after the last byte, in nanoseconds, which the rename keeps.
        mtime_ns: i64,
    },
    /// In the parts of a multipart upload.
    Upload {
        /// The store's name for the upload.
        upload_id: String,
        /// The parts; empty while the upload is only begun.
        parts: Vec<Part>,
        /// As of a small put, where the store cannot be told to forget an upload; set by the seal.
        publish_by_ms: Option<u64>,
    },
    /// In the memory of the process that staged it.
    Small {
        /// No request is sent after this time (milliseconds since 1970), so that a settler can wait it out; see
        /// [`StagedRecord::not_published_since`].
        publish_by_ms: u64,
    },
}

/// What a control plane logs before a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedRecord {
    /// Where the file will appear.
    pub path: StorePath,
    /// Which file it is.
    pub file_id: FileId,
    /// Its bytes.
    pub len: u64,
    /// Where they are now.
    pub body: StagedBody,
}

/// The end of a write whose fate was unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// It is what lies at the path, in this version.
    Published(VersionToken),
    /// It is not there, and never will be.
    Absent,
}

/// Something that a write left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remnant {
    /// A temporary file of ours.
    Temp {
        /// The file that it was to become.
        file_id: FileId,
        /// When it was last written, in milliseconds since 1970.
        mtime_ms: i64,
    },
    /// A multipart upload under the mounted prefix. S3 does not tell who began it or with which metadata, so it
    /// may belong to another program: the caller decides by upload id and age.
    Upload {
        /// Where it would appear.
        path: StorePath,
        /// Its id.
        upload_id: String,
        /// When it was begun, in milliseconds since 1970.
        begun_ms: i64,
    },
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Remains seen.
    pub seen: u64,
    /// Remains removed.
    pub removed: u64,
}

/// A write under way in this process. Dropped without [`Staged::publish`], it leaves its temporary or upload
/// to [`crate::UnderStore::settle`]; call [`Staged::abandon`] to clean up at once.
#[async_trait]
pub trait Staged: Send + Sync {
    /// What is known already; logged early, it lets a crash before the seal be cleaned up exactly.
    fn begun(&self) -> StagedRecord;

    /// Appends bytes. They may be held, uploaded or written when this returns.
    async fn write(&mut self, bytes: Bytes) -> Result<()>;

    /// Turns the write into an upload that takes parts from other processes too, and gives the record to pass
    /// to [`crate::UnderStore::put_part`]. Such a write takes no more bytes through [`Staged::write`].
    async fn share(&mut self) -> Result<StagedRecord> {
        Err(Error::NotSupported { store: "this under-store".into(), operation: "take parts from several writers" })
    }

    /// Takes over parts that others uploaded; all must be adopted before the seal.
    fn adopt(&mut self, parts: Vec<Part>) -> Result<()> {
        let _ = parts;
        Err(Error::NotSupported { store: "this under-store".into(), operation: "take parts from several writers" })
    }

    /// Makes every byte durable at the store (a small put: complete in memory) and says how to publish it. A
    /// second call gives a fresh record, with a new time limit where there is one.
    async fn seal(&mut self) -> Result<StagedRecord>;

    /// Makes the sealed write visible. An error that [refuses](Error::refuses_publication) it says that it did not happen;
    /// any other leaves its fate open, for [`crate::UnderStore::settle`] to end. After every error, settle or abandon.
    async fn publish(&mut self, condition: &Condition) -> Result<VersionToken>;

    /// Gives up and removes what was staged.
    async fn abandon(&mut self) -> Result<()>;
}

impl StagedRecord {
    /// A record for a write of which only path and id are known.
    pub fn named(path: StorePath, file_id: FileId) -> Self {
        Self { path, file_id, len: 0, body: StagedBody::Named }
    }

    /// The same write, of which somebody knows that nothing has been sent to publish it since a time (milliseconds since
    /// 1970; zero for a write that was refused): who settles it waits for no later one.
    pub fn not_published_since(mut self, since_ms: u64) -> Self {
        match &mut self.body {
            StagedBody::Small { publish_by_ms } | StagedBody::Upload { publish_by_ms: Some(publish_by_ms), .. } => {
                *publish_by_ms = since_ms.min(*publish_by_ms);
            }
            StagedBody::Named | StagedBody::Temp { .. } | StagedBody::Upload { publish_by_ms: None, .. } => {}
        }
        self
    }

    /// The record as bytes; see the module's diagram.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.path.as_str().len());
        let tag = match &self.body {
            StagedBody::Named => 0,
            StagedBody::Temp { .. } => 1,
            StagedBody::Upload { publish_by_ms: None, .. } => 2,
            StagedBody::Upload { publish_by_ms: Some(_), .. } => 4,
            StagedBody::Small { .. } => 3,
        };
        out.extend_from_slice(&[RECORD_VERSION, tag]);
        out.extend_from_slice(&self.file_id.0);
        out.extend_from_slice(&self.len.to_le_bytes());
        put_text(&mut out, self.path.as_str());
        match &self.body {
            StagedBody::Named => {}
            StagedBody::Temp { name, inode, mtime_ns } => {
                out.extend_from_slice(&inode.to_le_bytes());
                out.extend_from_slice(&mtime_ns.to_le_bytes());
                put_text(&mut out, name);
            }
            StagedBody::Upload { upload_id, parts, publish_by_ms } => {
                if let Some(publish_by_ms) = publish_by_ms {
                    out.extend_from_slice(&publish_by_ms.to_le_bytes());
                }
                put_text(&mut out, upload_id);
                out.extend_from_slice(&(parts.len() as u32).to_le_bytes());
                for part in parts {
                    out.extend_from_slice(&part.number.to_le_bytes());
                    out.extend_from_slice(&part.len.to_le_bytes());
                    put_text(&mut out, &part.tag);
                }
            }
            StagedBody::Small { publish_by_ms } => out.extend_from_slice(&publish_by_ms.to_le_bytes()),
        }
        out
    }

    /// Reads what [`StagedRecord::encode`] wrote; anything else is an error.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader(bytes);
        if reader.array::<1>()? != [RECORD_VERSION] {
            return Err(Error::BadRecord { reason: "its version is unknown" });
        }
        let [tag] = reader.array::<1>()?;
        let file_id = FileId(reader.array()?);
        let len = u64::from_le_bytes(reader.array()?);
        let path = StorePath::parse(&reader.text()?)?;
        let body = match tag {
            0 => StagedBody::Named,
            1 => StagedBody::Temp {
                inode: u64::from_le_bytes(reader.array()?),
                mtime_ns: i64::from_le_bytes(reader.array()?),
                name: reader.text()?,
            },
            2 | 4 => {
                let publish_by_ms = if tag == 4 { Some(u64::from_le_bytes(reader.array()?)) } else { None };
                let upload_id = reader.text()?;
                let count = u32::from_le_bytes(reader.array()?) as usize;
                if count > PARTS_MAX {
                    return Err(Error::BadRecord { reason: "it has more parts than an upload may have" });
                }
                let mut parts = Vec::new();
                for _ in 0..count {
                    let number = u32::from_le_bytes(reader.array()?);
                    let len = u64::from_le_bytes(reader.array()?);
                    parts.push(Part { number, len, tag: reader.text()? });
                }
                StagedBody::Upload { upload_id, parts, publish_by_ms }
            }
            3 => StagedBody::Small { publish_by_ms: u64::from_le_bytes(reader.array()?) },
            _ => return Err(Error::BadRecord { reason: "its body is of an unknown kind" }),
        };
        if !reader.0.is_empty() {
            return Err(Error::BadRecord { reason: "bytes are left over" });
        }
        Ok(Self { path, file_id, len, body })
    }
}

/// Orders parts and checks that they are exactly 1..=n.
pub(crate) fn ordered_parts(path: &StorePath, mut parts: Vec<Part>) -> Result<Vec<Part>> {
    parts.sort_by_key(|part| part.number);
    let whole = parts.iter().zip(1..).all(|(part, number)| part.number == number);
    if parts.is_empty() || parts.len() > PARTS_MAX || !whole {
        return Err(Error::Store {
            path: path.to_string(),
            source: "the parts of the upload are not numbered 1, 2, 3... without a gap".into(),
        });
    }
    Ok(parts)
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let len = u16::try_from(text.len()).expect("paths, upload ids and etags are shorter than 64 KiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Error::BadRecord { reason: "it is cut short" })?;
        self.0 = rest;
        Ok(*head)
    }

    fn text(&mut self) -> Result<String> {
        let len = usize::from(u16::from_le_bytes(self.array()?));
        if len > self.0.len() {
            return Err(Error::BadRecord { reason: "it is cut short" });
        }
        let (head, rest) = self.0.split_at(len);
        self.0 = rest;
        String::from_utf8(head.to_vec()).map_err(|_| Error::BadRecord { reason: "a text in it is not UTF-8" })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(body: StagedBody) -> StagedRecord {
        StagedRecord { path: StorePath::parse("d/f").unwrap(), file_id: FileId([7; 16]), len: 0x0102, body }
    }

    #[test]
    fn golden_bytes() {
        let mut expected = vec![1, 3];
        expected.extend([7; 16]);
        expected.extend([2, 1, 0, 0, 0, 0, 0, 0, 3, 0, b'd', b'/', b'f', 9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(record(StagedBody::Small { publish_by_ms: 9 }).encode(), expected);
        // A timed upload begins like a small put, and goes on like an upload.
        let upload = |publish_by_ms| record(StagedBody::Upload { upload_id: "u".into(), parts: vec![], publish_by_ms });
        expected[1] = 4;
        expected.extend([1, 0, b'u', 0, 0, 0, 0]);
        assert_eq!(upload(Some(9)).encode(), expected);
        expected[1] = 2;
        expected.drain(31..39);
        assert_eq!(upload(None).encode(), expected);
    }

    #[test]
    fn every_prefix_and_every_suffix_is_refused() {
        let parts = vec![Part { number: 1, len: 5, tag: "\"e\"".into() }];
        for publish_by_ms in [None, Some(9)] {
            let parts = parts.clone();
            let bytes = record(StagedBody::Upload { upload_id: "u".into(), parts, publish_by_ms }).encode();
            for end in 0..bytes.len() {
                assert!(matches!(StagedRecord::decode(&bytes[..end]), Err(Error::BadRecord { .. })), "{end}");
            }
            let mut longer = bytes;
            longer.push(0);
            assert!(StagedRecord::decode(&longer).is_err());
        }
    }

    #[test]
    fn file_ids_round_trip_as_hex() {
        let id = FileId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
        assert_eq!(id.to_string(), "000102030405060708090a0b0c0d0eff");
        assert_eq!(FileId::from_hex(&id.to_string()), Some(id));
        assert_eq!(FileId::from_hex("000102030405060708090A0B0C0D0EFF"), None);
        assert_eq!(FileId::from_hex("+00102030405060708090a0b0c0d0eff"), None);
    }

    fn body() -> impl Strategy<Value = StagedBody> {
        prop_oneof![
            Just(StagedBody::Named),
            (any::<u64>(), any::<i64>(), "[a-z/]{0,20}").prop_map(|(inode, mtime_ns, name)| StagedBody::Temp {
                name,
                inode,
                mtime_ns
            }),
            (
                "[ -~]{0,40}",
                prop::collection::vec((any::<u32>(), any::<u64>(), "\\PC{0,9}"), 0..20),
                any::<Option<u64>>()
            )
                .prop_map(|(upload_id, parts, publish_by_ms)| StagedBody::Upload {
                    upload_id,
                    parts: parts.into_iter().map(|(number, len, tag)| Part { number, len, tag }).collect(),
                    publish_by_ms,
                }),
            any::<u64>().prop_map(|publish_by_ms| StagedBody::Small { publish_by_ms }),
        ]
    }

    proptest! {
        #[test]
        fn records_round_trip(path in "[a-zü %#+]{1,9}(/[a-z]{1,9}){0,3}", id: [u8; 16], len: u64, body in body()) {
            let record = StagedRecord { path: StorePath::parse(&path).unwrap(), file_id: FileId(id), len, body };
            prop_assert_eq!(StagedRecord::decode(&record.encode()).unwrap(), record);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = StagedRecord::decode(&bytes);
        }
    }
}
