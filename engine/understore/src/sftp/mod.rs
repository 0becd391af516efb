//! `sftp://` under-stores: folders of machines that are reached by SSH.
//!
//! What file systems on a network have in common is in `tree/`; here are the requests of this one: version 3 of the
//! protocol, as all servers speak it, and OpenSSH's extensions where the server has them. Through the crates `russh` and
//! `russh-sftp`: no `ssh` program is needed.
//!
//! - A version is length and modification time in seconds: the protocol tells no more. So where a file replaces one of
//!   its own length, its time is set a second later if it is not later by itself. What other programs write in place
//!   within one second, of equal length, is not seen.
//! - A plain rename fails if something is there; OpenSSH makes sure of it by a hard link. Over what is there only
//!   `posix-rename@openssh.com` renames in one step; a server without it can create files, and not replace them.
//! - A file is finished by `fsync@openssh.com`, where there is one.
//! - Symbolic links are listed as refused, and not followed in the last component of a path: the server would follow them
//!   anywhere.
//! - Many statuses are one: "failure" is looked into by a second request.
//! - RSA keys are not spoken; the pure implementation of them has a known leak.
//!
//! `connect.rs` reads URI, options and keys; `session.rs` connects; `transfer.rs` reads and writes files.

mod connect;
mod session;
mod transfer;

use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use russh_sftp::{
    client::error::Error as SftpError,
    extensions::HardlinkExtension,
    protocol::{FileAttributes, OpenFlags, Packet, StatusCode},
};
use tokio::sync::{Mutex, OnceCell};

pub(crate) use self::connect::open;
use self::{
    session::{POSIX_RENAME, Session, Target},
    transfer::{OpenHandle, Writer},
};
use crate::{
    Error, Result,
    store::Compares,
    tree::{Chunks, Listing, Node, Protocol, Rules, Sink, Span, What},
};

const SECOND_NS: i64 = 1_000_000_000;
const PRIVATE_MODE: u32 = 0o700;
const MODE_BITS: u32 = 0o7777;

/// A folder of an SFTP server. Clones are the same.
#[derive(Clone)]
struct Sftp {
    target: Arc<Target>,
    /// The mounted folder, without a slash at its end: absolute, or below the user's home.
    root: Arc<str>,
    session: Arc<Mutex<Option<Arc<Session>>>>,
    /// Whether the server is one that renames as OpenSSH does.
    is_openssh: Arc<OnceCell<bool>>,
}

impl Sftp {
    fn new(target: Target, root: String) -> Self {
        let (target, root) = (Arc::new(target), root.into());
        Self { target, root, session: Arc::default(), is_openssh: Arc::default() }
    }

    fn at(&self, path: &str) -> String {
        match (&*self.root, path) {
            ("", "") => ".".to_owned(),
            ("/", path) => format!("/{path}"),
            ("", path) => path.to_owned(),
            (root, "") => root.to_owned(),
            (root, path) => format!("{root}/{path}"),
        }
    }

    /// The connection; a new one if there is none or it is over.
    async fn session(&self) -> Result<Arc<Session>> {
        let mut held = self.session.lock().await;
        if let Some(session) = held.as_ref().filter(|session| !session.is_over()) {
            return Ok(Arc::clone(session));
        }
        let session = Arc::new(Session::open(&self.target).await?);
        let _ = self.is_openssh.set(session.renames_over);
        *held = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Asks for something that changes nothing; again on a new connection, if the old one turns out to be gone.
    async fn look<T, F>(&self, path: &str, ask: impl Fn(Arc<Session>) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, SftpError>>,
    {
        for is_last in [false, true] {
            let session = self.session().await?;
            match ask(Arc::clone(&session)).await {
                Err(error) if is_lost(&error) => {
                    self.give_up(&session).await;
                    if is_last {
                        return Err(self.failed(path, error));
                    }
                }
                other => return other.map_err(|error| self.failed(path, error)),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Asks for a change, once.
    async fn change<T, F>(&self, path: &str, ask: impl FnOnce(Arc<Session>) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, SftpError>>,
    {
        let session = self.session().await?;
        let answer = ask(Arc::clone(&session)).await;
        if answer.as_ref().is_err_and(is_lost) {
            self.give_up(&session).await;
        }
        answer.map_err(|error| self.failed(path, error))
    }

    /// Lets a connection go, so that the next call makes another.
    async fn give_up(&self, session: &Arc<Session>) {
        let mut held = self.session.lock().await;
        if held.as_ref().is_some_and(|now| Arc::ptr_eq(now, session)) {
            *held = None;
        }
    }

    async fn attributes(&self, path: &str) -> Result<FileAttributes> {
        let at = self.at(path);
        let ask = |session: Arc<Session>| {
            let at = at.clone();
            async move { session.sftp.lstat(at).await.map(|answer| answer.attrs) }
        };
        self.look(path, ask).await
    }

    /// The error of a change that failed for a reason that the server did not tell: it is there already, if it is.
    async fn or_exists(&self, path: &str, error: Error) -> Error {
        match (&error, self.attributes(path).await) {
            (Error::Store { .. }, Ok(_)) => Error::AlreadyExists { path: path.to_owned() },
            _ => error,
        }
    }

    async fn list_all(&self, dir: &str) -> Result<Listing> {
        let at = self.at(dir);
        let opened = self
            .look(dir, |session| {
                let at = at.clone();
                async move {
                    let handle = session.sftp.opendir(at).await?.handle;
                    Ok(OpenHandle::new(session, handle))
                }
            })
            .await;
        let handle = match opened {
            // A file is no directory, which is said in the same way.
            Err(error @ (Error::NotFound { .. } | Error::Store { .. })) => {
                return match self.attributes(dir).await {
                    Ok(attributes) if !attributes.is_dir() => Err(Error::NotADirectory { path: dir.to_owned() }),
                    Ok(_) => Err(error),
                    Err(other) => Err(other),
                };
            }
            other => other?,
        };
        let (this, dir) = (self.clone(), dir.to_owned());
        let batches = stream::try_unfold((this, dir, handle), |(this, dir, handle)| async move {
            match handle.session().sftp.readdir(handle.name()).await {
                Ok(batch) => Ok(Some((batch.files, (this, dir, handle)))),
                Err(SftpError::Status(status)) if status.status_code == StatusCode::Eof => Ok(None),
                Err(error) => Err(this.failed(&dir, error)),
            }
        });
        let names = batches.map_ok(|files| stream::iter(files.into_iter().map(Ok))).try_flatten();
        let names = names.try_filter_map(|file| {
            let name = match file.filename {
                name if matches!(name.as_str(), "." | "..") => return std::future::ready(Ok(None)),
                // The client puts this in the place of what it cannot decode.
                name if name.contains(char::REPLACEMENT_CHARACTER) => Err(name),
                name => Ok(name),
            };
            std::future::ready(Ok(Some((name, node_of(&file.attrs)))))
        });
        Ok(names.boxed())
    }

    /// The error that the client means.
    fn failed(&self, path: &str, error: SftpError) -> Error {
        failed(&self.target, path, error)
    }
}

/// Whether a connection is of no more use after this.
fn is_lost(error: &SftpError) -> bool {
    !matches!(error, SftpError::Status(_) | SftpError::Limited(_))
}

fn failed(target: &Target, path: &str, error: SftpError) -> Error {
    let shown = path.to_owned();
    match error {
        SftpError::Status(status) => match status.status_code {
            StatusCode::NoSuchFile => Error::NotFound { path: shown },
            StatusCode::PermissionDenied => Error::PermissionDenied { path: shown, reason: status.error_message },
            StatusCode::NoConnection | StatusCode::ConnectionLost => target.unreachable(status.error_message),
            code => Error::Store { path: shown, source: format!("{code}: {}", status.error_message).into() },
        },
        SftpError::Limited(reason) => Error::Store { path: shown, source: reason.into() },
        SftpError::Timeout => target.unreachable("a request was not answered in time".to_owned()),
        other => target.unreachable(other.to_string()),
    }
}

fn node_of(attributes: &FileAttributes) -> Node {
    let mtime_ns = i64::from(attributes.mtime.unwrap_or(0)) * SECOND_NS;
    let mode = attributes.permissions.map(|mode| mode & MODE_BITS);
    let what = match attributes.permissions {
        _ if attributes.is_dir() => return Node::dir(mtime_ns),
        _ if attributes.is_symlink() => What::Other("a symbolic link, which is not followed"),
        // A server that tells no kind is asked for files all the same.
        None => What::File,
        Some(_) if attributes.is_regular() => What::File,
        Some(_) => What::Other("neither a file nor a directory"),
    };
    let len = if what == What::File { attributes.size.unwrap_or(0) } else { 0 };
    Node { what, len, mtime_ns, tag: String::new(), mode }
}

/// Only the attributes that are named are set.
fn nothing() -> FileAttributes {
    FileAttributes {
        size: None,
        uid: None,
        user: None,
        gid: None,
        group: None,
        permissions: None,
        atime: None,
        mtime: None,
    }
}

#[async_trait]
impl Protocol for Sftp {
    fn endpoint(&self) -> &str {
        &self.target.endpoint
    }

    fn rules(&self) -> Rules {
        let is_openssh = self.is_openssh.get().copied().unwrap_or(false);
        Rules {
            writes: true,
            lists: true,
            create_only: if is_openssh { Compares::Atomically } else { Compares::JustBefore },
            mtime_step_ns: Some(SECOND_NS),
            keeps_tags: true,
            refuses_full: true,
            refused_characters: "",
        }
    }

    async fn stat(&self, path: &str) -> Result<Node> {
        self.attributes(path).await.map(|attributes| node_of(&attributes))
    }

    fn list(&self, dir: &str) -> Listing {
        let (this, dir) = (self.clone(), dir.to_owned());
        stream::once(async move { this.list_all(&dir).await }).try_flatten().boxed()
    }

    async fn read(&self, path: &str, span: Span<'_>) -> Result<Chunks> {
        let at = self.at(path);
        let ask = |session: Arc<Session>| {
            let at = at.clone();
            async move {
                let handle = session.sftp.open(at, OpenFlags::READ, nothing()).await?.handle;
                let handle = OpenHandle::new(session, handle);
                let attributes = handle.session().sftp.fstat(handle.name()).await?.attrs;
                Ok((handle, attributes))
            }
        };
        let (handle, attributes) = self.look(path, ask).await?;
        let node = node_of(&attributes);
        if node.len != span.version.len || node.mtime_ns != span.version.mtime_ns {
            return Err(Error::VersionChanged { path: path.to_owned() });
        }
        let (target, path) = (Arc::clone(&self.target), path.to_owned());
        let chunks = transfer::read(handle, span.offset, span.len);
        Ok(chunks.map_err(move |error| failed(&target, &path, error)).boxed())
    }

    async fn create(&self, path: &str, shown: &str) -> Result<Box<dyn Sink>> {
        let at = self.at(path);
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
        let ask = |session: Arc<Session>| async move {
            let handle = session.sftp.open(at, flags, nothing()).await?.handle;
            Ok(OpenHandle::new(session, handle))
        };
        match self.change(path, ask).await {
            Ok(handle) => Ok(Box::new(Writer::new(handle, Arc::clone(&self.target), shown.to_owned()))),
            Err(error) => Err(self.or_exists(path, error).await),
        }
    }

    async fn mkdir(&self, path: &str, is_private: bool) -> Result<()> {
        let at = self.at(path);
        let permissions = is_private.then_some(PRIVATE_MODE);
        let attributes = FileAttributes { permissions, ..nothing() };
        let made = self.change(path, |session| async move { session.sftp.mkdir(at, attributes).await }).await;
        match made {
            Ok(_) => Ok(()),
            Err(error) => Err(self.or_exists(path, error).await),
        }
    }

    async fn rename(&self, from: &str, to: &str, replace: bool) -> Result<()> {
        let session = self.session().await?;
        let (old, new) = (self.at(from), self.at(to));
        if replace && session.renames_over {
            // The bytes of the request are those of another extension: two paths.
            let paths = HardlinkExtension { oldpath: old, newpath: new };
            let ask = |session: Arc<Session>| async move {
                match session.sftp.extended(POSIX_RENAME, paths.try_into()?).await? {
                    Packet::Status(status) if status.status_code == StatusCode::Ok => Ok(()),
                    Packet::Status(status) => Err(SftpError::Status(status)),
                    _ => Err(SftpError::UnexpectedPacket),
                }
            };
            return self.change(to, ask).await;
        }
        let renamed = self.change(to, |session| async move { session.sftp.rename(old, new).await }).await;
        match renamed {
            Ok(_) => Ok(()),
            Err(error) => match self.or_exists(to, error).await {
                Error::AlreadyExists { .. } if replace => {
                    let operation = "replace a file in one step: its server has no posix-rename@openssh.com";
                    Err(Error::NotSupported { store: self.target.endpoint.clone(), operation })
                }
                other => Err(other),
            },
        }
    }

    async fn delete_file(&self, path: &str) -> Result<()> {
        let at = self.at(path);
        self.change(path, |session| async move { session.sftp.remove(at).await }).await.map(drop)
    }

    async fn delete_dir(&self, path: &str) -> Result<()> {
        let at = self.at(path);
        match self.change(path, |session| async move { session.sftp.rmdir(at).await }).await {
            Ok(_) => Ok(()),
            Err(error @ Error::Store { .. }) => match self.list(path).try_next().await {
                Ok(Some(_)) => Err(Error::NotEmpty { path: path.to_owned() }),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    async fn set_mtime(&self, path: &str, mtime_ns: i64) -> Result<()> {
        let at = self.at(path);
        // The two times are set together or not at all.
        let atime = self.attributes(path).await?.atime;
        let mtime = u32::try_from(mtime_ns / SECOND_NS).unwrap_or(u32::MAX);
        let attributes = FileAttributes { atime: atime.or(Some(mtime)), mtime: Some(mtime), ..nothing() };
        self.change(path, |session| async move { session.sftp.setstat(at, attributes).await }).await.map(drop)
    }

    async fn set_mode(&self, path: &str, mode: u32) -> Result<()> {
        let at = self.at(path);
        let attributes = FileAttributes { permissions: Some(mode), ..nothing() };
        self.change(path, |session| async move { session.sftp.setstat(at, attributes).await }).await.map(drop)
    }
}
