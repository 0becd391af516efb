//! What masters remember of workers without logging it: when each was last heard of, what it counted, what it is to do.
//!
//! All of it is lost with the master, and none of it is missed: heartbeats bring the counters again, and a worker names
//! the unpersisted files it holds ([`citius_wire::Heartbeat::dirty`]), so lost tasks are given again.
//!
//! Tasks of a worker are numbered by their place in a queue whose first number follows what the worker says it has done.
//! A master that starts anew takes the numbers up from there.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use citius_wire::{Counters, FileKey, Heartbeat, Incarnation, MountId, MountTraffic, Ring, Task, Work, WorkerId};
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;

/// Tasks that wait for one worker. More are dropped: the worker will ask about the files.
pub(crate) const TASKS_MAX: usize = 65_536;
/// Tasks in the answer to one heartbeat.
pub(crate) const TASKS_PER_REPLY_MAX: usize = 4_096;

/// The largest number of a task that a worker may say it has done: what follows it can be counted for ever.
pub(crate) const TASK_NUMBER_MAX: u64 = u64::MAX / 2;

/// All workers heard of in this life of the master.
#[derive(Default)]
pub(crate) struct Roster {
    workers: Mutex<HashMap<WorkerId, Heard>>,
}

/// What is remembered of a worker.
struct Heard {
    incarnation: Incarnation,
    at: Instant,
    counters: Counters,
    traffic: Vec<MountTraffic>,
    queue: VecDeque<Work>,
    /// Files that a task in the queue is about.
    queued: HashSet<FileKey>,
    /// The number of the first task in the queue; `None` until the worker said how many it has done.
    first_number: Option<u64>,
}

/// What was last heard of a worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastHeard {
    pub(crate) ago: Duration,
    pub(crate) counters: Counters,
}

const fn subject(work: &Work) -> FileKey {
    match *work {
        Work::Rekey { from, .. } => from,
        Work::Drop { file } => file,
    }
}

impl Heard {
    fn new(incarnation: Incarnation, now: Instant) -> Self {
        Self {
            incarnation,
            at: now,
            counters: Counters::default(),
            traffic: Vec::new(),
            queue: VecDeque::new(),
            queued: HashSet::new(),
            first_number: None,
        }
    }

    fn push(&mut self, work: Work) {
        if self.queue.len() < TASKS_MAX && self.queued.insert(subject(&work)) {
            self.queue.push_back(work);
        }
    }

    /// Takes out what is done and gives what is next.
    fn turn_over(&mut self, task_done: u64) -> Vec<Task> {
        let mut first = *self.first_number.get_or_insert(task_done.saturating_add(1));
        while first <= task_done
            && let Some(work) = self.queue.pop_front()
        {
            self.queued.remove(&subject(&work));
            first += 1;
        }
        // A worker that claims to have done what it was never given: its count is the truth from here on.
        first = first.max(task_done.saturating_add(1));
        self.first_number = Some(first);
        let works = self.queue.iter().take(TASKS_PER_REPLY_MAX);
        works.zip(first..).map(|(work, number)| Task { number, work: work.clone() }).collect()
    }
}

impl Roster {
    /// A life of a worker begins here.
    pub(crate) fn enter(&self, worker: WorkerId, incarnation: Incarnation, now: Instant) {
        let mut workers = self.workers.lock();
        let heard = workers.entry(worker).or_insert_with(|| Heard::new(incarnation, now));
        if heard.incarnation != incarnation {
            *heard = Heard::new(incarnation, now);
        }
        heard.at = now;
    }

    /// Takes in a heartbeat of a worker in the ring. `questions` are works that its unpersisted files call for. Gives its
    /// tasks.
    pub(crate) fn hear(&self, beat: &Heartbeat, questions: impl Iterator<Item = Work>, now: Instant) -> Vec<Task> {
        self.enter(beat.worker, beat.incarnation, now);
        let mut workers = self.workers.lock();
        let Some(heard) = workers.get_mut(&beat.worker) else { return Vec::new() };
        heard.counters = beat.counters;
        heard.traffic.clone_from(&beat.traffic);
        // First what is done, so that a file can be asked about anew; then the questions behind what waits.
        heard.turn_over(beat.task_done);
        questions.for_each(|work| heard.push(work));
        heard.turn_over(beat.task_done)
    }

    /// Gives a task to every member of a ring that is heard of in the life that the ring knows.
    pub(crate) fn assign(&self, ring: &Ring, work: &Work) {
        let mut workers = self.workers.lock();
        for member in &ring.members {
            if let Some(heard) = workers.get_mut(&member.worker).filter(|it| it.incarnation == member.incarnation) {
                heard.push(work.clone());
            }
        }
    }

    /// When a life of a worker was last heard of; `None` if never.
    pub(crate) fn last_heard(&self, worker: WorkerId, incarnation: Incarnation, now: Instant) -> Option<LastHeard> {
        let workers = self.workers.lock();
        let heard = workers.get(&worker).filter(|heard| heard.incarnation == incarnation)?;
        Some(LastHeard { ago: now.saturating_duration_since(heard.at), counters: heard.counters })
    }

    /// What all workers read and wrote of each mount since each started.
    pub(crate) fn traffic(&self) -> HashMap<MountId, MountTraffic> {
        let mut sums: HashMap<MountId, MountTraffic> = HashMap::new();
        for traffic in self.workers.lock().values().flat_map(|heard| &heard.traffic) {
            let start = MountTraffic { mount: traffic.mount, ..MountTraffic::default() };
            sums.entry(traffic.mount).or_insert(start).add(traffic);
        }
        sums
    }

    /// Forgets workers that the state does not know. One that was heard of lately may be on its way into the state.
    pub(crate) fn retain(&self, is_known: impl Fn(WorkerId) -> bool, now: Instant, lately: Duration) {
        let is_recent = |heard: &Heard| now.saturating_duration_since(heard.at) <= lately;
        self.workers.lock().retain(|worker, heard| is_known(*worker) || is_recent(heard));
    }

    /// Tasks that wait, of all workers.
    pub(crate) fn tasks_waiting(&self) -> u64 {
        self.workers.lock().values().map(|heard| heard.queue.len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(task_done: u64) -> Heartbeat {
        Heartbeat {
            worker: WorkerId(1),
            incarnation: Incarnation(1),
            view_version: 0,
            task_done,
            counters: Counters::default(),
            traffic: Vec::new(),
            dirty: Vec::new(),
            leaving: false,
        }
    }

    fn drop_of(i: u8) -> Work {
        Work::Drop { file: FileKey([i; 16]) }
    }

    fn numbers(tasks: &[Task]) -> Vec<u64> {
        tasks.iter().map(|task| task.number).collect()
    }

    #[test]
    fn tasks_are_repeated_until_done_and_numbered_after_what_the_worker_did() {
        let (roster, now) = (Roster::default(), Instant::now());
        // A master that starts anew meets a worker that has done 57 tasks for the one before it.
        let first = roster.hear(&beat(57), [drop_of(1), drop_of(2)].into_iter(), now);
        assert_eq!(numbers(&first), [58, 59]);
        assert_eq!(roster.hear(&beat(57), [drop_of(1)].into_iter(), now), first, "asked again, it waits already");
        let rest = roster.hear(&beat(58), std::iter::empty(), now);
        assert_eq!((numbers(&rest), &rest[0].work), (vec![59], &drop_of(2)));
        assert_eq!(numbers(&roster.hear(&beat(59), [drop_of(1)].into_iter(), now)), [60]);
        assert!(roster.hear(&beat(1_000), std::iter::empty(), now).is_empty());
        assert_eq!(numbers(&roster.hear(&beat(1_000), [drop_of(1)].into_iter(), now)), [1_001]);
    }

    /// A worker is entered before the log has it: forgetting it in between would lose its first tasks.
    #[test]
    fn who_registers_just_now_is_not_forgotten() {
        let (roster, now, lately) = (Roster::default(), Instant::now(), Duration::from_secs(10));
        roster.enter(WorkerId(1), Incarnation(1), now);
        roster.retain(|_| false, now + lately, lately);
        assert!(roster.last_heard(WorkerId(1), Incarnation(1), now).is_some());
        roster.retain(|_| false, now + 2 * lately, lately);
        assert!(roster.last_heard(WorkerId(1), Incarnation(1), now).is_none());
    }

    #[test]
    fn the_queue_is_bounded_and_a_new_life_has_none() {
        let (roster, now) = (Roster::default(), Instant::now());
        let many = (0..TASKS_MAX as u32 + 10).map(|i| {
            let mut key = [0; 16];
            key[..4].copy_from_slice(&i.to_le_bytes());
            Work::Drop { file: FileKey(key) }
        });
        assert_eq!(roster.hear(&beat(0), many, now).len(), TASKS_PER_REPLY_MAX);
        assert_eq!(roster.tasks_waiting(), TASKS_MAX as u64);
        roster.enter(WorkerId(1), Incarnation(2), now);
        assert_eq!(roster.tasks_waiting(), 0);
    }
}
