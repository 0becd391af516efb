//! What tests of this crate and of others need: the conformance suite, a store that fails on demand, real servers, and
//! a file system that stops answering.

mod conformance;
mod fault;
mod fuse;
pub mod servers;

pub use conformance::{Outcome, Point, Report, conformance};
pub use fault::{Fault, FaultyStore, Operation};
pub use fuse::FuseFolder;
