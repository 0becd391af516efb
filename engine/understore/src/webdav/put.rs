//! Writing a file: one PUT.
//!
//! A file of up to [`HELD_BYTES_MAX`] is held until it is finished, and sent with its length: not every server takes a body
//! that does not say it, some lock a file for as long as its PUT lasts, and what is held can be sent again. A longer file
//! is sent while it is written.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use http::Method;
use reqwest::Body;
use tokio::{sync::mpsc, task::JoinHandle};

use super::{Webdav, is_done};
use crate::{Error, Result, tree::Sink};

/// Bytes of a file that is held.
const HELD_BYTES_MAX: usize = 16 << 20;
/// Chunks of a longer file that wait to be sent.
const FED_CHUNKS_MAX: usize = 4;

/// A file that is being written. Dropped, it is broken off, and the server does not take what it has for the whole.
pub(super) struct Put {
    webdav: Webdav,
    path: String,
    /// What errors call the file.
    shown: String,
    state: State,
}

enum State {
    Held { chunks: Vec<Bytes>, bytes: usize },
    Sending { feed: mpsc::Sender<Option<Bytes>>, answer: JoinHandle<Result<()>> },
    Ended,
}

impl Put {
    /// A file at `path`, of which nothing is sent yet.
    pub(super) fn new(webdav: Webdav, path: String, shown: String) -> Self {
        Self { webdav, path, shown, state: State::Held { chunks: Vec::new(), bytes: 0 } }
    }

    /// Begins to send what is held, and what will come.
    fn start(&mut self, held: Vec<Bytes>) -> (mpsc::Sender<Option<Bytes>>, JoinHandle<Result<()>>) {
        let (feed, fed) = mpsc::channel(FED_CHUNKS_MAX);
        // The end is said by `None`: a writer that is gone breaks the request off.
        let fed = stream::unfold(Some(fed), |fed| async move {
            let mut fed: mpsc::Receiver<Option<Bytes>> = fed?;
            match fed.recv().await {
                Some(Some(bytes)) => Some((Ok(bytes), Some(fed))),
                Some(None) => None,
                None => Some((Err(std::io::Error::other("the write was given up")), None)),
            }
        });
        let body = Body::wrap_stream(futures::StreamExt::chain(stream::iter(held.into_iter().map(Ok)), fed));
        let (webdav, path, shown) = (self.webdav.clone(), self.path.clone(), self.shown.clone());
        let answer = tokio::spawn(async move {
            let answer = webdav.dav.send(Method::PUT, &path, &[], body).await?;
            if is_done(answer.status()) { Ok(()) } else { Err(webdav.dav.refused(&shown, answer).await) }
        });
        (feed, answer)
    }

    /// Sends a file whole.
    async fn send(&self, chunks: Vec<Bytes>) -> Result<()> {
        let len: usize = chunks.iter().map(Bytes::len).sum();
        let len = len.to_string();
        let headers = [("content-length", len.as_str())];
        let request = || {
            let body = Body::wrap_stream(stream::iter(chunks.clone().into_iter().map(Ok::<_, std::io::Error>)));
            let body = if chunks.is_empty() { Body::default() } else { body };
            self.webdav.dav.send(Method::PUT, &self.path, &headers, body)
        };
        let answer = self.webdav.unlocked(request).await?;
        if is_done(answer.status()) { Ok(()) } else { Err(self.webdav.dav.refused(&self.shown, answer).await) }
    }

    fn ended(&self) -> Error {
        Error::Cancelled { path: self.shown.clone() }
    }
}

#[async_trait]
impl Sink for Put {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        match &mut self.state {
            State::Held { chunks, bytes: held } => {
                *held += bytes.len();
                chunks.push(bytes);
                if *held > HELD_BYTES_MAX {
                    let chunks = std::mem::take(chunks);
                    let (feed, answer) = self.start(chunks);
                    self.state = State::Sending { feed, answer };
                }
                Ok(())
            }
            State::Sending { feed, .. } => {
                if feed.send(Some(bytes)).await.is_ok() {
                    return Ok(());
                }
                // The server has answered before it had everything, or the connection is gone.
                self.finish().await?;
                let source = "the server took a part of the file for the whole".into();
                Err(Error::Store { path: self.shown.clone(), source })
            }
            State::Ended => Err(self.ended()),
        }
    }

    async fn finish(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Held { chunks, .. } => self.send(chunks).await,
            State::Sending { feed, answer } => {
                // If nobody listens any more, the answer says why.
                let _ = feed.send(None).await;
                answer.await.map_err(|_| self.ended())?
            }
            State::Ended => Err(self.ended()),
        }
    }
}

impl Drop for Put {
    fn drop(&mut self) {
        if let State::Sending { answer, .. } = &self.state {
            answer.abort();
        }
    }
}
