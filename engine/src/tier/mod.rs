//! Where blocks are kept: memory here; disks come below it.
//!
//! - [`mem`]: hugepage memory. Blocks that can be mapped by clients, small objects in slabs, and the page pool.

pub mod mem;
