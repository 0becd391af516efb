//! What every manifest holds: exact pins where the design asks for them, and the workspace's lints.

use crate::finding::Finding;
use crate::metadata::Metadata;
use crate::tree::Tree;

const CHECK: &str = "manifests";

/// Crates whose next release could change what is durable or what runs on a shard: an update is a
/// decision with tests behind it, never a side effect of `cargo update`.
const PINS: &[(&str, &str)] = &[("glommio", "=0.9.0"), ("openraft", "=0.10.0-alpha.37"), ("raft-log", "=0.4.6")];

/// Holds the members' manifests against the rules.
pub(crate) fn check(tree: &Tree, metadata: &Metadata) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in metadata.members() {
        let manifest = metadata.manifest_of(package);
        for dependency in &package.dependencies {
            let pin = PINS.iter().find(|(name, _)| *name == dependency.name);
            if let Some((name, pin)) = pin
                && dependency.req != *pin
            {
                findings.push(Finding::in_file(
                    CHECK,
                    manifest,
                    format!("`{name}` is asked for as `{}`, but is pinned: write `{pin}`", dependency.req),
                ));
            }
        }
        if let Some(text) = tree.text(manifest)
            && !takes_workspace_lints(text)
        {
            findings.push(Finding::in_file(
                CHECK,
                manifest,
                "does not take the lints of the workspace: add `[lints]` with `workspace = true`".to_owned(),
            ));
        }
    }
    findings
}

fn takes_workspace_lints(manifest: &str) -> bool {
    let mut in_lints = false;
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            in_lints = line == "[lints]";
        } else if in_lints && line.replace(' ', "") == "workspace=true" {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::fixture::{Line, workspace};

    const LINTS: &str = "[package]\n\n[lints]\nworkspace = true\n";

    fn findings_for(line: Line, manifest: &str) -> Vec<Finding> {
        let metadata = workspace(&[("citius-engine", "engine", &[line])], &[]);
        check(&Tree::of(&[("engine/Cargo.toml", manifest)]), &metadata)
    }

    #[test]
    fn a_pin_that_gives_way_is_found() {
        assert_eq!(findings_for(("glommio", "=0.9.0", ""), LINTS), []);
        for loose in ["^0.9.0", "=0.9.1", "*"] {
            let found = findings_for(("glommio", loose, ""), LINTS);
            assert!(found[0].what.contains("write `=0.9.0`"), "{found:?}");
        }
    }

    #[test]
    fn a_crate_without_the_workspace_lints_is_found() {
        for manifest in ["[package]\n", "[lints]\n[features]\nworkspace = true\n"] {
            assert_eq!(findings_for(("bytes", "^1", ""), manifest).len(), 1, "{manifest}");
        }
    }
}
