//! `oss://`: from URI and options to a connected store.
//!
//! Keys are those of the options; else those of the environment (`ALIBABA_CLOUD_*`, `OSS_*`); else of a role that is taken
//! on with an OIDC token, as pods are told by their environment; else of the RAM role of the machine. Nothing is sent
//! here: [`crate::UnderStore::check`] does.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use object_store::client::{ClientConfigKey, ClientOptions, HttpConnector};
use url::{Host, Url};

use super::{
    S3,
    client::Client,
    connect::{Mount, environment, is_true},
    dialect,
    keys::{KeySource, V4Signer},
    ram::{Ram, Role},
    temporary::Temporary,
    v4::{Keys, OSS4},
};
use crate::{
    Advice, MountSpec, Result, Secret, TrafficSettings,
    alias::{Alias, Given},
    object::Objects,
    redact,
    web::{CA_FILE, Signer, Web, chain},
};

/// An option, and the variables of the environment that stand for it, the first first.
struct Setting {
    name: &'static str,
    variables: &'static [&'static str],
    group: Group,
}

/// What is taken from the environment whole or not at all: a token of the environment beside keys of the options, or
/// another program's endpoint, would only break what was meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    Keys,
    Place,
    Other,
}

const ENDPOINT: &str = "oss_endpoint";
const REGION: &str = "oss_region";
const STYLE: &str = "oss_addressing_style";
const ID: &str = "oss_access_key_id";
const SECRET: &str = "oss_access_key_secret";
const TOKEN: &str = "oss_security_token";
const ROLE_ARN: &str = "oss_role_arn";
const PROVIDER_ARN: &str = "oss_oidc_provider_arn";
const TOKEN_FILE: &str = "oss_oidc_token_file";
const STS_ENDPOINT: &str = "oss_sts_endpoint";
const MACHINE_ROLE: &str = "oss_ecs_role";
const METADATA_ENDPOINT: &str = "oss_metadata_endpoint";
const SKIP_SIGNATURE: &str = "oss_skip_signature";
const REQUEST_PAYER: &str = "oss_request_payer";
const ALLOW_HTTP: &str = "oss_allow_http";

const SETTINGS: [Setting; 15] = [
    Setting { name: ENDPOINT, variables: &["oss_endpoint"], group: Group::Place },
    Setting { name: REGION, variables: &["oss_region"], group: Group::Place },
    Setting { name: STYLE, variables: &[], group: Group::Place },
    Setting { name: ALLOW_HTTP, variables: &[], group: Group::Place },
    Setting { name: ID, variables: &["alibaba_cloud_access_key_id", "oss_access_key_id"], group: Group::Keys },
    Setting {
        name: SECRET,
        variables: &["alibaba_cloud_access_key_secret", "oss_access_key_secret"],
        group: Group::Keys,
    },
    Setting {
        name: TOKEN,
        variables: &["alibaba_cloud_security_token", "oss_security_token", "oss_session_token"],
        group: Group::Keys,
    },
    Setting { name: ROLE_ARN, variables: &["alibaba_cloud_role_arn"], group: Group::Keys },
    Setting { name: PROVIDER_ARN, variables: &["alibaba_cloud_oidc_provider_arn"], group: Group::Keys },
    Setting { name: TOKEN_FILE, variables: &["alibaba_cloud_oidc_token_file"], group: Group::Keys },
    Setting { name: MACHINE_ROLE, variables: &["alibaba_cloud_ecs_metadata"], group: Group::Keys },
    Setting { name: SKIP_SIGNATURE, variables: &[], group: Group::Keys },
    Setting { name: STS_ENDPOINT, variables: &[], group: Group::Other },
    Setting { name: METADATA_ENDPOINT, variables: &[], group: Group::Other },
    Setting { name: REQUEST_PAYER, variables: &[], group: Group::Other },
];

/// Alluxio's and Hadoop's names.
pub(crate) const ALIASES: &[Alias] = &[
    Alias::same("fs.oss.accessKeyId", ID),
    Alias::same("fs.oss.accessKeySecret", SECRET),
    Alias::same("fs.oss.securityToken", TOKEN),
    Alias::same("fs.oss.endpoint", ENDPOINT),
];

/// Where keys for a while are had.
const STS: &str = "https://sts.aliyuncs.com";
const METADATA: &str = "http://100.100.100.200";

static ADVICE: Advice = Advice {
    bucket: "bucket",
    missing_bucket: "create it, or check its name and oss_endpoint",
    unreachable: "check oss_endpoint and the network",
    wrong_keys: "check oss_access_key_id, oss_access_key_secret and, of keys for a while, oss_security_token",
    missing_keys: "set oss_access_key_id and oss_access_key_secret, or oss_skip_signature=true for a public bucket",
    wrong_region: "set oss_endpoint and oss_region to the bucket's own",
};

/// Of whoever gives keys.
static KEYS_ADVICE: Advice = Advice { unreachable: "nobody gives keys there", ..ADVICE };

type Settings = HashMap<&'static str, Secret>;

/// Gives everything the names of our own.
pub(crate) fn translate(spec: &MountSpec) -> Result<MountSpec> {
    let same = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.strip_prefix("oss_").map(str::to_owned).unwrap_or(name)
    };
    Ok(Given::of(spec, same)?.translated(ALIASES)?.into_spec(spec))
}

/// Reads `oss://bucket[/prefix]` and its options; `oss://bucket.oss-cn-hangzhou.aliyuncs.com[/prefix]` names the endpoint,
/// too, since buckets have no dots in their names.
pub(crate) fn open(uri: &str, options: &BTreeMap<String, Secret>) -> Result<Objects> {
    let mut mount = Mount::read(uri, options)?;
    let (mut own, others) = split(&mount)?;
    if let Some((bucket, endpoint)) = mount.bucket.clone().split_once('.') {
        mount.bucket = bucket.to_owned();
        own.entry(ENDPOINT).or_insert_with(|| Secret::new(endpoint));
    }
    let settings: Settings = from_environment(&own).into_iter().chain(own).collect();
    let client_options = others
        .iter()
        .fold(mount.client_options.clone(), |options, (key, value)| options.with_config(*key, value.expose()));
    let place = Place::find(&settings, &mount)?;
    let client_options = client_options.with_allow_http(place.endpoint.scheme() == "http");
    let source = source_of_keys(&settings, &mount, &client_options)?;
    let (http, traffic) = connected(&mount, &client_options)?;
    let endpoint = place.endpoint.as_str().trim_end_matches('/').to_owned();
    let signer = source.map(|source| {
        let (region, root) = (place.region.clone(), place.root.clone());
        let endpoint = endpoint.clone();
        let signer = V4Signer { source, scheme: &OSS4, region, root, signs_content: false, endpoint, advice: &ADVICE };
        Arc::new(signer) as Arc<dyn Signer>
    });
    let web = Web::new(http, traffic.clone(), endpoint, &ADVICE, signer);
    let payer = is_set(&settings, REQUEST_PAYER).then(|| "requester".to_owned());
    let Place { region, bucket_url, .. } = place;
    let client = Client { web, dialect: &dialect::OSS, region, bucket: mount.bucket, bucket_url, payer };
    let s3 = S3::new(client, dialect::OSS.rules);
    Ok(Objects::new(redact(uri), mount.prefix, traffic, Box::new(s3)))
}

/// Takes the options apart into ours and those of connections.
fn split(mount: &Mount) -> Result<(Settings, Vec<(ClientConfigKey, Secret)>)> {
    let (mut own, mut others) = (Settings::new(), Vec::new());
    for (name, value) in &mount.options {
        let bare = name.strip_prefix("oss_").unwrap_or(name);
        if let Some(setting) = SETTINGS.iter().find(|setting| setting.name.strip_prefix("oss_") == Some(bare)) {
            own.insert(setting.name, value.clone());
        } else if let Ok(key) = bare.parse() {
            others.push((key, value.clone()));
        } else {
            let known: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).chain([CA_FILE]).collect();
            return Err(TrafficSettings::unknown_option(name, &known, &mount.shown));
        }
    }
    Ok((own, others))
}

fn from_environment(own: &Settings) -> Settings {
    let has = |group| SETTINGS.iter().any(|setting| setting.group == group && own.contains_key(setting.name));
    let variables: HashMap<String, Secret> = environment().collect();
    let wanted = SETTINGS.iter().filter(|setting| setting.group == Group::Other || !has(setting.group));
    let found = wanted.filter_map(|setting| {
        let value = setting.variables.iter().find_map(|name| variables.get(*name))?;
        Some((setting.name, value.clone()))
    });
    found.collect()
}

fn is_set(settings: &Settings, name: &str) -> bool {
    settings.get(name).is_some_and(|value| is_true(value.expose()))
}

/// Where the bucket is.
#[derive(Debug)]
struct Place {
    endpoint: Url,
    region: String,
    bucket_url: String,
    /// What the server reads before the path of a request.
    root: String,
}

impl Place {
    fn find(settings: &Settings, mount: &Mount) -> Result<Self> {
        let setting = |name| settings.get(name).map(Secret::expose);
        // People write regions as endpoints have them.
        let region = setting(REGION).map(|region| region.strip_prefix("oss-").unwrap_or(region).to_owned());
        let endpoint = match (setting(ENDPOINT), &region) {
            (Some(endpoint), _) if endpoint.contains("://") => endpoint.to_owned(),
            (Some(endpoint), _) => format!("https://{endpoint}"),
            (None, Some(region)) => format!("https://oss-{region}.aliyuncs.com"),
            (None, None) => return Err(mount.invalid(ENDPOINT, "neither it nor oss_region is set; set one of them")),
        };
        mount.check_endpoint(ENDPOINT, &endpoint, is_set(settings, ALLOW_HTTP), ALLOW_HTTP)?;
        let invalid = |error: &dyn std::fmt::Display| mount.invalid(ENDPOINT, error.to_string());
        let endpoint = Url::parse(&endpoint).map_err(|error| invalid(&error))?;
        let host = endpoint.host().ok_or_else(|| invalid(&"it names no host"))?;
        let region = region.or_else(|| region_of(&host)).or_else(|| is_set(settings, SKIP_SIGNATURE).then(String::new));
        let region = region.ok_or_else(|| mount.invalid(REGION, "the endpoint does not tell it; set it"))?;
        let bucket = &mount.bucket;
        let style = setting(STYLE).map(str::to_ascii_lowercase);
        let is_address = !matches!(host, Host::Domain(name) if name.parse::<IpAddr>().is_err());
        let authority = &endpoint[url::Position::BeforeHost..url::Position::AfterPort];
        let (bucket_url, root) = match style.as_deref() {
            Some("path") => (format!("{}://{authority}/{bucket}", endpoint.scheme()), String::new()),
            None if is_address => (format!("{}://{authority}/{bucket}", endpoint.scheme()), String::new()),
            Some("virtual") | None => (format!("{}://{bucket}.{authority}", endpoint.scheme()), format!("/{bucket}")),
            Some("cname") => (format!("{}://{authority}", endpoint.scheme()), format!("/{bucket}")),
            Some(_) => return Err(mount.invalid(STYLE, "it is neither virtual, path nor cname")),
        };
        Ok(Self { endpoint, region, bucket_url, root })
    }
}

/// The region that an endpoint tells: `oss-cn-hangzhou[-internal].aliyuncs.com`, `cn-hangzhou.oss.aliyuncs.com`.
fn region_of(host: &Host<&str>) -> Option<String> {
    let Host::Domain(name) = host else { return None };
    let (first, rest) = name.split_once('.')?;
    if !name.ends_with(".aliyuncs.com") {
        return None;
    }
    let region = match first.strip_prefix("oss-") {
        Some(region) => region.strip_suffix("-internal").unwrap_or(region),
        None if rest.starts_with("oss.") => first,
        None => return None,
    };
    // One endpoint for all regions tells none.
    (!region.starts_with("accelerate")).then(|| region.to_owned())
}

/// None where requests are not signed.
fn source_of_keys(
    settings: &Settings,
    mount: &Mount,
    client_options: &ClientOptions,
) -> Result<Option<Box<dyn KeySource>>> {
    if is_set(settings, SKIP_SIGNATURE) {
        return Ok(None);
    }
    let half = |missing| Err(mount.invalid(missing, "it is not set, and its other half is; set both or neither"));
    match (settings.get(ID), settings.get(SECRET)) {
        (Some(id), Some(secret)) => {
            let token = settings.get(TOKEN).filter(|token| !token.expose().is_empty()).cloned();
            return Ok(Some(Box::new(Arc::new(Keys { id: id.clone(), secret: secret.clone(), token }))));
        }
        (None, Some(_)) => return half(ID),
        (Some(_), None) => return half(SECRET),
        (None, None) => {}
    }
    let text = |name| settings.get(name).map(|value: &Secret| value.expose().to_owned());
    let (role, server) = match (text(ROLE_ARN), text(PROVIDER_ARN), text(TOKEN_FILE)) {
        (Some(role_arn), Some(provider_arn), Some(token_file)) => {
            let role = Role::Oidc { role_arn, provider_arn, token_file: token_file.into() };
            (role, text(STS_ENDPOINT).unwrap_or_else(|| STS.to_owned()))
        }
        _ => {
            let server = text(METADATA_ENDPOINT).unwrap_or_else(|| METADATA.to_owned());
            (Role::Machine { name: text(MACHINE_ROLE) }, server)
        }
    };
    let server = server.trim_end_matches('/').to_owned();
    let (http, traffic) = connected(mount, &client_options.clone().with_allow_http(server.starts_with("http:")))?;
    Ok(Some(Box::new(Temporary::new(Ram { role, server: Web::new(http, traffic, server, &KEYS_ADVICE, None) }))))
}

/// A connection of its own to one server.
fn connected(mount: &Mount, options: &ClientOptions) -> Result<(object_store::client::HttpClient, crate::Traffic)> {
    let failed = |error: object_store::Error| mount.invalid("one of the oss_* options", chain(&error));
    mount.governor.connect(options).map_err(failed)?;
    Ok(mount.governor.last().expect("it has just connected"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::mount::options;

    fn place(uri: &str, pairs: &[(&str, &str)]) -> Result<(String, String, String)> {
        let mut mount = Mount::read(uri, &options(pairs))?;
        let (mut own, _) = split(&mount)?;
        if let Some((bucket, endpoint)) = mount.bucket.clone().split_once('.') {
            mount.bucket = bucket.to_owned();
            own.entry(ENDPOINT).or_insert_with(|| Secret::new(endpoint));
        }
        Place::find(&own, &mount).map(|place| (place.bucket_url, place.region, place.root))
    }

    #[test]
    fn a_bucket_is_found_by_region_endpoint_or_its_own_name() {
        let found = |uri: &str, pairs: &[(&str, &str)]| place(uri, pairs).unwrap();
        let is = |url: &str, region: &str, root: &str| (url.to_owned(), region.to_owned(), root.to_owned());
        let hangzhou = is("https://b.oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou", "/b");
        assert_eq!(found("oss://b", &[("oss_region", "cn-hangzhou")]), hangzhou);
        assert_eq!(found("oss://b", &[("oss_region", "oss-cn-hangzhou")]), hangzhou);
        assert_eq!(found("oss://b", &[("oss_endpoint", "oss-cn-hangzhou.aliyuncs.com")]), hangzhou);
        assert_eq!(found("oss://b.oss-cn-hangzhou.aliyuncs.com/p", &[]), hangzhou);
        let internal = found("oss://b", &[("oss_endpoint", "https://oss-cn-hangzhou-internal.aliyuncs.com")]);
        assert_eq!(internal, is("https://b.oss-cn-hangzhou-internal.aliyuncs.com", "cn-hangzhou", "/b"));
        let dual = found("oss://b", &[("oss_endpoint", "cn-beijing.oss.aliyuncs.com")]);
        assert_eq!(dual, is("https://b.cn-beijing.oss.aliyuncs.com", "cn-beijing", "/b"));
        let local = [("oss_endpoint", "http://127.0.0.1:99"), ("oss_region", "x"), ("oss_allow_http", "true")];
        assert_eq!(found("oss://b", &local), is("http://127.0.0.1:99/b", "x", ""));
        let own = [("oss_endpoint", "data.example.com"), ("oss_region", "x"), ("oss_addressing_style", "cname")];
        assert_eq!(found("oss://b", &own), is("https://data.example.com", "x", "/b"));
        let path = [("oss_endpoint", "h.example.com"), ("oss_region", "x"), ("oss_addressing_style", "path")];
        assert_eq!(found("oss://b", &path), is("https://h.example.com/b", "x", ""));
    }

    #[test]
    fn wrong_options_are_named_and_secrets_are_not() {
        let refused = |pairs: &[(&str, &str)]| {
            let error = open("oss://b", &options(pairs)).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(!text.contains("hidden"), "{text}");
            (error, text)
        };
        let named = |pairs: &[(&str, &str)]| match refused(pairs) {
            (Error::InvalidOption { option, .. }, _) => option,
            (other, _) => panic!("{other}"),
        };
        let (error, text) = refused(&[("oss_access_key_secert", "hidden-value")]);
        assert!(matches!(error, Error::UnknownOption { .. }) && text.contains("did you mean oss_access_key_secret?"));
        let region = ("oss_region", "cn-hangzhou");
        assert_eq!(named(&[region, (ID, "LTAI")]), SECRET);
        assert_eq!(named(&[region, (SECRET, "hidden-value")]), ID);
        assert_eq!(named(&[(ENDPOINT, "oss-accelerate.aliyuncs.com")]), REGION);
        assert_eq!(named(&[(ENDPOINT, "https://id:hidden-value@host")]), ENDPOINT);
        assert_eq!(named(&[region, (STYLE, "odd")]), STYLE);
        assert!(refused(&[(ENDPOINT, "http://127.0.0.1:1"), region]).1.contains("oss_allow_http=true"));
    }

    #[test]
    fn the_document_lists_every_option() {
        let aliases = ALIASES.iter().map(|alias| alias.name);
        let names = SETTINGS.iter().map(|setting| setting.name).chain([CA_FILE]).chain(aliases);
        crate::document::lists("Alibaba OSS", names);
    }
}
