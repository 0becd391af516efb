//! The host of a shard: one pinned executor. The only module that knows glommio.
//!
//! ```text
//!   shard thread
//!   +---------------------------------------------------------------+
//!   | glommio executor: tasks, timers, readiness of sockets         |
//!   |   pump task  <- eventfd <- completions of the shard's io_uring|
//!   |                         <- other threads, through the Inbox   |
//!   +---------------------------------------------------------------+
//! ```
//!
//! One eventfd, the bell, wakes the shard for whatever comes from outside the executor: a completion of its own ring,
//! or a message of another thread. Facts about glommio 0.9 that shape this file: a panic in a task kills the executor
//! (so [`guarded`] catches them), a read of a socket tries the system call first and asks the ring only if it would
//! block, and its own buffers count against RLIMIT_MEMLOCK (so they are small).

use crate::error::{Error, Result};
use futures::FutureExt;
use futures::io::AsyncReadExt;
use glommio::io::BufferedFile;
use glommio::net::{TcpStream, UnixStream};
use glommio::{ExecutorJoinHandle, Latency, LocalExecutorBuilder, Placement, Shares, TaskQueueHandle};
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Bytes that the executor registers with its own ring; we read and write through ours.
const EXECUTOR_MEMORY_BYTES: usize = 64 << 10;
/// Submissions that the executor's own ring holds.
const EXECUTOR_RING_ENTRIES: usize = 256;
/// Shares of the queue that serves requests, against those of the pump's own (1000).
const REQUEST_SHARES: usize = 1000;
/// How long a request may wait for another one to yield.
const REQUEST_LATENCY: Duration = Duration::from_millis(1);

/// The longest that an executor sleeps. glommio 0.9 sleeps on runnable tasks if its preemption timer fires between its
/// poll for I/O and its first task (`run_task_queues` then says that it ran nothing, and `run` parks); only an event
/// of its own wakes it. On a loaded machine a busy test met that once in 3 to 200 runs, and without an end to the sleep
/// the shard would be lost.
const SLEEP_MAX: Duration = Duration::from_millis(20);

/// What most often keeps a shard from starting.
pub(crate) const SHARD_ADVICE: &str = "Its rings need io_uring, some locked memory and descriptors: check `ulimit -l` \
    (1024 or more; LimitMEMLOCK for a service), `ulimit -n` (1024 or more) and the sysctl kernel.io_uring_disabled (0)";

/// A shard's thread.
pub(crate) struct ShardThread(ExecutorJoinHandle<()>);

impl ShardThread {
    /// Waits for the shard to end, and gives the reason if it ended badly.
    pub(crate) fn join(self) -> std::result::Result<(), String> {
        self.0.join().map_err(|error| error.to_string())
    }
}

/// Starts a shard on its core: `body` makes its future on the new thread, and the shard ends with it.
pub(crate) fn spawn_shard<Body, Run>(shard: u16, core: Option<usize>, body: Body) -> Result<ShardThread>
where
    Body: FnOnce(Host) -> Run + Send + 'static,
    Run: Future<Output = ()> + 'static,
{
    let placement = core.map_or(Placement::Unbound, Placement::Fixed);
    LocalExecutorBuilder::new(placement)
        .name(&format!("citius-shard-{shard}"))
        .io_memory(EXECUTOR_MEMORY_BYTES)
        .ring_depth(EXECUTOR_RING_ENTRIES)
        .spawn(move || async move {
            glommio::spawn_local(async {
                loop {
                    glommio::timer::sleep(SLEEP_MAX).await;
                }
            })
            .detach();
            body(Host::new()).await;
        })
        .map(ShardThread)
        .map_err(|error| Error::Shard { shard, reason: error.to_string(), advice: SHARD_ADVICE })
}

/// A shard's way to its executor. Cheap to copy; of no use on another thread.
#[derive(Clone, Copy)]
pub(crate) struct Host {
    requests: TaskQueueHandle,
}

impl Host {
    fn new() -> Self {
        let latency = Latency::Matters(REQUEST_LATENCY);
        Self { requests: glommio::executor().create_task_queue(Shares::Static(REQUEST_SHARES), latency, "requests") }
    }

    /// Runs a task of this shard. A panic in it is reported and ends the task, not the shard.
    pub(crate) fn spawn(self, task: impl Future<Output = ()> + 'static) {
        let spawned = glommio::spawn_local_into(async move { guarded(task).await.unwrap_or(()) }, self.requests);
        match spawned {
            Ok(task) => drop(task.detach()),
            Err(error) => unreachable!("the queue lives as long as the executor: {error}"),
        }
    }

    /// The time in milliseconds since 1970, to a few of them: what a capability's end is compared with.
    pub(crate) fn now_ms(self) -> u64 {
        // The coarse clock is a read of shared memory, a third of the precise one's cost.
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
    }

    /// Lets other tasks run, if they have waited long enough.
    pub(crate) async fn yield_if_needed(self) {
        glommio::executor().yield_if_needed().await;
    }
}

/// Runs a future; a panic in it is logged and gives `None`.
pub(crate) async fn guarded<T>(future: impl Future<Output = T>) -> Option<T> {
    report(AssertUnwindSafe(future).catch_unwind().await)
}

/// As [`guarded`], for what does not wait.
pub(crate) fn guarded_now<T>(body: impl FnOnce() -> T) -> Option<T> {
    report(catch_unwind(AssertUnwindSafe(body)))
}

fn report<T>(result: std::thread::Result<T>) -> Option<T> {
    result
        .inspect_err(|panic| tracing::error!(panic = panic_text(&**panic), "a defect: a task of a shard panicked"))
        .ok()
}

/// The words of a panic.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// A socket of a client, on this shard.
pub(crate) enum Stream {
    /// From another host, or from this one by choice.
    Tcp(TcpStream),
    /// From this host.
    Unix(UnixStream),
}

impl Stream {
    /// Takes over a connected TCP socket.
    #[allow(unsafe_code)]
    pub(crate) fn tcp(socket: OwnedFd) -> Self {
        // SAFETY: the descriptor is owned and given away here, so the stream is its only owner.
        Self::Tcp(unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) })
    }

    /// Takes over a connected Unix socket.
    #[allow(unsafe_code)]
    pub(crate) fn unix(socket: OwnedFd) -> Self {
        // SAFETY: the descriptor is owned and given away here, so the stream is its only owner.
        Self::Unix(unsafe { UnixStream::from_raw_fd(socket.into_raw_fd()) })
    }

    /// Receives what is there, or waits for some; 0 at the end.
    pub(crate) async fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer).await,
            Self::Unix(stream) => stream.read(buffer).await,
        }
    }
}

/// The bell: rung by the shard's ring and by other threads, heard by the pump.
pub(crate) struct Bell {
    file: BufferedFile,
}

impl Bell {
    /// Listens to an eventfd.
    #[allow(unsafe_code)]
    pub(crate) fn new(eventfd: BorrowedFd<'_>) -> io::Result<Self> {
        let own = eventfd.try_clone_to_owned()?;
        // SAFETY: the clone is owned and given away here, so the file is its only owner.
        Ok(Self { file: unsafe { BufferedFile::from_raw_fd(own.into_raw_fd()) } })
    }

    /// Waits until it was rung since the last time.
    pub(crate) async fn heard(&self) {
        // Reading clears the count, so any number of rings is one wake-up. An error (EINTR) is a wake-up for nothing.
        let _ = self.file.read_at(0, size_of::<u64>()).await;
    }
}

/// Rings the bell.
pub(crate) fn ring_bell(eventfd: impl AsFd) {
    // It can only fail with EAGAIN at 2^64 - 2 unheard rings: then it is already rung.
    let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
}
