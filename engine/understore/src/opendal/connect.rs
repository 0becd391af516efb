//! From `opendal+SERVICE://…` and options to a service at work, with a clear word for whatever is wrong with them.
//!
//! Options are the service's own, by OpenDAL's names, but for `root`, which is the path of the URI. Nothing is sent here:
//! [`crate::UnderStore::check`] does.

use std::{collections::BTreeMap, time::Duration};

use http::{Request, Response, StatusCode};
use opendal::{Buffer, ErrorKind, HttpBody, HttpTransport, HttpTransporter, OperationContext, Operator};
use opendal_http_transport_reqwest::ReqwestTransport;

use super::{
    Dal,
    services::{Authority, SERVICES, Service, Wrong},
};
use crate::{
    Error, MountSpec, Result, Secret, StorePath, TrafficSettings,
    secret::is_shown,
    tree::Tree,
    web::{CA_FILE, certificates},
};

/// What all its schemes begin with.
pub(crate) const SCHEME: &str = "opendal+";
/// How long a connection may take, and how long a server may send nothing.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Hidden values of fewer bytes than this are not looked for in what services say: they would be found in every word.
const SOUGHT_BYTES_MIN: usize = 4;

/// Reads the URI and its options.
pub(crate) fn open(spec: &MountSpec) -> Result<Tree> {
    let shown = spec.redacted_uri();
    let Place { service, root, mut options } = Place::find(spec, &shown)?;
    if !spec.read_only {
        return Err(Error::InvalidUri {
            uri: shown,
            reason: "what is reached through OpenDAL is only read: it has no rename that replaces a file in one step \
                     for every service, nor creates a file only where none is; mount it by `citius mount add --read-only`"
                .into(),
        });
    }
    let known = (service.options)();
    let (rules, own) = TrafficSettings::split(&spec.options, &shown)?;
    let mut client = reqwest::Client::builder();
    for (name, value) in &own {
        if name == CA_FILE {
            let trusted = certificates(value.expose(), reqwest::Certificate::from_pem_bundle);
            client = client.tls_certs_merge(trusted.map_err(|reason| invalid(&shown, CA_FILE, reason))?);
            continue;
        }
        if name == "root" {
            return Err(invalid(&shown, name, "the folder is named in the URI; leave this option out"));
        }
        if !known.contains(&name.as_str()) {
            let others: Vec<&str> = known.iter().copied().filter(|name| *name != "root").chain([CA_FILE]).collect();
            return Err(TrafficSettings::unknown_option(name, &others, &shown));
        }
        if options.insert(name.clone(), value.expose().to_owned()).is_some() {
            return Err(invalid(&shown, name, "the URI names it, too; give it once"));
        }
    }
    options.insert("root".to_owned(), "/".to_owned());
    let operator = connect(service, &options, client).map_err(|wrong| match wrong {
        Wrong::Value(name) => invalid(&shown, &name, "its value is not of the kind that it should be"),
        Wrong::Whole(reason) => invalid(&shown, "one of the service's options", reason),
    })?;
    let hidden =
        spec.options.iter().filter(|(name, value)| !is_shown(name) && value.expose().len() >= SOUGHT_BYTES_MIN);
    let hidden: Vec<Secret> = hidden.map(|(_, value)| value.clone()).collect();
    let dal = Dal { operator, listed: service.listed, endpoint: shown.clone(), root, hidden: hidden.into() };
    Ok(Tree::new(shown, rules, Box::new(dal)))
}

fn invalid(shown: &str, option: &str, reason: impl Into<String>) -> Error {
    Error::InvalidOption { uri: shown.to_owned(), option: option.to_owned(), reason: reason.into() }
}

fn connect(
    service: &Service,
    options: &BTreeMap<String, String>,
    client: reqwest::ClientBuilder,
) -> Result<Operator, Wrong> {
    let operator = (service.open)(options)?;
    let client = client.connect_timeout(CONNECT_TIMEOUT).read_timeout(STALL_TIMEOUT).build();
    let client = client.map_err(|error| Wrong::Whole(error.to_string()))?;
    let transport = HttpTransporter::new(Transport(ReqwestTransport::new(client)));
    Ok(operator.with_context(OperationContext::new().with_http_transport(transport)))
}

/// OpenDAL's own way to a server, where keys that are refused are told from other refusals: to most services a 401 is an
/// unexpected answer as any other.
struct Transport(ReqwestTransport);

impl HttpTransport for Transport {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        match self.0.fetch(request).await? {
            refused if refused.status() == StatusCode::UNAUTHORIZED => {
                Err(opendal::Error::new(ErrorKind::ConfigInvalid, "HTTP 401"))
            }
            answer => Ok(answer),
        }
    }
}

/// What a URI says.
struct Place {
    service: &'static Service,
    /// The mounted folder, without a slash at either end.
    root: String,
    /// The options that the URI stands for.
    options: BTreeMap<String, String>,
}

impl Place {
    fn find(spec: &MountSpec, shown: &str) -> Result<Self> {
        let refuse = |reason: String| Err(Error::InvalidUri { uri: shown.to_owned(), reason });
        let Some((name, rest)) = spec.uri.strip_prefix(SCHEME).and_then(|rest| rest.split_once("://")) else {
            return refuse(format!("write {SCHEME}SERVICE://host/folder, where SERVICE is one of {}", built_in()));
        };
        let Some(service) = SERVICES.iter().find(|service| service.name == name) else {
            return refuse(format!("no service \"{name}\" of OpenDAL is built in; there are {}", built_in()));
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains(['@', '?', '#']) {
            return refuse("users, passwords and queries do not belong in the URI; give them as options".to_owned());
        }
        let mut options = BTreeMap::new();
        match service.authority {
            Authority::None if !authority.is_empty() => {
                return refuse(format!("this service has no host; write {SCHEME}{name}:///folder"));
            }
            Authority::Endpoint(before) if !authority.is_empty() => {
                options.insert("endpoint".to_owned(), format!("{before}{authority}"));
            }
            Authority::Option(option) if !authority.is_empty() => {
                options.insert(option.to_owned(), authority.to_owned());
            }
            _ => {}
        }
        let mut path = path.trim_end_matches('/');
        if let Some(first) = service.first.filter(|first| !spec.options.contains_key(*first)) {
            let (component, rest) = path.split_once('/').unwrap_or((path, ""));
            if component.is_empty() {
                return refuse(format!("the path begins with the {first}; name it there, or as the option {first}"));
            }
            options.insert(first.to_owned(), component.to_owned());
            path = rest;
        }
        if path.starts_with('/') {
            return refuse("the path begins with two slashes".to_owned());
        }
        // The path is taken as it is: `%20` is three characters, because that is what folders are really called.
        match StorePath::parse(path) {
            Err(Error::Unnameable { reason, .. }) => refuse(format!("the path cannot be used: {reason}")),
            _ => Ok(Self { service, root: path.to_owned(), options }),
        }
    }
}

fn built_in() -> String {
    SERVICES.iter().map(|service| service.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(uri: &str, options: &[(&str, &str)]) -> MountSpec {
        let spec = MountSpec { read_only: true, ..MountSpec::new(uri) };
        options.iter().fold(spec, |spec, (name, value)| spec.option(*name, *value))
    }

    fn place(uri: &str) -> (String, Vec<(String, String)>) {
        let place = Place::find(&spec(uri, &[]), uri).unwrap();
        (place.root, place.options.into_iter().collect())
    }

    #[test]
    fn uris_say_server_folder_and_what_else_a_service_has() {
        let is = |root: &str, options: &[(&str, &str)]| {
            (root.to_owned(), options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
        };
        assert_eq!(place("opendal+webdav://h:2121/a b/"), is("a b", &[("endpoint", "https://h:2121")]));
        assert_eq!(place("opendal+webdav://h"), is("", &[("endpoint", "https://h")]));
        assert_eq!(place("opendal+dropbox:///a%20b"), is("a%20b", &[]));
        assert_eq!(place("opendal+github://me/repo/a/b"), is("a/b", &[("owner", "me"), ("repo", "repo")]));
        let seafile = place("opendal+seafile://h/library/p");
        assert_eq!(seafile, is("p", &[("endpoint", "https://h"), ("repo_name", "library")]));
        for bad in [
            "opendal+webdav:/h",
            "opendal+webdav://me:pw@h/",
            "opendal+webdav://h//x",
            "opendal+webdav://h/a/../b",
            "opendal+dropbox://h/",
            "opendal+github://me",
        ] {
            assert!(matches!(open(&spec(bad, &[])), Err(Error::InvalidUri { .. })), "{bad}");
        }
    }

    #[test]
    fn what_is_not_built_in_and_what_is_not_known_is_said() {
        let refused = |spec: &MountSpec| open(spec).unwrap_err().to_string();
        let text = refused(&spec("opendal+gopher://h/", &[]));
        assert!(text.contains("gopher") && text.contains("webdav") && text.contains("yandex-disk"), "{text}");
        // OpenDAL itself ignores these.
        let text = refused(&spec("opendal+webdav://h/", &[("pasword", "hidden")]));
        assert!(text.contains("did you mean password?") && !text.contains("hidden"), "{text}");
        let text = refused(&spec("opendal+webdav://h/", &[("root", "/x")]));
        assert!(text.contains("named in the URI"), "{text}");
        let text = refused(&spec("opendal+webdav://h/", &[("endpoint", "http://other")]));
        assert!(text.contains("give it once"), "{text}");
        let text = refused(&spec("opendal+webdav://h/", &[("disable_copy", "hidden")]));
        assert!(text.contains("\"disable_copy\"") && !text.contains("hidden"), "{text}");
        let text = refused(&spec("opendal+webdav:///folder", &[]));
        assert!(text.contains("endpoint is empty"), "{text}");
        let text = refused(&MountSpec::new("opendal+webdav://h/"));
        assert!(text.contains("--read-only"), "{text}");
    }

    /// What no short list of harmless names has is hidden, whatever a service calls it.
    #[test]
    fn options_are_hidden_unless_they_are_known_to_be_harmless() {
        for service in SERVICES {
            for name in (service.options)() {
                let is_secret = ["password", "token", "secret", "key", "delegation"];
                assert!(
                    !is_secret.iter().any(|part| name.contains(part)) || !is_shown(name),
                    "{} {name}",
                    service.name
                );
            }
        }
    }

    #[test]
    fn the_document_lists_every_service_and_its_options() {
        // Tests alone have the first; of the others' options, these are told in words.
        let services = SERVICES.iter().filter(|service| service.name != "fs");
        let names = services.flat_map(|service| std::iter::once(&service.name).chain((service.options)()));
        let names = names.filter(|name| !matches!(**name, "root" | "endpoint"));
        crate::document::lists_in_columns(4, "Services of OpenDAL", names.chain([&CA_FILE]));
    }
}
