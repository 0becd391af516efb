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

/// Walks what is at a path and below it, directories before what is in them. An error is of one directory, and the walk
/// goes on with the others; names that a directory does not show are one.
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
    type Item = Result<Found, CliError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(first) = self.first.take() {
            return Some(self.enter(&first).map(|()| first));
        }
        while let Some((dir, listing)) = self.open.last_mut() {
            match listing.next() {
                None => {
                    let left_out = listing.unnameable();
                    let Some((dir, _)) = self.open.pop() else { break };
                    if left_out > 0 {
                        return Some(Err(CliError::failure(super::not_shown(&dir, left_out))));
                    }
                }
                Some(Err(error)) => {
                    self.open.pop();
                    return Some(Err(error.into()));
                }
                Some(Ok(info)) => {
                    let found = Found { path: format!("{}/{}", dir.trim_end_matches('/'), info.path), info };
                    return Some(self.enter(&found).map(|()| found));
                }
            }
        }
        None
    }
}

/// Walks several paths and gives the files only.
pub(crate) fn files<'a>(client: &'a Client, paths: &'a [String]) -> impl Iterator<Item = Result<Found, CliError>> + 'a {
    paths
        .iter()
        .flat_map(|path| match Walk::new(client, path) {
            Ok(walk) => Box::new(walk) as Box<dyn Iterator<Item = Result<Found, CliError>>>,
            Err(error) => Box::new(std::iter::once(Err(error))),
        })
        .filter(|found| !matches!(found, Ok(found) if found.info.kind == EntryKind::Directory))
}
