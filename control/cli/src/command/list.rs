//! `citius ls`.

use crate::args::{LsArgs, Reach};
use crate::error::CliError;
use crate::output::{human_bytes, json_line, say, shown, time};
use citius_client::{Client, EntryKind, FileInfo, Persistence};
use serde_json::{Value, json};
use std::io::{self, BufWriter, Write};

/// Lists directories; a file lists itself.
pub(crate) fn run(client: &Client, reach: &Reach, args: &LsArgs) -> Result<(), CliError> {
    let mut out = BufWriter::new(io::stdout().lock());
    super::for_each(&args.paths, |path| one(client, reach, args, path, &mut out))?;
    out.flush()?;
    Ok(())
}

fn one(client: &Client, reach: &Reach, args: &LsArgs, path: &str, out: &mut impl Write) -> Result<(), CliError> {
    let info = client.stat(path)?;
    if info.kind == EntryKind::File {
        return entry(reach, args, &info.path, &info, out);
    }
    let headed = !reach.json && (args.recursive || args.paths.len() > 1);
    let mut waiting = vec![info.path];
    while let Some(dir) = waiting.pop() {
        if headed {
            writeln!(out, "{}:", shown(&dir))?;
        }
        let mut below = Vec::new();
        let mut listing = client.list_from(&dir, &args.after, args.limit)?;
        for info in listing.by_ref() {
            let info = info?;
            let whole = format!("{}/{}", dir.trim_end_matches('/'), info.path);
            entry(reach, args, &whole, &info, out)?;
            if args.recursive && info.kind == EntryKind::Directory {
                below.push(whole);
            }
        }
        if listing.unnameable() > 0 && !reach.quiet && !reach.json {
            out.flush()?;
            say!("citius: {}", super::not_shown(&dir, listing.unnameable()));
        }
        waiting.extend(below.into_iter().rev());
        if headed && !waiting.is_empty() {
            writeln!(out)?;
        }
    }
    Ok(())
}

fn entry(reach: &Reach, args: &LsArgs, whole: &str, info: &FileInfo, out: &mut impl Write) -> Result<(), CliError> {
    if reach.json {
        json_line(out, &to_json(whole, info))?;
        return Ok(());
    }
    let is_dir = info.kind == EntryKind::Directory;
    let name = format!("{}{}", shown(&info.path), if is_dir { "/" } else { "" });
    if args.long {
        let length = if args.human { human_bytes(info.length) } else { info.length.to_string() };
        let state = match (is_dir, info.persistence, info.is_mount) {
            (_, _, true) => "mount",
            (true, ..) => "dir",
            (_, Persistence::Persisted, _) => "persisted",
            (_, Persistence::MemoryOnly, _) => "memory-only",
            (_, Persistence::Lost, _) => "LOST",
        };
        writeln!(out, "{length:>14}  {}  {state:<11}  {name}", time(info.modified_ms))?;
    } else {
        writeln!(out, "{name}")?;
    }
    Ok(())
}

/// A file or directory as JSON, under its whole path.
pub(crate) fn to_json(whole: &str, info: &FileInfo) -> Value {
    let is_file = info.kind == EntryKind::File;
    json!({
        "path": whole,
        "kind": if is_file { "file" } else { "directory" },
        "length": info.length,
        "modified_ms": info.modified_ms,
        "version": is_file.then(|| info.version.to_string()),
        "persisted": info.persistence == Persistence::Persisted,
        "lost": info.persistence == Persistence::Lost,
        "is_mount": info.is_mount,
    })
}
