//! The members of the cluster, as bytes: in the log's membership entries and in snapshots.
//!
//! ```text
//! voter sets u16, then each: members u16, then each: id u64
//! nodes u16, then each: id u64, address length u16, address (UTF-8)
//! ```
//! Little endian. Two voter sets are a change of membership under way.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut};
use openraft::impls::BasicNode;

use super::types::Membership;

/// Appends `membership` to `out`.
pub(crate) fn encode(membership: &Membership, out: &mut Vec<u8>) {
    let sets = membership.get_joint_config();
    out.put_u16_le(sets.len() as u16);
    for set in sets {
        out.put_u16_le(set.len() as u16);
        for id in set {
            out.put_u64_le(*id);
        }
    }
    out.put_u16_le(membership.nodes().count() as u16);
    for (id, node) in membership.nodes() {
        out.put_u64_le(*id);
        out.put_u16_le(node.addr.len() as u16);
        out.put_slice(node.addr.as_bytes());
    }
}

/// Takes a membership off the front of `bytes`; `None` if it is not one.
pub(crate) fn decode(bytes: &mut &[u8]) -> Option<Membership> {
    let mut sets = Vec::new();
    for _ in 0..bytes.try_get_u16_le().ok()? {
        let mut set = BTreeSet::new();
        for _ in 0..bytes.try_get_u16_le().ok()? {
            set.insert(bytes.try_get_u64_le().ok()?);
        }
        sets.push(set);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..bytes.try_get_u16_le().ok()? {
        let id = bytes.try_get_u64_le().ok()?;
        let len = bytes.try_get_u16_le().ok()? as usize;
        let (address, rest) = bytes.split_at_checked(len)?;
        *bytes = rest;
        nodes.insert(id, BasicNode::new(std::str::from_utf8(address).ok()?));
    }
    if sets.is_empty() && nodes.is_empty() {
        return Some(Membership::default());
    }
    Membership::new(sets, nodes).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn joint() -> Membership {
        let node = |at: &str| BasicNode::new(at);
        Membership::new(
            vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])],
            BTreeMap::from([(1, node("a:1")), (2, node("b:2")), (3, node("")), (4, node("learner"))]),
        )
        .unwrap()
    }

    #[test]
    fn round_trip_and_golden_length() {
        for membership in [joint(), Membership::default()] {
            let mut bytes = Vec::new();
            encode(&membership, &mut bytes);
            let mut rest = &bytes[..];
            assert_eq!(decode(&mut rest), Some(membership));
            assert!(rest.is_empty());
        }
        let mut bytes = Vec::new();
        encode(&joint(), &mut bytes);
        assert_eq!(bytes.len(), 2 + 2 * (2 + 16) + 2 + 4 * 10 + 3 + 3 + 7);
        assert_eq!(bytes[..6], [2, 0, 2, 0, 1, 0]);
    }

    #[test]
    fn a_cut_is_refused() {
        let mut bytes = Vec::new();
        encode(&joint(), &mut bytes);
        for cut in 0..bytes.len() {
            assert_eq!(decode(&mut &bytes[..cut]), None, "cut at {cut}");
        }
    }
}
