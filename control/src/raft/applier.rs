//! openraft's state machine over any [`Machine`]: applies, answers, snapshots.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::type_config::alias::SnapshotOf;
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot};
use parking_lot::{Mutex, RwLock};

use super::batch::Batch;
use super::keeper::Pace;
use super::latch::Latch;
use super::log::EntryId;
use super::machine::{Machine, Position};
use super::snapshot::{Head, Image, SnapshotDir};
use super::types::{Entry, LogId, Replies, SnapshotMeta, StoredMembership, Types};

/// A machine and the place in the log that its state stands for; they change together.
pub(crate) struct Applied<M> {
    pub(crate) machine: M,
    pub(crate) head: Head,
}

/// The state and where its snapshots go; shared by the applier, the keeper and readers.
pub(crate) struct Snapshots<M> {
    pub(crate) applied: Arc<RwLock<Applied<M>>>,
    pub(crate) dir: SnapshotDir,
    pub(crate) pace: Pace,
    /// A snapshot that was taken and that openraft has not heard of.
    taken: Mutex<Option<Head>>,
}

/// Applies committed entries, in order, on the raft thread.
pub(crate) struct Applier<M> {
    snapshots: Arc<Snapshots<M>>,
    latch: Arc<Latch>,
}

impl<M: Machine> Snapshots<M> {
    pub(crate) fn new(applied: Arc<RwLock<Applied<M>>>, dir: SnapshotDir, pace: Pace) -> Self {
        Snapshots { applied, dir, pace, taken: Mutex::new(None) }
    }

    /// Writes a snapshot of the present state. Applying waits only while the machine is frozen.
    pub(crate) fn take(&self) -> io::Result<()> {
        let (head, body) = {
            let applied = self.applied.read();
            (applied.head.clone(), applied.machine.snapshot())
        };
        self.dir.write(&head, body)?;
        *self.taken.lock() = Some(head);
        Ok(())
    }

    fn current(&self) -> io::Result<Option<SnapshotOf<Types, Image>>> {
        let current = self.dir.current()?;
        Ok(current.map(|(head, snapshot)| Snapshot { meta: head.meta(), snapshot }))
    }
}

impl<M: Machine> Applied<M> {
    /// Applies one entry, and gives back the replies if it held commands.
    fn apply(&mut self, entry: &Entry) -> io::Result<Vec<M::Reply>> {
        let id = EntryId::from(&entry.log_id);
        let replies = match &entry.payload {
            EntryPayload::Blank => Vec::new(),
            EntryPayload::Normal(batch) => self.apply_batch(id, batch)?,
            EntryPayload::Membership(members) => {
                self.head.members = StoredMembership::new(Some(entry.log_id), members.clone());
                Vec::new()
            }
        };
        self.head.last = Some(id);
        Ok(replies)
    }

    fn apply_batch(&mut self, id: EntryId, batch: &Batch) -> io::Result<Vec<M::Reply>> {
        let Ok(commands) = batch.commands() else {
            let what = format!("entry {id} is not a batch of commands");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        };
        // A proposer's clock may go back, or a new leader's be behind; time in the log does not.
        self.head.time_ms = self.head.time_ms.max(batch.time_ms());
        let time_ms = self.head.time_ms;
        let machine = &mut self.machine;
        let replies = commands.enumerate().map(|(slot, command)| {
            let at = Position { index: id.index, slot: slot as u32, term: id.term, time_ms };
            machine.apply(at, command)
        });
        Ok(replies.collect())
    }
}

impl<M: Machine> Applier<M> {
    pub(crate) fn new(snapshots: Arc<Snapshots<M>>, latch: Arc<Latch>) -> Self {
        Applier { snapshots, latch }
    }

    fn apply_entry(&self, entry: &Entry) -> io::Result<Vec<M::Reply>> {
        let mut applied = self.snapshots.applied.write();
        // A machine that panics is left in the middle of a command: nothing may be read from it or
        // applied to it any more.
        let outcome = catch_unwind(AssertUnwindSafe(|| applied.apply(entry)))
            .unwrap_or_else(|_| Err(io::Error::other("the state machine panicked")));
        outcome.map_err(|error| self.latch.trip(&format!("apply entry {}", entry.log_id.index), error))
    }
}

impl<M: Machine> RaftStateMachine<Types> for Applier<M> {
    type SnapshotData = Image;
    type SnapshotBuilder = Builder<M>;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let applied = self.snapshots.applied.read();
        Ok((applied.head.last.map(LogId::from), applied.head.members.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let replies = self.apply_entry(&entry)?;
            if let Some(responder) = responder {
                responder.send(Replies::new(replies));
            }
            if let EntryPayload::Normal(batch) = &entry.payload {
                self.snapshots.pace.applied(batch.payload().len() as u64);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder<M> {
        Builder(self.snapshots.clone())
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, image: Image) -> io::Result<()> {
        let mut applied = self.snapshots.applied.write();
        applied.head = self.snapshots.dir.adopt(image, &mut applied.machine)?;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Types, Image>>> {
        self.snapshots.current()
    }
}

/// Hands openraft the snapshot that the keeper took; takes one if there is none.
pub(crate) struct Builder<M>(Arc<Snapshots<M>>);

impl<M: Machine> RaftSnapshotBuilder<Types> for Builder<M> {
    type SnapshotData = Image;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Types, Image>> {
        if self.0.taken.lock().take().is_none() {
            let snapshots = self.0.clone();
            tokio::task::spawn_blocking(move || snapshots.take()).await??;
            self.0.taken.lock().take();
        }
        self.0.current()?.ok_or_else(|| io::Error::other("a snapshot was taken and is not there"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::batch::BatchBuilder;
    use super::super::machine::SnapshotWriter;
    use super::*;

    /// Answers with the position.
    struct Where;

    impl Machine for Where {
        type Reply = Position;

        fn apply(&mut self, at: Position, _command: &[u8]) -> Position {
            at
        }

        fn snapshot(&self) -> SnapshotWriter {
            Box::new(|_| Ok(()))
        }

        fn restore(&mut self, _from: &mut dyn io::Read) -> io::Result<()> {
            Ok(())
        }
    }

    /// A proposer's clock that goes back does not take the log's time back, nor across a snapshot,
    /// whose head carries it.
    #[test]
    fn time_never_goes_back() {
        let mut applied = Applied { machine: Where, head: Head { time_ms: 100, ..Head::default() } };
        let mut apply = |index, time_ms| {
            let mut batch = BatchBuilder::new(0);
            batch.push(b"a");
            batch.push(b"b");
            let payload = EntryPayload::Normal(batch.finish(time_ms));
            applied.apply(&Entry { log_id: EntryId { term: 3, index }.into(), payload }).unwrap()
        };
        for (index, stamped, seen) in [(1, 90, 100), (2, 110, 110), (3, 20, 110)] {
            let at = |slot| Position { index, slot, term: 3, time_ms: seen };
            assert_eq!(apply(index, stamped), [at(0), at(1)]);
        }
    }
}
