//! An HTTP server of the test's own, for what no server can be had for.

use std::{convert::Infallible, io, net::SocketAddr};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::oneshot, task::JoinSet};

const CONNECTIONS_MAX: usize = 256;

/// What is answered.
pub(super) type Body = BoxBody<Bytes, hyper::Error>;

/// A body that is here whole.
pub(super) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A running server; it ends, and with it all its connections, when this goes.
#[derive(Debug)]
pub(super) struct Answering {
    pub(super) address: SocketAddr,
    _ended: oneshot::Sender<()>,
}

impl Answering {
    /// Answers at a free port, on a thread of its own: the runtime here may be one test's, and the server several tests'.
    ///
    /// # Errors
    /// Without a port or a thread.
    pub(super) fn start<H, A>(answer: H) -> io::Result<Self>
    where
        H: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (_ended, ended) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("answering".into()).spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                tokio::select! {
                    () = serve(listener, answer) => {}
                    _ = ended => {}
                }
            });
        })?;
        Ok(Self { address, _ended })
    }
}

async fn serve<H, A>(listener: TcpListener, answer: H)
where
    H: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Response<Body>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                let Ok((stream, _)) = accepted else { return };
                let answer = answer.clone();
                let service = service_fn(move |request| {
                    let answered = answer(request);
                    async move { Ok::<_, Infallible>(answered.await) }
                });
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}
