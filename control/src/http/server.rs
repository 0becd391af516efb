//! The accept loop and the routes.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use citius_wire::Token;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::visitor::Hall;
use super::{CONNECTION_PATIENCE, HEAD_BYTES_MAX, HEADER_PATIENCE, guard, metrics, status};
use crate::service::Service;

/// How long the acceptor waits after an error that only time cures.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the routes know.
pub(crate) struct Site {
    pub(crate) service: Arc<Service>,
    pub(crate) token: Token,
    /// Names, beside addresses and `localhost`, that this server is called by.
    pub(crate) hosts: Vec<String>,
    /// Connections that have shown the token at a time; the next one is told so.
    pub(crate) connections_max: usize,
    /// Others at a time; the oldest is closed for the next one.
    pub(crate) greetings_max: usize,
}

/// The server; it runs on the master's runtime and ends when told to by `stop`.
pub(crate) struct HttpServer {
    accepting: tokio::task::JoinHandle<()>,
}

impl HttpServer {
    /// Serves `listener`.
    ///
    /// # Errors
    /// What the system says about the listener.
    pub(crate) fn start(
        listener: TcpListener,
        site: Site,
        runtime: &Handle,
        mut stop: watch::Receiver<bool>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let _entered = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let site = Arc::new(site);
        let hall = Hall::new(Arc::clone(&site), router(site));
        let accepting = runtime.spawn(async move {
            tokio::select! {
                () = accept(listener, hall) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        });
        Ok(Self { accepting })
    }

    /// Waits until nothing more is accepted.
    pub(crate) async fn join(self) {
        // An error is a panic, which the panic hook has reported.
        drop(self.accepting.await);
    }
}

fn router(site: Arc<Site>) -> Router {
    let guarded = Router::new()
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
        .route("/api/v1/status", get(status_json))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&site), guard::token));
    Router::new()
        .route("/healthz", get(healthy))
        .merge(guarded)
        .fallback(async || {
            guard::refusal(StatusCode::NOT_FOUND, "no such page: try /healthz, /readyz, /metrics or /api/v1/status")
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&site), guard::host))
        .with_state(site)
}

/// Tells without a token whether this master works, and what is wrong; not where it keeps what, as failures do.
async fn healthy(State(site): State<Arc<Site>>) -> Response {
    let Err(failure) = site.service.check_lease() else { return "ok\n".into_response() };
    let words = match site.service.raft.stopped_by() {
        Some(why) => format!("the log stopped: {why}. Free space or repair the disk, then restart the master"),
        None => failure.message,
    };
    guard::refusal(StatusCode::SERVICE_UNAVAILABLE, &words)
}

async fn ready(State(site): State<Arc<Site>>) -> Response {
    match site.service.check_lease() {
        Ok(()) => "ready\n".into_response(),
        Err(failure) => guard::refusal(StatusCode::SERVICE_UNAVAILABLE, &failure.message),
    }
}

async fn metrics_text(State(site): State<Arc<Site>>) -> Response {
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (content_type, metrics::text(&site.service)).into_response()
}

async fn status_json(State(site): State<Arc<Site>>) -> Response {
    axum::Json(status::json(&site.service.cluster_info())).into_response()
}

async fn accept(listener: tokio::net::TcpListener, hall: Arc<Hall>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "an HTTP connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (visitor, leaves) = hall.enter();
        let service = service_fn(move |request| Arc::clone(&visitor).answer(request));
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_PATIENCE)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                served = tokio::time::timeout(CONNECTION_PATIENCE, connection) => {
                    if let Ok(Err(error)) = served {
                        tracing::debug!(%error, "an HTTP connection broke");
                    }
                }
                () = leaves => tracing::debug!("an HTTP connection without the token made room for another"),
            }
        });
    }
}
