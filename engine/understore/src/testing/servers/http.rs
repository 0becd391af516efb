//! The simplest HTTP client: a connection for each request.

use std::io;

use bytes::Bytes;
use http::{Request, Response, Uri, header::HOST};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::{Body, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

const TEXT_BYTES_MAX: usize = 16 << 20;

/// Sends a request to the host and port of its URI.
///
/// # Errors
/// When nobody listens there, or who does speaks no HTTP.
pub(super) async fn send<B>(request: Request<B>) -> io::Result<Response<Incoming>>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let (mut head, body) = request.into_parts();
    let uri = std::mem::take(&mut head.uri);
    let authority = uri.authority().ok_or_else(|| io::Error::other(format!("{uri} names no host")))?;
    let stream = TcpStream::connect(authority.as_str()).await?;
    stream.set_nodelay(true)?;
    if !head.headers.contains_key(HOST) {
        head.headers.insert(HOST, authority.as_str().parse().map_err(io::Error::other)?);
    }
    head.uri = moved(&uri, "")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // It ends with the answer's body, or with its sender.
    tokio::spawn(connection);
    sender.send_request(Request::from_parts(head, body)).await.map_err(io::Error::other)
}

/// What a URI asks for, at another base: a scheme and a host, or neither.
///
/// # Errors
/// When that base makes no URI.
pub(super) fn moved(uri: &Uri, base: &str) -> io::Result<Uri> {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    format!("{base}{target}").parse().map_err(io::Error::other)
}

/// Sends a request with a whole body, and waits for the whole answer.
///
/// # Errors
/// As above, and when the answer is longer than 16 MiB.
pub async fn call(request: Request<Bytes>) -> io::Result<Response<Bytes>> {
    let (head, body) = send(request.map(Full::new)).await?.into_parts();
    let body = Limited::new(body, TEXT_BYTES_MAX).collect().await.map_err(io::Error::other)?.to_bytes();
    Ok(Response::from_parts(head, body))
}

/// Gets a URI, whatever the answer's status.
///
/// # Errors
/// As [`call`].
pub async fn get(uri: &str) -> io::Result<Response<Bytes>> {
    call(Request::get(uri).body(Bytes::new()).map_err(io::Error::other)?).await
}
