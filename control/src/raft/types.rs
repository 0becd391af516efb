//! openraft's types, made concrete, and the crossings between them and ours.

use std::any::Any;
use std::fmt;

use openraft::impls::{BasicNode, leader_id_std};

use super::batch::Batch;
use super::log::{Ballot, EntryId};

openraft::declare_raft_types!(
    /// The one instantiation of openraft here: opaque commands in, replies of any machine out.
    pub(crate) Types:
        D = Batch,
        R = Replies,
        NodeId = u64,
        Node = BasicNode,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
);

pub(crate) type LogId = openraft::type_config::alias::LogIdOf<Types>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<Types>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<Types>;
pub(crate) type Membership = openraft::Membership<u64, BasicNode>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;

/// The replies of one entry's commands, in their order: a `Vec<M::Reply>` that only its machine's
/// proposer takes out again. Erasing the type here keeps openraft and the log store free of it.
pub(crate) struct Replies(Box<dyn Any + Send + Sync>);

impl Replies {
    pub(crate) fn new<R: Send + Sync + 'static>(replies: Vec<R>) -> Replies {
        Replies(Box::new(replies))
    }

    /// # Panics
    /// If the replies are of another machine: there is one machine to a log.
    pub(crate) fn take<R: 'static>(self) -> Vec<R> {
        *self.0.downcast().expect("replies belong to the machine of this log")
    }
}

impl fmt::Debug for Replies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Replies")
    }
}

impl From<EntryId> for LogId {
    fn from(id: EntryId) -> LogId {
        LogId { leader_id: id.term.into(), index: id.index }
    }
}

impl From<&LogId> for EntryId {
    fn from(id: &LogId) -> EntryId {
        EntryId { term: id.leader_id.term, index: id.index }
    }
}

impl From<Ballot> for Vote {
    fn from(ballot: Ballot) -> Vote {
        let leader_id = leader_id_std::LeaderId { term: ballot.term, voted_for: ballot.member };
        Vote { leader_id, committed: ballot.elected }
    }
}

impl From<&Vote> for Ballot {
    fn from(vote: &Vote) -> Ballot {
        Ballot { term: vote.leader_id.term, elected: vote.committed, member: vote.leader_id.voted_for }
    }
}
