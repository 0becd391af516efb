//! Listings in name order, whatever order the system lists in; and the deletion of trees where it cannot.
//!
//! Nobody but the system knows all names of a directory of any size. A pass over it keeps the first names behind the
//! last one that was passed on, up to [`HELD_BYTES_MAX`] of them; most directories need one pass, one with fifty million
//! names needs some hundred, and memory stays bounded. A name that is there all the time comes out once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};

use super::{
    Inner,
    call::RESUMABLE,
    protocol::{Node, What},
    version::to_stat,
};
use crate::{
    Entry, Error, Page, Refusal, Result, StorePath,
    path::{check_component, is_reserved},
    store::{PAGE_ENTRIES_MAX, Pages},
};

/// Bytes of names and what is known of them that one pass keeps: some 400,000 names.
const HELD_BYTES_MAX: usize = 64 << 20;
/// Bytes that an entry takes beside its name and its tag.
const ENTRY_BYTES: usize = 128;
/// Deletions of one directory at once.
const DELETIONS_IN_FLIGHT_MAX: usize = 8;
/// Names of one directory that a deletion looks at before it deletes them.
const DELETE_BATCH_MAX: usize = 1000;
/// How often a deletion may find the same names again, after a pause each time.
const DELETE_IDLE_ROUNDS_MAX: usize = 10;
const DELETE_IDLE_PAUSE: Duration = Duration::from_millis(100);

/// A name as it is listed: what it is, or why it is refused. One that cannot be decoded is known by what can be shown of
/// it, and kept apart from one that is really called so.
type Key = (String, bool);
type Found = Result<Node, &'static str>;

/// The first names behind another, as many as may be held.
struct Held {
    after: String,
    bytes_max: usize,
    names: BTreeMap<Key, Found>,
    bytes: usize,
    /// Whether names behind these were left out.
    is_cut: bool,
}

impl Held {
    fn new(after: String, bytes_max: usize) -> Self {
        Self { after, bytes_max, names: BTreeMap::new(), bytes: 0, is_cut: false }
    }

    fn take(&mut self, key: Key, found: Found) {
        if key.0 <= self.after {
            return;
        }
        if self.is_cut && self.names.last_key_value().is_some_and(|(last, _)| key > *last) {
            return;
        }
        let name_bytes = key.0.len();
        self.bytes += weight(name_bytes, &found);
        if let Some(twice) = self.names.insert(key, found) {
            self.bytes -= weight(name_bytes, &twice);
        }
        while self.bytes > self.bytes_max && self.names.len() > 1 {
            let (key, found) = self.names.pop_last().expect("there are several");
            self.bytes -= weight(key.0.len(), &found);
            self.is_cut = true;
        }
    }
}

fn weight(name_bytes: usize, found: &Found) -> usize {
    ENTRY_BYTES + name_bytes + found.as_ref().map_or(0, |node| node.tag.len())
}

/// A listing under way.
struct Walk {
    inner: Arc<Inner>,
    dir: StorePath,
    held: Held,
    /// Whether the system is to be asked before the next page.
    is_due: bool,
}

/// The pages of a directory; the system is asked when the first one is.
pub(super) fn pages(inner: Arc<Inner>, dir: &StorePath, after: String) -> Pages {
    pages_holding(inner, dir, after, HELD_BYTES_MAX)
}

fn pages_holding(inner: Arc<Inner>, dir: &StorePath, after: String, bytes_max: usize) -> Pages {
    let walk = Walk { inner, dir: dir.clone(), held: Held::new(after, bytes_max), is_due: true };
    stream::try_unfold(walk, |mut walk| async move {
        let page = walk.page().await?;
        Ok((page != Page::default()).then_some((page, walk)))
    })
    .boxed()
}

impl Walk {
    async fn page(&mut self) -> Result<Page> {
        let mut page = Page::default();
        while page.entries.len() + page.refused.len() < PAGE_ENTRIES_MAX {
            if self.is_due {
                self.fill().await?;
            }
            let Some(((name, _), found)) = self.held.names.pop_first() else { break };
            match found.and_then(|node| to_stat(&name, &node).map_err(|_| refusal_of(&node))) {
                Ok(stat) => page.entries.push(Entry { name: name.clone(), stat }),
                Err(reason) => page.refused.push(Refusal { name: name.clone(), reason }),
            }
            self.is_due = self.held.is_cut && self.held.names.is_empty();
            if self.is_due {
                self.held = Held::new(name, self.held.bytes_max);
            }
        }
        Ok(page)
    }

    /// One pass over all names.
    async fn fill(&mut self) -> Result<()> {
        self.is_due = false;
        let dir = self.inner.path(&self.dir)?;
        let mut names = self.inner.names(dir);
        while let Some((name, node)) = names.try_next().await? {
            let (key, found) = match name {
                Ok(name) if is_reserved(&name) => continue,
                Ok(name) => {
                    let reason = check_component(&name).err().or_else(|| {
                        // The path must be one that can be asked for again.
                        self.dir.join(&name).is_err().then_some("the path is too long")
                    });
                    ((name, false), reason.map_or(Ok(node), Err))
                }
                Err(lossy) => ((lossy, true), Err("the name is not UTF-8")),
            };
            self.held.take(key, found);
        }
        Ok(())
    }
}

fn refusal_of(node: &Node) -> &'static str {
    match node.what {
        What::Other(what) => what,
        What::File | What::Dir => "it cannot be shown",
    }
}

impl Inner {
    pub(super) async fn is_empty(&self, dir: &str) -> Result<bool> {
        Ok(self.names(dir).try_next().await?.is_none())
    }

    /// Deletes a directory with all that is below it, the deepest first. What is found while it goes on is deleted too, so
    /// a call that failed is simply made again.
    pub(super) async fn delete_below(&self, dir: &str) -> Result<()> {
        let mut stack = vec![dir.to_owned()];
        let (mut seen_last, mut idle_rounds) = (BTreeSet::new(), 0);
        while let Some(top) = stack.last().cloned() {
            let batch: Vec<_> = match self.names(&top).take(DELETE_BATCH_MAX).try_collect().await {
                // Somebody else deletes it as well.
                Err(Error::NotFound { .. }) if stack.len() > 1 => {
                    stack.pop();
                    continue;
                }
                other => other?,
            };
            if batch.is_empty() {
                match self.call(RESUMABLE, &top, || self.protocol.delete_dir(&top)).await {
                    Ok(()) | Err(Error::NotFound { .. }) => stack.pop(),
                    // A name has come up since it was listed.
                    Err(Error::NotEmpty { .. }) if idle_rounds < DELETE_IDLE_ROUNDS_MAX => {
                        idle_rounds += 1;
                        continue;
                    }
                    Err(other) => return Err(other),
                };
                continue;
            }
            let (mut files, mut dirs) = (Vec::new(), Vec::new());
            for (name, node) in batch {
                let name = name.map_err(|lossy| Error::Unnameable {
                    path: format!("{top}/{lossy}"),
                    reason: "its name is not UTF-8; delete it with the store's own tools".into(),
                })?;
                if node.what == What::Dir { &mut dirs } else { &mut files }.push(format!("{top}/{name}"));
            }
            // The server may need a moment to forget what was deleted; for ever it may not.
            let seen: BTreeSet<_> = files.iter().chain(&dirs).cloned().collect();
            if seen == seen_last {
                idle_rounds += 1;
                if idle_rounds > DELETE_IDLE_ROUNDS_MAX {
                    return Err(Error::NotEmpty { path: top });
                }
                tokio::time::sleep(DELETE_IDLE_PAUSE).await;
            }
            seen_last = seen;
            let deletions = files.into_iter().map(|path| async move {
                match self.call(RESUMABLE, &path, || self.protocol.delete_file(&path)).await {
                    Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
                    Err(other) => Err(other),
                }
            });
            stream::iter(deletions).buffer_unordered(DELETIONS_IN_FLIGHT_MAX).try_collect::<Vec<()>>().await?;
            stack.extend(dirs);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file() -> Found {
        Ok(Node { what: What::File, len: 0, mtime_ns: 0, tag: String::new(), mode: None })
    }

    /// Every name behind `after`, by as many passes as it takes; and the most that was held.
    fn passes(names: &[String], after: &str, held_max: usize) -> (Vec<String>, usize) {
        let (mut out, mut most, mut after) = (Vec::new(), 0, after.to_owned());
        loop {
            let mut held = Held::new(after, held_max * (ENTRY_BYTES + 4));
            for name in names {
                held.take((name.clone(), false), file());
                most = most.max(held.names.len());
            }
            out.extend(held.names.into_keys().map(|(name, _)| name));
            match out.last() {
                Some(last) if held.is_cut => after = last.clone(),
                _ => return (out, most),
            }
        }
    }

    proptest! {
        #[test]
        fn like_sorting_it_all(
            names in prop::collection::vec("[a-c\u{e9}]{1,2}", 0..60),
            after in "[a-c]{0,2}",
            held_max in 1_usize..20,
        ) {
            let expected: BTreeSet<String> = names.iter().filter(|name| **name > after).cloned().collect();
            let (out, most) = passes(&names, &after, held_max);
            prop_assert_eq!(out, expected.into_iter().collect::<Vec<_>>());
            prop_assert!(most <= held_max + 1, "{} held", most);
        }
    }

    #[test]
    fn a_name_that_cannot_be_decoded_hides_no_other() {
        let mut held = Held::new(String::new(), 1 << 20);
        held.take(("a\u{fffd}".into(), true), Err("the name is not UTF-8"));
        held.take(("a\u{fffd}".into(), false), file());
        assert_eq!(held.names.len(), 2);
    }
}
