//! What a rename by copy and delete left when it was cut short.
//!
//! Whoever takes it up again finds something at its target: copies that it made itself, to be made again or kept; or what
//! somebody else put there meanwhile, by other means than ours, which a rename that may not overwrite has to leave. The two
//! are told apart by what they hold: bytes for a file, and for a tree lengths, name by name.

use citius_understore::{Error, Kind, Result, Stat, StorePath, UnderStore};
use futures::{StreamExt, TryStreamExt, stream};

/// Bytes of both files that are compared at a time.
const PIECE_BYTES: u64 = 4 << 20;
/// Files of a tree that are looked at at once.
const LOOKS_AT_ONCE_MAX: usize = 16;

/// Whether all that is at `to`, and would be overwritten, may be copies of what is at `from`. Nothing at all is none.
pub(super) async fn is_half(store: &dyn UnderStore, from: &StorePath, to: &StorePath) -> Result<bool> {
    let (Some(source), Some(target)) = (look(store, from).await?, look(store, to).await?) else { return Ok(false) };
    match (source.kind, target.kind) {
        (Kind::File, Kind::File) => is_same_file(store, (from, &source), (to, &target)).await,
        (Kind::Dir, Kind::Dir) => is_half_tree(store, from, to).await,
        _ => Ok(false),
    }
}

async fn look(store: &dyn UnderStore, path: &StorePath) -> Result<Option<Stat>> {
    match store.stat(path).await {
        Ok(stat) => Ok(Some(stat)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

type Seen<'a> = (&'a StorePath, &'a Stat);

async fn is_same_file(store: &dyn UnderStore, a: Seen<'_>, b: Seen<'_>) -> Result<bool> {
    if a.1.len != b.1.len {
        return Ok(false);
    }
    for start in (0..a.1.len).step_by(PIECE_BYTES as usize) {
        let range = start..a.1.len.min(start + PIECE_BYTES);
        let (one, other) = futures::future::try_join(piece(store, a, &range), piece(store, b, &range)).await?;
        if one != other {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn piece(store: &dyn UnderStore, (path, stat): Seen<'_>, range: &std::ops::Range<u64>) -> Result<Vec<u8>> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    let mut landing = |at: u64, piece: &[u8]| {
        let at = (at - range.start) as usize;
        bytes[at..at + piece.len()].copy_from_slice(piece);
    };
    store.read(path, &stat.token, range.clone(), &mut landing).await?;
    Ok(bytes)
}

/// Whether each file of the tree at `to` is as long as its like at `from`, or has none there: that has gone already, or
/// is none of ours and stays.
async fn is_half_tree(store: &dyn UnderStore, from: &StorePath, to: &StorePath) -> Result<bool> {
    let mut dirs = vec![(from.clone(), to.clone())];
    while let Some((from, to)) = dirs.pop() {
        let mut pages = store.list(&to, "");
        while let Some(page) = pages.next().await {
            let mut files = Vec::new();
            for entry in page?.entries {
                let source = from.join(&entry.name)?;
                match entry.stat.kind {
                    Kind::Dir => dirs.push((source, to.join(&entry.name)?)),
                    Kind::File => files.push((source, entry.stat.len)),
                }
            }
            let looks = files.into_iter().map(|(source, len)| async move {
                let found = look(store, &source).await?;
                Ok::<_, Error>(found.is_none_or(|found| found.is_file() && found.len == len))
            });
            let fits: Vec<bool> = stream::iter(looks).buffer_unordered(LOOKS_AT_ONCE_MAX).try_collect().await?;
            if fits.contains(&false) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::Bytes;
    use citius_understore::testing::Bucket;

    use super::*;

    fn path(text: &str) -> StorePath {
        StorePath::parse(text).unwrap()
    }

    #[tokio::test]
    async fn copies_of_ours_are_told_from_files_of_others() {
        let bucket = Bucket::default();
        let store = bucket.mount("");
        for (at, content) in [
            ("f", &b"ours"[..]),
            ("same", b"ours"),
            ("as-long", b"else"),
            ("longer", b"another"),
            ("empty", b""),
            ("d/a", b"ours"),
            ("d/e/b", b"ours"),
            ("half/a", b"ours"),
            ("begun/e/b", b"ours"),
            ("begun/e/gone", b"what has moved already"),
            ("mixed/a", b"ours"),
            ("mixed/e/b", b"another"),
            ("odd/a/b", b"ours"),
        ] {
            bucket.put_object(at, Bytes::from_static(content));
        }
        for (from, to, is) in [
            ("f", "same", true),
            ("f", "as-long", false),
            ("f", "longer", false),
            ("f", "nothing", false),
            ("f", "d", false),
            ("empty", "empty", true),
            ("d", "half", true),
            ("d", "begun", true),
            ("d", "mixed", false),
            ("d", "odd", true),
            ("odd", "d", false),
        ] {
            assert_eq!(is_half(&*store, &path(from), &path(to)).await.unwrap(), is, "{from} at {to}");
        }
    }
}
