//! The same day on every under-store: mount, cold read, warm read, change underneath, write, rename, delete, crash,
//! unmount. What is in the store is looked at past Citius, by its contents. Where nothing can be written, every change is
//! refused instead.

use crate::support::{Process, flags, noise, put};
use citius_understore::testing::Ran;
use citius_understore::testing::servers::{
    Azurite, CephGateway, CephStore, Certified, Dialect, Gluster, Hdfs, SeaweedFs, StandIn, Tls,
};
use citius_understore::{Condition, FileId, MountSpec, StorePath, UnderStore, open};
use std::sync::Arc;
use tokio::runtime::Runtime;

const NAMES: [&str; 7] = ["plain", "with space", "ünïcödé-文字", "per%cent", "ha#sh", "pl+us", "-dash"];
/// More than one put, block and grain of any store.
const LARGE: usize = (64 << 20) + 12_345;

/// An under-store as a user mounts it, and as another program sees it.
struct System {
    spec: MountSpec,
    runtime: Runtime,
    store: Arc<dyn UnderStore>,
    own: tempfile::TempDir,
}

fn path(name: &str) -> StorePath {
    StorePath::parse(name).unwrap()
}

impl System {
    /// Starts a server and gives it with the mount that leads to it.
    fn start<S>(start: impl Future<Output = std::io::Result<S>>, spec: impl FnOnce(&S) -> MountSpec) -> (S, Self) {
        let runtime = Runtime::new().unwrap();
        let server = runtime.block_on(start).unwrap();
        let spec = spec(&server);
        (server, Self::of(runtime, spec))
    }

    fn of(runtime: Runtime, spec: MountSpec) -> Self {
        let store = runtime.block_on(async { open(&spec) }).unwrap();
        Self { spec, runtime, store, own: tempfile::tempdir().unwrap() }
    }

    fn local(&self) -> Process {
        Process::mounting(&self.spec)
    }

    fn mount(&self, local: &Process, path: &str, more: &[&str]) {
        let flags = flags(&self.spec);
        let flags: Vec<_> = flags.iter().map(String::as_str).collect();
        local.run(&[&["mount", "add", path, &self.spec.uri], more, &flags].concat());
    }

    /// Writes a file past Citius.
    fn put(&self, name: &str, bytes: &[u8]) {
        self.runtime.block_on(async {
            let mut staged = self.store.stage(&path(name), FileId([9; 16]), Some(bytes.len() as u64)).await.unwrap();
            for piece in bytes.chunks(4 << 20) {
                staged.write(piece.to_vec().into()).await.unwrap();
            }
            staged.publish(&Condition::Any).await.unwrap();
        });
    }

    /// The bytes of a file past Citius; `None` if nothing is there.
    fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.runtime.block_on(async {
            let stat = match self.store.stat(&path(name)).await {
                Ok(stat) => stat,
                Err(error) if error.is_not_found() => return None,
                Err(error) => panic!("{name}: {error}"),
            };
            let mut bytes = Vec::new();
            let mut landing = |_: u64, part: &[u8]| bytes.extend_from_slice(part);
            self.store.read(&path(name), &stat.token, 0..stat.len, &mut landing).await.unwrap();
            Some(bytes)
        })
    }

    fn mkdir(&self, name: &str) {
        self.runtime.block_on(self.store.mkdir(&path(name))).unwrap();
    }

    /// A file of this machine, as a source of `cp`.
    fn source(&self, name: &str, bytes: &[u8]) -> String {
        put(self.own.path().join(name), bytes);
        format!("file:{}", self.own.path().join(name).display())
    }

    /// The whole day. `is_far`: it is not a folder of this machine, which is looked at again by every read.
    fn live(&self, system: &str, server: &str, is_far: bool) {
        println!("{system}: {server}");
        self.day(is_far);
        Ran::day(system, server).keep();
    }

    fn day(&self, is_far: bool) {
        let large = self.fill();
        let mut local = self.local();
        self.reads(&local, &large, is_far);
        self.changes_underneath(&local);
        self.writes(&local);

        local.kill();
        local.restart();
        assert!(local.run(&["cat", "/data/new/large"]) == noise(LARGE, 5), "after a crash");
        assert_eq!(local.json(&["stat", "/data/new/large"])["persisted"], true);

        local.run(&["rm", "-r", "/data/new"]);
        assert_eq!(self.get("new/large"), None);
        local.fails(3, &["ls", "/data/new"]);
        self.unmounts(&local, &large);
    }

    /// The day of a mount that is only read.
    fn live_reading(&self, system: &str, server: &str) {
        println!("{system}: {server}");
        let large = self.fill();
        let mut local = Process::local(&[]);
        self.mount(&local, "/data", &[]);
        self.reads(&local, &large, true);
        self.changes_underneath(&local);
        self.refuses_writes(&local);

        local.kill();
        local.restart();
        assert!(local.run(&["cat", "/data/large"]) == large, "after a crash");

        self.unmounts(&local, &large);
        Ran::day(system, server).keep();
    }

    /// Writes what is read all day, past Citius, and gives the content of the largest file.
    fn fill(&self) -> Vec<u8> {
        let large = noise(LARGE, 1);
        self.mkdir("d");
        self.put("d/first", &noise(70_000, 2));
        self.put("d/empty", b"");
        self.put("large", &large);
        for (i, name) in NAMES.iter().enumerate() {
            self.put(&format!("d/{name}"), &noise(100 + i, i as u64));
        }
        large
    }

    fn unmounts(&self, local: &Process, large: &[u8]) {
        local.run(&["mount", "rm", "/data"]);
        local.fails(3, &["ls", "/data"]);
        assert!(self.get("large").unwrap() == large, "unmounting leaves files alone");
    }

    fn reads(&self, local: &Process, large: &[u8], is_far: bool) {
        let mut names: Vec<_> = NAMES.into_iter().chain(["empty", "first"]).collect();
        names.sort_unstable();
        let listed = local.text(&["ls", "/data/d"]);
        assert_eq!(listed.lines().collect::<Vec<_>>(), names);
        assert_eq!(local.text(&["ls", "/data"]).lines().collect::<Vec<_>>(), ["d/", "large"]);
        for (i, name) in NAMES.iter().enumerate() {
            assert!(local.run(&["cat", &format!("/data/d/{name}")]) == noise(100 + i, i as u64), "{name}");
        }
        assert!(local.run(&["cat", "/data/d/empty"]).is_empty());
        assert!(local.run(&["cat", "/data/large"]) == large, "cold");
        let before = local.requests("/data");
        assert!(local.run(&["cat", "/data/large"]) == large, "warm");
        let after = local.requests("/data");
        assert_eq!(after.0, before.0, "a second read asks the store for no content");
        if is_far {
            assert_eq!(after, before, "a second read asks the store for nothing");
        }
        let error = local.fails(3, &["cat", "/data/d/missing"]);
        assert!(error.contains("/data/d/missing"), "{error}");
    }

    /// A mount that believes nothing sees a change at once, however often.
    fn changes_underneath(&self, local: &Process) {
        self.mount(local, "/now", &["--sync-interval", "0"]);
        for seed in 2..5 {
            let now = noise(70_000, seed);
            self.put("d/first", &now);
            assert!(local.run(&["cat", "/now/d/first"]) == now, "version {seed}");
        }
        self.runtime.block_on(self.store.delete_file(&path("d/first"))).unwrap();
        local.fails(3, &["cat", "/now/d/first"]);
        local.run(&["mount", "rm", "/now"]);
    }

    fn writes(&self, local: &Process) {
        local.run(&["mkdir", "/data/new"]);
        for (name, length, seed) in [("small", 5_000, 4), ("large", LARGE, 5), ("empty", 0, 6)] {
            let bytes = noise(length, seed);
            local.run(&["cp", &self.source(name, &bytes), &format!("/data/new/{name}")]);
            assert!(self.get(&format!("new/{name}")).unwrap() == bytes, "{name}");
            assert!(local.run(&["cat", &format!("/data/new/{name}")]) == bytes, "{name}");
        }
        for (i, name) in NAMES.iter().enumerate() {
            let bytes = noise(50 + i, i as u64);
            local.run(&["cp", &self.source("name", &bytes), &format!("/data/new/{name}")]);
            assert!(self.get(&format!("new/{name}")).unwrap() == bytes, "{name}");
        }
        let other = noise(6_000, 7);
        local.fails(1, &["cp", &self.source("other", &other), "/data/new/small"]);
        assert!(self.get("new/small").unwrap() == noise(5_000, 4), "what was refused changed nothing");
        local.run(&["cp", "--force", &self.source("other", &other), "/data/new/small"]);
        assert!(self.get("new/small").unwrap() == other);

        local.run(&["mv", "/data/new/small", "/data/new/moved"]);
        assert_eq!(self.get("new/small"), None);
        assert!(self.get("new/moved").unwrap() == other);
        local.run(&["mv", "/data/new", "/data/other"]);
        local.fails(3, &["ls", "/data/new"]);
        assert!(self.get("other/large").unwrap() == noise(LARGE, 5));
        local.run(&["mv", "/data/other", "/data/new"]);
        local.run(&["rm", "/data/new/moved"]);
        assert_eq!(self.get("new/moved"), None);
    }

    /// Every change is refused in words, and none is made.
    fn refuses_writes(&self, local: &Process) {
        let source = self.source("small", &noise(5_000, 4));
        let changes: [&[&str]; 6] = [
            &["cp", &source, "/data/new"],
            &["cp", "--force", &source, "/data/large"],
            &["mkdir", "/data/new"],
            &["mv", "/data/large", "/data/new"],
            &["rm", "/data/large"],
            &["rm", "-r", "/data/d"],
        ];
        for change in changes {
            let error = local.fails(4, change);
            assert!(error.contains("the mount at /data, which is read-only"), "{change:?}: {error}");
        }
        assert_eq!(self.get("new"), None);
        assert_eq!(self.get("d/plain").unwrap(), noise(100, 0));
    }
}

#[test]
fn a_day_on_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let spec = MountSpec::new(folder.path().to_str().unwrap());
    System::of(Runtime::new().unwrap(), spec).live("local", "this machine", false);
}

#[test]
fn a_day_on_s3() {
    let (server, system) = System::start(SeaweedFs::start(), |server| server.s3().mount("day"));
    system.live("s3", &format!("SeaweedFS {}", server.version()), true);
}

#[test]
fn a_day_on_s3_of_ceph() {
    let (server, system) = System::start(CephGateway::start(CephStore::Memory), |server| server.s3().mount("day"));
    system.live("ceph-s3", &format!("Ceph RGW {}", server.version()), true);
}

#[test]
fn a_day_on_swift_of_ceph() {
    let (server, system) = System::start(CephGateway::start(CephStore::Memory), |server| server.swift_mount("day"));
    system.live("ceph-swift", &format!("Ceph RGW {}", server.version()), true);
}

#[test]
fn a_day_on_gcs() {
    let (server, system) = System::start(StandIn::start(Dialect::Gcs), |server| server.mount("day"));
    system.live("gcs", &format!("stand-in before SeaweedFS {}", server.version()), true);
}

#[test]
fn a_day_on_oss() {
    let (server, system) = System::start(StandIn::start(Dialect::Oss), |server| server.mount("day"));
    system.live("oss", &format!("stand-in before SeaweedFS {}", server.version()), true);
}

#[test]
fn a_day_on_azure() {
    let (server, system) = System::start(Azurite::start(), |server| server.mount("day"));
    system.live("azure", &format!("Azurite {}", server.version()), true);
}

#[test]
fn a_day_on_hdfs() {
    let (server, system) = System::start(Hdfs::start(), |server| {
        MountSpec::new(format!("{}{}", server.name_node(), server.folder())).option("hadoop_user", server.user())
    });
    system.live("hdfs", &format!("Hadoop {}", server.version()), true);
}

/// A folder of SeaweedFS, by WebDAV. The root has a folder of the server's own.
fn webdav() -> (SeaweedFs, System) {
    let (server, root) =
        System::start(SeaweedFs::start(), |server| MountSpec::new(server.webdav().replace("http:", "webdav:")));
    root.mkdir("day");
    let System { spec, runtime, .. } = root;
    let system = System::of(runtime, MountSpec::new(format!("{}/day", spec.uri)));
    (server, system)
}

/// Through TLS, by a certificate of an authority that only the mount's option names.
#[test]
fn a_day_on_s3_through_tls() {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(SeaweedFs::start()).unwrap();
    let upstream = server.s3().endpoint().strip_prefix("http://").unwrap();
    let tls = Tls::before(upstream, Certified::Well).unwrap();
    let spec = tls.mount(server.s3().mount("day")).option("ca_certificate_file", tls.ca_file().display().to_string());
    assert_eq!(spec.options["aws_endpoint"].expose(), tls.endpoint());
    System::of(runtime, spec).day(true);
}

#[test]
fn a_day_on_webdav() {
    let (server, system) = webdav();
    system.live("webdav", &format!("SeaweedFS {}", server.version()), true);
}

#[test]
fn a_day_of_reading_by_opendal() {
    let (server, native) = webdav();
    let spec = MountSpec::new("opendal+webdav:///day").option("endpoint", server.webdav());
    let system = System { spec: MountSpec { read_only: true, ..spec }, ..native };
    system.live_reading("opendal-webdav", &format!("SeaweedFS {}, written natively", server.version()));
}

/// A mounted folder whose file system lies on a network: calls into it are counted. It is named as on any machine, by
/// server and volume.
#[test]
fn a_day_on_gluster() {
    let (server, system) = System::start(Gluster::start(), |_| MountSpec::new("glusterfs://127.0.0.1/citius"));
    system.live("gluster", &format!("GlusterFS {}", server.version()), true);
}

/// Servers that only `ci/test --all` has.
#[cfg(feature = "more-servers")]
mod more {
    use super::*;
    use crate::support::citius;
    use citius_understore::testing::servers::{
        CephFs, HdfsPair, Kdc, Keystone, Minio, NameNode, Protection, Sftp, Swift, Tokens, Webdav,
    };
    use citius_understore::testing::{is_alone, run_alone};

    #[test]
    fn a_day_on_swift() {
        let (server, system) = System::start(Swift::start(), |server| server.mount("day"));
        system.live("swift", &format!("OpenStack Swift {}", server.version()), true);
    }

    /// With tokens that end many times a day.
    #[test]
    fn a_day_on_swift_of_keystone() {
        let (server, system) = System::start(Keystone::start(Tokens::Ending(20)), |server| server.mount("day"));
        system.live("swift-keystone", &format!("OpenStack Keystone {}", server.version()), true);
    }

    #[test]
    fn a_day_on_minio() {
        let (server, system) = System::start(Minio::start(), |server| server.s3().mount("day"));
        system.live("minio", &format!("MinIO {}", server.version()), true);
    }

    #[test]
    fn a_day_on_cephfs() {
        let (server, system) = System::start(CephFs::start(CephStore::Memory), |_| MountSpec::new("cephfs:///"));
        system.live("cephfs", &format!("CephFS {}", server.version()), true);
    }

    /// The name node that is asked first is standby.
    #[test]
    fn a_day_on_hdfs_of_two_name_nodes() {
        let (server, system) = System::start(HdfsPair::start(NameNode::Second), |server| {
            MountSpec::new(server.uri())
                .option("hdfs_conf_dir", server.conf_dir().display().to_string())
                .option("hadoop_user", server.user())
        });
        system.live("hdfs-ha", &format!("Hadoop {}, two name nodes", server.version()), true);
    }

    /// In a process that begins with the realm, as whoever starts Citius does.
    #[test]
    fn a_day_on_hdfs_with_kerberos() {
        const THIS: &str = "systems::more::a_day_on_hdfs_with_kerberos";
        let runtime = Runtime::new().unwrap();
        if is_alone(THIS) {
            let told = |variable: &str| std::env::var(variable).unwrap();
            let spec = MountSpec::new(told("TEST_URI"))
                .option("hdfs_conf_dir", told("TEST_CONF_DIR"))
                .option("kerberos_principal", told("TEST_PRINCIPAL"))
                .option("kerberos_keytab", told("TEST_KEYTAB"));
            return System::of(runtime, spec).live("hdfs-kerberos", &told("TEST_SERVER"), true);
        }
        let kdc = runtime.block_on(Kdc::start()).unwrap();
        let hdfs = runtime.block_on(Hdfs::start_secure(&kdc, Protection::Privacy)).unwrap();
        let variables = [
            ("KRB5_CONFIG", kdc.config().display().to_string()),
            ("TEST_URI", format!("{}{}", hdfs.name_node(), hdfs.folder())),
            ("TEST_CONF_DIR", hdfs.conf_dir().display().to_string()),
            ("TEST_PRINCIPAL", kdc.principal(hdfs.user())),
            ("TEST_KEYTAB", kdc.keytab(hdfs.user()).unwrap().display().to_string()),
            ("TEST_SERVER", format!("Hadoop {}, MIT Kerberos {}, privacy", hdfs.version(), kdc.version())),
        ];
        run_alone(THIS, &variables);
    }

    fn apache() -> (Webdav, System) {
        System::start(Webdav::start(), |server| {
            let (user, password) = server.keys();
            MountSpec::new(server.endpoint()).option("webdav_user", user).option("webdav_password", password)
        })
    }

    #[test]
    fn a_day_on_webdav_of_apache() {
        let (server, system) = apache();
        system.live("webdav-apache", &format!("Apache {}", server.version()), true);
    }

    #[test]
    fn a_day_of_reading_by_opendal_with_a_password() {
        let (server, native) = apache();
        let (user, right) = server.keys();
        let by = |password: &str| {
            let spec = MountSpec::new("opendal+webdav:///").option("endpoint", server.endpoint());
            MountSpec { read_only: true, ..spec.option("username", user).option("password", password) }
        };
        let check = |password: &str| {
            let spec = by(password);
            let output = citius().args(["mount", "check", &spec.uri]).args(flags(&spec)).output().unwrap();
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        };
        assert_eq!(check(right), (Some(0), String::new()));
        let (code, error) = check("not-the-password");
        assert!(code == Some(4) && error.contains("keys: ") && error.contains("refused the keys"), "{code:?} {error}");
        assert!(error.contains("user, password") && !error.contains("not-the-password"), "{error}");
        let system = System { spec: by(right), ..native };
        system.live_reading("opendal-webdav-apache", &format!("Apache {}, written natively", server.version()));
    }

    #[test]
    fn a_day_on_sftp() {
        let (server, system) = System::start(Sftp::start(), |server| {
            let folder = server.folder().join("day");
            std::fs::create_dir(&folder).unwrap();
            MountSpec::new(format!("sftp://{}@{}{}", server.user(), server.address(), folder.display()))
                .option("sftp_key_file", server.key_file().display().to_string())
                .option("sftp_known_hosts", server.known_hosts().display().to_string())
        });
        system.live("sftp", &format!("OpenSSH {}", server.version()), true);
    }
}
