//! Connections to one shard, or to the master, lent for the time of a call.

use crate::connection::{Connection, Fault};
use crate::deadline::Deadline;
use crate::stream::Address;
use citius_wire::{ClientId, Hello, Token};
use core::fmt;
use core::ops::{Deref, DerefMut};
use core::time::Duration;
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::sync::Arc;

/// Who listens where, with the connections to it that nobody uses now.
pub(crate) struct Peer {
    address: Address,
    shard: u16,
    name: String,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<Connection>,
    /// Connections lent to calls. Those lent to writers and listings, whose number is their owner's choice, are not
    /// counted: a program that holds many must still be able to make a call.
    lent: usize,
}

/// What every connection of a client is made with.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub(crate) token: Token,
    pub(crate) client: ClientId,
    pub(crate) connect_timeout: Duration,
    pub(crate) connections_max: usize,
}

/// For whom a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lease {
    /// One call, which waits for its turn.
    Call,
    /// Something that lives as long as its owner wishes.
    Long,
}

/// A connection in use. [`Checkout::give_back`] keeps it for others; dropping it closes it.
pub(crate) struct Checkout {
    peer: Arc<Peer>,
    connection: Option<Connection>,
    lease: Lease,
    was_idle: bool,
}

impl Peer {
    /// `HOST:PORT` or the path of the socket, for messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is reached by a Unix socket.
    pub(crate) fn is_unix(&self) -> bool {
        matches!(self.address, Address::Unix(_))
    }

    /// Lends a connection: an idle one, or a new one.
    pub(crate) fn checkout(
        self: &Arc<Self>,
        dialer: &Dialer,
        lease: Lease,
        deadline: Deadline,
    ) -> Result<Checkout, Fault> {
        let idle = {
            let mut state = self.state.lock();
            if lease == Lease::Call {
                while state.lent >= dialer.connections_max {
                    if self.returned.wait_until(&mut state, deadline.at()).timed_out() {
                        return Err(Fault::TimedOut(deadline.allowed()));
                    }
                }
                state.lent += 1;
            }
            state.idle.pop()
        };
        let mut checkout = Checkout { peer: self.clone(), was_idle: idle.is_some(), connection: idle, lease };
        if checkout.connection.is_none() {
            let hello = Hello { token: dialer.token.clone(), client: dialer.client, shard: self.shard };
            let left = deadline.remaining().ok_or(Fault::TimedOut(deadline.allowed()))?;
            let dial = Deadline::after(left.min(dialer.connect_timeout));
            checkout.connection = Some(Connection::connect(&self.address, &hello, dial)?);
        }
        Ok(checkout)
    }

    /// Closes what nobody uses: one of them was found broken, so the others are.
    pub(crate) fn close_idle(&self) {
        let idle = core::mem::take(&mut self.state.lock().idle);
        drop(idle);
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peer({} shard {})", self.name, self.shard)
    }
}

impl Checkout {
    /// Keeps the connection for the next caller. Nothing may be in flight on it.
    pub(crate) fn give_back(mut self, dialer: &Dialer) {
        self.put_back(dialer);
    }

    /// As [`Checkout::give_back`], for an owner that cannot give itself away; it must not use the connection again.
    pub(crate) fn put_back(&mut self, dialer: &Dialer) {
        // What is left over of an answer would be taken for the next one: such a connection is closed.
        let connection = self.connection.take().filter(Connection::is_quiet);
        let mut state = self.peer.state.lock();
        if state.idle.len() < dialer.connections_max {
            state.idle.extend(connection);
        }
    }

    /// Whether it had been idle: then that it is broken says nothing about the peer of now.
    pub(crate) fn was_idle(&self) -> bool {
        self.was_idle
    }

    /// Whom it leads to.
    pub(crate) fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        if self.lease == Lease::Call {
            self.peer.state.lock().lent -= 1;
            self.peer.returned.notify_one();
        }
    }
}

impl Deref for Checkout {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("a checkout holds its connection until it is given back")
    }
}

impl DerefMut for Checkout {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("a checkout holds its connection until it is given back")
    }
}

/// All peers of a client, one for each address and shard.
#[derive(Default)]
pub(crate) struct Peers {
    by_address: Mutex<HashMap<(Address, u16), Arc<Peer>>>,
}

impl Peers {
    /// The peer at an address.
    pub(crate) fn get(&self, address: Address, shard: u16) -> Arc<Peer> {
        let mut peers = self.by_address.lock();
        let peer = peers.entry((address, shard)).or_insert_with_key(|(address, shard)| {
            Arc::new(Peer {
                name: address.to_string(),
                address: address.clone(),
                shard: *shard,
                state: Mutex::default(),
                returned: Condvar::new(),
            })
        });
        peer.clone()
    }

    /// Forgets the peers that no ring, writer or call names, with their connections.
    pub(crate) fn forget_unused(&self) {
        self.by_address.lock().retain(|_, peer| Arc::strong_count(peer) > 1);
    }
}
