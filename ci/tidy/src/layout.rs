//! The shape of the tree: what stands at the top, how long a file is, what a file is called.

use crate::finding::Finding;
use crate::listing::Listing;
use crate::tree::Tree;

const CHECK: &str = "layout";
const LONG_LIST: &str = "ci/tidy/long.txt";

/// Past this a Rust file holds more than one thought, or is listed with the reason why not.
const LINES_MAX: usize = 800;

/// What may stand at the top, beside names that begin with a dot.
const TOP_LEVEL: &[&str] = &[
    "ARCHITECTURE.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "benches",
    "ci",
    "clippy.toml",
    "control",
    "deny.toml",
    "docs",
    "engine",
    "ffi",
    "include",
    "perf",
    "rust-toolchain.toml",
    "rustfmt.toml",
];

/// Words that say nothing of what a file holds, so that anything ends up in it.
const EMPTY_WORDS: &[&str] = &["common", "helper", "helpers", "manager", "managers", "misc", "util", "utils"];

/// Holds names and lengths against the rules.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let (long, mut findings) = Listing::read(tree, LONG_LIST, CHECK);
    let mut find = |path: &str, what: String| findings.push(Finding::in_file(CHECK, path, what));
    for path in tree.paths() {
        let top = path.split('/').next().unwrap_or(path);
        if !top.starts_with('.') && !TOP_LEVEL.contains(&top) {
            find(path, format!("`{top}` does not belong at the top level: find its room"));
        }
        if let Some(word) = empty_word(path) {
            find(path, format!("`{word}` says nothing: name the file after what it holds"));
        }
    }
    for (path, text) in tree.texts().filter(|(path, _)| path.ends_with(".rs")) {
        let lines = text.lines().count();
        if lines > LINES_MAX && !long.contains(path) {
            let what = format!(
                "has {lines} lines, more than {LINES_MAX}: look for the seam, or give the reason \
                 in {LONG_LIST}"
            );
            find(path, what);
        }
    }
    findings.extend(long.stale(|file| tree.text(file).is_some_and(|text| text.lines().count() > LINES_MAX)));
    findings
}

/// A word of a file's or folder's name that the house does not use.
fn empty_word(path: &str) -> Option<&str> {
    path.split(['/', '.', '_', '-']).find(|word| EMPTY_WORDS.contains(&word.to_ascii_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(files: &[(&str, &str)]) -> Vec<String> {
        check(&Tree::of(files)).into_iter().map(|finding| format!("{}: {}", finding.path, finding.what)).collect()
    }

    #[test]
    fn the_top_level_is_closed() {
        assert_eq!(findings(&[("README.md", ""), (".ci/run", ""), ("docs/a.md", "")]), [""; 0]);
        for stray in ["notes.txt", "scripts/run.sh", "src/lib.rs"] {
            assert_eq!(findings(&[(stray, "")]).len(), 1, "{stray}");
        }
    }

    #[test]
    fn names_say_what_a_file_holds() {
        assert_eq!(findings(&[("engine/src/commons.rs", ""), ("engine/src/help.rs", "")]), [""; 0]);
        for vague in [
            "engine/src/utils.rs",
            "engine/tests/common/mod.rs",
            "control/src/block_manager.rs",
            "ffi/java/src/FileHelper/Misc.java",
        ] {
            assert_eq!(findings(&[(vague, "")]).len(), 1, "{vague}");
        }
    }

    #[test]
    fn long_files_are_listed_with_a_reason() {
        let most = "\n".repeat(LINES_MAX);
        let more = "\n".repeat(LINES_MAX + 1);
        let list = (LONG_LIST, "engine/src/a.rs # One table.\n");
        assert_eq!(findings(&[("engine/src/a.rs", &most)]), [""; 0]);
        assert_eq!(findings(&[("engine/src/a.rs", &more)]).len(), 1);
        assert_eq!(findings(&[("engine/src/a.rs", &more), list]), [""; 0]);
        assert_eq!(findings(&[("docs/a.svg", &more)]), [""; 0]);
        // Short again, so the exception must go.
        assert_eq!(findings(&[("engine/src/a.rs", &most), list]).len(), 1);
    }
}
