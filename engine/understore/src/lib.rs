//! Under-stores of Citius: from a URI to a store that lists, reads and publishes.
//!
//! ```text
//!  control plane: stat, list, delete, rename, settle        worker: read, stage, publish
//!                 │                                                │  (shards: bridge, or descriptors)
//!                 ▼                                                ▼
//!  mount.rs ──▶ store.rs (the contract) ◀── bridge.rs (shards ▶ tokio)
//!                 ▲          ▲         ▲
//!             local/      object/     tree/      memory.rs    read_only.rs wraps any of them
//!                            ▲          ▲
//!                 s3/, azure/, swift/  hdfs/ webdav/ sftp/ opendal/
//! ```
//! | file | what |
//! |---|---|
//! | `mount.rs` | [`MountSpec`], [`open()`] and the registry of systems |
//! | `alias.rs` | names that other programs have for our options |
//! | `store.rs` | [`UnderStore`]: the contract that all systems keep |
//! | `staged.rs` | [`Staged`], [`StagedRecord`]: writes, and what ends them after a crash |
//! | `local/` | `file:`, our own, beneath one folder |
//! | `mounted.rs` | `nfs://`, `glusterfs://`, `cephfs://`: the folder where this machine has them |
//! | `object/` | what all object stores have in common, over the requests of each |
//! | `s3/` | `s3://`, `gs://`, `oss://`: their requests |
//! | `azure/` | `abfs://`, `wasb://`, `az://`: its requests |
//! | `swift/` | `swift://`: its logins and requests |
//! | `web/` | requests over HTTP, signed and governed |
//! | `tree/` | what all file systems on a network have in common, over the calls of each |
//! | `hdfs/` | `hdfs://`: its calls |
//! | `webdav/` | `webdav://`, `http://`: its requests |
//! | `sftp/` | `sftp://`: its requests |
//! | `opendal/` | `opendal+SERVICE://`: what else OpenDAL speaks, to be read |
//! | `memory.rs` | `memory://`, for tests |
//! | `bridge.rs` | [`Bridge`]: fetches from threads that must not block |
//! | `name_order.rs` | key order to name order in bounded memory |
//! | `traffic/` | [`Traffic`]: how requests of network stores are limited, repeated and counted |
//! | `path.rs`, `secret.rs`, `key_file.rs`, `error.rs` | what all of them use |
//! | `testing/` | conformance suite, fault hook, real servers (feature `testing`) |

mod alias;
mod azure;
mod bridge;
mod diagnose;
#[cfg(test)]
mod document;
mod error;
mod hdfs;
mod key_file;
mod local;
#[cfg(feature = "testing")]
mod memory;
mod mount;
mod mounted;
mod name_order;
mod object;
mod opendal;
mod path;
mod read_only;
mod s3;
mod secret;
mod sftp;
mod staged;
mod store;
mod swift;
#[cfg(feature = "testing")]
pub mod testing;
mod traffic;
mod tree;
mod web;
mod webdav;

pub use bridge::{Bridge, FetchJob, QUEUED_MAX, Rejected};
pub use diagnose::{Ability, Diagnosis, Known, Outcome, Probe, Step, declared, diagnose, diagnose_open};
pub(crate) use error::Advice;
pub use error::{Error, ErrorClass, Result, Source};
pub use local::{LocalDirectory, LocalStore};
#[cfg(feature = "testing")]
pub use memory::MemoryStore;
pub use mount::{MountSpec, open, with_small_scheme};
pub use path::{COMPONENT_BYTES_MAX, PATH_BYTES_MAX, StorePath};
pub use secret::{Secret, redact};
pub use staged::{FileId, PARTS_MAX, Part, Remnant, Settled, Staged, StagedBody, StagedRecord, Swept};
pub use store::{
    Capabilities, Compares, Condition, Depth, Entry, Glance, Kind, Landing, LocalReads, PAGE_ENTRIES_MAX, Page, Pages,
    Refusal, Stat, TOKEN_BYTES_MAX, UnderStore, VersionToken,
};
pub use traffic::{
    BreakerState, Call, FAILURES, Failure, Governed, Governor, LATENCY_BUCKETS, Latencies, OPERATIONS, Operation,
    Refused, Repeat, Traffic, TrafficSettings, TrafficTotals, Verdict,
};
