//! `opendal+SERVICE://` under-stores: what else OpenDAL speaks, through the crate `opendal`, to be read.
//!
//! What file systems on a network have in common is in `tree/`; here are the calls of this one, whichever service it is.
//! They are few, because a mount of this kind is read only:
//!
//! - What Citius publishes must appear in one step, and be known again after a crash. A rename of
//!   OpenDAL's may be one that deletes first and moves then (Google Drive, Koofr); none tells whether something
//!   is at its target, a deletion succeeds where nothing is, and an upload under way has no name by which another process
//!   could end it. Writers of many services hold a file in memory until it is whole.
//! - A version is length, modification time, and the etag, else the version, else the digest that a service tells. A file
//!   of which it tells nothing but a length cannot be told from its next version, and is refused by name. Times are as
//!   fine as the service tells them: what is written within one step of them, of equal length, is not seen.
//! - OpenDAL makes the folder that it is given as its root, if there is none; so its root is the service's own, and the mounted
//!   folder is part of every path. It also cuts white space off the end of a path: a file whose name ends in it is
//!   refused.
//! - A directory is asked for with a slash at its end where nothing is found without.
//! - Listings hold the directory itself, and of one that is not there nothing: that is looked at before.
//! - What a service says goes through [`Dal::said`], which takes the values of hidden options out of it: services put
//!   tokens into their URLs.
//!
//! `connect.rs` reads URI and options; `services.rs` is the table of services.

mod connect;
mod services;

use std::{error::Error as _, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use opendal::{EntryMode, ErrorKind, Metadata, Operator};

pub(crate) use self::connect::{SCHEME, open};
use self::services::Listed;
use crate::{
    Error, Result, Secret,
    store::Compares,
    tree::{ADVICE_UNREACHABLE, Chunks, Listing, Node, Protocol, Rules, Sink, Span, What},
    web::advice_of_tls,
};

/// Files of a listing that are asked for at once, where the listing tells only names.
const ASKED_MAX: usize = 16;
/// What is said of a change, which the mount has refused before it comes here.
const ONLY_READ: &str = "take writes: what is reached through OpenDAL is only read";
const ADVICE_WRONG_KEYS: &str = "check the service's options: user, password, token or key";

/// A folder of a service. Clones are the same.
#[derive(Clone)]
struct Dal {
    operator: Operator,
    listed: Listed,
    /// What errors call the service.
    endpoint: String,
    /// The mounted folder, without a slash at either end.
    root: String,
    /// Values that must never be shown.
    hidden: Arc<[Secret]>,
}

impl Dal {
    /// A path as the service has it. The slash before it keeps white space after it from being cut off.
    fn at(&self, path: &str) -> String {
        match (self.root.as_str(), path) {
            ("", path) => format!("/{path}"),
            (root, "") => format!("/{root}"),
            (root, path) => format!("/{root}/{path}"),
        }
    }

    async fn node(&self, path: &str) -> Result<Node> {
        let at = self.at(path);
        if at == "/" {
            return Ok(Node::dir(0));
        }
        if ends_in_space(&at) {
            let node = self.operator.stat(&format!("{at}/")).await.map_err(|error| self.failed(path, &error))?;
            let node = node_of(&node);
            return Ok(if node.what == What::Dir { node } else { unnameable() });
        }
        let found = match self.operator.stat(&at).await {
            Err(error) if error.kind() == ErrorKind::NotFound => self.operator.stat(&format!("{at}/")).await,
            other => other,
        };
        match found {
            Ok(metadata) => Ok(node_of(&metadata)),
            Err(error) => Err(self.failed(path, &error)),
        }
    }

    async fn list_all(&self, dir: &str) -> Result<Listing> {
        match self.node(dir).await?.what {
            What::Dir => {}
            _ => return Err(Error::NotADirectory { path: dir.to_owned() }),
        }
        let at = self.at(dir);
        let at = if at.ends_with('/') { at } else { format!("{at}/") };
        let lister = self.operator.lister(&at).await.map_err(|error| self.failed(dir, &error))?;
        let (this, dir) = (self.clone(), dir.to_owned());
        let here = at.trim_start_matches('/').to_owned();
        let entries = lister.try_filter(move |entry| {
            let path = entry.path().trim_start_matches('/');
            std::future::ready(!path.is_empty() && path != here)
        });
        let nodes = entries.map(move |entry| {
            let (this, dir) = (this.clone(), dir.clone());
            async move {
                let entry = entry.map_err(|error| this.failed(&dir, &error))?;
                let name = entry.name().trim_end_matches('/').to_owned();
                let metadata = entry.metadata();
                let node = match (metadata.mode(), this.listed) {
                    (EntryMode::FILE, _) if ends_in_space(&name) => unnameable(),
                    (EntryMode::FILE, Listed::Names) => {
                        let path = if dir.is_empty() { name.clone() } else { format!("{dir}/{name}") };
                        match this.node(&path).await {
                            // It was deleted since.
                            Err(Error::NotFound { .. }) => return Ok(None),
                            other => other?,
                        }
                    }
                    _ => node_of(metadata),
                };
                Ok(Some((Ok(name), node)))
            }
        });
        Ok(nodes.buffered(ASKED_MAX).try_filter_map(|found| std::future::ready(Ok(found))).boxed())
    }

    /// The error that OpenDAL means.
    fn failed(&self, path: &str, error: &opendal::Error) -> Error {
        let (shown, reason) = (path.to_owned(), self.said(error));
        match error.kind() {
            ErrorKind::NotFound => Error::NotFound { path: shown },
            _ if is_below_a_file(error) => Error::NotFound { path: shown },
            ErrorKind::PermissionDenied => Error::PermissionDenied { path: shown, reason },
            ErrorKind::NotADirectory => Error::NotADirectory { path: shown },
            ErrorKind::IsADirectory => Error::IsADirectory { path: shown },
            ErrorKind::ConditionNotMatch => Error::VersionChanged { path: shown },
            ErrorKind::ConfigInvalid => {
                Error::WrongKeys { endpoint: self.endpoint.clone(), reason, advice: ADVICE_WRONG_KEYS }
            }
            _ if is_unreachable(error) => {
                let endpoint = self.endpoint.clone();
                match advice_of_tls(&reason) {
                    Some(advice) => Error::Untrusted { endpoint, reason, advice },
                    None => Error::Unreachable { endpoint, reason, advice: ADVICE_UNREACHABLE },
                }
            }
            _ => Error::Store { path: shown, source: reason.into() },
        }
    }

    /// What OpenDAL says of an error, without what must not be shown. Its context has URLs, and is left out whole.
    fn said(&self, error: &opendal::Error) -> String {
        let mut said = error.message().to_owned();
        for cause in causes(error) {
            // One of these names the URL; what it is about comes below it.
            if cause.downcast_ref::<reqwest::Error>().is_none() {
                let text = cause.to_string();
                if !said.contains(&text) {
                    said = format!("{said}: {text}");
                }
            }
        }
        self.hidden.iter().fold(said, |said, secret| said.replace(secret.expose(), "***"))
    }
}

/// OpenDAL would ask for another.
fn ends_in_space(path: &str) -> bool {
    path.ends_with(char::is_whitespace)
}

fn unnameable() -> Node {
    let what = What::Other("a file whose name ends in white space, which OpenDAL cannot ask for");
    Node { what, ..Node::dir(0) }
}

fn causes(error: &opendal::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |&cause| cause.source())
}

/// Whether something was asked for under a path that is a file.
fn is_below_a_file(error: &opendal::Error) -> bool {
    let mut kinds = causes(error).filter_map(|cause| Some(cause.downcast_ref::<std::io::Error>()?.kind()));
    kinds.any(|kind| kind == std::io::ErrorKind::NotADirectory)
}

/// Whether a server was not reached, as far as the causes say.
fn is_unreachable(error: &opendal::Error) -> bool {
    let mut next = error.source();
    while let Some(cause) = next {
        if cause.downcast_ref::<std::io::Error>().is_some()
            || cause.downcast_ref::<reqwest::Error>().is_some_and(|error| error.is_connect() || error.is_timeout())
        {
            return true;
        }
        next = cause.source();
    }
    error.is_temporary()
}

fn node_of(metadata: &Metadata) -> Node {
    let mtime_ns = metadata.last_modified().map_or(0, |time| time.into_inner().as_nanosecond());
    let mtime_ns = i64::try_from(mtime_ns).unwrap_or(0);
    let tag = metadata.etag().map(strong).or(metadata.version()).or(metadata.content_md5()).unwrap_or_default();
    let what = match metadata.mode() {
        EntryMode::DIR => return Node::dir(mtime_ns),
        EntryMode::FILE if mtime_ns == 0 && tag.is_empty() => {
            What::Other("a file of which the service tells neither time nor version")
        }
        EntryMode::FILE => What::File,
        EntryMode::Unknown => What::Other("neither a file nor a directory"),
    };
    let len = if what == What::File { metadata.content_length() } else { 0 };
    Node { what, len, mtime_ns, tag: tag.to_owned(), mode: None }
}

/// An etag without the mark of a weak one: a server may take it off when a file is older.
fn strong(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag)
}

#[async_trait]
impl Protocol for Dal {
    fn endpoint(&self) -> &str {
        &self.endpoint
    }

    fn rules(&self) -> Rules {
        Rules {
            writes: false,
            lists: true,
            create_only: Compares::JustBefore,
            mtime_step_ns: None,
            keeps_tags: false,
            refuses_full: false,
            refused_characters: "",
        }
    }

    async fn stat(&self, path: &str) -> Result<Node> {
        self.node(path).await
    }

    fn list(&self, dir: &str) -> Listing {
        let (this, dir) = (self.clone(), dir.to_owned());
        stream::once(async move { this.list_all(&dir).await }).try_flatten().boxed()
    }

    async fn read(&self, path: &str, span: Span<'_>) -> Result<Chunks> {
        let at = self.at(path);
        if ends_in_space(&at) {
            return Err(Error::NotFound { path: path.to_owned() });
        }
        let reader = self.operator.reader(&at).await.map_err(|error| self.failed(path, &error))?;
        let chunks = reader.into_stream(span.offset..span.offset + span.len).await;
        let chunks = chunks.map_err(|error| self.failed(path, &error))?;
        let (this, path) = (self.clone(), path.to_owned());
        let chunks = chunks.map(move |chunk| chunk.map_err(|error| this.failed(&path, &error)));
        Ok(chunks.map_ok(|buffer| stream::iter(Iterator::map(buffer, Ok))).try_flatten().boxed())
    }

    async fn create(&self, _path: &str, _shown: &str) -> Result<Box<dyn Sink>> {
        Err(self.only_read())
    }

    async fn mkdir(&self, _path: &str, _is_private: bool) -> Result<()> {
        Err(self.only_read())
    }

    async fn rename(&self, _from: &str, _to: &str, _replace: bool) -> Result<()> {
        Err(self.only_read())
    }

    async fn delete_file(&self, _path: &str) -> Result<()> {
        Err(self.only_read())
    }

    async fn delete_dir(&self, _path: &str) -> Result<()> {
        Err(self.only_read())
    }
}

impl Dal {
    fn only_read(&self) -> Error {
        Error::NotSupported { store: self.endpoint.clone(), operation: ONLY_READ }
    }
}
