//! Black-box tests: real `citius` processes, driven by the command line and by the client.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod cluster;
mod crash;
mod first_minutes;
mod support;
mod semantics;
