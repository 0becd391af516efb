//! Listings of a local directory: one pass over the names, one sort, then stats page by page.
//!
//! Memory: the names of one directory and eight bytes each (100,000 names of 20 bytes take 2.8 MB) until the stream
//! is dropped; stats are only taken for the page that is asked for. A directory of more than
//! [`LIST_BYTES_MAX`] bytes of names is refused.
//!
//! A link that leads back to a folder on the way to it is refused, so whoever follows a tree comes to its end. By its
//! path it can still be asked for.

use std::{
    ffi::CStr,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    sync::{Arc, OnceLock},
};

use futures::{StreamExt, stream};
use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, RawDir},
    io::Errno,
};

use super::{
    Inner,
    calls::Call,
    root::{describe, io_error, to_stat},
};
use crate::{
    Entry, Error, Page, Refusal, Result, StorePath,
    path::is_reserved,
    store::{PAGE_ENTRIES_MAX, Pages},
};

/// Bytes of names of one directory: some 60 million short ones.
const LIST_BYTES_MAX: usize = 1 << 30;
const READ_BUFFER_BYTES: usize = 64 << 10;
const LEADS_BACK: &str = "a symbolic link back to a folder that it is in";

/// The names of a directory in byte order.
pub(super) struct Names {
    dir: OwnedFd,
    bytes: Vec<u8>,
    /// Start and length of each name in `bytes`.
    spans: Vec<(u32, u16)>,
    /// Device and inode of every folder on the way from the mount's root to this one; found at the first link to a folder.
    way: OnceLock<Vec<(u64, u64)>>,
}

impl Names {
    /// Reads all names in one pass. Temporaries of ours are left out.
    pub(super) fn read(dir: OwnedFd, shown: &str) -> Result<Self> {
        let mut names = Self { dir, bytes: Vec::new(), spans: Vec::new(), way: OnceLock::new() };
        let mut buffer = Vec::with_capacity(READ_BUFFER_BYTES);
        let mut entries = RawDir::new(&names.dir, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|errno| io_error(shown, "list", errno))?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") || std::str::from_utf8(name).is_ok_and(is_reserved) {
                continue;
            }
            if names.bytes.len() + name.len() > LIST_BYTES_MAX {
                return Err(Error::Busy { what: "bytes of names in one directory", limit: LIST_BYTES_MAX });
            }
            names.spans.push((names.bytes.len() as u32, name.len() as u16));
            names.bytes.extend_from_slice(name);
        }
        let Self { bytes, spans, .. } = &mut names;
        spans.sort_unstable_by(|a, b| span(bytes, *a).cmp(span(bytes, *b)));
        Ok(names)
    }

    /// The names as byte strings.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.spans.iter().map(|at| span(&self.bytes, *at))
    }

    /// The directory that was read.
    pub(super) fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// How many names do not come after `name`.
    fn first_after(&self, name: &[u8]) -> usize {
        self.spans.partition_point(|at| span(&self.bytes, *at) <= name)
    }

    fn page(&self, inner: &Inner, dir: &StorePath, from: usize) -> Result<Page> {
        let mut page = Page::default();
        for at in self.spans.iter().skip(from).take(PAGE_ENTRIES_MAX) {
            let name = span(&self.bytes, *at);
            let refuse = |reason| Refusal { name: String::from_utf8_lossy(name).into_owned(), reason };
            let Ok(text) = std::str::from_utf8(name) else {
                page.refused.push(refuse("the name is not UTF-8"));
                continue;
            };
            match self.stat_entry(inner, dir, text) {
                Ok(stat) => page.entries.push(Entry { name: text.to_owned(), stat }),
                // Deleted since the names were read; a link to nothing is told apart in `stat_entry`.
                Err(Error::NotFound { .. }) => {}
                Err(Error::EscapesMount { .. }) => {
                    page.refused.push(refuse("a symbolic link leads out of the mounted folder"));
                }
                Err(Error::NotAFile { what, .. }) => page.refused.push(refuse(what)),
                Err(Error::PermissionDenied { .. }) => page.refused.push(refuse("access is denied")),
                Err(Error::Unnameable { .. }) => page.refused.push(refuse("the path is too long")),
                Err(other) => return Err(other),
            }
        }
        Ok(page)
    }

    fn stat_entry(&self, inner: &Inner, dir: &StorePath, name: &str) -> Result<crate::Stat> {
        let stat =
            fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| io_error(name, "stat", errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            // The path must be one that can be asked for again.
            dir.join(name)?;
            return to_stat(name, &stat);
        }
        // A link may point anywhere beneath the mount, so it is resolved from the root.
        let stat = match inner.root().look(&dir.join(name)?) {
            Err(Error::NotFound { path }) => return Err(Error::NotAFile { path, what: describe(FileType::Symlink) }),
            other => other?,
        };
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_dir && self.way.get_or_init(|| way_to(inner, dir)).contains(&(stat.st_dev, stat.st_ino)) {
            return Err(Error::NotAFile { path: name.to_owned(), what: LEADS_BACK });
        }
        to_stat(name, &stat)
    }
}

/// Folders on the way that are gone by now are left out: nothing leads back to them.
fn way_to(inner: &Inner, dir: &StorePath) -> Vec<(u64, u64)> {
    let folders = std::iter::successors(Some(dir.clone()), StorePath::parent);
    let looks = folders.filter_map(|folder| inner.root().look(&folder).ok());
    looks.map(|stat| (stat.st_dev, stat.st_ino)).collect()
}

fn span(bytes: &[u8], (start, len): (u32, u16)) -> &[u8] {
    &bytes[start as usize..start as usize + len as usize]
}

/// The pages of a directory; names are read when the first page is asked for.
pub(super) fn pages(inner: Arc<Inner>, dir: StorePath, after: String) -> Pages {
    let state = (inner, dir, after, None::<(Arc<Names>, usize)>);
    stream::try_unfold(state, |(inner, dir, after, names)| async move {
        let (names, from) = match names {
            Some(names) => names,
            None => {
                inner.traffic.count_request();
                let path = dir.clone();
                let read = move |inner: &Arc<Inner>| {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                    let fd = inner.root().open_beneath(&path, flags, Mode::empty())?;
                    Names::read(fd, path.as_str()).map(Arc::new)
                };
                let names = inner.blocking(Call::Work, dir.as_str(), read).await?;
                let from = names.first_after(after.as_bytes());
                (names, from)
            }
        };
        if from >= names.spans.len() {
            return Ok(None);
        }
        let (at, shared) = (dir.clone(), Arc::clone(&names));
        let page = inner.blocking(Call::Work, dir.as_str(), move |inner| shared.page(inner, &at, from)).await?;
        Ok(Some((page, (inner, dir, after, Some((names, from + PAGE_ENTRIES_MAX))))))
    })
    .boxed()
}

/// Deletes what is in `dir` and `dir` itself, without following a link.
///
/// Directories are named from the top by a path in which the kernel refuses links, so a directory that is swapped
/// for a link meanwhile is not entered. The stack holds names of directories only.
pub(super) fn delete_tree(parent: &OwnedFd, name: &str, shown: &str) -> Result<()> {
    let failed = |errno| io_error(shown, "delete", errno);
    let resolve = fs::ResolveFlags::BENEATH | fs::ResolveFlags::NO_SYMLINKS;
    let mut stack = vec![name.as_bytes().to_vec()];
    while let Some(path) = stack.pop() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = match fs::openat2(parent, path.as_slice(), flags, Mode::empty(), resolve) {
            Ok(dir) => dir,
            Err(Errno::NOENT) if path.as_slice() != name.as_bytes() => continue,
            Err(errno) => return Err(failed(errno)),
        };
        let below = unlink_files(&dir).map_err(failed)?;
        if below.is_empty() {
            match fs::unlinkat(parent, path.as_slice(), AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed(errno)),
            }
            continue;
        }
        stack.push(path.clone());
        stack.extend(below.into_iter().map(|child| [path.as_slice(), b"/", &child].concat()));
    }
    Ok(())
}

/// Unlinks what is not a directory and names what is.
fn unlink_files(dir: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut below = Vec::new();
    let mut buffer = [MaybeUninit::uninit(); 8 << 10];
    // Names are collected by bufferful before they are unlinked, because a directory that changes while it is
    // read may show an entry twice or not at all; it is read again until a pass finds nothing to unlink.
    loop {
        let mut files: Vec<Box<CStr>> = Vec::new();
        below.clear();
        fs::seek(dir, fs::SeekFrom::Start(0))?;
        let mut entries = RawDir::new(dir, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => FileType::from_raw_mode(fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode),
                known => known,
            };
            if kind == FileType::Directory {
                below.push(name.to_bytes().to_vec());
            } else {
                files.push(name.into());
            }
        }
        if files.is_empty() {
            return Ok(below);
        }
        for name in files {
            match fs::unlinkat(dir, &*name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}
