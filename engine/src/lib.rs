//! The data plane of Citius: a worker, its pinned shards, and the memory that they serve from.
//!
//! ```text
//!   clients --> net: acceptor (tokio) --socket--> net: connection --> driver (one a shard)
//!                                                                      |  asks      |  does
//!                                              shard, store (pure) <---+            +---> ring, tier, under-store
//!   master <--> agent (tokio) --messages--> driver
//! ```
//! | room | what it is |
//! |---|---|
//! | `worker` | the whole, started and ended |
//! | `host` | a shard's executor; the only user of glommio |
//! | `ring` | a shard's own io_uring |
//! | `tier` | where blocks are: memory |
//! | `store` | which bytes of which blocks are here (pure) |
//! | `shard` | what a shard decides (pure) |
//! | `driver` | what a shard does |
//! | `net` | listeners, connections, answers |
//! | `agent` | registration, heartbeats, publishing |
//! | `fault` | damage on purpose, for tests |
//! | `inbox` | what other threads say to a shard |

mod agent;
mod driver;
mod error;
mod failure;
mod fault;
mod host;
mod inbox;
mod net;
pub mod ring;
mod shard;
pub mod store;
pub mod tier;
mod worker;

pub use error::{Error, Result};
pub use worker::{MemoryGrant, Worker, WorkerConfig};
