//! A few threads that do the tasks of a command as they are found, and collect what failed.

use crate::args::Reach;
use crate::error::CliError;
use crate::output::{human_bytes, json_line, say};
use serde_json::json;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// What the tasks of a command came to.
#[derive(Default)]
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
    /// Counts one task.
    pub(crate) fn note(&mut self, result: Result<(), CliError>) {
        match result {
            Ok(()) => self.done += 1,
            Err(error) => {
                self.failed += 1;
                if self.failures.len() < FAILURES_KEPT {
                    self.failures.push(error);
                }
            }
        }
    }

    /// The end of a command that moved `bytes`: says what was done, and gives the failure of all or of a part. `what` was
    /// done is one word, as in `copied`.
    pub(crate) fn end(mut self, reach: &Reach, what: &str, bytes: u64) -> Result<(), CliError> {
        if reach.json {
            let sum = json!({ "files": self.done, "failed": self.failed, "bytes": bytes });
            json_line(&mut std::io::stdout().lock(), &sum)?;
        } else if !reach.quiet && (self.done > 0 || self.failed == 0) {
            say!("{what} {} in {} file(s)", human_bytes(bytes), self.done);
        }
        match self.failures.pop() {
            None => Ok(()),
            Some(only) if self.done == 0 && self.failed == 1 => Err(only),
            Some(last) => {
                self.failures.push(last);
                let words = format!("{} files {what}, {} failed", self.done, self.failed);
                Err(CliError::partial(words).behind(self.failures))
            }
        }
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
    let sum = Mutex::new(Sum::default());
    let note = |result| sum.lock().unwrap_or_else(PoisonError::into_inner).note(result);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(task) = next(&receiver) {
                    note(task.and_then(&one));
                }
            });
        }
        let found = find(&sender);
        drop(sender);
        if let Err(error) = found {
            note(Err(error));
        }
    });
    sum.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn next<Task>(receiver: &Mutex<Receiver<Task>>) -> Option<Task> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

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
        let reach =
            Reach { home: None, master: None, token_file: None, json: false, quiet: true, timeout: Duration::ZERO };
        assert_eq!(sum.end(&reach, "copied", 0).unwrap_err().code(), 7);
    }
}
