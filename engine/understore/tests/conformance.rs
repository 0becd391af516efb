//! The contract of every under-store, on real ones: a folder, memory, and an S3 server.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;

use citius_understore::{
    LocalStore, MemoryStore, UnderStore,
    testing::{
        Report, conformance,
        servers::{CephGateway, CephStore, SeaweedFs},
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
    println!("seaweedfs {}", server.version());
    for prefix in ["", "deep/pre fix%"] {
        let store = citius_understore::open(&server.s3().mount(prefix)).unwrap();
        store.check().await.unwrap();
        hold(store, &["backslashes_in_names", "descriptors_show_one_version"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_of_a_ceph_gateway() {
    let server = CephGateway::start(CephStore::Memory).await.unwrap();
    println!("ceph {}", server.version());
    for prefix in ["", "deep/pre fix%"] {
        let store = citius_understore::open(&server.s3().mount(prefix)).unwrap();
        store.check().await.unwrap();
        hold(store, &["descriptors_show_one_version"]).await;
    }
    server.stop().unwrap();
}
