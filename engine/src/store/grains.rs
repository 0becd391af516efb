//! A set of the grains of one block, a bit each: one word is one page.

use citius_wire::units::{GRAIN_BYTES, GRAINS_PER_PAGE};
use core::ops::Range;

/// A set of grains. A block of one page needs no allocation.
#[derive(Clone, Debug)]
pub(super) enum GrainSet {
    Page(u64),
    Pages(Box<[u64]>),
}

impl GrainSet {
    /// The empty set, of a block of `grains` grains.
    pub(super) fn new(grains: u32) -> Self {
        if grains as usize <= GRAINS_PER_PAGE {
            return Self::Page(0);
        }
        Self::Pages(vec![0; (grains as usize).div_ceil(GRAINS_PER_PAGE)].into())
    }

    pub(super) fn insert(&mut self, grains: Range<u32>) {
        self.for_words(grains, |word, mask| *word |= mask);
    }

    pub(super) fn remove(&mut self, grains: Range<u32>) {
        self.for_words(grains, |word, mask| *word &= !mask);
    }

    /// Whether all of `grains` are in the set.
    pub(super) fn contains_all(&self, grains: Range<u32>) -> bool {
        let words = self.words();
        masks(grains).all(|(index, mask)| words[index] & mask == mask)
    }

    /// Whether any of `grains` is in the set.
    pub(super) fn contains_any(&self, grains: Range<u32>) -> bool {
        let words = self.words();
        masks(grains).any(|(index, mask)| words[index] & mask != 0)
    }

    pub(super) fn contains(&self, grain: u32) -> bool {
        self.words()[grain as usize / GRAINS_PER_PAGE] & (1 << (grain as usize % GRAINS_PER_PAGE)) != 0
    }

    pub(super) fn len(&self) -> u32 {
        self.words().iter().map(|word| word.count_ones()).sum()
    }

    fn words(&self) -> &[u64] {
        match self {
            Self::Page(word) => core::slice::from_ref(word),
            Self::Pages(words) => words,
        }
    }

    fn for_words(&mut self, grains: Range<u32>, apply: impl Fn(&mut u64, u64)) {
        let words = match self {
            Self::Page(word) => core::slice::from_mut(word),
            Self::Pages(words) => words,
        };
        for (index, mask) in masks(grains) {
            apply(&mut words[index], mask);
        }
    }
}

/// The grains that hold any of the bytes at `range`.
pub(super) fn grains_of(range: &Range<u32>) -> Range<u32> {
    if range.is_empty() {
        return 0..0;
    }
    range.start / GRAIN_BYTES as u32..range.end.div_ceil(GRAIN_BYTES as u32)
}

/// Each word that `grains` touch, with the bits that they are.
fn masks(grains: Range<u32>) -> impl Iterator<Item = (usize, u64)> {
    let per_word = GRAINS_PER_PAGE as u32;
    let words = if grains.is_empty() { 0..0 } else { grains.start / per_word..grains.end.div_ceil(per_word) };
    words.map(move |word| {
        let from = grains.start.max(word * per_word) - word * per_word;
        let to = grains.end.min((word + 1) * per_word) - word * per_word;
        let mask = (u64::MAX >> (per_word - (to - from))) << from;
        (word as usize, mask)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn behaves_as_a_set(size in 1u32..300, steps in prop::collection::vec((any::<bool>(), 0u32..300, 0u32..300), 0..40)) {
            let mut set = GrainSet::new(size);
            let mut twin = BTreeSet::new();
            for (is_insert, a, b) in steps {
                let range = a.min(b).min(size)..a.max(b).min(size);
                if is_insert {
                    set.insert(range.clone());
                    twin.extend(range.clone());
                } else {
                    set.remove(range.clone());
                    twin.retain(|grain| !range.contains(grain));
                }
                prop_assert_eq!(set.len() as usize, twin.len());
                let probe = b.min(size).min(a)..size.min(a.saturating_add(b));
                if probe.start <= probe.end {
                    prop_assert_eq!(set.contains_all(probe.clone()), probe.clone().all(|grain| twin.contains(&grain)));
                    prop_assert_eq!(set.contains_any(probe.clone()), probe.clone().any(|grain| twin.contains(&grain)));
                }
                for grain in 0..size {
                    prop_assert_eq!(set.contains(grain), twin.contains(&grain));
                }
            }
        }
    }

    #[test]
    fn bytes_to_grains() {
        let grain = GRAIN_BYTES as u32;
        assert_eq!(grains_of(&(0..1)), 0..1);
        assert_eq!(grains_of(&(grain - 1..grain + 1)), 0..2);
        assert_eq!(grains_of(&(grain..2 * grain)), 1..2);
        assert_eq!(grains_of(&(5..5)), 0..0);
    }
}
