//! Every store that is reached over HTTP, behind a server of TLS: refused while nobody vouches for it, and at work once a
//! mount names who does.

#![allow(clippy::unwrap_used)]

mod files;

use bytes::Bytes;
use citius_understore::{
    Error, MountSpec, open,
    testing::servers::{Azurite, CephGateway, CephStore, Certified, Dialect, SeaweedFs, StandIn, Tls, call},
};
use http::Request;

use self::files::{body, get, path, put};

/// Long enough for an upload of parts.
const BYTES: usize = 20 << 20;

/// The host and port of an address.
fn upstream(endpoint: &str) -> &str {
    let rest = endpoint.split_once("://").unwrap().1;
    rest.split('/').next().unwrap()
}

/// Refused without the option, and with it by a server that is not the one that is meant; then what is written comes back.
async fn is_trusted_by_its_authority_alone(spec: MountSpec, endpoint: &str) {
    let tls = Tls::before(upstream(endpoint), Certified::Well).unwrap();
    let stranger = Tls::before(upstream(endpoint), Certified::Well).unwrap();
    let trusting = |spec: MountSpec| spec.option("ca_certificate_file", tls.ca_file().display().to_string());
    for refused in [tls.mount(spec.clone()), trusting(stranger.mount(spec.clone()))] {
        let error = open(&refused).unwrap().check().await.unwrap_err();
        assert!(matches!(error, Error::Untrusted { .. }), "{refused:?}: {error}");
        assert!(error.to_string().contains("as ca_certificate_file"), "{error}");
    }
    let store = open(&trusting(tls.mount(spec))).unwrap();
    store.check().await.unwrap();
    if !store.capabilities().writes {
        return;
    }
    for len in [100, BYTES] {
        let content = body(len, 3);
        let token = put(&*store, &path("through-tls"), 1, &content).await.unwrap();
        assert!(get(&*store, &path("through-tls"), &token, len).await.unwrap() == content);
        store.delete_file(&path("through-tls")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_webdav_and_opendal() {
    let server = SeaweedFs::start().await.unwrap();
    is_trusted_by_its_authority_alone(server.s3().mount(""), server.s3().endpoint()).await;
    let webdav = MountSpec::new(server.webdav().replace("http:", "webdav:"));
    is_trusted_by_its_authority_alone(webdav, &server.webdav()).await;
    let opendal = MountSpec::new("opendal+webdav:///").option("endpoint", server.webdav());
    is_trusted_by_its_authority_alone(MountSpec { read_only: true, ..opendal }, &server.webdav()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gcs_and_oss() {
    for dialect in [Dialect::Gcs, Dialect::Oss] {
        let server = StandIn::start(dialect).await.unwrap();
        is_trusted_by_its_authority_alone(server.mount(""), &server.endpoint()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn azure() {
    let server = Azurite::start().await.unwrap();
    is_trusted_by_its_authority_alone(server.mount(""), &server.endpoint()).await;
}

/// Where the storage is, a login tells as plain HTTP here, where nobody told the server of TLS; so address and token are given.
#[tokio::test(flavor = "multi_thread")]
async fn swift() {
    let server = CephGateway::start(CephStore::Memory).await.unwrap();
    let (user, key) = server.swift_keys();
    let login = Request::get(server.swift_auth_url()).header("x-auth-user", user).header("x-auth-key", key);
    let answer = call(login.body(Bytes::new()).unwrap()).await.unwrap();
    let told = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    let spec = MountSpec::new(format!("swift://{}", server.container()))
        .option("swift_storage_url", told("x-storage-url"))
        .option("swift_token", told("x-auth-token"))
        .option("swift_allow_http", "true");
    is_trusted_by_its_authority_alone(spec, server.s3().endpoint()).await;
}
