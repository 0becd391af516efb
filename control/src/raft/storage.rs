//! openraft's log storage over any [`LogStore`], and what a payload means.
//!
//! A payload is one kind byte and what follows: nothing (a new leader's first entry), a
//! [`Batch`], or a membership.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{EntryPayload, LogState, OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::batch::{Batch, KIND_BATCH, KIND_BLANK, KIND_MEMBERSHIP};
use super::log::{Done, EntryId, LogStore, Record};
use super::membership;
use super::types::{Entry, LogId, Types, Vote};

/// Entries held in memory at once while a long stretch of the log is applied.
const ENTRIES_PER_READ: u64 = 64;

/// A log store shared by openraft's tasks and the metrics.
pub(crate) struct LogStorage<L>(Arc<Mutex<L>>);

impl<L> LogStorage<L> {
    pub(crate) fn new(log: Arc<Mutex<L>>) -> Self {
        LogStorage(log)
    }
}

impl<L> Clone for LogStorage<L> {
    fn clone(&self) -> Self {
        LogStorage(self.0.clone())
    }
}

impl<L: LogStore> LogStorage<L> {
    /// Writes, and waits until it is durable.
    async fn durably(&self, write: impl FnOnce(&mut L, Done) -> io::Result<()>) -> io::Result<()> {
        let (tell, told) = oneshot::channel();
        // The receiver is gone only if the caller is: nobody is left to tell.
        write(&mut self.0.lock(), Box::new(move |result| drop(tell.send(result))))?;
        told.await.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the log is closed"))?
    }
}

impl<L: LogStore> RaftLogReader<Types> for LogStorage<L> {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<Entry>>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let records = self.0.lock().read(half_open(&range))?;
        records.iter().map(entry_of).collect()
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.0.lock().ballot().map(Vote::from))
    }

    /// A restart applies the whole log in one go: it is read and applied piece by piece.
    async fn entries_stream<R>(&mut self, range: R) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (log, Range { start, end }) = (self.0.clone(), half_open(&range));
        let pieces = futures::stream::try_unfold(start, move |from| {
            let log = log.clone();
            async move {
                if from > start {
                    tokio::task::yield_now().await;
                }
                let upto = end.min(from.saturating_add(ENTRIES_PER_READ));
                let records = log.lock().read(from..upto)?;
                let next = records.last().map(|last| last.id.index + 1);
                let entries = records.into_iter().map(|record| entry_of(&record));
                Ok::<_, io::Error>(next.map(|next| (futures::stream::iter(entries), next)))
            }
        });
        Box::pin(pieces.try_flatten())
    }
}

impl<L: LogStore> RaftLogStorage<Types> for LogStorage<L> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let bounds = self.0.lock().bounds();
        Ok(LogState { last_purged_log_id: bounds.purged.map(LogId::from), last_log_id: bounds.last.map(LogId::from) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.durably(|log, done| log.save_ballot(vote.into(), done)).await
    }

    // `save_committed` is left out: it would cost a record for every entry. Nothing is read before
    // this term's first entry is applied (Raft::read_lease), which covers all that was committed.

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = entries.into_iter().map(|entry| record_of(&entry));
        self.0.lock().append(&mut records, Box::new(move |result| callback.io_completed(result)))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.durably(|log, done| log.truncate_after(last.as_ref().map(EntryId::from), done)).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.durably(|log, done| log.purge(EntryId::from(&upto), done)).await
    }
}

fn half_open(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

fn record_of(entry: &Entry) -> Record {
    let payload = match &entry.payload {
        EntryPayload::Blank => Bytes::from_static(&[KIND_BLANK]),
        EntryPayload::Normal(batch) => batch.payload().clone(),
        EntryPayload::Membership(members) => {
            let mut bytes = vec![KIND_MEMBERSHIP];
            membership::encode(members, &mut bytes);
            bytes.into()
        }
    };
    Record { id: EntryId::from(&entry.log_id), payload }
}

fn entry_of(record: &Record) -> io::Result<Entry> {
    let unknown = || {
        let what = format!("entry {} holds nothing this version understands", record.id);
        io::Error::new(io::ErrorKind::InvalidData, what)
    };
    let payload = match record.payload.first().copied() {
        Some(KIND_BLANK) if record.payload.len() == 1 => EntryPayload::Blank,
        Some(KIND_BATCH) => EntryPayload::Normal(Batch::from_payload(record.payload.clone()).map_err(|_| unknown())?),
        Some(KIND_MEMBERSHIP) => {
            let mut bytes = &record.payload[1..];
            let members = membership::decode(&mut bytes).ok_or_else(unknown)?;
            if !bytes.is_empty() {
                return Err(unknown());
            }
            EntryPayload::Membership(members)
        }
        _ => return Err(unknown()),
    };
    Ok(Entry { log_id: record.id.into(), payload })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    //! openraft's own suite for stores, over the log store and the applier.

    use std::io::{Read, Write};

    use openraft::StorageError;
    use openraft::testing::log::{StoreBuilder, Suite};
    use parking_lot::RwLock;
    use tempfile::TempDir;

    use super::super::applier::{Applied, Applier, Snapshots};
    use super::super::config::Config;
    use super::super::keeper::Pace;
    use super::super::latch::Latch;
    use super::super::machine::{Machine, Position, SnapshotWriter};
    use super::super::snapshot::SnapshotDir;
    use super::super::wal::WalLog;
    use super::*;

    /// Keeps every command.
    #[derive(Default)]
    struct Heap(Vec<u8>);

    impl Machine for Heap {
        type Reply = ();

        fn apply(&mut self, _at: Position, command: &[u8]) {
            self.0.extend(command);
        }

        fn snapshot(&self) -> SnapshotWriter {
            let bytes = self.0.clone();
            Box::new(move |out: &mut dyn Write| out.write_all(&bytes))
        }

        fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
            self.0.clear();
            from.read_to_end(&mut self.0).map(drop)
        }
    }

    struct Fresh;

    impl StoreBuilder<Types, LogStorage<WalLog>, Applier<Heap>, TempDir> for Fresh {
        async fn build(&self) -> Result<(TempDir, LogStorage<WalLog>, Applier<Heap>), StorageError<Types>> {
            let dir = tempfile::tempdir().unwrap();
            let latch = Arc::new(Latch::default());
            let log = WalLog::open(dir.path(), &Config::default(), latch.clone()).unwrap();
            let mut machine = Heap::default();
            let (snapshots, head) = SnapshotDir::open(&dir.path().join("snapshots"), &mut machine).unwrap();
            let applied = Arc::new(RwLock::new(Applied { machine, head }));
            let snapshots = Arc::new(Snapshots::new(applied, snapshots, Pace::new(u64::MAX)));
            Ok((dir, LogStorage::new(Arc::new(Mutex::new(log))), Applier::new(snapshots, latch)))
        }
    }

    #[tokio::test]
    async fn passes_the_suite_of_openraft() {
        Suite::test_all(Fresh).await.unwrap();
    }

    /// Every kind of entry comes back from its bytes; unknown ones are an error, not a panic.
    #[test]
    fn payloads_round_trip() {
        let id = EntryId { term: 3, index: 9 };
        let members = openraft::Membership::new_with_defaults(vec![[1, 2].into()], []);
        let mut batch = super::super::batch::BatchBuilder::new(0);
        batch.push(b"command");
        for payload in [EntryPayload::Blank, EntryPayload::Normal(batch.finish(5)), EntryPayload::Membership(members)] {
            let entry = Entry { log_id: id.into(), payload };
            let record = record_of(&entry);
            assert_eq!(entry_of(&record).unwrap(), entry);
            let payload = [&record.payload[..], b"x"].concat().into();
            let longer = entry_of(&Record { id, payload });
            assert!(
                longer.is_err()
                    || matches!(longer.unwrap().payload, EntryPayload::Normal(batch) if batch.commands().is_err())
            );
        }
        for unknown in [&b""[..], b"\x07", b"\x01\x00", b"\x02\xff\xff"] {
            let record = Record { id, payload: Bytes::copy_from_slice(unknown) };
            assert_eq!(entry_of(&record).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
