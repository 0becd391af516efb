//! The Citius side of the ratios: the program itself, as a user starts it, and what is asked of it.
//!
//! | file | what it holds |
//! |---|---|
//! | `server` | `citius local` in a process of its own, on one core, with a home that goes with it |
//! | `mapped` | reads of mapped blocks |
//! | `reads` | warm reads over TCP |
//! | `cold` | reads of what only the under-store has |
//! | `many` | a directory of small objects, and a long stream |
//! | `creates` | files created in batches |
//!
//! Stats have no file: frames are frames, and the client of the echo sends real ones (see `raw::echo`).

pub(crate) mod cold;
pub(crate) mod creates;
pub(crate) mod many;
pub(crate) mod mapped;
pub(crate) mod reads;
mod server;

pub(crate) use server::Citius;
