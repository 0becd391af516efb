//! The checksum of every sector: CRC-32 (ISO-HDLC, as in gzip) of its bytes, of those that exist in the last one.
//!
//! Computed once, on the thread that brings the bytes, and carried beside them ever after.

use citius_wire::units::SECTOR_BYTES;

/// Checksums of the sectors of `bytes`, which begin at a sector's boundary; the last may be short.
pub fn sector_crcs(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(SECTOR_BYTES).map(crc32fast::hash).collect()
}

/// Compares bytes that begin at a sector's boundary with their checksums.
///
/// # Errors
/// The number of the first sector that differs, counted from the start of `bytes`; a missing checksum differs.
pub fn verify_sectors(bytes: &[u8], crcs: &[u32]) -> Result<(), usize> {
    let differs = |(sector, chunk): (usize, &[u8])| crcs.get(sector) != Some(&crc32fast::hash(chunk));
    match bytes.chunks(SECTOR_BYTES).enumerate().position(differs) {
        Some(sector) => Err(sector),
        None => Ok(()),
    }
}

/// Checksums of sectors whose bytes come in pieces of any size.
#[derive(Clone, Default)]
pub struct SectorCrcs {
    crcs: Vec<u32>,
    sector: crc32fast::Hasher,
    sector_bytes: usize,
}

impl SectorCrcs {
    /// With room for the checksums of `bytes` bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { crcs: Vec::with_capacity(bytes.div_ceil(SECTOR_BYTES)), ..Self::default() }
    }

    /// Takes the next bytes.
    pub fn push(&mut self, mut bytes: &[u8]) {
        if self.sector_bytes > 0 {
            let (head, rest) = bytes.split_at(bytes.len().min(SECTOR_BYTES - self.sector_bytes));
            self.sector.update(head);
            self.sector_bytes += head.len();
            bytes = rest;
            if self.sector_bytes < SECTOR_BYTES {
                return;
            }
            self.close_sector();
        }
        let sectors = bytes.chunks_exact(SECTOR_BYTES);
        let tail = sectors.remainder();
        self.crcs.extend(sectors.map(crc32fast::hash));
        self.sector.update(tail);
        self.sector_bytes = tail.len();
    }

    /// The checksums of all that was pushed; a short last sector has the checksum of what it has.
    pub fn finish(mut self) -> Vec<u32> {
        if self.sector_bytes > 0 {
            self.close_sector();
        }
        self.crcs
    }

    fn close_sector(&mut self) {
        self.crcs.push(std::mem::take(&mut self.sector).finalize());
        self.sector_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_values() {
        assert_eq!(sector_crcs(b"123456789"), [0xCBF4_3926]);
        assert_eq!(sector_crcs(b""), [0u32; 0]);
        assert_eq!(sector_crcs(&[0; SECTOR_BYTES + 1]).len(), 2);
    }

    #[test]
    fn one_flipped_bit_is_found_in_its_sector() {
        let mut bytes = vec![7u8; 3 * SECTOR_BYTES + 5];
        let crcs = sector_crcs(&bytes);
        assert_eq!(verify_sectors(&bytes, &crcs), Ok(()));
        bytes[2 * SECTOR_BYTES + 100] ^= 4;
        assert_eq!(verify_sectors(&bytes, &crcs), Err(2));
        assert_eq!(verify_sectors(&bytes[..SECTOR_BYTES + 1], &crcs), Err(1), "a short sector is not the whole one");
        assert_eq!(verify_sectors(&bytes[..2 * SECTOR_BYTES], &crcs[..1]), Err(1));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn pieces_give_what_the_whole_gives(bytes in prop::collection::vec(any::<u8>(), 0..20_000), cuts in prop::collection::vec(0usize..6000, 0..20)) {
            let mut crcs = SectorCrcs::with_capacity(bytes.len());
            let mut rest = bytes.as_slice();
            for cut in cuts {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                crcs.push(head);
                rest = tail;
            }
            crcs.push(rest);
            prop_assert_eq!(crcs.finish(), sector_crcs(&bytes));
        }
    }
}
