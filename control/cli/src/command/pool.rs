//! A few threads that do the tasks of a command as they are found, and collect what failed.

use crate::error::CliError;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// What a run of a pool came to.
pub(crate) struct Sum {
    /// Tasks that went well.
    pub(crate) done: u64,
    /// What failed, the first [`FAILURES_KEPT`] of it.
    pub(crate) failures: Vec<CliError>,
    /// How many failed.
    pub(crate) failed: u64,
}

/// Failures that are kept for the end.
const FAILURES_KEPT: usize = 20;

impl Sum {
    /// The end of a command: said in full, as failure of all or of a part.
    pub(crate) fn into_result(mut self, what: &str) -> Result<(), CliError> {
        let Some(last) = self.failures.pop() else { return Ok(()) };
        self.failures.iter().for_each(|error| error.report(false));
        if self.done == 0 && self.failed == 1 {
            return Err(last);
        }
        last.report(false);
        Err(CliError::partial(format!("{} {what}, {} failed", self.done, self.failed)))
    }
}

/// Where tasks go as they are found, and what could not be found.
pub(crate) type Tasks<Task> = SyncSender<Result<Task, CliError>>;

/// Runs `one` on `threads` threads for each task that `find` sends; `find` runs on this thread.
pub(crate) fn run<Task: Send>(
    threads: u16,
    find: impl FnOnce(&Tasks<Task>) -> Result<(), CliError>,
    one: impl Fn(Task) -> Result<(), CliError> + Sync,
) -> Sum {
    let (sender, receiver) = sync_channel::<Result<Task, CliError>>(usize::from(threads) * 4);
    let receiver = Mutex::new(receiver);
    let sum = Mutex::new(Sum { done: 0, failures: Vec::new(), failed: 0 });
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(task) = next(&receiver) {
                    note(&sum, task.and_then(&one));
                }
            });
        }
        let found = find(&sender);
        drop(sender);
        if let Err(error) = found {
            note(&sum, Err(error));
        }
    });
    sum.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn next<Task>(receiver: &Mutex<Receiver<Task>>) -> Option<Task> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

fn note(sum: &Mutex<Sum>, result: Result<(), CliError>) {
    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
    match result {
        Ok(()) => sum.done += 1,
        Err(error) => {
            sum.failed += 1;
            if sum.failures.len() < FAILURES_KEPT {
                sum.failures.push(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_done_once_and_failures_are_counted() {
        let seen = Mutex::new(Vec::new());
        let sum = run(
            3,
            |tasks| {
                (0..1000).for_each(|i| tasks.send(Ok(i)).unwrap());
                tasks.send(Err(CliError::failure("not found"))).unwrap();
                Ok(())
            },
            |i| {
                seen.lock().unwrap().push(i);
                if i % 10 == 0 { Err(CliError::failure(i.to_string())) } else { Ok(()) }
            },
        );
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..1000));
        assert_eq!((sum.done, sum.failed, sum.failures.len()), (900, 101, FAILURES_KEPT));
        assert_eq!(sum.into_result("copied").unwrap_err().code(), 7);
    }
}
