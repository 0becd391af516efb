//! Which cores belong to shards, and which to everything else.
//!
//! A shard has a core to itself. tokio (metadata RPC, Raft, HTTP, network under-stores) runs on the cores that are
//! left; on a machine with one core all share it, unpinned.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The division of this process's cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cores {
    /// One for each shard; fewer than shards if there are not enough.
    pub(crate) shards: Vec<usize>,
    /// For everything else.
    pub(crate) rest: Vec<usize>,
}

impl Cores {
    /// Divides the cores that this process may use; `shards` of them, or all but one, go to shards.
    pub(crate) fn divide(shards: Option<u16>) -> (Self, u16) {
        Self::divide_among(&allowed(), shards)
    }

    fn divide_among(allowed: &[usize], shards: Option<u16>) -> (Self, u16) {
        let count = shards.map_or_else(|| allowed.len().saturating_sub(1).clamp(1, 1024) as u16, |asked| asked.max(1));
        if usize::from(count) < allowed.len() {
            // The first cores take interrupts on most machines, so shards get the last.
            let (rest, own) = allowed.split_at(allowed.len() - usize::from(count));
            (Self { shards: own.to_vec(), rest: rest.to_vec() }, count)
        } else {
            (Self { shards: Vec::new(), rest: allowed.to_vec() }, count)
        }
    }

    /// Keeps the calling thread off the shards' cores.
    pub(crate) fn leave_shards_alone(&self) {
        let mut set = CpuSet::new();
        self.rest.iter().for_each(|&core| set.set(core));
        if let Err(error) = sched_setaffinity(None, &set) {
            tracing::debug!(%error, "a thread cannot be kept off the shards' cores");
        }
    }
}

fn allowed() -> Vec<usize> {
    match sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect(),
        Err(_) => vec![0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_one_by_default_and_nothing_pinned_when_short() {
        let divide = |cores: &[usize], shards| Cores::divide_among(cores, shards);
        assert_eq!(divide(&[0, 1], None), (Cores { shards: vec![1], rest: vec![0] }, 1));
        assert_eq!(divide(&[0, 2, 4, 6], None), (Cores { shards: vec![2, 4, 6], rest: vec![0] }, 3));
        assert_eq!(divide(&[0, 2, 4, 6], Some(1)), (Cores { shards: vec![6], rest: vec![0, 2, 4] }, 1));
        assert_eq!(divide(&[3], None), (Cores { shards: vec![], rest: vec![3] }, 1));
        assert_eq!(divide(&[0, 1], Some(4)), (Cores { shards: vec![], rest: vec![0, 1] }, 4));
    }
}
