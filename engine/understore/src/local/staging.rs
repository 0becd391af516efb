//! Writes to a local under-store: a temporary file, fsync, rename, fsync of the directory.
//!
//! Temporaries lie in the hidden folder `.citius-staging` in the mount's root, named by file id, so that they are
//! found again without walking the tree; the folder is removed whenever it is empty. Where the target lies in
//! another mounted file system below the mount, which a rename cannot cross, the temporary lies beside its target
//! under the hidden name `.citius-staging-<id>`.
//!
//! Provable: the rename keeps inode and modification time, which the sealed record holds.

use std::{
    fs::File,
    os::{fd::OwnedFd, unix::fs::FileExt},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::{
    fs::{self, AtFlags, Mode, OFlags, RenameFlags},
    io::Errno,
};

use super::{
    Inner,
    calls::Call,
    list::Names,
    root::{io_error, to_stat},
};
use crate::{
    Condition, Error, FileId, Result, Settled, Staged, StagedBody, StagedRecord, StorePath, VersionToken, path::STAGING,
};

/// Bytes held before they are written, so that small writes do not each pay for a change of thread.
const HELD_BYTES_MAX: usize = 1 << 20;
/// Another process may remove the empty staging folder between our making it and using it.
const CREATE_ATTEMPTS_MAX: usize = 64;

/// The temporary's name in the mount's root.
fn name_in_root(file_id: FileId) -> String {
    format!("{STAGING}/{file_id}")
}

/// The temporary's name beside its target.
fn name_beside(path: &StorePath, file_id: FileId) -> String {
    let name = format!("{STAGING}-{file_id}");
    match path.parent() {
        Some(parent) if !parent.is_root() => format!("{parent}/{name}"),
        _ => name,
    }
}

/// A local write under way.
pub(super) struct LocalStaged {
    inner: Arc<Inner>,
    path: StorePath,
    file_id: FileId,
    temp: String,
    file: Arc<File>,
    /// Whether the temporary lies in a file system that answers at once.
    is_near: bool,
    held: Vec<Bytes>,
    held_bytes: usize,
    len: u64,
    sealed: Option<StagedRecord>,
}

impl LocalStaged {
    /// Creates the temporary; the target's directory must exist.
    pub(super) fn create(inner: &Arc<Inner>, path: StorePath, file_id: FileId) -> Result<Self> {
        let parent = inner.root().open_parent(&path)?;
        if inner.root().stat(&path).is_ok_and(|stat| !stat.is_file()) {
            return Err(Error::IsADirectory { path: path.to_string() });
        }
        let in_root = inner.root().shares_mount_with(&parent);
        let temp = if in_root { name_in_root(file_id) } else { name_beside(&path, file_id) };
        let file = create_temp(inner, &temp, in_root).map_err(|errno| io_error(path.as_str(), "create", errno))?;
        let file = Arc::new(File::from(file));
        Ok(Self {
            inner: Arc::clone(inner),
            path,
            file_id,
            temp,
            file,
            is_near: in_root && inner.root().is_near(),
            held: Vec::new(),
            held_bytes: 0,
            len: 0,
            sealed: None,
        })
    }

    async fn flush(&mut self) -> Result<()> {
        let held = std::mem::take(&mut self.held);
        let mut at = self.len - self.held_bytes as u64;
        self.held_bytes = 0;
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        let write = move |inner: &Arc<Inner>| {
            for bytes in held {
                file.write_all_at(&bytes, at).map_err(|error| write_error(&path, error))?;
                at += bytes.len() as u64;
                inner.traffic.count_written(bytes.len() as u64);
            }
            Ok(())
        };
        self.inner.blocking(Call::Work, self.path.as_str(), write).await
    }
}

#[async_trait]
impl Staged for LocalStaged {
    fn begun(&self) -> StagedRecord {
        self.sealed.clone().unwrap_or_else(|| StagedRecord::named(self.path.clone(), self.file_id))
    }

    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        assert!(self.sealed.is_none(), "bytes after the seal would not be in the record");
        self.len += bytes.len() as u64;
        self.held_bytes += bytes.len();
        self.held.push(bytes);
        if self.held_bytes >= HELD_BYTES_MAX { self.flush().await } else { Ok(()) }
    }

    async fn seal(&mut self) -> Result<StagedRecord> {
        if let Some(record) = &self.sealed {
            return Ok(record.clone());
        }
        self.flush().await?;
        let (file, path, len) = (Arc::clone(&self.file), self.path.clone(), self.len);
        let sync = move |_: &Arc<Inner>| {
            file.sync_all().map_err(|error| write_error(&path, error))?;
            let stat = fs::fstat(&*file).map_err(|errno| io_error(path.as_str(), "stat", errno))?;
            if stat.st_size as u64 != len {
                let got = stat.st_size as u64;
                return Err(Error::WrongLength { path: path.to_string(), expected: len, got });
            }
            Ok((stat.st_ino, mtime_ns(&stat)))
        };
        let (inode, mtime_ns) = self.inner.blocking(Call::Work, self.path.as_str(), sync).await?;
        let body = StagedBody::Temp { name: self.temp.clone(), inode, mtime_ns };
        let record = StagedRecord { path: self.path.clone(), file_id: self.file_id, len, body };
        Ok(self.sealed.insert(record).clone())
    }

    async fn publish(&mut self, condition: &Condition) -> Result<VersionToken> {
        let record = self.seal().await?;
        let condition = condition.clone();
        let publish = move |inner: &Arc<Inner>| publish(inner, &record, &condition);
        self.inner.blocking(Call::Work, self.path.as_str(), publish).await
    }

    async fn abandon(&mut self) -> Result<()> {
        let temp = self.temp.clone();
        self.inner.blocking(Call::Work, self.path.as_str(), move |inner| remove_temp(inner, &temp)).await
    }
}

impl Drop for LocalStaged {
    fn drop(&mut self) {
        // The last write takes the empty folder away; while there is another, the kernel refuses.
        if self.is_near {
            remove_empty_folder(&self.inner);
            return;
        }
        // A far file system sends what is left to its server when a file is closed, and may wait for it. Where the
        // runtime has ended, so has all that could be kept waiting.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (inner, file, path) = (Arc::clone(&self.inner), Arc::clone(&self.file), self.path.clone());
        runtime.spawn(async move {
            let close = move |inner: &Arc<Inner>| {
                drop(file);
                remove_empty_folder(inner);
                Ok(())
            };
            // Nobody waits for it.
            let _: Result<()> = inner.blocking(Call::Work, path.as_str(), close).await;
        });
    }
}

fn create_temp(inner: &Inner, temp: &str, in_root: bool) -> Result<OwnedFd, Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW;
    for _ in 0..CREATE_ATTEMPTS_MAX {
        match inner.root().resolve(temp, flags, Mode::from_raw_mode(0o666)) {
            // Only its owner may look at what is not published yet.
            Err(Errno::NOENT) if in_root => match fs::mkdirat(inner.root().dir(), STAGING, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            },
            // An earlier attempt at the same file; ids are never reused, so its bytes are nobody's.
            Err(Errno::EXIST) => {
                unlink_temp(inner, temp)?;
            }
            other => return other,
        }
    }
    Err(Errno::BUSY)
}

/// Publishes on behalf of another process, which may have left the folder behind.
pub(super) fn publish_record(inner: &Inner, record: &StagedRecord, condition: &Condition) -> Result<VersionToken> {
    let token = publish(inner, record, condition)?;
    remove_empty_folder(inner);
    Ok(token)
}

/// Renames a sealed temporary to its path.
fn publish(inner: &Inner, record: &StagedRecord, condition: &Condition) -> Result<VersionToken> {
    inner.traffic.count_request();
    let path = record.path.as_str();
    let StagedBody::Temp { name, .. } = &record.body else {
        return Err(Error::BadRecord { reason: "it is not of a write to a local file system" });
    };
    let parent = inner.root().open_parent(&record.path)?;
    let Some(temp) = stat_temp(inner, name, path)? else {
        // Gone: either renamed by an earlier call whose answer was lost, or removed.
        return match published(inner, record)? {
            Some(token) => Ok(token),
            None => Err(lost(record, "there is no temporary file")),
        };
    };
    if !is_same(&temp, record) {
        return Err(lost(record, "the temporary file is not as it was sealed"));
    }
    let target = fs::statat(&parent, record.path.name(), AtFlags::SYMLINK_NOFOLLOW).ok();
    if let Some(target) = &target
        && fs::FileType::from_raw_mode(target.st_mode) == fs::FileType::RegularFile
        && *condition != Condition::MustNotExist
    {
        keep_mode(inner, name, target).map_err(|errno| io_error(path, "chmod", errno))?;
    }
    rename_checked(inner, (inner.root().dir(), name), (&parent, &record.path), condition)?;
    fs::fsync(&parent).map_err(|errno| io_error(path, "fsync", errno))?;
    let stat = fs::statat(&parent, record.path.name(), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| io_error(path, "stat", errno))?;
    if !is_same(&stat, record) {
        // Somebody replaced it in the moment since the rename: ours was published and is history.
        return Err(Error::Conflict { path: path.to_owned(), reason: "it was replaced at once".into() });
    }
    Ok(to_stat(path, &stat)?.token)
}

/// Renames under a condition; "must not exist" is one step, "replaces" compares just before. A rename that gave the file
/// its new name and not yet lost the old one is ended by any later call.
pub(super) fn rename_checked(
    inner: &Inner,
    (from_dir, from): (&OwnedFd, &str),
    (to_dir, to): (&OwnedFd, &StorePath),
    condition: &Condition,
) -> Result<()> {
    let failed = |errno| io_error(to.as_str(), "rename", errno);
    match condition {
        Condition::Any => {}
        Condition::MustNotExist => {
            match fs::renameat_with(from_dir, from, to_dir, to.name(), RenameFlags::NOREPLACE) {
                // NFS, GlusterFS and CephFS have no such flag.
                Err(Errno::INVAL | Errno::NOSYS) => {
                    if rename_by_link((from_dir, from), (to_dir, to.name())).map_err(failed)? {
                        return Ok(());
                    }
                }
                other => return other.map_err(failed),
            }
        }
        Condition::Replaces(token) => {
            let conflict = |reason: &str| Err(Error::Conflict { path: to.to_string(), reason: reason.to_owned() });
            match inner.root().stat(to) {
                Ok(stat) if stat.token == *token => {}
                Ok(_) => return conflict("it is another version"),
                Err(Error::NotFound { .. }) => return conflict("it is gone"),
                Err(other) => return Err(other),
            }
        }
    }
    if are_links((from_dir, from), (to_dir, to.name())) {
        // The kernel's rename would leave both names.
        return fs::unlinkat(from_dir, from, AtFlags::empty()).map_err(failed);
    }
    fs::renameat(from_dir, from, to_dir, to.name()).map_err(failed)
}

/// A name in an open directory.
type NameIn<'a> = (&'a OwnedFd, &'a str);

/// Renames a file onto nothing where a rename itself cannot be told so: a new link is made only where nothing is, also
/// when several make it at once. Whether it did: directories have no links, nor have some file systems; of them it
/// is only looked just before that nothing is there.
fn rename_by_link(from @ (from_dir, from_name): NameIn<'_>, to @ (to_dir, to_name): NameIn<'_>) -> Result<bool, Errno> {
    match fs::linkat(from_dir, from_name, to_dir, to_name, AtFlags::empty()) {
        Ok(()) => {}
        // An earlier call made the link, or this one, whose first answer was lost on the way.
        Err(Errno::EXIST) if are_links(from, to) => {}
        Err(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL | Errno::MLINK | Errno::ISDIR) => {
            return match fs::statat(to_dir, to_name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => Err(Errno::EXIST),
                Err(_) => Ok(false),
            };
        }
        Err(errno) => return Err(errno),
    }
    fs::unlinkat(from_dir, from_name, AtFlags::empty())?;
    Ok(true)
}

/// Whether two names are links to one file, each an entry of its own: removing one leaves the other. Names that a directory
/// takes for one, as those do that fold cases, are one entry.
fn are_links(a: NameIn<'_>, b: NameIn<'_>) -> bool {
    // Most files have one name, and are not compared with anything.
    let is_same = |a: &fs::Stat, b: &fs::Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
    let look = |(dir, name): NameIn<'_>| fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok();
    let Some(first) = look(a).filter(|stat| stat.st_nlink > 1) else { return false };
    if !look(b).is_some_and(|second| is_same(&first, &second)) {
        return false;
    }
    match (fs::fstat(a.0), fs::fstat(b.0)) {
        (Ok(one), Ok(other)) if is_same(&one, &other) => a.1 != b.1 && has_entries(b.0, [a.1, b.1]),
        (Ok(_), Ok(_)) => true,
        _ => false,
    }
}

/// Whether a directory has entries of exactly these two names.
fn has_entries(dir: &OwnedFd, names: [&str; 2]) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(entries) = fs::openat(dir, ".", flags, Mode::empty()).and_then(fs::Dir::new) else { return false };
    let named = entries.flatten().filter(|entry| names.map(str::as_bytes).contains(&entry.file_name().to_bytes()));
    named.count() == names.len()
}

/// Removes the temporary, then looks whether the path holds this write.
pub(super) fn settle(inner: &Inner, record: &StagedRecord) -> Result<Settled> {
    match &record.body {
        StagedBody::Temp { name, .. } => remove_temp(inner, name)?,
        StagedBody::Named => {
            remove_temp(inner, &name_in_root(record.file_id))?;
            remove_temp(inner, &name_beside(&record.path, record.file_id))?;
        }
        _ => return Err(Error::BadRecord { reason: "it is not of a write to a local file system" }),
    }
    Ok(published(inner, record)?.map_or(Settled::Absent, Settled::Published))
}

/// The version at the record's path, if it is this write. A record that holds no inode proves nothing: it was
/// never sealed, so it was never published.
fn published(inner: &Inner, record: &StagedRecord) -> Result<Option<VersionToken>> {
    let parent = match inner.root().open_parent(&record.path) {
        Ok(parent) => parent,
        Err(Error::NotFound { .. } | Error::NotADirectory { .. }) => return Ok(None),
        Err(other) => return Err(other),
    };
    match fs::statat(&parent, record.path.name(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if is_same(&stat, record) => {
            // The rename may have been seen without having been made durable.
            fs::fsync(&parent).map_err(|errno| io_error(record.path.as_str(), "fsync", errno))?;
            Ok(Some(to_stat(record.path.as_str(), &stat)?.token))
        }
        Ok(_) | Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(io_error(record.path.as_str(), "stat", errno)),
    }
}

/// The temporaries in the mount's root, each with when it was last written in milliseconds since 1970. The ones beside
/// their targets are in the records that name them.
pub(super) fn remnants(inner: &Inner) -> Result<Vec<(FileId, i64)>> {
    let folder = match inner.root().resolve(STAGING, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
        Ok(folder) => folder,
        Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(errno) => return Err(io_error(STAGING, "open", errno)),
    };
    let names = Names::read(folder, STAGING)?;
    let temporary = |name: &[u8]| {
        let file_id = std::str::from_utf8(name).ok().and_then(FileId::from_hex)?;
        let stat = fs::statat(names.dir(), name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some((file_id, mtime_ns(&stat) / 1_000_000))
    };
    Ok(names.iter().filter_map(temporary).collect())
}

/// Removes temporaries of files that nobody knows any more, and says how many.
pub(super) fn remove(inner: &Inner, dead: Vec<FileId>) -> Result<u64> {
    let count = dead.len() as u64;
    for file_id in dead {
        unlink_temp(inner, &name_in_root(file_id)).map_err(|errno| io_error(STAGING, "delete", errno))?;
    }
    remove_empty_folder(inner);
    Ok(count)
}

fn remove_temp(inner: &Inner, temp: &str) -> Result<()> {
    unlink_temp(inner, temp).map_err(|errno| io_error(temp, "delete", errno))?;
    remove_empty_folder(inner);
    Ok(())
}

/// Unlinks a temporary if it is there. The directory is resolved beneath the mount, as everything is.
fn unlink_temp(inner: &Inner, temp: &str) -> Result<(), Errno> {
    let (dir, name) = temp.rsplit_once('/').unwrap_or((".", temp));
    let dir = match inner.root().resolve(dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    match fs::unlinkat(&dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn remove_empty_folder(inner: &Inner) {
    // Not empty, not there, or not allowed: none of these matters to anybody.
    let _ = fs::unlinkat(inner.root().dir(), STAGING, AtFlags::REMOVEDIR);
}

fn stat_temp(inner: &Inner, name: &str, path: &str) -> Result<Option<fs::Stat>> {
    match inner.root().resolve(name, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(fd) => fs::fstat(&fd).map(Some).map_err(|errno| io_error(path, "stat", errno)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(io_error(path, "open", errno)),
    }
}

/// A replaced file keeps its permission bits, as an editor would keep them.
fn keep_mode(inner: &Inner, temp: &str, target: &fs::Stat) -> Result<(), Errno> {
    let fd = inner.root().resolve(temp, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty())?;
    fs::fchmod(&fd, Mode::from_raw_mode(target.st_mode & 0o7777))
}

fn is_same(stat: &fs::Stat, record: &StagedRecord) -> bool {
    match &record.body {
        StagedBody::Temp { inode, mtime_ns: sealed_ns, .. } => {
            stat.st_ino == *inode && stat.st_size as u64 == record.len && mtime_ns(stat) == *sealed_ns
        }
        _ => false,
    }
}

fn mtime_ns(stat: &fs::Stat) -> i64 {
    stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec as i64)
}

fn lost(record: &StagedRecord, reason: &str) -> Error {
    let path = record.path.to_string();
    Error::StagedLost { path, file_id: record.file_id.to_string(), reason: reason.to_owned() }
}

fn write_error(path: &StorePath, error: std::io::Error) -> Error {
    match Errno::from_io_error(&error) {
        Some(errno) => io_error(path.as_str(), "write", errno),
        None => Error::Io { path: path.to_string(), operation: "write", source: error },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn names(folder: &std::path::Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// An entry is removed only if another of its file stays: a directory that is reached on two ways has one of each name.
    #[test]
    fn links_are_entries_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let open = |path: &std::path::Path| OwnedFd::from(File::open(path).unwrap());
        std::fs::create_dir(folder.path().join("d")).unwrap();
        std::fs::write(folder.path().join("a"), "a").unwrap();
        let (dir, again, below) = (open(folder.path()), open(folder.path()), open(&folder.path().join("d")));
        assert!(!are_links((&dir, "a"), (&again, "a")), "it has no other");
        for link in ["b", "d/a"] {
            std::fs::hard_link(folder.path().join("a"), folder.path().join(link)).unwrap();
        }
        assert!(!are_links((&dir, "a"), (&again, "a")), "one entry");
        assert!(are_links((&dir, "a"), (&again, "b")) && are_links((&dir, "a"), (&below, "a")));
        assert!(has_entries(&dir, ["a", "b"]) && !has_entries(&dir, ["a", "B"]));
    }

    /// GlusterFS and CephFS once let two writers create one file, because it was only looked before.
    #[test]
    fn a_rename_by_link_replaces_nothing_and_is_ended_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let dir: OwnedFd = File::open(folder.path()).unwrap().into();
        for name in ["a", "b"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let rename = |from, to| rename_by_link((&dir, from), (&dir, to));
        assert_eq!(rename("a", "c"), Ok(true));
        assert_eq!(rename("b", "c"), Err(Errno::EXIST));
        assert_eq!(rename("none", "d"), Err(Errno::NOENT));
        assert_eq!(std::fs::read(folder.path().join("c")).unwrap(), b"a");
        assert_eq!(names(folder.path()), ["b", "c"]);
        // It ended between its two steps.
        std::fs::hard_link(folder.path().join("b"), folder.path().join("d")).unwrap();
        assert_eq!(rename("b", "d"), Ok(true));
        assert_eq!(names(folder.path()), ["c", "d"]);
        // Directories have no links.
        std::fs::create_dir(folder.path().join("e")).unwrap();
        assert_eq!((rename("e", "f"), rename("e", "d")), (Ok(false), Err(Errno::EXIST)));
    }

    #[test]
    fn a_rename_onto_another_link_of_the_file_leaves_one_name() {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::LocalStore::new(folder.path().to_owned()).unwrap();
        let path = |name: &str| StorePath::parse(name).unwrap();
        std::fs::write(folder.path().join("a"), "content").unwrap();
        std::fs::hard_link(folder.path().join("a"), folder.path().join("b")).unwrap();
        let renamed = tokio::runtime::Runtime::new()
            .unwrap()
            .block_on(async { crate::UnderStore::rename(&store, &path("a"), &path("b"), &Condition::Any).await });
        assert_eq!(renamed.unwrap().len, 7);
        assert_eq!(names(folder.path()), ["b"]);
    }
}
