//! Under construction.

pub mod raft;

pub mod state;
