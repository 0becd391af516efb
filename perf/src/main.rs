//! How fast Citius is beside the raw machine:
//! `cargo build --release && cargo run --release -p citius-perf -- ratios`. The first builds the `citius` that is
//! measured, which is looked for beside this program.
//!
//! Every ratio runs Citius and a raw baseline in the same run, round about, over the same offsets of equally large
//! working sets in the same kind of page, and compares medians. A baseline is what a careful person would write for
//! that one job and nothing else; it is a program part of its own, under `raw`.
//!
//! | file | what it holds |
//! |---|---|
//! | `ratios` | the list: one function a ratio, with its goal |
//! | `raw` | the baselines: memcpy, a blocking TCP server, an echo, one GET, the log alone |
//! | `citius` | the Citius side: the real program in a process of its own, and its client |
//! | `context` | what all ratios share: rounds, cores, kind of page |
//! | `measure` | rounds, medians, percentiles |
//! | `cpu` | pinning, and the CPU time of a process |
//! | `pool` | the hugepage pool, grown and put back |
//! | `memory` | a working set in memory |
//! | `offsets` | which bytes are read, the same on both sides |
//! | `child` | a server in a process of its own |
//! | `report` | rows, as a table and as JSON |

mod child;
mod citius;
mod context;
mod cpu;
mod measure;
mod memory;
mod offsets;
mod pool;
mod ratios;
mod raw;
mod report;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Parser, Subcommand};
use context::Context;
use std::io::Write as _;
use std::path::PathBuf;

/// The fewest rounds a median is taken of.
const ROUNDS_MIN: u32 = 5;

/// Throughput and latency of Citius as ratios to raw baselines.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure, and print name, citius, baseline, ratio, unit and goal.
    Ratios(RatiosArgs),
    /// Be the server of a baseline until standard input ends.
    #[command(hide = true)]
    Serve(raw::Serve),
}

#[derive(Args)]
struct RatiosArgs {
    /// Only ratios whose name begins so, such as `tcp` or `shm.read.1m`.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Write the rows to this file, as a JSON list.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How many rounds each median is of.
    #[arg(long, default_value_t = ROUNDS_MIN, value_parser = clap::value_parser!(u32).range(i64::from(ROUNDS_MIN)..))]
    rounds: u32,
    /// Bytes of each side's working set, a multiple of 2 MiB.
    #[arg(long, default_value_t = 1 << 30, value_name = "BYTES")]
    working_set: usize,
    /// Where the sequence of offsets begins.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The citius to measure [default: the one beside this program].
    #[arg(long, value_name = "PROGRAM")]
    citius: Option<PathBuf>,
    /// Measure the baselines alone.
    #[arg(long, conflicts_with = "citius")]
    baselines: bool,
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Ratios(args) => ratios(&args),
        Command::Serve(serve) => raw::serve(&serve),
    }
}

fn ratios(args: &RatiosArgs) -> Result<()> {
    let only = args.only.as_deref().unwrap_or("");
    let chosen: Vec<_> = ratios::ALL.iter().filter(|ratio| ratio.name.starts_with(only)).collect();
    let names: Vec<_> = ratios::ALL.iter().map(|ratio| ratio.name).collect();
    ensure!(!chosen.is_empty(), "no ratio's name begins with {only:?}; there are {}", names.join(", "));

    let citius = if args.baselines { None } else { Some(citius_to_measure(args.citius.clone())?) };
    let context = Context::new(args.rounds, args.working_set, args.seed, citius)?;
    let mut stderr = std::io::stderr();
    writeln!(stderr, "{context}")?;
    let mut rows = Vec::with_capacity(chosen.len());
    for ratio in chosen {
        writeln!(stderr, "{} ...", ratio.name)?;
        rows.push((ratio.run)(&context).with_context(|| ratio.name)?);
    }
    writeln!(std::io::stdout(), "{}", report::table(&rows))?;
    if let Some(path) = &args.json {
        std::fs::write(path, report::json(&rows)?).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn citius_to_measure(given: Option<PathBuf>) -> Result<PathBuf> {
    let program = match given {
        Some(program) => program,
        None => std::env::current_exe().context("finding this program")?.with_file_name("citius"),
    };
    ensure!(
        program.is_file(),
        "there is no {}: build it with `cargo build --release`, or measure the baselines alone with --baselines",
        program.display()
    );
    Ok(program)
}
