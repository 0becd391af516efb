//! What the worker of block 0 is told about a file being written: each sealed block, in order, and the end.
//!
//! A few blocks may be on their way into the under-store at a time; more make the writer wait, so it can never run
//! ahead of the store by more than those. Both requests may be repeated: a publisher that has staged a block, or
//! published the file, says so again.

use crate::client::Shared;
use crate::config::STAGES_OUTSTANDING_MAX;
use crate::connection::Fault;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::peer::Checkout;
use crate::retry::Retry;
use crate::routes::Routes;
use crate::sink::{check_member, checkout, no_worker};
use citius_wire::{Created, FileKey, Handle, Publish, Stage};
use std::collections::VecDeque;

/// The connection to the publisher, and what it has not answered.
#[derive(Default)]
pub(crate) struct Publisher {
    connection: Option<(Checkout, Handle)>,
    /// Blocks told and not staged, in order. Those without an id are to be told, again or for the first time.
    staging: VecDeque<Staging>,
}

struct Staging {
    index: u32,
    length: u32,
    id: Option<u64>,
}

impl Publisher {
    /// Tells of a sealed block, and waits while too many are being staged.
    pub(crate) fn stage(
        &mut self,
        client: &Shared,
        routes: &Routes,
        created: &Created,
        index: u32,
        length: u32,
    ) -> Result<(), Error> {
        self.staging.push_back(Staging { index, length, id: None });
        self.insist(client, routes, created, |publisher, client, routes, deadline| {
            publisher.settle(client, routes, created, STAGES_OUTSTANDING_MAX, deadline)
        })
    }

    /// Publishes the file once all its blocks are staged, and gives its key from then on.
    pub(crate) fn publish(
        &mut self,
        client: &Shared,
        routes: &Routes,
        created: &Created,
        length: u64,
    ) -> Result<FileKey, Error> {
        self.insist(client, routes, created, |publisher, client, routes, deadline| {
            publisher.settle(client, routes, created, 0, deadline)?;
            let (connection, handle) = publisher.connect(client, routes, created, deadline)?;
            let publish = Publish { handle: *handle, length };
            let published = connection.call(&publish, deadline).map_err(|fault| (fault, connection.was_idle()))?;
            if let Some((connection, _)) = publisher.connection.take() {
                connection.give_back(&client.dialer);
            }
            Ok(published.file)
        })
    }

    /// Runs an exchange until it succeeds, on a new connection after each failure that may pass.
    fn insist<T>(
        &mut self,
        client: &Shared,
        routes: &Routes,
        created: &Created,
        mut exchange: impl FnMut(&mut Self, &Shared, &Routes, Deadline) -> Result<T, (Fault, bool)>,
    ) -> Result<T, Error> {
        let deadline = client.transfer_deadline();
        let mut retry = Retry::new(deadline, client);
        let owner = routes.owner(created.place, 0).ok_or_else(no_worker)?;
        loop {
            match exchange(self, client, routes, deadline) {
                Ok(result) => return Ok(result),
                Err((fault, was_idle)) => {
                    self.connection = None;
                    self.staging.iter_mut().for_each(|staging| staging.id = None);
                    check_member(client, routes, owner, &fault)?;
                    retry.after(fault, &routes.peer(owner, &client.peers), was_idle)?;
                }
            }
        }
    }

    /// Tells what was not told, and receives answers until at most `allowed` blocks are being staged.
    fn settle(
        &mut self,
        client: &Shared,
        routes: &Routes,
        created: &Created,
        allowed: usize,
        deadline: Deadline,
    ) -> Result<(), (Fault, bool)> {
        let mut staging = core::mem::take(&mut self.staging);
        let result = self.connect(client, routes, created, deadline).and_then(|(connection, handle)| {
            exchange_stages(connection, *handle, &mut staging, allowed, deadline)
                .map_err(|fault| (fault, connection.was_idle()))
        });
        self.staging = staging;
        result
    }

    fn connect(
        &mut self,
        client: &Shared,
        routes: &Routes,
        created: &Created,
        deadline: Deadline,
    ) -> Result<&mut (Checkout, Handle), (Fault, bool)> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let nobody = || (Fault::Unexpected("nobody owns the file's first block"), false);
                let owner = routes.owner(created.place, 0).ok_or_else(nobody)?;
                checkout(client, routes, owner, created, deadline)?
            }
        };
        Ok(self.connection.insert(connection))
    }
}

fn exchange_stages(
    connection: &mut Checkout,
    handle: Handle,
    staging: &mut VecDeque<Staging>,
    allowed: usize,
    deadline: Deadline,
) -> Result<(), Fault> {
    for block in staging.iter_mut().filter(|block| block.id.is_none()) {
        block.id = Some(connection.queue(&Stage { handle, index: block.index, length: block.length }));
    }
    connection.flush(deadline)?;
    while staging.len() > allowed {
        let id = connection.receive(0, deadline)?.request_id;
        let at = staging.iter().position(|block| block.id == Some(id));
        let at = at.ok_or(Fault::Unexpected("it answered a question that was not asked"))?;
        connection.reply::<Stage>()?;
        staging.remove(at);
    }
    Ok(())
}
