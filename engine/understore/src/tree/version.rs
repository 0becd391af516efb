//! Versions of files: length, modification time, and the system's own tag.
//!
//! A token's bytes (little endian): `mtime_ns i64 | len u64 | tag...`. It holds the length so that a read knows the end
//! of its version without asking.

use crate::{
    Error, Result, Stat, VersionToken,
    store::{Kind, TOKEN_BYTES_MAX},
};

use super::protocol::{Node, What};

/// Bytes of a tag that fit into a token; longer ones are replaced by two hashes of them.
const TAG_BYTES_MAX: usize = TOKEN_BYTES_MAX - 16;

/// The stat of a node; what is neither file nor directory is named and refused.
pub(super) fn to_stat(path: &str, node: &Node) -> Result<Stat> {
    let mtime_ms = node.mtime_ns.div_euclid(1_000_000);
    match node.what {
        What::Dir => Ok(Stat::dir(mtime_ms)),
        What::File => Ok(Stat { kind: Kind::File, len: node.len, token: token_of(node), mtime_ms }),
        What::Other(what) => Err(Error::NotAFile { path: path.to_owned(), what }),
    }
}

fn token_of(node: &Node) -> VersionToken {
    let mut bytes = Vec::with_capacity(16 + node.tag.len().min(TAG_BYTES_MAX));
    bytes.extend_from_slice(&node.mtime_ns.to_le_bytes());
    bytes.extend_from_slice(&node.len.to_le_bytes());
    bytes.extend_from_slice(bounded(&node.tag).as_bytes());
    VersionToken::new(&bytes).expect("times, lengths and bounded tags are within the bound")
}

/// The file that a token is of; `None` if it is another kind of store's.
pub(super) fn version_in(token: &VersionToken) -> Option<Node> {
    let (mtime, rest) = token.as_bytes().split_first_chunk()?;
    let (len, tag) = rest.split_first_chunk()?;
    let tag = std::str::from_utf8(tag).ok()?.to_owned();
    let (len, mtime_ns) = (u64::from_le_bytes(*len), i64::from_le_bytes(*mtime));
    Some(Node { what: What::File, len, mtime_ns, tag, mode: None })
}

fn bounded(tag: &str) -> std::borrow::Cow<'_, str> {
    if tag.len() <= TAG_BYTES_MAX {
        return tag.into();
    }
    format!("{:016x}{:016x}", hash_of(tag, 0), hash_of(tag, 1)).into()
}

/// Whether a file that replaces another one is told apart from it and, where times are set in steps, from all that were
/// there before it.
pub(super) fn is_another(node: &Node, target: &Node, step_ns: i64) -> bool {
    node.len != target.len
        || if step_ns > 0 { node.mtime_ns > target.mtime_ns } else { node.mtime_ns != target.mtime_ns }
        || node.tag != target.tag
}

/// What a record holds of a tag that a rename keeps; zero for none.
pub(super) fn mark_of(tag: &str) -> u64 {
    if tag.is_empty() { 0 } else { hash_of(tag, 2).max(1) }
}

/// FNV-1a, as it is written into records; the seed makes different hashes of one text.
fn hash_of(text: &str, seed: u8) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    std::iter::once(&seed).chain(text.as_bytes()).fold(0xcbf2_9ce4_8422_2325, fold)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(len: u64, mtime_ns: i64, tag: &str) -> Node {
        Node { what: What::File, len, mtime_ns, tag: tag.to_owned(), mode: None }
    }

    proptest! {
        #[test]
        fn tokens_round_trip(len: u64, mtime_ns: i64, tag in "\\PC{0,60}") {
            let node = file(len, mtime_ns, &tag);
            prop_assert_eq!(version_in(&token_of(&node)), Some(node));
        }

        #[test]
        fn hostile_tokens_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = version_in(&VersionToken::new(&bytes).unwrap());
        }
    }

    #[test]
    fn tags_of_any_length_differ_in_their_tokens() {
        let long = "x".repeat(TAG_BYTES_MAX);
        let tags = ["", "a", "b", &long, &format!("{long}y"), &format!("{long}z")];
        let tokens: std::collections::BTreeSet<_> = tags.iter().map(|tag| token_of(&file(1, 2, tag))).collect();
        assert_eq!(tokens.len(), tags.len());
    }

    #[test]
    fn a_file_is_another_by_any_of_what_is_known() {
        let old = file(5, 100, "t");
        assert!(!is_another(&old, &old, 0) && !is_another(&old, &old, 1));
        assert!(is_another(&file(6, 100, "t"), &old, 1) && is_another(&file(5, 100, "u"), &old, 1));
        assert!(is_another(&file(5, 101, "t"), &old, 1) && is_another(&file(5, 99, "t"), &old, 0));
        // An earlier time could be that of the file before.
        assert!(!is_another(&file(5, 99, "t"), &old, 1));
    }
}
