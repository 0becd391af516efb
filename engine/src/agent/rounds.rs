//! A long and changing list, told a page at a time, in rounds.

use citius_wire::FileKey;

/// Where the last page of the round ended.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    after: Option<FileKey>,
}

impl Rounds {
    /// The next at most `count_max` of the files in order of their keys, from the one after the last page on and around
    /// the end. So whoever stays in the list is told in every round of `files / count_max` pages, whoever comes and goes.
    pub(crate) fn next(&mut self, mut files: Vec<FileKey>, count_max: usize) -> Vec<FileKey> {
        files.sort_unstable();
        files.dedup();
        let start = self.after.map_or(0, |after| files.partition_point(|file| *file <= after));
        files.rotate_left(start);
        files.truncate(count_max);
        self.after = files.last().copied();
        files
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const fn key(i: u8) -> FileKey {
        FileKey([i; 16])
    }

    proptest! {
        /// The story: with more unpersisted files than one heartbeat takes, the first ones were told each time, and a lost
        /// task about any other left its blocks pinned for ever.
        #[test]
        fn who_stays_is_told_in_every_round(
            stays in prop::collection::btree_set(any::<u8>(), 1..60),
            comings in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 100),
            count_max in 1_usize..12,
        ) {
            let mut rounds = Rounds::default();
            let mut untold: BTreeSet<FileKey> = stays.iter().copied().map(key).collect();
            let mut told_in_round = 0;
            for coming in comings {
                let files: Vec<_> = stays.iter().chain(&coming).copied().map(key).collect();
                let all: BTreeSet<_> = files.iter().copied().collect();
                let page = rounds.next(files, count_max);
                prop_assert_eq!(page.len(), all.len().min(count_max));
                let distinct: BTreeSet<_> = page.iter().copied().collect();
                prop_assert!(distinct.len() == page.len() && distinct.is_subset(&all));
                untold.retain(|file| !distinct.contains(file));
                told_in_round += page.len();
                // All keys there are make one round, at the very most.
                if told_in_round >= 256 + count_max {
                    prop_assert!(untold.is_empty(), "not told in a round: {:?}", untold);
                    untold = stays.iter().copied().map(key).collect();
                    told_in_round = 0;
                }
            }
        }
    }

    #[test]
    fn a_list_that_fits_is_told_whole_each_time() {
        let mut rounds = Rounds::default();
        for _ in 0..3 {
            let mut page = rounds.next(vec![key(2), key(1), key(2), key(3)], 3);
            page.sort_unstable();
            assert_eq!(page, [key(1), key(2), key(3)]);
        }
        assert!(rounds.next(Vec::new(), 3).is_empty());
    }
}
