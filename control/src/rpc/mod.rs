//! The metadata RPC: frames of citius-wire over TCP.
//!
//! ```text
//!  acceptor ──round robin──▶ RPC threads, one single-threaded runtime each
//!                              │ one task a connection: read, answer what memory answers, one write
//!                              └─ the rest ──▶ the master's runtime ──frames──▶ back to the connection
//! ```
//! A `stat` that memory can answer is answered where it was read: no task, no hop, one short read lock. Everything that
//! waits (an under-store, the log) runs elsewhere and is answered when it is ready, in any order.
//!
//! Bounds: connections past their hello and before it, so that nobody without a token keeps others out; bytes of answers
//! waiting for one connection; requests of one connection that run elsewhere; the times that a peer may be silent.

mod connection;
mod server;
mod slow;

pub(crate) use server::{RpcCounters, RpcServer, Shared};

use std::time::Duration;

/// How long a peer may take to show its token.
pub(crate) const HELLO_PATIENCE: Duration = Duration::from_secs(5);
/// How long a peer may take to accept the answers of one write.
pub(crate) const WRITE_PATIENCE: Duration = Duration::from_secs(30);
/// Bytes received at a time.
pub(crate) const READ_BYTES: usize = 64 << 10;
/// Answers gathered before they are written, whatever is still to be answered.
pub(crate) const ANSWER_BYTES_TARGET: usize = 256 << 10;
/// Requests of one connection that run elsewhere at a time; beyond that nothing more is read from it.
pub(crate) const ELSEWHERE_MAX: usize = 64;
/// Frames from elsewhere that wait to be written: what holds back a listing whose reader is slow.
pub(crate) const FRAMES_WAITING_MAX: usize = 4;
/// Threads that serve connections.
pub(crate) const THREADS_MAX: usize = 4;
