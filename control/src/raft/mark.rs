//! The high-water mark: how far the log was acknowledged, kept beside it.
//!
//! raft-log takes a record that ends beyond the end of the file for a torn tail and drops it with
//! all that follows; a flipped bit can make an acknowledged record look so. The mark tells the two
//! apart: a torn tail lies beyond it.
//!
//! Two slots are written in turn, in place, after the log's fsync and before the acknowledgement,
//! without an fsync of their own. So after a crash of the process the mark is exact, and after a
//! loss of power it is at worst older than the log, never newer: a lower bound either way.
//!
//! ```text
//! slot k at k * 4096:
//!  0       4         8            16        24          32              40      44
//!  | magic | version | sequence   | wal_end | last term | last index+1  | crc32 |
//! ```
//! Little endian; `last index+1` is 0 for an empty log; the CRC covers what precedes it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::log::EntryId;
use super::private;

const MAGIC: u32 = u32::from_le_bytes(*b"CtMk");
const VERSION: u32 = 1;
const SLOT_STRIDE: u64 = 4096;
const SLOT_BYTES: usize = 44;

/// How far the log was acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Bytes of log since its birth.
    pub(crate) wal_end: u64,
    /// The last entry within them.
    pub(crate) last: Option<EntryId>,
}

/// The file that keeps it.
#[derive(Debug)]
pub(crate) struct MarkFile {
    file: File,
    sequence: u64,
}

impl MarkFile {
    /// Creates the file of a new log, durably but for the folder's entry.
    pub(crate) fn create(path: &Path) -> io::Result<MarkFile> {
        let file = private::create_file(path)?;
        let mut mark = MarkFile { file, sequence: 0 };
        mark.write(Mark::default())?;
        mark.write(Mark::default())?;
        mark.file.sync_all()?;
        Ok(mark)
    }

    /// Opens the file and reads the newer of its good slots; `None` if there is no good one.
    pub(crate) fn open(path: &Path) -> io::Result<Option<(MarkFile, Mark)>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let newest = (0..2).filter_map(|slot| read_slot(&file, slot)).max_by_key(|(sequence, _)| *sequence);
        Ok(newest.map(|(sequence, mark)| (MarkFile { file, sequence }, mark)))
    }

    /// Records `mark`. It survives a crash of the process, and of the machine once the kernel has
    /// written it back.
    pub(crate) fn write(&mut self, mark: Mark) -> io::Result<()> {
        self.sequence += 1;
        let bytes = encode(self.sequence, mark);
        self.file.write_all_at(&bytes, (self.sequence % 2) * SLOT_STRIDE)
    }
}

fn encode(sequence: u64, mark: Mark) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
    bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
    bytes[16..24].copy_from_slice(&mark.wal_end.to_le_bytes());
    bytes[24..32].copy_from_slice(&mark.last.map_or(0, |last| last.term).to_le_bytes());
    bytes[32..40].copy_from_slice(&super::log::index_after(mark.last).to_le_bytes());
    let crc = crc32fast::hash(&bytes[..40]);
    bytes[40..44].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn read_slot(file: &File, slot: u64) -> Option<(u64, Mark)> {
    let mut bytes = [0; SLOT_BYTES];
    file.read_exact_at(&mut bytes, slot * SLOT_STRIDE).ok()?;
    let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    if u32_at(0) != MAGIC || u32_at(4) != VERSION || u32_at(40) != crc32fast::hash(&bytes[..40]) {
        return None;
    }
    let last = u64_at(32).checked_sub(1).map(|index| EntryId { term: u64_at(24), index });
    Some((u64_at(8), Mark { wal_end: u64_at(16), last }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn mark(n: u64) -> Mark {
        Mark { wal_end: n * 100, last: Some(EntryId { term: 2, index: n }) }
    }

    /// A damaged newest slot falls back on the one before: still a lower bound. Any single bit.
    #[test]
    fn a_flipped_bit_costs_at_most_one_step() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark");
        let mut file = MarkFile::create(&path).unwrap();
        assert_eq!(MarkFile::open(&path).unwrap().unwrap().1, Mark::default());
        for n in 1..=5 {
            file.write(mark(n)).unwrap();
            assert_eq!(MarkFile::open(&path).unwrap().unwrap().1, mark(n));
        }
        let whole = std::fs::read(&path).unwrap();
        let mut stepped_back = 0;
        let slots = [0, SLOT_STRIDE as usize].map(|at| at..at + SLOT_BYTES);
        for bit in slots.into_iter().flatten().flat_map(|byte| byte * 8..byte * 8 + 8) {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bytes).unwrap();
            let found = MarkFile::open(&path).unwrap().unwrap().1;
            assert!(found == mark(5) || found == mark(4), "bit {bit}: {found:?}");
            stepped_back += usize::from(found == mark(4));
        }
        assert_eq!(stepped_back, SLOT_BYTES * 8);
        std::fs::write(&path, vec![0; whole.len()]).unwrap();
        assert!(MarkFile::open(&path).unwrap().is_none());
    }

    /// The stored form is a promise to marks already written.
    #[test]
    fn golden_bytes() {
        let bytes = encode(3, mark(7));
        let golden =
            [&b"CtMk\x01\0\0\0\x03\0\0\0\0\0\0\0\xbc\x02\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0"[..]].concat();
        assert_eq!(bytes[..40], golden[..]);
        assert_eq!(bytes[40..], crc32fast::hash(&golden).to_le_bytes());
    }
}
