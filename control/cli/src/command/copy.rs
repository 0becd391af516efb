//! `citius cp`: into the namespace, out of it, and within it.

use super::interrupt::Interrupt;
use super::pool::{self, Tasks};
use super::progress::Progress;
use super::walk::Walk;
use crate::args::{CpArgs, Reach, WriteTypeFlag};
use crate::error::CliError;
use crate::output::shown;
use citius_client::{Client, CreateOptions, EntryKind, MountInfo, NamespacePath, Status, WriteType};
use std::fs;
use std::io::{Read, Write};
use std::net::ToSocketAddrs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes moved at once.
const CHUNK_BYTES: usize = 4 << 20;

/// One side of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Side {
    /// A file of this machine.
    Local(PathBuf),
    /// A namespace path.
    Namespace(String),
}

/// One file to copy.
struct Task {
    from: Side,
    to: Side,
}

impl Side {
    /// A path that begins with `/` is of the namespace; `file:` and everything relative is of this machine.
    fn parse(text: &str) -> Self {
        match text.strip_prefix("file:") {
            Some(rest) => Self::Local(PathBuf::from(rest.strip_prefix("//").unwrap_or(rest))),
            None if text.starts_with('/') => Self::Namespace(text.to_owned()),
            None => Self::Local(PathBuf::from(text)),
        }
    }

    fn name(&self) -> Result<String, CliError> {
        let name = match self {
            Self::Local(path) => {
                fs::canonicalize(path).ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()))
            }
            Self::Namespace(path) => path.trim_end_matches('/').rsplit('/').next().map(str::to_owned),
        };
        name.filter(|name| !name.is_empty())
            .ok_or_else(|| CliError::usage(format!("{self} has no name to copy it under: name the target in full")))
    }

    fn join(&self, name: &str) -> Self {
        match self {
            Self::Local(path) => Self::Local(path.join(name)),
            Self::Namespace(path) => Self::Namespace(format!("{}/{name}", path.trim_end_matches('/'))),
        }
    }

    /// Whether a directory is there; `None` if nothing is.
    fn is_dir(&self, client: &Client) -> Result<Option<bool>, CliError> {
        match self {
            Self::Local(path) => match fs::metadata(path) {
                Ok(metadata) => Ok(Some(metadata.is_dir())),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(local(path, &error)),
            },
            Self::Namespace(path) => match client.stat(path) {
                Ok(info) => Ok(Some(info.kind == EntryKind::Directory)),
                Err(error) if error.status() == Status::NotFound => Ok(None),
                Err(error) => Err(error.into()),
            },
        }
    }

    /// Whether it is `dir` or would come to lie in it, so that a copy of `dir` would never come to its end. One folder may
    /// have several names: a path of this machine, and one for each mount of it.
    fn is_in(&self, dir: &Self, mounts: &[MountInfo]) -> bool {
        if let (Self::Namespace(path), Self::Namespace(dir)) = (self, dir)
            && let (Ok(path), Ok(dir)) = (NamespacePath::parse(path), NamespacePath::parse(dir))
            && path.is_under(&dir)
        {
            return true;
        }
        match (self.folder(mounts), dir.folder(mounts)) {
            (Some(path), Some(dir)) => path.starts_with(dir),
            _ => false,
        }
    }

    /// Where it is among the folders of this machine, links resolved as far as there are any; `None` if it is not there.
    fn folder(&self, mounts: &[MountInfo]) -> Option<PathBuf> {
        let path = match self {
            Self::Local(path) => std::path::absolute(path).ok()?,
            Self::Namespace(path) => {
                let path = NamespacePath::parse(path).ok()?;
                let within = |mount: &MountInfo| {
                    let at = NamespacePath::parse(&mount.path).ok()?;
                    let uri =
                        mount.uri.strip_prefix("file://").or(mount.uri.strip_prefix("file:")).unwrap_or(&mount.uri);
                    let below = path.relative_to(&at)?;
                    Some((at.as_str().len(), uri.starts_with('/').then(|| Path::new(uri).join(below))))
                };
                mounts.iter().filter_map(within).max_by_key(|(depth, _)| *depth)?.1?
            }
        };
        let found = path.ancestors().find_map(|above| Some((above, fs::canonicalize(above).ok()?)));
        let (above, real) = found?;
        Some(real.join(path.strip_prefix(above).ok()?))
    }

    fn make_dir(&self, client: &Client) -> Result<(), CliError> {
        match self {
            Self::Local(path) => fs::create_dir_all(path).map_err(|error| local(path, &error)),
            Self::Namespace(path) => Ok(client.mkdir(path, true)?),
        }
    }
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local(path) => f.write_str(&shown(&path.to_string_lossy())),
            Self::Namespace(path) => f.write_str(&shown(path)),
        }
    }
}

/// Copies.
pub(crate) fn run(client: &Client, reach: &Reach, args: &CpArgs) -> Result<(), CliError> {
    let to = Side::parse(&args.to);
    let to_is_dir = to.is_dir(client)?;
    if args.from.len() > 1 && to_is_dir != Some(true) {
        return Err(CliError::usage(format!("{to} is no directory, and several things cannot be copied to one name")));
    }
    let progress = Progress::new(reach, "copying");
    let bytes = AtomicU64::new(0);
    let interrupt = Interrupt::watch()?;
    let sum = pool::run(
        args.jobs,
        |tasks| {
            for from in &args.from {
                let from = Side::parse(from);
                let name = || if to_is_dir == Some(true) { Ok(to.join(&from.name()?)) } else { Ok(to.clone()) };
                // What is wrong with one does not keep the others from being copied.
                if let Err(error) =
                    name().and_then(|target| find(client, args, &from, &target, tasks, &progress, &interrupt))
                {
                    tasks.send(Err(error)).map_err(|_| cut_short())?;
                }
            }
            Ok(())
        },
        |task: Task| {
            interrupt.check()?;
            copy(client, args, &task, |count| {
                bytes.fetch_add(count, Ordering::Relaxed);
                progress.done(count);
                interrupt.check()
            })
        },
    );
    progress.end();
    interrupt.check()?;
    sum.end(reach, "copied", bytes.into_inner())
}

/// Finds the files below `from` and makes the directories that they go to. What fails is of one name, and the others are
/// found all the same.
fn find(
    client: &Client,
    args: &CpArgs,
    from: &Side,
    to: &Side,
    tasks: &Tasks<Task>,
    progress: &Progress,
    interrupt: &Interrupt,
) -> Result<(), CliError> {
    let is_dir = from.is_dir(client)?.ok_or_else(|| missing(from))?;
    if is_dir && !args.recursive {
        return Err(CliError::usage(format!("{from} is a directory: copy it with cp -r")));
    }
    // The folders of a master on another machine are others, though they have the names of ours.
    let folders = if is_dir && is_of_this_machine(client.master()) { client.mounts()? } else { Vec::new() };
    if is_dir && to.is_in(from, &folders) {
        return Err(CliError::usage(format!("{from} cannot be copied into itself, as {to}")));
    }
    let send = |task| {
        interrupt.check()?;
        tasks.send(task).map_err(|_| cut_short())
    };
    match from {
        Side::Namespace(path) => {
            let mut base = None;
            for found in Walk::new(client, path)? {
                let found = match found {
                    Ok(found) => found,
                    Err(miss) => {
                        send(Err(miss.into()))?;
                        continue;
                    }
                };
                let base = base.get_or_insert_with(|| found.path.clone());
                let below = found.path[base.len()..].trim_start_matches('/');
                let target = if below.is_empty() { to.clone() } else { to.join(below) };
                if found.info.kind == EntryKind::Directory {
                    target.make_dir(client)?;
                } else {
                    progress.expect(found.info.length);
                    send(Ok(Task { from: Side::Namespace(found.path), to: target }))?;
                }
            }
        }
        Side::Local(path) if !is_dir => {
            progress.expect(fs::metadata(path).map_or(0, |metadata| metadata.len()));
            send(Ok(Task { from: from.clone(), to: to.clone() }))?;
        }
        Side::Local(path) => {
            let mut waiting = vec![(path.clone(), to.clone())];
            while let Some((dir, target)) = waiting.pop() {
                target.make_dir(client)?;
                for entry in fs::read_dir(&dir).map_err(|error| local(&dir, &error))? {
                    match look(&entry.map_err(|error| local(&dir, &error))?, path) {
                        Ok((path, name, metadata)) if metadata.is_dir() => waiting.push((path, target.join(&name))),
                        Ok((path, name, metadata)) => {
                            progress.expect(metadata.len());
                            send(Ok(Task { from: Side::Local(path), to: target.join(&name) }))?;
                        }
                        Err(error) => send(Err(error))?,
                    }
                }
            }
        }
    }
    Ok(())
}

/// Whether an address leads to this machine itself.
fn is_of_this_machine(address: &str) -> bool {
    address.to_socket_addrs().is_ok_and(|mut addresses| addresses.all(|address| address.ip().is_loopback()))
}

fn cut_short() -> CliError {
    CliError::failure("copying was cut short")
}

/// What is said of a source that is not there. A path of this machine is easily taken for one.
fn missing(from: &Side) -> CliError {
    let hint = match from {
        Side::Namespace(path) if Path::new(path).exists() => {
            format!(" in the namespace; for the path of this machine write file:{path}")
        }
        _ => String::new(),
    };
    CliError::not_found(format!("{from} does not exist{hint}"))
}

/// What is to be copied of a name below `top` of this machine, symbolic links followed.
fn look(entry: &fs::DirEntry, top: &Path) -> Result<(PathBuf, String, fs::Metadata), CliError> {
    let path = entry.path();
    let failed = |error: std::io::Error| local(&path, &error);
    let metadata = fs::metadata(&path).map_err(failed)?;
    if metadata.is_dir() && entry.file_type().map_err(failed)?.is_symlink() && leads_back(&path, &metadata, top) {
        let words = "is a symbolic link back to a folder that it is in, and is left out";
        return Err(CliError::failure(format!("{} {words}", path.display())));
    }
    if !metadata.is_dir() && !metadata.is_file() {
        return Err(CliError::failure(format!("{} is neither a file nor a folder, and is left out", path.display())));
    }
    let name = entry
        .file_name()
        .into_string()
        .map_err(|_| CliError::failure(format!("{} is not UTF-8 and cannot be copied", path.display())))?;
    Ok((path, name, metadata))
}

/// Whether what is at `path` is one of the folders from `top` down to it.
fn leads_back(path: &Path, metadata: &fs::Metadata, top: &Path) -> bool {
    let above = path.ancestors().skip(1).take_while(|above| above.starts_with(top));
    let mut ids = above.filter_map(|above| fs::metadata(above).ok()).map(|above| (above.dev(), above.ino()));
    ids.any(|id| id == (metadata.dev(), metadata.ino()))
}

fn copy(
    client: &Client,
    args: &CpArgs,
    task: &Task,
    moved: impl Fn(u64) -> Result<(), CliError>,
) -> Result<(), CliError> {
    match (&task.from, &task.to) {
        (Side::Local(from), Side::Namespace(to)) => {
            let mut file = fs::File::open(from).map_err(|error| local(from, &error))?;
            let mut writer = client.create(to, options(args))?;
            let mut buffer = vec![0; CHUNK_BYTES];
            loop {
                let count = file.read(&mut buffer).map_err(|error| local(from, &error))?;
                if count == 0 {
                    break;
                }
                writer.append(&buffer[..count])?;
                moved(count as u64)?;
            }
            writer.close()?;
        }
        (Side::Namespace(from), Side::Namespace(to)) => {
            let mut writer = client.create(to, options(args))?;
            read_all(client, from, |chunk| {
                writer.append(chunk)?;
                moved(chunk.len() as u64)
            })?;
            writer.close()?;
        }
        (Side::Namespace(from), Side::Local(to)) => take_out(client, args, from, to, moved)?,
        (Side::Local(from), Side::Local(_)) => {
            return Err(CliError::usage(format!(
                "{} and the target are both of this machine: a namespace path begins with /",
                from.display()
            )));
        }
    }
    Ok(())
}

/// Copies out under a passing name, so that a file of the right name is a whole one.
fn take_out(
    client: &Client,
    args: &CpArgs,
    from: &str,
    to: &Path,
    moved: impl Fn(u64) -> Result<(), CliError>,
) -> Result<(), CliError> {
    if !args.force && to.exists() {
        return Err(exists_already(to));
    }
    let passing = passing_name(to);
    let write = || -> Result<(), CliError> {
        let mut file = fs::File::create(&passing).map_err(|error| local(&passing, &error))?;
        read_all(client, from, |chunk| {
            file.write_all(chunk).map_err(|error| local(&passing, &error))?;
            moved(chunk.len() as u64)
        })?;
        put_at(&passing, to, args.force)
    };
    write().inspect_err(|_| drop(fs::remove_file(&passing)))
}

/// Gives a whole file its name. Unless it may replace, what came to be there meanwhile stays.
fn put_at(passing: &Path, to: &Path, replace: bool) -> Result<(), CliError> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    match renameat_with(CWD, passing, CWD, to, flags) {
        Err(Errno::EXIST) => Err(exists_already(to)),
        // Not every file system can refuse to replace; that nothing was there was looked at before.
        Err(Errno::INVAL) if !replace => fs::rename(passing, to).map_err(|error| local(to, &error)),
        other => other.map_err(|errno| local(to, &errno.into())),
    }
}

fn exists_already(to: &Path) -> CliError {
    CliError::failure(format!("{} exists already: replace it with cp --force", to.display()))
}

/// A name beside `to` that no other copy of this machine uses: not longer for a long name, which may have no room.
fn passing_name(to: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    to.with_file_name(format!(".citius-part-{}-{number}", std::process::id()))
}

fn read_all(client: &Client, path: &str, mut chunk: impl FnMut(&[u8]) -> Result<(), CliError>) -> Result<(), CliError> {
    let file = super::open_settled(client, path)?;
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut at = 0;
    while at < file.len() {
        let count = file.read_at(&mut buffer, at)?;
        if count == 0 {
            break;
        }
        chunk(&buffer[..count])?;
        at += count as u64;
    }
    Ok(())
}

fn options(args: &CpArgs) -> CreateOptions {
    CreateOptions {
        overwrite: args.force,
        write_type: match args.write_type {
            WriteTypeFlag::CacheThrough => WriteType::CacheThrough,
            WriteTypeFlag::Through => WriteType::Through,
            WriteTypeFlag::MustCache => WriteType::MustCache,
        },
        ..CreateOptions::default()
    }
}

fn local(path: &Path, error: &std::io::Error) -> CliError {
    let message = format!("{}: {error}", path.display());
    match error.kind() {
        std::io::ErrorKind::NotFound => CliError::not_found(message),
        std::io::ErrorKind::PermissionDenied => CliError::denied(message),
        _ => CliError::failure(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_by_how_they_begin() {
        assert_eq!(Side::parse("/a"), Side::Namespace("/a".into()));
        assert_eq!(Side::parse("./a"), Side::Local("./a".into()));
        assert_eq!(Side::parse("a"), Side::Local("a".into()));
        assert_eq!(Side::parse("file:/tmp/a"), Side::Local("/tmp/a".into()));
        assert_eq!(Side::parse("file:///tmp/a"), Side::Local("/tmp/a".into()));
        assert_eq!(Side::parse("/a/").join("b"), Side::Namespace("/a/b".into()));
    }
}
