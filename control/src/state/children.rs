//! The children of one directory, in name order.
//!
//! ```text
//! runs: [ a b c ] [ f g ] [ m n o p ]       each a vector of slots, at most RUN_MAX long
//! ```
//!
//! A single sorted vector would move megabytes for each insertion into a large directory, and an unsorted one would
//! have to be sorted under the read lock of each listing. Runs cost two binary searches and move at most 2 KiB.
//! Invariants: no run is empty, none is longer than `RUN_MAX`, and names grow through all runs.

use super::names::Names;

/// The longest run.
const RUN_MAX: usize = 512;
/// Two neighbours that fit into so little become one.
const RUN_MERGE_MAX: usize = RUN_MAX / 4;

/// Slots in the order of their names.
#[derive(Default)]
pub(super) struct Children {
    runs: Vec<Vec<u32>>,
}

impl Children {
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Adds a slot that is named already; its name is new here.
    pub(super) fn insert(&mut self, slot: u32, names: &Names) {
        let name = names.get(slot);
        if self.runs.is_empty() {
            self.runs.push(vec![slot]);
            return;
        }
        let run_index = self.run_of(name, names).min(self.runs.len() - 1);
        let is_last_run = run_index + 1 == self.runs.len();
        let run = &mut self.runs[run_index];
        let at = run.partition_point(|other| names.get(*other) < name);
        debug_assert!(run.get(at).is_none_or(|other| names.get(*other) != name), "{name:?} is there twice");
        if run.len() < RUN_MAX {
            run.insert(at, slot);
        } else if is_last_run && at == run.len() {
            // Names that come in order fill whole runs.
            self.runs.push(vec![slot]);
        } else {
            let mut upper = run.split_off(RUN_MAX / 2);
            match at.checked_sub(RUN_MAX / 2) {
                Some(at) if at > 0 => upper.insert(at, slot),
                _ => run.insert(at, slot),
            }
            self.runs.insert(run_index + 1, upper);
        }
    }

    /// Removes a slot, which still has its name.
    pub(super) fn remove(&mut self, slot: u32, names: &Names) {
        let name = names.get(slot);
        let run_index = self.run_of(name, names);
        let run = &mut self.runs[run_index];
        let at = run.partition_point(|other| names.get(*other) < name);
        assert_eq!(run.get(at), Some(&slot), "{name:?} is a child");
        run.remove(at);
        if run.is_empty() {
            self.runs.remove(run_index);
        } else if let Some(next) = self.runs.get(run_index + 1)
            && self.runs[run_index].len() + next.len() <= RUN_MERGE_MAX
        {
            let next = self.runs.remove(run_index + 1);
            self.runs[run_index].extend(next);
        }
    }

    /// The slots whose names come after `after`; all of them if it is empty, for no name is.
    pub(super) fn after<'a>(&'a self, after: &str, names: &Names) -> impl Iterator<Item = u32> + use<'a> {
        let run_index = self.run_of(after, names);
        let (first, others) = match self.runs.get(run_index) {
            Some(run) => (&run[run.partition_point(|slot| names.get(*slot) <= after)..], &self.runs[run_index + 1..]),
            None => (&[][..], &[][..]),
        };
        first.iter().chain(others.iter().flatten()).copied()
    }

    /// All slots, in name order.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        self.runs.iter().flatten().copied()
    }

    /// The first run whose last name is not below `name`; past the end if there is none.
    fn run_of(&self, name: &str, names: &Names) -> usize {
        self.runs.partition_point(|run| names.get(run[run.len() - 1]) < name)
    }

    /// Checks the invariants.
    pub(super) fn validate(&self, names: &Names) {
        assert!(self.runs.iter().all(|run| !run.is_empty() && run.len() <= RUN_MAX), "runs are within bounds");
        assert!(self.iter().is_sorted_by(|a, b| names.get(*a) < names.get(*b)), "children are in name order");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Drives runs and a map through `steps`, each a number whose parity says insert or remove.
    fn drive(steps: impl Iterator<Item = (bool, u32)>, after: &str) {
        let (mut names, mut children, mut twin) = (Names::default(), Children::default(), BTreeMap::new());
        for (add, slot) in steps {
            let name = format!("{:04}", slot.wrapping_mul(7919) % 10_000);
            match (add, twin.contains_key(&name)) {
                (true, false) => {
                    names.set(slot, &name);
                    children.insert(slot, &names);
                    twin.insert(name, slot);
                }
                (false, true) => {
                    children.remove(slot, &names);
                    names.clear(slot);
                    twin.remove(&name);
                }
                _ => {}
            }
        }
        children.validate(&names);
        assert_eq!(children.is_empty(), twin.is_empty());
        assert!(children.iter().eq(twin.values().copied()));
        let rest = twin.iter().filter(|(name, _)| name.as_str() > after).map(|(_, slot)| *slot);
        assert!(children.after(after, &names).eq(rest));
    }

    #[test]
    fn runs_split_merge_and_vanish() {
        let all = || (0..5_000).map(|slot| (true, slot));
        drive(all(), "2500");
        drive(all().chain((0..5_000).filter(|slot| slot % 37 != 0).map(|slot| (false, slot))), "2500");
        drive(all().chain((0..5_000).map(|slot| (false, slot))), "");
    }

    proptest! {
        #[test]
        fn as_a_map(steps in prop::collection::vec((any::<bool>(), 0_u32..3_000), 0..4_000), after in "[0-9]{0,4}") {
            drive(steps.into_iter(), &after);
        }
    }
}
