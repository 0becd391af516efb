//! From URI and options to a connected container, with a clear word for whatever is wrong with them.
//!
//! `swift://CONTAINER/PREFIX`, or Hadoop's `swift://CONTAINER.PROVIDER/PREFIX` with that provider's settings as Hadoop names
//! them (`fs.swift.service.PROVIDER.auth.url`). Options that begin with `swift_` are of version 1 logins, those with `os_` of Keystone, in the
//! names of OpenStack's tools. Which of them are set says how to log in. What the options leave open is taken from the
//! environment (`OS_*`, `ST_*`), credentials whole or not at all; a cloud that is named, from its file. Nothing is sent here: [`crate::UnderStore::check`] does.

use std::{collections::BTreeMap, sync::Arc};

use object_store::client::{ClientConfigKey, HttpConnector};
use url::Url;

use super::{
    Swift,
    client::Client,
    clouds::Cloud,
    login::{Login, Named, Proof, Way},
};
use crate::{
    Advice, Error, Governor, Result, Secret, Traffic, TrafficSettings,
    object::{Objects, check_prefix},
    redact,
    web::{CA_FILE, Web, chain, connections, trusting},
};

/// The options, each with the variable of the environment that stands for it.
const OPTIONS: &[(&str, &str)] = &[
    ("swift_auth_url", "ST_AUTH"),
    ("swift_user", "ST_USER"),
    ("swift_key", "ST_KEY"),
    ("swift_storage_url", "OS_STORAGE_URL"),
    ("swift_token", "OS_AUTH_TOKEN"),
    ("swift_allow_http", ""),
    (CA_FILE, "OS_CACERT"),
    ("os_cloud", "OS_CLOUD"),
    ("os_client_config_file", "OS_CLIENT_CONFIG_FILE"),
    ("os_auth_url", "OS_AUTH_URL"),
    ("os_username", "OS_USERNAME"),
    ("os_user_id", "OS_USER_ID"),
    ("os_user_domain_name", "OS_USER_DOMAIN_NAME"),
    ("os_user_domain_id", "OS_USER_DOMAIN_ID"),
    ("os_password", "OS_PASSWORD"),
    ("os_project_name", "OS_PROJECT_NAME"),
    ("os_project_id", "OS_PROJECT_ID"),
    ("os_project_domain_name", "OS_PROJECT_DOMAIN_NAME"),
    ("os_project_domain_id", "OS_PROJECT_DOMAIN_ID"),
    ("os_region_name", "OS_REGION_NAME"),
    ("os_interface", "OS_INTERFACE"),
    ("os_application_credential_id", "OS_APPLICATION_CREDENTIAL_ID"),
    ("os_application_credential_name", "OS_APPLICATION_CREDENTIAL_NAME"),
    ("os_application_credential_secret", "OS_APPLICATION_CREDENTIAL_SECRET"),
];
/// Options that say nothing of who logs in where.
const NEUTRAL: &[&str] = &["swift_allow_http", CA_FILE, "os_client_config_file", "os_region_name", "os_interface"];
/// Names that other programs have for options.
const ALIASES: [(&str, &str); 2] = [("cloud", "os_cloud"), ("os_cacert", CA_FILE)];
/// How Hadoop's settings of a provider begin, and what each of them means.
const HADOOP: &str = "fs.swift.service.";
const HADOOP_SETTINGS: [(&str, &str); 6] = [
    ("auth.url", "os_auth_url"),
    ("tenant", "os_project_name"),
    ("username", "os_username"),
    ("password", "os_password"),
    ("region", "os_region_name"),
    ("public", "os_interface"),
];
/// Ends of the address that Hadoop asks for tokens at: of a version of Keystone that is gone, or of today's.
const TOKEN_PATHS: [&str; 3] = ["/v2.0/tokens", "/v3/auth/tokens", "/tokens"];

static ADVICE: Advice = Advice {
    bucket: "container",
    missing_bucket: "create it, or check its name and whose account the login is of",
    unreachable: "check that it runs, swift_auth_url or os_auth_url, and the network",
    wrong_keys: "check swift_user and swift_key, or os_username, os_password, their domains and the project, or os_application_credential_id and its secret",
    missing_keys: "set swift_auth_url, swift_user and swift_key, or os_auth_url and what belongs to it",
    wrong_region: "set os_region_name, os_interface and the project's names",
};

/// Reads `swift://container[/prefix]` and its options.
pub(crate) fn open(uri: &str, options: &BTreeMap<String, Secret>) -> Result<Objects> {
    let (swift, prefix) = connect(uri, options, environment())?;
    let traffic = swift.client.web.traffic.clone();
    Ok(Objects::new(redact(uri), prefix, traffic, Box::new(swift)))
}

/// What the environment has of the options.
fn environment() -> BTreeMap<String, Secret> {
    let of = |(option, variable): &(&str, &str)| {
        let value = std::env::var(variable).ok().filter(|value| !value.is_empty())?;
        Some(((*option).to_owned(), Secret::new(value)))
    };
    OPTIONS.iter().filter(|(_, variable)| !variable.is_empty()).filter_map(of).collect()
}

fn connect(
    uri: &str,
    options: &BTreeMap<String, Secret>,
    environment: BTreeMap<String, Secret>,
) -> Result<(Swift, String)> {
    let shown = redact(uri);
    let (container, prefix) = split_uri(uri, &shown)?;
    let (rules, options) = TrafficSettings::split(options, &shown)?;
    let (hadoop, options): (BTreeMap<_, _>, BTreeMap<_, _>) =
        options.into_iter().partition(|(name, _)| name.starts_with(HADOOP));
    let (container, mut own) = of_provider(container, hadoop, &shown)?;
    let mut client_options = connections(&rules);
    for (name, value) in options {
        let small = name.to_ascii_lowercase();
        let small = ALIASES.iter().find(|(alias, _)| *alias == small).map_or(small, |(_, meant)| (*meant).to_owned());
        if OPTIONS.iter().any(|(option, _)| *option == small) {
            own.insert(small, value);
        } else if let Ok(key) = small.parse::<ClientConfigKey>() {
            client_options = client_options.with_config(key, value.expose());
        } else {
            let usual: Vec<&str> = OPTIONS.iter().map(|(option, _)| *option).collect();
            return Err(TrafficSettings::unknown_option(&name, &usual, &shown));
        }
    }
    let settings = Settings::new(own, environment, shown);
    let allow_http = settings.get("swift_allow_http").is_some_and(is_true);
    let (way, cloud) = match settings.get("os_cloud") {
        None => (settings.way()?, None),
        Some(name) => {
            let cloud = Cloud::find(name, settings.get("os_client_config_file"), settings.clone())?;
            let (file, verifies) = cloud.certificates()?;
            client_options = client_options.with_allow_invalid_certificates(!verifies);
            if let Some(file) = file {
                let invalid = |reason| settings.invalid("os_cloud", format!("its cacert {reason}"));
                client_options = trusting(client_options, &file).map_err(invalid)?;
            }
            (cloud.way()?, Some(cloud))
        }
    };
    if let Some(file) = settings.get(CA_FILE) {
        client_options = trusting(client_options, file).map_err(|reason| settings.invalid(CA_FILE, reason))?;
    }
    let endpoint = way.address().to_owned();
    let client_options = client_options.with_allow_http(allow_http);
    let governor = Governor::new(Traffic::new(rules));
    let made = |governor: &Governor| {
        let made = governor.connect(&client_options);
        made.map_err(|error| settings.invalid("one of the connection's options", chain(&error)))?;
        Ok::<_, Error>(governor.last().expect("it was just made"))
    };
    let (http, traffic) = made(&governor)?;
    let login = Arc::new(Login::new(way, cloud, Web::new(http, traffic, endpoint.clone(), &ADVICE, None)));
    let (http, traffic) = made(&governor)?;
    let web = Web::new(http, traffic, endpoint, &ADVICE, Some(Arc::clone(&login) as _));
    let client = Client { web, login, container };
    Ok((Swift { client, has_segments: Default::default(), misjudges_reads: Default::default() }, prefix))
}

/// The container without the provider's name, and what Hadoop's settings of the provider mean.
fn of_provider(
    host: String,
    hadoop: BTreeMap<String, Secret>,
    shown: &str,
) -> Result<(String, BTreeMap<String, Secret>)> {
    let mut meant = BTreeMap::new();
    if hadoop.is_empty() {
        return Ok((host, meant));
    }
    let refuse = |reason: String| Err(Error::InvalidUri { uri: shown.to_owned(), reason });
    let Some((container, provider)) = host.rsplit_once('.').filter(|(container, _)| !container.is_empty()) else {
        return refuse(format!("{HADOOP}PROVIDER.… are settings of a provider; write swift://container.PROVIDER/path"));
    };
    for (name, value) in hadoop {
        let Some(setting) = name[HADOOP.len()..].strip_prefix(provider).and_then(|rest| rest.strip_prefix('.')) else {
            return refuse(format!("the option {name} is not of the provider {provider}, which the URI names"));
        };
        let Some((_, option)) = HADOOP_SETTINGS.iter().find(|(known, _)| *known == setting) else {
            let known = HADOOP_SETTINGS.map(|(known, _)| known).join(", ");
            let advice = format!("of a provider's settings these have a meaning here: {known}; leave it out");
            return Err(Error::UnknownOption { uri: shown.to_owned(), option: name, advice });
        };
        let value = match *option {
            "os_auth_url" => {
                let url = value.expose().trim_end_matches('/');
                Secret::new(TOKEN_PATHS.iter().find_map(|end| url.strip_suffix(end)).unwrap_or(url))
            }
            "os_interface" => Secret::new(if is_true(value.expose()) { "public" } else { "internal" }),
            _ => value,
        };
        meant.insert((*option).to_owned(), value);
    }
    Ok((container.to_owned(), meant))
}

/// Container and prefix.
fn split_uri(uri: &str, shown: &str) -> Result<(String, String)> {
    let refuse = |reason: &str| Err(Error::InvalidUri { uri: shown.to_owned(), reason: reason.to_owned() });
    let rest = uri.split_once("://").map_or("", |(_, rest)| rest);
    let (container, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if container.is_empty() {
        return refuse("no container is named; write swift://container or swift://container/prefix");
    }
    if container.contains(['@', ':', '?', '#']) {
        return refuse("keys, ports and queries do not belong in the URI; give them as options");
    }
    Ok((container.to_owned(), check_prefix(prefix, shown)?))
}

/// What the options and the environment say together.
#[derive(Clone, Default)]
pub(super) struct Settings {
    shown: String,
    values: BTreeMap<String, Secret>,
}

impl Settings {
    fn new(own: BTreeMap<String, Secret>, environment: BTreeMap<String, Secret>, shown: String) -> Self {
        let has_own_login = own.keys().any(|name| !NEUTRAL.contains(&name.as_str()));
        let mut values = environment;
        values.retain(|name, _| !has_own_login || NEUTRAL.contains(&name.as_str()));
        values.extend(own);
        Self { shown, values }
    }

    /// The same over what a file says.
    pub(super) fn over(&self, mut file: BTreeMap<String, Secret>) -> Self {
        file.extend(self.values.clone());
        Self { shown: self.shown.clone(), values: file }
    }

    fn get(&self, name: &str) -> Option<&str> {
        debug_assert!(OPTIONS.iter().any(|(option, _)| *option == name));
        self.values.get(name).map(|value| value.expose().trim())
    }

    fn secret(&self, name: &str) -> Option<Secret> {
        self.get(name).map(Secret::new)
    }

    fn need(&self, name: &str, why: &str) -> Result<Secret> {
        self.secret(name).ok_or_else(|| self.invalid(name, format!("it is not set, and {why}")))
    }

    pub(super) fn invalid(&self, option: &str, reason: impl Into<String>) -> Error {
        Error::InvalidOption { uri: self.shown.clone(), option: option.to_owned(), reason: reason.into() }
    }

    /// How these settings log in, where that may be done.
    pub(super) fn way(&self) -> Result<Way> {
        let way = self.unchecked_way()?;
        let option = match &way {
            Way::V1 { .. } => "swift_auth_url",
            Way::Keystone { .. } => "os_auth_url",
            Way::Given { .. } => "swift_storage_url",
        };
        self.check(option, way.address())?;
        Ok(way)
    }

    fn unchecked_way(&self) -> Result<Way> {
        if let Some(storage_url) = self.get("swift_storage_url") {
            let token = self.need("swift_token", "swift_storage_url goes with it")?;
            return Ok(Way::Given { storage_url: storage_url.to_owned(), token });
        }
        if let Some(url) = self.get("swift_auth_url") {
            let user = self.need("swift_user", "swift_auth_url goes with it")?;
            let key = self.need("swift_key", "swift_auth_url goes with it")?;
            return Ok(Way::V1 { url: url.to_owned(), user, key });
        }
        let why = "without swift_auth_url a login is by Keystone; its variables are taken from the environment too";
        let url = self.need("os_auth_url", why)?;
        let url = url.expose().trim_end_matches('/');
        // Tools are given it with and without its version; there is no other than the third.
        let url = if url.ends_with("/v3") { url.to_owned() } else { format!("{}/v3", url.trim_end_matches("/v2.0")) };
        let interface = self.get("os_interface").unwrap_or("public").trim_end_matches("URL").to_owned();
        let region = self.get("os_region_name").map(str::to_owned);
        Ok(Way::Keystone { url, proof: Box::new(self.proof()?), region, interface })
    }

    fn proof(&self) -> Result<Proof> {
        let named = |kind: &str, name: &str| Named {
            id: self.secret(&format!("os_{kind}_id")),
            name: self.secret(name),
            domain_id: self.secret(&format!("os_{kind}_domain_id")),
            domain_name: self.secret(&format!("os_{kind}_domain_name")),
        };
        let user = named("user", "os_username");
        let has_user = user.id.is_some() || user.name.is_some();
        if let Some(secret) = self.secret("os_application_credential_secret") {
            let id = self.secret("os_application_credential_id");
            let name = self.secret("os_application_credential_name");
            if id.is_none() && (name.is_none() || !has_user) {
                let why = "it is not set, and neither is os_application_credential_name with os_username";
                return Err(self.invalid("os_application_credential_id", why));
            }
            return Ok(Proof::Application { id, name, user: has_user.then_some(user), secret });
        }
        if !has_user {
            return Err(
                self.invalid("os_username", "it is not set, and neither are os_user_id or an application credential")
            );
        }
        let password = self.need("os_password", "os_auth_url goes with it")?;
        let project = named("project", "os_project_name");
        let project = (project.id.is_some() || project.name.is_some()).then_some(project);
        Ok(Proof::Password { user, password, project })
    }

    fn check(&self, option: &str, endpoint: &str) -> Result<()> {
        let allow_http = self.get("swift_allow_http").is_some_and(is_true);
        match Url::parse(endpoint) {
            Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                Err(self.invalid(option, "keys do not belong in it; give them as options"))
            }
            Ok(url) if url.host_str().is_none() || !matches!(url.scheme(), "http" | "https") => {
                Err(self.invalid(option, "it is not of the form https://host:port/path"))
            }
            Ok(url) if url.scheme() == "http" && !allow_http => Err(self.invalid(
                option,
                "it is http://, which shows keys and data to the network; set swift_allow_http=true if that is meant",
            )),
            Ok(_) => Ok(()),
            Err(error) => Err(self.invalid(option, format!("{error}; write https://host:port/path"))),
        }
    }
}

fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on" | "y" | "t")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, Secret> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value))).collect()
    }

    fn refused(own: &[(&str, &str)]) -> Error {
        connect("swift://c", &map(own), BTreeMap::new()).err().unwrap()
    }

    const V1: [(&str, &str); 3] = [("swift_auth_url", "https://h/auth/v1.0"), ("swift_user", "u"), ("swift_key", "k")];

    #[test]
    fn containers_and_prefixes() {
        assert_eq!(split_uri("swift://c", "").unwrap(), ("c".into(), String::new()));
        assert_eq!(split_uri("swift://c.with.dots/p%20/q/", "").unwrap(), ("c.with.dots".into(), "p%20/q".into()));
        for bad in ["swift://", "swift:///p", "swift://k:s@c/p", "swift://c/../d", "swift://c//p"] {
            assert!(matches!(split_uri(bad, bad), Err(Error::InvalidUri { .. })), "{bad}");
        }
    }

    #[test]
    fn what_is_missing_is_named_and_secrets_are_not() {
        let option_of = |own: &[(&str, &str)]| match refused(own) {
            Error::InvalidOption { option, .. } => option,
            other => panic!("{other:?}"),
        };
        assert_eq!(option_of(&[]), "os_auth_url");
        assert_eq!(option_of(&V1[..2]), "swift_key");
        assert_eq!(option_of(&[("os_auth_url", "https://h")]), "os_username");
        assert_eq!(option_of(&[("os_auth_url", "https://h"), ("os_username", "u")]), "os_password");
        let secret = ("os_application_credential_secret", "hidden-value");
        assert_eq!(option_of(&[("os_auth_url", "https://h"), secret]), "os_application_credential_id");
        assert_eq!(option_of(&[("swift_storage_url", "https://h/v1/a")]), "swift_token");
        let error = refused(&[("swift_auth_url", "http://h:1"), ("swift_user", "u"), ("swift_key", "hidden-value")]);
        assert!(
            error.to_string().contains("swift_allow_http=true") && !format!("{error:?}").contains("hidden"),
            "{error}"
        );
        let error = refused(&[("swift_auth_url", "https://u:hidden-value@h"), V1[1], V1[2]]);
        assert!(matches!(&error, Error::InvalidOption { .. }) && !format!("{error:?}").contains("hidden"), "{error}");
        let error = refused(&[("os_pasword", "hidden-value")]);
        assert!(error.to_string().contains("did you mean os_password?"), "{error}");
    }

    #[test]
    fn a_provider_of_hadoop_is_taken_from_the_container() {
        let settings = |pairs: &[(&str, &str)], host: &str| of_provider(host.into(), map(pairs), "swift://…");
        assert_eq!(settings(&[], "c.with.dots").unwrap(), ("c.with.dots".into(), BTreeMap::new()));
        let (container, meant) = settings(
            &[
                ("fs.swift.service.rack.auth.url", "https://k:5000/v2.0/tokens"),
                ("fs.swift.service.rack.tenant", "t"),
                ("fs.swift.service.rack.public", "true"),
            ],
            "my.data.rack",
        )
        .unwrap();
        let expected = [("os_auth_url", "https://k:5000"), ("os_project_name", "t"), ("os_interface", "public")];
        assert_eq!((container.as_str(), meant), ("my.data", map(&expected)));
        let error = settings(&[("fs.swift.service.other.tenant", "hidden-value")], "c.rack").unwrap_err();
        assert!(error.to_string().contains("not of the provider rack"), "{error}");
        let error = settings(&[("fs.swift.service.rack.apikey", "hidden-value")], "c.rack").unwrap_err();
        assert!(matches!(&error, Error::UnknownOption { .. }) && !error.to_string().contains("hidden"), "{error}");
        let error = settings(&[("fs.swift.service.rack.tenant", "t")], "c").unwrap_err();
        assert!(error.to_string().contains("swift://container.PROVIDER/path"), "{error}");
    }

    /// Half of another program's credentials would only break what was meant.
    #[test]
    fn the_environment_fills_what_is_open_and_mixes_nothing() {
        let theirs =
            map(&[("os_auth_url", "https://k"), ("os_username", "u"), ("os_password", "p"), ("os_region_name", "R")]);
        let settings = Settings::new(BTreeMap::new(), theirs.clone(), String::new());
        let Way::Keystone { url, region, interface, .. } = settings.way().unwrap() else { panic!("no Keystone") };
        assert_eq!((url.as_str(), region.as_deref(), interface.as_str()), ("https://k/v3", Some("R"), "public"));
        let settings = Settings::new(map(&V1), theirs, String::new());
        assert!(matches!(settings.way().unwrap(), Way::V1 { .. }));
        assert!(settings.get("os_username").is_none() && settings.get("os_region_name") == Some("R"));
    }

    #[test]
    fn the_document_lists_every_option() {
        let aliases = crate::swift::ALIASES.iter().map(|alias| alias.name);
        crate::document::lists("OpenStack Swift", OPTIONS.iter().map(|(name, _)| *name).chain(aliases));
    }
}
