//! The control plane of Citius: one namespace over any under-store, kept by a master.
//!
//! | module | what it holds |
//! |---|---|
//! | `master` | the parts put together: start, stop, the home |
//! | [`state`] | what cannot be refetched, as a deterministic machine |
//! | [`raft`] | the durable, replicated log of its commands |
//! | `sync` | the bounded cache of under-store metadata |
//! | `service` | what a master does for those who ask |
//! | `schedule` | what it does unasked: leases, heartbeats, recovery |
//! | `rpc` | the metadata RPC |
//! | `http` | health, metrics, status |
//! | `error` | why a master does not start |
//!
//! Arrows: `master` over all; `rpc`, `http` and `schedule` over `service`; `service` over `raft`, `state` and `sync`.

mod error;
mod http;
mod master;
pub mod raft;
mod rpc;
mod schedule;
mod service;
pub mod state;
mod sync;

pub use citius_understore::with_small_scheme;
pub use error::Error;
pub use master::{Master, MasterConfig, RootSpec};
pub use service::check_under_store;
#[doc(hidden)]
pub use service::{FaultHook, FaultPoint};
