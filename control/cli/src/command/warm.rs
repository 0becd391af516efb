//! `citius load` and `free`: what is cached, on request.

use super::pool;
use super::progress::Progress;
use super::walk::{self, Found};
use crate::args::{FreeArgs, LoadArgs, Reach};
use crate::error::CliError;
use crate::output::{human_bytes, say};
use citius_client::Client;
use std::sync::atomic::{AtomicU64, Ordering};

/// Brings files into memory, block by block.
pub(crate) fn load(client: &Client, reach: &Reach, args: &LoadArgs) -> Result<(), CliError> {
    let progress = Progress::new(reach, "loading");
    let bytes = AtomicU64::new(0);
    let sum = pool::run(
        args.jobs,
        |tasks| {
            for found in walk::files(client, &args.paths) {
                let found = found?;
                progress.expect(found.info.length);
                tasks.send(found).map_err(|_| CliError::failure("loading was cut short"))?;
            }
            Ok(())
        },
        |found: Found| {
            client.open(&found.path)?.load()?;
            bytes.fetch_add(found.info.length, Ordering::Relaxed);
            progress.done(found.info.length);
            Ok(())
        },
    );
    progress.end();
    if !reach.quiet {
        say!("loaded {} in {} file(s)", human_bytes(bytes.into_inner()), sum.done);
    }
    sum.into_result("files loaded")
}

/// Forgets the clean cached blocks of files.
pub(crate) fn free(client: &Client, reach: &Reach, args: &FreeArgs) -> Result<(), CliError> {
    let (mut files, mut bytes) = (0_u64, 0);
    for found in walk::files(client, &args.paths) {
        bytes += client.open(&found?.path)?.free()?;
        files += 1;
    }
    if !reach.quiet {
        say!("freed {} of {files} file(s)", human_bytes(bytes));
    }
    Ok(())
}
