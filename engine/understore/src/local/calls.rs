//! Blocking calls of one mount: bounded in number, and in the time that anybody waits for them.
//!
//! A call into a file system whose server is away does not come back, and cannot be taken back: its thread waits with it.
//! So at most [`CALLS_MAX`] threads are out for each mount; who asks is told after a while that no answer came; and while
//! a call is overdue, others are given up much sooner, so that few wait for nothing. The first overdue call
//! that comes back ends that.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

/// Calls of one mount at once; the others wait without a thread.
const CALLS_MAX: usize = 32;

/// How long calls are waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For a look at one thing: less than clients wait, so that they hear why.
    pub(super) look: Duration,
    /// For a change, or a look at all names of a directory: a tree to delete, a terabyte to sync.
    pub(super) work: Duration,
    /// For either while another call is overdue.
    pub(super) overdue: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { look: Duration::from_secs(15), work: Duration::from_secs(300), overdue: Duration::from_secs(1) }
    }
}

/// What a call does, which says how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// It looks at one thing.
    Look,
    /// It changes something, or looks at many things.
    Work,
}

/// The blocking calls of a mount.
#[derive(Debug)]
pub(super) struct Calls {
    permits: Arc<Semaphore>,
    patience: Patience,
    /// Calls that were given up and are not back.
    overdue: Arc<AtomicUsize>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// The call did not come back, or found no thread, for so long.
    Late(Duration),
    /// The runtime ends.
    Ending,
}

impl Calls {
    pub(super) fn new(patience: Patience) -> Self {
        Self { permits: Arc::new(Semaphore::new(CALLS_MAX)), patience, overdue: Arc::default() }
    }

    /// Runs `work` on a blocking thread. Without an answer it may still be done, at any later time.
    pub(super) async fn make<T: Send + 'static>(
        &self,
        call: Call,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let patience = self.patience(call);
        let deadline = Instant::now() + patience;
        let late = |_| NoAnswer::Late(patience);
        let permit = timeout_at(deadline, Arc::clone(&self.permits).acquire_owned()).await.map_err(late)?;
        let permit = permit.expect("the semaphore is never closed");
        // Set by whichever comes first: the end of the call, or of the patience.
        let (ended, overdue) = (Arc::new(AtomicBool::new(false)), Arc::clone(&self.overdue));
        let end = Arc::clone(&ended);
        let task = tokio::task::spawn_blocking(move || {
            let _back = Back { end, overdue };
            let _permit = permit;
            work()
        });
        match timeout_at(deadline, task).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(NoAnswer::Ending),
            },
            Err(elapsed) => {
                self.overdue.fetch_add(1, Ordering::AcqRel);
                if ended.swap(true, Ordering::AcqRel) {
                    self.overdue.fetch_sub(1, Ordering::AcqRel);
                }
                Err(late(elapsed))
            }
        }
    }

    fn patience(&self, call: Call) -> Duration {
        match call {
            _ if self.overdue.load(Ordering::Acquire) > 0 => self.patience.overdue,
            Call::Look => self.patience.look,
            Call::Work => self.patience.work,
        }
    }
}

/// Tells that a call is back, also if it panics.
struct Back {
    end: Arc<AtomicBool>,
    overdue: Arc<AtomicUsize>,
}

impl Drop for Back {
    fn drop(&mut self) {
        if self.end.swap(true, Ordering::AcqRel) {
            self.overdue.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Patience = Patience {
        look: Duration::from_millis(60),
        work: Duration::from_secs(3600),
        overdue: Duration::from_millis(20),
    };

    /// A call of a file system that is away, until what is given with it is dropped.
    fn hang(calls: &Arc<Calls>, call: Call) -> (tokio::task::JoinHandle<Result<(), NoAnswer>>, mpsc::Sender<()>) {
        let (back, away) = mpsc::channel::<()>();
        let calls = Arc::clone(calls);
        let wait = move || assert!(away.recv().is_err(), "nobody sends anything");
        (tokio::spawn(async move { calls.make(call, wait).await }), back)
    }

    fn is_late(answer: &Result<(), NoAnswer>, after: Duration) -> bool {
        matches!(answer, Err(NoAnswer::Late(time)) if *time == after)
    }

    #[tokio::test]
    async fn who_asks_is_told_and_later_ones_sooner_until_it_is_back() {
        let calls = Arc::new(Calls::new(PATIENCE));
        let (first, first_back) = hang(&calls, Call::Look);
        assert!(is_late(&first.await.unwrap(), PATIENCE.look));
        let (second, second_back) = hang(&calls, Call::Work);
        assert!(is_late(&second.await.unwrap(), PATIENCE.overdue));
        drop((first_back, second_back));
        while calls.overdue.load(Ordering::Acquire) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(calls.patience(Call::Work), PATIENCE.work);
        assert_eq!(calls.make(Call::Work, || 7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn no_more_threads_are_out_than_may() {
        let calls = Arc::new(Calls::new(PATIENCE));
        let out: Vec<_> = (0..CALLS_MAX).map(|_| hang(&calls, Call::Work)).collect();
        while calls.permits.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(is_late(&calls.make(Call::Look, || unreachable!("there is no thread")).await, PATIENCE.look));
        for (asked, back) in out {
            drop(back);
            asked.await.unwrap().unwrap();
        }
        calls.make(Call::Work, || ()).await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_comes_to_who_asked() {
        let calls = Arc::new(Calls::new(PATIENCE));
        let asking = Arc::clone(&calls);
        let asked = tokio::spawn(async move { asking.make(Call::Work, || panic!("a test's own")).await });
        assert!(asked.await.unwrap_err().is_panic());
        assert_eq!(calls.overdue.load(Ordering::Acquire), 0);
    }
}
