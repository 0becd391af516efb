//! The listener and the threads that serve its connections.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use citius_wire::{Greeting, Greetings, Token};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use super::{THREADS_MAX, connection};
use crate::service::Service;

/// How long the acceptor waits after an error that only time cures (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What connections count.
#[derive(Debug, Default)]
pub(crate) struct RpcCounters {
    pub(crate) connections: AtomicUsize,
    pub(crate) accepted: AtomicU64,
    pub(crate) turned_away: AtomicU64,
    pub(crate) unauthenticated: AtomicU64,
    pub(crate) bad_frames: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) requests_elsewhere: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RpcFigures {
    /// Open connections.
    pub(crate) connections: u64,
    /// Connections accepted.
    pub(crate) accepted: u64,
    /// Connections over the bound.
    pub(crate) turned_away: u64,
    /// Connections without the right token.
    pub(crate) unauthenticated: u64,
    /// Connections closed because what they sent was no frame.
    pub(crate) bad_frames: u64,
    /// Requests received.
    pub(crate) requests: u64,
    /// Of these, requests that memory could not answer.
    pub(crate) requests_elsewhere: u64,
}

impl RpcCounters {
    /// The counters now.
    pub(crate) fn figures(&self) -> RpcFigures {
        RpcFigures {
            connections: self.connections.load(Relaxed) as u64,
            accepted: self.accepted.load(Relaxed),
            turned_away: self.turned_away.load(Relaxed),
            unauthenticated: self.unauthenticated.load(Relaxed),
            bad_frames: self.bad_frames.load(Relaxed),
            requests: self.requests.load(Relaxed),
            requests_elsewhere: self.requests_elsewhere.load(Relaxed),
        }
    }
}

/// What every connection knows.
pub(crate) struct Shared {
    pub(crate) service: Arc<Service>,
    pub(crate) token: Token,
    pub(crate) counters: Arc<RpcCounters>,
    /// Connections past their hello at a time; the next one is told `Busy` and closed.
    pub(crate) connections_max: usize,
    /// Connections before their hello at a time; the oldest is closed for the next one.
    pub(crate) greetings_max: usize,
    /// How long a connection may be silent.
    pub(crate) idle_patience: Duration,
    /// Where requests run that memory cannot answer.
    pub(crate) elsewhere: Handle,
    pub(crate) stop: watch::Receiver<bool>,
}

/// The server: it ends when told to by `stop`, and then its threads do.
pub(crate) struct RpcServer {
    threads: Vec<JoinHandle<()>>,
}

impl RpcServer {
    /// Serves `listener` on up to `threads` threads of its own.
    ///
    /// # Errors
    /// What the system says when it gives no thread or no runtime.
    pub(crate) fn start(listener: TcpListener, threads: usize, shared: Shared) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let shared = Arc::new(shared);
        let (mut joins, mut lanes) = (Vec::new(), Vec::new());
        for i in 0..threads.clamp(1, THREADS_MAX) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            lanes.push(runtime.handle().clone());
            let mut stop = shared.stop.clone();
            let join = std::thread::Builder::new().name(format!("citius-rpc-{i}")).spawn(move || {
                // A sender that is gone means the same as a stop.
                drop(runtime.block_on(stop.wait_for(|stop| *stop)));
                // Dropping the runtime closes its connections.
            })?;
            joins.push(join);
        }
        let acceptor = lanes[0].clone();
        acceptor.spawn(accept(listener, lanes, shared));
        Ok(Self { threads: joins })
    }

    /// Waits for the threads, after `stop` was set. It blocks.
    pub(crate) fn join(self) {
        for thread in self.threads {
            // A thread that panicked has been reported by the panic hook, and is over too.
            drop(thread.join());
        }
    }
}

async fn accept(listener: TcpListener, lanes: Vec<Handle>, shared: Arc<Shared>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the metadata RPC cannot listen"),
    };
    let greetings = Greetings::new(shared.greetings_max);
    let mut next = 0;
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        shared.counters.accepted.fetch_add(1, Relaxed);
        let Ok(stream) = stream.into_std() else { continue };
        let (hold, ousted) = oneshot::channel();
        let greeting = Turn { place: greetings.enter(hold), ousted };
        lanes[next % lanes.len()].spawn(serve(stream, peer, Arc::clone(&shared), greeting));
        next += 1;
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>, greeting: Turn) {
    let served = async {
        stream.set_nodelay(true)?;
        connection::serve(tokio::net::TcpStream::from_std(stream)?, &shared, greeting).await
    };
    // A peer that goes away in the middle is everyday life.
    if let Err(error) = served.await {
        tracing::debug!(%peer, %error, "a connection broke");
    }
}

/// The turn of one connection to say hello.
pub(super) struct Turn {
    /// Its place, until it has.
    pub(super) place: Greeting<oneshot::Sender<()>>,
    /// Ends when another one needs the place.
    pub(super) ousted: oneshot::Receiver<()>,
}

/// The place of one connection past its hello, taken for as long as it lives, however it ends.
pub(super) struct Place(Arc<RpcCounters>);

impl Place {
    /// A place, if one of `max` is free.
    pub(super) fn take(counters: &Arc<RpcCounters>, max: usize) -> Option<Self> {
        let more = |count| (count < max).then_some(count + 1);
        counters.connections.fetch_update(Relaxed, Relaxed, more).ok().map(|_| Self(Arc::clone(counters)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}
