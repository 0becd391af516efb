//! The tree: every file that is or would be part of the project.
//!
//! "Would be" counts, so that a finding shows before the commit that would carry it. Paths are
//! relative to the top, with `/` between components.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The files of a checkout, by path.
pub(crate) struct Tree {
    files: BTreeMap<String, Content>,
}

/// Bytes that are not UTF-8 have no lines to check, only a name.
enum Content {
    Text(String),
    Binary,
}

impl Tree {
    /// Reads the files that git tracks, and those that it neither tracks nor ignores.
    pub(crate) fn load(root: &Path) -> Result<Self> {
        let output = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others"])
            .arg("--exclude-standard")
            .current_dir(root)
            .output()
            .context("cannot run git ls-files")?;
        if !output.status.success() {
            bail!("git ls-files failed: {}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        let names = String::from_utf8(output.stdout).context("a file name in the tree is not UTF-8")?;
        let mut files = BTreeMap::new();
        for path in names.split_terminator('\0') {
            let on_disk = root.join(path);
            // A link has no content of its own, and a file may be deleted but not yet committed so.
            let Ok(kind) = fs::symlink_metadata(&on_disk) else {
                continue;
            };
            let content = if kind.is_file() {
                let bytes = fs::read(&on_disk).with_context(|| format!("cannot read {path}"))?;
                String::from_utf8(bytes).map_or(Content::Binary, Content::Text)
            } else {
                Content::Binary
            };
            files.insert(path.to_owned(), content);
        }
        Ok(Self { files })
    }

    /// A tree of texts, for tests.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|&(path, text)| (path.to_owned(), Content::Text(text.to_owned()))).collect();
        Self { files }
    }

    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Path and text of every file that is text.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().filter_map(|(path, content)| match content {
            Content::Text(text) => Some((path.as_str(), text.as_str())),
            Content::Binary => None,
        })
    }

    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        match self.files.get(path)? {
            Content::Text(text) => Some(text),
            Content::Binary => None,
        }
    }

    pub(crate) fn has_file(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    /// Whether some file lies below `path`; the top is the empty path.
    pub(crate) fn has_folder(&self, path: &str) -> bool {
        if path.is_empty() {
            return true;
        }
        let prefix = format!("{path}/");
        self.files.range(prefix.clone()..).next().is_some_and(|(first, _)| first.starts_with(&prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(root: &Path, arguments: &[&str]) {
        let status = Command::new("git").args(arguments).current_dir(root).status().expect("git runs");
        assert!(status.success(), "git {arguments:?}");
    }

    /// What is not yet added counts; what is ignored or deleted does not; bytes are only a name.
    #[test]
    fn holds_tracked_and_new_files_but_not_ignored_ones() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let root = root.path();
        git(root, &["init", "-q"]);
        fs::write(root.join(".gitignore"), "ignored\n").unwrap();
        fs::write(root.join("tracked"), "one\n").unwrap();
        fs::write(root.join("deleted"), "two\n").unwrap();
        git(root, &["add", "."]);
        fs::remove_file(root.join("deleted")).unwrap();
        fs::create_dir(root.join("folder")).unwrap();
        fs::write(root.join("folder/new bytes"), [0xff, 0xfe]).unwrap();
        fs::write(root.join("ignored"), "three\n").unwrap();

        let tree = Tree::load(root).unwrap();
        let paths: Vec<_> = tree.paths().collect();
        assert_eq!(paths, [".gitignore", "folder/new bytes", "tracked"]);
        assert_eq!(tree.text("tracked"), Some("one\n"));
        assert_eq!(tree.text("folder/new bytes"), None);
        assert!(tree.has_folder("folder") && !tree.has_folder("fold"));
    }

    #[test]
    fn refuses_a_folder_that_is_no_checkout() {
        let root = tempfile::tempdir().expect("a temporary folder");
        assert!(Tree::load(root.path()).is_err());
    }
}
