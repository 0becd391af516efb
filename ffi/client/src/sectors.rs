//! Checks bytes against the checksums of their sectors as they arrive.

use citius_wire::units::SECTOR_BYTES;

/// Checks a run of bytes that starts at a sector, however it is cut into pieces.
pub(crate) struct SectorCheck<'a> {
    crcs: &'a [rkyv::Archived<u32>],
    sector: usize,
    /// Bytes of the sector that the hasher has seen.
    filled: usize,
    hasher: crc32fast::Hasher,
    bad: Option<usize>,
}

impl<'a> SectorCheck<'a> {
    /// `crcs` holds one checksum for each sector to come.
    pub(crate) fn new(crcs: &'a [rkyv::Archived<u32>]) -> Self {
        Self { crcs, sector: 0, filled: 0, hasher: crc32fast::Hasher::new(), bad: None }
    }

    /// Takes the next bytes.
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.filled == 0
                && let Some((sector, rest)) = bytes.split_first_chunk::<SECTOR_BYTES>()
            {
                self.judge(crc32fast::hash(sector));
                bytes = rest;
                continue;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(SECTOR_BYTES - self.filled));
            self.hasher.update(part);
            self.filled += part.len();
            bytes = rest;
            if self.filled == SECTOR_BYTES {
                self.end_sector();
            }
        }
    }

    /// The first sector that does not match, or none.
    pub(crate) fn finish(mut self) -> Option<usize> {
        if self.filled > 0 {
            self.end_sector();
        }
        debug_assert_eq!(self.sector, self.crcs.len(), "the owner compared the lengths");
        self.bad
    }

    fn end_sector(&mut self) {
        let hasher = core::mem::take(&mut self.hasher);
        self.filled = 0;
        self.judge(hasher.finalize());
    }

    fn judge(&mut self, found: u32) {
        if self.crcs.get(self.sector).is_none_or(|said| said.to_native() != found) {
            self.bad.get_or_insert(self.sector);
        }
        self.sector += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However the bytes are cut, the judgement is that of whole sectors, and one flipped bit is found in its place.
        #[test]
        fn cuts_do_not_matter(length in 1_usize..20_000, cuts in prop::collection::vec(0_usize..20_000, 0..6), flip in any::<prop::sample::Index>(), damaged: bool) {
            let mut bytes: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
            let crcs: Vec<rkyv::Archived<u32>> =
                bytes.chunks(SECTOR_BYTES).map(|sector| crc32fast::hash(sector).into()).collect();
            let flip = flip.index(length);
            if damaged {
                bytes[flip] ^= 0x10;
            }
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(length)).chain([0, length]).collect();
            cuts.sort_unstable();
            let mut check = SectorCheck::new(&crcs);
            for pair in cuts.windows(2) {
                check.update(&bytes[pair[0]..pair[1]]);
            }
            prop_assert_eq!(check.finish(), damaged.then_some(flip / SECTOR_BYTES));
        }
    }
}
