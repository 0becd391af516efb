//! The commands that stay: `local`, `master`, `worker`. They put the parts together and own their ends.
//!
//! Each holds its home, starts what it runs on a tokio runtime that keeps off the shards' cores, says on standard error
//! what is ready and what to try next, and ends on SIGINT or SIGTERM: what is under way is finished, and the exit code
//! is 0.

mod cores;
pub(crate) mod mounts;
mod processes;

pub(crate) use processes::{run_local, run_master, run_worker};

use crate::error::CliError;
use cores::Cores;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

/// Threads of tokio beside the shards.
const RUNTIME_THREADS_MAX: usize = 4;
/// Threads for blocking calls: stats and opens of local under-stores.
const BLOCKING_THREADS_MAX: usize = 64;

fn runtime(cores: &Cores) -> Result<Runtime, CliError> {
    let cores = cores.clone();
    Builder::new_multi_thread()
        .worker_threads(cores.rest.len().clamp(2, RUNTIME_THREADS_MAX))
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("citius-runtime")
        .on_thread_start(move || cores.leave_shards_alone())
        .enable_all()
        .build()
        .map_err(|error| CliError::failure(format!("the runtime cannot start: {error}")))
}

/// Waits for SIGINT or SIGTERM.
async fn told_to_end() -> Result<(), CliError> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// This host's name, by which clients tell that a worker is local.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A number that no earlier life of this worker had: the time it began.
fn incarnation() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |since| since.as_micros() as u64)
}
