//! Group commit: what callers propose while an entry is being synced becomes the next entry.
//!
//! One task on the raft thread. With one caller an entry holds one command and nothing waits; with
//! many, entries grow by themselves, because only [`ENTRIES_IN_FLIGHT_MAX`] are under way at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::errors::{ClientWriteError, Fatal, RaftError};
use tokio::sync::{Notify, mpsc, oneshot};

use super::Result;
use super::applier::Applier;
use super::batch::{Batch, BatchBuilder, framed_bytes};
use super::config::{ENTRIES_IN_FLIGHT_MAX, ENTRY_BYTES_TARGET, PROPOSALS_PER_ENTRY_MAX};
use super::error::Error;
use super::latch::Latch;
use super::machine::Machine;
use super::types::Types;

/// What a caller wants in the log, and where its answer goes.
pub(crate) enum Proposal<R> {
    One { command: Bytes, reply: oneshot::Sender<Result<R>> },
    Many { commands: Vec<Bytes>, reply: oneshot::Sender<Result<Vec<R>>> },
}

/// The task.
pub(crate) struct Proposer<M: Machine> {
    pub(crate) raft: openraft::Raft<Types, Applier<M>>,
    pub(crate) queue: mpsc::Receiver<Proposal<M::Reply>>,
    pub(crate) stop: Arc<Notify>,
    pub(crate) faults: Faults,
}

/// Turns openraft's errors into ours.
#[derive(Clone)]
pub(crate) struct Faults {
    pub(crate) dir: Arc<std::path::Path>,
    pub(crate) latch: Arc<Latch>,
}

/// Why an entry was not committed, to be told to everyone in it.
#[derive(Clone)]
enum Refusal {
    NotLeader(Option<String>),
    Uncertain,
    Stopped,
}

impl<R> Proposal<R> {
    fn framed_bytes(&self) -> usize {
        match self {
            Proposal::One { command, .. } => framed_bytes(std::iter::once(command.len())),
            Proposal::Many { commands, .. } => framed_bytes(commands.iter().map(Bytes::len)),
        }
    }

    fn push_into(&self, batch: &mut BatchBuilder) {
        match self {
            Proposal::One { command, .. } => batch.push(command),
            Proposal::Many { commands, .. } => commands.iter().for_each(|command| batch.push(command)),
        }
    }

    // A caller that is gone no longer wants its answer: failing to send is not an error.
    fn answer(self, replies: &mut impl Iterator<Item = R>) {
        match self {
            Proposal::One { reply, .. } => {
                let mine = replies.next().expect("the machine answers every command");
                drop(reply.send(Ok(mine)));
            }
            Proposal::Many { commands, reply } => {
                let mine: Vec<R> = replies.take(commands.len()).collect();
                assert_eq!(mine.len(), commands.len(), "the machine answers every command");
                drop(reply.send(Ok(mine)));
            }
        }
    }

    fn refuse(self, error: Error) {
        match self {
            Proposal::One { reply, .. } => drop(reply.send(Err(error))),
            Proposal::Many { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}

impl<M: Machine> Proposer<M> {
    /// Runs until every handle is gone or one asks for the end; what was queued by then is still
    /// carried out.
    pub(crate) async fn run(mut self) {
        let mut in_flight = FuturesUnordered::new();
        let mut gathered = Vec::with_capacity(PROPOSALS_PER_ENTRY_MAX);
        let mut waiting = VecDeque::new();
        let mut open = true;
        while open || !waiting.is_empty() || !in_flight.is_empty() {
            while in_flight.len() < ENTRIES_IN_FLIGHT_MAX && !waiting.is_empty() {
                in_flight.push(self.propose(entry_from(&mut waiting)));
            }
            let has_room = open && in_flight.len() < ENTRIES_IN_FLIGHT_MAX;
            tokio::select! {
                biased;
                Some(()) = in_flight.next(), if !in_flight.is_empty() => {}
                received = self.queue.recv_many(&mut gathered, PROPOSALS_PER_ENTRY_MAX), if has_room => {
                    open = received > 0;
                    waiting.extend(gathered.drain(..));
                }
                () = self.stop.notified(), if open => self.queue.close(),
            }
        }
    }

    /// Puts proposals into the log as one entry and answers them.
    fn propose(&self, (batch, proposals): (Batch, Vec<Proposal<M::Reply>>)) -> impl Future<Output = ()> + use<M> {
        let (raft, faults) = (self.raft.clone(), self.faults.clone());
        async move {
            match raft.client_write(batch).await {
                Ok(committed) => {
                    let mut replies = committed.data.take::<M::Reply>().into_iter();
                    for proposal in proposals {
                        proposal.answer(&mut replies);
                    }
                    assert!(replies.next().is_none(), "the machine answers every command once");
                }
                Err(error) => {
                    let refusal = Refusal::from(error);
                    for proposal in proposals {
                        proposal.refuse(faults.explain(refusal.clone()));
                    }
                }
            }
        }
    }
}

/// Takes as many proposals off the front as an entry should hold, at least one.
fn entry_from<R>(waiting: &mut VecDeque<Proposal<R>>) -> (Batch, Vec<Proposal<R>>) {
    let mut bytes = 0;
    let count = waiting
        .iter()
        .take(PROPOSALS_PER_ENTRY_MAX)
        .take_while(|next| {
            let first = bytes == 0;
            bytes += next.framed_bytes();
            first || bytes <= ENTRY_BYTES_TARGET
        })
        .count();
    let proposals: Vec<_> = waiting.drain(..count).collect();
    let mut batch = BatchBuilder::new(bytes);
    for proposal in &proposals {
        proposal.push_into(&mut batch);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (batch.finish(now.as_millis() as u64), proposals)
}

impl Faults {
    /// What to tell a caller when the log is not there any more.
    pub(crate) fn stopped(&self) -> Error {
        match self.latch.why() {
            Some(why) => Error::Failed { path: self.dir.to_path_buf(), why: why.to_string() },
            None => Error::Closed,
        }
    }

    /// What to tell when openraft stopped by itself.
    pub(crate) fn fatal(&self, fatal: &Fatal<Types>) -> Error {
        match (self.stopped(), fatal) {
            (Error::Closed, Fatal::Stopped) => Error::Closed,
            (Error::Closed, fatal) => Error::Failed { path: self.dir.to_path_buf(), why: fatal.to_string() },
            (failed, _) => failed,
        }
    }

    fn explain(&self, refusal: Refusal) -> Error {
        match refusal {
            Refusal::NotLeader(leader) => Error::NotLeader { leader },
            Refusal::Uncertain => Error::Uncertain,
            Refusal::Stopped => self.stopped(),
        }
    }
}

impl From<RaftError<Types, ClientWriteError<Types>>> for Refusal {
    fn from(error: RaftError<Types, ClientWriteError<Types>>) -> Refusal {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
                Refusal::NotLeader(to.leader_node.map(|node| node.addr))
            }
            // The other two are answers to changes of membership and to conditions: never asked.
            RaftError::APIError(_) => Refusal::Uncertain,
            RaftError::Fatal(_) => Refusal::Stopped,
        }
    }
}
