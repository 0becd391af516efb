//! File systems of a network that this machine has mounted: `nfs://`, `glusterfs://`, `cephfs://`.
//!
//! The kernel, or a program behind FUSE, speaks their protocols already; what is left is to find the folder. So such a URI
//! names one: `nfs://server/export/data` is wherever this machine has mounted `server:/export` or a part of it, and from
//! there on a store like any folder. Nothing is mounted here: that takes root, and the wishes of whoever runs the machine.
//! Every machine with a master or a worker needs the mount, as it needs the folder of `file:`.
//!
//! The kernel's list of mounts (`proc_pid_mountinfo(5)`) says what each is called:
//!
//! | system | type | source |
//! |---|---|---|
//! | NFS | `nfs`, `nfs4` | `server:/export` |
//! | GlusterFS | `fuse.glusterfs` | `server:/volume`, `server:volume` |
//! | CephFS by the kernel | `ceph` | `monitor,monitor:/folder`, `user@cluster.name=/folder` |
//! | CephFS by `ceph-fuse` | `fuse.ceph-fuse` | nothing: it is meant by `cephfs:///folder`, if it is the only one |

use std::{fs, path::PathBuf, sync::Arc};

use crate::{Error, MountSpec, Result, UnderStore, local::LocalStore, redact};

/// A system that is mounted, not spoken to.
struct System {
    scheme: &'static str,
    /// What the kernel calls it.
    types: &'static [&'static str],
    /// How the URI is written.
    shape: &'static str,
    /// How it is mounted.
    advice: &'static str,
}

const SYSTEMS: &[System] = &[
    System {
        scheme: "nfs",
        types: &["nfs", "nfs4"],
        shape: "nfs://server/export/folder",
        advice: "mount -t nfs server:/export /mnt",
    },
    System {
        scheme: "glusterfs",
        types: &["fuse.glusterfs"],
        shape: "glusterfs://server/volume/folder",
        advice: "mount -t glusterfs server:/volume /mnt",
    },
    System {
        scheme: "cephfs",
        types: &["ceph", "fuse.ceph-fuse"],
        shape: "cephfs://monitor/folder, or cephfs:///folder where one is mounted",
        advice: "mount -t ceph monitor:/ /mnt, or ceph-fuse /mnt",
    },
];

const MOUNTS: &str = "/proc/self/mountinfo";

/// Opens the folder that the URI names.
pub(crate) fn open(spec: &MountSpec) -> Result<Arc<dyn UnderStore>> {
    if let Some(option) = spec.options.keys().next() {
        return Err(Error::UnknownOption {
            uri: spec.redacted_uri(),
            option: option.clone(),
            advice: "what is mounted on this machine takes none here; give them to mount".into(),
        });
    }
    let invalid = |reason| Error::InvalidUri { uri: redact(&spec.uri), reason };
    let mounts = fs::read_to_string(MOUNTS).map_err(|error| invalid(format!("{MOUNTS} cannot be read: {error}")))?;
    let folder = folder_of(&spec.uri, &mounts).map_err(invalid)?;
    Ok(Arc::new(LocalStore::new(folder)?))
}

/// A mount of one of the systems.
#[derive(Debug)]
struct Mounted {
    folder: PathBuf,
    /// The servers by whose names it was mounted; none if the list does not tell.
    hosts: Vec<String>,
    /// What of the server's tree is mounted: its components.
    exported: Vec<String>,
}

/// The folder of this machine that a URI names, or why there is none.
fn folder_of(uri: &str, mounts: &str) -> std::result::Result<PathBuf, String> {
    let (scheme, rest) = uri.split_once("://").unwrap_or((uri, ""));
    let system = SYSTEMS.iter().find(|system| system.scheme == scheme);
    let system = system.ok_or_else(|| format!("{scheme}: is not a file system that machines mount"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let asked = components(path);
    if host.is_empty() && system.scheme != "cephfs" || asked.iter().any(|part| part == "..") {
        return Err(format!("write {}", system.shape));
    }
    let all: Vec<Mounted> = mounts.lines().filter_map(|line| Mounted::of(line, system)).collect();
    let is_meant = |mounted: &&Mounted| match host {
        "" => true,
        _ => host.split(',').any(|host| mounted.hosts.iter().any(|named| is_same(named, host))),
    };
    let meant: Vec<&Mounted> =
        all.iter().filter(is_meant).filter(|mounted| asked.starts_with(&mounted.exported)).collect();
    if host.is_empty() && meant.len() > 1 {
        let folders: Vec<_> = meant.iter().map(|mounted| mounted.folder.display().to_string()).collect();
        return Err(format!("several are mounted ({}): mount the folder that is meant", folders.join(", ")));
    }
    // The one that leaves least of the path to walk; of equals the last, which hides the others if they are at one place.
    let nearest = meant.into_iter().max_by_key(|mounted| mounted.exported.len());
    let Some(nearest) = nearest else {
        let seen: Vec<_> = all.iter().map(|mounted| mounted.folder.display().to_string()).collect();
        let seen = if seen.is_empty() { String::new() } else { format!(" (others are at {})", seen.join(", ")) };
        return Err(format!(
            "this machine has no such mount{seen}; mount it first ({}), on each machine with a master or a worker",
            system.advice
        ));
    };
    Ok(asked[nearest.exported.len()..].iter().fold(nearest.folder.clone(), |folder, part| folder.join(part)))
}

impl Mounted {
    /// Reads a line of the list; none if it is of something else.
    fn of(line: &str, system: &System) -> Option<Self> {
        let (place, what) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, folder) = (plain(place.next()?), plain(place.next()?));
        let mut what = what.split(' ');
        let kind = what.next()?;
        if !system.types.contains(&kind) {
            return None;
        }
        let source = plain(what.next()?);
        let options = what.next().unwrap_or_default();
        let (hosts, exported) = match kind {
            "fuse.ceph-fuse" => (Vec::new(), String::new()),
            "ceph" if source.contains('=') => {
                let monitors = options.split(',').find_map(|option| option.strip_prefix("mon_addr="));
                let monitors = monitors.unwrap_or_default().split('/').map(str::to_owned).collect();
                (monitors, source.split_once('=')?.1.to_owned())
            }
            _ => {
                // A server's address may have colons of its own; what it exports begins behind the last one that is
                // followed by a slash, or else behind the last.
                let at = source.find(":/").or_else(|| source.rfind(':'))?;
                (source[..at].split(',').map(str::to_owned).collect(), source[at + 1..].to_owned())
            }
        };
        let mut exported = components(&exported);
        exported.extend(components(&root));
        Some(Self { folder: PathBuf::from(folder), hosts, exported })
    }
}

/// Whether two names are of one server; a port that only one of them has says nothing.
fn is_same(a: &str, b: &str) -> bool {
    let split = |name: &str| match name.rsplit_once(':') {
        Some((host, port))
            if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) && !host.ends_with(':') =>
        {
            (host.to_ascii_lowercase(), Some(port.to_owned()))
        }
        _ => (name.to_ascii_lowercase(), None),
    };
    let ((a, a_port), (b, b_port)) = (split(a), split(b));
    a == b && (a_port == b_port || a_port.is_none() || b_port.is_none())
}

fn components(path: &str) -> Vec<String> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned).collect()
}

/// A field of the list, whose blanks and backslashes are written in octal.
fn plain(field: &str) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let octal = behind.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[3..];
            }
            None => {
                bytes.push(first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS_OF_A_MACHINE: &str = "\
25 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 25 0:40 / /mnt/home rw shared:2 - nfs4 filer.example:/export/home rw,vers=4.2
41 25 0:41 / /mnt/all rw - nfs Filer.example:/export rw,vers=3
42 25 0:40 /ada /mnt/ada\\040l rw - nfs4 filer.example:/export/home rw,vers=4.2
43 25 0:43 / /mnt/six rw - nfs4 [fd00::1]:/six rw
50 25 0:50 / /mnt/bricks rw - fuse.glusterfs 10.0.0.1:/volume rw
51 25 0:51 / /mnt/old rw - fuse.glusterfs 10.0.0.2:volume2 rw
60 25 0:60 / /mnt/ceph rw - ceph 10.1.0.1:6789,10.1.0.2:6789:/team rw,name=admin
61 25 0:61 / /mnt/newer rw - ceph admin@3f1c-4.archive=/ rw,name=admin,mon_addr=10.2.0.1:6789/10.2.0.2:6789";

    fn found(uri: &str) -> std::result::Result<String, String> {
        folder_of(uri, MOUNTS_OF_A_MACHINE).map(|folder| folder.display().to_string())
    }

    #[test]
    fn a_uri_is_the_folder_where_it_is_mounted() {
        for (uri, folder) in [
            ("nfs://filer.example/export/data/x", "/mnt/all/data/x"),
            ("nfs://filer.example:2049/export/home/bob", "/mnt/home/bob"),
            ("nfs://filer.example/export/home/ada/work", "/mnt/ada l/work"),
            ("nfs://filer.example//export/", "/mnt/all"),
            ("nfs://[fd00::1]/six/a", "/mnt/six/a"),
            ("glusterfs://10.0.0.1/volume", "/mnt/bricks"),
            ("glusterfs://10.0.0.1:24007/volume/a b%20c", "/mnt/bricks/a b%20c"),
            ("glusterfs://10.0.0.2/volume2/x", "/mnt/old/x"),
            ("cephfs://10.1.0.2/team/x", "/mnt/ceph/x"),
            ("cephfs://10.9.9.9,10.1.0.1:6789/team", "/mnt/ceph"),
            ("cephfs://10.2.0.2/x", "/mnt/newer/x"),
        ] {
            assert_eq!(found(uri).as_deref(), Ok(folder), "{uri}");
        }
    }

    #[test]
    fn what_is_not_mounted_is_said_with_what_to_do() {
        for (uri, words) in [
            ("nfs://other.example/export", "mount -t nfs"),
            ("nfs://filer.example/exports", "no such mount (others are at /mnt/home"),
            ("nfs:///export", "write nfs://server"),
            ("glusterfs://10.0.0.1/volume/../x", "write glusterfs://"),
            ("cephfs://10.1.0.2:3300/team/x", "no such mount"),
            ("cephfs:///team", "several are mounted (/mnt/ceph, /mnt/newer)"),
        ] {
            let error = found(uri).unwrap_err();
            assert!(error.contains(words), "{uri}: {error}");
        }
    }

    #[test]
    fn the_only_ceph_needs_no_monitor() {
        let fuse = "70 25 0:70 / /mnt/fuse rw - fuse.ceph-fuse ceph-fuse rw,user_id=0";
        assert_eq!(folder_of("cephfs:///a/b", fuse), Ok(PathBuf::from("/mnt/fuse/a/b")));
        assert!(folder_of("cephfs://10.1.0.1/a", fuse).unwrap_err().contains("others are at /mnt/fuse"));
    }

    #[test]
    fn a_damaged_list_is_no_mount() {
        for list in ["", "x", " - ", "1 2 3 - nfs", "1 2 3 / /m rw - nfs noexport rw", "1 2 3 / /m\\9 rw - nfs a:/b"] {
            assert!(folder_of("nfs://server/x", list).is_err(), "{list}");
        }
    }
}
