//! The client against a server of the wire in this process: real sockets, real descriptors, and every way in which a
//! server may misbehave.
#![allow(clippy::unwrap_used)]

mod loads;
mod local;
mod memory;
mod names;
mod raw;
mod reads;
mod server;
mod writes;

use citius_client::{Client, Config, Endpoint, Local};
use server::{Server, TOKEN};
use std::time::Duration;

/// One page: the smallest block, so that small files have many.
pub(crate) const BLOCK: u32 = 2 << 20;

pub(crate) fn config(local: Local) -> Config {
    Config { local, timeout: Duration::from_secs(20), ..Config::default() }
}

pub(crate) fn connect(server: &Server, config: Config) -> Client {
    Client::connect(Endpoint { master: server.master.clone(), token: TOKEN }, config).unwrap()
}

/// Bytes that differ from block to block and from sector to sector.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 29) as u8).collect()
}
