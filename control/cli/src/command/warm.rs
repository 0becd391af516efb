//! `citius load` and `free`: what is cached, on request.

use super::pool::{self, Sum};
use super::progress::Progress;
use super::walk::{self, Found, Miss};
use crate::args::{FreeArgs, LoadArgs, Reach};
use crate::error::CliError;
use crate::output::say;
use citius_client::Client;
use std::sync::atomic::{AtomicU64, Ordering};

/// Files freed at once.
const FREE_JOBS: u16 = 4;

/// Brings files into memory, block by block.
pub(crate) fn load(client: &Client, reach: &Reach, args: &LoadArgs) -> Result<(), CliError> {
    let progress = Progress::new(reach, "loading");
    let bytes = AtomicU64::new(0);
    let sum = each_file(
        client,
        &args.paths,
        args.jobs,
        |found| {
            if let Ok(found) = &found {
                progress.expect(found.info.length);
            }
            Some(found.map_err(CliError::from))
        },
        |found| {
            client.open(&found.path)?.load()?;
            bytes.fetch_add(found.info.length, Ordering::Relaxed);
            progress.done(found.info.length);
            Ok(())
        },
    );
    progress.end();
    sum.end(reach, "loaded", bytes.into_inner())
}

/// Forgets the clean cached blocks of files.
pub(crate) fn free(client: &Client, reach: &Reach, args: &FreeArgs) -> Result<(), CliError> {
    let bytes = AtomicU64::new(0);
    let sum = each_file(
        client,
        &args.paths,
        FREE_JOBS,
        |found| match found {
            // What cannot be opened is not cached either.
            Err(Miss::NotShown(words)) => {
                if !reach.quiet && !reach.json {
                    say!("citius: {words}");
                }
                None
            }
            found => Some(found.map_err(CliError::from)),
        },
        |found| {
            bytes.fetch_add(client.open(&found.path)?.free()?, Ordering::Relaxed);
            Ok(())
        },
    );
    sum.end(reach, "freed", bytes.into_inner())
}

/// Does `one` for every file below the paths that `sift` lets through; what it makes an error counts as one.
fn each_file(
    client: &Client,
    paths: &[String],
    jobs: u16,
    sift: impl Fn(Result<Found, Miss>) -> Option<Result<Found, CliError>>,
    one: impl Fn(Found) -> Result<(), CliError> + Sync,
) -> Sum {
    pool::run(
        jobs,
        |tasks| {
            for file in walk::files(client, paths).filter_map(sift) {
                tasks.send(file).map_err(|_| CliError::failure("it was cut short"))?;
            }
            Ok(())
        },
        one,
    )
}
