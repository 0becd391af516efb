//! What `cargo metadata` says of the workspace, as far as tidy asks.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// The packages of the dependency tree, and the graph between them.
#[derive(Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
    pub(crate) workspace_members: Vec<String>,
    pub(crate) workspace_root: String,
    pub(crate) resolve: Resolve,
}

/// One package; `dependencies` are what its manifest asks for.
#[derive(Deserialize)]
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    manifest_path: String,
    pub(crate) dependencies: Vec<Dependency>,
}

/// A line of a manifest's dependencies.
#[derive(Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) req: String,
    kind: Option<String>,
}

impl Dependency {
    pub(crate) fn is_dev(&self) -> bool {
        self.kind.as_deref() == Some("dev")
    }
}

/// What was chosen for every line, for all platforms and features.
#[derive(Deserialize)]
pub(crate) struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<EdgeKind>,
}

#[derive(Deserialize)]
struct EdgeKind {
    kind: Option<String>,
}

impl Metadata {
    pub(crate) fn load(root: &Path) -> Result<Self> {
        let output = Command::new("cargo")
            .args(["metadata", "--format-version", "1"])
            .current_dir(root)
            .output()
            .context("cannot run cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        Self::parse(&output.stdout)
    }

    pub(crate) fn parse(json: &[u8]) -> Result<Self> {
        serde_json::from_slice(json).context("cargo metadata printed what tidy cannot read")
    }

    /// The packages of the workspace itself.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| self.workspace_members.contains(&package.id))
    }

    /// A member's manifest, relative to the top.
    pub(crate) fn manifest_of<'a>(&self, package: &'a Package) -> &'a str {
        package
            .manifest_path
            .strip_prefix(&self.workspace_root)
            .map_or(package.manifest_path.as_str(), |rest| rest.trim_start_matches('/'))
    }

    /// A shortest chain of names from `from` to the package called `to`, over what is linked into
    /// the product: neither build scripts nor tests.
    pub(crate) fn chain_to<'a>(&'a self, from: &'a Package, to: &str) -> Option<Vec<&'a str>> {
        let mut chains: Vec<Vec<&str>> = vec![vec![from.id.as_str()]];
        let mut seen: Vec<&str> = vec![from.id.as_str()];
        let mut at = 0;
        // Bounded: every package enters `seen`, and so `chains`, once.
        while at < chains.len() {
            let here = chains[at].last().copied().unwrap_or_default();
            if at > 0 && self.name_of(here) == to {
                return Some(chains[at].iter().map(|id| self.name_of(id)).collect());
            }
            let node = self.resolve.nodes.iter().find(|node| node.id == here);
            for edge in node.iter().flat_map(|node| &node.deps) {
                let is_linked = edge.dep_kinds.iter().any(|kind| kind.kind.is_none());
                if is_linked && !seen.contains(&edge.pkg.as_str()) {
                    seen.push(&edge.pkg);
                    let mut longer = chains[at].clone();
                    longer.push(&edge.pkg);
                    chains.push(longer);
                }
            }
            at += 1;
        }
        None
    }

    fn name_of<'a>(&'a self, id: &'a str) -> &'a str {
        self.packages.iter().find(|package| package.id == id).map_or(id, |package| package.name.as_str())
    }
}

#[cfg(test)]
pub(crate) mod fixture {
    //! A workspace in a few lines, in cargo's own words.

    use serde_json::json;

    use super::Metadata;

    /// A line of dependencies: name, requirement, kind (`""`, `"dev"`, `"build"`).
    pub(crate) type Line = (&'static str, &'static str, &'static str);

    /// Members with the folder and dependencies of each, and what lies outside the workspace.
    pub(crate) fn workspace(members: &[(&str, &str, &[Line])], outside: &[(&str, &[Line])]) -> Metadata {
        let all = members
            .iter()
            .map(|&(name, folder, lines)| (name, format!("/top/{folder}/Cargo.toml"), lines))
            .chain(outside.iter().map(|&(name, lines)| (name, format!("/registry/{name}/Cargo.toml"), lines)));
        let kind = |kind: &str| if kind.is_empty() { json!(null) } else { json!(kind) };
        let mut packages = Vec::new();
        let mut nodes = Vec::new();
        for (name, manifest_path, lines) in all {
            let dependencies: Vec<_> =
                lines.iter().map(|line| json!({"name": line.0, "req": line.1, "kind": kind(line.2)})).collect();
            let deps: Vec<_> =
                lines.iter().map(|line| json!({"pkg": line.0, "dep_kinds": [{"kind": kind(line.2)}]})).collect();
            packages.push(json!({"id": name, "name": name, "manifest_path": manifest_path,
                "dependencies": dependencies}));
            nodes.push(json!({"id": name, "deps": deps}));
        }
        let workspace_members: Vec<_> = members.iter().map(|member| member.0).collect();
        let document = json!({"packages": packages, "workspace_members": workspace_members,
            "workspace_root": "/top", "resolve": {"nodes": nodes}});
        Metadata::parse(document.to_string().as_bytes()).expect("cargo's format")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_run_over_linked_code_only() {
        let metadata = fixture::workspace(
            &[("a", "a", &[("b", "*", ""), ("e", "*", "dev")])],
            &[("b", &[("c", "*", ""), ("d", "*", "build")]), ("c", &[]), ("d", &[]), ("e", &[])],
        );
        let a = metadata.members().next().expect("one member");
        assert_eq!(metadata.chain_to(a, "c"), Some(vec!["a", "b", "c"]));
        assert_eq!(metadata.chain_to(a, "d"), None);
        assert_eq!(metadata.chain_to(a, "e"), None);
        assert_eq!(metadata.manifest_of(a), "a/Cargo.toml");
    }
}
