//! docs/under-stores.md says what the suites recorded, and nothing else of what works.
//!
//! `CITIUS_RECORD_DIR=DIR ci/test --all test` leaves what came of every suite in DIR; then
//! `CITIUS_RECORD_DIR=DIR CITIUS_WRITE_DOCS=1 cargo test -p citius-understore --test page` takes it into the record,
//! ci/record/under-stores.json, and writes the page anew. Without these the test compares the two.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fmt, fs,
    path::{Path, PathBuf},
};

use citius_understore::testing::{FOLDER_VARIABLE, Ran, Suite, points};

/// How a row is known.
enum Proof {
    /// By suites on servers of this very system.
    Runs(&'static [&'static str]),
    /// By suites on something that speaks as it does.
    StandIn(&'static [&'static str]),
    /// By suites of these, whose writes went another way.
    Reads(&'static [&'static str]),
    /// By nothing; with the reason.
    NotRun(&'static str),
}

impl Proof {
    /// Whose suites they are.
    fn systems(&self) -> &'static [&'static str] {
        match self {
            Self::Runs(systems) | Self::StandIn(systems) | Self::Reads(systems) => systems,
            Self::NotRun(_) => &[],
        }
    }
}

struct Row {
    name: &'static str,
    uris: &'static str,
    /// Those that are its own, besides keys.
    options: &'static str,
    credentials: &'static str,
    proof: Proof,
}

const ROWS: &[Row] = &[
    Row {
        name: "A folder",
        uris: "`/folder`, `file:///folder`",
        options: "-",
        credentials: "-",
        proof: Proof::Runs(&["local"]),
    },
    Row {
        name: "Amazon S3",
        uris: "`s3://bucket/prefix`, `s3a://`",
        options: "`aws_region`, `aws_profile`, `aws_virtual_hosted_style_request`, `aws_unsigned_payload`, `aws_request_payer`",
        credentials: "options, `AWS_*`, profiles, web identity, container role, instance role",
        proof: Proof::StandIn(&["s3", "ceph-s3", "minio"]),
    },
    Row {
        name: "SeaweedFS by S3",
        uris: "`s3://bucket/prefix` with `aws_endpoint`",
        options: "as Amazon S3",
        credentials: "as Amazon S3",
        proof: Proof::Runs(&["s3"]),
    },
    Row {
        name: "Ceph by S3",
        uris: "`s3://bucket/prefix` with `aws_endpoint`",
        options: "as Amazon S3",
        credentials: "as Amazon S3",
        proof: Proof::Runs(&["ceph-s3"]),
    },
    Row {
        name: "MinIO",
        uris: "`s3://bucket/prefix` with `aws_endpoint`",
        options: "as Amazon S3",
        credentials: "as Amazon S3",
        proof: Proof::Runs(&["minio"]),
    },
    Row {
        name: "Google Cloud Storage",
        uris: "`gs://bucket/prefix`, `gcs://`",
        options: "`google_user_project`, `google_base_url`",
        credentials: "service account, application default credentials, HMAC key, token, metadata server",
        proof: Proof::StandIn(&["gcs"]),
    },
    Row {
        name: "Azure Blob Storage",
        uris: "`abfs[s]://container@account…/path`, `wasb[s]://`, `az://container/path`",
        options: "`azure_storage_account_name`, `azure_credential_type`, `azure_storage_endpoint`",
        credentials: "account key, SAS, service principal, workload identity, managed identity, `az login`, token",
        proof: Proof::StandIn(&["azure"]),
    },
    Row {
        name: "ADLS Gen2 with a hierarchical namespace",
        uris: "as Azure Blob Storage",
        options: "as Azure Blob Storage",
        credentials: "as Azure Blob Storage",
        proof: Proof::NotRun(
            "Azurite has no hierarchical namespace; its directories are told apart by what Azure documents",
        ),
    },
    Row {
        name: "Alibaba OSS",
        uris: "`oss://bucket/prefix`",
        options: "`oss_endpoint`, `oss_region`, `oss_addressing_style`, `oss_request_payer`",
        credentials: "keys, STS token, RRSA, RAM role of a machine",
        proof: Proof::StandIn(&["oss"]),
    },
    Row {
        name: "OpenStack Swift",
        uris: "`swift://container/path`, `swift://container.provider/path`",
        options: "`swift_auth_url`, `swift_storage_url`",
        credentials: "user and key (v1), or of Keystone",
        proof: Proof::Runs(&["swift"]),
    },
    Row {
        name: "OpenStack Swift with Keystone v3",
        uris: "as OpenStack Swift",
        options: "`os_auth_url`, `os_cloud`, `os_region_name`, `os_interface`",
        credentials: "user, password and project; application credential; `clouds.yaml`, `OS_*`",
        proof: Proof::Runs(&["swift-keystone"]),
    },
    Row {
        name: "Ceph by Swift",
        uris: "`swift://container/path`, `swift://container.provider/path`",
        options: "as OpenStack Swift",
        credentials: "user and key (v1)",
        proof: Proof::Runs(&["ceph-swift"]),
    },
    Row {
        name: "CephFS",
        uris: "`cephfs://monitor/path`, `cephfs:///path`, or the folder where it is mounted",
        options: "-",
        credentials: "of whoever mounts it",
        proof: Proof::Runs(&["cephfs"]),
    },
    Row {
        name: "GlusterFS",
        uris: "`glusterfs://server/volume/path`, or the folder where it is mounted",
        options: "-",
        credentials: "of whoever mounts it",
        proof: Proof::Runs(&["gluster"]),
    },
    Row {
        name: "NFS",
        uris: "`nfs://server/export/path`, or the folder where it is mounted",
        options: "-",
        credentials: "of whoever mounts it",
        proof: Proof::NotRun(
            "the kernels at hand have no NFS client; it is a folder of another machine, as GlusterFS is",
        ),
    },
    Row {
        name: "HDFS",
        uris: "`hdfs://namenode:port/path`, `hdfs://nameservice/path`",
        options: "`hdfs_conf_dir`, `hdfs_replication`, `hdfs_block_size`, any `dfs.…`",
        credentials: "`hadoop_user`, `HADOOP_USER_NAME`",
        proof: Proof::Runs(&["hdfs"]),
    },
    Row {
        name: "HDFS with several name nodes",
        uris: "`hdfs://nameservice/path`, `hdfs:///path`, with Hadoop's files in `hdfs_conf_dir` or `HADOOP_CONF_DIR`",
        options: "as HDFS; `dfs.client.failover.…`",
        credentials: "as HDFS",
        proof: Proof::Runs(&["hdfs-ha"]),
    },
    Row {
        name: "HDFS with Kerberos",
        uris: "as HDFS",
        options: "as HDFS; `dfs.data.transfer.protection`",
        credentials: "`kerberos_principal` with `kerberos_keytab` or `kerberos_cache`, else the ticket of the process",
        proof: Proof::Runs(&["hdfs-kerberos"]),
    },
    Row {
        name: "WebDAV",
        uris: "`webdav[s]://host/path`, `dav[s]://`, `http[s]://`",
        options: "-",
        credentials: "`webdav_user` and `webdav_password`",
        proof: Proof::Runs(&["webdav-apache", "webdav"]),
    },
    Row {
        name: "SFTP",
        uris: "`sftp://user@host:port/path`",
        options: "`sftp_known_hosts`",
        credentials: "key file, with a passphrase too; agent; password, also asked for in a dialogue; known_hosts is strict",
        proof: Proof::Runs(&["sftp"]),
    },
    Row {
        name: "Services of OpenDAL",
        uris: "`opendal+<service>://`, with `--read-only`: Dropbox, OneDrive, Google Drive, GitHub and others",
        options: "each service's own",
        credentials: "each service's own",
        proof: Proof::Reads(&["opendal-webdav", "opendal-webdav-apache"]),
    },
];

const BEFORE: &str = "# Under-stores

What can be mounted, and how that is known. This page is made of a record of the suites
(`ci/record/under-stores.json`): what is not in it is not claimed. `citius mount check URI` says what a store of yours
can do; [mount-options.md](mount-options.md) has the options, and
[adding-an-under-store.md](adding-an-under-store.md) says how to add what is missing.

- **contract**: every promise that Citius builds on, point by point, on a real server
  (`engine/understore/src/testing/conformance`). Points that a system cannot keep are named below; where one is, Citius knows
  it, and says so.
- **day**: mount, cold read, second read (without a request; a folder of this machine is looked at again, and not read), change
  underneath, write, rename, delete, `kill -9`, unmount, by the command line (`control/cli/tests/citius/systems.rs`). Where nothing can be written, that every change is refused.

Every system that is reached over a network has the options of traffic, and those over HTTPS that of certificates.

| system | URI | options | credentials | |
|---|---|---|---|---|
";

/// Whether the page and the record are to be made, and not compared.
fn is_written_anew() -> bool {
    env::var_os("CITIUS_WRITE_DOCS").is_some()
}

/// The record, by system and suite.
type Record = BTreeMap<(String, Suite), Ran>;

fn of_project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Those of systems that the page has: suites run on some that are no user's, too.
fn keyed(runs: impl IntoIterator<Item = Ran>) -> Record {
    let is_shown = |ran: &Ran| ROWS.iter().any(|row| row.proof.systems().contains(&ran.system.as_str()));
    runs.into_iter().filter(is_shown).map(|ran| ((ran.system.clone(), ran.suite), ran)).collect()
}

/// What was recorded; and where it is written anew, with what lies in the folder of a run.
fn record(path: &Path) -> Record {
    let mut record = keyed(serde_json::from_str::<Vec<Ran>>(&fs::read_to_string(path).unwrap()).unwrap());
    if let Some(folder) = env::var_os(FOLDER_VARIABLE).filter(|_| is_written_anew()) {
        let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let of_suites = paths.filter(|path| path.extension().is_some_and(|it| it == "json"));
        let files = of_suites.map(|path| fs::read_to_string(path).unwrap());
        record.extend(keyed(files.map(|text| serde_json::from_str(&text).unwrap())));
    }
    record
}

/// What the suites said of systems, a server after the other.
struct Said<'a>(&'a Record, &'a [&'a str]);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(record, systems) = self;
        for (at, system) in systems.iter().enumerate() {
            let of = |suite| record.get(&((*system).to_owned(), suite));
            let contract = of(Suite::Contract)
                .map(|ran| format!("contract {} of {} points", ran.passed, ran.passed + ran.skipped.len()));
            let day = of(Suite::Day).map(|_| "day".to_owned());
            let server = of(Suite::Contract).or(of(Suite::Day)).map_or("not recorded", |ran| &ran.server);
            let suites: Vec<_> = contract.into_iter().chain(day).collect();
            write!(f, "{}{server}: {}", if at == 0 { "" } else { "; " }, suites.join(", "))?;
        }
        Ok(())
    }
}

fn page(record: &Record) -> String {
    let mut page = BEFORE.to_owned();
    for Row { name, uris, options, credentials, proof } in ROWS {
        let known = match proof {
            Proof::Runs(systems) => format!("**works** ({})", Said(record, systems)),
            Proof::StandIn(systems) => format!("**works through a stand-in** ({})", Said(record, systems)),
            Proof::Reads(systems) => format!(
                "**works, read only** ({}): by `opendal+webdav://`, which looked, listed and read what the suites wrote \
                 natively; its points on writes say nothing of OpenDAL. No other of its services was run",
                Said(record, systems)
            ),
            Proof::NotRun(reason) => format!("built, not run: {reason}"),
        };
        page += &format!("| {name} | {uris} | {options} | {credentials} | {known} |\n");
    }
    page += "\n## What each can do\n\n| ability | how | where |\n|---|---|---|\n";
    // Of those that are only read, the suites say what the store beside them can do.
    let is_read_only = |ran: &Ran| {
        ROWS.iter()
            .any(|row| matches!(row.proof, Proof::Reads(_)) && row.proof.systems().contains(&ran.system.as_str()))
    };
    page += &told_of(record, |ran| if is_read_only(ran) { &[] } else { &ran.abilities });
    page += "\n## Points that were left out\n\n| point | why | where |\n|---|---|---|\n";
    page += &told_of(record, |ran| &ran.skipped);
    page
}

/// What is told of systems, each thing once, with the systems that it is told of.
fn told_of(record: &Record, pairs: impl Fn(&Ran) -> &[(String, String)]) -> String {
    let mut told: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for ran in record.values() {
        for (what, how) in pairs(ran) {
            told.entry((what, how)).or_default().insert(called(&ran.system));
        }
    }
    let line = |((what, how), systems): ((&str, &str), BTreeSet<&str>)| {
        let systems: Vec<_> = systems.into_iter().collect();
        format!("| {} | {how} | {} |\n", what.replace('_', " "), systems.join(", "))
    };
    told.into_iter().map(line).collect()
}

/// What the page calls a system: by the row that it proves alone, if there is one.
fn called(system: &str) -> &str {
    let rows = ROWS
        .iter()
        .filter(|row| row.proof.systems().contains(&system))
        .min_by_key(|row| !matches!(row.proof, Proof::Runs(_)));
    rows.map_or(system, |row| row.name)
}

#[test]
fn the_page_says_what_was_recorded() {
    let (record_path, page_path) = (of_project("ci/record/under-stores.json"), of_project("docs/under-stores.md"));
    let record = record(&record_path);
    let made = page(&record);
    if is_written_anew() {
        let runs: Vec<_> = record.values().collect();
        fs::write(&record_path, serde_json::to_string_pretty(&runs).unwrap() + "\n").unwrap();
        fs::write(&page_path, &made).unwrap();
    }
    assert_eq!(fs::read_to_string(&page_path).unwrap(), made, "write it anew: see the head of this file");
}

/// A contract that had fewer points when it was run says nothing of the others.
#[test]
fn every_contract_was_recorded_with_all_points() {
    let record = record(&of_project("ci/record/under-stores.json"));
    for ran in record.values().filter(|ran| ran.suite == Suite::Contract) {
        assert_eq!(ran.passed + ran.skipped.len(), points(), "{}: run it anew", ran.system);
        assert!(!ran.abilities.is_empty(), "{}: run it anew", ran.system);
    }
}

/// A row that no suite stands behind would claim what nobody saw.
#[test]
fn no_row_claims_what_was_not_recorded() {
    let record = record(&of_project("ci/record/under-stores.json"));
    let recorded: BTreeSet<&str> = record.keys().map(|(system, _)| system.as_str()).collect();
    for row in ROWS {
        for system in row.proof.systems() {
            assert!(recorded.contains(system), "{}: nothing is recorded of {system}", row.name);
        }
    }
}

/// What a cloud's row names was logged in with. Rows of those who know nobody, or whose logins are other suites', have no record
/// of it.
#[test]
fn no_row_names_credentials_that_nobody_used() {
    let record = record(&of_project("ci/record/under-stores.json"));
    for system in ["s3", "gcs", "azure", "oss"] {
        let used = &record.get(&(system.to_owned(), Suite::Login)).expect("a record of logins").credentials;
        // The first row that has a system is the one that names what others have as well.
        let row = ROWS.iter().find(|row| row.proof.systems().contains(&system)).unwrap();
        for named in row.credentials.replace('`', "").split(", ") {
            assert!(used.iter().any(|used| used == named), "{}: nobody logged in by {named}: {used:?}", row.name);
        }
    }
}

/// The worked example quotes what is compiled and run.
#[test]
fn the_worked_example_is_quoted_as_it_is() {
    let page = fs::read_to_string(of_project("docs/adding-an-under-store.md")).unwrap();
    let sources = ["src/testing/example.rs", "src/mount.rs", "tests/conformance.rs"]
        .map(|name| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap());
    let quotes: Vec<&str> = page.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(quotes.len(), 5);
    for quote in quotes {
        assert!(sources.iter().any(|source| source.contains(quote)), "no source has this any more:\n{quote}");
    }
}
