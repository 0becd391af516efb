//! All files below paths of the namespace, found while they are used: no tree is ever held whole.

use crate::error::CliError;
use citius_client::{Client, EntryKind, FileInfo, Listing};

/// Something found: its whole path, and what it is.
pub(crate) struct Found {
    /// Namespace path.
    pub(crate) path: String,
    /// What is there.
    pub(crate) info: FileInfo,
}

impl AsRef<str> for Found {
    fn as_ref(&self) -> &str {
        &self.path
    }
}

/// Why something is not found. The walk goes on behind it.
pub(crate) enum Miss {
    /// A path cannot be looked at, or a directory not be listed.
    Failed(CliError),
    /// Names that a directory does not show, because nothing can be done with them: the words that say so.
    NotShown(String),
}

impl From<CliError> for Miss {
    fn from(error: CliError) -> Self {
        Self::Failed(error)
    }
}

impl From<Miss> for CliError {
    fn from(miss: Miss) -> Self {
        match miss {
            Miss::Failed(error) => error,
            Miss::NotShown(words) => Self::failure(words),
        }
    }
}

/// Walks what is at a path and below it, directories before what is in them.
pub(crate) struct Walk<'a> {
    client: &'a Client,
    first: Option<Found>,
    open: Vec<(String, Listing)>,
}

impl<'a> Walk<'a> {
    /// Starts at `path`; the first thing found is what is there.
    pub(crate) fn new(client: &'a Client, path: &str) -> Result<Self, CliError> {
        let info = client.stat(path)?;
        Ok(Self { client, first: Some(Found { path: info.path.clone(), info }), open: Vec::new() })
    }

    fn enter(&mut self, found: &Found) -> Result<(), CliError> {
        if found.info.kind == EntryKind::Directory {
            self.open.push((found.path.clone(), self.client.list(&found.path)?));
        }
        Ok(())
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Found, Miss>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(first) = self.first.take() {
            return Some(self.enter(&first).map(|()| first).map_err(Miss::from));
        }
        while let Some((dir, listing)) = self.open.last_mut() {
            match listing.next() {
                None => {
                    let left_out = listing.unnameable();
                    let Some((dir, _)) = self.open.pop() else { break };
                    if left_out > 0 {
                        return Some(Err(Miss::NotShown(super::not_shown(&dir, left_out))));
                    }
                }
                Some(Err(error)) => {
                    self.open.pop();
                    return Some(Err(Miss::Failed(error.into())));
                }
                Some(Ok(info)) => {
                    let found = Found { path: format!("{}/{}", dir.trim_end_matches('/'), info.path), info };
                    return Some(self.enter(&found).map(|()| found).map_err(Miss::from));
                }
            }
        }
        None
    }
}

/// Walks several paths and gives the files only.
pub(crate) fn files<'a>(client: &'a Client, paths: &'a [String]) -> impl Iterator<Item = Result<Found, Miss>> + 'a {
    paths
        .iter()
        .flat_map(|path| match Walk::new(client, path) {
            Ok(walk) => Box::new(walk) as Box<dyn Iterator<Item = Result<Found, Miss>>>,
            Err(error) => Box::new(std::iter::once(Err(error.into()))),
        })
        .filter(|found| !matches!(found, Ok(found) if found.info.kind == EntryKind::Directory))
}
