//! Why a worker cannot start or go on. What a client is told is a [`Failure`](citius_wire::Failure) instead.

use std::io;
use std::path::PathBuf;

/// A worker's own errors, each with what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Somebody else listens there.
    #[error(
        "cannot listen on {address}: {source}. Another process may hold the port: choose one with {flag}, or 0 for any"
    )]
    Listen {
        /// `HOST:PORT` as configured.
        address: String,
        /// The flag that changes it.
        flag: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The Unix socket cannot be made.
    #[error("cannot make the Unix socket {path}: {source}", path = path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A shard's executor or ring cannot start.
    #[error("shard {shard} cannot start: {reason}. {advice}")]
    Shard {
        /// Which.
        shard: u16,
        /// What was said.
        reason: String,
        /// What to do.
        advice: &'static str,
    },
    /// There is no memory to serve from.
    #[error("no memory tier: {0}")]
    Memory(String),
    /// The master refused or cannot be reached.
    #[error("cannot register with the master at {address}: {reason}")]
    Master {
        /// `HOST:PORT` of the master.
        address: String,
        /// Why.
        reason: String,
    },
    /// The configuration makes no sense.
    #[error("{0}")]
    Config(String),
}

/// A result with the worker's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;
