//! TLS before a server that speaks none: a proxy that shows a certificate of an authority of its own.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use super::fresh;
use crate::{MountSpec, Secret};

const CONNECTIONS_MAX: usize = 256;
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(20);

/// What the certificate of a server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certified {
    /// That it is 127.0.0.1, today.
    Well,
    /// That it was 127.0.0.1 until yesterday.
    Before,
    /// That it will be 127.0.0.1 in a month.
    Later,
    /// That it is another host.
    ForAnother,
    /// That it is the authority.
    AsAuthority,
}

/// A running proxy; it ends, and with it all its connections, when this goes.
#[derive(Debug)]
pub struct Tls {
    folder: TempDir,
    address: SocketAddr,
    upstream: String,
    _ended: oneshot::Sender<()>,
}

impl Tls {
    /// Starts one before the server at `upstream`, a host and a port, on a thread of its own: the runtime here may be one
    /// test's, and the server several tests'.
    ///
    /// # Errors
    /// Without `openssl` and `faketime`, which make its certificates, a port or a thread.
    pub fn before(upstream: &str, certified: Certified) -> io::Result<Self> {
        let folder = fresh::folder("tls")?;
        let (certificate, key) = certify(folder.path(), certified)?;
        let acceptor = acceptor(&certificate, &key)?;
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (_ended, ended) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let to = upstream.to_owned();
        std::thread::Builder::new().name("tls".into()).spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                tokio::select! {
                    () = serve(listener, acceptor, &to) => {}
                    _ = ended => {}
                }
            });
        })?;
        Ok(Self { folder, address, upstream: upstream.to_owned(), _ended })
    }

    /// Where clients connect to.
    pub fn endpoint(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The file of its authority.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate and its key that a server of another make may show.
    pub fn server_files(&self) -> (PathBuf, PathBuf) {
        (self.folder.path().join("server.pem"), self.folder.path().join("server.key"))
    }

    /// A mount of the server, through here. Nothing is said of whom to trust.
    #[must_use]
    pub fn mount(&self, mut spec: MountSpec) -> MountSpec {
        let (plain, here) = (format!("://{}", self.upstream), format!("://{}", self.address));
        let through = |text: &str| match text.split_once(&plain) {
            // Of `http` and of `webdav` the safe one ends in an s.
            Some((scheme, rest)) => format!("{scheme}s{here}{rest}"),
            None => text.to_owned(),
        };
        spec.uri = through(&spec.uri);
        for value in spec.options.values_mut() {
            *value = Secret::new(through(value.expose()));
        }
        spec
    }
}

/// Makes an authority and a server's certificate; gives the files of what is shown.
fn certify(folder: &Path, certified: Certified) -> io::Result<(PathBuf, PathBuf)> {
    let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let openssl = |clock: &str, arguments: &[&str]| {
        let mut command = Command::new("faketime");
        fresh::made_by(command.args(["-f", clock, "openssl"]).args(arguments).current_dir(folder))
    };
    let (clock, alternative) = match certified {
        Certified::Before => ("-3d", "subjectAltName=IP:127.0.0.1"),
        Certified::Later => ("+30d", "subjectAltName=IP:127.0.0.1"),
        Certified::ForAnother => ("+0d", "subjectAltName=DNS:elsewhere.example"),
        Certified::Well | Certified::AsAuthority => ("+0d", "subjectAltName=IP:127.0.0.1"),
    };
    let authority = ["-subj", "/CN=An authority of tests", "-keyout", "ca.key", "-out", "ca.pem", "-days", "90"];
    openssl("-5d", &[&["req", "-x509", "-addext", alternative], &new_key[..], &authority].concat())?;
    if certified == Certified::AsAuthority {
        return Ok((folder.join("ca.pem"), folder.join("ca.key")));
    }
    let request = ["-subj", "/CN=A server of tests", "-keyout", "server.key", "-out", "server.csr"];
    openssl("+0d", &[&["req", "-addext", alternative], &new_key[..], &request].concat())?;
    let signed = ["x509", "-req", "-in", "server.csr", "-copy_extensions", "copy", "-days", "2", "-out", "server.pem"];
    openssl(clock, &[&signed[..], &["-CA", "ca.pem", "-CAkey", "ca.key"]].concat())?;
    fs::remove_file(folder.join("ca.key"))?;
    Ok((folder.join("server.pem"), folder.join("server.key")))
}

/// Shows a certificate that its own file has, as PEM.
pub(super) fn acceptor(certificate: &Path, key: &Path) -> io::Result<TlsAcceptor> {
    let chain = vec![CertificateDer::from_pem_file(certificate).map_err(io::Error::other)?];
    let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
    Ok(TlsAcceptor::from(Arc::new(config.map_err(io::Error::other)?)))
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, upstream: &str) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                let Ok((stream, _)) = accepted else { return };
                let (acceptor, upstream) = (acceptor.clone(), upstream.to_owned());
                // What a client does not believe, or breaks off, ends its own connection.
                connections.spawn(async move {
                    let mut safe = timeout(HANDSHAKE_PATIENCE, acceptor.accept(stream)).await.ok()?.ok()?;
                    let mut plain = TcpStream::connect(upstream).await.ok()?;
                    copy_bidirectional(&mut safe, &mut plain).await.ok()
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}
