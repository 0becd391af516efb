//! Starting: what is refused, by name.

use crate::rig::{Rig, TOKEN};
use citius_control::{Error, Master, MasterConfig, RootSpec};
use std::fs;
use std::net::TcpListener;

fn failure(rig: &mut Rig, configure: impl FnOnce(&mut MasterConfig)) -> Error {
    let error = rig.try_start(configure).unwrap_err();
    assert!(error.to_string().len() > 30, "{error}");
    error
}

#[test]
fn what_is_in_the_way_is_named() {
    let mut rig = Rig::new();
    rig.stop();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = failure(&mut rig, |config| config.rpc_listen = address);
    assert!(matches!(error, Error::PortInUse { what: "the metadata RPC", .. }), "{error}");
    let error = failure(&mut rig, |config| config.http_listen = address);
    assert!(matches!(error, Error::PortInUse { what: "HTTP", .. }), "{error}");
    let error = failure(&mut rig, |config| config.http_listen = "192.0.2.1:0".parse().unwrap());
    assert!(matches!(error, Error::Listen { .. }), "{error}");

    let root = |uri: &str| Some(RootSpec { uri: uri.into(), options: vec![], sync_interval_ms: None });
    let error = failure(&mut rig, |config| config.root = root("s3://u:password@other"));
    assert!(matches!(&error, Error::OtherRoot { .. }) && !error.to_string().contains("password"), "{error}");

    fs::write(rig.home.path().join("raft/format"), "citius-master 99\n").unwrap();
    let error = failure(&mut rig, |_| {});
    assert!(matches!(&error, Error::OtherVersion { found, .. } if found == "citius-master 99"), "{error}");
}

#[test]
fn a_root_that_does_not_work_founds_nothing() {
    let mut rig = Rig { home: tempfile::tempdir().unwrap(), runtime: None, master: None };
    let root = |uri: &str| Some(RootSpec { uri: uri.into(), options: vec![], sync_interval_ms: None });
    let error = failure(&mut rig, |config| config.root = root("/no/such/folder"));
    assert!(matches!(&error, Error::Root { .. }) && error.to_string().contains("does not exist"), "{error}");
    rig.start(|config| config.root = root("memory://a-root"));
    assert!(rig.client().is_there("/"));
    rig.restart();
    assert!(rig.client().is_there("/"), "the root is remembered");
}

#[test]
fn a_home_in_use_is_refused() {
    let rig = Rig::new();
    let second = rig.runtime.as_ref().unwrap().block_on(Master::start(MasterConfig::new(rig.home.path(), TOKEN)));
    assert!(matches!(second, Err(Error::Log(citius_control::raft::Error::InUse { .. }))), "{second:?}");
    assert!(rig.client().is_there("/"));
}

#[test]
fn what_is_ephemeral_is_gone_afterwards() {
    let mut rig = Rig::with(|config| config.ephemeral = true);
    rig.client().mkdir("/d", false).unwrap();
    assert!(rig.root().join("d").exists());
    rig.stop();
    assert!(!rig.root().exists() && !rig.home.path().join("raft").exists());
}

/// Snapshots are taken and read again while a master lives and dies.
#[test]
fn a_log_with_snapshots_is_read_again() {
    let mut rig = Rig::with(|config| config.snapshot_log_bytes = Some(4096));
    let mut client = rig.client();
    for i in 0..300 {
        client.mkdir(&format!("/d{i}"), false).unwrap();
    }
    client.mount("/m", "memory://snapshot", None).unwrap();
    rig.crash();
    rig.start(|_| {});
    let mut client = rig.client();
    assert_eq!(client.list("/").unwrap().len(), 301);
    assert!(client.stat("/m").unwrap().is_mount);
}
