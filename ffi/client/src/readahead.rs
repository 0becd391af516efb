//! Maps blocks ahead of sequential readers, on a few threads of the client that end when they have nothing to do.
//!
//! Mapping a block has the worker complete it, so that fetching the next blocks overlaps copying this one. What does
//! not fit the queue is not read ahead: the reader maps it when it gets there.

use crate::file::FileState;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Blocks waiting for a thread.
const QUEUE_MAX: usize = 16;
/// Blocks mapped at a time.
const THREADS_MAX: usize = 2;
/// How long a thread waits for work before it ends.
const IDLE: Duration = Duration::from_secs(1);

/// The queue and its threads.
#[derive(Default)]
pub(crate) struct Readahead {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    threads: usize,
    waiting: usize,
    is_stopped: bool,
}

struct Job {
    file: Weak<FileState>,
    index: u32,
}

impl Readahead {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Has a block mapped soon, if there is room.
    pub(crate) fn push(self: &Arc<Self>, file: &Arc<FileState>, index: u32) {
        let mut state = self.state.lock();
        let is_known = |job: &Job| job.index == index && core::ptr::eq(job.file.as_ptr(), Arc::as_ptr(file));
        if state.is_stopped || state.queue.len() >= QUEUE_MAX || state.queue.iter().any(is_known) {
            return;
        }
        state.queue.push_back(Job { file: Arc::downgrade(file), index });
        if state.waiting > 0 {
            self.work.notify_one();
        } else if state.threads < THREADS_MAX {
            let readahead = self.clone();
            let spawned = std::thread::Builder::new().name("citius-readahead".into()).spawn(move || readahead.run());
            // Without a thread nothing is read ahead, and nothing else is amiss.
            match spawned {
                Ok(_) => state.threads += 1,
                Err(_) if state.threads == 0 => state.queue.clear(),
                Err(_) => {}
            }
        }
    }

    /// Forgets what waits and ends the threads.
    pub(crate) fn stop(&self) {
        let mut state = self.state.lock();
        state.is_stopped = true;
        state.queue.clear();
        self.work.notify_all();
    }

    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                // The file may be the last owner of the client, whose end takes this lock.
                parking_lot::MutexGuard::unlocked(&mut state, || {
                    if let Some(file) = job.file.upgrade() {
                        file.map_ahead(job.index);
                    }
                });
                continue;
            }
            if state.is_stopped {
                break;
            }
            state.waiting += 1;
            let timed_out = self.work.wait_for(&mut state, IDLE).timed_out();
            state.waiting -= 1;
            if timed_out && state.queue.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }
}
