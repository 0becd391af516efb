//! From URI and options to a web server, with a clear word for whatever is wrong with them.
//!
//! `http` and `https` say how the server is reached, and it is asked whether it speaks WebDAV; `webdav` and `webdavs` (or
//! `dav`, `davs`) say that it does. Nothing is sent here: [`crate::UnderStore::check`] does.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use http::HeaderValue;
use reqwest::{Certificate, Client, ClientBuilder};
use url::Url;

use super::{Webdav, http::Http};
use crate::{
    Error, MountSpec, Result, Secret, TrafficSettings,
    alias::{Alias, Given, one_name},
    tree::Tree,
    web::{CA_FILE, certificates},
};

const USER: &str = "webdav_user";
const PASSWORD: &str = "webdav_password";
const TOKEN: &str = "webdav_token";
const INVALID_CERTIFICATES: &str = "allow_invalid_certificates";
const OPTIONS: &[&str] = &[USER, PASSWORD, TOKEN, CA_FILE, INVALID_CERTIFICATES];
/// The names that other programs have for the first three.
pub(crate) const ALIASES: &[Alias] = &[
    Alias::same("username", USER),
    Alias::same("user", USER),
    Alias::same("password", PASSWORD),
    Alias::same("token", TOKEN),
    Alias::same("alluxio.underfs.web.username", USER),
    Alias::same("alluxio.underfs.web.password", PASSWORD),
];

/// Gives everything the names of our own.
pub(crate) fn translate(spec: &MountSpec) -> Result<MountSpec> {
    Ok(Given::of(spec, one_name)?.translated(ALIASES)?.into_spec(spec))
}

/// Reads `webdav://host:port/folder` and its like, and the options.
pub(crate) fn open(spec: &MountSpec) -> Result<Tree> {
    let shown = spec.redacted_uri();
    let (base, is_dav) = base_of(&spec.uri, &shown)?;
    let (rules, own) = TrafficSettings::split(&spec.options, &shown)?;
    let options = known_options(&own, &shown)?;
    let option = |name: &str| options.get(name).map(|value| value.expose());
    let authorization = authorization(option(USER), option(PASSWORD), option(TOKEN), &shown)?;
    let build = |follows: bool| {
        let builder = with_certificates(Client::builder(), option(CA_FILE), option(INVALID_CERTIFICATES), &shown)?;
        let builder = builder.connect_timeout(rules.connect_timeout);
        let http = Http::new(builder, base.clone(), authorization.clone(), follows);
        http.map_err(|error| Error::InvalidOption {
            uri: shown.clone(),
            option: CA_FILE.into(),
            reason: error.to_string(),
        })
    };
    let plain = if is_dav { None } else { Some(build(true)?) };
    let webdav = Webdav::new(build(false)?, plain);
    Ok(Tree::new(shown, rules, Box::new(webdav)))
}

/// The folder's URL, and whether it is sure to be WebDAV's. It is a URL as browsers have it: `%20` is a space.
fn base_of(uri: &str, shown: &str) -> Result<(Url, bool)> {
    let refuse = |reason: &str| Err(Error::InvalidUri { uri: shown.to_owned(), reason: reason.to_owned() });
    let Some((scheme, rest)) = uri.split_once("://") else {
        return refuse("write https://host/folder, or webdavs://host/folder");
    };
    let (scheme, is_dav) = match scheme {
        "webdav" | "dav" => ("http", true),
        "webdavs" | "davs" => ("https", true),
        other => (other, false),
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.contains('@') {
        return refuse("user and password do not belong in the URI; give webdav_user and webdav_password as options");
    }
    if rest.contains(['?', '#']) {
        return refuse("a query has no place in it; write https://host/folder");
    }
    let path = path.trim_end_matches('/');
    if let Err(Error::Unnameable { reason, .. }) = crate::StorePath::parse(path) {
        return refuse(&format!("the path cannot be used: {reason}"));
    }
    if path.starts_with('/') {
        return refuse("the path begins with two slashes; write https://host/folder");
    }
    match Url::parse(&format!("{scheme}://{authority}/{path}")) {
        Ok(url) if url.has_host() => Ok((url, is_dav)),
        _ => refuse("its host or port cannot be read; write https://host:port/folder"),
    }
}

fn known_options<'a>(options: &'a BTreeMap<String, Secret>, shown: &str) -> Result<BTreeMap<&'static str, &'a Secret>> {
    let mut known = BTreeMap::new();
    for (name, value) in options {
        let Some(meant) = OPTIONS.iter().find(|known| *known == name).copied() else {
            return Err(TrafficSettings::unknown_option(name, OPTIONS, shown));
        };
        known.insert(meant, value);
    }
    Ok(known)
}

fn authorization(
    user: Option<&str>,
    password: Option<&str>,
    token: Option<&str>,
    shown: &str,
) -> Result<Option<HeaderValue>> {
    let invalid = |option: &str, reason: &str| Error::InvalidOption {
        uri: shown.to_owned(),
        option: option.to_owned(),
        reason: reason.to_owned(),
    };
    let (option, text) = match (user, password, token) {
        (None, None, None) => return Ok(None),
        (None, None, Some(token)) => (TOKEN, format!("Bearer {token}")),
        (Some(user), password, None) => {
            if user.contains(':') {
                return Err(invalid(
                    USER,
                    "it contains a colon, which HTTP cannot tell from the one before the password",
                ));
            }
            let pair = format!("{user}:{}", password.unwrap_or_default());
            (PASSWORD, format!("Basic {}", BASE64_STANDARD.encode(pair)))
        }
        (None, Some(_), None) => return Err(invalid(USER, "webdav_password is set and this is not; set both")),
        (_, _, Some(_)) => return Err(invalid(TOKEN, "user or password are set too; set either these or the token")),
    };
    let mut value =
        HeaderValue::from_str(&text).map_err(|_| invalid(option, "it holds characters that no header can"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn with_certificates(
    builder: ClientBuilder,
    ca_file: Option<&str>,
    invalid_certificates: Option<&str>,
    shown: &str,
) -> Result<ClientBuilder> {
    let invalid = |option: &str, reason: String| Error::InvalidOption {
        uri: shown.to_owned(),
        option: option.to_owned(),
        reason,
    };
    let builder = match invalid_certificates {
        None | Some("false") => builder,
        Some("true") => builder.tls_danger_accept_invalid_certs(true),
        Some(_) => return Err(invalid(INVALID_CERTIFICATES, "it is neither true nor false".to_owned())),
    };
    let Some(file) = ca_file else { return Ok(builder) };
    let certificates = certificates(file, Certificate::from_pem_bundle).map_err(|reason| invalid(CA_FILE, reason))?;
    Ok(builder.tls_certs_merge(certificates))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(uri: &str, options: &[(&str, &str)]) -> Error {
        open(&MountSpec::with(uri, options)).unwrap_err()
    }

    #[test]
    fn schemes_hosts_and_folders() {
        let base = |uri| base_of(uri, uri).map(|(url, is_dav)| (url.to_string(), is_dav)).unwrap();
        assert_eq!(base("webdav://h:1/a b/"), ("http://h:1/a%20b".into(), true));
        assert_eq!(base("davs://h/a%20b"), ("https://h/a%20b".into(), true));
        assert_eq!(base("https://h"), ("https://h/".into(), false));
        for bad in [
            "http:/h",
            "http://me:pw@h/",
            "http://h:port/",
            "http://h//x",
            "http://h/a/../b",
            "http://h?x",
            "webdav://",
        ] {
            assert!(matches!(base_of(bad, bad), Err(Error::InvalidUri { .. })), "{bad}");
        }
    }

    #[test]
    fn base64_of_every_remainder() {
        assert_eq!(
            ["", "f", "fo", "foo", "foob"].map(|text| BASE64_STANDARD.encode(text)),
            ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]
        );
    }

    #[test]
    fn wrong_options_are_named_and_secrets_are_not() {
        let of = |options: &[(&str, &str)]| refused("http://h/", options).to_string();
        assert!(of(&[("webdav_pasword", "hidden")]).contains("did you mean webdav_password?"));
        assert!(of(&[(PASSWORD, "hidden")]).contains(USER) && !of(&[(PASSWORD, "hidden")]).contains("hidden"));
        assert!(of(&[(TOKEN, "hidden"), (USER, "me")]).contains("either"));
        assert!(!of(&[(TOKEN, "hidden\n")]).contains("hidden"));
        assert!(of(&[(CA_FILE, "/no/such/file")]).contains("/no/such/file"));
        assert!(of(&[(INVALID_CERTIFICATES, "perhaps")]).contains("neither true nor false"));
    }

    #[test]
    fn the_document_lists_every_option() {
        crate::document::lists("WebDAV", OPTIONS.iter().copied().chain(ALIASES.iter().map(|alias| alias.name)));
    }
}
