//! One connection: SSH, who logs in and to whom, and the file transfer on it.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use russh::{
    MethodKind, MethodSet,
    client::{self, AuthResult, Handle, KeyboardInteractiveAuthResponse},
    keys::{
        Algorithm, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate,
        agent::{AgentIdentity, client::AgentClient},
        check_known_hosts_path,
        known_hosts::known_host_keys_path,
    },
};
use russh_sftp::{
    client::{Config, RawSftpSession, rawsession::Limits},
    extensions,
};
use tokio::net::TcpStream;

use crate::{Error, Result, Secret, tree::ADVICE_UNREACHABLE};

/// What to do about a user whom the server does not let in.
const ADVICE_WRONG_KEYS: &str = "check the user in the URI, sftp_key_file and sftp_password, or the keys of the agent";
/// How often a server may ask before it lets somebody in whose only answer is a password: once, and to say something.
const DIALOGUE_ROUNDS_MAX: usize = 4;

/// How long the log-in may take, when there is a connection.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long one request may go unanswered.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a silent server is asked whether it is there, and how often it may not answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVES_LOST_MAX: usize = 2;
/// Bytes that the server may send before we have taken any.
const WINDOW_BYTES: u32 = 8 << 20;
/// Bytes of one SSH packet; more is not of the protocol.
const PACKET_BYTES: u32 = 65_535;
/// Bytes of one read or write, where the server does not say what it takes: what every server must.
const TRANSFER_BYTES: u32 = 32 << 10;
/// Where the server takes more, as much as its answer fits our own bound on a packet.
const TRANSFER_BYTES_MAX: u32 = 255 << 10;
pub(super) const POSIX_RENAME: &str = "posix-rename@openssh.com";

/// Where to, as whom, and how the server is known.
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) known_hosts: PathBuf,
    pub(super) keys: Vec<Arc<PrivateKey>>,
    pub(super) password: Option<Secret>,
    /// The socket of an agent that has keys.
    pub(super) agent: Option<PathBuf>,
    /// What errors call the server.
    pub(super) endpoint: String,
    /// What errors call the mount.
    pub(super) uri: String,
    pub(super) connect_timeout: Duration,
}

/// A connection at work.
pub(super) struct Session {
    pub(super) sftp: RawSftpSession,
    ssh: Handle<Host>,
    pub(super) read_bytes: u32,
    pub(super) write_bytes: u32,
    /// Whether a rename can replace what is there, and files can be made safe.
    pub(super) renames_over: bool,
    pub(super) syncs: bool,
}

impl Session {
    /// Whether the connection is gone.
    pub(super) fn is_over(&self) -> bool {
        self.ssh.is_closed()
    }

    /// Connects, looks whether the server is the one that is known, logs in, and begins the file transfer.
    pub(super) async fn open(target: &Arc<Target>) -> Result<Self> {
        let late = |_| target.unreachable(format!("no connection within {:?}", target.connect_timeout));
        let address = (target.host.as_str(), target.port);
        let stream = tokio::time::timeout(target.connect_timeout, TcpStream::connect(address)).await.map_err(late)?;
        let stream = stream.map_err(|error| target.unreachable(error.to_string()))?;
        // An answer is waited for each time.
        stream.set_nodelay(true).map_err(|error| target.unreachable(error.to_string()))?;
        let late = |_| target.unreachable(format!("no log-in within {} s", LOGIN_TIMEOUT.as_secs()));
        tokio::time::timeout(LOGIN_TIMEOUT, Self::begin(target, stream)).await.map_err(late)?
    }

    async fn begin(target: &Arc<Target>, stream: TcpStream) -> Result<Self> {
        let mut config = client::Config {
            window_size: WINDOW_BYTES,
            maximum_packet_size: PACKET_BYTES,
            keepalive_interval: Some(KEEPALIVE_INTERVAL),
            keepalive_max: KEEPALIVES_LOST_MAX,
            ..client::Config::default()
        };
        config.preferred.key = target.host_key_algorithms(&config.preferred.key);
        let host = Host { target: Arc::clone(target) };
        let mut ssh = client::connect_stream(Arc::new(config), stream, host).await.map_err(|error| error.0)?;
        target.log_in(&mut ssh).await?;
        let failed = |error: russh::Error| target.unreachable(error.to_string());
        let channel = ssh.channel_open_session().await.map_err(failed)?;
        channel.request_subsystem(true, "sftp").await.map_err(failed)?;
        let config = Config { request_timeout_secs: REQUEST_TIMEOUT.as_secs(), ..Config::default() };
        let mut sftp = RawSftpSession::new_with_config(channel.into_stream(), config);
        let failed = |error: russh_sftp::client::error::Error| {
            target.unreachable(format!("it offers no file transfer to {}: {error}", target.user))
        };
        let version = sftp.init().await.map_err(failed)?;
        let has = |extension: &str| version.extensions.contains_key(extension);
        let (mut read_bytes, mut write_bytes) = (TRANSFER_BYTES, TRANSFER_BYTES);
        if has(extensions::LIMITS) {
            let limits = Limits::from(sftp.limits().await.map_err(failed)?);
            let bytes = |limit: Option<u64>| {
                limit.map_or(TRANSFER_BYTES, |limit| limit.min(u64::from(TRANSFER_BYTES_MAX)) as u32)
            };
            (read_bytes, write_bytes) = (bytes(limits.read_len), bytes(limits.write_len));
            sftp.set_limits(limits);
        }
        let (renames_over, syncs) = (has(POSIX_RENAME), has(extensions::FSYNC));
        Ok(Self { sftp, ssh, read_bytes, write_bytes, renames_over, syncs })
    }
}

impl Target {
    pub(super) fn unreachable(&self, reason: String) -> Error {
        Error::Unreachable { endpoint: self.endpoint.clone(), reason, advice: ADVICE_UNREACHABLE }
    }

    /// The kinds of keys that this host is known by, before all others: else it would show one that nobody knows.
    fn host_key_algorithms(&self, usual: &[Algorithm]) -> Cow<'static, [Algorithm]> {
        let known = known_host_keys_path(&self.host, self.port, &self.known_hosts).unwrap_or_default();
        let is_known = |algorithm: &Algorithm| known.iter().any(|(_, key)| key.algorithm() == *algorithm);
        let (first, rest): (Vec<_>, Vec<_>) = usual.iter().cloned().partition(is_known);
        first.into_iter().chain(rest).collect()
    }

    /// Holds the key that the server shows against those that are known.
    fn check_host(&self, shown: &PublicKeyOrCertificate) -> Result<()> {
        let refused = |reason: String| Error::InvalidOption {
            uri: self.uri.clone(),
            option: super::connect::KNOWN_HOSTS.to_owned(),
            reason,
        };
        let file = self.known_hosts.display();
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else {
            return Err(refused("the server shows a certificate, and none is asked for".to_owned()));
        };
        let fingerprint = key.fingerprint(HashAlg::Sha256);
        match check_known_hosts_path(&self.host, self.port, key, &self.known_hosts) {
            Ok(true) => Ok(()),
            Ok(false) => Err(refused(format!(
                "{} shows the key {fingerprint}, which is not in {file}; if it is the right one, add it: \
                 ssh-keyscan -p {} {} >> {file}",
                self.endpoint, self.port, self.host
            ))),
            Err(russh::keys::Error::KeyChanged { line }) => Err(refused(format!(
                "{} shows the key {fingerprint}, and line {line} of {file} has another: it is not the server that it was",
                self.endpoint
            ))),
            Err(error) => Err(refused(format!("{file} cannot be read: {error}"))),
        }
    }

    /// Tries the keys, the agent's keys, and the password, in this order.
    async fn log_in(&self, ssh: &mut Handle<Host>) -> Result<()> {
        let mut tried = Vec::new();
        let failed = |error: russh::Error| self.unreachable(error.to_string());
        for key in &self.keys {
            let key = PrivateKeyWithHashAlg::new(Arc::clone(key), None);
            tried.push("a key".to_owned());
            if ssh.authenticate_publickey(&self.user, key).await.map_err(failed)?.success() {
                return Ok(());
            }
        }
        if let Some(socket) = &self.agent {
            match self.log_in_by_agent(ssh, socket).await {
                Ok(()) => return Ok(()),
                Err(reason) => tried.push(reason),
            }
        }
        let mut wants = String::new();
        if let Some(password) = &self.password {
            tried.push("the password".to_owned());
            match self.log_in_by_password(ssh, password).await.map_err(failed)? {
                None => return Ok(()),
                Some(methods) => {
                    let methods: Vec<&str> = methods.iter().map(Into::into).collect();
                    wants = format!("; it takes {}", methods.join(", "));
                }
            }
        }
        let reason = match tried.as_slice() {
            [] => "there is neither a key nor a password; set sftp_key_file or sftp_password".to_owned(),
            tried => format!("{} tried {}{wants}", self.user, tried.join(", ")),
        };
        Err(Error::WrongKeys { endpoint: self.endpoint.clone(), reason, advice: ADVICE_WRONG_KEYS })
    }

    /// Shows the password as such, and where the server asks for one in a dialogue, as the answer; gives what the server takes
    /// instead if it is refused.
    async fn log_in_by_password(
        &self,
        ssh: &mut Handle<Host>,
        password: &Secret,
    ) -> Result<Option<MethodSet>, russh::Error> {
        let remaining = match ssh.authenticate_password(&self.user, password.expose()).await? {
            AuthResult::Success => return Ok(None),
            // It was right, and the server wants something else besides, which nobody is there to give.
            AuthResult::Failure { remaining_methods, partial_success: true } => return Ok(Some(remaining_methods)),
            AuthResult::Failure { remaining_methods, .. } => remaining_methods,
        };
        if remaining.contains(&MethodKind::Password) || !remaining.contains(&MethodKind::KeyboardInteractive) {
            return Ok(Some(remaining));
        }
        let mut says = ssh.authenticate_keyboard_interactive_start(&self.user, None).await?;
        for _ in 0..DIALOGUE_ROUNDS_MAX {
            let answers = match says {
                KeyboardInteractiveAuthResponse::Success => return Ok(None),
                KeyboardInteractiveAuthResponse::Failure { remaining_methods, .. } => {
                    return Ok(Some(remaining_methods));
                }
                // Nobody is there to answer anything else, such as the number of a token.
                KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => match prompts.as_slice() {
                    [] => Vec::new(),
                    [only] if !only.echo => vec![password.expose().to_owned()],
                    _ => return Ok(Some(remaining)),
                },
            };
            says = ssh.authenticate_keyboard_interactive_respond(answers).await?;
        }
        Ok(Some(remaining))
    }

    /// Why it does not let anybody in, if it does not.
    async fn log_in_by_agent(&self, ssh: &mut Handle<Host>, socket: &Path) -> Result<(), String> {
        let failed = |error: russh::keys::Error| format!("the agent at {}, which fails: {error}", socket.display());
        let mut agent = AgentClient::connect_uds(socket).await.map_err(failed)?;
        let identities = agent.request_identities().await.map_err(failed)?;
        let mut keys = 0;
        for identity in identities {
            let AgentIdentity::PublicKey { key, .. } = identity else { continue };
            keys += 1;
            let hash = if key.algorithm().is_rsa() { Some(HashAlg::Sha512) } else { None };
            match ssh.authenticate_publickey_with(&self.user, key, hash, &mut agent).await {
                Ok(answer) if answer.success() => return Ok(()),
                Ok(_) => {}
                // Such as the one whose owner did not confirm its use; others may be good.
                Err(error) => tracing::warn!(%error, "the agent does not sign with one of its keys"),
            }
        }
        Err(match keys {
            0 => format!("the agent at {}, which has no key", socket.display()),
            keys => format!("the agent's keys ({keys})"),
        })
    }
}

/// Who is at the other end.
struct Host {
    target: Arc<Target>,
}

/// Our error, through a library that wants to make it from its own.
#[derive(Debug)]
struct HostError(Error);

impl From<russh::Error> for HostError {
    fn from(error: russh::Error) -> Self {
        Self(Error::Unreachable {
            endpoint: "the SFTP server".into(),
            reason: error.to_string(),
            advice: ADVICE_UNREACHABLE,
        })
    }
}

impl client::Handler for Host {
    type Error = HostError;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, HostError> {
        self.target.check_host(shown).map(|()| true).map_err(HostError)
    }
}
