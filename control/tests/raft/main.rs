//! The replicated log from outside: order, durability, snapshots, damage, crashes.
#![allow(clippy::unwrap_used, missing_docs)]

mod crash;
mod damage;
mod ledger;
mod replication;
mod snapshots;
