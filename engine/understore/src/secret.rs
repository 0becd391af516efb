//! Values that must never be shown: keys, tokens, passwords.
//!
//! A [`Secret`] is wiped when it is dropped, and prints as `***`. [`redact`] takes the user name and
//! password out of a URI before it reaches an error, a log line or a listing.

use std::fmt;

use zeroize::Zeroizing;

use crate::mount::aliased;

/// A string that is wiped on drop and never printed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a value into keeping.
    pub fn new(value: impl Into<String>) -> Self {
        Self(Zeroizing::new(value.into()))
    }

    /// The value, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Parts of option names whose values may be shown. What is on no list is a secret, so that an option
/// added later by a library cannot leak by being forgotten here.
const SHOWN: &[&str] = &[
    "aws_profile",
    "aws_region",
    "region",
    "aws_default_region",
    "aws_endpoint",
    "aws_endpoint_url",
    "endpoint",
    "endpoint_url",
    "aws_allow_http",
    "allow_http",
    "aws_bucket",
    "bucket",
    "aws_skip_signature",
    "skip_signature",
    "aws_virtual_hosted_style_request",
    "virtual_hosted_style_request",
    "aws_unsigned_payload",
    "unsigned_payload",
    "aws_checksum_algorithm",
    "checksum_algorithm",
    "aws_conditional_put",
    "conditional_put",
    "aws_role_arn",
    "azure_storage_account_name",
    "azure_storage_endpoint",
    "azure_storage_tenant_id",
    "azure_tenant_id",
    "azure_storage_use_emulator",
    "azure_use_azure_cli",
    "azure_skip_signature",
    "azure_credential_type",
    "azure_allow_http",
    "swift_auth_url",
    "swift_storage_url",
    "swift_allow_http",
    "os_cloud",
    "cloud",
    "os_client_config_file",
    "os_auth_url",
    "os_region_name",
    "os_interface",
    "role_arn",
    "sftp_user",
    "sftp_key_file",
    "sftp_known_hosts",
    "webdav_user",
    "ca_certificate_file",
    "allow_invalid_certificates",
    "hadoop_user",
    "hdfs_conf_dir",
    "alluxio.underfs.hdfs.configuration",
    "hdfs_replication",
    "hdfs_block_size",
    "dfs.replication",
    "dfs.blocksize",
    "kerberos_principal",
    "google_base_url",
    "base_url",
    "google_allow_http",
    "google_skip_signature",
    "google_user_project",
    "oss_endpoint",
    "oss_region",
    "oss_addressing_style",
    "oss_allow_http",
    "oss_skip_signature",
    "oss_request_payer",
    "timeout",
    "connect_timeout",
    "read_timeout",
    "pool_max_idle_per_host",
    "pool_idle_timeout",
    "max_concurrency",
    "retries_max",
    "retry_timeout",
    "hedge",
    "read_bytes_per_second",
    "write_bytes_per_second",
    "request_timeout",
];

/// Schemes in whose URIs a container's name comes before the `@`, and nothing secret.
const CONTAINER_BEFORE_AT: &[&str] = &["abfs", "abfss", "wasb", "wasbs", "az", "azure"];

/// Whether the value of this option may appear in a listing. An alias is shown if all that it may stand for is.
pub(crate) fn is_shown(option: &str) -> bool {
    let own = |name: &str| SHOWN.contains(&name.to_ascii_lowercase().as_str());
    let mut meant = aliased(option).peekable();
    own(option) || (meant.peek().is_some() && meant.all(own))
}

/// A value that may be shown, without the keys that a user may have put into it. Endpoints need not have a scheme.
pub(crate) fn shown_value(value: &str) -> String {
    match value.split_once('@') {
        Some((keys, rest)) if !value.contains("://") && keys.contains(':') => format!("***@{rest}"),
        _ => redact(value),
    }
}

/// The URI without the user name, password, query and fragment that it may carry.
pub fn redact(uri: &str) -> String {
    let end = uri.find(['?', '#']).unwrap_or(uri.len());
    // A plain path may hold these characters in names, and holds no secrets.
    let Some((scheme, rest)) = uri.split_once("://") else {
        return uri.to_owned();
    };
    if scheme == "file" {
        return uri.to_owned();
    }
    let rest = &rest[..end.saturating_sub(scheme.len() + 3).min(rest.len())];
    let authority_end = rest.find('/').unwrap_or(rest.len());
    match rest[..authority_end].rfind('@') {
        Some(at) if CONTAINER_BEFORE_AT.contains(&scheme) && !rest[..at].contains(':') => uri[..end].to_owned(),
        Some(at) => format!("{scheme}://***@{}", &rest[at + 1..]),
        None => format!("{scheme}://{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_nothing_of_itself() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?} {:#?}", Some(&secret)).matches("hunter2").count(), 0);
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn redacted_uris_keep_what_identifies_and_lose_what_opens() {
        assert_eq!(redact("s3://key:pass@bucket/p"), "s3://***@bucket/p");
        assert_eq!(redact("s3://bucket/p?token=abc#x"), "s3://bucket/p");
        assert_eq!(redact("s3://bucket"), "s3://bucket");
        assert_eq!(redact("abfss://c@a.dfs.core.windows.net/p?sig=x"), "abfss://c@a.dfs.core.windows.net/p");
        assert_eq!(redact("abfss://c:key@a.dfs.core.windows.net/p"), "abfss://***@a.dfs.core.windows.net/p");
        assert_eq!(redact("/data/a@b/c#1?"), "/data/a@b/c#1?");
        assert_eq!(redact("file:///a#1?b"), "file:///a#1?b");
    }

    #[test]
    fn unknown_options_are_taken_for_secrets() {
        assert!(is_shown("aws_region"));
        assert!(crate::TrafficSettings::NAMES.into_iter().all(is_shown));
        assert!(!is_shown("aws_secret_access_key"));
        assert!(!is_shown("aws_access_key_id"));
        assert!(!is_shown("something_new"));
    }
}
