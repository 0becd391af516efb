//! Hashing of block ids.
//!
//! Most file keys are BLAKE3 output, but those of unfinished files are minted and may be a counter, so the halves are
//! mixed by one widening multiplication (the folded multiply of wyhash and foldhash). A hostile user cannot choose keys:
//! the master makes them all.

use citius_wire::{BlockId, FileKey};

const SEED_LOW: u64 = 0x9E37_79B9_7F4A_7C15;
const SEED_HIGH: u64 = 0xD1B5_4A32_D192_ED03;

pub(super) fn of_file(key: FileKey) -> u64 {
    let (low, high) = halves(key);
    fold(low ^ SEED_LOW, high ^ SEED_HIGH)
}

pub(super) fn of_block(id: BlockId) -> u64 {
    let (low, high) = halves(id.file);
    fold(low ^ SEED_LOW, high ^ SEED_HIGH ^ u64::from(id.index).wrapping_mul(SEED_LOW))
}

fn halves(key: FileKey) -> (u64, u64) {
    let bytes = u128::from_le_bytes(key.0);
    (bytes as u64, (bytes >> 64) as u64)
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn counters_spread() {
        let low_bits: HashSet<u64> = (0..4096u128)
            .flat_map(|i| {
                let file = FileKey(i.to_le_bytes());
                let other = FileKey((i << 64).to_le_bytes());
                [of_block(BlockId { file, index: 0 }), of_block(BlockId { file: other, index: 1 })]
            })
            .map(|hash| hash & 0xFFFF)
            .collect();
        // 8,192 balls into 65,536 bins fill about 7,700 of them when they fall at random.
        assert!(low_bits.len() > 7_500, "{}", low_bits.len());
    }
}
