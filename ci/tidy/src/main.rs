//! `citius-tidy`: the rules of the house that no compiler checks.
//!
//! Run from anywhere in the checkout, `cargo run -p citius-tidy` looks at every file that git
//! tracks or would track, and at `cargo metadata`; it prints one line per finding and exits with 1
//! if there is any. Each check is a function from what it needs to a list of findings, so each is
//! tested on a few lines of text, without a checkout.
//!
//! | module | what it holds true |
//! |---|---|
//! | [`arrows`] | which room may depend on which, and that the wire crate reaches no I/O crate |
//! | [`manifests`] | exact pins, and that every crate takes the lints of the workspace |
//! | [`walls`] | glommio, openraft and raft-log each behind one module |
//! | [`purity`] | rooms that decide use no clock, randomness, I/O or thread |
//! | [`unsafe_list`] | unsafe code only in the files listed, with a reason |
//! | [`layout`] | the top level, the length of files, the names of files |
//! | [`words`] | unfinished code, skipped tests, machine paths, registry hosts |
//! | [`links`] | relative links in Markdown lead somewhere |

mod arrows;
mod finding;
mod layout;
mod links;
mod listing;
mod manifests;
mod metadata;
mod purity;
mod rust_source;
mod tree;
mod unsafe_list;
mod walls;
mod words;

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::finding::Finding;
use crate::metadata::Metadata;
use crate::rust_source::RustSource;
use crate::tree::Tree;

fn main() -> Result<ExitCode> {
    let root = checkout_root()?;
    let tree = Tree::load(Path::new(&root))?;
    let metadata = Metadata::load(Path::new(&root))?;
    let findings = check_all(&tree, &metadata);

    let mut out = io::stdout().lock();
    for finding in &findings {
        writeln!(out, "{finding}")?;
    }
    writeln!(out, "tidy: {} files, {} findings", tree.len(), findings.len())?;
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every finding of every check, in the order of paths and lines.
fn check_all(tree: &Tree, metadata: &Metadata) -> Vec<Finding> {
    let (sources, mut findings) = RustSource::lex_all(tree);
    findings.extend(arrows::check(metadata));
    findings.extend(manifests::check(tree, metadata));
    findings.extend(walls::check(&sources));
    findings.extend(purity::check(&sources));
    findings.extend(unsafe_list::check(tree, &sources));
    findings.extend(layout::check(tree));
    findings.extend(words::check(tree, &sources));
    findings.extend(links::check(tree));
    findings.sort();
    findings
}

fn checkout_root() -> Result<String> {
    let output = Command::new("git")
        .args(["rev-parse", "--show-toplevel"])
        .output()
        .context("cannot run git; tidy asks it which files are part of the project")?;
    if !output.status.success() {
        bail!("not in a git checkout: run tidy from inside one");
    }
    let root = String::from_utf8(output.stdout).context("the checkout's path is not UTF-8")?;
    Ok(root.trim_end().to_owned())
}
