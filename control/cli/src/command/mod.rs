//! The commands of a user, one file each. Each connects, does one thing, and prints it.

mod bench;
mod check;
mod cluster;
mod copy;
mod interrupt;
mod list;
mod mount;
mod names;
mod pool;
mod print;
mod progress;
mod stat;
mod walk;
mod warm;

use crate::args::{Cli, Command, MountCommand};
use crate::connect;
use crate::error::CliError;
use crate::output::shown;
use citius_client::{Client, File};

/// Runs a command that is not one of the serving ones.
pub(crate) fn run(cli: &Cli) -> Result<(), CliError> {
    let reach = &cli.reach;
    if let Command::Mount(MountCommand::Check(args)) = &cli.command {
        return check::run(reach, args);
    }
    let client = connect(reach)?;
    match &cli.command {
        Command::Local(_) | Command::Master(_) | Command::Worker(_) => unreachable!("main serves these"),
        Command::Ls(args) => list::run(&client, reach, args),
        Command::Cat(args) => print::cat(&client, args),
        Command::Head(args) => print::head(&client, args),
        Command::Tail(args) => print::tail(&client, args),
        Command::Cp(args) => copy::run(&client, reach, args),
        Command::Mv(args) => names::mv(&client, args),
        Command::Rm(args) => names::rm(&client, args),
        Command::Mkdir(args) => names::mkdir(&client, args),
        Command::Stat(args) => stat::run(&client, reach, args),
        Command::Mount(command) => mount::run(&client, reach, command),
        Command::Load(args) => warm::load(&client, reach, args),
        Command::Free(args) => warm::free(&client, reach, args),
        Command::Cluster => cluster::run(&client, reach),
        Command::Bench(args) => bench::run(&client, reach, args),
    }
}

/// Opens a file and decides on its version by reading a byte of it: a version that was replaced since the master last
/// looked is followed until then, and fails from then on.
fn open_settled(client: &Client, path: &str) -> Result<File, CliError> {
    let file = client.open(path)?;
    file.read_at(&mut [0], 0)?;
    Ok(file)
}

/// What is said of names that a listing leaves out.
fn not_shown(dir: &str, names: u64) -> String {
    format!(
        "{names} name(s) in {} are not shown: not UTF-8, or symbolic links that lead nowhere, out of the mount, or back to \
         a folder that they are in",
        shown(dir)
    )
}

/// Goes on over several paths when one fails: each failure is kept, and the end is `Partial` if some went well.
fn for_each<T>(items: &[T], mut one: impl FnMut(&T) -> Result<(), CliError>) -> Result<(), CliError> {
    let mut failed = Vec::new();
    for item in items {
        match one(item) {
            Ok(()) => {}
            Err(error) if error.is_closed_pipe() => return Err(error),
            Err(error) => failed.push(error),
        }
    }
    let Some(last) = failed.pop() else { return Ok(()) };
    if failed.len() + 1 == items.len() {
        return Err(last.behind(failed));
    }
    let words = format!("{} ({} of {} failed)", last.message(), failed.len() + 1, items.len());
    Err(CliError::partial(words).behind(failed))
}
