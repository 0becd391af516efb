//! The publisher: it takes a written file block by block into its under-store, and makes it visible at the end.
//!
//! ```text
//!  client            shard of block 0        publisher (one task a file)        master          under-store
//!    Stage(0) ------------->  step  ------------> lend block 0, write  ---------------------------->  parts
//!    Stage(1) ------------->  step  ------------> ask its owner, write ---------------------------->  parts
//!    Publish  ------------->  step  ------------> seal  -------------------------------------------> durable
//!                                                 PublishIntent ----------> logged
//!                                                 publish  ---------------------------------------->  visible
//!                                                 PublishDone ------------> logged
//!    <--- acknowledged <---------------------------
//! ```
//!
//! Invariants. Nothing is visible under the path before the intent is logged; nothing is acknowledged before it is
//! logged done. What this process leaves behind when it dies is named in the log (an upload id) or follows from the
//! file's id (a temporary), so the master can settle it. Blocks are staged once, in order.

use crate::agent::Node;
use crate::agent::master::unexpected;
use crate::driver::{ShardMessage, keeps_blocks};
use crate::failure;
use citius_understore::{Condition, FileId, Settled, Staged, StagedBody, StagedRecord, StorePath, VersionToken};
use citius_wire::{Failure, FileKey, Operation, Outcome, Right, Status};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

/// Steps that wait for one file's task; a client keeps fewer outstanding.
const STEPS_MAX: usize = 256;
/// Files that are published at once.
const FILES_MAX: usize = 16 << 10;
/// When a writer has said nothing for so long, the master is asked whether its lease goes on.
const IDLE_MAX: Duration = Duration::from_secs(180);
/// Publications that are remembered.
const PUBLISHED_MAX: usize = 4096;
/// How long a step tries to reach the master before it fails.
const MASTER_PATIENCE: Duration = Duration::from_secs(60);
/// How long a writer waits for the fate of a publication whose answer was lost. After that it is told so, and it is found
/// out without it.
const FATE_PATIENCE: Duration = Duration::from_secs(30);
/// How long a publication whose fate is unknown is asked about. Past that the intent stays in the log until this
/// worker's life ends, and the master settles it then.
const SETTLE_PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// The pause before asking again; each further one doubles it, up to [`SETTLE_PAUSE_MAX`].
const SETTLE_PAUSE: Duration = Duration::from_millis(100);
const SETTLE_PAUSE_MAX: Duration = Duration::from_secs(10);

/// What the steps of a publication are called when they fail.
const WRITING: &str = "writing";
const PUBLISHING: &str = "publishing";
/// What is told of a file whose publication has failed, while what is left of it is removed.
const GIVEN_UP: &str = "the write has failed and is given up, begin it anew";

/// One thing to do for a file being written.
pub(crate) enum Step {
    /// A block is sealed; take it.
    Stage {
        /// Which.
        index: u32,
        /// Its bytes.
        length: u32,
        /// Whom to tell.
        done: oneshot::Sender<Result<(), Failure>>,
    },
    /// All are staged; make the file visible.
    Publish {
        /// Its length.
        length: u64,
        /// Whom to tell the key that the file has from now on.
        done: oneshot::Sender<Result<FileKey, Failure>>,
    },
}

impl Step {
    fn accept(self, key: FileKey) {
        match self {
            Self::Stage { done, .. } => drop(done.send(Ok(()))),
            Self::Publish { done, .. } => drop(done.send(Ok(key))),
        }
    }

    fn refuse(self, failure: Failure) {
        // Who asked may be gone; then nobody needs the answer.
        match self {
            Self::Stage { done, .. } => drop(done.send(Err(failure))),
            Self::Publish { done, .. } => drop(done.send(Err(failure))),
        }
    }
}

/// The files that this worker publishes.
#[derive(Default)]
pub(crate) struct Publisher {
    files: Mutex<HashMap<FileKey, mpsc::Sender<Step>>>,
    /// What lately published files are called now, for who asks again because the answer was lost.
    published: Mutex<HashMap<FileKey, FileKey>>,
}

impl Publisher {
    /// Hands a step to its file's task, which is started by the first one. Never blocks; callable from a shard.
    pub(crate) fn step(&self, node: &Arc<Node>, right: &Arc<Right>, step: Step) {
        let known = self.published.lock().unwrap_or_else(PoisonError::into_inner).get(&right.file).copied();
        if let Some(key) = known {
            return step.accept(key);
        }
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = match files.get(&right.file) {
            // A second task would stage anew what the first is removing.
            Some(sender) if sender.is_closed() => {
                drop(files);
                return step.refuse(Failure::new(Status::UnderStore, GIVEN_UP));
            }
            Some(sender) => sender.clone(),
            None if files.len() >= FILES_MAX => {
                drop(files);
                return step.refuse(Failure::new(
                    Status::Busy,
                    format!("{FILES_MAX} files are being published by this worker at once: try again"),
                ));
            }
            None => {
                let (sender, steps) = mpsc::channel(STEPS_MAX);
                files.insert(right.file, sender.clone());
                let (node, right) = (Arc::clone(node), Arc::clone(right));
                node.runtime.clone().spawn(async move {
                    let file = right.file;
                    run(&node, right, steps).await;
                    let mut files = node.publisher.files.lock().unwrap_or_else(PoisonError::into_inner);
                    if files.get(&file).is_some_and(mpsc::Sender::is_closed) {
                        files.remove(&file);
                    }
                });
                sender
            }
        };
        drop(files);
        if let Err(error) = sender.try_send(step) {
            error.into_inner().refuse(Failure::new(
                Status::Busy,
                format!("more than {STEPS_MAX} blocks of one file wait to be staged"),
            ));
        }
    }

    /// The master has given a file up: its task takes what it has been told already, and removes what it staged.
    pub(crate) fn forget(&self, file: FileKey) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).remove(&file);
    }
}

/// The life of one file's task: until it is published, fails, or is given up.
async fn run(node: &Arc<Node>, right: Arc<Right>, mut steps: mpsc::Receiver<Step>) {
    let mut publication = Publication {
        node,
        right,
        staged: None,
        next_index: 0,
        length: 0,
        is_torn: false,
        logged_upload: false,
        doubtful: None,
    };
    loop {
        let step = match timeout(IDLE_MAX, steps.recv()).await {
            Ok(Some(step)) => step,
            // Slow, but not gone: its next block finds those before it.
            Err(_) if publication.is_alive().await.is_ok() => continue,
            Ok(None) | Err(_) => {
                publication.abandon().await;
                return;
            }
        };
        let failure = match step {
            Step::Stage { index, length, done } => match publication.stage(index, length).await {
                Ok(()) => {
                    drop(done.send(Ok(())));
                    continue;
                }
                // The block could not be had just now; its writer asks again.
                Err(failure) if failure.status.is_retryable() && !publication.is_torn => {
                    drop(done.send(Err(failure)));
                    continue;
                }
                Err(failure) => {
                    let failure = last_word(failure);
                    drop(done.send(Err(failure.clone())));
                    failure
                }
            },
            Step::Publish { length, done } => {
                let result = publication.publish(length).await.map_err(last_word);
                steps.close();
                drop(done.send(result.clone()));
                match result {
                    Ok(_) => return,
                    Err(failure) => failure,
                }
            }
        };
        // A write of which a part may be missing stays failed: what follows is told the first reason, and at once, for a
        // store that is away may keep the rest waiting.
        steps.close();
        while let Some(step) = steps.recv().await {
            step.refuse(failure.clone());
        }
        return publication.abandon().await;
    }
}

struct Publication<'a> {
    node: &'a Arc<Node>,
    right: Arc<Right>,
    staged: Option<Box<dyn Staged>>,
    next_index: u32,
    length: u64,
    /// Whether a block may be staged in part.
    is_torn: bool,
    /// Whether the log knows the upload that would otherwise be orphaned by a crash.
    logged_upload: bool,
    /// A publication that failed, of which the log may have the intent and not know that it failed.
    doubtful: Option<StagedRecord>,
}

/// Why a file is not published.
enum Unpublished {
    /// It did not happen, and never will.
    Never(Failure),
    /// Nobody could be asked yet whether it happened.
    Unknown(Failure),
}

impl Publication<'_> {
    async fn stage(&mut self, index: u32, length: u32) -> Result<(), Failure> {
        if index < self.next_index {
            // Asked again because the answer was lost.
            return Ok(());
        }
        if index > self.next_index {
            // If the file was given up, and its task with it, that is what its writer is told.
            self.is_alive().await?;
            return Err(Failure::new(
                Status::InvalidArgument,
                format!("block {index} was to be staged when block {} was due", self.next_index),
            ));
        }
        let bytes = self.node.block_of_writer(&self.right, index, length).await?;
        self.begin().await?;
        self.is_torn = true;
        let written = self.begin().await?.write(bytes).await.map_err(|error| self.failed(WRITING, &error));
        // Also when its first parts failed: what took no parts may not take its removal either, and who reads the log
        // can try again.
        let logged = self.log_upload().await;
        written.and(logged)?;
        self.is_torn = false;
        self.node.staged(&self.right, index).await;
        self.next_index += 1;
        self.length += u64::from(length);
        Ok(())
    }

    async fn begin(&mut self) -> Result<&mut Box<dyn Staged>, Failure> {
        if self.staged.is_none() {
            let store = self.node.store(self.right.mount).await?;
            let staged = store
                .stage(&self.path()?, FileId(self.right.file.0), None)
                .await
                .map_err(|error| self.failed(WRITING, &error))?;
            self.staged = Some(staged);
        }
        Ok(self.staged.as_mut().expect("it was just put there"))
    }

    /// Logs an upload as soon as it has an id: a temporary of a file system is found by the file's id, an upload is not.
    async fn log_upload(&mut self) -> Result<(), Failure> {
        let Some(staged) = self.staged.as_ref().filter(|_| !self.logged_upload) else { return Ok(()) };
        let record = staged.begun();
        if !matches!(record.body, StagedBody::Upload { .. }) {
            return Ok(());
        }
        let file = self.right.file;
        self.node
            .master
            .report(Operation::StageStarted { file, record: record.encode() }, file, MASTER_PATIENCE)
            .await?;
        self.logged_upload = true;
        Ok(())
    }

    async fn publish(&mut self, length: u64) -> Result<FileKey, Failure> {
        if length != self.length {
            self.is_alive().await?;
            return Err(Failure::new(
                Status::InvalidArgument,
                format!("{} bytes are staged of a file that is to have {length}", self.length),
            ));
        }
        let file = self.right.file;
        let record = self.begin().await?.seal().await.map_err(|error| self.failed(WRITING, &error))?;
        self.log_upload().await?;
        let intent = Operation::PublishIntent {
            file,
            length,
            record: record.encode(),
            worker: self.node.worker,
            incarnation: self.node.incarnation,
        };
        // Until the log says otherwise, it may have the intent although its answer was lost.
        self.doubtful = Some(record.clone());
        let condition = match self.node.master.operate(intent, MASTER_PATIENCE).await? {
            Outcome::Intent { replaces: None } => Condition::MustNotExist,
            Outcome::Intent { replaces: Some(token) } => {
                Condition::Replaces(VersionToken::new(&token).map_err(|error| self.failed(PUBLISHING, &error))?)
            }
            other => return Err(unexpected(&other, file)),
        };
        let token = match self.make_visible(&record, &condition).await {
            Ok(token) => token,
            Err(Unpublished::Never(failure)) => {
                // Before the writer is told, so that it finds the path free. If the master is away it is told later.
                let _ = timeout(MASTER_PATIENCE, self.abandon()).await;
                return Err(failure);
            }
            // It stays doubtful, and so the path its own, until that is found out.
            Err(Unpublished::Unknown(failure)) => return Err(failure),
        };
        self.doubtful = None;
        let done = Operation::PublishDone { file, token: token.as_bytes().to_vec() };
        let key = match self.node.master.operate(done, SETTLE_PATIENCE).await? {
            Outcome::Persisted { file: key } => key,
            other => return Err(unexpected(&other, file)),
        };
        self.node.broadcast(|| {
            if keeps_blocks(&self.right) {
                ShardMessage::Rekey { from: file, to: key }
            } else {
                ShardMessage::Drop { file }
            }
        });
        self.staged = None;
        let mut published = self.node.publisher.published.lock().unwrap_or_else(PoisonError::into_inner);
        if published.len() >= PUBLISHED_MAX {
            published.clear();
        }
        published.insert(file, key);
        Ok(key)
    }

    /// Publishes; if the store's answer leaves open whether it happened, finds out, if that takes no longer than a writer
    /// waits.
    async fn make_visible(
        &mut self,
        record: &StagedRecord,
        condition: &Condition,
    ) -> Result<VersionToken, Unpublished> {
        let staged = self.begin().await.map_err(Unpublished::Never)?;
        let error = match staged.publish(condition).await {
            Ok(token) => return Ok(token),
            Err(error) => error,
        };
        let record = if error.refuses_publication() {
            // Nothing is under way that would have to be waited out.
            self.doubtful.insert(record.clone().not_published_since(0)).clone()
        } else {
            record.clone()
        };
        match self.settle(&record, FATE_PATIENCE).await {
            Ok(Settled::Published(token)) => {
                tracing::info!(file = %self.right.file, %error, "a publication whose answer was lost had happened");
                Ok(token)
            }
            Ok(Settled::Absent) => Err(Unpublished::Never(unpublished(self.failed(PUBLISHING, &error)))),
            Err(settling) => Err(Unpublished::Unknown(unknown(&self.failed(PUBLISHING, &error), &settling))),
        }
    }

    /// Makes sure that a publication cannot happen any more, and finds out whether it did.
    async fn settle(&self, record: &StagedRecord, patience: Duration) -> Result<Settled, Failure> {
        let mut pause = SETTLE_PAUSE;
        let deadline = Instant::now() + patience;
        loop {
            let settled = match self.node.store(self.right.mount).await {
                Ok(store) => store.settle(record).await.map_err(|error| self.failed(PUBLISHING, &error)),
                Err(failure) => Err(failure),
            };
            match settled {
                Err(failure) if Instant::now() < deadline => {
                    tracing::warn!(file = %self.right.file, %failure, "a failed publication cannot be settled yet");
                }
                settled => return settled,
            }
            sleep(pause).await;
            pause = (pause * 2).min(SETTLE_PAUSE_MAX);
        }
    }

    /// Checks that the file is still being written.
    ///
    /// # Errors
    /// How it ended, in the master's words.
    async fn is_alive(&self) -> Result<(), Failure> {
        let renew = Operation::Renew { file: self.right.file };
        match self.node.master.operate(renew, MASTER_PATIENCE).await {
            Ok(_) => Ok(()),
            // Only the writer may renew its lease; but that there is one is what was asked.
            Err(failure) if failure.status == Status::PermissionDenied => Ok(()),
            // A master that does not answer has not given the file up.
            Err(failure) if failure.status.is_retryable() || failure.status == Status::TimedOut => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Removes what is staged, and tells the log of an intent that came to nothing. Can be cut short and repeated.
    async fn abandon(&mut self) {
        if let Some(mut staged) = self.staged.take()
            && let Err(error) = staged.abandon().await
        {
            tracing::warn!(file = %self.right.file, %error, "what was staged could not be removed; the master will");
        }
        let Some(record) = self.doubtful.clone() else { return };
        let file = self.right.file;
        // Without this the intent would hold the path for as long as this worker lives.
        let end = match self.settle(&record, SETTLE_PATIENCE).await {
            Ok(Settled::Absent) => Operation::PublishFailed { file },
            Ok(Settled::Published(token)) => Operation::PublishDone { file, token: token.as_bytes().to_vec() },
            Err(failure) => {
                tracing::error!(%file, %failure, "a publication stays unsettled until this worker ends");
                self.doubtful = None;
                return;
            }
        };
        if let Err(failure) = self.node.master.operate(end, SETTLE_PATIENCE).await {
            tracing::warn!(%file, %failure, "the master could not be told how a publication ended");
        }
        self.doubtful = None;
    }

    /// What the under-store said, in words for the writer.
    fn failed(&self, doing: &str, error: &citius_understore::Error) -> Failure {
        failure::of_store(doing, &self.right.path, error)
    }

    fn path(&self) -> Result<StorePath, Failure> {
        StorePath::parse(&self.right.path).map_err(|error| self.failed(WRITING, &error))
    }
}

/// The failure that ends a file's publication. Who is told that it may pass would ask again, and would be asked for the
/// blocks that are gone; so it is not told that.
fn last_word(failure: Failure) -> Failure {
    if !failure.status.is_retryable() {
        return failure;
    }
    Failure::new(Status::UnderStore, format!("{}; the write is given up, begin it anew", failure.message))
}

/// Why a writer is not told how its publication ended. Not a failure that may pass: who asked again would be told the same.
fn unknown(failed: &Failure, settling: &Failure) -> Failure {
    let words = format!(
        "{}; whether it is published could not be found out ({}), and is when the under-store answers: until then nobody \
         else can write it",
        failed.message, settling.message
    );
    Failure::new(Status::UnderStore, words)
}

/// Why a publication failed. That something is at the path which was not when the file was created is a conflict.
fn unpublished(failure: Failure) -> Failure {
    match failure.status {
        Status::AlreadyExists => Failure::new(
            Status::Conflict,
            format!(
                "{}: it was made by somebody else while this file was written, and is left as it is",
                failure.message
            ),
        ),
        _ => failure,
    }
}
