//! The contract of every under-store, on real ones: a folder, memory, and S3 servers, some of which stand in for others.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;

use citius_understore::{
    LocalStore, MemoryStore, UnderStore,
    testing::{
        Report, conformance,
        servers::{Azurite, Dialect, SeaweedFs, StandIn},
    },
};

/// Points that the suite has; a suite that lost some would still pass.
const POINTS: usize = 43;

async fn hold(store: Arc<dyn UnderStore>, skips: &[&str]) {
    let report: Report = conformance(store).await;
    println!("{report}");
    assert_eq!(report.failures().count(), 0, "{report}");
    let skipped: Vec<_> = report.skipped().map(|point| point.name).collect();
    assert_eq!(skipped, skips, "{report}");
    assert_eq!(report.passed() + skips.len(), POINTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    hold(Arc::new(MemoryStore::new("memory://conformance")), &["descriptors_show_one_version"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn folder() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path().to_owned()).unwrap();
    hold(Arc::new(store), &["shared_upload", "one_replacer_wins"]).await;
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let hidden: Vec<_> = left.iter().filter(|name| name.to_string_lossy().starts_with('.')).collect();
    assert!(hidden.is_empty(), "temporaries are left: {hidden:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_bucket_and_prefix() {
    let server = SeaweedFs::start().await.unwrap();
    for prefix in ["", "deep/pre fix%"] {
        let store = citius_understore::open(&server.s3().mount(prefix)).unwrap();
        store.check().await.unwrap();
        hold(store, &["backslashes_in_names", "descriptors_show_one_version"]).await;
    }
}

/// What SeaweedFS cannot show of it - generations that differ for equal content - is in `dialects.rs`.
#[tokio::test(flavor = "multi_thread")]
async fn gcs_through_a_stand_in() {
    let server = StandIn::start(Dialect::Gcs).await.unwrap();
    let by_token = server.keyless("deep/pre fix%").option("google_bearer_token", server.token());
    for spec in [server.mount(""), by_token] {
        let store = citius_understore::open(&spec).unwrap();
        store.check().await.unwrap();
        hold(store, &["backslashes_in_names", "descriptors_show_one_version"]).await;
    }
    server.stop().unwrap();
}

#[cfg(feature = "more-servers")]
#[tokio::test(flavor = "multi_thread")]
async fn s3_of_a_ceph_gateway() {
    use citius_understore::testing::servers::{CephGateway, CephStore};

    let server = CephGateway::start(CephStore::Memory).await.unwrap();
    println!("ceph {}", server.version());
    for prefix in ["", "deep/pre fix%"] {
        let store = citius_understore::open(&server.s3().mount(prefix)).unwrap();
        store.check().await.unwrap();
        hold(store, &["descriptors_show_one_version"]).await;
    }
    server.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn azure_of_azurite() {
    // Beside each other, for what time alone fences is waited out.
    let runs = ["", "deep/pre fix%"].map(async |prefix| {
        let server = Azurite::start().await.unwrap();
        println!("azurite {}", server.version());
        let store = citius_understore::open(&server.mount(prefix)).unwrap();
        store.check().await.unwrap();
        // Azure takes a backslash for a slash, too.
        let skips = ["backslashes_in_names", "sweep_takes_the_dead_only", "descriptors_show_one_version"];
        hold(store, &skips).await;
        server.stop().unwrap();
    });
    futures::future::join_all(runs).await;
}

#[cfg(feature = "more-servers")]
#[tokio::test(flavor = "multi_thread")]
async fn swift_of_a_ceph_gateway() {
    use citius_understore::testing::servers::{CephGateway, CephStore};

    let server = CephGateway::start(CephStore::Memory).await.unwrap();
    println!("ceph {}", server.version());
    for prefix in ["", "deep/pre fix%"] {
        let store = citius_understore::open(&server.swift_mount(prefix)).unwrap();
        store.check().await.unwrap();
        hold(store, &["one_creator_wins", "one_replacer_wins", "descriptors_show_one_version"]).await;
    }
    server.stop().unwrap();
}

#[cfg(feature = "more-servers")]
#[tokio::test(flavor = "multi_thread")]
async fn swift() {
    use citius_understore::testing::servers::Swift;

    // Beside each other, for what time alone fences is waited out.
    let runs = ["", "deep/pre fix%"].map(async |prefix| {
        let server = Swift::start().await.unwrap();
        println!("swift {}", server.version());
        let store = citius_understore::open(&server.mount(prefix)).unwrap();
        store.check().await.unwrap();
        hold(store, &["one_creator_wins", "one_replacer_wins", "descriptors_show_one_version"]).await;
        server.stop().unwrap();
    });
    futures::future::join_all(runs).await;
}
