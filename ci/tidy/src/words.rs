//! Words that must not reach the tree: unfinished code, skipped tests, the machine it was written on.

use crate::finding::Finding;
use crate::rust_source::{Attribute, RustSource};
use crate::tree::Tree;

const CHECK: &str = "words";

/// The one file that must name what it looks for.
const THIS_FILE: &str = "ci/tidy/src/words.rs";

/// Macros that stand for code which is not there, or was there for a moment.
const UNFINISHED_MACROS: &[&str] = &["todo", "unimplemented", "dbg"];

/// A note to oneself; an open point belongs in an issue.
const UNFINISHED_NOTE: &str = "FIXME";

/// Folders that only some machine has. Of `/home` it is what lies in it.
const MACHINE_FOLDERS: &[&str] = &["/root", "/work"];
const HOMES: &str = "/home/";

/// Hosts of package registries: packages are asked for by name, and the machine knows from where.
const REGISTRY_HOSTS: &[&str] = &[
    "//crates.io",
    "index.crates.io",
    "static.crates.io",
    "//pypi.org",
    "pythonhosted.org",
    "registry.npmjs.org",
    "proxy.golang.org",
    "sum.golang.org",
    "repo1.maven.org",
    "repo.maven.apache.org",
    "deb.debian.org",
    "security.debian.org",
];

/// Scans every text, and the code of every Rust source.
pub(crate) fn check(tree: &Tree, sources: &[RustSource]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts().filter(|(path, _)| *path != THIS_FILE) {
        for (index, line) in text.lines().enumerate() {
            for what in in_line(line, path.ends_with(".rs")) {
                findings.push(Finding::at_line(CHECK, path, index + 1, what));
            }
        }
    }
    for source in sources {
        for call in &source.macro_calls {
            if UNFINISHED_MACROS.contains(&call.name.as_str()) {
                let what = format!("calls `{}!`: finish it, or leave it out", call.name);
                findings.push(Finding::at_line(CHECK, &source.path, call.line, what));
            }
        }
        for attribute in source.attributes.iter().filter(|attribute| ignores(attribute)) {
            let what = "ignores a test: make it run, or delete it".to_owned();
            findings.push(Finding::at_line(CHECK, &source.path, attribute.line, what));
        }
    }
    findings
}

fn in_line(line: &str, is_rust: bool) -> Vec<String> {
    let mut whats = Vec::new();
    if line.contains(UNFINISHED_NOTE) {
        whats.push(format!("says {UNFINISHED_NOTE}: do it, or file an issue"));
    }
    if let Some(folder) = machine_path(line) {
        whats.push(format!("names `{folder}…`, a path of one machine: make it relative or a setting"));
    }
    if let Some(host) = REGISTRY_HOSTS.iter().find(|host| line.contains(**host)) {
        let host = host.trim_start_matches('/');
        whats.push(format!("names the registry host {host}: say the package's name"));
    }
    if is_rust && is_ignored_doc_test(line) {
        whats.push("ignores a doc test: let it run, or mark the fence `text`".to_owned());
    }
    whats
}

fn ignores(attribute: &Attribute) -> bool {
    let has_word = attribute.words.iter().any(|word| word == "ignore");
    attribute.name == "ignore" || (attribute.name == "cfg_attr" && has_word)
}

fn is_ignored_doc_test(line: &str) -> bool {
    let line = line.trim_start();
    let doc = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"));
    doc.and_then(|doc| doc.trim_start().strip_prefix("```"))
        .is_some_and(|tags| tags.split([',', ' ']).any(|tag| tag.starts_with("ignore")))
}

/// A machine's folder that some absolute path in the line begins with.
fn machine_path(line: &str) -> Option<&'static str> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let begins_at = |folder: &'static str, ends: &dyn Fn(Option<u8>) -> bool| {
        line.match_indices(folder).any(|(at, _)| {
            let before = &line.as_bytes()[..at];
            // After a name or a variable it is the tail of another path; after `://` it is the
            // whole path of a `file:` URI.
            let is_start = before
                .last()
                .is_none_or(|&byte| !is_name(byte) && !matches!(byte, b'/' | b'~' | b'$' | b'}' | b'>' | b')' | b'*'))
                || before.ends_with(b"://");
            is_start && ends(line.as_bytes().get(at + folder.len()).copied())
        })
    };
    let whole = |next: Option<u8>| next.is_none_or(|byte| !is_name(byte));
    let somebody = |next: Option<u8>| next.is_some_and(|byte| byte.is_ascii_alphanumeric());
    MACHINE_FOLDERS
        .iter()
        .find(|folder| begins_at(folder, &whole))
        .copied()
        .or_else(|| begins_at(HOMES, &somebody).then_some(HOMES))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> usize {
        let tree = Tree::of(&[(path, text)]);
        let (sources, lexing) = RustSource::lex_all(&tree);
        assert_eq!(lexing, [], "{text}");
        check(&tree, &sources).len()
    }

    #[test]
    fn unfinished_code_is_found() {
        for text in [
            "fn f() { todo!() }",
            "fn f() { std::unimplemented!(\"later\") }",
            "fn f() { let a = dbg!(1); }",
            "// FIXME: one day",
            "#[test]\n#[ignore]\nfn f() {}",
            "#[test]\n#[ignore = \"slow\"]\nfn f() {}",
            "#[cfg_attr(slow, ignore)]\nfn f() {}",
            "/// ```ignore\n/// f();\n/// ```\nfn f() {}",
            "//! ```rust, ignore\n//! ```",
        ] {
            assert_eq!(findings("engine/src/a.rs", text), 1, "{text}");
        }
        assert_eq!(findings("docs/a.md", "FIXME"), 1);
    }

    #[test]
    fn finished_code_is_not() {
        for text in [
            "fn todo() { ignore(\"todo!()\") } // dbg!(x)",
            "#[serde(ignore)]\nstruct S;",
            "/// ```text\n/// ignore\n/// ```\nfn f() {}",
        ] {
            assert_eq!(findings("engine/src/a.rs", text), 0, "{text}");
        }
    }

    #[test]
    fn paths_of_a_machine_are_found() {
        for text in
            ["/root/.cargo/bin", "cd /work/main", "HOME=/root", "\"/home/alice/data\"", "file:///work/x", "(/root)"]
        {
            assert_eq!(findings("docs/a.md", text), 1, "{text}");
        }
        for text in [
            "<home>/token",
            "$HOME/work/x",
            "engine/root",
            "https://host.example/work/x",
            "/roots and /workers and /home/<name>",
            "${DIR}/root",
            "/proc/1/root",
        ] {
            assert_eq!(findings("docs/a.md", text), 0, "{text}");
        }
    }

    #[test]
    fn registry_hosts_are_found() {
        for host in REGISTRY_HOSTS {
            assert_eq!(findings("ci/a.sh", &format!("fetch https:{host}/x")), 1, "{host}");
        }
        let index = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
        assert_eq!(findings("Cargo.lock", index), 0);
    }

    #[test]
    fn this_file_is_where_it_says() {
        assert_eq!(THIS_FILE, file!());
    }
}
