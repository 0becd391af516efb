//! An HTTP server of the test's own, for what no server can be had for.

use std::{
    error::Error,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::oneshot, task::JoinSet};

const CONNECTIONS_MAX: usize = 256;

/// What is answered. An error in it breaks the connection off.
pub(super) type Body = BoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// A body that is here whole.
pub(super) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// The body of another server's answer, or of a request to one.
pub(super) fn passed(body: Incoming) -> Body {
    body.map_err(Into::into).boxed()
}

/// An answer with this status.
pub(super) fn said(status: StatusCode, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(whole(bytes));
    *response.status_mut() = status;
    response
}

/// A refusal, as S3 and its like word it.
pub(super) fn refused(status: StatusCode, code: &str, text: &str) -> Response<Body> {
    said(status, format!("<Error><Code>{code}</Code><Message>{text}</Message></Error>"))
}

/// That the server behind a proxy gave no answer.
pub(super) fn away(error: &io::Error) -> Response<Body> {
    said(StatusCode::BAD_GATEWAY, error.to_string())
}

/// A running server; it ends, and with it all its connections, when this goes.
#[derive(Debug)]
pub(super) struct Answering {
    pub(super) address: SocketAddr,
    connections: Arc<AtomicU64>,
    _ended: oneshot::Sender<()>,
}

impl Answering {
    /// Answers at a free port, on a thread of its own: the runtime here may be one test's, and the server several tests'.
    /// Who answers with `None` breaks the connection off.
    ///
    /// # Errors
    /// Without a port or a thread.
    pub(super) fn start<H, A>(answer: H) -> io::Result<Self>
    where
        H: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
        A: Future<Output: Into<Option<Response<Body>>>> + Send + 'static,
    {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (_ended, ended) = oneshot::channel::<()>();
        let connections = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&connections);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("answering".into()).spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                tokio::select! {
                    () = serve(listener, &count, answer) => {}
                    _ = ended => {}
                }
            });
        })?;
        Ok(Self { address, connections, _ended })
    }

    /// Connections that were accepted so far.
    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }
}

async fn serve<H, A>(listener: TcpListener, count: &AtomicU64, answer: H)
where
    H: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output: Into<Option<Response<Body>>>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                let Ok((stream, _)) = accepted else { return };
                count.fetch_add(1, Relaxed);
                let answer = answer.clone();
                let service = service_fn(move |request| {
                    let answered = answer(request);
                    async move { answered.await.into().ok_or("it is broken off") }
                });
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades());
            }
            Some(_) = connections.join_next() => {}
        }
    }
}
