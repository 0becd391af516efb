//! What a shard decides, without clock, randomness or I/O: the driver asks, and does.
//!
//! | file | what it decides |
//! |---|---|
//! | `rights` | what a connection may do, and which bytes a request means |
//! | `readahead` | how far ahead of a sequential reader to fetch |
//! | `flights` | who waits for which fetch, and what a failed one tells them |
//!
//! Which bytes are here and what may go is decided by [`crate::store`].

mod flights;
mod readahead;
mod rights;

pub(crate) use flights::Flights;
pub(crate) use rights::{Attached, Handles, Wanted};
