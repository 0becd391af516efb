//! From URI and options to an SFTP server and the keys for it, with a clear word for whatever is wrong with them.
//!
//! What the options leave open is taken from where `ssh` has it: `~/.ssh/known_hosts`, `~/.ssh/id_ed25519`,
//! `~/.ssh/id_ecdsa`, and the agent of `SSH_AUTH_SOCK`. Keys of the options are taken alone. Nothing is sent here:
//! [`crate::UnderStore::check`] does.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use russh::keys::{PrivateKey, load_secret_key};
use url::Url;

use super::{Sftp, session::Target};
use crate::{Error, MountSpec, Result, Secret, StorePath, TrafficSettings, tree::Tree};

const PORT: u16 = 22;
const USER: &str = "sftp_user";
const PASSWORD: &str = "sftp_password";
const KEY_FILE: &str = "sftp_key_file";
const KEY_PASSPHRASE: &str = "sftp_key_passphrase";
pub(super) const KNOWN_HOSTS: &str = "sftp_known_hosts";
const OPTIONS: &[&str] = &[USER, PASSWORD, KEY_FILE, KEY_PASSPHRASE, KNOWN_HOSTS];
/// Keys that are tried if no option names one.
const USUAL_KEYS: &[&str] = &["id_ed25519", "id_ecdsa"];

/// Reads `sftp://user@host:port/folder`, or `sftp://host/~/folder` for one below the user's home, and the options.
pub(crate) fn open(spec: &MountSpec) -> Result<Tree> {
    let shown = spec.redacted_uri();
    let Place { host, port, user, root } = place_of(&spec.uri, &shown)?;
    let (rules, own) = TrafficSettings::split(&spec.options, &shown)?;
    if let Some(name) = own.keys().find(|name| !OPTIONS.contains(&name.as_str())) {
        return Err(TrafficSettings::unknown_option(name, OPTIONS, &shown));
    }
    let option = |name: &str| own.get(name).map(Secret::expose);
    let invalid =
        |option: &str, reason: String| Error::InvalidOption { uri: shown.clone(), option: option.to_owned(), reason };
    let user = option(USER).map(str::to_owned).or(user).or_else(|| std::env::var("USER").ok());
    let user = user.ok_or_else(|| invalid(USER, "it is not set, and neither is a user in the URI".to_owned()))?;
    let folder = std::env::home_dir().map(|home| home.join(".ssh"));
    let known_hosts = option(KNOWN_HOSTS).map(PathBuf::from).or_else(|| Some(folder.as_ref()?.join("known_hosts")));
    let known_hosts =
        known_hosts.ok_or_else(|| invalid(KNOWN_HOSTS, "it is not set, and there is no home".to_owned()))?;
    if option(KNOWN_HOSTS).is_some() && !known_hosts.is_file() {
        return Err(invalid(KNOWN_HOSTS, format!("there is no file {}", known_hosts.display())));
    }
    let (keys, agent) = keys_of(&own, folder.as_deref(), &shown)?;
    let endpoint = format!("sftp://{host}:{port}");
    let password = own.get(PASSWORD).cloned();
    let connect_timeout = rules.connect_timeout;
    let target =
        Target { host, port, user, known_hosts, keys, password, agent, endpoint, uri: shown.clone(), connect_timeout };
    Ok(Tree::new(shown, rules, Box::new(Sftp::new(target, root))))
}

/// What a URI says.
#[derive(Debug, PartialEq)]
struct Place {
    host: String,
    port: u16,
    user: Option<String>,
    /// Without a slash at its end, unless it is that alone; one that does not begin with a slash is below the home.
    root: String,
}

fn place_of(uri: &str, shown: &str) -> Result<Place> {
    let refuse = |reason: &str| Err(Error::InvalidUri { uri: shown.to_owned(), reason: reason.to_owned() });
    let Some(("sftp", rest)) = uri.split_once("://") else {
        return refuse("write sftp://user@host/folder");
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let Ok(url) = Url::parse(&format!("sftp://{authority}")) else {
        return refuse("its host or port cannot be read; write sftp://user@host:22/folder");
    };
    let Some(host) = url.host_str().filter(|host| !host.is_empty()) else {
        return refuse("no host is named; write sftp://user@host/folder");
    };
    if url.password().is_some() || authority.contains(['?', '#']) {
        return refuse("a password or a query does not belong in the URI; give the option sftp_password");
    }
    let user = authority.rsplit_once('@').map(|(user, _)| user.to_owned()).filter(|user| !user.is_empty());
    let path = path.trim_end_matches('/');
    let (below_home, path) = match path.strip_prefix('~') {
        Some("") => (true, ""),
        Some(rest) if rest.starts_with('/') => (true, &rest[1..]),
        _ => (false, path),
    };
    if path.starts_with('/') {
        return refuse("the path begins with two slashes; write sftp://user@host/folder");
    }
    // The path is taken as it is: `%20` is three characters, because that is what folders are really called.
    if let Err(Error::Unnameable { reason, .. }) = StorePath::parse(path) {
        return refuse(&format!("the path cannot be used: {reason}"));
    }
    let root = if below_home { path.to_owned() } else { format!("/{path}") };
    let host = host.trim_matches(['[', ']']).to_owned();
    Ok(Place { host, port: url.port().unwrap_or(PORT), user, root })
}

/// The private keys, and the agent's socket.
fn keys_of(
    options: &BTreeMap<String, Secret>,
    folder: Option<&Path>,
    shown: &str,
) -> Result<(Vec<Arc<PrivateKey>>, Option<PathBuf>)> {
    let option = |name: &str| options.get(name).map(Secret::expose);
    let passphrase = option(KEY_PASSPHRASE);
    if let Some(file) = option(KEY_FILE) {
        let key = load_secret_key(file, passphrase).map_err(|error| {
            use russh::keys::Error as KeyError;

            let reason = match error {
                KeyError::KeyIsEncrypted if passphrase.is_none() => {
                    format!("{file} is encrypted; set {KEY_PASSPHRASE}")
                }
                _ if passphrase.is_some()
                    && load_secret_key(file, None).is_err_and(|error| matches!(error, KeyError::KeyIsEncrypted)) =>
                {
                    format!("{file} is encrypted, and {KEY_PASSPHRASE} does not open it")
                }
                other => format!("{file} cannot be used: {other} (keys of the kinds ed25519 and ecdsa can be)"),
            };
            Error::InvalidOption { uri: shown.to_owned(), option: KEY_FILE.to_owned(), reason }
        })?;
        if key.algorithm().is_rsa() {
            let reason =
                format!("{file} is a key of the kind RSA; give one of ed25519 or ecdsa, or leave it to an agent");
            return Err(Error::InvalidOption { uri: shown.to_owned(), option: KEY_FILE.to_owned(), reason });
        }
        return Ok((vec![Arc::new(key)], None));
    }
    if options.contains_key(PASSWORD) {
        return Ok((Vec::new(), None));
    }
    // One that is encrypted, or of another kind, is the agent's to use.
    let usual = folder.into_iter().flat_map(|folder| USUAL_KEYS.iter().map(|name| folder.join(name)));
    let keys = usual.filter_map(|file| load_secret_key(file, passphrase).ok()).map(Arc::new).collect();
    Ok((keys, std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(uri: &str, options: &[(&str, &str)]) -> Error {
        open(&MountSpec::with(uri, options)).unwrap_err()
    }

    #[test]
    fn users_hosts_and_folders() {
        let place = |uri| place_of(uri, uri).unwrap();
        let of = |host: &str, port, user: Option<&str>, root: &str| Place {
            host: host.to_owned(),
            port,
            user: user.map(str::to_owned),
            root: root.to_owned(),
        };
        assert_eq!(place("sftp://me@h:2222/a b%/"), of("h", 2222, Some("me"), "/a b%"));
        assert_eq!(place("sftp://h"), of("h", 22, None, "/"));
        assert_eq!(place("sftp://h/~"), of("h", 22, None, ""));
        assert_eq!(place("sftp://h/~/data"), of("h", 22, None, "data"));
        assert_eq!(place("sftp://h/~other"), of("h", 22, None, "/~other"));
        assert_eq!(place("sftp://[::1]:22/x"), of("::1", 22, None, "/x"));
        for bad in ["sftp:/h", "sftp://", "sftp://me:pw@h/", "sftp://h:port/", "sftp://h//x", "sftp://h/a/../b"] {
            assert!(matches!(place_of(bad, bad), Err(Error::InvalidUri { .. })), "{bad}");
        }
    }

    #[test]
    fn wrong_options_are_named_and_secrets_are_not() {
        let of = |options: &[(&str, &str)]| refused("sftp://me@h/", options).to_string();
        let error = of(&[("sftp_pasword", "hidden")]);
        assert!(error.contains("did you mean sftp_password?") && !error.contains("hidden"), "{error}");
        assert!(of(&[(KEY_FILE, "/no/such/file")]).contains("/no/such/file"));
        assert!(of(&[(KNOWN_HOSTS, "/no/such/file")]).contains("/no/such/file"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        std::fs::write(&file, "no key").unwrap();
        assert!(of(&[(KEY_FILE, &file.display().to_string())]).contains("ed25519"));
    }

    #[test]
    fn the_document_lists_every_option() {
        crate::document::lists("SFTP", OPTIONS);
    }
}
