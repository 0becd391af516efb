//! The units that every part of Citius measures data in, and how they relate.
//!
//! ```text
//! sector   4 KiB   unit of checksum
//! grain   32 KiB   unit of validity and of fetch from an under-store (64 of them are one u64 bitmap)
//! page     2 MiB   unit of allocation: one hugepage
//! block   64 MiB   unit of placement, mapping and eviction (the default; a file carries its own)
//! ```

/// Bytes of a sector, the unit of checksum.
pub const SECTOR_BYTES: usize = 4 << 10;
/// Bytes of a grain, the unit of validity and of fetching.
pub const GRAIN_BYTES: usize = 32 << 10;
/// Bytes of a page, the unit of allocation.
pub const PAGE_BYTES: usize = 2 << 20;
/// Bytes of a block unless its file says otherwise.
pub const BLOCK_BYTES_DEFAULT: u32 = 64 << 20;
/// The smallest block a file may ask for: one page.
pub const BLOCK_BYTES_MIN: u32 = PAGE_BYTES as u32;
/// The largest block a file may ask for.
pub const BLOCK_BYTES_MAX: u32 = 1 << 30;

/// Sectors in a grain.
pub const SECTORS_PER_GRAIN: usize = GRAIN_BYTES / SECTOR_BYTES;
/// Grains in a page: the width of the validity bitmap.
pub const GRAINS_PER_PAGE: usize = PAGE_BYTES / GRAIN_BYTES;
/// Sectors in a page.
pub const SECTORS_PER_PAGE: usize = PAGE_BYTES / SECTOR_BYTES;

const _: () = {
    assert!(GRAIN_BYTES.is_multiple_of(SECTOR_BYTES));
    assert!(PAGE_BYTES.is_multiple_of(GRAIN_BYTES));
    assert!(GRAINS_PER_PAGE == u64::BITS as usize);
    assert!((BLOCK_BYTES_DEFAULT as usize).is_multiple_of(PAGE_BYTES));
    assert!((BLOCK_BYTES_MAX as usize).is_multiple_of(PAGE_BYTES));
};

/// Whether a file may have blocks of this size: whole pages, within the bounds.
pub const fn is_block_bytes(bytes: u32) -> bool {
    bytes >= BLOCK_BYTES_MIN && bytes <= BLOCK_BYTES_MAX && (bytes as usize).is_multiple_of(PAGE_BYTES)
}

/// How many blocks a file of `length` bytes has; an empty file has none.
///
/// # Panics
/// If `block_bytes` is 0, as it is for a directory, which has no blocks to count.
pub const fn block_count(length: u64, block_bytes: u32) -> u64 {
    length.div_ceil(block_bytes as u64)
}

/// Bytes of block `index` in a file of `length` bytes: the whole block, the rest for the last one, and 0 past it.
pub const fn block_length(length: u64, block_bytes: u32, index: u32) -> u32 {
    let start = index as u64 * block_bytes as u64;
    let rest = length.saturating_sub(start);
    if rest < block_bytes as u64 { rest as u32 } else { block_bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_tile_a_file() {
        for length in [0, 1, 4096, (2 << 20) - 1, 64 << 20, (64 << 20) + 1, 1 << 30] {
            let count = block_count(length, BLOCK_BYTES_DEFAULT);
            let sum: u64 = (0..count).map(|i| u64::from(block_length(length, BLOCK_BYTES_DEFAULT, i as u32))).sum();
            assert_eq!(sum, length);
            assert_eq!(block_length(length, BLOCK_BYTES_DEFAULT, count as u32), 0);
        }
    }

    #[test]
    fn block_size_bounds() {
        assert!(is_block_bytes(BLOCK_BYTES_MIN) && is_block_bytes(BLOCK_BYTES_MAX));
        assert!(!is_block_bytes(BLOCK_BYTES_MIN - 1) && !is_block_bytes(BLOCK_BYTES_MIN + 1));
        assert!(!is_block_bytes(0));
    }
}
