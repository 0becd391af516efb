//! Sessions: the answers that clients were given, so that a retry after a lost answer gets the answer of its first try.
//!
//! Bounded three ways: answers a client (the lowest serials go first), clients (the one that was quiet longest goes
//! first, as the log saw it), and answers in all (whole quiet clients go). A serial at or below one whose answer was
//! dropped is refused: whether it was done can no longer be told.

use super::command::{Caller, Reply};
use citius_wire::{ClientId, Failure, OPERATIONS_MAX, Serial, Status};
use lru::LruCache;
use std::collections::VecDeque;

/// The most answers kept for one client: one batch.
pub const ANSWERS_PER_CLIENT_MAX: usize = 4096;
/// The most clients.
pub const CLIENTS_MAX: usize = 10_000;
/// The most answers in all.
pub const ANSWERS_MAX: usize = 1 << 20;

const _: () = assert!(ANSWERS_PER_CLIENT_MAX >= OPERATIONS_MAX, "a batch can be retried whole");
const _: () = assert!(ANSWERS_MAX > ANSWERS_PER_CLIENT_MAX, "the client that asks is never the one to go");

/// What a command gave.
pub type Answer = Result<Reply, Failure>;

/// The answers of one client, by serial.
#[derive(Default)]
pub(super) struct Session {
    pub(super) answers: VecDeque<(Serial, Answer)>,
    /// Serials up to here were dropped.
    pub(super) floor: Serial,
}

/// All sessions, ordered by when the log last saw them.
pub(super) struct Sessions {
    by_client: LruCache<ClientId, Session>,
    answers_count: usize,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Self { by_client: LruCache::unbounded(), answers_count: 0 }
    }

    /// The answer that a serial was given.
    ///
    /// # Errors
    /// `TimedOut` if it was dropped.
    pub(super) fn answer(&self, caller: Caller) -> Result<Option<&Answer>, Failure> {
        let Some(session) = self.by_client.peek(&caller.client) else { return Ok(None) };
        match session.search(caller.serial) {
            Ok(i) => Ok(Some(&session.answers[i].1)),
            Err(_) if caller.serial <= session.floor && session.floor > Serial(0) => Err(Failure::new(
                Status::TimedOut,
                format!(
                    "operation {} of this client was sent again too late to tell whether it was done: look at its \
                     path before you try anew",
                    caller.serial
                ),
            )),
            Err(_) => Ok(None),
        }
    }

    /// Keeps the answer of a serial that has none.
    pub(super) fn record(&mut self, caller: Caller, answer: Answer) {
        let session = self.by_client.get_or_insert_mut(caller.client, Session::default);
        match session.search(caller.serial) {
            Ok(_) => unreachable!("a serial is answered once"),
            Err(i) => session.answers.insert(i, (caller.serial, answer)),
        }
        self.answers_count += 1;
        if session.answers.len() > ANSWERS_PER_CLIENT_MAX
            && let Some((dropped, _)) = session.answers.pop_front()
        {
            session.floor = dropped;
            self.answers_count -= 1;
        }
        while self.by_client.len() > CLIENTS_MAX || self.answers_count > ANSWERS_MAX {
            let (_, quiet) = self.by_client.pop_lru().expect("there is a client");
            self.answers_count -= quiet.answers.len();
        }
    }

    /// Puts another answer in the place of one that is still kept, or takes it away.
    pub(super) fn amend(&mut self, caller: Caller, answer: Option<Answer>) {
        let Some(session) = self.by_client.peek_mut(&caller.client) else { return };
        let Ok(i) = session.search(caller.serial) else { return };
        match answer {
            Some(answer) => session.answers[i].1 = answer,
            None => {
                session.answers.remove(i);
                self.answers_count -= 1;
            }
        }
    }

    /// All sessions, the quietest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&ClientId, &Session)> {
        self.by_client.iter().rev()
    }

    /// Enters a session that was stored; they come in the order of [`Sessions::iter`]. Whether it is a valid one.
    pub(super) fn restore(&mut self, client: ClientId, session: Session) -> bool {
        let sorted = session.answers.iter().is_sorted_by(|a, b| a.0 < b.0);
        let above_floor =
            session.floor == Serial(0) || session.answers.iter().all(|(serial, _)| *serial > session.floor);
        self.answers_count += session.answers.len();
        let in_bounds = session.answers.len() <= ANSWERS_PER_CLIENT_MAX;
        self.by_client.put(client, session).is_none() && sorted && above_floor && in_bounds
    }

    pub(super) fn validate(&self) {
        assert!(self.by_client.len() <= CLIENTS_MAX && self.answers_count <= ANSWERS_MAX);
        assert_eq!(self.answers_count, self.iter().map(|(_, session)| session.answers.len()).sum::<usize>());
        for (_, session) in self.iter() {
            assert!(session.answers.len() <= ANSWERS_PER_CLIENT_MAX);
            assert!(session.answers.iter().is_sorted_by(|a, b| a.0 < b.0), "serials grow");
        }
    }
}

impl Session {
    /// Serials come nearly in order, so the end is looked at first.
    fn search(&self, serial: Serial) -> Result<usize, usize> {
        match self.answers.back() {
            None => Err(0),
            Some((last, _)) if *last < serial => Err(self.answers.len()),
            Some(_) => self.answers.binary_search_by_key(&serial, |(serial, _)| *serial),
        }
    }
}
