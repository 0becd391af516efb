//! A store by every scheme and form of URI that leads to it: what is written by one is read by the others.

#![allow(clippy::unwrap_used)]

mod files;

use citius_understore::{
    MountSpec, open,
    testing::servers::{Azurite, Certified, Dialect, SeaweedFs, StandIn, Tls},
};

use self::files::{body, get, path, put};

const BYTES: usize = 5000;

/// Writes by each, and reads by all what each has written.
async fn lead_to_one_place(specs: &[MountSpec]) {
    let stores: Vec<_> =
        specs.iter().map(|spec| open(spec).unwrap_or_else(|error| panic!("{spec:?}: {error}"))).collect();
    let own = |writer: usize| path(&format!("by-{writer}"));
    for (writer, store) in stores.iter().enumerate() {
        store.check().await.unwrap_or_else(|error| panic!("{:?}: {error}", specs[writer]));
        put(&**store, &own(writer), 1, &body(BYTES, writer as u8)).await.unwrap();
    }
    for (reader, store) in stores.iter().enumerate() {
        for writer in 0..stores.len() {
            let token = store.stat(&own(writer)).await.unwrap().token;
            let found = get(&**store, &own(writer), &token, BYTES).await.unwrap();
            assert!(found == body(BYTES, writer as u8), "{:?} of {:?}", specs[reader], specs[writer]);
        }
    }
}

/// The host names the account, and the endpoint is where this one of it is.
#[tokio::test(flavor = "multi_thread")]
async fn azure() {
    let server = Azurite::start().await.unwrap();
    let (container, account) = (server.container(), server.account());
    let short =
        ["az", "azure"].map(|scheme| MountSpec { uri: format!("{scheme}://{container}/p"), ..server.mount("") });
    let long = [("abfs", "dfs"), ("abfss", "dfs"), ("wasb", "blob"), ("wasbs", "blob")].map(|(scheme, service)| {
        let mut spec = server.mount("");
        spec.uri = format!("{scheme}://{container}@{account}.{service}.core.windows.net/p");
        spec.options.remove("azure_storage_account_name").unwrap();
        spec
    });
    lead_to_one_place(&[&short[..], &long].concat()).await;
    server.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn gcs() {
    let server = StandIn::start(Dialect::Gcs).await.unwrap();
    let specs =
        ["gs", "gcs"].map(|scheme| MountSpec { uri: format!("{scheme}://{}/p", server.bucket()), ..server.mount("") });
    lead_to_one_place(&specs).await;
    server.stop().unwrap();
}

/// With TLS and without: the letter s says which.
#[tokio::test(flavor = "multi_thread")]
async fn webdav() {
    let server = SeaweedFs::start().await.unwrap();
    let plain = server.webdav().strip_prefix("http://").unwrap().to_owned();
    let tls = Tls::before(&plain, Certified::Well).unwrap();
    let safe = tls.endpoint().strip_prefix("https://").unwrap().to_owned();
    // The root has a folder of the server's own.
    open(&MountSpec::new(format!("webdav://{plain}"))).unwrap().mkdir(&path("p")).await.unwrap();
    let without = ["webdav", "dav", "http"].map(|scheme| MountSpec::new(format!("{scheme}://{plain}/p")));
    let with = ["webdavs", "davs", "https"].map(|scheme| {
        let spec = MountSpec::new(format!("{scheme}://{safe}/p"));
        spec.option("ca_certificate_file", tls.ca_file().display().to_string())
    });
    lead_to_one_place(&[without, with].concat()).await;
    server.stop().unwrap();
}
