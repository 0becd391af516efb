//! `citius`: one binary for the cluster's processes and for its users.
//!
//! | file | what it holds |
//! |---|---|
//! | `args` | every command and flag |
//! | `home` | the folder with all state of one process |
//! | `serve/` | `local`, `master`, `worker`: the composition root |
//! | `command/` | one file for each command of a user |
//! | `output`, `error` | tables and JSON, exit codes |

mod args;
mod command;
mod error;
mod home;
mod output;
mod serve;

use args::{Cli, Command};
use citius_client::{Client, Config, Endpoint};
use clap::{CommandFactory, FromArgMatches};
use error::CliError;
use mimalloc::MiMalloc;
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// The master allocates some dozen times for each file created: with this allocator a core creates a tenth more of them.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// What is logged where `CITIUS_LOG` does not say it. What the last two have to tell comes with the errors that they return.
const LOG_DEFAULT: &str = "warn,openraft=error,raft_log=error,hdfs_native=off,rustls_platform_verifier=off";

fn main() -> ExitCode {
    // A closed pipe behind us (`citius cat x | head`) is an ordinary end, not a signal or a panic.
    let parsed = Cli::command().try_get_matches();
    let (matches, cli) = match parsed.and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches))) {
        Ok((cli, matches)) => (matches, cli),
        // What could not be read may have asked for JSON all the same.
        Err(error) if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") => {
            let error = CliError::usage(error.to_string().trim_end());
            error.report(true);
            return ExitCode::from(error.code());
        }
        Err(error) => error.exit(),
    };
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_env("CITIUS_LOG")
                .unwrap_or_else(|_| EnvFilter::new(LOG_DEFAULT)),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty()))
        .with_target(false)
        // Of a line that cannot be written, as on a full disk, it would tell by a panic.
        .log_internal_errors(false)
        .init();
    let result = match (&cli.command, matches.subcommand()) {
        (Command::Local(args), Some((_, own))) => serve::run_local(&cli.reach, args, own),
        (Command::Master(args), Some((_, own))) => serve::run_master(&cli.reach, args, own),
        (Command::Worker(args), _) => serve::run_worker(&cli.reach, args),
        _ => command::run(&cli),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_closed_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            error.report(cli.reach.json);
            ExitCode::from(error.code())
        }
    }
}

/// Where a command finds its cluster.
fn connect(reach: &args::Reach) -> Result<Client, CliError> {
    connect_with(reach, Config { timeout: reach.timeout, ..Config::default() })
}

/// The same, for a client with its own ways.
fn connect_with(reach: &args::Reach, config: Config) -> Result<Client, CliError> {
    let endpoint = match &reach.master {
        Some(master) => {
            check_address("--master", master)?;
            let token = match &reach.token_file {
                Some(file) => Endpoint::token_from_file(file)?,
                None => Endpoint::token_from_file(&home_dir(reach)?.join("token"))?,
            };
            Endpoint { master: master.clone(), token }
        }
        None => {
            let mut endpoint = Endpoint::from_home(&home_dir(reach)?)?;
            if let Some(file) = &reach.token_file {
                endpoint.token = Endpoint::token_from_file(file)?;
            }
            endpoint
        }
    };
    Ok(Client::connect(endpoint, config)?)
}

/// Tells what is no address from one where nobody answers.
fn check_address(flag: &str, text: &str) -> Result<(), CliError> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => Ok(()),
        _ => Err(CliError::usage(format!("{flag} {text:?} should be HOST:PORT, as in 127.0.0.1:7700"))),
    }
}

fn home_dir(reach: &args::Reach) -> Result<std::path::PathBuf, CliError> {
    reach.home.clone().map_or_else(home::default_dir, Ok)
}
