//! `webdav://`, `http://` and `https://` under-stores: folders of web servers.
//!
//! What file systems on a network have in common is in `tree/`; here are the requests of this one. A server that speaks
//! WebDAV is read and written; any other is read only, and has no listings: each file is asked for by its path.
//!
//! - A version is length, modification time in seconds, and the etag, of which some servers make it as fine as their
//!   clock (Apache: microseconds) and some no finer than the time (SeaweedFS). A weak etag is taken for a strong one
//!   of the same text, because Apache has a file's etag weak while the file is young. So conditions of requests are not
//!   used: the etag of each answer is compared here.
//! - A file that cannot be told from the one that it replaces is copied by the server, which gives it a later time.
//! - A rename is MOVE. Servers look just before it whether something is there.
//! - Whether MOVE keeps times and etags, which proves whose write a file is, is tried once, before the first write.
//! - A collection is deleted with all that is in it: that it is empty is looked at just before.
//! - A symbolic link on the server is what the server makes of it.
//!
//! `connect.rs` reads URI and options; `http.rs` sends requests; `propfind.rs` reads what is said of files; `put.rs`
//! writes them.

mod connect;
mod http;
mod propfind;
mod put;

use std::{sync::Arc, time::Duration};

use ::http::{
    HeaderMap, Method, StatusCode,
    header::{CONTENT_RANGE, ETAG, LAST_MODIFIED},
};
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use reqwest::{Body, Response};
use tokio::sync::OnceCell;

pub(crate) use self::connect::{ALIASES, open, translate};
use self::{
    http::Http,
    propfind::{Answer, Found, strong},
};
use crate::{
    Error, Result,
    path::STAGING,
    store::Compares,
    tree::{Chunks, Listing, Node, Protocol, Rules, Sink, Span, What},
    web::header_of,
};

/// How often a request about something locked is sent again, and the first pause before it.
const LOCKED_RETRIES_MAX: u32 = 6;
const LOCKED_PAUSE_FIRST: Duration = Duration::from_millis(50);
/// A server's clock that tells seconds has ticked after it.
const TICK: Duration = Duration::from_millis(1100);
/// What the file is called that a file is copied to for a later time, behind the file's own name.
const COPY_SUFFIX: &str = ".copy";

/// A folder of a web server. Clones are the same.
#[derive(Clone)]
struct Webdav {
    /// For WebDAV, which is never redirected.
    dav: Arc<Http>,
    /// For servers that do not speak it; none where the URI says that it does.
    plain: Option<Arc<Http>>,
    /// Which of the two it is.
    is_dav: Arc<OnceCell<bool>>,
    /// Whether MOVE keeps etags.
    keeps_tags: Arc<OnceCell<bool>>,
}

impl Webdav {
    fn new(dav: Http, plain: Option<Http>) -> Self {
        let is_dav = if plain.is_some() { OnceCell::new() } else { OnceCell::new_with(Some(true)) };
        Self { dav: Arc::new(dav), plain: plain.map(Arc::new), is_dav: Arc::new(is_dav), keeps_tags: Arc::default() }
    }

    /// Whether the server speaks WebDAV; asked for once.
    async fn is_dav(&self) -> Result<bool> {
        let ask = || async {
            let answer = self.find("", "0").await?;
            match answer.status().as_u16() {
                207 => Ok(true),
                // Whatever it speaks, it says no more than this yet.
                401 | 429 | 500 | 502.. => Err(self.dav.refused("", answer).await),
                // A server that does not know the word says so; one that does may have nothing there.
                400 | 404 => Ok(!self.dav.send(Method::HEAD, "", &[], Body::default()).await?.status().is_success()),
                _ => Ok(false),
            }
        };
        self.is_dav.get_or_try_init(ask).await.copied()
    }

    /// The way to a server that is only read; `None` if it speaks WebDAV.
    async fn plain(&self) -> Result<Option<&Http>> {
        Ok(if self.is_dav().await? { None } else { self.plain.as_deref() })
    }

    async fn need_dav(&self, operation: &'static str) -> Result<()> {
        match self.plain().await? {
            None => Ok(()),
            Some(http) => Err(Error::NotSupported { store: http.endpoint().to_owned(), operation }),
        }
    }

    async fn find(&self, path: &str, depth: &str) -> Result<Response> {
        let headers = [("depth", depth), ("content-type", "application/xml; charset=utf-8")];
        let method = Method::from_bytes(b"PROPFIND").expect("it is a method's name");
        self.dav.send(method, path, &headers, Body::from(propfind::BODY)).await
    }

    /// Sends a request of WebDAV that changes something; what the server does about it is in its status.
    async fn change(&self, method: &'static str, path: &str, headers: &[(&'static str, &str)]) -> Result<Response> {
        self.need_dav("take writes: it is a web server that speaks no WebDAV").await?;
        let method = Method::from_bytes(method.as_bytes()).expect("it is a method's name");
        self.unlocked(|| self.dav.send(method.clone(), path, headers, Body::default())).await
    }

    /// Sends a request, and sends it again while the server has locked what it is about: some do so for the time of every
    /// other request about the same file.
    async fn unlocked<F: Future<Output = Result<Response>>>(&self, request: impl Fn() -> F) -> Result<Response> {
        let mut pause = LOCKED_PAUSE_FIRST;
        for _ in 0..LOCKED_RETRIES_MAX {
            let answer = request().await?;
            if answer.status() != StatusCode::LOCKED {
                return Ok(answer);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        request().await
    }

    /// Moves or copies a file or directory.
    async fn transfer(&self, method: &'static str, from: &str, to: &str, replace: bool) -> Result<()> {
        let to_url = self.dav.url(to);
        let headers = [("destination", to_url.as_str()), ("overwrite", if replace { "T" } else { "F" })];
        let answer = self.change(method, from, &headers).await?;
        match answer.status() {
            status if is_done(status) => Ok(()),
            StatusCode::PRECONDITION_FAILED if !replace => Err(Error::AlreadyExists { path: to.to_owned() }),
            // Its directory is missing, or the source is.
            StatusCode::CONFLICT => Err(Error::NotFound { path: to.to_owned() }),
            _ => Err(self.dav.refused(to, answer).await),
        }
    }

    async fn delete(&self, path: &str) -> Result<()> {
        let answer = self.change("DELETE", path, &[]).await?;
        if is_done(answer.status()) { Ok(()) } else { Err(self.dav.refused(path, answer).await) }
    }

    /// Tries what MOVE does to a file.
    async fn try_move(&self) -> Result<bool> {
        let unique =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let from = format!("{STAGING}/trial-{}-{unique}", std::process::id());
        let to = format!("{from}{COPY_SUFFIX}");
        let answer = self.dav.send(Method::PUT, &from, &[], Body::from("x")).await?;
        if !is_done(answer.status()) {
            return Err(self.dav.refused(&from, answer).await);
        }
        let before = self.stat(&from).await?;
        tokio::time::sleep(TICK).await;
        self.transfer("MOVE", &from, &to, true).await?;
        let after = self.stat(&to).await?;
        self.delete(&to).await?;
        if after.mtime_ns != before.mtime_ns || before.mtime_ns == 0 {
            let operation =
                "take writes: it changes the time of a file that is moved, so nobody could tell whose it is";
            return Err(Error::NotSupported { store: self.dav.endpoint().to_owned(), operation });
        }
        Ok(after.tag == before.tag)
    }

    /// What lies at one path.
    async fn found(&self, path: &str) -> Result<Node> {
        let answer = self.find(path, "0").await?;
        match answer.status() {
            StatusCode::MULTI_STATUS => {}
            // That is how Apache answers below a file; the mounted folder is asked for by a name with a slash.
            StatusCode::BAD_REQUEST if path.is_empty() => {
                return Err(Error::NotAFolder { path: self.dav.endpoint().to_owned() });
            }
            StatusCode::BAD_REQUEST if self.is_below_a_file(path).await? => {
                return Err(Error::NotFound { path: path.to_owned() });
            }
            _ => return Err(self.dav.refused(path, answer).await),
        }
        let mut names = self.names(answer, path);
        let found = names.try_next().await?;
        found.map(|found| found.node).ok_or_else(|| Error::NotFound { path: path.to_owned() })
    }

    async fn is_below_a_file(&self, path: &str) -> Result<bool> {
        let mut above = path;
        while let Some((parent, _)) = above.rsplit_once('/') {
            above = parent;
            let answer = self.find(above, "0").await?;
            if answer.status() == StatusCode::MULTI_STATUS {
                let found = self.names(answer, above).try_next().await?;
                return Ok(found.is_some_and(|found| found.node.is_file()));
            }
        }
        Ok(false)
    }

    /// What an answer says, as it comes.
    fn names(&self, answer: Response, path: &str) -> stream::BoxStream<'static, Result<Found>> {
        let (endpoint, path) = (self.dav.endpoint().to_owned(), path.to_owned());
        let bad = move |path: &str, reason: String| Error::Store {
            path: path.to_owned(),
            source: format!("the server's answer to PROPFIND cannot be read: {reason}").into(),
        };
        let state = (answer.bytes_stream().boxed(), Answer::default(), endpoint, path, bad);
        stream::try_unfold(state, |(mut chunks, mut answer, endpoint, path, bad)| async move {
            loop {
                if let Some(found) = answer.next().map_err(|reason| bad(&path, reason))? {
                    return Ok(Some((found, (chunks, answer, endpoint, path, bad))));
                }
                match chunks.next().await {
                    Some(Ok(bytes)) => answer.push(&bytes),
                    Some(Err(error)) => return Err(http::lost(&endpoint, &path, error)),
                    None if answer.is_over() => return Ok(None),
                    None => return Err(bad(&path, "it ends in the middle".to_owned())),
                }
            }
        })
        .boxed()
    }

    async fn list_all(&self, dir: &str) -> Result<Listing> {
        self.need_dav("list a folder: it is a web server that speaks no WebDAV, so name files by their paths").await?;
        let answer = self.find(dir, "1").await?;
        if answer.status() != StatusCode::MULTI_STATUS {
            return Err(self.dav.refused(dir, answer).await);
        }
        let (here, dir) = (self.dav.url_path(dir), dir.to_owned());
        let names = self.names(answer, &dir).try_filter_map(move |found| {
            let listed = match (found.is_at(&here), found.node.what) {
                (true, What::Dir) => Ok(None),
                // A file is listed as itself.
                (true, _) => Err(Error::NotADirectory { path: dir.clone() }),
                (false, _) => Ok(Some((found.name(), found.node))),
            };
            std::future::ready(listed)
        });
        Ok(names.boxed())
    }
}

#[async_trait]
impl Protocol for Webdav {
    fn endpoint(&self) -> &str {
        self.dav.endpoint()
    }

    fn rules(&self) -> Rules {
        let is_only_read = self.is_dav.get() == Some(&false);
        Rules {
            writes: !is_only_read,
            lists: !is_only_read,
            create_only: Compares::JustBefore,
            mtime_step_ns: None,
            keeps_tags: self.keeps_tags.get().copied().unwrap_or(false),
            refuses_full: false,
            refused_characters: "",
        }
    }

    async fn stat(&self, path: &str) -> Result<Node> {
        match self.plain().await? {
            None => self.found(path).await,
            Some(http) => plain_stat(http, path).await,
        }
    }

    fn list(&self, dir: &str) -> Listing {
        let (this, dir) = (self.clone(), dir.to_owned());
        stream::once(async move { this.list_all(&dir).await }).try_flatten().boxed()
    }

    async fn read(&self, path: &str, span: Span<'_>) -> Result<Chunks> {
        let http = self.plain().await?.unwrap_or(&self.dav);
        let end = span.offset + span.len;
        let range = format!("bytes={}-{}", span.offset, end - 1);
        // What a server compresses on the way has other ranges.
        let headers = [("range", range.as_str()), ("accept-encoding", "identity")];
        let answer = http.send(Method::GET, path, &headers, Body::default()).await?;
        let total = match answer.status() {
            StatusCode::PARTIAL_CONTENT => {
                let (begin, total) = content_range(answer.headers()).ok_or_else(|| Error::Store {
                    path: path.to_owned(),
                    source: "the server does not say which part of the file it sends".into(),
                })?;
                if begin != span.offset {
                    return Err(Error::WrongLength { path: path.to_owned(), expected: span.len, got: 0 });
                }
                total
            }
            // The whole of it, to a server that knows no ranges.
            StatusCode::OK if span.offset == 0 => answer.content_length(),
            StatusCode::OK => {
                let operation = "send a part of a file: it is a web server without ranges";
                return Err(Error::NotSupported { store: http.endpoint().to_owned(), operation });
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(Error::WrongLength { path: path.to_owned(), expected: span.len, got: 0 });
            }
            _ => return Err(http.refused(path, answer).await),
        };
        let tag = header_of(answer.headers(), ETAG.as_str()).map(strong);
        let is_another = total.is_some_and(|total| total != span.version.len)
            || tag.is_some_and(|tag| !span.version.tag.is_empty() && tag != span.version.tag);
        if is_another {
            return Err(Error::VersionChanged { path: path.to_owned() });
        }
        let (endpoint, path) = (http.endpoint().to_owned(), path.to_owned());
        let chunks = answer.bytes_stream().map(move |chunk| chunk.map_err(|error| http::lost(&endpoint, &path, error)));
        Ok(first(chunks.boxed(), span.len))
    }

    async fn create(&self, path: &str, shown: &str) -> Result<Box<dyn Sink>> {
        self.need_dav("take writes: it is a web server that speaks no WebDAV").await?;
        // Not every server refuses to put a file into no directory, or over another file.
        match self.found(path.rsplit_once('/').map_or("", |(parent, _)| parent)).await?.what {
            What::Dir => {}
            _ => return Err(Error::NotADirectory { path: path.to_owned() }),
        }
        self.keeps_tags.get_or_try_init(|| self.try_move()).await?;
        let (path, shown) = (path.to_owned(), shown.to_owned());
        Ok(Box::new(put::Put::new(self.clone(), path, shown)))
    }

    async fn mkdir(&self, path: &str, _is_private: bool) -> Result<()> {
        let answer = self.change("MKCOL", path, &[]).await?;
        match answer.status() {
            status if is_done(status) => Ok(()),
            StatusCode::METHOD_NOT_ALLOWED => Err(Error::AlreadyExists { path: path.to_owned() }),
            StatusCode::CONFLICT => Err(Error::NotFound { path: path.to_owned() }),
            _ => Err(self.dav.refused(path, answer).await),
        }
    }

    async fn rename(&self, from: &str, to: &str, replace: bool) -> Result<()> {
        self.transfer("MOVE", from, to, replace).await
    }

    async fn delete_file(&self, path: &str) -> Result<()> {
        self.delete(path).await
    }

    async fn delete_dir(&self, path: &str) -> Result<()> {
        self.delete(path).await
    }

    async fn delete_tree(&self, path: &str) -> Result<bool> {
        let answer = self.change("DELETE", path, &[]).await?;
        match answer.status() {
            // Some of it could not be deleted, or none, as long as there is anything in it; deleted one by one, each says
            // why.
            StatusCode::MULTI_STATUS | StatusCode::METHOD_NOT_ALLOWED => Ok(false),
            status if is_done(status) => Ok(true),
            _ => Err(self.dav.refused(path, answer).await),
        }
    }

    async fn renew(&self, path: &str) -> Result<bool> {
        let copy = format!("{path}{COPY_SUFFIX}");
        tokio::time::sleep(TICK).await;
        self.transfer("COPY", path, &copy, true).await?;
        self.transfer("MOVE", &copy, path, true).await?;
        Ok(true)
    }
}

/// What a server that is only read says of a path.
async fn plain_stat(http: &Http, path: &str) -> Result<Node> {
    let answer = http.send(Method::HEAD, path, &[], Body::default()).await?;
    if path.is_empty() {
        // Whatever it shows there, files may lie below.
        return match answer.status().as_u16() {
            401 | 500.. => Err(http.refused(path, answer).await),
            _ => Ok(Node::dir(0)),
        };
    }
    if !answer.status().is_success() {
        return Err(http.refused(path, answer).await);
    }
    if answer.url().path().ends_with('/') {
        return Ok(Node::dir(0));
    }
    let headers = answer.headers();
    // A client counts what it gets, which for HEAD is nothing.
    let Some(len) = header_of(headers, "content-length").and_then(|len| len.parse().ok()) else {
        return Ok(Node { what: What::Other("a page without a length"), ..Node::dir(0) });
    };
    let tag = strong(header_of(headers, ETAG.as_str()).unwrap_or_default()).to_owned();
    let mtime_ns = header_of(headers, LAST_MODIFIED.as_str()).map_or(0, time_ns);
    if tag.is_empty() && mtime_ns == 0 {
        return Ok(Node {
            what: What::Other("a page of which the server tells neither time nor etag"),
            ..Node::dir(0)
        });
    }
    Ok(Node { what: What::File, len, mtime_ns, tag, mode: None })
}

/// Whether something was done; not if a part of it was not.
fn is_done(status: StatusCode) -> bool {
    status.is_success() && status != StatusCode::MULTI_STATUS
}

/// The beginning of a stream: a server without ranges sends more than was wanted.
fn first(chunks: Chunks, len: u64) -> Chunks {
    let state = (chunks, len);
    stream::try_unfold(state, |(mut chunks, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let Some(mut chunk) = chunks.try_next().await? else { return Ok(None) };
        chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        let left = left - chunk.len() as u64;
        Ok(Some((chunk, (chunks, left))))
    })
    .boxed()
}

/// Where the part that is sent begins, and how long the whole is.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let (range, total) = header_of(headers, CONTENT_RANGE.as_str())?.strip_prefix("bytes ")?.split_once('/')?;
    let (begin, _) = range.split_once('-')?;
    Some((begin.trim().parse().ok()?, total.trim().parse().ok()))
}

/// Nanoseconds since 1970 of a time as HTTP writes it; zero if it is none.
fn time_ns(text: &str) -> i64 {
    let time = chrono::DateTime::parse_from_rfc2822(text);
    time.map_or(0, |time| time.timestamp().saturating_mul(1_000_000_000))
}

#[cfg(test)]
mod tests;
