//! The door: it reads the hello of a new connection and hands the socket to the shard that the hello names.
//!
//! It runs on tokio, so that slow or hostile peers cost no shard anything, and only so many of those without a token are
//! listened to at once, each for [`HELLO_TIMEOUT`] or until another needs its place. The hello frame is read to its last byte
//! and not beyond, so the shard finds the next frame at the start of its first read.

use crate::driver::{ShardInbox, ShardMessage};
use citius_wire::{
    Encoder, Failure, Greetings, HELLO_FRAME_BYTES_MAX, Head, Hello, Kind, PRELUDE_BYTES, Prelude, Status, Token,
    Welcome, WorkerId,
};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// How long a peer may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after an accept that failed, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a peer over TCP may be silent before the kernel asks whether it is there, how often it then asks, and how
/// many times in vain: a host that vanished is given up after a minute and a half.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// A connection whose hello was right, on its way to its shard.
pub(crate) struct Accepted {
    /// The socket, non-blocking.
    pub(crate) socket: OwnedFd,
    /// How the peer is connected.
    pub(crate) door: Door,
    /// Counts as open until dropped.
    pub(crate) place: Place,
}

/// How a peer is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// By TCP.
    Tcp,
    /// By the Unix socket: it may be passed descriptors.
    Unix,
}

/// A counted place among the connections that may be open.
pub(crate) struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(open: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < max).then_some(count + 1))
            .ok()
            .map(|_| Self(Arc::clone(open)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the door knows.
pub(crate) struct Acceptor {
    /// Lets peers in.
    pub(crate) token: Token,
    /// Who answers.
    pub(crate) worker: WorkerId,
    /// The newest epoch, for the welcome.
    pub(crate) epoch: Arc<AtomicU64>,
    /// The shards.
    pub(crate) shards: Vec<Arc<ShardInbox>>,
    /// Connections that may be open at once.
    pub(crate) connections_max: usize,
    /// Connections at each door that may be before their hello; the oldest is closed for the next one.
    pub(crate) greetings_max: usize,
    /// Connections that are.
    pub(crate) open: Arc<AtomicUsize>,
}

impl Acceptor {
    /// Accepts on the data listener until the task is dropped.
    pub(crate) async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        let greetings = Greetings::new(self.greetings_max);
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    // A socket that refuses to be watched is served unwatched.
                    let _ = watch(&stream);
                    self.greet(&greetings, stream, Door::Tcp, |stream| stream.into_std().map(OwnedFd::from));
                }
                Err(error) => pause_after(&error).await,
            }
        }
    }

    /// Accepts on the Unix socket until the task is dropped. Only processes of our own user, and root, get in.
    pub(crate) async fn serve_unix(self: Arc<Self>, listener: UnixListener) {
        let own = rustix::process::geteuid().as_raw();
        let greetings = Greetings::new(self.greetings_max);
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let uid = stream.peer_cred().map(|credentials| credentials.uid());
                    if !uid.is_ok_and(|uid| uid == own || uid == 0) {
                        tracing::warn!("another user tried the Unix socket and was refused");
                        continue;
                    }
                    self.greet(&greetings, stream, Door::Unix, |stream| stream.into_std().map(OwnedFd::from));
                }
                Err(error) => pause_after(&error).await,
            }
        }
    }

    /// Listens to a newcomer, on a task of its own.
    fn greet<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        self: &Arc<Self>,
        greetings: &Greetings<oneshot::Sender<()>>,
        stream: S,
        door: Door,
        into_socket: impl FnOnce(S) -> std::io::Result<OwnedFd> + Send + 'static,
    ) {
        let (hold, ousted) = oneshot::channel();
        let (this, place) = (Arc::clone(self), greetings.enter(hold));
        tokio::spawn(async move {
            let _place = place;
            let admitted = tokio::select! {
                biased;
                admitted = this.admit(stream, door, into_socket) => admitted,
                _ = ousted => Err(Failure::new(Status::Busy, "it said no hello, and others came")),
            };
            admitted.unwrap_or_else(|failure| tracing::debug!(?door, %failure, "a connection was refused"));
        });
    }

    async fn admit<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut stream: S,
        door: Door,
        into_socket: impl FnOnce(S) -> std::io::Result<OwnedFd>,
    ) -> Result<(), Failure> {
        let heard = timeout(HELLO_TIMEOUT, self.hear(&mut stream))
            .await
            .unwrap_or_else(|_| Err((0, Failure::new(Status::TimedOut, "no hello came"))));
        let placed = heard.and_then(|(request, hello)| match self.place(&hello) {
            Ok((place, shard)) => Ok((request, place, shard)),
            Err(failure) => Err((request, failure)),
        });
        let (request, place, shard) = match placed {
            Ok(placed) => placed,
            Err((request, failure)) => {
                let mut answer = Vec::new();
                Encoder::default().failure(&mut answer, Kind::Hello, request, &failure);
                // A peer that is refused may be gone already.
                let _ = timeout(HELLO_TIMEOUT, stream.write_all(&answer)).await;
                return Err(failure);
            }
        };
        let welcome = Welcome {
            worker: self.worker,
            epoch: citius_wire::Epoch(self.epoch.load(Ordering::Relaxed)),
            shards: self.shards.len() as u16,
            release: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let mut answer = Vec::new();
        Encoder::default().reply::<Hello>(&mut answer, request, &Ok(welcome));
        let broke = |error: std::io::Error| Failure::new(Status::Unavailable, error.to_string());
        stream.write_all(&answer).await.map_err(broke)?;
        let socket = into_socket(stream).map_err(broke)?;
        shard
            .send(ShardMessage::Connection(Accepted { socket, door, place }))
            .map_err(|_| Failure::new(Status::Busy, "the shard's inbox is full"))
    }

    fn place(&self, hello: &Hello) -> Result<(Place, &Arc<ShardInbox>), Failure> {
        let shard = self.shards.get(usize::from(hello.shard)).ok_or_else(|| {
            Failure::new(
                Status::InvalidArgument,
                format!("there is no shard {}: this worker has {}", hello.shard, self.shards.len()),
            )
        })?;
        let place = Place::take(&self.open, self.connections_max).ok_or_else(|| {
            Failure::new(
                Status::Busy,
                format!(
                    "{} connections are open, and no more are allowed by the limit of open files: raise `ulimit -n`",
                    self.connections_max
                ),
            )
        })?;
        Ok((place, shard))
    }

    /// Reads one frame, which must be a right hello. The failure comes with the request id to answer to.
    async fn hear<S: AsyncRead + Unpin>(&self, stream: &mut S) -> Result<(u64, Hello), (u64, Failure)> {
        let cut = |_| (0, Failure::new(Status::Protocol, "the connection ended before its hello"));
        let mut prelude = [0; PRELUDE_BYTES];
        stream.read_exact(&mut prelude).await.map_err(cut)?;
        let prelude = Prelude::parse(&prelude).map_err(|error| (0, error.into()))?;
        let id = prelude.request_id;
        if prelude.kind != Kind::Hello || prelude.frame_bytes() > HELLO_FRAME_BYTES_MAX || prelude.payload_len > 0 {
            return Err((id, Failure::new(Status::Protocol, "a connection begins with a hello")));
        }
        let mut header = vec![0; prelude.header_len as usize];
        stream.read_exact(&mut header).await.map_err(cut)?;
        prelude.verify(&header).map_err(|error| (id, error.into()))?;
        let hello: Hello = Head { prelude, header: &header }.read().map_err(|error| (id, error.into()))?;
        if !hello.token.matches(&self.token) {
            return Err((
                id,
                Failure::new(
                    Status::Unauthenticated,
                    "the token is not this cluster's: pass --token-file with the file <home>/token of its owner",
                ),
            ));
        }
        Ok((id, hello))
    }
}

/// Has the kernel end a connection whose peer has vanished without a word, so that it gives its place back.
fn watch(stream: &TcpStream) -> rustix::io::Result<()> {
    use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl};
    set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    set_socket_keepalive(stream, true)
}

async fn pause_after(error: &std::io::Error) {
    tracing::warn!(%error, "a connection could not be accepted; if there are too many, raise `ulimit -n`");
    sleep(ACCEPT_PAUSE).await;
}

/// Removes the sockets of a folder that nobody listens on: a killed process leaves its own, and may never start again where
/// it had that name. What cannot be looked at or removed is another's, and stays.
///
/// A socket younger than `age_min` may be bound already and not listen yet.
pub(crate) fn sweep_sockets(dir: &Path, age_min: Duration) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let is_socket = entry.file_type().is_ok_and(|kind| std::os::unix::fs::FileTypeExt::is_socket(&kind));
        let age = entry.metadata().and_then(|found| found.modified()).ok().and_then(|time| time.elapsed().ok());
        if is_socket && age.is_some_and(|age| age >= age_min) && is_dead(&entry.path()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Whether a socket refuses connections, which one whose listener is merely busy does not.
fn is_dead(path: &Path) -> bool {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let Ok(address) = SocketAddrUnix::new(path) else { return false };
    // Without waiting: the queue of a stopped process may be full.
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let Ok(socket) = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None) else { return false };
    connect(&socket, &address) == Err(rustix::io::Errno::CONNREFUSED)
}

/// Binds the Unix socket, replacing one that a dead process left behind.
pub(crate) fn bind_unix(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Killed processes left their sockets in the runtime folder for ever.
    #[tokio::test]
    async fn sockets_of_the_dead_go_and_those_of_the_living_stay() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        drop(std::os::unix::net::UnixListener::bind(at("dead.sock")).unwrap());
        std::fs::write(at("file.sock"), "").unwrap();
        let _living = bind_unix(&at("living.sock")).unwrap();
        // Its queue is full: a connection waits, and is not refused.
        let busy =
            rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None).unwrap();
        rustix::net::bind(&busy, &rustix::net::SocketAddrUnix::new(at("busy.sock")).unwrap()).unwrap();
        rustix::net::listen(&busy, 0).unwrap();
        let _waiting = std::os::unix::net::UnixStream::connect(at("busy.sock")).unwrap();

        sweep_sockets(folder.path(), Duration::from_secs(3600));
        assert!(at("dead.sock").exists(), "it may be about to listen");
        sweep_sockets(folder.path(), Duration::ZERO);
        let names = ["dead.sock", "file.sock", "living.sock", "busy.sock"].map(|name| at(name).exists());
        assert_eq!(names, [false, true, true, true]);
    }
}
