//! Listings: pages of keys and prefixes, brought into name order, markers taken out.
//!
//! A directory is a prefix under which there is a key, or a marker: an empty object whose key ends in a slash, or one
//! beside the prefix ([`Markers`]). The marker of the listed directory itself is no entry.

use std::{collections::VecDeque, sync::Arc};

use futures::{StreamExt, stream};

use super::{
    Inner,
    protocol::{Ask, Begin, Key, Keys, Markers, Object},
    store_error, to_stat,
};
use crate::{
    Entry, Error, Page, Refusal, Result, Stat, StorePath,
    name_order::{self, NameOrder},
    path::check_component,
    store::{PAGE_ENTRIES_MAX, Pages},
};

/// Keys of one answer.
pub(super) const KEYS_MAX: usize = 1000;
const REFUSALS_HELD_MAX: usize = PAGE_ENTRIES_MAX;

impl Inner {
    /// One page of keys that begin with `prefix`, in order, and where to go on.
    pub(super) async fn keys(
        &self,
        prefix: &str,
        delimited: bool,
        count_max: usize,
        from: &Begin,
    ) -> Result<(Vec<Key>, Option<String>)> {
        if prefix.len() > self.protocol.rules().key_bytes_max {
            // No key is so long; some stores refuse the question.
            return Ok((Vec::new(), None));
        }
        let Keys { mut keys, next } = self.protocol.keys(&Ask { prefix, delimited, count_max, from }).await?;
        // Stores give objects and prefixes as two lists, each in order; between them the order is ours to restore.
        keys.sort_by(|a, b| name_of(a).cmp(name_of(b)));
        if let (Some(next), Begin::Token(from)) = (&next, from)
            && next == from
        {
            return Err(store_error(prefix, "the listing goes round in a circle"));
        }
        Ok((keys, next))
    }

    /// Whether there is anything under `dir_key`, which ends in a slash (or is empty: the bucket).
    pub(super) async fn has_keys(&self, dir_key: &str) -> Result<bool> {
        Ok(!self.keys(dir_key, false, 1, &Begin::First).await?.0.is_empty())
    }
}

fn name_of(key: &Key) -> &str {
    match &key.name {
        Ok(name) | Err(name) => name,
    }
}

/// A listing under way.
struct Walk {
    inner: Arc<Inner>,
    dir: StorePath,
    /// Key of the directory, with its slash.
    prefix: String,
    /// Names up to this one are not asked for.
    after: String,
    order: NameOrder<Object>,
    refused: VecDeque<Refusal>,
    /// None at the end.
    next: Option<Begin>,
    any: bool,
}

/// The pages of a directory behind `after`, in name order.
///
/// The key of a name behind `after` is behind the key that `after` has as an object: the name itself, or the name and a
/// slash. So nothing that is wanted is left out when the store begins there; what is not wanted may still come.
pub(super) fn pages(inner: Arc<Inner>, dir: StorePath, after: String) -> Pages {
    let state = match inner.dir_key(&dir) {
        Ok(prefix) => {
            let next = if after.is_empty() { Begin::First } else { Begin::After(format!("{prefix}{after}")) };
            let (order, refused) = (NameOrder::new(), VecDeque::new());
            Ok(Walk { inner, dir, prefix, after, order, refused, next: Some(next), any: false })
        }
        Err(error) => Err(error),
    };
    stream::try_unfold(Some(state), |state| async move {
        let Some(state) = state else { return Ok(None) };
        let mut walk = state?;
        let page = walk.page().await?;
        Ok(page.map(|page| (page, Some(Ok(walk)))))
    })
    .boxed()
}

impl Walk {
    /// The next full page, or what is left.
    async fn page(&mut self) -> Result<Option<Page>> {
        while self.order.ready() < PAGE_ENTRIES_MAX && self.refused.len() < REFUSALS_HELD_MAX {
            let Some(from) = self.next.take() else { break };
            self.fetch(&from).await?;
        }
        let mut page = Page::default();
        while page.entries.len() < PAGE_ENTRIES_MAX
            && let Some((name, entry)) = self.order.next()
        {
            let stat = match entry {
                name_order::Entry::Dir => Ok(Stat::dir(0)),
                name_order::Entry::Object(object) => to_stat(&name, &object),
            };
            match stat {
                Ok(stat) => page.entries.push(Entry { name, stat }),
                Err(_) => self.refuse(name, "the store gives it no version"),
            }
        }
        for name in self.order.take_shadowed() {
            self.refuse(format!("{name}/"), "an object of the same name hides this directory");
        }
        let room = PAGE_ENTRIES_MAX - page.entries.len();
        page.refused.extend(self.refused.drain(..room.min(self.refused.len())));
        if page == Page::default() {
            debug_assert!(self.next.is_none() && self.refused.is_empty(), "an empty page would end the stream early");
            return Ok(None);
        }
        Ok(Some(page))
    }

    async fn fetch(&mut self, from: &Begin) -> Result<()> {
        let (keys, next) = self.inner.keys(&self.prefix, true, KEYS_MAX, from).await?;
        self.any |= !keys.is_empty();
        if !self.any && next.is_none() && !self.dir.is_root() {
            let has_others = !self.after.is_empty() && self.inner.has_keys(&self.prefix).await?;
            if !has_others {
                self.look_for_it().await?;
            }
        }
        for key in keys {
            self.take(key);
        }
        for name in self.order.open_questions() {
            let is_wanted = name.as_str() > self.after.as_str();
            let is_dir = is_wanted && self.inner.has_keys(&format!("{}{name}/", self.prefix)).await?;
            self.order.answer(name, is_dir);
        }
        self.next = next.map(Begin::Token);
        if self.next.is_none() {
            self.order.finish();
        }
        Ok(())
    }

    /// Nothing lies under the prefix: it is a directory whose marker is beside it, a file, or nothing at all.
    async fn look_for_it(&self) -> Result<()> {
        if self.inner.stat(&self.dir).await?.is_file() {
            return Err(Error::NotADirectory { path: self.dir.to_string() });
        }
        Ok(())
    }

    fn take(&mut self, key: Key) {
        let name = match key.name {
            Ok(name) => name,
            Err(lossy) => return self.refuse(lossy, "the key is not UTF-8"),
        };
        let Some(name) = name.strip_prefix(&self.prefix) else {
            return self.refuse(name, "the store listed a key that was not asked for");
        };
        if name.is_empty() {
            return;
        }
        let bare = name.strip_suffix('/').unwrap_or(name);
        if bare <= self.after.as_str() {
            return;
        }
        if let Err(reason) = check_component(bare) {
            return self.refuse(name.to_owned(), reason);
        }
        if bare.contains(|c: char| c.is_ascii_control()) {
            return self.refuse(name.escape_debug().to_string(), "the name contains a control character");
        }
        let is_beside = self.inner.protocol.rules().markers == Markers::Beside;
        match key.object {
            Some(_) if name.ends_with('/') && is_beside => self.order.push_marker(bare.to_owned()),
            // A marker also appears as an object where the delimiter is not applied to it.
            Some(_) if name.ends_with('/') => self.order.push(bare.to_owned(), name_order::Entry::Dir),
            Some(object) => self.order.push(bare.to_owned(), name_order::Entry::Object(object)),
            None => self.order.push(bare.to_owned(), name_order::Entry::Dir),
        }
    }

    fn refuse(&mut self, name: String, reason: &'static str) {
        self.refused.push_back(Refusal { name, reason });
    }
}
