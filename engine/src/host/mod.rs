//! The host of a shard: one pinned executor that sleeps in the shard's own io_uring. The only module that knows glommio.
//!
//! ```text
//!   shard thread                                             one queue of tasks, first in, first out
//!   | pump: yield ... yield | task | task | pump: yield, nobody ran: sleep in the ring | reap, wake | ...
//!                                                    ^ completions, readiness of sockets, the bell
//! ```
//!
//! All that a task waits for comes through the shard's ring, so the executor's own rings stay idle: going to sleep in
//! glommio 0.9 costs four system calls and two timers, which at 32 small reads a wake is a third of their CPU time.
//! The pump is always ready to run, so glommio itself never sleeps. Another thread that wakes a task leaves it to the
//! pump and rings the bell, an eventfd that the ring polls.
//!
//! Other facts about glommio 0.9 that shape this file: a panic in a task kills the executor (so [`guarded`] catches
//! them), and its own buffers count against RLIMIT_MEMLOCK (so they are small).

mod wakes;

use crate::error::{Error, Result};
use crate::host::wakes::Wakes;
use futures::FutureExt;
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use rustix::event::{EventfdFlags, eventfd};
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// Bytes that the executor registers with its own ring; we read and write through ours.
const EXECUTOR_MEMORY_BYTES: usize = 64 << 10;
/// Submissions that the executor's own ring holds.
const EXECUTOR_RING_ENTRIES: usize = 256;

/// The executor's preemption timer: longer than any process lives. Tasks here give way of their own accord; and when the
/// timer of glommio 0.9 fires between its poll for I/O and its first task, it takes its full queue for an empty one and
/// sleeps on it (`run_task_queues` says that it ran nothing). A busy test met that once in 3 to 200 runs at 1 ms.
const PREEMPTION: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

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
    Body: FnOnce() -> Run + Send + 'static,
    Run: Future<Output = ()> + 'static,
{
    let placement = core.map_or(Placement::Unbound, Placement::Fixed);
    LocalExecutorBuilder::new(placement)
        .name(&format!("citius-shard-{shard}"))
        .io_memory(EXECUTOR_MEMORY_BYTES)
        .ring_depth(EXECUTOR_RING_ENTRIES)
        .preempt_timer(PREEMPTION)
        .spawn(move || async move { body().await })
        .map(ShardThread)
        .map_err(|error| Error::Shard { shard, reason: error.to_string(), advice: SHARD_ADVICE })
}

/// A shard's way to its executor. One counter to clone; of no use on another thread.
#[derive(Clone)]
pub(crate) struct Host {
    wakes: Rc<Wakes>,
}

impl Host {
    /// Of this thread's executor; `bell` is rung when another thread wakes one of its tasks.
    pub(crate) fn new(bell: OwnedFd) -> Self {
        Self { wakes: Rc::new(Wakes::new(bell)) }
    }

    /// Runs a task of this shard. A panic in it is reported and ends the task, not the shard.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let counted = self.wakes.counted(async move { guarded(task).await.unwrap_or(()) });
        drop(glommio::spawn_local(counted).detach());
    }

    /// Lets every task run that can; true if one did. For the pump, which sleeps once none does.
    ///
    /// All tasks are in one queue, first in, first out: those that could run when the pump yielded are before it.
    pub(crate) async fn turn(&self) -> bool {
        let before = self.wakes.polls();
        self.yield_now().await;
        self.wakes.polls() != before
    }

    /// Wakes the tasks that other threads woke.
    pub(crate) fn take_wakes(&self) {
        self.wakes.deliver();
    }

    /// The time in milliseconds since 1970, to a few of them: what a capability's end is compared with.
    pub(crate) fn now_ms(&self) -> u64 {
        // The coarse clock is a read of shared memory, a third of the precise one's cost.
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
    }

    /// Goes to the end of the queue of tasks.
    pub(crate) async fn yield_now(&self) {
        let mut is_second = false;
        std::future::poll_fn(|context| {
            if std::mem::replace(&mut is_second, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
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

/// A bell: an eventfd.
pub(crate) fn new_bell() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Silences the bell: any number of rings is one.
pub(crate) fn silence_bell(bell: impl AsFd) {
    // It fails only if it was not rung, and then it is silent.
    let _ = rustix::io::read(bell, &mut [0; size_of::<u64>()]);
}

/// Rings the bell.
pub(crate) fn ring_bell(eventfd: impl AsFd) {
    // It can only fail with EAGAIN at 2^64 - 2 unheard rings: then it is already rung.
    let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
}
