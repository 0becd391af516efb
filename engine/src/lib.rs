//! Under construction.

pub mod ring;
pub mod store;
pub mod tier;
