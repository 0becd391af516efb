//! Whom connections over TLS trust, and what to do about a handshake that failed.
//!
//! Trusted are the authorities of the machine (its trust store, or the files that `SSL_CERT_FILE` and `SSL_CERT_DIR` name)
//! and those in the file that the option [`CA_FILE`] names: a company's own, or that of one server.

use std::fs;

use object_store::{Certificate, ClientOptions};

use super::chain;
use crate::TrafficSettings;

/// The option that names a file of certificates, in PEM.
pub(crate) const CA_FILE: &str = "ca_certificate_file";

/// How `object_store` is to connect for a mount: its time limits are those of the mount's traffic, which has them below.
pub(crate) fn connections(rules: &TrafficSettings) -> ClientOptions {
    ClientOptions::new().with_connect_timeout(rules.connect_timeout).with_timeout_disabled()
}

/// Lets connections trust the authorities in a file, too.
pub(crate) fn trusting(options: ClientOptions, file: &str) -> Result<ClientOptions, String> {
    let certificates = certificates(file, Certificate::from_pem_bundle)?;
    Ok(certificates.into_iter().fold(options, ClientOptions::with_root_certificate))
}

/// The certificates in a file, one at least, as `parse` makes them of PEM.
pub(crate) fn certificates<C, E: std::error::Error>(
    file: &str,
    parse: impl FnOnce(&[u8]) -> Result<Vec<C>, E>,
) -> Result<Vec<C>, String> {
    let pem = fs::read(file).map_err(|error| format!("{file}: {error}"))?;
    match parse(&pem) {
        Ok(certificates) if certificates.is_empty() => Err(format!("{file} holds no certificate")),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("{file}: {}", chain(&error))),
    }
}

/// What a server says of its own trouble, which may pass.
const PASSES: &str = "received fatal alert: InternalError";

/// Words of rustls, and what to do about what they say. The libraries above it keep the kinds of these failures to
/// themselves. The first that fits counts.
const TROUBLES: &[(&str, &str)] = &[
    (
        "invalid peer certificate: UnknownIssuer",
        "no authority that this machine trusts has signed its certificate: name the file of the authority's own as \
         ca_certificate_file (every master and worker needs it); a test server may be mounted with \
         allow_invalid_certificates=true",
    ),
    (
        "invalid peer certificate: BadSignature",
        "an authority has signed its certificate that has the name of a trusted one and is another: name the file of the \
         right one as ca_certificate_file",
    ),
    (
        "certificate expired",
        "its certificate is past its time: have it renewed, or set the clock of this machine if that is wrong",
    ),
    (
        "certificate not valid yet",
        "the time of its certificate has not begun: set the clock of this machine, or have it issued again",
    ),
    (
        "certificate not valid for name",
        "its certificate is another host's: use a name that it is valid for, or have it issued for this one too",
    ),
    (
        "CaUsedAsEndEntity",
        "it shows the certificate of an authority as its own: have it issued another, with basicConstraints CA:FALSE",
    ),
    ("invalid peer certificate", "its certificate cannot be used: have it issued anew"),
    (
        "received corrupt message",
        "this port does not speak TLS: name the one that does, or write http:// where its mount may be without",
    ),
    (
        "received fatal alert: ProtocolVersion",
        "it speaks only versions of TLS that are not safe: let it speak TLS 1.2 or 1.3",
    ),
    (
        "peer is incompatible",
        "it and this machine have no safe way to speak TLS in common: let it speak TLS 1.2 or 1.3",
    ),
    (PASSES, ""),
    ("received fatal alert", "it refused the handshake: see its log, and whether the name in the endpoint is its own"),
    ("peer misbehaved", "it broke the rules of TLS: see what stands between it and this machine"),
];

/// What to do about a connection that failed for this reason in its handshake; `None` if it failed otherwise.
pub(crate) fn advice_of_tls(reason: &str) -> Option<&'static str> {
    let trouble = TROUBLES.iter().find(|(words, _)| reason.contains(words));
    trouble.filter(|(words, _)| *words != PASSES).map(|(_, advice)| *advice)
}
