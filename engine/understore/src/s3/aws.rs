//! `s3://`: from URI and options to a connected store.
//!
//! Options have `object_store`'s names (`aws_endpoint`, `aws_access_key_id`, …). What the options leave open is taken
//! from the environment (`AWS_*`), as every S3 tool does. Nothing is sent here: [`crate::UnderStore::check`] does.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use object_store::{
    aws::{AmazonS3Builder, AmazonS3ConfigKey as Key},
    client::ClientConfigKey,
};

use super::{
    S3,
    client::Client,
    connect::{Mount, environment, is_true},
    dialect,
    keys::{KeySource, Provided, V4Signer},
    v4::{AWS4, Keys},
};
use crate::{
    Advice, Compares, Result, Secret, TrafficSettings,
    object::{Objects, Rules},
    redact,
    web::{Signer, Web, chain},
};

/// What users most often set; the advice for an unknown option names the nearest of these.
const USUAL: &[&str] = &[
    "aws_endpoint",
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "aws_region",
    "aws_allow_http",
    "aws_virtual_hosted_style_request",
    "aws_skip_signature",
    "aws_unsigned_payload",
    "aws_request_payer",
    "aws_web_identity_token_file",
    "aws_role_arn",
    "allow_invalid_certificates",
    "proxy_url",
];

static ADVICE: Advice = Advice {
    bucket: "bucket",
    missing_bucket: "create it, or check its name and aws_endpoint",
    unreachable: "check that it runs, aws_endpoint and the network",
    wrong_keys: "check aws_access_key_id and aws_secret_access_key",
    missing_keys: "set aws_access_key_id and aws_secret_access_key, or aws_skip_signature=true for a public bucket",
    wrong_region: "set aws_region",
};

type Settings = HashMap<Key, Secret>;

/// Reads `s3://bucket[/prefix]` and its options.
pub(crate) fn open(uri: &str, options: &BTreeMap<String, Secret>) -> Result<Objects> {
    let (s3, prefix) = connect(uri, options)?;
    let traffic = s3.client.web.traffic.clone();
    Ok(Objects::new(redact(uri), prefix, traffic, Box::new(s3)))
}

/// The bucket of a URI, and the prefix in it.
pub(crate) fn connect(uri: &str, options: &BTreeMap<String, Secret>) -> Result<(S3, String)> {
    let mount = Mount::read(uri, options)?;
    let own: Settings = mount
        .options
        .iter()
        .map(|(name, value)| Ok((option_key(name, &mount)?, value.clone())))
        .collect::<Result<_>>()?;
    let settings: Settings = from_environment(&own).into_iter().chain(own).collect();
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
    let builder = builder(&settings, &mount);
    let built = builder.clone().build().map_err(|error| mount.invalid("one of the aws_* options", chain(&error)))?;
    let (http, traffic) = mount.governor.last().expect("the builder connects before it returns");
    let source: Box<dyn KeySource> = match static_keys {
        Some(keys) => Box::new(Arc::new(keys)),
        None => {
            let make = move || Ok(Arc::clone(builder.clone().build()?.credentials()));
            Box::new(Provided::new(Arc::clone(built.credentials()), make))
        }
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

/// What gives connections, and keys that are not given as such.
fn builder(settings: &Settings, mount: &Mount) -> AmazonS3Builder {
    let builder = AmazonS3Builder::new()
        .with_client_options(mount.client_options.clone())
        .with_retry(mount.retry.clone())
        .with_bucket_name(&mount.bucket)
        .with_http_connector(mount.governor.clone());
    let is_static = |key: &Key| matches!(key, Key::AccessKeyId | Key::SecretAccessKey | Key::Token);
    let others = settings.iter().filter(|(key, _)| !is_static(key));
    others.fold(builder, |builder, (key, value)| builder.with_config(*key, value.expose()))
}

/// What the environment adds. Keys and endpoints are taken from it whole or not at all: a session token of the
/// environment beside keys of the options, or another program's endpoint, would only break what was meant.
fn from_environment(settings: &Settings) -> Settings {
    let (own_keys, own_endpoint) = (settings.keys().any(is_credential), settings.keys().any(is_endpoint));
    environment()
        .filter(|(name, _)| name.starts_with("aws_"))
        .filter_map(|(name, value)| Some((name.parse().ok()?, value)))
        .filter(|(key, _)| !matches!(key, Key::Bucket) && !is_unsupported(key))
        .filter(|(key, _)| !(own_keys && is_credential(key) || own_endpoint && is_endpoint(key)))
        .collect()
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

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, Secret> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value))).collect()
    }

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
}
