//! Files of the log lost or damaged as a whole; single bits are wal.rs's tests.

use std::fs;

use citius_control::raft::{Error, Raft};

use crate::ledger::{Ledger, fingerprint, open, small, write};

async fn refuses(dir: &std::path::Path) -> String {
    match Raft::open(dir, small(), Ledger::default()).await {
        Err(error @ Error::Corrupt { .. }) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("opened a damaged log"),
    }
}

/// Each part of the log missing is noticed, and putting it back heals it: noticing changed nothing.
#[tokio::test]
async fn every_missing_file_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let raft = open(dir.path(), small()).await;
    write(&raft, 1, 60, 2000).await;
    let written = fingerprint(&raft);
    raft.shutdown().await;
    let mut files = vec![dir.path().join("mark")];
    let log = fs::read_dir(dir.path().join("log")).unwrap().map(|entry| entry.unwrap().path());
    files.extend(log.filter(|path| path.extension().is_some_and(|kind| kind == "wal")));
    assert!(files.len() > 3, "the log has several files");
    for path in &files {
        let aside = dir.path().join("aside");
        fs::rename(path, &aside).unwrap();
        let said = refuses(dir.path()).await;
        assert!(said.contains("is damaged"), "{said}");
        fs::rename(&aside, path).unwrap();
    }
    // The log folder alone, restored from an older copy: the mark knows better.
    let newest = files.iter().skip(1).max().unwrap();
    let whole = fs::read(newest).unwrap();
    fs::write(newest, &whole[..whole.len() - 100]).unwrap();
    let said = refuses(dir.path()).await;
    assert!(said.contains("acknowledged"), "{said}");
    fs::write(newest, &whole).unwrap();
    let raft = open(dir.path(), small()).await;
    assert_eq!(fingerprint(&raft), written);
    raft.shutdown().await;
}
