//! The agent's side of the metadata RPC: a link to the master that is made again when it breaks.

use crate::agent::link::Link;
use citius_wire::{
    Batch, ClientId, Failure, FileKey, Hello, Incarnation, Operation, Outcome, Request, Serial, Status, Token, WorkerId,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// How long one request may take before the link is thought dead.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause before the first retry; each further one doubles it, up to [`RETRY_PAUSE_MAX`].
const RETRY_PAUSE: Duration = Duration::from_millis(20);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// A master, as a worker sees it.
pub(crate) struct MasterClient {
    address: String,
    hello: Hello,
    serial: AtomicU64,
    link: Mutex<Option<Arc<Link>>>,
}

impl MasterClient {
    /// A client that connects when it is first needed.
    pub(crate) fn new(address: String, token: Token, worker: WorkerId, incarnation: Incarnation) -> Self {
        // A life of a worker is one client of the master: its serials are its own.
        let mut client = [0; 16];
        client[..8].copy_from_slice(&worker.0.to_le_bytes());
        client[8..].copy_from_slice(&incarnation.0.to_le_bytes());
        let hello = Hello { token, client: ClientId(client), shard: 0 };
        Self { address, hello, serial: AtomicU64::new(1), link: Mutex::new(None) }
    }

    /// Where the master is.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Asks once, over a link that is made if there is none.
    pub(crate) async fn call<R: Request>(&self, request: &R) -> Result<R::Reply, Failure> {
        let link = {
            let mut slot = self.link.lock().await;
            match slot.as_ref().filter(|link| !link.is_dead()) {
                Some(link) => Arc::clone(link),
                None => {
                    let (link, _) = Link::connect(&self.address, &self.hello).await?;
                    Arc::clone(slot.insert(Arc::new(link)))
                }
            }
        };
        link.call(request, CALL_TIMEOUT).await
    }

    /// Does one operation, and tries again with the same serial while the master cannot be reached, until `patience`
    /// has passed: the state machine answers a repeated serial with the answer of the first try.
    pub(crate) async fn operate(&self, operation: Operation, patience: Duration) -> Result<Outcome, Failure> {
        let batch = Batch { first: Serial(self.serial.fetch_add(1, Ordering::Relaxed)), operations: vec![operation] };
        let deadline = Instant::now() + patience;
        let mut pause = RETRY_PAUSE;
        loop {
            let failure = match self.call(&batch).await {
                Ok(mut reply) if reply.results.len() == 1 => match reply.results.remove(0) {
                    Ok(outcome) => return Ok(outcome),
                    Err(failure) => failure,
                },
                Ok(reply) => Failure::new(
                    Status::Protocol,
                    format!("the master gave {} results for one operation", reply.results.len()),
                ),
                Err(failure) => failure,
            };
            let again = failure.status.is_retryable() || failure.status == Status::TimedOut;
            if !again || Instant::now() + pause > deadline {
                return Err(failure);
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }

    /// As [`MasterClient::operate`], for an operation on a file being written that gives [`Outcome::Done`].
    pub(crate) async fn report(&self, operation: Operation, file: FileKey, patience: Duration) -> Result<(), Failure> {
        match self.operate(operation, patience).await? {
            Outcome::Done => Ok(()),
            other => Err(unexpected(&other, file)),
        }
    }
}

/// The master answered something that does not fit the question.
pub(crate) fn unexpected(outcome: &Outcome, file: FileKey) -> Failure {
    Failure::new(Status::Protocol, format!("the master answered {outcome:?} about file {file}"))
}
