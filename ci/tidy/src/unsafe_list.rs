//! Unsafe code stands in listed files only, so that a reviewer can read all of it.
//!
//! The compiler denies unsafe code except where a file allows it, and clippy wants a safety comment
//! on every block; what is left to check is who may allow it. What a file allows holds for its child
//! modules too, so a file that uses the word `unsafe` under a lenient parent is listed as well.

use crate::finding::Finding;
use crate::listing::Listing;
use crate::rust_source::{Attribute, RustSource};
use crate::tree::Tree;

const CHECK: &str = "unsafe_list";
const LIST: &str = "ci/tidy/unsafe.txt";

/// Crates that the compiler itself must hold to safe code, for good.
const FORBIDDING: &[&str] = &["engine/wire/src/lib.rs"];

/// Compares the files that allow or hold unsafe code with the list.
pub(crate) fn check(tree: &Tree, sources: &[RustSource]) -> Vec<Finding> {
    let (list, mut findings) = Listing::read(tree, LIST, CHECK);
    for source in sources {
        if let Some((line, what)) = unsafety(source)
            && !list.contains(&source.path)
        {
            findings.push(Finding::at_line(
                CHECK,
                &source.path,
                line,
                format!("{what}: do without, or add the file to {LIST} with the reason"),
            ));
        }
        if FORBIDDING.contains(&source.path.as_str()) && !source.attributes.iter().any(forbids_unsafe) {
            findings.push(Finding::in_file(
                CHECK,
                &source.path,
                "must begin with `#![forbid(unsafe_code)]`".to_owned(),
            ));
        }
    }
    findings.extend(list.stale(|file| sources.iter().any(|source| source.path == file && unsafety(source).is_some())));
    findings
}

/// The first place where a file allows unsafe code or, if it never does, where it holds some.
fn unsafety(source: &RustSource) -> Option<(usize, &'static str)> {
    let allowing = source.attributes.iter().find(|attribute| allows_unsafe(attribute));
    let holding = source.mentions.iter().find(|mention| mention.name == "unsafe");
    allowing
        .map(|attribute| (attribute.line, "allows unsafe code"))
        .or_else(|| holding.map(|mention| (mention.line, "holds unsafe code")))
}

fn speaks_of_unsafe(attribute: &Attribute) -> bool {
    attribute.words.iter().any(|word| word == "unsafe_code")
}

/// Also inside `cfg_attr`, and also as `warn` or `expect`, which let it compile as well.
fn allows_unsafe(attribute: &Attribute) -> bool {
    let is_lenient = |word: &String| matches!(word.as_str(), "allow" | "warn" | "expect");
    speaks_of_unsafe(attribute) && attribute.words.iter().any(is_lenient)
}

fn forbids_unsafe(attribute: &Attribute) -> bool {
    attribute.is_inner && attribute.name == "forbid" && speaks_of_unsafe(attribute)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(files: &[(&str, &str)]) -> Vec<(String, usize)> {
        let tree = Tree::of(files);
        let (sources, _) = RustSource::lex_all(&tree);
        check(&tree, &sources).into_iter().map(|finding| (finding.path, finding.line)).collect()
    }

    #[test]
    fn a_listed_file_may_and_another_may_not() {
        for leave in [
            "#![allow(unsafe_code)]",
            "#![allow(\n    unsafe_code, dead_code)]",
            "#[expect(unsafe_code)] fn f() {}",
            "#![cfg_attr(linux, allow(unsafe_code))]",
            "fn f() { unsafe { g() } }",
            "#[unsafe(no_mangle)] fn f() {}",
        ] {
            let list = (LIST, "a.rs # The kernel fills its pages.\n");
            assert_eq!(findings(&[("a.rs", leave), list]), []);
            assert_eq!(findings(&[("b.rs", leave)]), [("b.rs".to_owned(), 1)], "{leave}");
        }
    }

    #[test]
    fn a_line_whose_file_is_safe_again_or_gone_is_found() {
        let list = (LIST, "a.rs # One.\nb.rs # Two.\n");
        let found = findings(&[("a.rs", "// allow(unsafe_code), unsafe {\n"), list]);
        assert_eq!(found, [(LIST.to_owned(), 1), (LIST.to_owned(), 2)]);
    }

    #[test]
    fn the_wire_crate_forbids() {
        let wire = "engine/wire/src/lib.rs";
        assert_eq!(findings(&[(wire, "#![forbid(unsafe_code)]")]), []);
        assert_eq!(findings(&[(wire, "#![deny(unsafe_code)]")]), [(wire.to_owned(), 0)]);
    }
}
