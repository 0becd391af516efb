//! A directory, page by page: what its store lists, merged in name order with what the log knows.
//!
//! ```text
//!  log:    chunks of at most 1,000 names after the last one, each under its own short read lock ─┐
//!                                                                                               ├▶ merge ▶ pages
//!  store:  pages of at most 1,000 names, one held at a time ────────────────────────────────────┘
//! ```
//! Where both have a name, the log is right; a name it hides is left out. Neither side is ever held whole, and a page is
//! sent before the next one is asked for, so a slow reader holds everything back. The log is read first, for the reason
//! that `sight` gives.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::future::Future;

use citius_understore::{Page, Pages};
use citius_wire::{Failure, FileInfo, LIST_PAGE_ENTRIES_MAX, List, ListPage, NamespacePath, Status};
use futures::StreamExt;

use super::mounts::Mounted;
use super::reading::entry;
use super::sight::{Seen, Written, not_found, store_path_of, within};
use super::{LOCK_PATIENCE, Service, failure};
use crate::state::{Overlay, State};
use crate::sync::{AskedAll, Found};

/// Where all pages of a listing but the last go.
pub(crate) trait PageSink: Send {
    /// Takes a page; it may wait.
    fn page(&mut self, page: ListPage) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// What the log says of a name in a directory.
struct Noted {
    name: String,
    seen: Seen,
}

/// The log's side of the merge.
struct Notes {
    chunk: VecDeque<Noted>,
    /// The last name of the last chunk.
    after: String,
    is_over: bool,
}

/// The store's side of the merge.
struct Shelf {
    /// None if the store has no such directory, or is done.
    pages: Option<Pages>,
    entries: VecDeque<citius_understore::Entry>,
    unnameable: u64,
    asked: AskedAll,
}

impl Service {
    /// Lists a directory: pages go to `sink`, the last one is returned.
    pub(crate) async fn list(&self, list: List, sink: &mut impl PageSink) -> Result<ListPage, Failure> {
        self.check_lease()?;
        let path = NamespacePath::parse(&list.path)?;
        let readable = tokio::time::timeout(LOCK_PATIENCE, self.locks.readable(path.as_str())).await;
        readable.map_err(|_| self.waited_too_long(&path))?;
        let (mount, is_known) = self.state(|state| {
            let resolution = state.resolve(&path)?;
            match resolution.overlay {
                Overlay::Hidden => Err(not_found(&path)),
                Overlay::File(_) => Err(not_a_directory(&path)),
                Overlay::None => Ok((resolution.mount.id, false)),
                Overlay::Implied | Overlay::Mount(_) => Ok((resolution.mount.id, true)),
            }
        })?;
        let mounted = self.mounts.find(mount)?;
        let mut notes = Notes { chunk: VecDeque::new(), after: list.after.clone(), is_over: false };
        self.refill_notes(&path, &mut notes);
        let mut shelf = self.shelf(&mounted, &path, &list.after)?;
        match self.refill_shelf(&path, &mut shelf).await {
            Err(failure) if failure.status == Status::NotFound && is_known => shelf.pages = None,
            other => other?,
        }

        let mut left = if list.limit == 0 { u64::MAX } else { list.limit };
        let mut page = ListPage { entries: Vec::new(), unnameable: 0 };
        while left > 0 {
            if notes.chunk.is_empty() {
                self.refill_notes(&path, &mut notes);
            }
            if shelf.entries.is_empty() {
                self.refill_shelf(&path, &mut shelf).await?;
            }
            let Some(info) = self.next(&mounted, &path, &mut notes, &mut shelf)? else { break };
            // A name that the log hides takes a turn and no place.
            let Some(info) = info else { continue };
            if page.entries.len() == LIST_PAGE_ENTRIES_MAX {
                page.unnameable = shelf.unnameable;
                sink.page(std::mem::replace(&mut page, ListPage { entries: Vec::new(), unnameable: 0 })).await?;
            }
            page.entries.push(info);
            left -= 1;
        }
        page.unnameable = shelf.unnameable;
        Ok(page)
    }

    fn shelf(&self, mounted: &Mounted, path: &NamespacePath, after: &str) -> Result<Shelf, Failure> {
        let pages = mounted.store()?.list(&store_path_of(mounted, path)?, after);
        let asked = self.cache.asking_all(self.now_ms());
        Ok(Shelf { pages: Some(pages), entries: VecDeque::new(), unnameable: 0, asked })
    }

    /// Takes the next chunk of the log's names.
    fn refill_notes(&self, path: &NamespacePath, notes: &mut Notes) {
        if notes.is_over {
            return;
        }
        notes.chunk = self.state(|state| {
            let children = state.children(path, &notes.after).take(LIST_PAGE_ENTRIES_MAX);
            children.map(|(name, overlay)| note(state, name, overlay)).collect()
        });
        notes.is_over = notes.chunk.len() < LIST_PAGE_ENTRIES_MAX;
        if let Some(last) = notes.chunk.back() {
            notes.after.clone_from(&last.name);
        }
    }

    /// Takes pages of the store until one has a name.
    async fn refill_shelf(&self, path: &NamespacePath, shelf: &mut Shelf) -> Result<(), Failure> {
        while shelf.entries.is_empty() {
            let Some(pages) = &mut shelf.pages else { return Ok(()) };
            match pages.next().await {
                None => shelf.pages = None,
                Some(Err(error)) => return Err(failure::of_store("listing", &error, path)),
                Some(Ok(Page { entries, refused })) => {
                    shelf.unnameable += refused.len() as u64;
                    shelf.entries = entries.into();
                }
            }
        }
        Ok(())
    }

    /// The next name of either side, the log's where both have it: `None` at the end, `Some(None)` for a hidden one.
    fn next(
        &self,
        mounted: &Mounted,
        path: &NamespacePath,
        notes: &mut Notes,
        shelf: &mut Shelf,
    ) -> Result<Option<Option<FileInfo>>, Failure> {
        let order = match (notes.chunk.front(), shelf.entries.front()) {
            (None, None) => return Ok(None),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(noted), Some(entry)) => noted.name.as_str().cmp(&entry.name),
        };
        if order != Ordering::Less {
            let taken = shelf.entries.pop_front().expect("the store's side has a name");
            if order == Ordering::Greater {
                let found = self.listed(mounted, path, &taken, &shelf.asked);
                return Ok(Some(entry(mounted.id, taken.name, &found.into())));
            }
        }
        let noted = notes.chunk.pop_front().expect("the log's side has a name");
        let mount = match noted.seen {
            // What a mount point shows is of the mount that begins there.
            Seen::Directory { is_mount: true, .. } => {
                let at = path.join(&noted.name)?;
                self.state(|state| state.mount_of(&at).map_or(mounted.id, |mount| mount.id))
            }
            _ => mounted.id,
        };
        Ok(Some(entry(mount, noted.name, &noted.seen)))
    }

    /// What a listing says of a name, which is kept as if it had been asked for.
    fn listed(
        &self,
        mounted: &Mounted,
        path: &NamespacePath,
        entry: &citius_understore::Entry,
        asked: &AskedAll,
    ) -> Found {
        let directory = within(mounted, path);
        let store_path = if directory.is_empty() { entry.name.clone() } else { format!("{directory}/{}", entry.name) };
        let found = Found::of_stat(mounted.id, &store_path, &entry.stat, None);
        if mounted.interval != crate::sync::SyncInterval::Never {
            self.cache.keep_listed(asked, mounted.id, &store_path, found.clone());
        }
        found
    }
}

fn note(state: &State, name: &str, overlay: Overlay<'_>) -> Noted {
    let directory = |is_mount| Seen::Directory { modified_ms: 0, is_mount };
    let seen = match overlay {
        Overlay::None | Overlay::Hidden => Seen::Nothing,
        Overlay::File(file) => Seen::Written(Written::of(state, file)),
        Overlay::Implied => directory(false),
        Overlay::Mount(_) => directory(true),
    };
    Noted { name: name.to_owned(), seen }
}

pub(super) fn not_a_directory(path: &NamespacePath) -> Failure {
    Failure::new(Status::NotADirectory, format!("{path} is a file: stat it instead"))
}
