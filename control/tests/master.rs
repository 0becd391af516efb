//! A master as its clients and workers see it: over real sockets, in this process, on ports of the system's choice.
#![allow(clippy::unwrap_used)]

#[path = "master/batches.rs"]
mod batches;
#[path = "master/client.rs"]
mod client;
#[path = "master/frames.rs"]
mod frames;
#[path = "master/http.rs"]
mod http;
#[path = "master/lists.rs"]
mod lists;
#[path = "master/mounts.rs"]
mod mounts;
#[path = "master/names.rs"]
mod names;
#[path = "master/recovery.rs"]
mod recovery;
#[path = "master/rig.rs"]
mod rig;
#[path = "master/secrets.rs"]
mod secrets;
#[path = "master/start.rs"]
mod start;
#[path = "master/sync.rs"]
mod sync;
#[path = "master/workers.rs"]
mod workers;
#[path = "master/writes.rs"]
mod writes;
