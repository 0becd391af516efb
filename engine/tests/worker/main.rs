//! A real worker in this process, under a master of a few lines, driven by a client that speaks bare frames.
//!
//! The master beats once an hour unless a test says otherwise, so nothing but the request at hand wakes a shard: an
//! operation that nobody submits, or a waiter that nobody wakes, shows as a test that runs out of patience.

#![allow(clippy::unwrap_used)]

mod cluster;
mod hostile;
mod maps;
mod peer;
mod reads;
mod writes;
