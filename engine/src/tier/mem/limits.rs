//! How many blocks this process may keep open and mapped.

use rustix::process::{Resource, getrlimit};
use std::fs;

/// Of the process's descriptors, the part that blocks and slab segments may have. Sockets need the rest.
const NOFILE_PERCENT_FOR_BLOCKS: u64 = 50;
/// Of the process's mappings, the part that blocks and slab segments may have. Each needs one; heap and stacks the rest.
const MAPS_PERCENT_FOR_BLOCKS: u64 = 50;
/// What the kernel allows where it does not say.
const MAX_MAP_COUNT_DEFAULT: u64 = 65_530;
/// Fewer than this is too few to work with, whatever the limits say.
const BLOCKS_MIN: u64 = 16;

/// The process's limits that resident blocks run into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// RLIMIT_NOFILE, the soft one.
    pub descriptors: u64,
    /// vm.max_map_count.
    pub mappings: u64,
}

impl Limits {
    /// Those of this process, now.
    pub fn of_process() -> Self {
        let mappings = fs::read_to_string("/proc/sys/vm/max_map_count").ok().and_then(|text| text.trim().parse().ok());
        Self {
            descriptors: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
            mappings: mappings.unwrap_or(MAX_MAP_COUNT_DEFAULT),
        }
    }

    /// Memfds that one of `shards` shards may have: resident blocks, local writes and slab segments together.
    pub fn blocks_max(&self, shards: u32) -> usize {
        let by_descriptors = self.descriptors / 100 * NOFILE_PERCENT_FOR_BLOCKS;
        let by_mappings = self.mappings / 100 * MAPS_PERCENT_FOR_BLOCKS;
        let each = by_descriptors.min(by_mappings) / u64::from(shards.max(1));
        usize::try_from(each.max(BLOCKS_MIN)).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tighter_limit_rules() {
        let few_descriptors = Limits { descriptors: 1024, mappings: 65_530 };
        assert_eq!(few_descriptors.blocks_max(1), 500);
        assert_eq!(few_descriptors.blocks_max(4), 125);
        assert_eq!(few_descriptors.blocks_max(1000), 16);
        let many_descriptors = Limits { descriptors: u64::MAX, mappings: 65_530 };
        assert_eq!(many_descriptors.blocks_max(2), 16_375);
        assert!(Limits::of_process().blocks_max(1) >= 16);
    }
}
