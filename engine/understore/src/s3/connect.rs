//! What connecting has in common, whichever dialect is spoken: URI, traffic, endpoints.

use std::collections::BTreeMap;

use object_store::{ClientOptions, RetryConfig};
use url::Url;

use crate::{
    Error, Governor, Result, Secret, Traffic, TrafficSettings, redact,
    web::{CA_FILE, connections, trusting},
};

/// A URI and its options, before anything is known of the dialect.
pub(super) struct Mount {
    /// The URI for errors.
    pub(super) shown: String,
    pub(super) bucket: String,
    /// Without a slash at either end.
    pub(super) prefix: String,
    pub(super) governor: Governor,
    pub(super) client_options: ClientOptions,
    /// Retries, too, are those of the mount's traffic.
    pub(super) retry: RetryConfig,
    /// Options that are not about traffic, by name in small letters.
    pub(super) options: BTreeMap<String, Secret>,
}

impl Mount {
    pub(super) fn read(uri: &str, options: &BTreeMap<String, Secret>) -> Result<Self> {
        let shown = redact(uri);
        let (bucket, prefix) = split_uri(uri, &shown)?;
        let (rules, options) = TrafficSettings::split(options, &shown)?;
        let client_options = connections(&rules);
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let governor = Governor::new(Traffic::new(rules));
        let mut options: BTreeMap<_, _> =
            options.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
        let ca_file = options.remove(CA_FILE);
        let mut mount = Self { shown, bucket, prefix, governor, client_options, retry, options };
        if let Some(file) = ca_file {
            mount.trust(CA_FILE, file.expose())?;
        }
        Ok(mount)
    }

    /// Lets connections trust the authorities in a file, too. `told_by` is where it is named.
    pub(super) fn trust(&mut self, told_by: &str, file: &str) -> Result<()> {
        let trusting = trusting(self.client_options.clone(), file);
        self.client_options = trusting.map_err(|reason| self.invalid(told_by, reason))?;
        Ok(())
    }

    pub(super) fn invalid(&self, option: &str, reason: impl Into<String>) -> Error {
        Error::InvalidOption { uri: self.shown.clone(), option: option.to_owned(), reason: reason.into() }
    }

    /// Refuses what is no endpoint, and one that would show data to the network unless that is allowed. `http_option` is
    /// what allows it.
    pub(super) fn check_endpoint(
        &self,
        option: &str,
        endpoint: &str,
        allow_http: bool,
        http_option: &str,
    ) -> Result<()> {
        let invalid = |reason: String| Err(self.invalid(option, reason));
        match Url::parse(endpoint) {
            Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                invalid("keys do not belong in it; give them as options".into())
            }
            Ok(url) if url.host_str().is_none() || !matches!(url.scheme(), "http" | "https") => {
                invalid("it is not of the form https://host:port".into())
            }
            Ok(url) if url.scheme() == "http" && !allow_http => invalid(format!(
                "it is http://, which shows data to the network; set {http_option}=true if that is meant"
            )),
            Ok(_) => Ok(()),
            Err(error) => invalid(format!("{error}; write https://host:port")),
        }
    }
}

/// Bucket and prefix.
fn split_uri(uri: &str, shown: &str) -> Result<(String, String)> {
    let refuse = |reason: String| Err(Error::InvalidUri { uri: shown.to_owned(), reason });
    let (scheme, rest) = uri.split_once("://").unwrap_or(("s3", ""));
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return refuse(format!("no bucket is named; write {scheme}://bucket or {scheme}://bucket/prefix"));
    }
    if bucket.contains(['@', ':', '?', '#']) {
        return refuse("keys, ports and queries do not belong in the URI; give them as options".to_owned());
    }
    let prefix = prefix.trim_end_matches('/');
    if prefix.starts_with('/') {
        return refuse(format!("the prefix begins with a slash; write {scheme}://bucket/prefix"));
    }
    // What is no path for us cannot be a prefix of one; its text is taken as it is, never decoded.
    if let Err(Error::Unnameable { reason, .. }) = crate::StorePath::parse(prefix) {
        return refuse(format!("the prefix cannot be used: {reason}"));
    }
    Ok((bucket.to_owned(), prefix.to_owned()))
}

pub(super) fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on" | "y" | "t")
}

/// The environment, as far as it is text; names in small letters.
pub(super) fn environment() -> impl Iterator<Item = (String, Secret)> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?.to_ascii_lowercase(), Secret::new(value.into_string().ok()?)))
    };
    std::env::vars_os().filter_map(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_and_prefixes() {
        assert_eq!(split_uri("s3://b", "").unwrap(), ("b".into(), String::new()));
        assert_eq!(split_uri("gs://b/p/q/", "").unwrap(), ("b".into(), "p/q".into()));
        assert_eq!(split_uri("s3a://b/a%20b", "").unwrap(), ("b".into(), "a%20b".into()));
        for bad in ["s3://", "oss:///p", "s3://k:s@b/p", "s3://b/../c", "gs://b//p"] {
            assert!(matches!(split_uri(bad, bad), Err(Error::InvalidUri { .. })), "{bad}");
        }
    }
}
