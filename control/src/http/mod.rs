//! HTTP: health, metrics, status. Small, and on an accept loop of its own, because `axum::serve` sets no time-outs.
//!
//! Everything but `/healthz` wants the token, as `Authorization: Bearer <64 hexadecimal digits>`. A request must name
//! this server by an address, `localhost` or a name it was told: a page of another site that makes its own name resolve
//! to this address (DNS rebinding) is refused.
//!
//! A connection has a seat, of which there are a part of the process's open files, once it has shown the token. Until then
//! it is listened to for as long as nobody else comes, as at every other door.

mod guard;
mod metrics;
mod server;
mod status;
mod visitor;

pub(crate) use server::{HttpServer, Site};

use std::time::Duration;

/// How long a client may take to send its request's head, and may be idle between requests.
pub(crate) const HEADER_PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may live.
pub(crate) const CONNECTION_PATIENCE: Duration = Duration::from_secs(600);
/// Bytes of a request's head.
pub(crate) const HEAD_BYTES_MAX: usize = 16 << 10;
