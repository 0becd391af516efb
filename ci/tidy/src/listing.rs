//! A listing: the files that a rule excepts, one a line, each with its reason.
//!
//! ```text
//! engine/src/ring/ring.rs # Submits pointers into pages that the kernel fills.
//! ```
//!
//! Lines are in the order of paths, so that two changes to a listing meet in a merge only if they
//! are about one file.

use crate::finding::Finding;
use crate::tree::Tree;

const SEPARATOR: &str = " # ";

/// The entries of one listing, in its order.
pub(crate) struct Listing<'a> {
    path: &'static str,
    check: &'static str,
    entries: Vec<(usize, &'a str)>,
}

impl<'a> Listing<'a> {
    /// Reads the listing at `path`; what is wrong with it is a finding of `check`. A listing that
    /// does not exist excepts nothing.
    pub(crate) fn read(tree: &'a Tree, path: &'static str, check: &'static str) -> (Self, Vec<Finding>) {
        let mut entries: Vec<(usize, &str)> = Vec::new();
        let mut findings = Vec::new();
        for (index, line) in tree.text(path).unwrap_or_default().lines().enumerate() {
            let mut find = |what: String| findings.push(Finding::at_line(check, path, index + 1, what));
            let (file, reason) = line.split_once(SEPARATOR).unwrap_or((line, ""));
            if reason.trim().is_empty() {
                find("has no reason: write `path # why`".to_owned());
            }
            if entries.last().is_some_and(|&(_, before)| before >= file) {
                find(format!("`{file}` is out of order: sort the lines, each file once"));
            }
            entries.push((index + 1, file));
        }
        let listing = Self { path, check, entries };
        (listing, findings)
    }

    pub(crate) fn contains(&self, file: &str) -> bool {
        self.entries.iter().any(|&(_, entry)| entry == file)
    }

    /// A finding for each entry that `is_needed` denies, so that exceptions end with their cause.
    pub(crate) fn stale(&self, is_needed: impl Fn(&str) -> bool) -> Vec<Finding> {
        self.entries
            .iter()
            .filter(|(_, file)| !is_needed(file))
            .map(|&(line, file)| {
                let what = format!("`{file}` no longer needs its line: delete it");
                Finding::at_line(self.check, self.path, line, what)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_found(text: &str) -> Vec<usize> {
        let tree = Tree::of(&[("list.txt", text)]);
        let (_, findings) = Listing::read(&tree, "list.txt", "listing");
        findings.iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn wants_a_reason_and_an_order() {
        assert_eq!(lines_found("a.rs # Why.\nb.rs # Why.\n"), [0_usize; 0]);
        assert_eq!(lines_found("a.rs\nb.rs # \n"), [1, 2]);
        assert_eq!(lines_found("b.rs # Why.\na.rs # Why.\na.rs # Why.\n"), [2, 3]);
    }

    #[test]
    fn an_entry_without_cause_is_stale() {
        let tree = Tree::of(&[("list.txt", "a.rs # Why.\nb.rs # Why.\n")]);
        let (listing, _) = Listing::read(&tree, "list.txt", "listing");
        assert!(listing.contains("b.rs") && !listing.contains("b"));
        let stale = listing.stale(|file| file == "a.rs");
        assert_eq!((stale.len(), stale[0].line), (1, 2));
    }
}
