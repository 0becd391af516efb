//! `local`, `master` and `worker`, from start to end.

use super::{Cores, host_name, incarnation, mounts, runtime, told_to_end};
use crate::args::{LocalArgs, MasterArgs, MasterListen, Reach, WorkerArgs, WorkerFlags};
use crate::error::CliError;
use crate::home::{self, Home};
use crate::output::{human_bytes, say};
use citius_client::{Client, Config, Endpoint, Token};
use citius_control::{Master, MasterConfig, RootSpec};
use citius_engine::{Worker, WorkerConfig};
use clap::ArgMatches;
use mounts::MountFlag;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const HTTP_LISTEN_DEFAULT: &str = "127.0.0.1:7702";
const DATA_LISTEN_DEFAULT: &str = "127.0.0.1:7701";
/// The longest path a Unix socket can have, without the byte that ends it.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// The least memory tier that is of any use.
const MEMORY_BYTES_MIN: u64 = 16 << 20;
/// How long the end may take before it is cut short.
const END_PATIENCE: Duration = Duration::from_secs(20);

/// `citius local`.
pub(crate) fn run_local(reach: &Reach, args: &LocalArgs, matches: &ArgMatches) -> Result<(), CliError> {
    let began = Instant::now();
    let flags = mounts::from_flags(&args.mounts, matches)?;
    let home = Home::hold(&home_dir(reach)?, args.ephemeral)?;
    let token = home.token()?;
    let (cores, shards) = Cores::divide(args.worker.shards);
    let runtime = runtime(&cores)?;
    runtime.block_on(async {
        let master = start_master(&home, &token, &args.listen, &flags).await?;
        let worker = start_worker(
            &home,
            &token,
            &args.worker,
            &cores,
            shards,
            master.rpc_address().to_string(),
            &args.listen,
            None,
        )
        .await?;
        let endpoint = master.rpc_address().to_string();
        mount_all(&endpoint, &token, &flags).await?;
        home.announce(&endpoint)?;
        if !reach.quiet {
            say_ready(&home, reach, &master, Some(&worker), &flags, args.ephemeral, began);
        }
        told_to_end().await?;
        end(async {
            worker.stop().await;
            master.shutdown().await;
        })
        .await;
        Ok(())
    })
}

/// `citius master`.
pub(crate) fn run_master(reach: &Reach, args: &MasterArgs, matches: &ArgMatches) -> Result<(), CliError> {
    let began = Instant::now();
    let flags = mounts::from_flags(&args.mounts, matches)?;
    let home = Home::hold(&home_dir(reach)?, false)?;
    let token = home.token()?;
    let (cores, _) = Cores::divide(Some(1));
    let all = Cores { rest: cores.rest.iter().chain(&cores.shards).copied().collect(), shards: Vec::new() };
    let runtime = runtime(&all)?;
    runtime.block_on(async {
        let master = start_master(&home, &token, &args.listen, &flags).await?;
        let endpoint = master.rpc_address().to_string();
        mount_all(&endpoint, &token, &flags).await?;
        home.announce(&endpoint)?;
        if !reach.quiet {
            say_ready(&home, reach, &master, None, &flags, false, began);
        }
        told_to_end().await?;
        end(master.shutdown()).await;
        Ok(())
    })
}

/// `citius worker`.
pub(crate) fn run_worker(reach: &Reach, args: &WorkerArgs) -> Result<(), CliError> {
    let master = reach.master.clone().ok_or_else(|| {
        CliError::usage("a worker needs --master HOST:PORT (and --token-file with the file token of the master's home)")
    })?;
    crate::check_address("--master", &master)?;
    let home = Home::hold(&home_dir(reach)?, false)?;
    let token = match &reach.token_file {
        Some(file) => Endpoint::token_from_file(file)?,
        None => home.token()?,
    };
    let (cores, shards) = Cores::divide(args.worker.shards);
    let runtime = runtime(&cores)?;
    runtime.block_on(async {
        let listen = MasterListen { listen: master.clone(), http_listen: None };
        let worker =
            start_worker(&home, &token, &args.worker, &cores, shards, master.clone(), &listen, args.advertise.clone())
                .await?;
        home.announce(&master)?;
        if !reach.quiet {
            say!("citius worker is ready: {} of {master}", describe_worker(&worker));
            say_memory(&worker);
        }
        told_to_end().await?;
        end(worker.stop()).await;
        Ok(())
    })
}

fn home_dir(reach: &Reach) -> Result<PathBuf, CliError> {
    reach.home.clone().map_or_else(home::default_dir, Ok)
}

async fn start_master(
    home: &Home,
    token: &Token,
    listen: &MasterListen,
    flags: &[MountFlag],
) -> Result<Master, CliError> {
    let http = listen.http_listen.clone().unwrap_or_else(|| default_beside(&listen.listen, HTTP_LISTEN_DEFAULT));
    let mut config = MasterConfig::new(home.state(), token.clone());
    config.rpc_listen = resolve("--listen", &listen.listen)?;
    config.http_listen = resolve("--http-listen", &http)?;
    config.hosts = vec![host_name()];
    config.root = flags.iter().find(|flag| flag.path == "/").map(|flag| RootSpec {
        uri: flag.uri.clone(),
        options: flag.options.clone(),
        sync_interval_ms: None,
    });
    Master::start(config).await.map_err(|error| CliError::failure(format!("the master cannot start: {error}")))
}

/// An address to listen on.
fn resolve(flag: &str, text: &str) -> Result<SocketAddr, CliError> {
    text.to_socket_addrs().ok().and_then(|mut found| found.next()).ok_or_else(|| {
        CliError::usage(format!("{flag} {text:?} is no HOST:PORT of this machine, as in 127.0.0.1:7700"))
    })
}

#[allow(clippy::too_many_arguments)]
async fn start_worker(
    home: &Home,
    token: &Token,
    flags: &WorkerFlags,
    cores: &Cores,
    shards: u16,
    master: String,
    listen: &MasterListen,
    advertise: Option<String>,
) -> Result<Worker, CliError> {
    let memory_bytes = match flags.memory {
        Some(bytes) if bytes < MEMORY_BYTES_MIN => {
            return Err(CliError::usage(format!(
                "--memory {bytes} is too little: the memory tier needs {} at least",
                human_bytes(MEMORY_BYTES_MIN)
            )));
        }
        Some(bytes) => bytes,
        None => (rustix::system::sysinfo().totalram / 4).max(MEMORY_BYTES_MIN),
    };
    let data_listen = flags.data_listen.clone().unwrap_or_else(|| default_beside(&listen.listen, DATA_LISTEN_DEFAULT));
    Worker::start(WorkerConfig {
        worker: home.worker_id()?,
        incarnation: incarnation(),
        master,
        token: token.clone(),
        data_listen,
        advertise,
        socket_path: socket_path(home.dir()),
        host: host_name(),
        shards,
        cores: cores.shards.clone(),
        memory_bytes,
    })
    .await
    .map_err(|error| CliError::failure(format!("the worker cannot start: {error}")))
}

/// The fixed default of another listener, or any port if the main one is any.
fn default_beside(listen: &str, default: &str) -> String {
    match listen.rsplit_once(':') {
        Some((host, "0")) => format!("{host}:0"),
        _ => default.to_owned(),
    }
}

/// A short path for the worker's Unix socket: the runtime folder of the user, since a home's path may be too long.
fn socket_path(home: &Path) -> Option<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()).map_or_else(
        || std::env::temp_dir().join(format!("citius-{}", rustix::process::geteuid().as_raw())),
        |dir| PathBuf::from(dir).join("citius"),
    );
    let name = format!("{:016x}.sock", fnv(home.as_os_str().as_encoded_bytes()));
    let path = runtime.join(name);
    (path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX).then_some(path)
}

/// FNV-1a (Fowler, Noll and Vo): tells the homes of one user apart in a file name.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

async fn mount_all(endpoint: &str, token: &Token, flags: &[MountFlag]) -> Result<(), CliError> {
    let endpoint = Endpoint { master: endpoint.to_owned(), token: token.clone() };
    let flags = flags.to_vec();
    tokio::task::spawn_blocking(move || mounts::ensure(&Client::connect(endpoint, Config::default())?, &flags))
        .await
        .map_err(|error| CliError::failure(format!("mounting was cut short: {error}")))?
}

async fn end(ending: impl Future<Output = ()>) {
    if tokio::time::timeout(END_PATIENCE, ending).await.is_err() {
        tracing::warn!("the end took longer than {END_PATIENCE:?} and was cut short");
    }
}

fn describe_worker(worker: &Worker) -> String {
    let memory = worker.memory();
    format!(
        "data {}, {} shard{}, {} of memory ({})",
        worker.data_address(),
        worker.shards(),
        if worker.shards() == 1 { "" } else { "s" },
        human_bytes(memory.bytes),
        memory.backing
    )
}

fn say_memory(worker: &Worker) {
    for note in &worker.memory().notes {
        say!("  note: {note}");
    }
}

fn say_ready(
    home: &Home,
    reach: &Reach,
    master: &Master,
    worker: Option<&Worker>,
    flags: &[MountFlag],
    ephemeral: bool,
    began: Instant,
) {
    let what = if worker.is_some() { "citius" } else { "citius master" };
    say!("{what} is ready after {} ms", began.elapsed().as_millis());
    say!("  master  {}   http://{}", master.rpc_address(), master.http_address());
    if let Some(worker) = worker {
        say!("  worker  {}", describe_worker(worker));
    }
    say!("  home    {}{}", home.dir().display(), if ephemeral { " (keeps nothing)" } else { "" });
    for flag in flags {
        say!("  mount   {} -> {}", flag.path, crate::output::redact_uri(&flag.uri));
    }
    if let Some(worker) = worker {
        say_memory(worker);
    }
    let home_flag = match &reach.home {
        Some(dir) if std::env::var_os("CITIUS_HOME").is_none() => format!(" --home {}", dir.display()),
        _ => String::new(),
    };
    let path = flags.iter().find(|flag| flag.path != "/").map_or("/", |flag| flag.path.as_str());
    say!("try:");
    say!("  citius{home_flag} ls {path}");
    say!("  citius{home_flag} cp ./file {}/file", path.trim_end_matches('/'));
    say!("  citius{home_flag} cluster");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_ports_are_picked_when_the_main_one_is() {
        assert_eq!(default_beside("127.0.0.1:0", DATA_LISTEN_DEFAULT), "127.0.0.1:0");
        assert_eq!(default_beside("127.0.0.1:9", DATA_LISTEN_DEFAULT), DATA_LISTEN_DEFAULT);
    }

    #[test]
    fn sockets_of_two_homes_differ() {
        assert_ne!(fnv(b"/a"), fnv(b"/b"));
    }
}
