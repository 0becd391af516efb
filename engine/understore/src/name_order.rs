//! From a store's key order to name order, in bounded memory.
//!
//! An object store lists a directory by key, and a subdirectory's key ends in a slash: `a-b` comes before `a/`,
//! though by name `a` comes before `a-b`. A name may therefore only be passed on when no subdirectory that sorts
//! before it can still come. That subdirectory's name would be a proper prefix of the name, followed there by a byte
//! below the slash; and while it can still come, it is also a prefix of the last key seen. So:
//!
//! - names are held in order until the cursor (the greatest key seen) is past every such `prefix/`;
//! - when more than [`HELD_MAX`] are held (a million `part-00001` while `part/` may come), the store is asked about
//!   the few prefixes that still matter, each once: [`NameOrder::open_questions`], [`NameOrder::answer`].
//!
//! Stores that list in name order (SeaweedFS) pass through unchanged. A name that is an object and a directory comes
//! out once, as the object. Keys are relative to the listed directory; a directory's key ends in a slash.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Names held before the store is asked.
pub(crate) const HELD_MAX: usize = 1000;

/// Reorders the entries of one listing. `T` is what is known of an entry.
#[derive(Debug)]
pub(crate) struct NameOrder<T> {
    /// The greatest key seen; a directory's key with its slash.
    cursor: String,
    /// Names that may not be passed on yet, the entries being objects first.
    held: BTreeMap<String, Entry<T>>,
    /// Prefixes of the cursor of which the store said that they are, or are not, directories.
    answered: BTreeSet<String>,
    ready: VecDeque<(String, Entry<T>)>,
    /// The last name passed on, to pass on each once.
    last: Option<String>,
    shadowed: Vec<String>,
}

/// An object or a subdirectory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry<T> {
    /// An object.
    Object(T),
    /// A subdirectory.
    Dir,
}

impl<T> NameOrder<T> {
    pub(crate) fn new() -> Self {
        Self {
            cursor: String::new(),
            held: BTreeMap::new(),
            answered: BTreeSet::new(),
            ready: VecDeque::new(),
            last: None,
            shadowed: Vec::new(),
        }
    }

    /// Takes the next entry in the store's order.
    pub(crate) fn push(&mut self, name: String, entry: Entry<T>) {
        let is_dir = matches!(entry, Entry::Dir);
        let key = if is_dir { format!("{name}/") } else { name.clone() };
        if key > self.cursor {
            self.cursor = key;
        }
        if is_dir && self.answered.contains(&name) {
            // It was passed on when the store was asked (or has come into being since, and its place is gone).
            return self.release();
        }
        self.hold(name, entry);
        self.release();
    }

    /// Takes a marker whose key is the name itself: a directory, told before its own key comes, if that comes at all, or
    /// just behind it.
    pub(crate) fn push_marker(&mut self, name: String) {
        if is_past(&self.cursor, &name) {
            return;
        }
        if name > self.cursor {
            self.cursor.clone_from(&name);
        }
        self.answer(name, true);
    }

    /// The listing is over: nothing can come any more.
    pub(crate) fn finish(&mut self) {
        for (name, entry) in std::mem::take(&mut self.held) {
            self.pass_on(name, entry);
        }
    }

    /// Names that the store must be asked about now, because too many others wait for them; else none.
    pub(crate) fn open_questions(&self) -> Vec<String> {
        if self.held.len() <= HELD_MAX {
            return Vec::new();
        }
        let mut questions: Vec<String> =
            self.held.keys().flat_map(|name| self.awaited(name)).map(str::to_owned).collect();
        questions.sort_unstable();
        questions.dedup();
        questions
    }

    /// The store's answer: whether `name` is a directory.
    pub(crate) fn answer(&mut self, name: String, is_dir: bool) {
        self.answered.insert(name.clone());
        if is_dir {
            self.hold(name, Entry::Dir);
        }
        self.release();
    }

    /// The next entry in name order, if one is certain.
    pub(crate) fn next(&mut self) -> Option<(String, Entry<T>)> {
        self.ready.pop_front()
    }

    /// How many entries are certain.
    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Directories hidden behind an object of the same name, since the last call.
    pub(crate) fn take_shadowed(&mut self) -> Vec<String> {
        std::mem::take(&mut self.shadowed)
    }

    fn hold(&mut self, name: String, entry: Entry<T>) {
        match (self.held.get(&name), &entry) {
            (Some(Entry::Object(_)), Entry::Dir) => self.shadowed.push(name),
            (Some(Entry::Object(_)), Entry::Object(_)) | (Some(Entry::Dir), Entry::Dir) => {}
            (Some(Entry::Dir), Entry::Object(_)) => {
                self.shadowed.push(name.clone());
                self.held.insert(name, entry);
            }
            (None, _) => {
                self.held.insert(name, entry);
            }
        }
    }

    fn release(&mut self) {
        while let Some((name, _)) = self.held.first_key_value()
            && self.awaited(name).next().is_none()
        {
            let (name, entry) = self.held.pop_first().expect("the first was just looked at");
            self.pass_on(name, entry);
        }
        let cursor = &self.cursor;
        self.answered.retain(|prefix| cursor.starts_with(prefix.as_str()));
    }

    /// The directories that would sort before `name` and can still come.
    fn awaited<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        name.bytes().enumerate().skip(1).filter(|(_, byte)| *byte < b'/').filter_map(move |(at, _)| {
            // A byte below the slash is ASCII, so `at` is a character boundary.
            let prefix = &name[..at];
            let passed = is_past(&self.cursor, prefix);
            (!passed && !self.answered.contains(prefix)).then_some(prefix)
        })
    }

    fn pass_on(&mut self, name: String, entry: Entry<T>) {
        if self.last.as_ref() == Some(&name) {
            // The object came first and was certain; its directory follows it.
            if matches!(entry, Entry::Dir) {
                self.shadowed.push(name);
            }
            return;
        }
        self.last = Some(name.clone());
        self.ready.push_back((name, entry));
    }
}

/// Whether the key `prefix/` lies at or before the cursor.
fn is_past(cursor: &str, prefix: &str) -> bool {
    match cursor.strip_prefix(prefix) {
        Some(rest) => rest.as_bytes().first().is_some_and(|byte| *byte >= b'/'),
        None => cursor > prefix,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// The naive twin: everything at once, sorted by name, the object before the directory.
    fn naive(keys: &[String]) -> Vec<(String, bool)> {
        let mut names = BTreeMap::new();
        for key in keys {
            match key.strip_suffix('/') {
                Some(name) => {
                    names.entry(name.to_owned()).or_insert(true);
                }
                None => {
                    names.insert(key.clone(), false);
                }
            }
        }
        names.into_iter().collect()
    }

    fn run(keys: &[String], dirs_told: bool) -> (Vec<(String, bool)>, usize) {
        let mut order = NameOrder::new();
        let mut out = Vec::new();
        let mut held_max = 0;
        for key in keys {
            match key.strip_suffix('/') {
                Some(name) => order.push(name.to_owned(), Entry::Dir),
                None => order.push(key.clone(), Entry::Object(())),
            }
            for question in order.open_questions() {
                assert!(dirs_told, "nobody should ask in so small a listing");
                let is_dir = keys.contains(&format!("{question}/"));
                order.answer(question, is_dir);
            }
            held_max = held_max.max(order.held.len());
            while let Some((name, entry)) = order.next() {
                out.push((name, entry == Entry::Dir));
            }
        }
        order.finish();
        while let Some((name, entry)) = order.next() {
            out.push((name, entry == Entry::Dir));
        }
        (out, held_max)
    }

    proptest! {
        #[test]
        fn like_sorting_it_all(keys in prop::collection::btree_set("[a-c][ a-c.0-]{0,4}/?", 0..60)) {
            let by_key: Vec<String> = keys.iter().cloned().collect();
            prop_assert_eq!(run(&by_key, false).0, naive(&by_key));
            // The order of stores that sort by name.
            let mut by_name = by_key;
            by_name.sort_by(|a, b| a.trim_end_matches('/').cmp(b.trim_end_matches('/')).then(a.cmp(b)));
            prop_assert_eq!(run(&by_name, false).0, naive(&by_name));
        }
    }

    proptest! {
        /// Markers beside their directories: a store sends pages in key order, each of which is sorted with the markers where
        /// their directories are, and some directories have nothing in them but their marker.
        #[test]
        fn markers_are_directories_told_early(
            keys in prop::collection::btree_set("[a-c][ a-c.0-]{0,4}/?", 0..60),
            marked in prop::collection::btree_set("[a-c][ a-c.0-]{0,4}", 0..20),
            page_len in 1_usize..20,
            is_marker_first: bool,
        ) {
            let objects: Vec<String> = keys.iter().filter(|key| !key.ends_with('/')).cloned().collect();
            let marked: BTreeSet<String> = marked.into_iter().filter(|name| !objects.contains(name)).collect();
            let mut sent: Vec<(String, bool)> =
                keys.iter().map(|key| (key.clone(), false)).chain(marked.iter().map(|key| (key.clone(), true))).collect();
            sent.sort();
            let mut order = NameOrder::new();
            for page in sent.chunks(page_len) {
                let mut page: Vec<_> = page
                    .iter()
                    .map(|(key, is_marker)| (if *is_marker { format!("{key}/") } else { key.clone() }, *is_marker))
                    .collect();
                page.sort_by_key(|(key, is_marker)| (key.clone(), *is_marker != is_marker_first));
                for (key, is_marker) in page {
                    match (key.strip_suffix('/'), is_marker) {
                        (Some(name), true) => order.push_marker(name.to_owned()),
                        (Some(name), false) => order.push(name.to_owned(), Entry::Dir),
                        (None, _) => order.push(key, Entry::Object(())),
                    }
                }
            }
            order.finish();
            let out: Vec<_> = std::iter::from_fn(|| order.next()).map(|(name, entry)| (name, entry == Entry::Dir)).collect();
            let all: BTreeSet<String> = keys.into_iter().chain(marked.into_iter().map(|name| name + "/")).collect();
            prop_assert_eq!(out, naive(&all.into_iter().collect::<Vec<_>>()));
        }
    }

    #[test]
    fn a_long_run_behind_a_possible_directory_is_bounded() {
        for late_dir in [None, Some("part/"), Some("part-0/")] {
            let mut keys: Vec<String> = (0..5 * HELD_MAX).map(|i| format!("part-{i:05}")).collect();
            keys.extend(late_dir.map(str::to_owned));
            keys.sort();
            let (out, held_max) = run(&keys, true);
            assert_eq!(out, naive(&keys), "{late_dir:?}");
            assert!(held_max <= HELD_MAX + 1, "{held_max} held");
        }
    }

    #[test]
    fn a_name_that_is_both_comes_once_and_is_reported() {
        let mut order = NameOrder::new();
        for (name, entry) in [("a", Entry::Object(1)), ("a-b", Entry::Object(2)), ("a", Entry::Dir)] {
            order.push(name.to_owned(), entry);
        }
        order.finish();
        let names: Vec<_> = std::iter::from_fn(|| order.next()).collect();
        assert_eq!(names, [("a".to_owned(), Entry::Object(1)), ("a-b".to_owned(), Entry::Object(2))]);
        assert_eq!(order.take_shadowed(), ["a"]);
    }
}
