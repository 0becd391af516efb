//! The doors of a worker: listeners, connections, answers.

pub(crate) mod acceptor;
pub(crate) mod connection;
pub(crate) mod outbox;
mod stream;
