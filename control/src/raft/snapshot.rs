//! Snapshots: the whole state as one file.
//!
//! ```text
//!  0               8          16
//!  | "CTSNAP" 0 1 | head_len | head | body (the machine's) | BLAKE3 of all before (32) |
//!
//!  head: has_last u8, last term u64, last index u64, time_ms u64,
//!        has_members_at u8, members' term u64, members' index u64, members (membership.rs)
//! ```
//! Little endian; the eighth byte is the version. A file is written aside, synced, renamed, and
//! its folder synced, before the one it replaces is removed; so there is a whole one at any moment
//! after the first. It is checked wholly before any of it is believed.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut};
use parking_lot::Mutex;

use super::error::Error;
use super::log::EntryId;
use super::machine::{Machine, SnapshotWriter};
use super::membership;
use super::private;
use super::types::{LogId, SnapshotMeta, StoredMembership};

const MAGIC: [u8; 8] = *b"CTSNAP\0\x01";
const HEAD_AT: u64 = 16;
const HEAD_BYTES_MAX: u64 = 1 << 20;
const DIGEST_BYTES: u64 = 32;
const BUFFER_BYTES: usize = 1 << 18;
const SUFFIX: &str = ".snapshot";
const TEMPORARY_SUFFIX: &str = ".tmp";

/// What a state stands for: the log up to an entry.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Head {
    pub(crate) last: Option<EntryId>,
    pub(crate) members: StoredMembership,
    pub(crate) time_ms: u64,
}

/// A snapshot's file, open; how snapshots travel through openraft.
#[derive(Debug)]
pub(crate) struct Image(File);

/// The folder with the current snapshot.
#[derive(Debug)]
pub(crate) struct SnapshotDir {
    dir: PathBuf,
    current: Mutex<Option<Current>>,
}

#[derive(Clone, Debug)]
struct Current {
    path: PathBuf,
    head: Head,
    bytes: u64,
}

impl Head {
    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last.map(LogId::from), last_membership: self.members.clone() }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_id(&mut bytes, self.last);
        bytes.put_u64_le(self.time_ms);
        put_id(&mut bytes, self.members.log_id().as_ref().map(EntryId::from));
        membership::encode(self.members.membership(), &mut bytes);
        bytes
    }

    fn decode(mut bytes: &[u8]) -> Option<Head> {
        let last = take_id(&mut bytes)?;
        let time_ms = bytes.try_get_u64_le().ok()?;
        let members_at = take_id(&mut bytes)?;
        let members = membership::decode(&mut bytes)?;
        let members = StoredMembership::new(members_at.map(LogId::from), members);
        bytes.is_empty().then_some(Head { last, members, time_ms })
    }
}

fn put_id(bytes: &mut Vec<u8>, id: Option<EntryId>) {
    let EntryId { term, index } = id.unwrap_or_default();
    bytes.put_u8(u8::from(id.is_some()));
    bytes.put_u64_le(term);
    bytes.put_u64_le(index);
}

fn take_id(bytes: &mut &[u8]) -> Option<Option<EntryId>> {
    let some = bytes.try_get_u8().ok()?;
    let id = EntryId { term: bytes.try_get_u64_le().ok()?, index: bytes.try_get_u64_le().ok()? };
    match some {
        0 => Some(None),
        1 => Some(Some(id)),
        _ => None,
    }
}

impl SnapshotDir {
    /// Opens the folder, removes what a crash left there, and restores `machine` from the current
    /// snapshot if there is one.
    pub(crate) fn open(dir: &Path, machine: &mut impl Machine) -> Result<(SnapshotDir, Head), Error> {
        private::create_dir(dir).map_err(Error::io("create the folder", dir))?;
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
            let path = entry.map_err(Error::io("list", dir))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.ends_with(TEMPORARY_SUFFIX) {
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            } else if name.ends_with(SUFFIX) {
                found.push(path);
            }
        }
        found.sort();
        let Some(path) = found.pop() else {
            return Ok((SnapshotDir { dir: dir.to_path_buf(), current: Mutex::new(None) }, Head::default()));
        };
        let mut file = File::open(&path).map_err(Error::io("open", &path))?;
        let head = restore(&mut file, machine).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Error::corrupt(&path, error.to_string()),
            _ => Error::io("read", &path)(error),
        })?;
        let bytes = file.metadata().map_err(Error::io("read", &path))?.len();
        // The log was purged only up to the newest; the others were about to be removed.
        for older in found {
            fs::remove_file(&older).map_err(Error::io("remove", &older))?;
        }
        let current = Current { path, head: head.clone(), bytes };
        Ok((SnapshotDir { dir: dir.to_path_buf(), current: Mutex::new(Some(current)) }, head))
    }

    /// Writes a new snapshot and makes it the current one. On an error the old one stays.
    pub(crate) fn write(&self, head: &Head, body: SnapshotWriter) -> io::Result<()> {
        self.replace(head.clone(), |file| {
            let mut out = Digesting { to: BufWriter::with_capacity(BUFFER_BYTES, file), digest: blake3::Hasher::new() };
            let encoded = head.encode();
            out.write_all(&MAGIC)?;
            out.write_all(&(encoded.len() as u64).to_le_bytes())?;
            out.write_all(&encoded)?;
            body(&mut out)?;
            let digest = out.digest.finalize();
            out.to.write_all(digest.as_bytes())?;
            out.to.flush()
        })
    }

    /// Takes over a snapshot from another member: `machine` becomes what it says, and it becomes
    /// the current one.
    pub(crate) fn adopt(&self, image: Image, machine: &mut impl Machine) -> io::Result<Head> {
        let mut from = image.0;
        // Restoring reads the source, so the head is known before the copy is named after it.
        let head = restore(&mut from, machine)?;
        from.seek(SeekFrom::Start(0))?;
        self.replace(head.clone(), |file| io::copy(&mut from, file).map(drop))?;
        Ok(head)
    }

    /// What the current snapshot stands for, and its file.
    pub(crate) fn current(&self) -> io::Result<Option<(Head, Image)>> {
        let current = self.current.lock().clone();
        current.map(|current| Ok((current.head, Image(File::open(&current.path)?)))).transpose()
    }

    /// The last entry in the current snapshot, and the size of its file.
    pub(crate) fn figures(&self) -> (Option<EntryId>, u64) {
        self.current.lock().as_ref().map_or((None, 0), |current| (current.head.last, current.bytes))
    }

    fn write_aside(
        &self,
        temporary: &Path,
        path: &Path,
        fill: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> io::Result<u64> {
        let mut file = private::create_file(temporary)?;
        fill(&mut file)?;
        file.sync_all()?;
        fs::rename(temporary, path)?;
        File::open(&self.dir)?.sync_all()?;
        Ok(file.metadata()?.len())
    }

    fn replace(&self, head: Head, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
        let EntryId { term, index } = head.last.unwrap_or_default();
        // Later states sort after earlier ones: entries are ordered by term, then index.
        let path = self.dir.join(format!("{term:020}-{index:020}{SUFFIX}"));
        let temporary = path.with_extension("tmp");
        let bytes = self.write_aside(&temporary, &path, fill).inspect_err(|_| drop(fs::remove_file(&temporary)))?;
        let old = self.current.lock().replace(Current { path: path.clone(), head, bytes });
        match old {
            Some(old) if old.path != path => fs::remove_file(old.path),
            _ => Ok(()),
        }
    }
}

/// Checks a snapshot wholly, then restores `machine` from it.
fn restore(file: &mut File, machine: &mut impl Machine) -> io::Result<Head> {
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
    let bytes = file.metadata()?.len();
    let body_end = bytes.checked_sub(DIGEST_BYTES).filter(|end| *end >= HEAD_AT);
    let body_end = body_end.ok_or_else(|| damaged("it is cut short"))?;

    file.seek(SeekFrom::Start(0))?;
    let mut digest = blake3::Hasher::new();
    digest.update_reader((&mut *file).take(body_end))?;
    let mut stored = [0; DIGEST_BYTES as usize];
    file.read_exact(&mut stored)?;
    if digest.finalize() != stored {
        return Err(damaged("its checksum is not that of its content"));
    }

    file.seek(SeekFrom::Start(0))?;
    let mut from = BufReader::with_capacity(BUFFER_BYTES, file).take(body_end);
    let mut prelude = [0; HEAD_AT as usize];
    from.read_exact(&mut prelude)?;
    let (magic, mut head_bytes) = prelude.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(damaged("it is not a snapshot of this version"));
    }
    let head_bytes = head_bytes.get_u64_le();
    if head_bytes > HEAD_BYTES_MAX.min(body_end - HEAD_AT) {
        return Err(damaged("its head is longer than it may be"));
    }
    let mut head = vec![0; head_bytes as usize];
    from.read_exact(&mut head)?;
    let head = Head::decode(&head).ok_or_else(|| damaged("its head makes no sense"))?;
    machine.restore(&mut from)?;
    if from.limit() != 0 {
        return Err(damaged("its state is followed by bytes that nothing reads"));
    }
    Ok(head)
}

struct Digesting<W> {
    to: W,
    digest: blake3::Hasher,
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::machine::Position;
    use super::*;

    /// A state of bytes.
    #[derive(Default)]
    struct Bytes(Vec<u8>);

    impl Machine for Bytes {
        type Reply = ();

        fn apply(&mut self, _at: Position, _command: &[u8]) {}

        fn snapshot(&self) -> SnapshotWriter {
            let bytes = self.0.clone();
            Box::new(move |out: &mut dyn Write| out.write_all(&bytes))
        }

        fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
            // Reads four bytes, whatever there is: more is an error of the file.
            self.0 = vec![0; 4];
            from.read_exact(&mut self.0)
        }
    }

    fn head() -> Head {
        let members = openraft::Membership::new_with_defaults(vec![[1].into()], []);
        let at = EntryId { term: 1, index: 0 };
        Head {
            last: Some(EntryId { term: 2, index: 7 }),
            members: StoredMembership::new(Some(at.into()), members),
            time_ms: 0x55,
        }
    }

    /// The stored form is a promise to snapshots already written.
    #[test]
    fn golden_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let (snapshots, nothing) = SnapshotDir::open(dir.path(), &mut Bytes::default()).unwrap();
        assert_eq!(nothing, Head::default());
        snapshots.write(&head(), Bytes(b"body".to_vec()).snapshot()).unwrap();
        let name = "00000000000000000002-00000000000000000007.snapshot";
        let mut golden = b"CTSNAP\0\x01".to_vec();
        let mut encoded = Vec::new();
        for (some, term, index) in [(1, 2u64, 7u64), (1, 1, 0)] {
            encoded.push(some);
            encoded.extend(term.to_le_bytes());
            encoded.extend(index.to_le_bytes());
            if term == 2 {
                encoded.extend(0x55u64.to_le_bytes());
            }
        }
        let members = [&[1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0][..], &[1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0]];
        encoded.extend(members.concat());
        encoded.extend(b"localhost");
        golden.extend((encoded.len() as u64).to_le_bytes());
        golden.extend(&encoded);
        golden.extend(b"body");
        golden.extend(blake3::hash(&golden).as_bytes());
        assert_eq!(fs::read(dir.path().join(name)).unwrap(), golden);

        let mut machine = Bytes::default();
        let (_, again) = SnapshotDir::open(dir.path(), &mut machine).unwrap();
        assert_eq!((again, machine.0), (head(), b"body".to_vec()));
        for cut in 0..encoded.len() {
            assert_eq!(Head::decode(&encoded[..cut]), None, "cut at {cut}");
        }
    }

    /// Bytes that the machine leaves unread mean that it is not its snapshot.
    #[test]
    fn a_state_must_be_read_wholly() {
        let dir = tempfile::tempdir().unwrap();
        let (snapshots, _) = SnapshotDir::open(dir.path(), &mut Bytes::default()).unwrap();
        snapshots.write(&head(), Bytes(b"longer".to_vec()).snapshot()).unwrap();
        let refused = SnapshotDir::open(dir.path(), &mut Bytes::default());
        assert!(matches!(refused, Err(Error::Corrupt { what, .. }) if what.contains("nothing reads")));
    }

    /// A failed write leaves the one before, and no temporary.
    #[test]
    fn a_failed_write_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (snapshots, _) = SnapshotDir::open(dir.path(), &mut Bytes::default()).unwrap();
        snapshots.write(&head(), Bytes(b"body".to_vec()).snapshot()).unwrap();
        let later = Head { last: Some(EntryId { term: 2, index: 9 }), ..head() };
        let full: SnapshotWriter = Box::new(|_| Err(io::ErrorKind::StorageFull.into()));
        assert_eq!(snapshots.write(&later, full).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(snapshots.current().unwrap().unwrap().0, head());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
