//! A connection of the agent to a master or to another worker: many requests in flight, on tokio.
//!
//! One task writes, one reads; answers find their askers by request id. When either task ends the link is dead and
//! every asker is told so. Nothing of this is on the path of a client's read.

use citius_wire::{Encoder, Failure, Head, Hello, PRELUDE_BYTES, Prelude, Request, Status, Welcome};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Requests that wait to be written.
const OUTGOING_MAX: usize = 1024;
/// How long connecting and the hello may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// One frame that answers.
pub(crate) struct Answer {
    prelude: Prelude,
    header: Vec<u8>,
    /// What follows the header.
    pub(crate) payload: Vec<u8>,
}

type Pending = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>>;

/// A live connection.
pub(crate) struct Link {
    address: String,
    outgoing: mpsc::Sender<Vec<u8>>,
    /// Who waits for which answer; `None` once the link is dead.
    pending: Pending,
    next_request: AtomicU64,
}

impl Link {
    /// Connects and says hello.
    pub(crate) async fn connect(address: &str, hello: &Hello) -> Result<(Self, Welcome), Failure> {
        let unavailable =
            |why: String| Failure::new(Status::Unavailable, format!("cannot connect to {address}: {why}"));
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
            .await
            .map_err(|_| unavailable(format!("no answer within {CONNECT_TIMEOUT:?}")))?
            .map_err(|error| unavailable(error.to_string()))?;
        stream.set_nodelay(true).map_err(|error| unavailable(error.to_string()))?;

        let (incoming, mut writing) = stream.into_split();
        let (outgoing, mut queue) = mpsc::channel::<Vec<u8>>(OUTGOING_MAX);
        let pending: Pending = Arc::new(Mutex::new(Some(HashMap::new())));
        tokio::spawn(async move {
            while let Some(mut bytes) = queue.recv().await {
                while let Ok(more) = queue.try_recv() {
                    bytes.extend_from_slice(&more);
                }
                if writing.write_all(&bytes).await.is_err() {
                    break;
                }
            }
            // Dropping the half tells the peer that nothing follows; it closes, and the reader ends.
        });
        let askers = Arc::clone(&pending);
        tokio::spawn(async move {
            let end = receive_all(incoming, &askers).await;
            tracing::debug!(?end, "a link ended");
            // Dropping the senders wakes every asker.
            drop(lock(&askers).take());
        });
        let link = Self { address: address.to_owned(), outgoing, pending, next_request: AtomicU64::new(1) };
        let welcome = link.call(hello, CONNECT_TIMEOUT).await?;
        Ok((link, welcome))
    }

    /// Whether the connection has ended.
    pub(crate) fn is_dead(&self) -> bool {
        lock(&self.pending).is_none()
    }

    /// Asks and waits for the answer.
    pub(crate) async fn call<R: Request>(&self, request: &R, patience: Duration) -> Result<R::Reply, Failure> {
        let answer = self.ask(request, patience).await?;
        answer.head().read_reply::<R>()
    }

    /// Asks and waits for the answer with its payload.
    pub(crate) async fn ask<R: Request>(&self, request: &R, patience: Duration) -> Result<Answer, Failure> {
        let gone = || Failure::new(Status::Unavailable, format!("the connection to {} broke", self.address));
        let id = self.next_request.fetch_add(1, Ordering::Relaxed);
        let mut bytes = Vec::new();
        Encoder::default().request(&mut bytes, id, request, 0);
        let (sender, receiver) = oneshot::channel();
        lock(&self.pending).as_mut().ok_or_else(gone)?.insert(id, sender);
        self.outgoing.send(bytes).await.map_err(|_| gone())?;
        match timeout(patience, receiver).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(gone()),
            Err(_) => {
                if let Some(pending) = lock(&self.pending).as_mut() {
                    pending.remove(&id);
                }
                Err(Failure::new(
                    Status::TimedOut,
                    format!("{} did not answer {:?} within {patience:?}", self.address, R::KIND),
                ))
            }
        }
    }
}

impl Answer {
    /// The head, for reading the reply.
    pub(crate) fn head(&self) -> Head<'_> {
        Head { prelude: self.prelude, header: &self.header }
    }
}

fn lock(pending: &Pending) -> std::sync::MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Answer>>>> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads answers until the connection ends or is no longer to be trusted.
async fn receive_all(mut incoming: OwnedReadHalf, pending: &Pending) -> Result<(), String> {
    loop {
        let mut prelude = [0; PRELUDE_BYTES];
        incoming.read_exact(&mut prelude).await.map_err(|error| error.to_string())?;
        let prelude = Prelude::parse(&prelude).map_err(|error| error.to_string())?;
        let mut header = vec![0; prelude.header_len as usize];
        incoming.read_exact(&mut header).await.map_err(|error| error.to_string())?;
        prelude.verify(&header).map_err(|error| error.to_string())?;
        let mut payload = vec![0; prelude.payload_len as usize];
        incoming.read_exact(&mut payload).await.map_err(|error| error.to_string())?;
        let asker = lock(pending).as_mut().and_then(|pending| pending.remove(&prelude.request_id));
        if let Some(asker) = asker {
            // Who timed out does not listen any more; that is no error.
            let _ = asker.send(Answer { prelude, header, payload });
        }
    }
}
