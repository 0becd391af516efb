//! The arrows between rooms, as the design has them, and no others.
//!
//! ```text
//!   cli ──► engine, control, client        perf, benches, ci ──► any room; nothing ──► them
//!             engine, control ──► wire, understore
//!             client ──► wire
//! ```

use crate::finding::Finding;
use crate::metadata::{Metadata, Package};

const CHECK: &str = "arrows";

/// Each room with the rooms that it may use in the product. A new room joins here first.
const ARROWS: &[(&str, &[&str])] = &[
    ("citius-wire", &[]),
    ("citius-understore", &[]),
    ("citius-engine", &["citius-wire", "citius-understore"]),
    ("citius-control", &["citius-wire", "citius-understore"]),
    ("citius-client", &["citius-wire"]),
    ("citius", &["citius-engine", "citius-control", "citius-client"]),
];

/// Folders of crates that measure and check: they may use every room, and no room uses them.
const OBSERVERS: &[&str] = &["perf/", "benches/", "ci/"];

/// Tests of any room may start real under-stores with it.
const FOR_TESTS: &str = "citius-understore";

/// The composition root: its tests drive the whole, and may use every room.
const COMPOSITION_ROOT: &str = "citius";

const SANS_IO: &str = "citius-wire";

/// Crates that do I/O, which the wire crate must not reach by any chain.
const IO_CRATES: &[&str] =
    &["async-std", "glommio", "io-uring", "mio", "nix", "polling", "rustix", "smol", "socket2", "tokio"];

/// Crates that the wire crate must not name itself; through others they may come, because cpu
/// feature detection asks libc on some platforms.
const IO_CRATES_DIRECT: &[&str] = &["libc"];

/// Holds the dependencies of every member against the table.
pub(crate) fn check(metadata: &Metadata) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is_observer = |package: &Package| {
        let manifest = metadata.manifest_of(package);
        OBSERVERS.iter().any(|folder| manifest.starts_with(folder))
    };
    for package in metadata.members() {
        let manifest = metadata.manifest_of(package);
        let mut find = |what: String| findings.push(Finding::in_file(CHECK, manifest, what));
        let allowed = ARROWS.iter().find(|(room, _)| *room == package.name).map(|(_, allowed)| *allowed);
        if allowed.is_none() && !is_observer(package) {
            find(format!(
                "`{}` is a room without arrows: add it to ARROWS in ci/tidy/src/arrows.rs, as the \
                 design has it",
                package.name
            ));
            continue;
        }
        for dependency in &package.dependencies {
            let Some(used) = metadata.members().find(|member| member.name == dependency.name) else {
                continue;
            };
            if used.id == package.id {
                continue;
            }
            if is_observer(used) {
                find(format!("`{}` uses `{}`, which only observes: nothing may depend on it", package.name, used.name));
                continue;
            }
            let for_tests = dependency.is_dev() && (used.name == FOR_TESTS || package.name == COMPOSITION_ROOT);
            let by_table = allowed.is_none_or(|rooms| rooms.contains(&used.name.as_str()));
            if !for_tests && !by_table {
                find(format!(
                    "`{}` must not use `{}`: rooms meet through citius-wire, or in the cli",
                    package.name, used.name
                ));
            }
        }
        if package.name == SANS_IO {
            for reached in io_reached(metadata, package) {
                find(reached);
            }
        }
    }
    findings
}

fn io_reached(metadata: &Metadata, wire: &Package) -> Vec<String> {
    let direct = wire
        .dependencies
        .iter()
        .filter(|dependency| IO_CRATES_DIRECT.contains(&dependency.name.as_str()))
        .map(|dependency| format!("`{}` does no I/O and must not use `{}`", wire.name, dependency.name));
    let by_chain = IO_CRATES.iter().filter_map(|name| {
        let chain = metadata.chain_to(wire, name)?;
        Some(format!("`{}` does no I/O, but reaches it: {}", wire.name, chain.join(" -> ")))
    });
    direct.chain(by_chain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::fixture::{Line, workspace};

    const WIRE: (&str, &str, &[Line]) = ("citius-wire", "engine/wire", &[]);
    const UNDERSTORE: (&str, &str, &[Line]) =
        ("citius-understore", "engine/understore", &[("citius-understore", "*", "dev")]);
    const PERF: (&str, &str, &[Line]) =
        ("citius-perf", "perf", &[("citius-wire", "*", ""), ("citius-understore", "*", "")]);

    fn findings_with(room: (&'static str, &'static str, &[Line])) -> Vec<Finding> {
        check(&workspace(&[WIRE, UNDERSTORE, PERF, room], &[]))
    }

    #[test]
    fn the_arrows_of_the_design_pass() {
        let engine: &[Line] = &[("citius-wire", "*", ""), ("citius-understore", "*", "")];
        assert_eq!(findings_with(("citius-engine", "engine", engine)), []);
        let client: &[Line] = &[("citius-wire", "*", ""), ("citius-understore", "*", "dev")];
        assert_eq!(findings_with(("citius-client", "ffi/client", client)), []);
        let cli: &[Line] = &[("citius-wire", "*", "dev"), ("citius-understore", "*", "dev")];
        assert_eq!(findings_with(("citius", "control/cli", cli)), []);
    }

    #[test]
    fn an_arrow_that_the_design_lacks_is_found() {
        let client: &[Line] = &[("citius-understore", "*", "")];
        let found = findings_with(("citius-client", "ffi/client", client));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, "ffi/client/Cargo.toml");
        assert!(found[0].what.contains("must not use `citius-understore`"));
    }

    #[test]
    fn a_build_dependency_is_an_arrow_too() {
        let cli: &[Line] = &[("citius-wire", "*", "build")];
        assert_eq!(findings_with(("citius", "control/cli", cli)).len(), 1);
    }

    #[test]
    fn nothing_uses_an_observer_not_even_a_test() {
        let cli: &[Line] = &[("citius-perf", "*", "dev")];
        let found = findings_with(("citius", "control/cli", cli));
        assert!(found[0].what.contains("only observes"), "{found:?}");
    }

    #[test]
    fn a_room_that_the_table_lacks_is_found() {
        let found = findings_with(("citius-attic", "attic", &[]));
        assert!(found[0].what.contains("room without arrows"), "{found:?}");
    }

    #[test]
    fn the_wire_crate_reaches_no_io_by_any_chain() {
        let wire: &[Line] = &[("codec", "*", ""), ("libc", "*", ""), ("runner", "*", "dev")];
        let outside: &[(&str, &[Line])] = &[
            ("codec", &[("sockets", "*", "")]),
            ("sockets", &[("tokio", "*", "")]),
            ("runner", &[("rustix", "*", "")]),
            ("tokio", &[]),
            ("rustix", &[]),
            ("libc", &[]),
        ];
        let found = check(&workspace(&[("citius-wire", "engine/wire", wire)], outside));
        let whats: Vec<_> = found.iter().map(|finding| finding.what.as_str()).collect();
        assert_eq!(
            whats,
            [
                "`citius-wire` does no I/O and must not use `libc`",
                "`citius-wire` does no I/O, but reaches it: citius-wire -> codec -> sockets -> tokio"
            ]
        );
    }
}
