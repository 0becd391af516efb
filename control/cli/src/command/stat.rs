//! `citius stat`.

use super::list;
use crate::args::{Reach, StatArgs};
use crate::error::CliError;
use crate::output::{human_bytes, json_line, shown, table, time};
use citius_client::{Client, EntryKind, FileInfo, Persistence, ResidentBlock, block_length};
use serde_json::json;
use std::io::{self, Write};

/// Shows what is at each path.
pub(crate) fn run(client: &Client, reach: &Reach, args: &StatArgs) -> Result<(), CliError> {
    super::for_each(&args.paths, |path| {
        let info = client.stat(path)?;
        let blocks = match (info.kind, info.persistence) {
            (EntryKind::File, Persistence::Persisted | Persistence::MemoryOnly) => {
                client.open(path)?.resident()?.into_iter().map(|found| found.block).collect()
            }
            _ => Vec::new(),
        };
        let mut out = io::stdout().lock();
        if reach.json { json_line(&mut out, &to_json(&info, &blocks)) } else { print(&info, &blocks, &mut out) }?;
        Ok(())
    })
}

fn to_json(info: &FileInfo, blocks: &[ResidentBlock]) -> serde_json::Value {
    let mut value = list::to_json(&info.path, info);
    let blocks_json: Vec<_> = blocks
        .iter()
        .map(|block| {
            json!({
                "index": block.index,
                "length": block_length(info.length, info.block_bytes, block.index),
                "tiers": { "mem": block.memory_bytes },
                "complete": block.complete,
                "dirty": block.dirty,
            })
        })
        .collect();
    value["block_bytes"] = json!(info.block_bytes);
    value["mount"] = json!(info.mount.0);
    value["cached_bytes"] = json!(cached(blocks));
    value["blocks"] = json!(blocks_json);
    value
}

fn cached(blocks: &[ResidentBlock]) -> u64 {
    blocks.iter().map(|block| block.memory_bytes).sum()
}

fn print(info: &FileInfo, blocks: &[ResidentBlock], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{}", shown(&info.path))?;
    let field = |out: &mut dyn Write, name: &str, value: String| writeln!(out, "  {name:<10} {value}");
    if info.kind == EntryKind::Directory {
        field(out, "kind", if info.is_mount { "directory, a mount" } else { "directory" }.to_owned())?;
        return field(out, "modified", time(info.modified_ms).trim_end().to_owned());
    }
    field(out, "kind", "file".to_owned())?;
    field(out, "length", format!("{} ({} bytes)", human_bytes(info.length), info.length))?;
    field(out, "modified", time(info.modified_ms))?;
    field(out, "version", info.version.to_string())?;
    field(
        out,
        "persisted",
        match info.persistence {
            Persistence::Persisted => "yes",
            Persistence::MemoryOnly => "no: in memory only",
            Persistence::Lost => "LOST: it was in memory only, and every copy is gone",
        }
        .to_owned(),
    )?;
    field(out, "cached", format!("{} in {} block(s)", human_bytes(cached(blocks)), blocks.len()))?;
    if blocks.is_empty() {
        return Ok(());
    }
    let rows = blocks.iter().map(|block| {
        vec![
            block.index.to_string(),
            human_bytes(u64::from(block_length(info.length, info.block_bytes, block.index))),
            human_bytes(block.memory_bytes),
            match (block.complete, block.dirty) {
                (_, true) => "unpersisted",
                (true, _) => "complete",
                (false, _) => "partial",
            }
            .to_owned(),
        ]
    });
    write!(out, "{}", table(&[">block", ">length", ">mem", "state"], rows))
}
