//! `s3://`: from URI and options to a connected store.
//!
//! Options have `object_store`'s names (`aws_endpoint`, `aws_access_key_id`, …). What the options leave open is taken
//! from the environment (`AWS_*`), as every S3 tool does. Keys are those of the options; else those of the profile that an
//! option names; else those of the environment, be they keys, a web identity or a container's; else those of the profile
//! that the environment names, or `default`; else those of the machine. `role.rs` asks for those that last for a while. A
//! profile that gives keys gives region and endpoint, too, where nothing else does. Nothing is sent here:
//! [`crate::UnderStore::check`] does.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use object_store::{
    StaticCredentialProvider,
    aws::{AmazonS3Builder, AmazonS3ConfigKey as Key, AwsCredential},
    client::{ClientConfigKey, HttpConnector},
};

use super::{
    S3,
    client::Client,
    connect::{Mount, environment, is_true},
    dialect,
    keys::{KeySource, V4Signer},
    profile::{Found, Profile, ProfileKeys},
    role::{Amazon, CONTAINERS, MACHINES, Proof, Role, container_at},
    temporary::Temporary,
    v4::{AWS4, Keys},
};
use crate::{
    Advice, Compares, Result, Secret, TrafficSettings,
    object::{Objects, Rules},
    redact,
    web::{CA_FILE, Signer, Web, chain},
};

/// What users most often set; the advice for an unknown option names the nearest of these.
const USUAL: &[&str] = &[
    "aws_endpoint",
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    PROFILE,
    CREDENTIALS_FILE,
    CONFIG_FILE,
    "aws_region",
    "aws_allow_http",
    "aws_virtual_hosted_style_request",
    "aws_skip_signature",
    "aws_unsigned_payload",
    "aws_request_payer",
    "aws_web_identity_token_file",
    "aws_role_arn",
    CA_FILE,
    "allow_invalid_certificates",
    "proxy_url",
];

/// Options of ours.
const PROFILE: &str = "aws_profile";
const CREDENTIALS_FILE: &str = "aws_shared_credentials_file";
const CONFIG_FILE: &str = "aws_config_file";
/// The variable by which Amazon's tools are told of authorities, and what it is in a profile.
const CA_BUNDLE: &str = "AWS_CA_BUNDLE";
const PROFILE_CA_BUNDLE: &str = "ca_bundle";

static ADVICE: Advice = Advice {
    bucket: "bucket",
    missing_bucket: "create it, or check its name and aws_endpoint",
    unreachable: "check that it runs, aws_endpoint and the network",
    wrong_keys: "check aws_access_key_id and aws_secret_access_key, or what the profile holds",
    missing_keys: "set aws_access_key_id and aws_secret_access_key, or aws_profile, \
                   or aws_skip_signature=true for a public bucket",
    wrong_region: "set aws_region",
};

/// Of whoever gives keys.
static KEYS_ADVICE: Advice = Advice { unreachable: "nobody gives keys there", ..ADVICE };

type Settings = HashMap<Key, Secret>;

/// Reads `s3://bucket[/prefix]` and its options.
pub(crate) fn open(uri: &str, options: &BTreeMap<String, Secret>) -> Result<Objects> {
    let (s3, prefix) = connect(uri, options)?;
    let traffic = s3.client.web.traffic.clone();
    Ok(Objects::new(redact(uri), prefix, traffic, Box::new(s3)))
}

/// The bucket of a URI, and the prefix in it.
pub(crate) fn connect(uri: &str, options: &BTreeMap<String, Secret>) -> Result<(S3, String)> {
    let mut mount = Mount::read(uri, options)?;
    let ours = [PROFILE, CREDENTIALS_FILE, CONFIG_FILE].map(|name| mount.options.remove(name));
    let own: Settings = mount
        .options
        .iter()
        .map(|(name, value)| Ok((option_key(name, &mount)?, value.clone())))
        .collect::<Result<_>>()?;
    let own_keys: Vec<Key> = own.keys().copied().collect();
    let mut settings: Settings = from_environment(&own, ours[0].is_some()).into_iter().chain(own).collect();
    check_companions(&own_keys, &settings, &mount)?;
    let profile = profile(ours, &settings, &mount)?;
    if let Some((_, found)) = &profile {
        take_from_profile(&mut settings, found);
    }
    let of_profile = || profile.as_ref().and_then(|(_, found)| found.get(PROFILE_CA_BUNDLE)).map(str::to_owned);
    if let Some(file) = variable(CA_BUNDLE).or_else(of_profile) {
        mount.trust(CA_BUNDLE, &file)?;
    }
    let setting = |key: Key| settings.get(&key).map(Secret::expose);
    let is_set = |key: Key| setting(key).is_some_and(is_true);
    let region = setting(Key::Region).or(setting(Key::DefaultRegion)).unwrap_or("us-east-1").to_owned();
    let custom = setting(Key::S3Endpoint).or(setting(Key::Endpoint)).map(|endpoint| endpoint.trim_end_matches('/'));
    if let Some(endpoint) = custom {
        let allow_http = is_set(Key::Client(ClientConfigKey::AllowHttp));
        mount.check_endpoint("aws_endpoint", endpoint, allow_http, "aws_allow_http")?;
    }
    let bucket = mount.bucket.clone();
    let bucket_url = match (custom, is_set(Key::VirtualHostedStyleRequest)) {
        (Some(endpoint), true) => endpoint.to_owned(),
        (Some(endpoint), false) => format!("{endpoint}/{bucket}"),
        (None, true) => format!("https://{bucket}.s3.{region}.amazonaws.com"),
        (None, false) => format!("https://s3.{region}.amazonaws.com/{bucket}"),
    };
    let endpoint = custom.map_or_else(|| format!("https://s3.{region}.amazonaws.com"), str::to_owned);
    let static_keys = static_keys(&settings, &mount)?;
    builder(&settings, &mount).build().map_err(|error| mount.invalid("one of the aws_* options", chain(&error)))?;
    let (http, traffic) = mount.governor.last().expect("the builder connects before it returns");
    let profile = profile.filter(|_| !settings.keys().any(is_credential));
    let source: Box<dyn KeySource> = match (static_keys, profile) {
        (Some(keys), _) => Box::new(Arc::new(keys)),
        (None, Some((profile, found))) => Box::new(keys_of_profile(profile, &found, &mount)?),
        (None, None) => Box::new(keys_of_role(&settings, &region, &mount)?),
    };
    let signer = V4Signer {
        source,
        scheme: &AWS4,
        region: region.clone(),
        root: String::new(),
        signs_content: !is_set(Key::UnsignedPayload),
        endpoint: endpoint.clone(),
        advice: &ADVICE,
    };
    let signer = (!is_set(Key::SkipSignature)).then(|| Arc::new(signer) as Arc<dyn Signer>);
    let web = Web::new(http, traffic, endpoint, &ADVICE, signer);
    let payer = is_set(Key::RequestPayer).then(|| "requester".to_owned());
    let client = Client { web, dialect: &dialect::S3, region, bucket, bucket_url, payer };
    // Only Amazon's own promise on the end of uploads can be relied on.
    let complete = if custom.is_none() { Compares::Atomically } else { dialect::S3.rules.complete };
    Ok((S3::new(client, Rules { complete, ..dialect::S3.rules }), mount.prefix))
}

/// Refuses options that say nothing without another one, which is not there: whoever gives them means something by them.
fn check_companions(own: &[Key], settings: &Settings, mount: &Mount) -> Result<()> {
    const TOKEN: &str = "it needs aws_web_identity_token_file, which is not set: a role is taken on with a token only";
    const CONTAINER: &str = "it needs aws_container_credentials_relative_uri or aws_container_credentials_full_uri";
    let needs: [(Key, &str, &[Key], &str); 3] = [
        (Key::RoleArn, "aws_role_arn", &[Key::WebIdentityTokenFile], TOKEN),
        (Key::RoleSessionName, "aws_role_session_name", &[Key::WebIdentityTokenFile], TOKEN),
        (
            Key::ContainerAuthorizationTokenFile,
            "aws_container_authorization_token_file",
            &[Key::ContainerCredentialsRelativeUri, Key::ContainerCredentialsFullUri],
            CONTAINER,
        ),
    ];
    for (key, name, others, reason) in needs {
        if own.contains(&key) && !others.iter().any(|other| settings.contains_key(other)) {
            return Err(mount.invalid(name, reason));
        }
    }
    Ok(())
}

/// The keys that are given as such. They go no further than to our own signatures.
fn static_keys(settings: &Settings, mount: &Mount) -> Result<Option<Keys>> {
    let half = |missing| Err(mount.invalid(missing, "it is not set, and its other half is; set both or neither"));
    match (settings.get(&Key::AccessKeyId), settings.get(&Key::SecretAccessKey)) {
        (Some(id), Some(secret)) => {
            let token = settings.get(&Key::Token).cloned();
            Ok(Some(Keys { id: id.clone(), secret: secret.clone(), token }))
        }
        (None, Some(_)) => half("aws_access_key_id"),
        (Some(_), None) => half("aws_secret_access_key"),
        (None, None) => Ok(None),
    }
}

/// The keys of the role that a pod, a container or a machine is told to have.
fn keys_of_role(settings: &Settings, region: &str, mount: &Mount) -> Result<Temporary<Amazon>> {
    const STS_ENDPOINT: &str = "aws_endpoint_url_sts";
    /// Near servers answer at once or are not there.
    const NEAR_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
    let setting = |key: Key| settings.get(&key).map(|value| value.expose().to_owned());
    let is_set = |key: Key| settings.get(&key).is_some_and(|value| is_true(value.expose()));
    let (role, server, allows_http) = if let Some(file) = setting(Key::WebIdentityTokenFile) {
        let missing = || mount.invalid("aws_role_arn", "it is not set, and aws_web_identity_token_file is; set both");
        let role_arn = setting(Key::RoleArn).ok_or_else(missing)?;
        let session = setting(Key::RoleSessionName).unwrap_or_else(|| "citius".to_owned());
        let server = setting(Key::StsEndpoint).unwrap_or_else(|| format!("https://sts.{region}.amazonaws.com"));
        let allows_http = is_set(Key::Client(ClientConfigKey::AllowHttp));
        mount.check_endpoint(STS_ENDPOINT, &server, allows_http, "aws_allow_http")?;
        (Role::WebIdentity { role_arn, token_file: file.into(), session }, server, allows_http)
    } else if let Some(path) = setting(Key::ContainerCredentialsRelativeUri) {
        (Role::Container { path, proof: proof_of_container(settings) }, CONTAINERS.to_owned(), true)
    } else if let Some(uri) = setting(Key::ContainerCredentialsFullUri) {
        let invalid = |reason: String| mount.invalid("aws_container_credentials_full_uri", reason);
        let (server, path) = container_at(&uri).map_err(invalid)?;
        (Role::Container { path, proof: proof_of_container(settings) }, server, true)
    } else {
        let server = setting(Key::MetadataEndpoint).unwrap_or_else(|| MACHINES.to_owned());
        (Role::Machine { may_lack_session: is_set(Key::ImdsV1Fallback) }, server, true)
    };
    let mut options = mount.client_options.clone();
    for (key, value) in settings {
        if let Key::Client(key) = key {
            options = options.with_config(*key, value.expose());
        }
    }
    options = options.with_allow_http(allows_http);
    if !matches!(role, Role::WebIdentity { .. }) {
        options = options.with_connect_timeout(NEAR_CONNECT_TIMEOUT);
    }
    let failed = |error: object_store::Error| mount.invalid("one of the aws_* options", chain(&error));
    mount.governor.connect(&options).map_err(failed)?;
    let (http, traffic) = mount.governor.last().expect("it has just connected");
    let server = Web::new(http, traffic, server.trim_end_matches('/').to_owned(), &KEYS_ADVICE, None);
    Ok(Temporary::new(Amazon { role, server }))
}

/// What a container is told to show; a token that is kept fresh goes before one that stays.
fn proof_of_container(settings: &Settings) -> Proof {
    let given = || std::env::var("AWS_CONTAINER_AUTHORIZATION_TOKEN").ok().filter(|token| !token.is_empty());
    match settings.get(&Key::ContainerAuthorizationTokenFile) {
        Some(file) => Proof::TokenIn(file.expose().into()),
        None => given().map_or(Proof::Nothing, |token| Proof::Token(Secret::new(token))),
    }
}

/// What gives connections. Keys are found without it.
fn builder(settings: &Settings, mount: &Mount) -> AmazonS3Builder {
    let builder = AmazonS3Builder::new()
        .with_client_options(mount.client_options.clone())
        .with_retry(mount.retry.clone())
        .with_bucket_name(&mount.bucket)
        .with_http_connector(mount.governor.clone());
    let none = AwsCredential { key_id: String::new(), secret_key: String::new(), token: None };
    let builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(none)));
    let others = settings.iter().filter(|(key, _)| !is_credential(key));
    others.fold(builder, |builder, (key, value)| builder.with_config(*key, value.expose()))
}

/// What the environment adds. Keys and endpoints are taken from it whole or not at all: a session token of the
/// environment beside keys of the options, or another program's endpoint, would only break what was meant.
fn from_environment(settings: &Settings, has_profile: bool) -> Settings {
    let own_keys = has_profile || settings.keys().any(is_credential);
    let own_endpoint = settings.keys().any(is_endpoint);
    environment()
        .filter(|(name, _)| name.starts_with("aws_"))
        .filter_map(|(name, value)| Some((name.parse().ok()?, value)))
        .filter(|(key, _)| !matches!(key, Key::Bucket) && !is_unsupported(key))
        .filter(|(key, _)| !(own_keys && is_credential(key) || own_endpoint && is_endpoint(key)))
        .collect()
}

/// The profile that gives keys, if one does: the one that is named by option; or, where nothing else gives any, by the
/// environment; or the default one, if it is there. `options` are its name and the files.
fn profile(options: [Option<Secret>; 3], settings: &Settings, mount: &Mount) -> Result<Option<(Profile, Found)>> {
    let has_keys = settings.keys().any(is_credential);
    let [named, credentials, config] = options.map(|value| value.map(|value| value.expose().to_owned()));
    if named.is_none() && has_keys {
        return Ok(None);
    }
    let name = named.or_else(|| variable("AWS_PROFILE")).or_else(|| variable("AWS_DEFAULT_PROFILE"));
    let is_named = name.is_some();
    let file = |given: Option<String>, name: &str, usual: &str| {
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".aws").join(usual));
        given.or_else(|| variable(name)).map(PathBuf::from).or_else(home).unwrap_or_default()
    };
    let profile = Profile {
        name: name.unwrap_or_else(|| "default".to_owned()),
        credentials: file(credentials, "AWS_SHARED_CREDENTIALS_FILE", "credentials"),
        config: file(config, "AWS_CONFIG_FILE", "config"),
    };
    let found = profile.read().map_err(|reason| mount.invalid(PROFILE, reason))?;
    if !found.is_there && is_named {
        let Profile { name, credentials, config } = &profile;
        let (credentials, config) = (credentials.display(), config.display());
        let reason = format!("neither {credentials} nor {config} has a profile \"{name}\"; name one that is there");
        return Err(mount.invalid(PROFILE, reason));
    }
    // A default profile may hold a region only; keys are then looked for elsewhere.
    let gives_keys = found.other_way().is_some() || found.keys() != Ok(None);
    let is_wanted = found.is_there && (gives_keys || found.get("web_identity_token_file").is_some() || is_named);
    Ok(is_wanted.then_some((profile, found)))
}

/// What a profile adds to settings that leave it open.
fn take_from_profile(settings: &mut Settings, found: &Found) {
    let mut wanted = Vec::new();
    if !settings.contains_key(&Key::DefaultRegion) {
        wanted.push((Key::Region, "region"));
    }
    if !settings.contains_key(&Key::S3Endpoint) {
        wanted.push((Key::Endpoint, "endpoint_url"));
    }
    if found.get("web_identity_token_file").is_some() && found.keys() == Ok(None) {
        wanted.push((Key::WebIdentityTokenFile, "web_identity_token_file"));
        wanted.extend([(Key::RoleArn, "role_arn"), (Key::RoleSessionName, "role_session_name")]);
    }
    for (key, name) in wanted {
        if let Some(value) = found.get(name) {
            settings.entry(key).or_insert_with(|| Secret::new(value));
        }
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn keys_of_profile(profile: Profile, found: &Found, mount: &Mount) -> Result<ProfileKeys> {
    let refuse = |reason: String| Err(mount.invalid(PROFILE, format!("of profile \"{}\": {reason}", profile.name)));
    match (found.keys(), found.other_way()) {
        (Ok(Some(keys)), _) => Ok(ProfileKeys::new(profile, keys)),
        (Err(reason), _) => refuse(reason),
        (Ok(None), Some(way)) => {
            let file = profile.credentials.display();
            refuse(format!("{way} is not followed here; have a tool write the keys to {file}, or give them as options"))
        }
        (Ok(None), None) => refuse("it holds no keys; write aws_access_key_id and aws_secret_access_key".to_owned()),
    }
}

/// What would have to be said on every request that we sign ourselves, and is not.
fn is_unsupported(key: &Key) -> bool {
    matches!(key, Key::S3Express | Key::Checksum | Key::Encryption(_))
}

fn is_credential(key: &Key) -> bool {
    matches!(
        key,
        Key::AccessKeyId
            | Key::SecretAccessKey
            | Key::Token
            | Key::WebIdentityTokenFile
            | Key::RoleArn
            | Key::ContainerCredentialsRelativeUri
            | Key::ContainerCredentialsFullUri
            | Key::SkipSignature
    )
}

fn is_endpoint(key: &Key) -> bool {
    matches!(
        key,
        Key::Endpoint | Key::S3Endpoint | Key::VirtualHostedStyleRequest | Key::Client(ClientConfigKey::AllowHttp)
    )
}

fn option_key(name: &str, mount: &Mount) -> Result<Key> {
    let key = name.parse().map_err(|_| TrafficSettings::unknown_option(name, USUAL, &mount.shown))?;
    match key {
        Key::Bucket => Err(mount.invalid(name, "the bucket is named in the URI; leave this option out")),
        key if is_unsupported(&key) => Err(mount.invalid(
            name,
            "this is not supported; use a general purpose bucket, its default encryption and its own checksums",
        )),
        key => Ok(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::mount::options;

    #[test]
    fn wrong_options_are_named_and_secrets_are_not() {
        let refused = |pairs: &[(&str, &str)]| open("s3://b", &options(pairs)).unwrap_err();
        let error = refused(&[("aws_acess_key_id", "hidden-value")]);
        assert!(matches!(&error, Error::UnknownOption { option, .. } if option == "aws_acess_key_id"));
        assert!(error.to_string().contains("did you mean aws_access_key_id?") && !error.to_string().contains("hidden"));
        let error = refused(&[("aws_endpoint", "http://127.0.0.1:1")]);
        assert!(error.to_string().contains("aws_allow_http=true"), "{error}");
        let error = refused(&[("aws_endpoint", "https://key:hidden-value@host")]);
        assert!(matches!(error, Error::InvalidOption { .. }) && !error.to_string().contains("hidden"));
        let error = refused(&[("aws_access_key_id", "only-half")]);
        assert!(matches!(&error, Error::InvalidOption { option, .. } if option == "aws_secret_access_key"), "{error}");
        assert!(matches!(refused(&[("aws_bucket", "other")]), Error::InvalidOption { .. }));
    }

    #[test]
    fn the_document_lists_every_option() {
        let aliases = crate::s3::AWS_ALIASES.iter().map(|alias| alias.name);
        let per_bucket = ["fs.s3a.bucket.BUCKET.…"];
        crate::document::lists("Amazon S3", USUAL.iter().copied().chain(aliases).chain(per_bucket));
    }
}
