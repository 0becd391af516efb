//! The ring: the live workers of an epoch, and who of them owns a block.
//!
//! Placement is weighted rendezvous hashing (Thaler and Ravishankar 1998, weighted as by Schindelhauer and
//! Schomaker 2005): every worker scores every block, the best score owns it. A worker that joins takes only what it
//! now owns, one that leaves gives away only what it owned. Master, workers and clients all run this code on the same
//! ring, so it must give the same answer on every machine: it uses additions, multiplications and divisions of IEEE
//! doubles only, whose results are exactly specified, and no logarithm of the platform's library.

use crate::ids::{Epoch, Incarnation, Place, WorkerId};
use rkyv::{Archive, Deserialize, Serialize};

/// The most workers a ring holds.
pub const WORKERS_MAX: usize = 4096;

/// A live worker, as those who route to it see it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which worker.
    pub worker: WorkerId,
    /// Which life of it: memory does not outlive one.
    pub incarnation: Incarnation,
    /// `HOST:PORT` of its data listener.
    pub data_address: String,
    /// Where its Unix socket is, for clients on its host; empty if it has none.
    pub socket_path: String,
    /// Its host, to tell who is local.
    pub host: String,
    /// Its shards.
    pub shards: u16,
    /// Its share of the blocks, relative to the others': bytes of its memory tier.
    pub weight: u64,
}

/// The live workers of one epoch, in order of their ids.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    /// The version of this ring.
    pub epoch: Epoch,
    /// Its workers.
    pub members: Vec<Member>,
}

/// Who owns a block: a member, by its index in the ring, and its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Index into [`Ring::members`].
    pub member: usize,
    /// The shard of that worker.
    pub shard: u16,
}

impl Ring {
    /// The owner of block `index` of a file placed at `place`, or `None` if nobody lives.
    pub fn owner(&self, place: Place, index: u32) -> Option<Owner> {
        self.owner_but(None, place, index)
    }

    /// Who would own the block if `newcomer` were not there: its owner until `newcomer` joined, because a join moves
    /// blocks to the newcomer only.
    pub fn owner_before(&self, newcomer: WorkerId, place: Place, index: u32) -> Option<Owner> {
        self.owner_but(Some(newcomer), place, index)
    }

    fn owner_but(&self, without: Option<WorkerId>, place: Place, index: u32) -> Option<Owner> {
        let block = mix(place.0 ^ mix(u64::from(index).wrapping_add(0x9e37_79b9_7f4a_7c15)));
        let best = match &self.members[..] {
            [only] if Some(only.worker) != without => 0,
            members => {
                let mut best = (None, f64::NEG_INFINITY);
                for (i, member) in members.iter().enumerate() {
                    if Some(member.worker) == without {
                        continue;
                    }
                    let score = score(mix(block ^ mix(member.worker.0)), member.weight);
                    if score > best.1 {
                        best = (Some(i), score);
                    }
                }
                best.0?
            }
        };
        Some(Owner { member: best, shard: shard_of(block, self.members[best].shards) })
    }

    /// The member that is this worker.
    pub fn member(&self, worker: WorkerId) -> Option<&Member> {
        self.members.iter().find(|member| member.worker == worker)
    }
}

/// `hash * shards / 2^64`: even, and without a division.
///
/// The hash is of the complement, so that it has nothing in common with any worker's score: of `block` itself it would
/// be that of worker 0, who wins the blocks that hash high, and all of them would go to its last shards.
fn shard_of(block: u64, shards: u16) -> u16 {
    ((u128::from(mix(!block)) * u128::from(shards.max(1))) >> 64) as u16
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit.
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// `weight / -ln(u)` for u = hash scaled into (0, 1): the weighted rendezvous score.
fn score(hash: u64, weight: u64) -> f64 {
    // 52 random bits and a half are exact in a double and keep u strictly inside (0, 1), so that the logarithm is
    // finite and not zero. With 53 bits the half would round, in the end up to 1.
    let u = ((hash >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
    weight.max(1) as f64 / -ln(u)
}

/// The last power of the series: z is at most 0.172, so what is left out is below 0.172^22 = 2e-17.
const LN_TERM_LAST: i32 = 21;

/// Natural logarithm by exponent and an atanh series, to a relative 1e-15: exact enough, and the same everywhere.
fn ln(x: f64) -> f64 {
    debug_assert!(x > 0.0 && x < 1.0);
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) & 0x7ff) as i64 - 1023;
    let mut mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    // Around 1, where scores are decided, exponent and series must not cancel: keep the mantissa near 1 from both sides.
    if mantissa > core::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    let z = (mantissa - 1.0) / (mantissa + 1.0);
    let square = z * z;
    let mut sum = 0.0;
    let mut k = LN_TERM_LAST;
    while k >= 1 {
        sum = sum * square + 1.0 / f64::from(k);
        k -= 2;
    }
    exponent as f64 * core::f64::consts::LN_2 + 2.0 * z * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(weights: &[u64]) -> Ring {
        Ring {
            epoch: Epoch(1),
            members: weights
                .iter()
                .enumerate()
                .map(|(i, &weight)| Member {
                    worker: WorkerId(i as u64 + 1),
                    incarnation: Incarnation(1),
                    data_address: String::new(),
                    socket_path: String::new(),
                    host: String::new(),
                    shards: 3,
                    weight,
                })
                .collect(),
        }
    }

    #[test]
    fn logarithm_is_close_to_the_library_s() {
        for i in 1..10_000 {
            let x = f64::from(i) / 10_000.0;
            assert!((ln(x) / x.ln() - 1.0).abs() < 1e-14, "{x}");
        }
        // The two ends of what `score` asks for.
        for x in [0.5 / (1_u64 << 52) as f64, 1.0 - 0.5 / (1_u64 << 52) as f64, 1.0 - 1e-9] {
            assert!((ln(x) / x.ln() - 1.0).abs() < 1e-14, "{x}");
        }
    }

    #[test]
    fn scores_are_finite_and_grow_with_hash_and_weight() {
        let hashes = [0, 1 << 12, 1 << 32, 1 << 63, (1 << 63) + (1 << 12), u64::MAX - (1 << 12), u64::MAX];
        for pair in hashes.windows(2) {
            assert!(0.0 < score(pair[0], 1) && score(pair[0], 1) < score(pair[1], 1), "{pair:?}");
        }
        assert!(score(u64::MAX, u64::MAX).is_finite() && score(0, 0) > 0.0);
        assert!(score(7, 2) > score(7, 1));
    }

    #[test]
    fn golden_owners() {
        let ring = ring(&[1, 1, 2]);
        let owners: Vec<_> =
            (0..8).map(|i| ring.owner(Place(0x1234_5678_9abc_def0), i).map(|o| (o.member, o.shard))).collect();
        assert_eq!(format!("{owners:?}"), GOLDEN_OWNERS);
    }
    /// As an independent program computes them, with the logarithm of another library.
    const GOLDEN_OWNERS: &str = "[Some((0, 1)), Some((2, 2)), Some((2, 1)), Some((2, 2)), \
        Some((1, 1)), Some((2, 0)), Some((0, 1)), Some((2, 0))]";

    #[test]
    fn load_follows_weight_and_shards_are_even() {
        let ring = ring(&[1, 1, 2]);
        let (mut members, mut shards) = ([0; 3], [0; 3]);
        for i in 0..40_000_u32 {
            let owner = ring.owner(Place(u64::from(i) * 77), i % 5).unwrap();
            members[owner.member] += 1;
            shards[usize::from(owner.shard)] += 1;
        }
        for (found, ideal) in members.iter().zip([10_000, 10_000, 20_000]) {
            assert!((*found as f64 - f64::from(ideal)).abs() < 500.0, "{members:?}");
        }
        assert!(shards.iter().all(|n| (12_500..14_200).contains(n)), "{shards:?}");
    }

    /// Worker 0 once scored a block by the same hash that chose its shard, and so used its last shards only.
    #[test]
    fn shards_of_every_worker_are_even() {
        let mut ring = ring(&[1; 8]);
        for (i, member) in ring.members.iter_mut().enumerate() {
            member.worker = WorkerId(i as u64);
        }
        let mut shards = [[0; 3]; 8];
        for i in 0..48_000 {
            let owner = ring.owner(Place(i), 0).unwrap();
            shards[owner.member][usize::from(owner.shard)] += 1;
        }
        assert!(shards.as_flattened().iter().all(|n| (1_800..2_200).contains(n)), "{shards:?}");
    }

    #[test]
    fn a_join_moves_only_what_the_newcomer_takes() {
        let (before, after) = (ring(&[5, 5]), ring(&[5, 5, 5]));
        for i in 0..10_000 {
            let (old, new) = (before.owner(Place(i), 0).unwrap(), after.owner(Place(i), 0).unwrap());
            assert!(new.member == old.member || new.member == 2);
            assert_eq!(after.owner_before(after.members[2].worker, Place(i), 0), Some(old));
        }
    }

    #[test]
    fn nobody_owns_in_an_empty_ring() {
        assert_eq!(Ring::default().owner(Place(1), 0), None);
        let alone = ring(&[5]);
        assert_eq!(alone.owner_before(alone.members[0].worker, Place(1), 0), None);
    }
}
