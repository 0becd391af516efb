//! Rooms that decide: same input, same output, on any machine and under the simulator.

use crate::finding::Finding;
use crate::rust_source::RustSource;

const CHECK: &str = "purity";

/// Rooms without clock, randomness, I/O and threads. Their tests may use what they like.
const PURE_ROOMS: &[&str] = &["engine/wire/src", "engine/src/shard", "control/src/state"];

/// Paths that act or that differ from run to run; what lies below each is meant too.
const IMPURE_PATHS: &[&str] = &[
    "async_std",
    "getrandom",
    "glommio",
    "io_uring",
    "libc",
    "mio",
    "rand",
    "rustix",
    "std::env",
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "tokio",
];

/// Types that are impure by whatever path they come.
const IMPURE_TYPES: &[&str] = &["Instant", "SystemTime", "RandomState", "OsRng", "ThreadRng"];

/// What `std::net` has beside sockets: addresses, which are plain values.
const ADDRESSES: &[&str] =
    &["IpAddr", "Ipv4Addr", "Ipv6Addr", "SocketAddr", "SocketAddrV4", "SocketAddrV6", "AddrParseError"];

/// Finds impure names in pure rooms.
pub(crate) fn check(sources: &[RustSource]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        let Some(room) = PURE_ROOMS.iter().find(|room| source.is_in(room)) else {
            continue;
        };
        for mention in source.mentions.iter().filter(|mention| !mention.in_test) {
            if is_impure(&mention.name) {
                findings.push(Finding::at_line(
                    CHECK,
                    &source.path,
                    mention.line,
                    format!(
                        "names `{}`, but {room} only decides: let the caller act, and pass time, \
                         chance and bytes in",
                        mention.name
                    ),
                ));
            }
        }
    }
    findings
}

fn is_impure(name: &str) -> bool {
    if name.split("::").any(|segment| IMPURE_TYPES.contains(&segment)) {
        return true;
    }
    // A lone word, such as an argument called `rand`, is no path into a crate.
    name.contains("::") && !is_address(name) && IMPURE_PATHS.iter().any(|path| is_below(name, path))
}

fn is_address(name: &str) -> bool {
    ADDRESSES.iter().any(|address| is_below(name, &format!("std::net::{address}")))
}

fn is_below(name: &str, path: &str) -> bool {
    name.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        check(&[RustSource::lex(path, text).expect("lexes")]).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn each_kind_of_impurity_is_found_in_each_pure_room() {
        for impure in [
            "use std::time::Instant;",
            "use std::time; fn f() { time::SystemTime::now(); }",
            "use std::{fs, mem};",
            "fn f() { std::fs::read(p); }",
            "use std::net::{SocketAddr, TcpStream};",
            "use std::thread;",
            "use std::collections::hash_map::RandomState;",
            "async fn f() { tokio::task::yield_now().await }",
            "use glommio::timer;",
            "fn f() { getrandom::fill(&mut b); }",
            "fn f() { rand::random() }",
            "fn f() { unsafe { libc::read(0, p, 1) } }",
        ] {
            for path in ["engine/wire/src/a.rs", "engine/src/shard/a.rs", "control/src/state/a.rs"] {
                assert_eq!(found(path, impure).len(), 1, "{path}: {impure}");
            }
        }
    }

    #[test]
    fn values_are_pure() {
        for pure in [
            "use std::time::Duration;",
            "use std::net::{IpAddr, SocketAddr}; fn f() -> std::net::SocketAddrV4 { g() }",
            "// std::fs\nfn f(instant_ms: u64, rand: u8) { rand }",
        ] {
            assert_eq!(found("engine/src/shard/a.rs", pure), [""; 0], "{pure}");
        }
    }

    #[test]
    fn tests_and_other_rooms_may_act() {
        let text = "#[cfg(test)] mod tests { use std::fs; }";
        assert_eq!(found("engine/src/shard/a.rs", text), [""; 0]);
        assert_eq!(found("engine/src/host/a.rs", "use std::fs;"), [""; 0]);
    }
}
