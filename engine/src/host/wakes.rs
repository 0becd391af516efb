//! Wakes of a shard's tasks, from its own thread and from others.
//!
//! A wake on the shard's thread goes straight to the executor. One from another thread is queued, and the bell is rung:
//! the pump, which may be asleep in the ring, delivers it.

use super::ring_bell;
use std::cell::Cell;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};
use std::thread::ThreadId;

/// What the wakers of a shard's tasks share.
pub(super) struct Wakes {
    polls: Rc<Cell<u64>>,
    elsewhere: Arc<Elsewhere>,
}

/// What other threads may touch of it.
struct Elsewhere {
    shard: ThreadId,
    /// Tasks to be woken, each once.
    woken: Mutex<Vec<Arc<TaskWaker>>>,
    bell: OwnedFd,
}

/// The waker of a task.
struct TaskWaker {
    task: Waker,
    /// Whether it is among those to be woken.
    is_queued: AtomicBool,
    elsewhere: Arc<Elsewhere>,
}

thread_local! {
    static THREAD: ThreadId = std::thread::current().id();
}

impl Wakes {
    /// Of the calling thread.
    pub(super) fn new(bell: OwnedFd) -> Self {
        let elsewhere = Elsewhere { shard: std::thread::current().id(), woken: Mutex::default(), bell };
        Self { polls: Rc::default(), elsewhere: Arc::new(elsewhere) }
    }

    /// How often tasks were run.
    pub(super) fn polls(&self) -> u64 {
        self.polls.get()
    }

    /// A task whose runs are counted and which any thread may wake.
    pub(super) fn counted<Task: Future>(&self, task: Task) -> impl Future<Output = Task::Output> + use<Task> {
        let (polls, elsewhere) = (Rc::clone(&self.polls), Arc::clone(&self.elsewhere));
        async move {
            let mut task = pin!(task);
            let mut waker: Option<(Waker, Waker)> = None;
            std::future::poll_fn(move |context| {
                polls.set(polls.get().wrapping_add(1));
                let (_, own) = match &mut waker {
                    Some(known) if known.0.will_wake(context.waker()) => known,
                    stale => {
                        let task = context.waker().clone();
                        let own = TaskWaker {
                            task: task.clone(),
                            is_queued: AtomicBool::new(false),
                            elsewhere: Arc::clone(&elsewhere),
                        };
                        stale.insert((task, Waker::from(Arc::new(own))))
                    }
                };
                task.as_mut().poll(&mut Context::from_waker(own))
            })
            .await
        }
    }

    /// Wakes what other threads woke.
    pub(super) fn deliver(&self) {
        let woken = std::mem::take(&mut *self.elsewhere.woken.lock().unwrap_or_else(PoisonError::into_inner));
        for waker in woken {
            // Before the wake: what comes after it must be queued anew.
            waker.is_queued.store(false, Ordering::Release);
            waker.task.wake_by_ref();
        }
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if THREAD.with(|thread| *thread == self.elsewhere.shard) {
            self.task.wake_by_ref();
            return;
        }
        if self.is_queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut woken = self.elsewhere.woken.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = woken.is_empty();
        woken.push(Arc::clone(self));
        drop(woken);
        if is_first {
            ring_bell(&self.elsewhere.bell);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::host::new_bell;
    use std::sync::atomic::AtomicUsize;
    use std::task::Poll;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_wake_from_elsewhere_rings_the_bell_and_waits_for_the_pump() {
        let bell = new_bell().unwrap();
        let wakes = Wakes::new(bell.try_clone().unwrap());
        let count = Arc::new(Count::default());
        let (given, own) = (Cell::new(None), Waker::from(Arc::clone(&count)));
        {
            let mut task = pin!(wakes.counted(std::future::poll_fn(|context| {
                given.set(Some(context.waker().clone()));
                Poll::<()>::Pending
            })));
            assert!(task.as_mut().poll(&mut Context::from_waker(&own)).is_pending());
        }
        let waker = given.take().unwrap();
        assert_eq!(wakes.polls(), 1);

        waker.wake_by_ref();
        assert_eq!(count.0.load(Ordering::Relaxed), 1, "on the shard's own thread it is woken at once");
        assert!(rustix::io::read(&bell, &mut [0; 8]).is_err(), "and no bell is rung");

        let other = waker;
        std::thread::spawn(move || (0..3).for_each(|_| other.wake_by_ref())).join().unwrap();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        let mut rings = [0; 8];
        rustix::io::read(&bell, &mut rings).unwrap();
        assert_eq!(u64::from_ne_bytes(rings), 1, "one ring for all that wait together");
        wakes.deliver();
        assert_eq!(count.0.load(Ordering::Relaxed), 2, "and one wake");
    }
}
