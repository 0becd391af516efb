//! The Rust client of Citius. It needs no runtime: calls block, on any thread.
//!
//! ```no_run
//! use citius_client::{Client, Config, CreateOptions, Endpoint};
//! use std::io::Write as _;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(Endpoint::from_home("/var/lib/citius".as_ref())?, Config::default())?;
//! let mut writer = client.create("/data/x", CreateOptions::default())?;
//! writer.write_all(b"hello")?;
//! writer.close()?; // the acknowledgement
//! let file = client.open("/data/x")?;
//! let mut buffer = [0; 5];
//! file.read_at(&mut buffer, 0)?;
//! # Ok(()) }
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `client` | the client, what its parts share, asking the master |
//! | `config`, `endpoint` | choices and bounds; where the master is and the token |
//! | `namespace`, `listing` | stat, mkdir, delete, rename, mounts, batches; streamed directories |
//! | `file`, `version` | an open file; one version of it and the right to read it |
//! | `local`, `mapping`, `blocks`, `view` | mapped reads: when, the memory, which blocks, zero-copy views |
//! | `readahead` | maps blocks ahead of sequential readers |
//! | `dispatch`, `works` | work routed to the owners of blocks, pipelined, retried; what is asked of them |
//! | `loader` | many files brought into memory from one thread |
//! | `routes`, `peer` | rings and who is local; connections lent for a call |
//! | `writer`, `sink`, `publisher`, `lease` | a file being written; one block of it; staging; keeping the path |
//! | `connection`, `stream`, `sectors` | one connection; its socket; checksums of what arrives |
//! | `retry`, `deadline` | whether to try again, and until when |
//! | `error`, `stats` | what a failed call gives; what a client counts |
//!
//! Unsafe code is in `mapping` alone.

mod blocks;
mod client;
mod config;
mod connection;
mod deadline;
mod dispatch;
mod endpoint;
mod error;
mod file;
mod gone;
mod lease;
mod listing;
mod loader;
mod local;
mod mapping;
mod namespace;
mod peer;
mod publisher;
mod readahead;
mod retry;
mod routes;
mod sectors;
mod sink;
mod stats;
mod stream;
mod version;
mod view;
mod works;
mod writer;

pub use client::Client;
pub use config::{Config, Local};
pub use endpoint::Endpoint;
pub use error::Error;
pub use file::{BlockLocation, BlockResidence, File};
pub use listing::Listing;
pub use namespace::MountOptions;
pub use stats::ClientStats;
pub use view::{View, Views};
pub use writer::{CreateOptions, Writer, Written};

/// The wire's words that appear in this crate's interface.
pub use citius_wire::{
    CheckedAbility, CheckedStep, ClusterInfo, EntryKind, ExitCode, FileInfo, FileKey, MountCheckup, MountInfo,
    MountTraffic, NamespacePath, Operation, Outcome, Persistence, ResidentBlock, SecretText, Status, StepResult, Token,
    WorkerInfo, WriteType,
    units::{block_count, block_length},
};

/// One connection at a time, for tools that measure or probe a worker or master.
pub mod raw {
    pub use crate::connection::{Connection, Fault};
    pub use crate::deadline::Deadline;
    pub use crate::stream::Address;
    pub use citius_wire as wire;
}
