//! What tests of this crate and of others need: the conformance suite, a store that fails on demand, real servers.

mod conformance;
mod fault;
mod server;

pub use conformance::{Outcome, Point, Report, conformance};
pub use fault::{Fault, FaultyStore, Operation};
pub use server::Server;
