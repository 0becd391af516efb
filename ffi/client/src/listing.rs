//! A directory, streamed: one page in memory, whatever its size.

use crate::client::Shared;
use crate::connection::Fault;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::peer::{Checkout, Lease};
use crate::retry::Retry;
use citius_wire::{FileInfo, Flags, List, ListPage, NamespacePath};
use std::sync::Arc;

/// Iterates over the entries of a directory, in name order; `path` of each is its name.
///
/// It keeps a connection to the master while pages are to come. A broken one is replaced, and the listing goes on
/// after the last name it gave. Dropping it early closes that connection. After an error it ends.
pub struct Listing {
    client: Arc<Shared>,
    path: NamespacePath,
    /// The last name received.
    after: String,
    left: Option<u64>,
    page: std::vec::IntoIter<FileInfo>,
    stream: Stream,
    unnameable: u64,
}

enum Stream {
    /// Nothing was asked, or the connection was lost.
    Unasked,
    /// Another page is on its way.
    Coming(Box<Checkout>),
    Ended,
}

impl Listing {
    pub(crate) fn new(client: Arc<Shared>, path: NamespacePath, after: String, limit: Option<u64>) -> Self {
        let stream = if limit == Some(0) { Stream::Ended } else { Stream::Unasked };
        Self { client, path, after, left: limit, page: Vec::new().into_iter(), stream, unnameable: 0 }
    }

    /// Names that the store has and Citius cannot carry, so far. A listing never fails for them.
    pub fn unnameable(&self) -> u64 {
        self.unnameable
    }

    /// Receives the next page, or finds that there is none.
    fn turn(&mut self) -> Result<(), Error> {
        let client = self.client.clone();
        let deadline = client.deadline();
        let mut retry = Retry::new(deadline, &client);
        loop {
            let (fault, was_idle) = match core::mem::replace(&mut self.stream, Stream::Ended) {
                Stream::Ended => return Ok(()),
                Stream::Unasked => match self.ask(deadline) {
                    Ok(()) => continue,
                    Err(fault) => (fault, false),
                },
                Stream::Coming(mut master) => match receive_page(&mut master, deadline) {
                    Ok((page, more)) => {
                        self.unnameable = page.unnameable;
                        if let Some(last) = page.entries.last() {
                            self.after.clone_from(&last.path);
                        }
                        self.page = page.entries.into_iter();
                        if more {
                            self.stream = Stream::Coming(master);
                        } else {
                            master.give_back(&client.dialer);
                        }
                        return Ok(());
                    }
                    Err(fault) => {
                        let was_idle = master.was_idle();
                        if fault.leaves_connection_whole() {
                            master.give_back(&client.dialer);
                        }
                        (fault, was_idle)
                    }
                },
            };
            retry.after(fault, client.master(), was_idle).map_err(|error| error.at(&self.path))?;
            self.stream = Stream::Unasked;
        }
    }

    fn ask(&mut self, deadline: Deadline) -> Result<(), Fault> {
        let list = List { path: self.path.to_string(), after: self.after.clone(), limit: self.left.unwrap_or(0) };
        let mut master = self.client.checkout(self.client.master(), Lease::Long, deadline)?;
        master.queue(&list);
        master.flush(deadline)?;
        self.stream = Stream::Coming(Box::new(master));
        Ok(())
    }
}

fn receive_page(master: &mut Checkout, deadline: Deadline) -> Result<(ListPage, bool), Fault> {
    let prelude = master.receive(0, deadline)?;
    Ok((master.reply::<List>()?, prelude.flags.has(Flags::MORE)))
}

impl Iterator for Listing {
    type Item = Result<FileInfo, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.page.next() {
                if let Some(left) = &mut self.left {
                    *left = left.saturating_sub(1);
                }
                return Some(Ok(entry));
            }
            if self.left == Some(0) {
                self.stream = Stream::Ended;
            }
            if matches!(self.stream, Stream::Ended) {
                return None;
            }
            // An empty page with more to come is possible: a store may hold only names that cannot be carried.
            if let Err(error) = self.turn() {
                self.stream = Stream::Ended;
                return Some(Err(error));
            }
        }
    }
}

impl core::fmt::Debug for Listing {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Listing({} after {:?})", self.path, self.after)
    }
}
