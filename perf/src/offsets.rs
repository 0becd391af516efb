//! Which bytes are read: a seeded random walk over a working set, the same for both sides of a ratio.

/// An endless sequence of offsets, each a multiple of the read's length, all equally likely.
#[derive(Clone, Debug)]
pub(crate) struct Offsets {
    state: u64,
    slots: u64,
    length: u64,
}

impl Offsets {
    /// Reads of `length` bytes in a working set of `bytes`.
    ///
    /// # Panics
    /// If not one read fits.
    pub(crate) fn new(seed: u64, bytes: usize, length: usize) -> Self {
        assert!(length > 0 && bytes >= length, "reads of {length} bytes in {bytes}");
        Self { state: seed, slots: (bytes / length) as u64, length: length as u64 }
    }

    /// The next offset.
    pub(crate) fn next(&mut self) -> u64 {
        // SplitMix64 (Steele, Lea and Flood 2014), scaled without a division.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        ((u128::from(mix(self.state)) * u128::from(self.slots)) >> 64) as u64 * self.length
    }
}

/// The finalizer of SplitMix64.
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_seed_gives_one_sequence_that_stays_inside_and_reaches_all() {
        let (mut first, mut second) = (Offsets::new(3, 10 * 4096 + 5, 4096), Offsets::new(3, 10 * 4096 + 5, 4096));
        let mut seen = BTreeSet::new();
        for _ in 0..1_000 {
            let offset = first.next();
            assert_eq!(offset, second.next());
            seen.insert(offset);
        }
        assert_eq!(seen, (0..10).map(|slot| slot * 4096).collect());
        assert_ne!(Offsets::new(3, 1 << 30, 4096).next(), Offsets::new(4, 1 << 30, 4096).next());
    }
}
