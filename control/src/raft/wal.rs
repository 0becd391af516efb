//! The log store on raft-log, with the guards it needs.
//!
//! - A payload is stored as `len, !len, bytes`: a flipped bit in a length is a damaged record, not
//!   a record that runs past the end of the file, which raft-log would drop as a torn tail.
//! - Before raft-log may touch the files (it truncates what it takes for torn), the readable end of
//!   the log is found here and compared with the high-water mark; see mark.rs.
//! - After opening, the last entry must not be below the mark's, and the first one held must be the
//!   one after the last purged.
//! - The first error latches the store; a callback that raft-log loses counts as an error.
//!
//! Every record has raft-log's own CRC32. Numbers in them are big endian.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::chunked_wal::{self, ChunkedWal};
use raft_log::codeq::{Decode, Encode};
use raft_log::{RaftLog, RaftLogAction, RaftLogRecord, RaftWalTypes, Segment, WALRecord};

use super::config::{Config, ENTRY_BYTES_MAX};
use super::error::Error;
use super::latch::Latch;
use super::log::{Ballot, Bounds, Done, EntryId, LogStats, LogStore, Record, index_after};
use super::mark::{Mark, MarkFile};
use super::private;

/// raft-log reads a chunk through a buffer of this size when it replays it.
const REPLAY_BUFFER_BYTES: usize = 1 << 20;
/// Entries kept in memory beyond those of the open file, whatever their size.
const CACHE_ENTRIES_MAX: usize = 100_000;
/// How much is written between two looks at the modes of the log's files.
const CLOSE_EVERY_BYTES: u64 = 1 << 20;
/// Memory of records on their way to disk; appends wait beyond it.
const FLUSH_QUEUE_BYTES_MAX: usize = 64 << 20;

/// raft-log's types, made concrete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wal;

impl raft_log::Types for Wal {
    type LogId = EntryId;
    type LogPayload = Payload;
    type Vote = Ballot;
    type Callback = Flush;
    type UserData = ();

    fn log_index(id: &EntryId) -> u64 {
        id.index
    }

    fn payload_size(payload: &Payload) -> u64 {
        payload.0.len() as u64
    }
}

/// An entry's payload with its guarded length. Clones share the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Payload(Bytes);

impl Encode for Payload {
    fn encode<W: io::Write>(&self, mut to: W) -> io::Result<usize> {
        let len = self.0.len() as u32;
        to.write_all(&len.to_be_bytes())?;
        to.write_all(&(!len).to_be_bytes())?;
        to.write_all(&self.0)?;
        Ok(8 + self.0.len())
    }
}

impl Decode for Payload {
    fn decode<R: Read>(mut from: R) -> io::Result<Self> {
        let (len, complement) = (u32::decode(&mut from)?, u32::decode(&mut from)?);
        if complement != !len || len as usize > ENTRY_BYTES_MAX {
            let what = format!("a payload's length is given as {len} and as {}", !complement);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let mut bytes = vec![0; len as usize];
        from.read_exact(&mut bytes)?;
        Ok(Payload(bytes.into()))
    }
}

impl Encode for EntryId {
    fn encode<W: io::Write>(&self, mut to: W) -> io::Result<usize> {
        Ok(self.term.encode(&mut to)? + self.index.encode(&mut to)?)
    }
}

impl Decode for EntryId {
    fn decode<R: Read>(mut from: R) -> io::Result<Self> {
        Ok(EntryId { term: u64::decode(&mut from)?, index: u64::decode(&mut from)? })
    }
}

impl Encode for Ballot {
    fn encode<W: io::Write>(&self, mut to: W) -> io::Result<usize> {
        Ok(self.term.encode(&mut to)? + self.elected.encode(&mut to)? + self.member.encode(&mut to)?)
    }
}

impl Decode for Ballot {
    fn decode<R: Read>(mut from: R) -> io::Result<Self> {
        Ok(Ballot { term: u64::decode(&mut from)?, elected: bool::decode(&mut from)?, member: u64::decode(&mut from)? })
    }
}

/// What follows an fsync: the mark, then whoever waits.
pub(crate) struct Flush {
    mark: Arc<Mutex<MarkFile>>,
    latch: Arc<Latch>,
    reached: Mark,
    done: Option<Done>,
}

impl raft_log::Callback for Flush {
    fn send(mut self, synced: io::Result<()>) {
        let result = synced
            .map_err(|error| self.latch.trip("write and sync the log", error))
            .and_then(|()| self.latch.check())
            .and_then(|()| {
                let marked = self.mark.lock().write(self.reached);
                marked.map_err(|error| self.latch.trip("write the log's mark", error))
            });
        if let Some(done) = self.done.take() {
            done(result);
        }
    }
}

impl Drop for Flush {
    /// raft-log's flusher drops what is queued behind a failed write.
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            let lost = io::Error::new(io::ErrorKind::BrokenPipe, "the log's flusher stopped");
            done(Err(self.latch.trip("write the log", lost)));
        }
    }
}

/// The log on disk.
pub(crate) struct WalLog {
    log: RaftLog<Wal>,
    mark: Arc<Mutex<MarkFile>>,
    latch: Arc<Latch>,
    dir: PathBuf,
    /// Where the log ended when its files were last closed to others.
    closed_to_others: u64,
}

impl WalLog {
    /// Opens or creates the log under `dir`, checks it, and replays it.
    pub(crate) fn open(dir: &Path, config: &Config, latch: Arc<Latch>) -> Result<WalLog, Error> {
        let log_dir = dir.join("log");
        private::create_dir(&log_dir).map_err(Error::io("create the folder", &log_dir))?;
        let config = raft_log_config(&log_dir, config)?;
        // raft-log takes the lock itself when it opens; this one only keeps the checks below from
        // reading a log that another process is writing.
        let lock =
            ChunkedWal::<RaftWalTypes<Wal>>::acquire_lock(&config.wal).map_err(|error| open_error(&log_dir, error))?;
        let chunks = chunks_of(&log_dir).map_err(Error::io("list", &log_dir))?;
        let (mark_file, mark) = open_mark(dir, &chunks)?;
        let tail = Tail::find(&chunks, mark.wal_end).map_err(Error::io("read", &log_dir))?;
        if tail.end < mark.wal_end {
            let what =
                format!("it was acknowledged up to byte {}, but is readable only up to {}", mark.wal_end, tail.end);
            return Err(Error::corrupt(&log_dir, what));
        }
        drop(lock);
        let log = RaftLog::open(Arc::new(config)).map_err(|error| open_error(&log_dir, error))?;
        let log_end = log.stat().open_chunk.global_end;
        let wal = WalLog {
            log,
            mark: Arc::new(Mutex::new(mark_file)),
            latch,
            closed_to_others: log_end,
            dir: log_dir.clone(),
        };
        private::close_files(&log_dir).map_err(Error::io("close to others", &log_dir))?;
        wal.check(mark, tail).map_err(|what| Error::corrupt(&log_dir, what))?;
        Ok(wal)
    }

    /// Compares what raft-log replayed with what must be there.
    fn check(&self, mark: Mark, tail: Tail) -> Result<(), String> {
        let bounds = self.bounds();
        let end = self.log.stat().open_chunk.global_end;
        if end < mark.wal_end {
            return Err(format!("it ends at byte {end} and was acknowledged up to {}", mark.wal_end));
        }
        // Beyond the mark a follower may have dropped entries; within it nothing goes back.
        if !tail.truncates && index_after(bounds.last) < index_after(mark.last) {
            return Err(format!("its last entry is {:?}, but {:?} was acknowledged", bounds.last, mark.last));
        }
        let first = self.log.read(0, u64::MAX).next().transpose().map_err(|e| e.to_string())?;
        match first {
            Some((id, _)) if id.index != index_after(bounds.purged) => {
                Err(format!("its first entry is {id}, but it was purged up to {:?}", bounds.purged))
            }
            None if bounds.last != bounds.purged => {
                Err(format!("it has no entries, but should have those up to {:?}", bounds.last))
            }
            _ => Ok(()),
        }
    }

    /// Hands what is pending, up to `written`, to the flusher, to be synced.
    fn flush(&mut self, written: Segment, done: Done) -> io::Result<()> {
        let wal_end = written.offset + written.size;
        if wal_end - self.closed_to_others >= CLOSE_EVERY_BYTES {
            // raft-log begins a file now and then, and has no say in its mode; the folder keeps others out meanwhile.
            if let Err(error) = private::close_files(&self.dir) {
                tracing::warn!(%error, "the log's files could not be closed to others");
            }
            self.closed_to_others = wal_end;
        }
        let reached = Mark { wal_end, last: self.log.log_state().last().copied() };
        let flush = Flush { mark: self.mark.clone(), latch: self.latch.clone(), reached, done: Some(done) };
        self.log.flush(true, Some(flush)).map_err(|error| self.latch.trip("write the log", error))
    }
}

impl LogStore for WalLog {
    fn bounds(&self) -> Bounds {
        let state = self.log.log_state();
        Bounds { purged: state.purged().copied(), last: state.last().copied() }
    }

    fn ballot(&self) -> Option<Ballot> {
        self.log.log_state().vote().copied()
    }

    fn read(&self, range: Range<u64>) -> io::Result<Vec<Record>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        self.log
            .read(range.start, range.end)
            .map(|found| found.map(|(id, Payload(payload))| Record { id, payload }))
            .collect()
    }

    fn save_ballot(&mut self, ballot: Ballot, done: Done) -> io::Result<()> {
        self.latch.check()?;
        let saved = self.log.save_vote(ballot);
        let written = saved.map_err(|error| self.latch.trip("save the vote", error))?;
        self.flush(written, done)
    }

    fn append(&mut self, records: &mut dyn Iterator<Item = Record>, done: Done) -> io::Result<()> {
        self.latch.check()?;
        let entries = records.map(|record| (record.id, Payload(record.payload)));
        let appended = self.log.append(entries);
        let written = appended.map_err(|error| self.latch.trip("append to the log", error))?;
        self.flush(written, done)
    }

    fn truncate_after(&mut self, keep: Option<EntryId>, done: Done) -> io::Result<()> {
        self.latch.check()?;
        // raft-log wants the entry it keeps to be there; beyond the last there is nothing to drop.
        let truncated = match index_after(keep) {
            from if from < index_after(self.bounds().last) => self.log.truncate(from),
            _ => self.log.append([]),
        };
        let written = truncated.map_err(|error| self.latch.trip("truncate the log", error))?;
        self.flush(written, done)
    }

    fn purge(&mut self, upto: EntryId, done: Done) -> io::Result<()> {
        self.latch.check()?;
        let purged = self.log.purge(upto);
        let written = purged.map_err(|error| self.latch.trip("purge the log", error))?;
        self.flush(written, done)
    }

    fn stats(&self) -> LogStats {
        LogStats { bytes_on_disk: self.log.on_disk_size(), syncs: self.log.stat().flush_metrics.sync_batch_count }
    }
}

/// Where the readable log ends.
#[derive(Clone, Copy, Debug)]
struct Tail {
    /// Bytes since the log's birth.
    end: u64,
    /// Whether entries are dropped by a record beyond the mark.
    truncates: bool,
}

impl Tail {
    /// Reads the last file that has a readable first record (a later one is a rotation cut short),
    /// up to its first unreadable record. Earlier files are raft-log's to check: they never count
    /// as torn.
    fn find(chunks: &[(u64, PathBuf)], mark_end: u64) -> io::Result<Tail> {
        for (start, path) in chunks.iter().rev() {
            let mut tail = Tail { end: *start, truncates: false };
            let mut file = Counted { from: BufReader::with_capacity(1 << 16, File::open(path)?), bytes: 0 };
            while !file.from.fill_buf()?.is_empty() {
                let Ok(record) = RaftLogRecord::<Wal>::decode(&mut file) else { break };
                let beyond_mark = tail.end >= mark_end;
                let truncate = matches!(record, WALRecord::Action(RaftLogAction::TruncateAfter(_)));
                tail.truncates |= beyond_mark && truncate;
                tail.end = start + file.bytes;
            }
            if tail.end > *start {
                return Ok(tail);
            }
        }
        Ok(Tail { end: chunks.first().map_or(0, |(start, _)| *start), truncates: false })
    }
}

struct Counted<R> {
    from: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(into)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

fn raft_log_config(log_dir: &Path, config: &Config) -> Result<raft_log::Config, Error> {
    let not_utf8 = || io::Error::new(io::ErrorKind::InvalidInput, "the path is not UTF-8");
    let dir = log_dir.to_str().ok_or_else(not_utf8).map_err(Error::io("use the folder", log_dir))?;
    Ok(raft_log::Config {
        wal: chunked_wal::Config {
            read_buffer_size: Some(REPLAY_BUFFER_BYTES),
            chunk_max_size: Some(config.chunk_bytes),
            flush_batch_wait: Some(config.flush_wait),
            flush_queue_max_bytes: Some(FLUSH_QUEUE_BYTES_MAX),
            ..chunked_wal::Config::new(dir)
        },
        log_cache_max_items: Some(CACHE_ENTRIES_MAX),
        log_cache_capacity: Some(config.cache_bytes),
    })
}

/// The log's files by where they start, in order.
fn chunks_of(log_dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut chunks = Vec::new();
    for entry in fs::read_dir(log_dir)? {
        let entry = entry?;
        if let Ok(start) = chunked_wal::Config::parse_chunk_file_name(&entry.file_name().to_string_lossy()) {
            chunks.push((start, entry.path()));
        }
    }
    chunks.sort();
    Ok(chunks)
}

/// Opens the mark, or creates it where no log was ever written.
fn open_mark(dir: &Path, chunks: &[(u64, PathBuf)]) -> Result<(MarkFile, Mark), Error> {
    let path = dir.join("mark");
    match MarkFile::open(&path) {
        Ok(Some(found)) => Ok(found),
        // A mark cut short by a crash in the first start has no log beside it yet.
        Ok(None) if !chunks.is_empty() => Err(Error::corrupt(&path, "neither of its two copies is whole")),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !chunks.is_empty() => {
            Err(Error::corrupt(&path, "it is missing, and a log is there"))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("open", &path)(error)),
        Ok(None) | Err(_) => {
            let mark = MarkFile::create(&path).map_err(Error::io("create", &path))?;
            // Its name, and the log folder's, are durable before the log has anything to lose.
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io("sync the folder", dir))?;
            Ok((mark, Mark::default()))
        }
    }
}

/// raft-log reports damage as one of several kinds; the rest is the system's.
fn open_error(log_dir: &Path, error: io::Error) -> Error {
    use io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof, WouldBlock};
    match error.kind() {
        WouldBlock => Error::InUse { path: log_dir.to_path_buf() },
        InvalidData | InvalidInput | Other | UnexpectedEof => Error::corrupt(log_dir, error.to_string()),
        _ => Error::io("open the log", log_dir)(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::mpsc;

    use super::*;

    fn open(dir: &Path) -> Result<WalLog, Error> {
        WalLog::open(dir, &Config::default(), Arc::new(Latch::default()))
    }

    fn record(index: u64) -> Record {
        Record { id: EntryId { term: 2, index }, payload: vec![index as u8; 1 + index as usize * 3].into() }
    }

    /// Runs one write and waits for its fsync.
    fn durably(log: &mut WalLog, write: impl FnOnce(&mut WalLog, Done) -> io::Result<()>) {
        let (tell, told) = mpsc::channel();
        write(log, Box::new(move |result| tell.send(result).unwrap())).unwrap();
        told.recv().unwrap().unwrap();
    }

    fn append(log: &mut WalLog, indices: Range<u64>) {
        durably(log, |log, done| log.append(&mut indices.map(record), done));
    }

    const BALLOT: Ballot = Ballot { term: 2, elected: true, member: 1 };

    /// The log's files had mode 0644: who copied a home gave the secrets of its mounts to all.
    #[test]
    fn no_file_of_the_log_is_open_to_others() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let config = Config { chunk_bytes: 64 << 10, ..Config::default() };
        let mut log = WalLog::open(dir.path(), &config, Arc::new(Latch::default())).unwrap();
        let big = |index| Record { id: EntryId { term: 2, index }, payload: vec![7; 40 << 10].into() };
        let modes = || {
            let files = fs::read_dir(dir.path().join("log")).unwrap().map(|entry| entry.unwrap());
            let closed = |file: &fs::DirEntry| file.metadata().unwrap().permissions().mode() & 0o077 == 0;
            let (closed, open): (Vec<_>, Vec<_>) = files.partition(closed);
            (closed.len(), open.len())
        };
        assert_eq!(modes().1, 0);
        for index in 0..40 {
            durably(&mut log, |log, done| log.append(&mut std::iter::once(big(index)), done));
        }
        let (closed, open) = modes();
        assert!(closed > 10 && open < 20, "{closed} closed, {open} open: only the newest MiB may be");
        drop(log);
        drop(WalLog::open(dir.path(), &config, Arc::new(Latch::default())).unwrap());
        assert_eq!(modes().1, 0);
    }

    /// A log with a vote, ten entries, and a purge of the first three, all acknowledged.
    fn acknowledged(dir: &Path) -> Vec<Record> {
        let mut log = open(dir).unwrap();
        durably(&mut log, |log, done| log.save_ballot(BALLOT, done));
        append(&mut log, 0..1);
        append(&mut log, 1..7);
        durably(&mut log, |log, done| log.purge(record(2).id, done));
        append(&mut log, 7..10);
        log.read(0..u64::MAX).unwrap()
    }

    fn only_chunk(dir: &Path) -> PathBuf {
        let [(0, path)] = &chunks_of(&dir.join("log")).unwrap()[..] else { panic!("one file from 0") };
        path.clone()
    }

    /// What opening a log gave: everything acknowledged, or a refusal that left the file alone.
    fn holds_or_refuses(dir: &Path, bytes: &[u8], acknowledged: &[Record]) -> bool {
        let chunk = only_chunk(dir);
        fs::write(&chunk, bytes).unwrap();
        match open(dir) {
            Ok(log) => {
                assert_eq!(log.read(0..u64::MAX).unwrap(), acknowledged);
                assert_eq!(log.ballot(), Some(BALLOT));
                true
            }
            Err(Error::Corrupt { .. }) => {
                assert!(fs::read(&chunk).unwrap() == bytes, "a refusal changes nothing");
                false
            }
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn reopens_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let records = acknowledged(dir.path());
        assert_eq!(records, (3..10).map(record).collect::<Vec<_>>());
        for _ in 0..3 {
            let log = open(dir.path()).unwrap();
            assert_eq!(log.read(0..u64::MAX).unwrap(), records);
            assert_eq!(log.read(5..7).unwrap(), records[2..4]);
            assert_eq!(log.bounds(), Bounds { purged: Some(record(2).id), last: Some(record(9).id) });
            assert_eq!(log.ballot(), Some(BALLOT));
        }
    }

    /// Every single bit of an acknowledged log, flipped, is noticed before anything is dropped.
    ///
    /// Without the guarded length a flip that makes a record seem longer than the file drops that
    /// record and all after it, unless the mark notices.
    #[test]
    fn a_flipped_bit_never_drops_what_was_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let records = acknowledged(dir.path());
        let whole = fs::read(only_chunk(dir.path())).unwrap();
        let mark = fs::read(dir.path().join("mark")).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!holds_or_refuses(dir.path(), &bytes, &records), "bit {bit} went unnoticed");
            assert_eq!(fs::read(dir.path().join("mark")).unwrap(), mark);
        }
        assert!(holds_or_refuses(dir.path(), &whole, &records));
    }

    /// A tail that was never acknowledged may be cut anywhere; one that was may not.
    #[test]
    fn a_torn_tail_is_dropped_only_beyond_the_mark() {
        let dir = tempfile::tempdir().unwrap();
        let before = acknowledged(dir.path());
        let (chunk, mark) = (only_chunk(dir.path()), dir.path().join("mark"));
        let (acknowledged_bytes, acknowledged_mark) =
            (fs::metadata(&chunk).unwrap().len() as usize, fs::read(&mark).unwrap());
        append(&mut open(dir.path()).unwrap(), 10..11);
        let (whole, later_mark) = (fs::read(&chunk).unwrap(), fs::read(&mark).unwrap());
        assert!(whole.len() > acknowledged_bytes + 30);
        for cut in 0..whole.len() {
            fs::write(&mark, &later_mark).unwrap();
            assert!(!holds_or_refuses(dir.path(), &whole[..cut], &before), "cut at {cut}, acknowledged");
            fs::write(&mark, &acknowledged_mark).unwrap();
            let opened = holds_or_refuses(dir.path(), &whole[..cut], &before);
            assert_eq!(opened, cut >= acknowledged_bytes, "cut at {cut}, not acknowledged");
            // A torn tail makes raft-log go on in a new file.
            for (start, path) in chunks_of(&dir.path().join("log")).unwrap() {
                if start > 0 {
                    fs::remove_file(path).unwrap();
                }
            }
        }
        // Zeros where data should be are what a lost write-back leaves; the same rule holds.
        let mut zeroed = whole;
        zeroed[acknowledged_bytes..].fill(0);
        fs::write(&mark, &later_mark).unwrap();
        assert!(!holds_or_refuses(dir.path(), &zeroed, &before));
        fs::write(&mark, &acknowledged_mark).unwrap();
        assert!(holds_or_refuses(dir.path(), &zeroed, &before));
    }

    /// Truncation by a new leader lowers the end of the log, and the mark with it.
    #[test]
    fn truncated_entries_stay_away() {
        let dir = tempfile::tempdir().unwrap();
        acknowledged(dir.path());
        let mut log = open(dir.path()).unwrap();
        durably(&mut log, |log, done| log.truncate_after(Some(record(7).id), done));
        drop(log);
        let log = open(dir.path()).unwrap();
        assert_eq!(log.bounds().last, Some(record(7).id));
        assert_eq!(log.read(0..u64::MAX).unwrap().len(), 5);
    }

    /// Small files rotate; those wholly purged are removed; what is left opens.
    #[test]
    fn purged_files_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { chunk_bytes: 4 << 10, cache_bytes: 1, ..Config::default() };
        let latch = Arc::new(Latch::default());
        let mut log = WalLog::open(dir.path(), &config, latch.clone()).unwrap();
        for index in 0..200 {
            append(&mut log, index..index + 1);
        }
        let bytes_before = log.stats().bytes_on_disk;
        durably(&mut log, |log, done| log.purge(record(190).id, done));
        append(&mut log, 200..201);
        assert!(log.stats().bytes_on_disk < bytes_before / 4, "{:?}", log.stats());
        drop(log);
        assert!(chunks_of(&dir.path().join("log")).unwrap()[0].0 > 0);
        let log = WalLog::open(dir.path(), &config, latch).unwrap();
        assert_eq!(log.read(0..u64::MAX).unwrap(), (191..201).map(record).collect::<Vec<_>>());
    }

    /// The stored form is a promise to logs already written: one entry as raft-log writes it.
    #[test]
    fn golden_record() {
        let dir = tempfile::tempdir().unwrap();
        append(&mut open(dir.path()).unwrap(), 0..1);
        let bytes = fs::read(only_chunk(dir.path())).unwrap();
        let mut golden = vec![0, 0, 0, 1];
        golden.extend([0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend([0, 0, 0, 1, 0xff, 0xff, 0xff, 0xfe, 0]);
        golden.extend(u64::from(crc32fast::hash(&golden)).to_be_bytes());
        assert!(bytes.ends_with(&golden), "{bytes:?}");
    }
}
