//! Operations in order, in runs: what can be done at once is, and what follows sees what went before.
//!
//! ```text
//!  [stat stat | create create | stat | delete rename | complete …]
//!   └ reads ┘ └ one entry of the log ┘   └ one for what is intended, one for what is done
//! ```
//! A run ends where the class of the operations changes, where one touches a name that the run already touches, or where
//! one needs a directory that the run makes.

use std::sync::Arc;

use citius_wire::{Batch, BatchReply, ClientId, Failure, MountId, NamespacePath, Operation, Outcome, Serial, Status};
use hashbrown::HashSet;

use super::abreast::abreast;
use super::locks::{Reach, Want};
use super::provisions::Provisions;
use super::{LOCK_PATIENCE, Service};
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
    /// The names that it must have for itself, or why there are no such names.
    wants: Result<Vec<Want>, Failure>,
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
            Operation::MountAdd { .. } | Operation::MountRemove { .. } | Operation::MountSet { .. } => Self::Mount,
            other if other.is_mutation() => Self::File,
            _ => Self::Read,
        }
    }
}

impl Service {
    /// Does a batch. Every operation has its own result.
    pub(crate) async fn batch(self: &Arc<Self>, client: ClientId, batch: Batch) -> Result<BatchReply, Failure> {
        // What is wrong with a master is asked of that master: it shows the cluster as it last was.
        if !batch.operations.iter().all(|operation| matches!(operation, Operation::Cluster)) {
            self.check_lease()?;
        }
        let first = batch.first.0;
        let count = batch.operations.len();
        let serials = first.checked_add(count as u64).map(|end| first..end);
        let serials = serials.ok_or_else(|| Failure::new(Status::InvalidArgument, "the serials of a batch run out"))?;
        let mut items = serials
            .zip(batch.operations)
            .map(|(serial, operation)| Item {
                caller: Caller { client, serial: Serial(serial) },
                wants: wants_of(&operation),
                operation,
            })
            .peekable();
        let mut results: Outcomes = Vec::with_capacity(count);
        while let Some(item) = items.next() {
            let class = Class::of(&item.operation);
            let mut names = Names::default();
            // An operation with a bad path runs too, alone, and is refused by name.
            let is_alone = class == Class::Mount || !names.take(&item);
            let mut run = vec![item];
            while !is_alone && run.len() < RUN_MAX {
                match items.next_if(|next| Class::of(&next.operation) == class && names.take(next)) {
                    Some(item) => run.push(item),
                    None => break,
                }
            }
            results.extend(self.run(class, run).await);
        }
        Ok(BatchReply { results })
    }

    async fn run(self: &Arc<Self>, class: Class, run: Vec<Item>) -> Outcomes {
        match class {
            Class::Read => abreast(run.len(), AT_ONCE_MAX, |i| self.read(&run[i].operation)).await,
            Class::Mount => {
                let mut results = Vec::new();
                for item in run {
                    results.push(self.change_mounts(item.caller, item.operation).await);
                }
                results
            }
            Class::Name | Class::File => self.change(run).await,
        }
    }

    /// Locks, prepares, logs, acts, logs again, answers.
    async fn change(self: &Arc<Self>, run: Vec<Item>) -> Outcomes {
        let wants: Vec<&Want> = run.iter().filter_map(|item| item.wants.as_ref().ok()).flatten().collect();
        let locked = match tokio::time::timeout(LOCK_PATIENCE, self.locks.lock(&wants)).await {
            Ok(locked) => locked,
            Err(_) => {
                let path = wants.first().map_or_else(NamespacePath::root, |want| want.path.clone());
                return run.iter().map(|_| Err(self.waited_too_long(&path))).collect();
            }
        };
        // Under the lock: an earlier try of the same operation has ended by now.
        let provisions = Provisions::for_run_of(run.len());
        let prepared = abreast(run.len(), AT_ONCE_MAX, |i| self.prepare_or_remember(&run[i], &provisions)).await;
        let mut commands = Vec::with_capacity(run.len());
        let logged: Vec<Result<Option<Published>, Result<Outcome, Failure>>> = (prepared.into_iter().zip(&run))
            .map(|(prepared, item)| {
                let Prepared { change, published } = prepared?;
                commands.push(Command { caller: Some(item.caller), change });
                Ok(published)
            })
            .collect();
        let mut replies = self.propose_all(&commands).await.into_iter().zip(&commands);

        let mut results = Vec::with_capacity(run.len());
        let mut intents: Vec<(usize, IntentId)> = Vec::new();
        for (i, logged) in logged.into_iter().enumerate() {
            results.push(match logged {
                Err(settled) => settled,
                Ok(published) => match replies.next().expect("each command has a reply") {
                    (Ok(Reply::Intent(id)), _) => {
                        intents.push((i, id));
                        Ok(Outcome::Done)
                    }
                    // A log that had it before answers as it did then, with the key of then.
                    (Ok(Reply::Created { file, epoch }), Command { change: Change::Create(create), .. })
                        if file == create.file =>
                    {
                        let wants = run[i].wants.as_ref().expect("what has no names is not logged");
                        self.outcome_of_create(&wants[0].path, create, epoch)
                    }
                    (Ok(reply), _) => {
                        if let Some(Published { mount, store_path, found }) = published {
                            self.changed(mount, &store_path, Some(found));
                        }
                        self.outcome(reply)
                    }
                    (Err(failure), _) => Err(failure),
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
    async fn prepare_or_remember(
        &self,
        item: &Item,
        provisions: &Provisions,
    ) -> Result<Prepared, Result<Outcome, Failure>> {
        let remembered = self.state(|state| match state.answer(item.caller) {
            Ok(Some(Ok(reply))) => Some(Ok(reply.clone())),
            Ok(Some(Err(failure))) => Some(Err(failure.clone())),
            Ok(None) => None,
            Err(failure) => Some(Err(failure)),
        });
        match remembered {
            None => self.prepare(item, provisions).await.map_err(Err),
            Some(Err(failure)) => Err(Err(failure)),
            // It is under way: resumed by a master that was started anew, or waiting for its store.
            Some(Ok(Reply::Intent(_))) => {
                let words = "the operation is still being carried out: ask again";
                Err(Err(Failure::new(Status::Unavailable, words)))
            }
            Some(Ok(reply)) => Err(self.outcome(reply)),
        }
    }

    async fn prepare(&self, item: &Item, provisions: &Provisions) -> Result<Prepared, Failure> {
        let wants = item.wants.as_ref().map_err(Failure::clone)?;
        match &item.operation {
            Operation::Create { path: _, overwrite, parents, write_type, block_bytes } => {
                let manner = super::writing::Manner {
                    overwrite: *overwrite,
                    parents: *parents,
                    write_type: *write_type,
                    block_bytes: *block_bytes,
                };
                self.prepare_create(&wants[0].path, manner, provisions).await
            }
            Operation::Mkdir { path: _, parents } => self.prepare_mkdir(&wants[0].path, *parents, provisions).await,
            Operation::Delete { path: _, recursive } => self.prepare_delete(&wants[0].path, *recursive).await,
            Operation::Rename { from, to, overwrite } => {
                let (from, to) = (NamespacePath::parse(from)?, NamespacePath::parse(to)?);
                self.prepare_rename(&from, &to, *overwrite, provisions).await
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
    /// Directories that it makes, or may make.
    made: HashSet<NamespacePath>,
}

impl Names {
    /// Takes an operation into the run, if it may have names, they meet nothing in it, and the directory that it looks
    /// for is not one that is yet to be made.
    fn take(&mut self, item: &Item) -> bool {
        let Ok(wants) = &item.wants else { return false };
        if !self.made.is_empty() && needed_by(&item.operation).is_some_and(|directory| self.made.contains(&directory)) {
            return false;
        }
        let is_taken = self.take_all(wants);
        if is_taken {
            let (mut next, with_parents) = made_by(&item.operation, wants);
            while let Some(directory) = next.filter(|directory| !directory.is_root()) {
                next = directory.parent().filter(|_| with_parents);
                self.made.insert(directory);
            }
        }
        is_taken
    }

    /// Takes all of these wants, or none.
    fn take_all(&mut self, wants: &[Want]) -> bool {
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

/// The directory that an operation makes, or may make, and whether those above it are made too.
fn made_by(operation: &Operation, wants: &[Want]) -> (Option<NamespacePath>, bool) {
    let path = wants.first().map(|want| &want.path);
    match operation {
        Operation::Mkdir { parents, .. } => (path.cloned(), *parents),
        Operation::Create { parents: true, .. } => (path.and_then(NamespacePath::parent), true),
        _ => (None, false),
    }
}

/// The directory that an operation wants to find, and does not make.
fn needed_by(operation: &Operation) -> Option<NamespacePath> {
    let path = match operation {
        Operation::Create { path, parents: false, .. } | Operation::Mkdir { path, parents: false } => path,
        Operation::Rename { to, .. } => to,
        _ => return None,
    };
    NamespacePath::parse(path).ok()?.parent()
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
        assert!(names.take_all(&mkdir("/a/b").unwrap()) && names.take_all(&mkdir("/a/c").unwrap()));
        assert!(!names.take_all(&mkdir("/a//b").unwrap()), "the same name, written otherwise");
        assert!(!names.take_all(&delete("/a").unwrap()), "a tree that holds a name of the run");
        assert!(names.take_all(&delete("/d").unwrap()) && !names.take_all(&mkdir("/d/e").unwrap()));
        let rename = Operation::Rename { from: "/x".into(), to: "/x/y".into(), overwrite: false };
        assert_eq!(wants_of(&rename).unwrap().len(), 1);
        assert!(mkdir("relative").is_err());
    }
}
