//! A Rust source as tidy sees it: the paths it names, the macros it calls, its attributes.
//!
//! The text is cut into tokens by `proc-macro2`, so a word in a comment or in a string is never
//! taken for code. Nothing is expanded or resolved: `use std::{fs, time::Instant}` yields the paths
//! `std::fs` and `std::time::Instant`, and a later `fs::read` yields `fs::read`. A rule that
//! looks for a path therefore catches the import, whatever name is used afterwards. A crate imported
//! alone, `use rand as r` or `extern crate rand`, yields `rand::self`, to tell it from a variable.

use std::str::FromStr;

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

use crate::finding::Finding;
use crate::tree::Tree;

const CHECK: &str = "rust";

/// What the checks want to know of one `.rs` file.
pub(crate) struct RustSource {
    pub(crate) path: String,
    /// Paths with their segments joined by `::`, in the order of the text.
    pub(crate) mentions: Vec<Mention>,
    /// Names of macros called, without path and `!`.
    pub(crate) macro_calls: Vec<Mention>,
    pub(crate) attributes: Vec<Attribute>,
}

/// A name at a place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mention {
    pub(crate) name: String,
    pub(crate) line: usize,
    /// Under `#[cfg(test)]`, or in a file that holds only tests.
    pub(crate) in_test: bool,
}

/// An attribute, inner or outer; doc comments are attributes named `doc`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Attribute {
    pub(crate) name: String,
    /// Every identifier in it, at any depth, the name included.
    pub(crate) words: Vec<String>,
    pub(crate) line: usize,
    /// `#![…]`, which speaks of the whole file.
    pub(crate) is_inner: bool,
}

impl RustSource {
    /// Every Rust file of the tree; one that cannot be cut into tokens is a finding.
    pub(crate) fn lex_all(tree: &Tree) -> (Vec<Self>, Vec<Finding>) {
        let mut sources = Vec::new();
        let mut findings = Vec::new();
        for (path, text) in tree.texts().filter(|(path, _)| path.ends_with(".rs")) {
            match Self::lex(path, text) {
                Ok(source) => sources.push(source),
                Err(error) => findings.push(Finding::at_line(
                    CHECK,
                    path,
                    error.span().start().line,
                    format!("is not Rust: {error}"),
                )),
            }
        }
        (sources, findings)
    }

    /// Cuts one file into tokens and reads the facts off them.
    pub(crate) fn lex(path: &str, text: &str) -> Result<Self, proc_macro2::LexError> {
        let trees: Vec<TokenTree> = TokenStream::from_str(text)?.into_iter().collect();
        let mut source =
            Self { path: path.to_owned(), mentions: Vec::new(), macro_calls: Vec::new(), attributes: Vec::new() };
        source.walk(&trees, holds_only_tests(path));
        Ok(source)
    }

    /// Whether the file is `room.rs` or lies in the folder `room`.
    pub(crate) fn is_in(&self, room: &str) -> bool {
        self.path.strip_prefix(room).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    }

    fn walk(&mut self, trees: &[TokenTree], enclosing_test: bool) {
        let mut in_test = enclosing_test;
        let mut at = 0;
        while at < trees.len() {
            match &trees[at] {
                TokenTree::Punct(punct) if punct.as_char() == '#' => {
                    let is_inner = is_punct(trees.get(at + 1), '!');
                    let body_at = at + 1 + usize::from(is_inner);
                    if let Some(body) = group(trees.get(body_at), Delimiter::Bracket) {
                        in_test |= self.attribute(body, is_inner, in_test);
                        at = body_at;
                    }
                    at += 1;
                }
                TokenTree::Ident(_) => at = self.path_at(trees, at, "", in_test),
                TokenTree::Group(inner) => {
                    let inner_trees: Vec<TokenTree> = inner.stream().into_iter().collect();
                    self.walk(&inner_trees, in_test);
                    // An item ends with its braces, and `#[cfg(test)]` with the item.
                    if inner.delimiter() == Delimiter::Brace {
                        in_test = enclosing_test;
                    }
                    at += 1;
                }
                TokenTree::Punct(punct) => {
                    if punct.as_char() == ';' {
                        in_test = enclosing_test;
                    }
                    at += 1;
                }
                TokenTree::Literal(_) => at += 1,
            }
        }
    }

    /// Records an attribute; true if it makes what follows test code.
    fn attribute(&mut self, body: &Group, is_inner: bool, in_test: bool) -> bool {
        let trees: Vec<TokenTree> = body.stream().into_iter().collect();
        let mut words = Vec::new();
        collect_words(&trees, &mut words);
        let name = words.first().cloned().unwrap_or_default();
        // `not` turns the meaning round; such code is taken for what it most often is, product.
        let has = |word: &str| words.iter().any(|other| other == word);
        let makes_test = name == "cfg" && has("test") && !has("not") && !has("any");
        self.attributes.push(Attribute { name, words, line: body.span_open().start().line, is_inner });
        self.walk(&trees, in_test);
        makes_test
    }

    /// Records the path, use tree or macro call that starts with the identifier at `at`, and
    /// returns where to go on.
    fn path_at(&mut self, trees: &[TokenTree], at: usize, prefix: &str, in_test: bool) -> usize {
        let line = trees[at].span().start().line;
        let mut name = prefix.to_owned();
        push_segment(&mut name, &trees[at].to_string());
        let mut next = at + 1;
        while is_punct(trees.get(next), ':') && is_punct(trees.get(next + 1), ':') {
            match trees.get(next + 2) {
                Some(TokenTree::Ident(segment)) => push_segment(&mut name, &segment.to_string()),
                Some(TokenTree::Group(branches)) if branches.delimiter() == Delimiter::Brace => {
                    self.use_branches(branches, &name, in_test);
                    return next + 3;
                }
                _ => {
                    next += 2;
                    break;
                }
            }
            next += 3;
        }
        if next == at + 1 && prefix.is_empty() && imports(&trees[..at]) {
            name.push_str("::self");
        }
        self.mention(&name, line, in_test);
        if is_punct(trees.get(next), '!') && matches!(trees.get(next + 1), Some(TokenTree::Group(_))) {
            let last = name.rsplit("::").next().unwrap_or_default().to_owned();
            self.macro_calls.push(Mention { name: last, line, in_test });
        }
        next
    }

    /// The branches of `prefix::{…}`.
    fn use_branches(&mut self, branches: &Group, prefix: &str, in_test: bool) {
        let trees: Vec<TokenTree> = branches.stream().into_iter().collect();
        let mut at = 0;
        while at < trees.len() {
            if matches!(trees[at], TokenTree::Ident(_)) {
                self.path_at(&trees, at, prefix, in_test);
                // What is left of the branch is `as name`, which names nothing new.
                while at < trees.len() && !is_punct(trees.get(at), ',') {
                    at += 1;
                }
            }
            at += 1;
        }
    }

    fn mention(&mut self, name: &str, line: usize, in_test: bool) {
        self.mentions.push(Mention { name: name.to_owned(), line, in_test });
    }
}

/// Whether cargo compiles the file for tests and the like only.
fn holds_only_tests(path: &str) -> bool {
    let mut components = path.split('/');
    let file = components.next_back();
    file == Some("tests.rs") || components.any(|folder| matches!(folder, "tests" | "benches"))
}

/// Whether what comes after `before` is the path of an import.
fn imports(before: &[TokenTree]) -> bool {
    let is_word = |tree: &TokenTree, word: &str| matches!(tree, TokenTree::Ident(ident) if ident == word);
    match before {
        [.., last] if is_word(last, "use") => true,
        [.., first, last] => is_word(first, "extern") && is_word(last, "crate"),
        _ => false,
    }
}

fn push_segment(name: &mut String, segment: &str) {
    // `std::fs::{self}` names `std::fs`.
    if segment == "self" && !name.is_empty() {
        return;
    }
    if !name.is_empty() {
        name.push_str("::");
    }
    name.push_str(segment);
}

fn collect_words(trees: &[TokenTree], words: &mut Vec<String>) {
    for tree in trees {
        match tree {
            TokenTree::Ident(word) => words.push(word.to_string()),
            TokenTree::Group(inner) => {
                let inner: Vec<TokenTree> = inner.stream().into_iter().collect();
                collect_words(&inner, words);
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

fn is_punct(tree: Option<&TokenTree>, wanted: char) -> bool {
    matches!(tree, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

fn group(tree: Option<&TokenTree>, wanted: Delimiter) -> Option<&Group> {
    match tree {
        Some(TokenTree::Group(group)) if group.delimiter() == wanted => Some(group),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(mentions: &[Mention]) -> Vec<&str> {
        mentions.iter().map(|mention| mention.name.as_str()).collect()
    }

    fn lex(text: &str) -> RustSource {
        RustSource::lex("src/lib.rs", text).expect("lexes")
    }

    #[test]
    fn use_trees_yield_whole_paths() {
        let source = lex("use std::{fs::{self, File as F}, time::Instant, *};");
        assert_eq!(names(&source.mentions), ["use", "std::fs", "std::fs::File", "std::time::Instant"]);
    }

    #[test]
    fn a_crate_imported_alone_is_told_from_a_variable() {
        let source = lex("use a as b; extern crate c; fn f() { d; }");
        let names = names(&source.mentions);
        assert!(names.contains(&"a::self") && names.contains(&"c::self") && names.contains(&"d"));
    }

    #[test]
    fn paths_in_expressions_and_types_count_but_comments_and_strings_do_not() {
        let source = lex("// a::b\n/* /* c::d */ */ fn f() { let _: Vec::<x::Y> = g::h(\"i::j\", r#\"k::l\"#); }");
        let names = names(&source.mentions);
        assert!(names.contains(&"x::Y") && names.contains(&"g::h"));
        for absent in ["a::b", "c::d", "i::j", "k::l"] {
            assert!(!names.contains(&absent), "{absent}");
        }
    }

    #[test]
    fn macro_calls_are_told_from_inequality() {
        let source = lex("fn f() { if a != (b) { std::todo!(); vec![1]; } }");
        assert_eq!(names(&source.macro_calls), ["todo", "vec"]);
    }

    #[test]
    fn test_code_ends_with_its_item() {
        let source = lex(
            "#[cfg(test)] use a::A;\nuse b::B;\n#[cfg(test)]\n#[rustfmt::skip]\nmod t { fn f() { c::C; } use d::D; }\nfn g() { e::E }\n#[cfg(not(test))] fn h() { i::I }",
        );
        let in_test: Vec<_> = source
            .mentions
            .iter()
            .filter(|mention| mention.in_test && mention.name.contains("::"))
            .map(|mention| mention.name.as_str())
            .collect();
        assert_eq!(in_test, ["a::A", "rustfmt::skip", "c::C", "d::D"]);
        let line = source.mentions.iter().find(|mention| mention.name == "e::E");
        assert_eq!(line.map(|mention| mention.line), Some(6));
    }

    #[test]
    fn files_of_tests_are_test_code() {
        for path in ["engine/tests/cold.rs", "engine/src/shard/tests.rs", "benches/benches/a.rs"] {
            let source = RustSource::lex(path, "use a::A;").expect("lexes");
            assert!(source.mentions.iter().all(|mention| mention.in_test), "{path}");
        }
    }

    #[test]
    fn attributes_keep_their_words() {
        let source = lex("#![allow(unsafe_code)]\n#[cfg_attr(x, ignore)] fn f() {}");
        assert_eq!(source.attributes[0].words, ["allow", "unsafe_code"]);
        assert!(source.attributes[0].is_inner);
        assert_eq!(source.attributes[1].words, ["cfg_attr", "x", "ignore"]);
        assert_eq!(source.attributes[1].line, 2);
    }

    #[test]
    fn a_room_is_a_file_or_a_folder() {
        let at = |path: &str| RustSource::lex(path, "").expect("lexes").is_in("engine/src/shard");
        assert!(at("engine/src/shard.rs") && at("engine/src/shard/index.rs"));
        assert!(!at("engine/src/shards.rs") && !at("engine/src/host/shard.rs"));
    }

    #[test]
    fn what_is_not_rust_is_a_finding() {
        let (sources, findings) = RustSource::lex_all(&Tree::of(&[("a.rs", "\nfn f( {"), ("b.rs", "")]));
        assert_eq!((sources.len(), findings.len()), (1, 1));
        assert_eq!(findings[0].path, "a.rs");
    }
}
