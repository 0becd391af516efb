//! What tests of this crate and of others need: the conformance suite, stores that fail on demand, real servers, and a
//! file system that stops answering.

mod bucket;
mod conformance;
pub(crate) mod example;
mod fault;
mod fuse;
mod paired;
mod process;
mod record;
pub mod servers;

pub use bucket::{Bucket, Habits, Request, RequestFault};
pub use conformance::{Outcome, Point, Report, conformance, points};
pub use fault::{Fault, FaultyStore, Operation};
pub use fuse::FuseFolder;
pub use paired::Paired;
pub use process::{is_alone, run_alone};
pub use record::{FOLDER_VARIABLE, Ran, Suite};
