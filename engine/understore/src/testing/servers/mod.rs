//! Real servers for tests and measurements.
//!
//! Each binds 127.0.0.1 only, at ports of its own (`ports.rs`); keeps all that it has in a temporary folder; is installed
//! on first use by `ci/servers/install`; and ends when its value is dropped, or when this process dies, however that dies
//! (`ci/servers/guard`). A test that panics shows the last lines of its servers' logs.
//!
//! | file | system | speaks |
//! |---|---|---|
//! | `azurite.rs` | [`Azurite`] | Azure Blob |
//! | `ceph.rs` | [`CephGateway`] | S3, Swift |
//! | `gluster.rs` | [`Gluster`] | a mounted folder |
//! | `hdfs.rs` | [`Hdfs`] | HDFS, WebHDFS, with Kerberos too |
//! | `hdfs_pair.rs` | [`HdfsPair`] | HDFS with two name nodes |
//! | `kdc.rs` | [`Kdc`] | Kerberos |
//! | `keystone.rs` | [`Keystone`] | Keystone, and Swift by its tokens |
//! | `seaweedfs.rs` | [`SeaweedFs`] | S3, WebDAV |
//! | `shim.rs` | [`StandIn`] | as GCS or OSS, before SeaweedFS |
//! | `endless.rs` | [`EndlessBucket`] | S3, of objects that lie nowhere |
//! | `counting.rs` | [`CountingBucket`] | S3, of objects that are all alike |
//! | `cephfs.rs` | [`CephFs`] | a mounted folder |
//! | `minio.rs` | [`Minio`] | S3 |
//! | `sftp.rs` | [`Sftp`] | SFTP |
//! | `swift.rs` | [`Swift`] | Swift |
//! | `webdav.rs` | [`Webdav`] | WebDAV |
//!
//! `gate.rs` stands before those that speak S3, GCS, OSS or Azure and lets in who logged in elsewhere: at whoever `internet.rs`
//! answers for, or with a key of `account.rs`. `flipping.rs` stands before any of them and damages what goes through, `storm.rs`
//! before one of S3 and does to requests whatever can happen to them; `tls.rs` lets a server be reached by TLS, `witness.rs`
//! counts. `scripted.rs` says what a test wrote. `server.rs` is what all of them can, `guard.rs` runs them, `install.rs`, `fresh.rs` and `ports.rs` say what they need,
//! `http.rs` asks them, `hadoop.rs` is what Hadoop's have in common, `answering.rs` answers for those that are our own, `s3_bucket.rs` is what those that speak S3 have in common.

mod account;
mod answering;
mod azurite;
mod ceph;
mod cephfs;
mod counting;
mod endless;
mod flipping;
mod fresh;
mod gate;
mod gluster;
mod guard;
mod hadoop;
mod hdfs;
mod hdfs_pair;
mod http;
mod install;
mod internet;
mod kdc;
mod keystone;
mod minio;
mod ports;
mod s3_bucket;
mod scripted;
mod seaweedfs;
mod server;
mod sftp;
mod shim;
mod storm;
mod swift;
mod tls;
mod webdav;
mod witness;

pub use self::http::{call, get};
pub use account::ServiceAccount;
pub use azurite::Azurite;
pub use ceph::{CephGateway, CephStore};
pub use cephfs::CephFs;
pub use counting::CountingBucket;
pub use endless::EndlessBucket;
pub use flipping::{Flipping, Way};
pub use gate::{Gate, Pass};
pub use gluster::Gluster;
pub use hdfs::{Hdfs, Protection};
pub use hdfs_pair::{HdfsPair, NameNode};
pub use internet::Internet;
pub use kdc::Kdc;
pub use keystone::{Keystone, Person, Tokens};
pub use minio::Minio;
pub use ports::Ports;
pub use s3_bucket::S3Bucket;
pub use scripted::scripted;
pub use seaweedfs::SeaweedFs;
pub use server::{Processes, Server};
pub use sftp::{Entry, Sftp};
pub use shim::{Dialect, StandIn};
pub use storm::{HttpFault, Storm};
pub use swift::Swift;
pub use tls::{Certified, Tls};
pub use webdav::Webdav;
pub use witness::Witness;
