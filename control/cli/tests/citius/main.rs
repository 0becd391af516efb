//! Black-box tests: real `citius` processes, driven by the command line and by the client.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod away;
mod bad_input;
mod bucket;
mod check;
mod cluster;
mod crash;
mod damage;
mod everyday;
mod far;
mod first_minutes;
mod full_disk;
mod large;
mod load;
mod s3;
mod semantics;
mod storm;
mod support;
mod systems;
mod traffic;
