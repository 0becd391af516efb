//! Calls under the rules of the mount's traffic: each waits for its turn, has its time, is tried again where that does no harm,
//! and is not made at all to a server that has been silent.
//!
//! What may be repeated:
//! - what changes nothing;
//! - a change that, made twice, is as made once (a time, permission bits, the folder of temporaries), and one whose outcome
//!   its caller looks up (the rename of a temporary, which is gone when it was done);
//! - any call, if the server surely did nothing: it said so. That no connection was made is not told apart here from one that
//!   broke, so it is no such sign.

use std::{fmt, time::Duration};

use futures::{StreamExt, stream};
use parking_lot::Mutex;

use super::{
    ADVICE_UNREACHABLE, Inner,
    protocol::{Chunks, Listing, Span},
};
use crate::{Call, Error, Failure, Landing, Operation, Refused, Repeat, Result, Verdict, traffic::Turn};

/// How long a change may take at least: a server may copy, or wait for its disks. Clients that fail over to another server do
/// so within it.
const CHANGE_MIN: Duration = Duration::from_secs(60);

/// What a call is, and whether it may be made again when its answer was lost.
pub(super) type Kind = (Operation, Repeat);

pub(super) const LOOK: Kind = (Operation::Stat, Repeat::Harmless);
pub(super) const CHANGE: Kind = (Operation::Change, Repeat::Harmful);
/// A change that, made twice, is as made once, or whose outcome the caller looks up.
pub(super) const RESUMABLE: Kind = (Operation::Change, Repeat::Harmless);

/// Why a call gave nothing.
enum Missed {
    /// It was not made, or given up.
    Refused(Refused),
    Failed(Error),
}

impl From<Refused> for Missed {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refused) => refused.fmt(f),
            // The reason alone: who is told of it knows the server.
            Self::Failed(Error::Unreachable { reason, .. }) => f.write_str(reason),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl Inner {
    /// Makes a call.
    pub(super) async fn call<T, F>(&self, kind: Kind, path: &str, send: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let call = self.traffic.call(kind.0, kind.1);
        let (answer, mut turn) = self.begin(&call, path, send).await?;
        turn.finish();
        Ok(answer)
    }

    /// Makes a call that cannot be made again, because what it sends is spent.
    pub(super) async fn once<T>(
        &self,
        operation: Operation,
        path: &str,
        send: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let send = Mutex::new(Some(send));
        let taken = || {
            let send = send.lock().take();
            async { send.expect("a call that is never repeated is made once").await }
        };
        self.call((operation, Repeat::Never), path, taken).await
    }

    /// Makes a call whose answer goes on: its turn ends with it.
    async fn begin<T, F>(&self, call: &Call, path: &str, send: impl Fn() -> F) -> Result<(T, Turn)>
    where
        F: Future<Output = Result<T>>,
    {
        let request_timeout = self.traffic.settings().request_timeout;
        let changes = matches!(call.operation(), Operation::Change | Operation::Write);
        let limit = if changes { request_timeout.max(CHANGE_MIN) } else { request_timeout };
        let send = || {
            let sent = send();
            async { sent.await.map_err(Missed::Failed) }
        };
        let judge = |outcome: &Result<T, Missed>| match outcome {
            Err(Missed::Failed(error)) => verdict(error, call.repeat()),
            _ => Verdict::Good,
        };
        self.traffic.begin(call, 0, limit, send, judge).await.map_err(|missed| match missed {
            Missed::Failed(error) => error,
            Missed::Refused(Refused::TimedOut { limit }) => late(path, limit),
            Missed::Refused(refused) => Error::Unreachable {
                endpoint: self.protocol.endpoint().to_owned(),
                reason: refused.to_string(),
                advice: ADVICE_UNREACHABLE,
            },
        })
    }

    /// Waits for the next part of an answer, or for room in what is sent.
    pub(super) async fn stalls<T>(&self, path: &str, next: impl Future<Output = T>) -> Result<T> {
        let limit = self.traffic.settings().request_timeout;
        tokio::time::timeout(limit, next).await.map_err(|_| late(path, limit))
    }

    /// Lands a part of a file. One that breaks off is taken up again where it did.
    pub(super) async fn transfer(&self, path: &str, span: Span<'_>, landing: &mut dyn Landing) -> Result<()> {
        let call = self.traffic.call(Operation::Read, Repeat::Harmless);
        let mut got = 0;
        loop {
            let left = Span { offset: span.offset + got, len: span.len - got, ..span };
            let (chunks, mut turn) = self.begin(&call, path, || self.protocol.read(path, left)).await?;
            let error = match self.land(path, left, chunks, &mut got, landing).await {
                Ok(()) => {
                    turn.finish();
                    return Ok(());
                }
                Err(error) => error,
            };
            let Verdict::Bad { failure, .. } = verdict(&error, Repeat::Harmless) else { return Err(error) };
            turn.fail(failure);
            // Who pauses holds nobody up.
            drop(turn);
            if got == span.len || failure == Failure::Refused || !self.traffic.again(&call, failure).await {
                return Err(error);
            }
        }
    }

    async fn land(
        &self,
        path: &str,
        span: Span<'_>,
        mut chunks: Chunks,
        got_before: &mut u64,
        landing: &mut dyn Landing,
    ) -> Result<()> {
        let mut got = 0;
        let wrong_length = |got| Error::WrongLength { path: path.to_owned(), expected: span.len, got };
        while let Some(chunk) = self.stalls(path, chunks.next()).await?.transpose()? {
            let len = chunk.len() as u64;
            if got + len > span.len {
                return Err(wrong_length(got + len));
            }
            landing.land(span.offset + got, &chunk);
            self.traffic.count_read(len);
            got += len;
            *got_before += len;
            self.traffic.pace_read(len).await;
        }
        if got == span.len { Ok(()) } else { Err(wrong_length(got)) }
    }

    /// The names of a directory: one call, that may go on for as long as names keep coming.
    pub(super) fn names<'a>(&'a self, dir: &'a str) -> stream::BoxStream<'a, Result<super::protocol::Named>> {
        let begun = async move {
            let call = self.traffic.call(Operation::List, Repeat::Harmless);
            // What is wrong with a directory is said by the first item.
            let send = || async {
                let names: Listing = self.protocol.list(dir);
                let mut names = names.fuse();
                match names.next().await {
                    Some(Err(error)) => Err(error),
                    first => Ok(stream::iter(first).chain(names).boxed()),
                }
            };
            let (names, turn) = self.begin(&call, dir, send).await?;
            let rest = stream::try_unfold((names, turn), move |(mut names, mut turn)| async move {
                match self.stalls(dir, names.next()).await?.transpose()? {
                    Some(found) => Ok(Some((found, (names, turn)))),
                    None => {
                        turn.finish();
                        Ok(None)
                    }
                }
            });
            Ok::<_, Error>(rest)
        };
        futures::TryStreamExt::try_flatten(stream::once(begun)).boxed()
    }
}

fn late(path: &str, limit: Duration) -> Error {
    Error::TimedOut { path: path.to_owned(), seconds: limit.as_secs() }
}

/// What an outcome says about the server.
fn verdict(error: &Error, repeat: Repeat) -> Verdict {
    match error {
        Error::Throttled { retry_after, .. } => Verdict::Bad { failure: Failure::Throttled, retry_after: *retry_after },
        Error::TimedOut { .. } => Verdict::bad(Failure::TimedOut),
        // A connection that broke may have carried the change to the server.
        Error::Unreachable { .. } if repeat == Repeat::Harmless => Verdict::bad(Failure::Unreachable),
        Error::Unreachable { .. } => Verdict::bad(Failure::Broken),
        Error::NotFound { .. }
        | Error::AlreadyExists { .. }
        | Error::Conflict { .. }
        | Error::VersionChanged { .. }
        | Error::IsADirectory { .. }
        | Error::NotADirectory { .. }
        | Error::NotEmpty { .. } => Verdict::Good,
        _ => Verdict::bad(Failure::Refused),
    }
}
