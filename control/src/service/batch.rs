//! Operations in order, in runs: what can be done at once is, and what follows sees what went before.
//!
//! ```text
//!  [stat stat | create create | stat | delete rename | complete …]
//!   └ reads ┘ └ one entry of the log ┘   └ one for what is intended, one for what is done
//! ```
//! A run ends where the class of the operations changes, or where one touches a name that the run already touches.

use std::sync::Arc;

use citius_wire::{Batch, BatchReply, ClientId, Failure, MountId, NamespacePath, Operation, Outcome, Serial, Status};
use futures::StreamExt;
use futures::stream;
use hashbrown::HashSet;

use super::locks::{Reach, Want};
use super::{LOCK_PATIENCE, Service, waited_too_long};
use crate::state::{Caller, Change, Command, IntentId, Reply};
use crate::sync::Found;

/// Operations of one run.
const RUN_MAX: usize = 1024;
/// Operations of one run that wait for an under-store at once.
const AT_ONCE_MAX: usize = 32;

/// What operations of one run have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// They change nothing.
    Read,
    /// They begin or change names, which are locked meanwhile.
    Name,
    /// They are about a file being written, by its key.
    File,
    /// They change mounts, one by one.
    Mount,
}

/// An operation with its place in the batch.
struct Item {
    caller: Caller,
    operation: Operation,
}

/// What is to be logged for an operation, and what is kept for its answer.
pub(super) struct Prepared {
    pub(super) change: Change,
    /// What the under-store has when the change is logged, if the change says that it does.
    pub(super) published: Option<Published>,
}

/// A file that is in its under-store now.
pub(super) struct Published {
    pub(super) mount: MountId,
    pub(super) store_path: String,
    pub(super) found: Found,
}

impl From<Change> for Prepared {
    fn from(change: Change) -> Self {
        Self { change, published: None }
    }
}

type Outcomes = Vec<Result<Outcome, Failure>>;

impl Class {
    fn of(operation: &Operation) -> Self {
        match operation {
            Operation::Create { .. }
            | Operation::Mkdir { .. }
            | Operation::Delete { .. }
            | Operation::Rename { .. } => Self::Name,
            Operation::MountAdd { .. } | Operation::MountRemove { .. } => Self::Mount,
            other if other.is_mutation() => Self::File,
            _ => Self::Read,
        }
    }
}

impl Service {
    /// Does a batch. Every operation has its own result.
    pub(crate) async fn batch(self: &Arc<Self>, client: ClientId, batch: Batch) -> Result<BatchReply, Failure> {
        self.check_lease()?;
        let first = batch.first.0;
        let count = batch.operations.len();
        let serials = first.checked_add(count as u64).map(|end| first..end);
        let serials = serials.ok_or_else(|| Failure::new(Status::InvalidArgument, "the serials of a batch run out"))?;
        let mut items = serials
            .zip(batch.operations)
            .map(|(serial, operation)| Item { caller: Caller { client, serial: Serial(serial) }, operation })
            .peekable();
        let mut results: Outcomes = Vec::with_capacity(count);
        while let Some(item) = items.next() {
            let class = Class::of(&item.operation);
            let mut run = vec![item];
            let mut names = Names::default();
            // A lone operation with a bad path runs too, and is refused by name.
            let mut wants = wants_of(&run[0].operation).unwrap_or_default();
            let is_alone = class == Class::Mount || !names.take(&wants);
            while !is_alone && run.len() < RUN_MAX {
                let more = items.next_if(|next| {
                    Class::of(&next.operation) == class
                        && wants_of(&next.operation).is_ok_and(|more| {
                            let fits = names.take(&more);
                            if fits {
                                wants.extend(more);
                            }
                            fits
                        })
                });
                match more {
                    Some(item) => run.push(item),
                    None => break,
                }
            }
            results.extend(self.run(class, run, wants).await);
        }
        Ok(BatchReply { results })
    }

    async fn run(self: &Arc<Self>, class: Class, run: Vec<Item>, wants: Vec<Want>) -> Outcomes {
        match class {
            Class::Read => {
                let reads: Vec<_> = run.iter().map(|item| self.read(&item.operation)).collect();
                stream::iter(reads).buffered(AT_ONCE_MAX).collect().await
            }
            Class::Mount => {
                let mut results = Vec::new();
                for item in run {
                    results.push(self.change_mounts(item.caller, item.operation).await);
                }
                results
            }
            Class::Name | Class::File => self.change(run, wants).await,
        }
    }

    /// Locks, prepares, logs, acts, logs again, answers.
    async fn change(self: &Arc<Self>, run: Vec<Item>, wants: Vec<Want>) -> Outcomes {
        let locked = match tokio::time::timeout(LOCK_PATIENCE, self.locks.lock(&wants)).await {
            Ok(locked) => locked,
            Err(_) => {
                let path = wants.first().map_or("/", |want| want.path.as_str());
                return run.iter().map(|_| Err(waited_too_long(path))).collect();
            }
        };
        // Under the lock: an earlier try of the same operation has ended by now.
        let prepared: Vec<_> = run.iter().map(|item| self.prepare_or_remember(item)).collect();
        let prepared: Vec<Result<Prepared, Result<Outcome, Failure>>> =
            stream::iter(prepared).buffered(AT_ONCE_MAX).collect().await;
        let commands = prepared
            .iter()
            .zip(&run)
            .filter_map(|(prepared, item)| prepared.as_ref().ok().map(|it| (it, item)))
            .map(|(prepared, item)| Command { caller: Some(item.caller), change: prepared.change.clone() })
            .collect();
        let mut replies = self.propose_all(commands).await.into_iter();

        let mut results = Vec::with_capacity(run.len());
        let mut intents: Vec<(usize, IntentId)> = Vec::new();
        for (i, prepared) in prepared.into_iter().enumerate() {
            results.push(match prepared {
                Err(settled) => settled,
                Ok(prepared) => match replies.next().expect("each command has a reply") {
                    Ok(Reply::Intent(id)) => {
                        intents.push((i, id));
                        Ok(Outcome::Done)
                    }
                    Ok(reply) => {
                        if let Some(Published { mount, store_path, found }) = prepared.published {
                            self.changed(mount, &store_path, Some(found));
                        }
                        self.outcome(reply)
                    }
                    Err(failure) => Err(failure),
                },
            });
        }
        let acted = self.act_on(intents.iter().map(|(_, id)| *id).collect(), locked).await;
        for ((i, _), result) in intents.into_iter().zip(acted) {
            results[i] = result.map(|()| Outcome::Done);
        }
        results
    }

    /// What is to be logged for an operation; or its result, if it has one without the log.
    async fn prepare_or_remember(&self, item: &Item) -> Result<Prepared, Result<Outcome, Failure>> {
        let remembered = self.state(|state| match state.answer(item.caller) {
            Ok(Some(Ok(reply))) => Some(Ok(reply.clone())),
            Ok(Some(Err(failure))) => Some(Err(failure.clone())),
            Ok(None) => None,
            Err(failure) => Some(Err(failure)),
        });
        match remembered {
            None => self.prepare(&item.operation).await.map_err(Err),
            Some(Err(failure)) => Err(Err(failure)),
            // It is under way: resumed by a master that was started anew, or waiting for its store.
            Some(Ok(Reply::Intent(_))) => {
                let words = "the operation is still being carried out: ask again";
                Err(Err(Failure::new(Status::Unavailable, words)))
            }
            Some(Ok(reply)) => Err(self.outcome(reply)),
        }
    }

    async fn prepare(&self, operation: &Operation) -> Result<Prepared, Failure> {
        match operation {
            Operation::Create { path, overwrite, parents, write_type, block_bytes } => {
                let path = NamespacePath::parse(path)?;
                let manner = super::writing::Manner {
                    overwrite: *overwrite,
                    parents: *parents,
                    write_type: *write_type,
                    block_bytes: *block_bytes,
                };
                self.prepare_create(&path, manner).await
            }
            Operation::Mkdir { path, parents } => self.prepare_mkdir(&NamespacePath::parse(path)?, *parents).await,
            Operation::Delete { path, recursive } => {
                self.prepare_delete(&NamespacePath::parse(path)?, *recursive).await
            }
            Operation::Rename { from, to, overwrite } => {
                self.prepare_rename(&NamespacePath::parse(from)?, &NamespacePath::parse(to)?, *overwrite).await
            }
            other => self.prepare_file(other),
        }
    }
}

/// Names that a run touches.
#[derive(Default)]
struct Names {
    names: HashSet<NamespacePath>,
    trees: Vec<Want>,
}

impl Names {
    /// Takes wants into the run, if they meet nothing in it; all of them or none.
    fn take(&mut self, wants: &[Want]) -> bool {
        let meets_itself = wants.iter().enumerate().any(|(i, want)| wants[..i].iter().any(|other| want.meets(other)));
        if meets_itself || wants.iter().any(|want| self.meets(want)) {
            return false;
        }
        for want in wants {
            self.names.insert(want.path.clone());
            if want.reach >= Reach::Tree {
                self.trees.push(want.clone());
            }
        }
        true
    }

    fn meets(&self, want: &Want) -> bool {
        self.names.contains(&want.path)
            || self.trees.iter().any(|tree| tree.meets(want))
            || want.reach >= Reach::Tree && self.names.iter().any(|name| name.is_under(&want.path))
    }
}

/// The names that an operation must have for itself.
fn wants_of(operation: &Operation) -> Result<Vec<Want>, Failure> {
    let want = |path: &str, reach| NamespacePath::parse(path).map(|path| Want { path, reach });
    Ok(match operation {
        Operation::Create { path, .. } | Operation::Mkdir { path, .. } => vec![want(path, Reach::Name)?],
        Operation::Delete { path, .. } => vec![want(path, Reach::Tree)?],
        Operation::Rename { from, to, .. } => {
            let (from, to) = (want(from, Reach::Rename)?, want(to, Reach::Rename)?);
            // One inside the other is refused later: the outer one is enough until then.
            match (to.path.is_under(&from.path), from.path.is_under(&to.path)) {
                (true, _) => vec![from],
                (_, true) => vec![to],
                _ => vec![from, to],
            }
        }
        _ => Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_ends_where_names_meet() {
        let delete = |path: &str| wants_of(&Operation::Delete { path: path.into(), recursive: true });
        let mkdir = |path: &str| wants_of(&Operation::Mkdir { path: path.into(), parents: false });
        let mut names = Names::default();
        assert!(names.take(&mkdir("/a/b").unwrap()) && names.take(&mkdir("/a/c").unwrap()));
        assert!(!names.take(&mkdir("/a//b").unwrap()), "the same name, written otherwise");
        assert!(!names.take(&delete("/a").unwrap()), "a tree that holds a name of the run");
        assert!(names.take(&delete("/d").unwrap()) && !names.take(&mkdir("/d/e").unwrap()));
        let rename = Operation::Rename { from: "/x".into(), to: "/x/y".into(), overwrite: false };
        assert_eq!(wants_of(&rename).unwrap().len(), 1);
        assert!(mkdir("relative").is_err());
    }
}
