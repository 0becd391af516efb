//! What a shard has: which bytes of which blocks are here, where they lie, and what may go.
//!
//! - [`BlockIndex`]: the blocks of a shard, their valid grains and checksums, who fetches what, and what to evict. It is
//!   pure: it knows memory only as a value that it holds and gives back.
//! - [`Policy`], [`Lru`]: which block goes first.
//! - [`sector_crcs`], [`SectorCrcs`], [`verify_sectors`]: the checksums of sectors, computed as bytes enter the node.

mod checksum;
mod entry;
mod grains;
mod index;
mod key_hash;
mod policy;
mod prefetch;
#[cfg(test)]
mod tests;

pub use checksum::{SectorCrcs, sector_crcs, verify_sectors};
pub use entry::{BlockStat, BlockState};
pub use index::{BlockIndex, Evicted, Fetched, Flight, Hit, Located, Miss};
pub use policy::{Lru, Policy};
