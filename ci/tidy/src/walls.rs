//! Crates that one module hides from the rest, so that each can be replaced behind it.

use crate::finding::Finding;
use crate::rust_source::RustSource;

const CHECK: &str = "walls";

/// A crate (as an identifier), and the rooms that may name it: the first is its module, the others
/// measure it.
const WALLS: &[(&str, &[&str])] = &[
    ("glommio", &["engine/src/host", "perf", "benches"]),
    ("openraft", &["control/src/raft", "control/examples", "perf", "benches"]),
    ("raft_log", &["control/src/raft", "control/examples", "perf", "benches"]),
];

/// Finds walled crates named outside their walls, in tests too: what only a test needs of such a
/// crate belongs beside its module.
pub(crate) fn check(sources: &[RustSource]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        for (walled, rooms) in WALLS {
            if rooms.iter().any(|room| source.is_in(room)) {
                continue;
            }
            for mention in &source.mentions {
                // A lone word is a variable or a module, not a path into the crate.
                let mut segments = mention.name.split("::");
                let is_path = mention.name.contains("::");
                if is_path && segments.any(|segment| segment == *walled) {
                    findings.push(Finding::at_line(
                        CHECK,
                        &source.path,
                        mention.line,
                        format!(
                            "names `{}`: only {} knows {walled}; give that module what you need",
                            mention.name, rooms[0]
                        ),
                    ));
                }
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<Finding> {
        check(&[RustSource::lex(path, text).expect("lexes")])
    }

    #[test]
    fn each_crate_is_known_behind_its_wall_only() {
        let glommio = "use glommio::LocalExecutor;";
        assert_eq!(findings("engine/src/host/executor.rs", glommio), []);
        assert_eq!(findings("engine/src/host.rs", glommio), []);
        assert_eq!(findings("engine/src/net/accept.rs", glommio).len(), 1);
        assert_eq!(findings("engine/tests/shards.rs", glommio).len(), 1);
        for raft in ["type R = openraft::Raft<C>;", "use openraft as r;", "pub use ::raft_log::RaftLog;"] {
            assert_eq!(findings("control/src/raft/log.rs", raft), []);
            assert_eq!(findings("control/examples/raft_log.rs", raft), []);
            assert_eq!(findings("control/src/rpc.rs", raft).len(), 1);
            assert_eq!(findings("engine/src/host/executor.rs", raft).len(), 1);
        }
    }

    #[test]
    fn talking_about_a_crate_is_not_using_it() {
        let text = "//! Not glommio::net.\nfn f(glommio: u8) { log(\"glommio::x\"); }";
        assert_eq!(findings("engine/src/net/accept.rs", text), []);
    }
}
