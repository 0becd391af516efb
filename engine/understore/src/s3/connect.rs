//! From URI and options to a connected S3 store, with a clear word for whatever is wrong with them.
//!
//! Options have `object_store`'s names (`aws_endpoint`, `aws_access_key_id`, …). What the options leave open is taken
//! from the environment (`AWS_*`), as every S3 tool does. Nothing is sent here: [`crate::UnderStore::check`] does.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
};

use object_store::{
    ClientOptions, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    client::ClientConfigKey,
};
use url::Url;

use super::{
    S3,
    client::{AwsSigner, Client},
};
use crate::{
    Error, Governor, Result, Secret, Traffic, TrafficSettings,
    object::Objects,
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

/// Reads `s3://bucket[/prefix]` and its options.
pub(crate) fn open(uri: &str, options: &BTreeMap<String, Secret>) -> Result<Objects> {
    let (s3, prefix) = connect(uri, options)?;
    let traffic = s3.client.web.traffic.clone();
    Ok(Objects::new(redact(uri), prefix, traffic, Box::new(s3)))
}

/// The bucket of a URI, and the prefix in it.
pub(crate) fn connect(uri: &str, options: &BTreeMap<String, Secret>) -> Result<(S3, String)> {
    let shown = redact(uri);
    let (bucket, prefix) = split_uri(uri, &shown)?;
    let (rules, options) = TrafficSettings::split(options, &shown)?;
    // Time limits and retries are those of the mount's traffic, which has them below `object_store`.
    let client_options = ClientOptions::new().with_connect_timeout(rules.connect_timeout).with_timeout_disabled();
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let governor = Governor::new(Traffic::new(rules));
    let mut settings = Vec::new();
    for (name, value) in &options {
        settings.push((option_key(name, &shown)?, value.expose().to_owned()));
    }
    let mut builder = AmazonS3Builder::new()
        .with_client_options(client_options)
        .with_retry(retry)
        .with_bucket_name(&bucket)
        .with_http_connector(governor.clone());
    for (key, value) in environment(&settings).into_iter().chain(settings) {
        builder = builder.with_config(key, value);
    }
    let setting = |key: AmazonS3ConfigKey| builder.get_config_value(&key);
    let is_set = |key: AmazonS3ConfigKey| setting(key).is_some_and(|value| is_true(&value));
    let region = setting(AmazonS3ConfigKey::Region)
        .or_else(|| setting(AmazonS3ConfigKey::DefaultRegion))
        .unwrap_or_else(|| "us-east-1".to_owned());
    let custom = setting(AmazonS3ConfigKey::S3Endpoint).or_else(|| setting(AmazonS3ConfigKey::Endpoint));
    if let Some(endpoint) = &custom {
        check_endpoint(endpoint, is_set(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp)), &shown)?;
    }
    let virtual_hosted = is_set(AmazonS3ConfigKey::VirtualHostedStyleRequest);
    let bucket_url = match (&custom, virtual_hosted) {
        (Some(endpoint), true) => endpoint.trim_end_matches('/').to_owned(),
        (Some(endpoint), false) => format!("{}/{bucket}", endpoint.trim_end_matches('/')),
        (None, true) => format!("https://{bucket}.s3.{region}.amazonaws.com"),
        (None, false) => format!("https://s3.{region}.amazonaws.com/{bucket}"),
    };
    let is_amazon = custom.is_none();
    let endpoint = custom.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
    let (skip_signature, unsigned) =
        (is_set(AmazonS3ConfigKey::SkipSignature), is_set(AmazonS3ConfigKey::UnsignedPayload));
    let request_payer = is_set(AmazonS3ConfigKey::RequestPayer);
    let objects = builder.build().map_err(|error| built_badly(&error, &shown))?;
    let (http, traffic) = governor.last().expect("the builder connects before it returns");
    let signer = AwsSigner {
        credentials: Arc::clone(objects.credentials()),
        region: region.clone(),
        sign_payload: !unsigned,
        request_payer,
        endpoint: endpoint.clone(),
    };
    let signer = (!skip_signature).then(|| Arc::new(signer) as Arc<dyn Signer>);
    let web = Web::new(http, traffic, endpoint, signer);
    let client = Client { web, region, bucket, bucket_url, is_amazon };
    Ok((S3 { client, wants_bare_etags: AtomicBool::new(false) }, prefix))
}

/// Bucket and prefix; the prefix has no slash at either end.
fn split_uri(uri: &str, shown: &str) -> Result<(String, String)> {
    let refuse = |reason: &str| Err(Error::InvalidUri { uri: shown.to_owned(), reason: reason.to_owned() });
    let rest = uri.split_once("://").map_or("", |(_, rest)| rest);
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return refuse("no bucket is named; write s3://bucket or s3://bucket/prefix");
    }
    if bucket.contains(['@', ':', '?', '#']) {
        return refuse("keys, ports and queries do not belong in the URI; give them as options");
    }
    let prefix = prefix.trim_end_matches('/');
    if prefix.starts_with('/') {
        return refuse("the prefix begins with a slash; write s3://bucket/prefix");
    }
    // What is no path for us cannot be a prefix of one; its text is taken as it is, never decoded.
    if let Err(Error::Unnameable { reason, .. }) = crate::StorePath::parse(prefix) {
        return refuse(&format!("the prefix cannot be used: {reason}"));
    }
    Ok((bucket.to_owned(), prefix.to_owned()))
}

/// What the environment adds. Keys and endpoints are taken from it whole or not at all: a session token of the
/// environment beside keys of the options, or another program's endpoint, would only break what was meant.
fn environment(settings: &[(AmazonS3ConfigKey, String)]) -> Vec<(AmazonS3ConfigKey, String)> {
    let has = |group: fn(&AmazonS3ConfigKey) -> bool| settings.iter().any(|(key, _)| group(key));
    let (own_keys, own_endpoint) = (has(is_credential), has(is_endpoint));
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("AWS_"))
        .filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse().ok()?, value)))
        .filter(|(key, _)| !matches!(key, AmazonS3ConfigKey::Bucket) && !is_unsupported(key))
        .filter(|(key, _)| !(own_keys && is_credential(key) || own_endpoint && is_endpoint(key)))
        .collect()
}

/// What would have to be said on every request that we sign ourselves, and is not.
fn is_unsupported(key: &AmazonS3ConfigKey) -> bool {
    use AmazonS3ConfigKey as Key;

    matches!(key, Key::S3Express | Key::Checksum | Key::Encryption(_))
}

fn is_credential(key: &AmazonS3ConfigKey) -> bool {
    use AmazonS3ConfigKey as Key;

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

fn is_endpoint(key: &AmazonS3ConfigKey) -> bool {
    use AmazonS3ConfigKey as Key;

    matches!(
        key,
        Key::Endpoint | Key::S3Endpoint | Key::VirtualHostedStyleRequest | Key::Client(ClientConfigKey::AllowHttp)
    )
}

fn option_key(name: &str, shown: &str) -> Result<AmazonS3ConfigKey> {
    let invalid = |reason: &str| Error::InvalidOption {
        uri: shown.to_owned(),
        option: name.to_owned(),
        reason: reason.to_owned(),
    };
    let key = name.to_ascii_lowercase().parse();
    let key = key.map_err(|_| TrafficSettings::unknown_option(name, USUAL, shown))?;
    match key {
        AmazonS3ConfigKey::Bucket => Err(invalid("the bucket is named in the URI; leave this option out")),
        key if is_unsupported(&key) => Err(invalid(
            "this is not supported; use a general purpose bucket, its default encryption and its own checksums",
        )),
        key => Ok(key),
    }
}

fn check_endpoint(endpoint: &str, allow_http: bool, shown: &str) -> Result<()> {
    let invalid = |option: &str, reason: String| {
        Err(Error::InvalidOption { uri: shown.to_owned(), option: option.to_owned(), reason })
    };
    match Url::parse(endpoint) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            invalid("aws_endpoint", "keys do not belong in it; use aws_access_key_id and aws_secret_access_key".into())
        }
        Ok(url) if url.host_str().is_none() || !matches!(url.scheme(), "http" | "https") => {
            invalid("aws_endpoint", "it is not of the form https://host:port".into())
        }
        Ok(url) if url.scheme() == "http" && !allow_http => invalid(
            "aws_endpoint",
            "it is http://, which shows data to the network; set aws_allow_http=true if that is meant".into(),
        ),
        Ok(_) => Ok(()),
        Err(error) => invalid("aws_endpoint", format!("{error}; write https://host:port")),
    }
}

fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on" | "y" | "t")
}

/// What the builder finds wrong: half a pair of keys, or a value of the wrong type.
fn built_badly(error: &object_store::Error, shown: &str) -> Error {
    let text = chain(error);
    let option = if text.contains("AccessKeyId") || text.contains("access_key_id") {
        "aws_access_key_id"
    } else if text.contains("SecretAccessKey") || text.contains("secret_access_key") {
        "aws_secret_access_key"
    } else {
        "one of the aws_* options"
    };
    Error::InvalidOption { uri: shown.to_owned(), option: option.to_owned(), reason: text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, Secret> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value))).collect()
    }

    #[test]
    fn buckets_and_prefixes() {
        assert_eq!(split_uri("s3://b", "").unwrap(), ("b".into(), String::new()));
        assert_eq!(split_uri("s3://b/p/q/", "").unwrap(), ("b".into(), "p/q".into()));
        assert_eq!(split_uri("s3a://b/a%20b", "").unwrap(), ("b".into(), "a%20b".into()));
        for bad in ["s3://", "s3:///p", "s3://k:s@b/p", "s3://b/../c", "s3://b//p"] {
            assert!(matches!(split_uri(bad, bad), Err(Error::InvalidUri { .. })), "{bad}");
        }
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
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
        assert!(matches!(refused(&[("aws_bucket", "other")]), Error::InvalidOption { .. }));
    }
}
