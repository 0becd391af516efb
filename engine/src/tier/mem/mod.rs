//! The memory tier: pages that a shard owns, the blocks and objects made of them, and what may be shown to clients.
//!
//! ```text
//!   PagePool  counts the shard's pages; with hugepages, keeps those not in use reserved by a ballast
//!      | take, allocate on a kernel thread               ^ punch or close on a kernel thread
//!      v                                                 |
//!   Extent    a memfd, its mapping, and the state of each of its pages
//!      |                 |
//!   BlockMem          Slab -> SlabObject      a block of its own / an object under 8 MiB beside others
//!      | export
//!   sealed, read-only, immutable: what a client may map
//! ```
//!
//! Invariants:
//! - No page is touched before it was allocated, so a short pool is an error and never a SIGBUS.
//! - Memory is released by the last reference to it, wherever that is: the index, a send, a read in flight, a client's
//!   mapping, a [`Loan`]. Eviction only drops the index's.
//! - A client is only ever given a memfd that is complete, immutable and its file's alone, or a fresh one to write.
//! - A memfd that a client has had is never used for anything else.

#![allow(unsafe_code)]

mod arena;
mod backing;
mod ballast;
mod block;
mod changes;
mod error;
mod extent;
mod fills;
mod limits;
mod loan;
mod local_write;
mod mapping;
mod memfd;
mod memory;
mod pages;
mod pool;
mod size_class;
mod slab;
#[cfg(test)]
mod tests;

pub use backing::{Backing, BackingChoice};
pub use block::BlockMem;
pub(crate) use changes::Changes;
pub use error::MemError;
pub use limits::Limits;
pub use loan::{LOANS_MAX, Lent, Loan, Loans};
pub use local_write::LocalWrite;
pub use memory::Memory;
pub use pool::{Grant, PagePool, PoolUse};
pub use size_class::OBJECT_BYTES_MAX;
pub use slab::{Slab, SlabObject, SlabUse};
