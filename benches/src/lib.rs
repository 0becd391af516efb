//! Micro-benchmarks of the parts of Citius, in one process: `cargo bench -p citius-benches`.
//!
//! | bench | what it measures |
//! |---|---|
//! | `wire` | frames, messages, capabilities, placement, checksums |
//! | `index` | the block index of a shard: lookup, fetch, eviction |
//!
//! They answer "what does this step cost", never "is Citius fast": that is measured by perf/, beside raw baselines.
//! Here is what the benches share: inputs that are the same in every run.

use citius_wire::{Epoch, Incarnation, Member, Ring, WorkerId};

/// Bytes that do not compress and are the same in every run.
pub fn bytes(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        // Xorshift64 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..count.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(count).collect()
}

/// A ring of workers whose memories differ.
pub fn ring(workers: usize) -> Ring {
    let members = (0..workers).map(|i| Member {
        worker: WorkerId(i as u64 + 1),
        incarnation: Incarnation(1),
        data_address: format!("10.0.{}.{}:7002", i / 256, i % 256),
        socket_path: String::new(),
        host: format!("host-{i}"),
        shards: 16,
        weight: (1 + i as u64 % 4) << 36,
    });
    Ring { epoch: Epoch(1), members: members.collect() }
}
