//! Alluxio's and Hadoop's names for the options of `s3://`.
//!
//! - `fs.s3a.bucket.BUCKET.…` is `fs.s3a.…` of one bucket and goes before it.
//! - Their endpoints may have no scheme, and never have the bucket in them, whichever style of requests is asked for;
//!   `s3.amazonaws.com` is every region's, and says nothing.

use object_store::aws::AmazonS3ConfigKey as Key;

use super::connect::is_true;
use crate::{
    MountSpec, Result, Secret,
    alias::{Alias, Given, Reads, strip},
    web::CA_FILE,
};

const BUCKET: &str = "fs.s3a.bucket.";
const ENDPOINT: &str = "aws_endpoint";
const REGION: &str = "aws_region";
const VIRTUAL: &str = "aws_virtual_hosted_style_request";
const ALLOW_HTTP: &str = "aws_allow_http";

pub(crate) const ALIASES: &[Alias] = &[
    Alias::same("s3a.accessKeyId", "aws_access_key_id"),
    Alias::same("s3a.secretKey", "aws_secret_access_key"),
    Alias::same("aws.accessKeyId", "aws_access_key_id"),
    Alias::same("aws.secretKey", "aws_secret_access_key"),
    Alias::same("alluxio.underfs.s3.endpoint", ENDPOINT),
    Alias::same("alluxio.underfs.s3.region", REGION),
    Alias::same("alluxio.underfs.s3.endpoint.region", REGION),
    Alias::opposite("alluxio.underfs.s3.disable.dns.buckets", VIRTUAL),
    Alias::opposite("alluxio.underfs.s3.secure.http.enabled", ALLOW_HTTP),
    Alias::only("alluxio.underfs.s3.inherit.acl", "false"),
    Alias::same("fs.s3a.access.key", "aws_access_key_id"),
    Alias::same("fs.s3a.secret.key", "aws_secret_access_key"),
    Alias::same("fs.s3a.session.token", "aws_session_token"),
    Alias { name: "fs.s3a.aws.credentials.provider", own: "aws_skip_signature", reads: Reads::By(skips_signature) },
    Alias::same("fs.s3a.endpoint", ENDPOINT),
    Alias::same("fs.s3a.endpoint.region", REGION),
    Alias::opposite("fs.s3a.path.style.access", VIRTUAL),
    Alias::opposite("fs.s3a.connection.ssl.enabled", ALLOW_HTTP),
    Alias::same("aws_ca_bundle", CA_FILE),
];

/// Gives everything the names of our own.
pub(crate) fn translate(spec: &MountSpec) -> Result<MountSpec> {
    let bucket = spec.uri.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or(rest));
    let plain = |name: &str| {
        let Some(rest) = strip(name, BUCKET) else { return Ok(None) };
        match rest.strip_prefix(bucket).and_then(|rest| rest.strip_prefix('.')) {
            Some(rest) => Ok(Some(format!("fs.s3a.{rest}"))),
            None => Err(format!("it is of another bucket than {bucket}; leave it out")),
        }
    };
    let mut given = Given::of(spec, same)?.without_places(plain)?.translated(ALIASES)?;
    complete_endpoint(&mut given, bucket)?;
    Ok(given.into_spec(spec))
}

fn same(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    name.parse::<Key>().map_or(name, |key| key.as_ref().to_owned())
}

/// Makes of an endpoint as they write it one as we do.
fn complete_endpoint(given: &mut Given, bucket: &str) -> Result<()> {
    let Some((written, endpoint)) = given.by_alias(ENDPOINT) else { return Ok(()) };
    let (written, endpoint) = (written.to_owned(), endpoint.trim().trim_end_matches('/').to_owned());
    given.take(ENDPOINT);
    let plain_http = given.by_alias(ALLOW_HTTP).is_some_and(|(_, value)| is_true(value));
    let scheme = if plain_http { "http" } else { "https" };
    let (scheme, host) = endpoint.split_once("://").unwrap_or((scheme, &endpoint));
    if host.eq_ignore_ascii_case("s3.amazonaws.com") {
        return Ok(());
    }
    let region = host.strip_prefix("s3.").and_then(|rest| {
        let region = rest.strip_suffix(".amazonaws.com").or_else(|| rest.strip_suffix(".amazonaws.com.cn"))?;
        (!region.contains('.')).then_some(region)
    });
    if let Some(region) = region.filter(|_| given.get(REGION).is_none()) {
        given.put(REGION, &written, Secret::new(region))?;
    }
    // To them the scheme alone says it.
    if scheme == "http" && given.get(ALLOW_HTTP).is_none() {
        given.put(ALLOW_HTTP, &written, Secret::new("true"))?;
    }
    let in_host = given.get(VIRTUAL).is_some_and(is_true);
    let endpoint = if in_host { format!("{scheme}://{bucket}.{host}") } else { format!("{scheme}://{host}") };
    given.put(ENDPOINT, &written, Secret::new(endpoint))
}

/// Providers are named by their classes. Those that take the keys of the options are what happens anyway.
fn skips_signature(classes: &str) -> std::result::Result<String, String> {
    const PACKAGE: &str = "org.apache.hadoop.fs.s3a.";
    let skips = |class: &str| match class.trim().strip_prefix(PACKAGE) {
        Some("AnonymousAWSCredentialsProvider") => Some("true"),
        Some("SimpleAWSCredentialsProvider" | "TemporaryAWSCredentialsProvider") => Some("false"),
        _ => None,
    };
    let found: Option<Vec<&str>> = classes.split(',').map(skips).collect();
    match found.as_deref() {
        Some([first, rest @ ..]) if rest.iter().all(|other| other == first) => Ok((*first).to_owned()),
        _ => Err(format!(
            "only {PACKAGE}SimpleAWSCredentialsProvider, TemporaryAWSCredentialsProvider and \
             AnonymousAWSCredentialsProvider are known here; keys are looked for as docs/mount-options.md says"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    fn spec(pairs: &[(&str, &str)]) -> MountSpec {
        MountSpec::with("s3://my.bucket/p", pairs)
    }

    fn is_the_same(by_alias: &[(&str, &str)], by_own: &[(&str, &str)]) {
        let (by_alias, by_own) = (translate(&spec(by_alias)).unwrap(), spec(by_own));
        let exposed = |spec: &MountSpec| -> Vec<(String, String)> {
            spec.options.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect()
        };
        assert_eq!(exposed(&by_alias), exposed(&by_own));
    }

    #[test]
    fn a_mount_by_aliases_is_the_mount_by_own_names() {
        let own = [
            ("aws_access_key_id", "id"),
            ("aws_secret_access_key", "secret"),
            ("aws_endpoint", "http://h:9000"),
            ("aws_region", "r"),
            ("aws_virtual_hosted_style_request", "false"),
            ("aws_allow_http", "true"),
        ];
        let alluxio = [
            ("s3a.accessKeyId", "id"),
            ("s3a.secretKey", "secret"),
            ("alluxio.underfs.s3.endpoint", "http://h:9000/"),
            ("alluxio.underfs.s3.endpoint.region", "r"),
            ("alluxio.underfs.s3.disable.dns.buckets", "true"),
            ("alluxio.underfs.s3.secure.http.enabled", "false"),
            ("alluxio.underfs.s3.inherit.acl", "false"),
        ];
        is_the_same(&alluxio, &own);
        let hadoop = [
            ("fs.s3a.access.key", "id"),
            ("fs.s3a.secret.key", "secret"),
            ("fs.s3a.endpoint", "h:9000"),
            ("fs.s3a.endpoint.region", "everybody's"),
            ("fs.s3a.bucket.my.bucket.endpoint.region", "r"),
            ("fs.s3a.path.style.access", "true"),
            ("fs.s3a.connection.ssl.enabled", "false"),
        ];
        is_the_same(&hadoop, &own);
        is_the_same(
            &[("aws.accessKeyId", "a"), ("fs.s3a.session.token", "t")],
            &[("aws_access_key_id", "a"), ("aws_session_token", "t")],
        );
        is_the_same(
            &[("fs.s3a.aws.credentials.provider", "org.apache.hadoop.fs.s3a.AnonymousAWSCredentialsProvider")],
            &[("aws_skip_signature", "true")],
        );
    }

    #[test]
    fn endpoints_are_completed() {
        is_the_same(
            &[("fs.s3a.endpoint", "s3.amazonaws.com"), ("fs.s3a.endpoint.region", "r")],
            &[("aws_region", "r")],
        );
        is_the_same(
            &[("fs.s3a.endpoint", "s3.eu-west-1.amazonaws.com"), ("fs.s3a.path.style.access", "false")],
            &[
                ("aws_endpoint", "https://my.bucket.s3.eu-west-1.amazonaws.com"),
                ("aws_region", "eu-west-1"),
                ("aws_virtual_hosted_style_request", "true"),
            ],
        );
        is_the_same(
            &[("alluxio.underfs.s3.endpoint", "http://h:9000")],
            &[("aws_endpoint", "http://h:9000"), ("aws_allow_http", "true")],
        );
        // One by our own name is taken as it is.
        is_the_same(&[("aws_endpoint", "https://h/")], &[("aws_endpoint", "https://h/")]);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        let refused = |pairs: &[(&str, &str)]| match translate(&spec(pairs)).unwrap_err() {
            Error::InvalidOption { option, reason, .. } => (option, reason),
            other => panic!("{other}"),
        };
        assert_eq!(refused(&[("fs.s3a.bucket.other.endpoint", "h")]).0, "fs.s3a.bucket.other.endpoint");
        assert_eq!(refused(&[("alluxio.underfs.s3.inherit.acl", "true")]).0, "alluxio.underfs.s3.inherit.acl");
        assert_eq!(
            refused(&[("fs.s3a.aws.credentials.provider", "com.example.Own")]).0,
            "fs.s3a.aws.credentials.provider"
        );
        // Whichever of our own names the other is.
        let (option, reason) = refused(&[("access_key_id", "a"), ("s3a.accessKeyId", "b")]);
        assert!(option == "s3a.accessKeyId" && reason.contains("access_key_id"), "{option}: {reason}");
        let unknown = translate(&spec(&[("fs.s3a.block.size", "1")]))
            .map(|spec| super::super::open_aws(&spec.uri, &spec.options));
        assert!(matches!(unknown, Ok(Err(Error::UnknownOption { option, .. })) if option == "fs.s3a.block.size"));
    }
}
