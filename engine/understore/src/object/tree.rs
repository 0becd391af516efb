//! Changes of the tree of an object store: copies, renames, deletions.
//!
//! Object stores have no rename: files are copied under the condition that their version has not changed, the copy is
//! looked at, and only the version that was copied is deleted. A directory is renamed by copying everything in it before
//! anything is deleted, so a failure leaves the source whole, and the call can be made again.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};

use super::{
    Inner,
    list::KEYS_MAX,
    protocol::{Begin, Key, Markers, Object},
    store_error, to_stat,
};
use crate::{Condition, Depth, Error, Result, Stat, StorePath};

/// Copies or deletions of one directory at once.
const REQUESTS_IN_FLIGHT_MAX: usize = 8;
/// Rounds of a recursive deletion that may find the same keys again.
const DELETE_IDLE_ROUNDS_MAX: usize = 10;

/// A key that goes with its directory.
struct Moving {
    key: String,
    object: Object,
    target: String,
}

impl Inner {
    /// Copies one object, only if it still has this version, and compares what came of it.
    async fn copy(&self, from_key: &str, object: &Object, to_key: &str, create_only: bool) -> Result<Object> {
        let copy = self.protocol.copy(from_key, object, to_key, create_only).await?;
        if copy.len != object.len {
            return Err(Error::WrongLength { path: to_key.to_owned(), expected: object.len, got: copy.len });
        }
        Ok(copy)
    }

    pub(super) async fn delete_dir(&self, path: &StorePath, depth: Depth) -> Result<()> {
        let dir_key = self.dir_key(path)?;
        let (keys, _) = self.keys(&dir_key, false, 2, &Begin::First).await?;
        let only_marker = keys.iter().all(|found| found.name.as_ref() == Ok(&dir_key));
        match depth {
            Depth::Empty if !only_marker => Err(Error::NotEmpty { path: path.to_string() }),
            Depth::Empty => self.protocol.delete(&dir_key, None).await,
            Depth::Recursive => self.delete_tree(&dir_key).await,
        }
    }

    pub(super) async fn rename_file(&self, from: &StorePath, to: &StorePath, condition: &Condition) -> Result<Stat> {
        let source = self.head(from).await?.object;
        match (condition, self.stat(to).await) {
            (_, Ok(stat)) if !stat.is_file() => return Err(Error::IsADirectory { path: to.to_string() }),
            (Condition::MustNotExist, Ok(_)) => return Err(Error::AlreadyExists { path: to.to_string() }),
            (Condition::Replaces(token), Ok(stat)) if stat.token != *token => {
                return Err(Error::Conflict { path: to.to_string(), reason: "it is another version".into() });
            }
            (Condition::Replaces(_), Err(Error::NotFound { .. })) => {
                return Err(Error::Conflict { path: to.to_string(), reason: "it is gone".into() });
            }
            (_, Ok(_) | Err(Error::NotFound { .. })) => {}
            (_, Err(other)) => return Err(other),
        }
        let (from_key, to_key) = (self.object_key(from)?, self.object_key(to)?);
        let copied = self.copy(&from_key, &source, &to_key, *condition == Condition::MustNotExist).await?;
        // Only the version that was copied is deleted: what replaced it since is nobody's to remove.
        self.protocol.delete(&from_key, Some(&source.version)).await?;
        to_stat(to.as_str(), &copied)
    }

    /// Copies everything, then deletes what was copied. A failure before the end leaves the source whole.
    pub(super) async fn rename_dir(&self, from: &StorePath, to: &StorePath, condition: &Condition) -> Result<Stat> {
        if *condition != Condition::Any {
            match self.stat(to).await {
                Ok(_) => return Err(Error::AlreadyExists { path: to.to_string() }),
                Err(Error::NotFound { .. }) => {}
                Err(other) => return Err(other),
            }
        }
        let (from_key, to_key) = (self.dir_key(from)?, self.dir_key(to)?);
        let mut next = Begin::First;
        let mut deletions = Vec::new();
        loop {
            let (keys, more) = self.keys(&from_key, false, KEYS_MAX, &next).await?;
            let found: Vec<_> =
                keys.into_iter().map(|found| self.to_move(found, &from_key, &to_key)).collect::<Result<_>>()?;
            if let Begin::First = next {
                self.check_movable(&from_key, &to_key, more.clone()).await?;
                if self.protocol.rules().markers == Markers::Beside {
                    // Which no listing of its keys has. With it an empty directory moves too.
                    self.put_marker(&to_key, to).await?;
                }
            }
            let (markers, objects): (Vec<_>, Vec<_>) = found.into_iter().partition(|it| it.key.ends_with('/'));
            self.put_markers(&markers).await?;
            let copies: Vec<_> = objects.iter().map(|it| self.copy(&it.key, &it.object, &it.target, false)).collect();
            stream::iter(copies).buffer_unordered(REQUESTS_IN_FLIGHT_MAX).try_collect::<Vec<Object>>().await?;
            deletions.extend(markers.into_iter().chain(objects).map(|it| (it.key, it.object.version)));
            match more {
                Some(token) => next = Begin::Token(token),
                None => break,
            }
        }
        let deletions = deletions.into_iter().map(|(key, etag)| (key, Some(etag))).collect();
        self.delete_keys(deletions).await?;
        self.delete_beside(&from_key).await?;
        Ok(Stat::dir(0))
    }

    /// Finds out before anything is copied whether the keys behind the first page can be moved.
    async fn check_movable(&self, from_key: &str, to_key: &str, mut next: Option<String>) -> Result<()> {
        while let Some(token) = next {
            let (keys, more) = self.keys(from_key, false, KEYS_MAX, &Begin::Token(token)).await?;
            keys.into_iter().try_for_each(|found| self.to_move(found, from_key, to_key).map(drop))?;
            next = more;
        }
        Ok(())
    }

    /// Where a key of a directory that is renamed goes.
    fn to_move(&self, found: Key, from_key: &str, to_key: &str) -> Result<Moving> {
        let key = found.name.map_err(|name| Error::Unnameable {
            path: name,
            reason: "its key is not UTF-8, so it cannot be moved; rename it with the store's own tools".into(),
        })?;
        let object = found.object.ok_or_else(|| store_error(&key, "an undelimited list has a prefix"))?;
        let rest = key.strip_prefix(from_key).ok_or_else(|| store_error(&key, "it was not asked for"))?;
        let target = format!("{to_key}{rest}");
        self.check_length(&target, &target)?;
        Ok(Moving { key, object, target })
    }

    /// Puts markers, each before what is in its directory: a store with directories inside makes one without a marker for
    /// what comes first, and two requests that make the same one may leave that.
    async fn put_markers(&self, markers: &[Moving]) -> Result<()> {
        let depth = |marker: &&str| marker.matches('/').count();
        let mut markers: Vec<&str> = markers.iter().map(|it| it.target.as_str()).collect();
        markers.sort_by_key(depth);
        for level in markers.chunk_by(|a, b| depth(a) == depth(b)) {
            let puts: Vec<_> = level.iter().map(|marker| self.protocol.put_marker(marker)).collect();
            stream::iter(puts).buffer_unordered(REQUESTS_IN_FLIGHT_MAX).try_collect::<Vec<()>>().await?;
        }
        Ok(())
    }

    /// Deletes objects in parallel, each only in the version given, and then markers, the deepest first: a store
    /// with directories inside keeps one that still has entries.
    async fn delete_keys(&self, keys: Vec<(String, Option<String>)>) -> Result<()> {
        let (mut markers, objects): (Vec<_>, Vec<_>) = keys.into_iter().partition(|(key, _)| key.ends_with('/'));
        let keys_max = self.protocol.rules().delete_keys_max;
        // One request cannot name versions, and its document not every character.
        let (together, alone): (Vec<_>, Vec<_>) = objects
            .into_iter()
            .partition(|(key, version)| keys_max > 1 && version.is_none() && key.chars().all(is_in_documents));
        let together: Vec<_> = together.into_iter().map(|(key, _)| key).collect();
        let together: Vec<Vec<_>> = together.chunks(keys_max.max(1)).map(<[_]>::to_vec).collect();
        let together = together.into_iter().map(|keys| async move { self.protocol.delete_all(&keys).await });
        stream::iter(together).buffer_unordered(REQUESTS_IN_FLIGHT_MAX).try_collect::<Vec<()>>().await?;
        let alone =
            alone.into_iter().map(|(key, version)| async move { self.protocol.delete(&key, version.as_deref()).await });
        stream::iter(alone).buffer_unordered(REQUESTS_IN_FLIGHT_MAX).try_collect::<Vec<()>>().await?;
        markers.sort();
        for (marker, _) in markers.iter().rev() {
            self.protocol.delete(marker, None).await?;
        }
        Ok(())
    }

    /// Deletes the marker of a directory if no listing of its keys has it.
    async fn delete_beside(&self, dir_key: &str) -> Result<()> {
        match self.protocol.rules().markers {
            Markers::Within => Ok(()),
            Markers::Beside => self.protocol.delete(dir_key, None).await,
        }
    }

    /// Each round lists from the start what is left, so a failed call is simply made again.
    async fn delete_tree(&self, dir_key: &str) -> Result<()> {
        let mut last = None;
        let mut idle_rounds = 0;
        loop {
            let (keys, _) = self.keys(dir_key, false, KEYS_MAX, &Begin::First).await?;
            if keys.is_empty() {
                return self.delete_beside(dir_key).await;
            }
            let names = keys.into_iter().map(|found| {
                found.name.map(|key| (key, None)).map_err(|path| Error::Unnameable {
                    path,
                    reason: "its key is not UTF-8; delete it with the store's own tools".into(),
                })
            });
            let names = names.collect::<Result<Vec<_>>>()?;
            // The store may need a moment to forget what was deleted; for ever it may not.
            if last.as_ref() == Some(&names) {
                idle_rounds += 1;
                if idle_rounds > DELETE_IDLE_ROUNDS_MAX {
                    return Err(Error::NotEmpty { path: dir_key.to_owned() });
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            self.delete_keys(names.clone()).await?;
            last = Some(names);
        }
    }
}

/// Whether XML can hold a character, and brings it back as it is.
fn is_in_documents(character: char) -> bool {
    !character.is_control() && !matches!(character, '\u{fffe}' | '\u{ffff}')
}
