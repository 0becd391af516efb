//! The command line: every command, flag and its help. What a command does is in the file of its name.

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// One namespace over any under-store, read and written at memory speed.
#[derive(Parser, Debug)]
#[command(
    name = "citius",
    version,
    styles = STYLES,
    max_term_width = 100,
    before_help = "Examples:
  citius local --mount /data=./some/folder     run everything here, over a folder
  citius ls /data                              list it
  citius cat /data/x | head                    read it
  citius cp -r ./photos /photos                copy into it
  citius stat /data/x                          what is cached, block by block",
    after_help = "Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 denied, 5 unavailable, 6 integrity, 7 partial, 130 interrupted."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) reach: Reach,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How to find the cluster, and how to print.
#[derive(Args, Debug, Clone)]
pub(crate) struct Reach {
    /// Folder with all state of a local cluster [default: citius in the user's data folder].
    #[arg(long, global = true, env = "CITIUS_HOME", value_name = "DIR", help_heading = "Global options")]
    pub(crate) home: Option<PathBuf>,
    /// Master to talk to, instead of the one that runs in the home.
    #[arg(long, global = true, env = "CITIUS_MASTER", value_name = "HOST:PORT", help_heading = "Global options")]
    pub(crate) master: Option<String>,
    /// File with the cluster's token [default: token in the home].
    #[arg(long, global = true, env = "CITIUS_TOKEN_FILE", value_name = "FILE", help_heading = "Global options")]
    pub(crate) token_file: Option<PathBuf>,
    /// Print JSON; one value a line where there are many.
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// Print no progress and no hints.
    #[arg(long, short, global = true, help_heading = "Global options")]
    pub(crate) quiet: bool,
    /// Give a request up after this long, for instance 500ms, 30s, 5m.
    #[arg(long, global = true, value_name = "TIME", default_value = "60s", value_parser = parse_time, help_heading = "Global options")]
    pub(crate) timeout: Duration,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run a whole cluster in this process: master, worker, and mounts.
    Local(LocalArgs),
    /// Run a master.
    Master(MasterArgs),
    /// Run a worker.
    Worker(WorkerArgs),
    /// List a directory.
    Ls(LsArgs),
    /// Print files.
    Cat(CatArgs),
    /// Print the beginning of a file.
    Head(EndArgs),
    /// Print the end of a file.
    Tail(EndArgs),
    /// Copy files in, out, or within; a path with file: or ./ is of this machine.
    Cp(CpArgs),
    /// Rename files and directories.
    Mv(MvArgs),
    /// Remove files and directories.
    Rm(RmArgs),
    /// Make directories.
    Mkdir(MkdirArgs),
    /// Show what is at a path, and what of it is cached where.
    Stat(StatArgs),
    /// Mount under-stores, list and remove mounts.
    #[command(subcommand)]
    Mount(MountCommand),
    /// Bring files into memory.
    Load(LoadArgs),
    /// Forget the clean cached blocks of files.
    Free(FreeArgs),
    /// Show health, workers, capacity, and what was read of each under-store.
    Cluster,
    /// Measure what a user of this running cluster gets, beside this machine's own limits.
    Bench(BenchArgs),
}

#[derive(Args, Debug)]
#[command(before_help = "Examples:
  citius local --mount /data=./some/folder
  citius local --mount /lake=s3://bucket/prefix --option aws_region=eu-central-1
  citius local --ephemeral --listen 127.0.0.1:0 --memory 4GiB")]
pub(crate) struct LocalArgs {
    #[command(flatten)]
    pub(crate) mounts: MountFlags,
    #[command(flatten)]
    pub(crate) listen: MasterListen,
    #[command(flatten)]
    pub(crate) worker: WorkerFlags,
    /// Keep nothing: log and root folder live in a temporary folder that goes at the end.
    #[arg(long)]
    pub(crate) ephemeral: bool,
}

/// Mounts given at start. Options are paired with mounts by their order; see `serve/mounts.rs`.
#[derive(Args, Debug)]
pub(crate) struct MountFlags {
    /// Mount an under-store: a folder, or a URI such as s3://bucket/prefix. May be repeated.
    #[arg(long = "mount", value_name = "PATH=URI")]
    pub(crate) mount: Vec<String>,
    /// Option of the mount (or root) before it, with object_store's names: aws_endpoint, aws_region,
    /// aws_access_key_id, aws_secret_access_key, aws_allow_http... May be repeated.
    #[arg(long = "option", value_name = "KEY=VALUE")]
    pub(crate) option: Vec<String>,
    /// Under-store of / [default: the folder root in the home].
    #[arg(long, value_name = "URI")]
    pub(crate) root: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct MasterListen {
    /// Where the master answers metadata requests; port 0 picks a port, here and below.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7700")]
    pub(crate) listen: String,
    /// Where HTTP answers: /healthz, /metrics, /api/v1/status [default: 127.0.0.1:7702].
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) http_listen: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct WorkerFlags {
    /// Where the worker answers reads and writes [default: 127.0.0.1:7701].
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) data_listen: Option<String>,
    /// Memory tier, for instance 512MiB, 8GiB [default: a quarter of this machine's memory].
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub(crate) memory: Option<u64>,
    /// Shards, each on a core of its own [default: all cores but one, at least one].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) shards: Option<u16>,
}

#[derive(Args, Debug)]
#[command(before_help = "Example:
  citius master --home ./m --listen 127.0.0.1:7700 --mount /data=./some/folder")]
pub(crate) struct MasterArgs {
    #[command(flatten)]
    pub(crate) mounts: MountFlags,
    #[command(flatten)]
    pub(crate) listen: MasterListen,
}

#[derive(Args, Debug)]
#[command(before_help = "Example:
  citius worker --home ./w1 --master 127.0.0.1:7700 --token-file ./m/token --data-listen 127.0.0.1:0 --memory 8GiB")]
pub(crate) struct WorkerArgs {
    #[command(flatten)]
    pub(crate) worker: WorkerFlags,
    /// HOST:PORT under which others reach the data listener [default: what it listens on].
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Option<String>,
}

#[derive(Args, Debug)]
#[command(before_help = "Examples:
  citius ls /data
  citius ls -l /data --limit 20
  citius ls -R /data")]
pub(crate) struct LsArgs {
    /// Directories or files.
    #[arg(default_value = "/")]
    pub(crate) paths: Vec<String>,
    /// Kind, length, time, and where the bytes are safe.
    #[arg(long, short)]
    pub(crate) long: bool,
    /// Lengths in units of 1024.
    #[arg(long, short = 'H')]
    pub(crate) human: bool,
    /// Directories below, too.
    #[arg(long, short = 'R')]
    pub(crate) recursive: bool,
    /// At most so many entries of each directory.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Only names after this one.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) after: String,
}

#[derive(Args, Debug)]
#[command(before_help = "Example:
  citius cat /data/a.csv /data/b.csv | wc -l")]
pub(crate) struct CatArgs {
    /// Files.
    #[arg(required = true)]
    pub(crate) paths: Vec<String>,
}

#[derive(Args, Debug)]
#[command(before_help = "Examples:
  citius head -n 5 /data/log
  citius tail -c 4KiB /data/log")]
pub(crate) struct EndArgs {
    /// The file.
    pub(crate) path: String,
    /// So many lines.
    #[arg(long, short = 'n', value_name = "N", default_value_t = 10, conflicts_with = "bytes")]
    pub(crate) lines: u64,
    /// So many bytes.
    #[arg(long, short = 'c', value_name = "BYTES", value_parser = parse_bytes)]
    pub(crate) bytes: Option<u64>,
}

/// What a returned close of a written file means.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteTypeFlag {
    /// Whole in the under-store, and cached.
    CacheThrough,
    /// Whole in the under-store.
    Through,
    /// Whole in memory, gone with it.
    MustCache,
}

#[derive(Args, Debug)]
#[command(before_help = "Examples:
  citius cp ./a.csv /data/a.csv            in
  citius cp -r /data/train ./train         out
  citius cp -r ./photos /photos            a folder; made if it is not there")]
pub(crate) struct CpArgs {
    /// What to copy; local if it begins with file:, ./ or ../, a namespace path if with /.
    #[arg(required = true)]
    pub(crate) from: Vec<String>,
    /// Where to.
    pub(crate) to: String,
    /// Directories with all that is in them.
    #[arg(long, short)]
    pub(crate) recursive: bool,
    /// Replace files that are there.
    #[arg(long, short)]
    pub(crate) force: bool,
    /// What the end of each write promises.
    #[arg(long, value_enum, default_value = "cache-through")]
    pub(crate) write_type: WriteTypeFlag,
    /// Files copied at once.
    #[arg(long, short, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: u16,
}

#[derive(Args, Debug)]
#[command(before_help = "Example:
  citius mv /data/a /data/b")]
pub(crate) struct MvArgs {
    /// From.
    pub(crate) from: String,
    /// To; into it if it is a directory.
    pub(crate) to: String,
    /// Replace a file that is there.
    #[arg(long, short)]
    pub(crate) force: bool,
}

#[derive(Args, Debug)]
#[command(before_help = "Example:
  citius rm -r /data/old")]
pub(crate) struct RmArgs {
    /// What.
    #[arg(required = true)]
    pub(crate) paths: Vec<String>,
    /// Directories with all that is in them.
    #[arg(long, short)]
    pub(crate) recursive: bool,
    /// What is not there is no error.
    #[arg(long, short)]
    pub(crate) force: bool,
}

#[derive(Args, Debug)]
#[command(before_help = "Example:
  citius mkdir -p /data/2026/11")]
pub(crate) struct MkdirArgs {
    /// What.
    #[arg(required = true)]
    pub(crate) paths: Vec<String>,
    /// Parents too; what is there is no error.
    #[arg(long, short)]
    pub(crate) parents: bool,
}

#[derive(Args, Debug)]
#[command(before_help = "Examples:
  citius stat /data/x
  citius stat --json /data/x | jq .cached_bytes")]
pub(crate) struct StatArgs {
    /// What.
    #[arg(required = true)]
    pub(crate) paths: Vec<String>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum MountCommand {
    /// Mount an under-store.
    Add(MountAddArgs),
    /// See what an under-store can do, and what is wrong with it.
    Check(MountCheckArgs),
    /// List mounts.
    Ls,
    /// Change options of a mount, such as its keys, while it is used.
    Set(MountSetArgs),
    /// Remove a mount; its under-store keeps its files.
    Rm {
        /// Where it is.
        path: String,
    },
}

#[derive(Args, Debug)]
#[command(before_help = "Examples:
  citius mount add /data ./some/folder
  citius mount add /lake s3://bucket/prefix --option aws_region=eu-central-1 --read-only")]
pub(crate) struct MountAddArgs {
    /// Where.
    pub(crate) path: String,
    /// What: a folder, or a URI: s3:, gs:, oss:, abfs:, hdfs:, webdav:, sftp:, file: (docs/under-stores.md).
    pub(crate) uri: String,
    /// Option of the under-store; @FILE as a value reads it from a file.
    #[arg(long = "option", value_name = "KEY=VALUE")]
    pub(crate) options: Vec<String>,
    /// Refuse writes.
    #[arg(long)]
    pub(crate) read_only: bool,
    /// How long its metadata is believed: a time, 0 (ask each time) or never (ask once)
    /// [default: 0 for folders, 30s for object stores].
    #[arg(long, value_name = "TIME")]
    pub(crate) sync_interval: Option<String>,
}

#[derive(Args, Debug)]
#[command(before_help = "Examples:
  citius mount set /lake --option aws_access_key_id=AKIA... --option aws_secret_access_key=@key-file
  citius mount set /lake --unset aws_session_token")]
#[command(group = clap::ArgGroup::new("change").args(["options", "unset"]).multiple(true).required(true))]
pub(crate) struct MountSetArgs {
    /// Where it is.
    pub(crate) path: String,
    /// Option that it has from now on; @FILE as a value reads it from a file. All others stay.
    #[arg(long = "option", value_name = "KEY=VALUE")]
    pub(crate) options: Vec<String>,
    /// Option that it has no longer.
    #[arg(long, value_name = "KEY")]
    pub(crate) unset: Vec<String>,
}

#[derive(Args, Debug)]
#[command(before_help = "Examples:
  citius mount check s3://bucket --option aws_region=eu-central-1
  citius mount check ./some/folder --write
  citius mount check opendal+dropbox:///folder --option access_token=@file --read-only
  citius mount check /data")]
pub(crate) struct MountCheckArgs {
    /// A URI, or a relative path of a folder: looked at from this machine, and no cluster is needed. Or the path of a
    /// mount, which begins with a slash: looked at from its master.
    #[arg(value_name = "URI|PATH")]
    pub(crate) target: String,
    /// Option of the under-store; @FILE as a value reads it from a file.
    #[arg(long = "option", value_name = "KEY=VALUE")]
    pub(crate) options: Vec<String>,
    /// Look at it as a mount that refuses writes.
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Try writes too, in a directory that is deleted again.
    #[arg(long)]
    pub(crate) write: bool,
}

#[derive(Args, Debug)]
#[command(before_help = "Example:
  citius load /data/train --wait")]
pub(crate) struct LoadArgs {
    /// Files, or directories with all that is in them.
    #[arg(required = true)]
    pub(crate) paths: Vec<String>,
    /// Kept for scripts: the command always waits until all is loaded.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Blocks loaded at once; a small file is one.
    #[arg(long, short, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) jobs: u16,
}

#[derive(Args, Debug)]
#[command(before_help = "Example:
  citius free /data/train")]
pub(crate) struct FreeArgs {
    /// Files, or directories with all that is in them.
    #[arg(required = true)]
    pub(crate) paths: Vec<String>,
}

#[derive(Args, Debug)]
#[command(before_help = "Examples:
  citius bench
  citius bench --path /data --bytes 1GiB")]
pub(crate) struct BenchArgs {
    /// Directory to work in; what it makes there is removed.
    #[arg(long, default_value = "/")]
    pub(crate) path: String,
    /// Size of the file that is written and read.
    #[arg(long, value_name = "BYTES", default_value = "256MiB", value_parser = parse_bench_bytes)]
    pub(crate) bytes: u64,
    /// Reads, stats and creates that are timed.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    pub(crate) count: u32,
}

/// As [`parse_bytes`], for a file that is long enough to be timed.
fn parse_bench_bytes(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        bytes if bytes >= 1 << 20 => Ok(bytes),
        _ => Err("what is less than 1MiB cannot be timed".to_owned()),
    }
}

/// Reads 512, 4KiB, 64MiB, 1GiB, 1GB.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is no number of bytes: try 64MiB"))?;
    let scale: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(format!("{unit:?} is no unit of bytes: use KiB, MiB, GiB or TiB")),
    };
    let bytes = number * scale as f64;
    if bytes >= 2_f64.powi(63) {
        return Err(format!("{text:?} is more than any machine has"));
    }
    Ok(bytes as u64)
}

/// Reads 500ms, 30s, 5m, 1h.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is no time: try 30s"))?;
    let millis = match unit.trim() {
        "ms" => 1,
        "s" | "" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("{unit:?} is no unit of time: use ms, s, m or h")),
    };
    number
        .checked_mul(millis)
        .filter(|&millis| millis <= 1000 * 3600 * 24 * 366)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is longer than a year"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn bytes_and_times() {
        assert_eq!(parse_bytes("512"), Ok(512));
        assert!(parse_bench_bytes("0").is_err() && parse_bench_bytes("1MiB") == Ok(1 << 20));
        assert_eq!(parse_bytes("1.5GiB"), Ok(3 << 29));
        assert_eq!(parse_bytes("2 mb"), Ok(2_000_000));
        assert!(parse_bytes("x").is_err() && parse_bytes("1q").is_err() && parse_bytes("99999999TiB").is_err());
        assert_eq!(parse_time("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_time("2"), Ok(Duration::from_secs(2)));
        assert!(parse_time("s").is_err() && parse_time("1d").is_err() && parse_time("99999999999h").is_err());
    }
}
