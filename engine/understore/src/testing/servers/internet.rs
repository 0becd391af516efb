//! Every host there is, as a proxy answers for them: metadata servers at addresses that are nobody's here, and providers
//! of identities whose names no option changes.
//!
//! A mount is sent here by `proxy_url`, and what it asks is seen as it would arrive there: scheme, host, path, body.
//! Tunnels (`CONNECT`) end here as well, in TLS with a certificate that nobody signed, so such a mount needs
//! `allow_invalid_certificates`. Loopback is to be left out, by `proxy_excludes`.

use std::{convert::Infallible, io, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio_rustls::TlsAcceptor;

use super::{
    answering::{Answering, Body, said, whole},
    fresh,
    http::moved,
    tls::acceptor,
};
use crate::MountSpec;

/// Bytes of what is asked.
const BODY_BYTES_MAX: usize = 1 << 20;

/// The answers of all hosts.
#[derive(Debug)]
pub struct Internet {
    proxy: Answering,
}

impl Internet {
    /// Answers whatever is asked, wherever: requests have absolute URIs.
    ///
    /// # Errors
    /// Without a port, a thread or a certificate.
    pub fn start(answer: impl Fn(&Request<String>) -> Response<String> + Send + Sync + 'static) -> io::Result<Self> {
        let hosts = Arc::new(Hosts { answer: Box::new(answer), tls: tls()? });
        let proxy = Answering::start(move |request| {
            let hosts = Arc::clone(&hosts);
            async move { hosts.proxied(request).await }
        })?;
        Ok(Self { proxy })
    }

    /// The mount, sent here for all that is not on this machine.
    pub fn leads(&self, spec: MountSpec) -> MountSpec {
        self.options().into_iter().fold(spec, |spec, (name, value)| spec.option(name, value))
    }

    fn options(&self) -> [(&'static str, String); 3] {
        [
            ("proxy_url", format!("http://{}", self.proxy.address)),
            ("proxy_excludes", "127.0.0.1".to_owned()),
            ("allow_invalid_certificates", "true".to_owned()),
        ]
    }
}

/// What somebody says to a request.
type Says = dyn Fn(&Request<String>) -> Response<String> + Send + Sync;

struct Hosts {
    answer: Box<Says>,
    tls: TlsAcceptor,
}

impl Hosts {
    async fn proxied(self: Arc<Self>, mut request: Request<Incoming>) -> Response<Body> {
        if request.method() != Method::CONNECT {
            let base = request.uri().clone();
            let base =
                format!("{}://{}", base.scheme_str().unwrap_or("http"), base.authority().map_or("", |at| at.as_str()));
            return self.said(&base, request).await;
        }
        let base = request.uri().host().map(|host| format!("https://{host}"));
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(self.tunnel(base.unwrap_or_default(), upgrade));
        Response::new(whole(Bytes::new()))
    }

    /// What ends early is seen by who asked.
    async fn tunnel(self: Arc<Self>, base: String, upgrade: OnUpgrade) {
        let Ok(upgraded) = upgrade.await else { return };
        let Ok(stream) = self.tls.accept(TokioIo::new(upgraded)).await else { return };
        let service = service_fn(|request| {
            let (hosts, base) = (Arc::clone(&self), base.clone());
            async move { Ok::<_, Infallible>(hosts.said(&base, request).await) }
        });
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    async fn said(&self, base: &str, request: Request<Incoming>) -> Response<Body> {
        let (mut head, body) = request.into_parts();
        let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
            return said(StatusCode::PAYLOAD_TOO_LARGE, "");
        };
        let (Ok(uri), Ok(body)) = (moved(&head.uri, base), String::from_utf8(body.to_bytes().into())) else {
            return said(StatusCode::BAD_REQUEST, "");
        };
        head.uri = uri;
        (self.answer)(&Request::from_parts(head, body)).map(whole)
    }
}

/// TLS, with a certificate that nobody signed.
fn tls() -> io::Result<TlsAcceptor> {
    let folder = fresh::folder("internet")?;
    let file = |name| folder.path().join(name).to_string_lossy().into_owned();
    let (key, certificate) = (file("key.pem"), file("certificate.pem"));
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    let files = ["-subj", "/CN=citius-test", "-keyout", &key, "-out", &certificate];
    fresh::openssl(&[&["req", "-x509"][..], &curve, &files].concat())?;
    acceptor(certificate.as_ref(), key.as_ref())
}
