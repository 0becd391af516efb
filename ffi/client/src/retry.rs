//! Whether a failed attempt is worth another, and when.

use crate::client::Shared;
use crate::connection::Fault;
use crate::deadline::{Backoff, Deadline};
use crate::error::Error;
use crate::peer::Peer;
use crate::stats::{Stats, add};
use citius_wire::Status;
use core::time::Duration;
use std::time::Instant;

/// The attempts of one call.
pub(crate) struct Retry<'a> {
    deadline: Deadline,
    backoff: Backoff,
    /// Whether a connection that had been idle may still turn out broken without costing a pause.
    forgives_idle: bool,
    /// Why the last attempt failed, if by more than a lack of time.
    last: Option<Error>,
    /// How long a peer may refuse connections: one that is not there moves no bytes, however long a transfer may take.
    absence_max: Duration,
    absent_since: Option<Instant>,
    stats: &'a Stats,
}

impl<'a> Retry<'a> {
    pub(crate) fn new(deadline: Deadline, client: &'a Shared) -> Self {
        Self {
            deadline,
            backoff: Backoff::new(deadline),
            forgives_idle: true,
            last: None,
            absence_max: client.config.timeout,
            absent_since: None,
            stats: &client.stats,
        }
    }

    /// Returns when it is time to try again.
    ///
    /// # Errors
    /// The end of the call, if trying again cannot help or no time is left.
    pub(crate) fn after(&mut self, fault: Fault, peer: &Peer, was_idle: bool) -> Result<(), Error> {
        let is_broken_idle = was_idle && matches!(fault, Fault::Broken(_));
        if is_broken_idle {
            peer.close_idle();
        }
        let retryable = is_retryable(&fault);
        let is_absent = matches!(fault, Fault::Refused(_));
        let error = Error::of_fault(fault, peer.name());
        if !retryable {
            return Err(error);
        }
        if is_broken_idle && self.forgives_idle() {
            return Ok(());
        }
        if is_absent {
            return self.pause_for_absent(error);
        }
        self.absent_since = None;
        self.pause(error)
    }

    /// As [`Retry::pause`], after an error that says that nobody is there, time after time.
    ///
    /// # Errors
    /// `error`, if no time is left, or nobody was there for as long as a call may take that moves no bytes.
    pub(crate) fn pause_for_absent(&mut self, error: Error) -> Result<(), Error> {
        let since = *self.absent_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= self.absence_max {
            return Err(error.out_of_time(self.absence_max));
        }
        self.pause(error)
    }

    /// Whether to try again at once because an idle connection was broken. `true` once: a peer that restarted breaks
    /// them all, and the next one is new.
    pub(crate) fn forgives_idle(&mut self) -> bool {
        let forgives = core::mem::replace(&mut self.forgives_idle, false);
        if forgives {
            add(&self.stats.retries, 1);
        }
        forgives
    }

    /// Returns when it is time to try again after `error`, which may pass.
    ///
    /// # Errors
    /// `error`, if no time is left.
    pub(crate) fn pause(&mut self, error: Error) -> Result<(), Error> {
        if !self.backoff.pause() {
            let error = if error.status() == Status::TimedOut { self.last.take().unwrap_or(error) } else { error };
            return Err(error.out_of_time(self.deadline.allowed()));
        }
        add(&self.stats.retries, 1);
        if error.status() != Status::TimedOut {
            self.last = Some(error);
        }
        Ok(())
    }

    /// What to blame for `error`: if only time ran out, what the time was spent on.
    pub(crate) fn cause(&self, error: Error) -> Error {
        match &self.last {
            Some(last) if error.status() == Status::TimedOut => last.clone().out_of_time(self.deadline.allowed()),
            _ => error,
        }
    }
}

/// Whether the same request may succeed soon. A timeout is one: it may be that of the attempt, and if it is that of
/// the call there will be no pause for another.
pub(crate) fn is_retryable(fault: &Fault) -> bool {
    match fault {
        Fault::Refused(_) | Fault::Broken(_) | Fault::TimedOut(_) => true,
        // A ring that is wrong stays wrong: who routes by it looks at this status before asking here.
        Fault::Failed(failure) => failure.status.is_retryable() && failure.status != Status::WrongEpoch,
        _ => false,
    }
}
