//! `citius load` and `free`: what is cached, on request.

use super::pool::{self, Sum};
use super::progress::Progress;
use super::walk::{self, Found, Miss};
use crate::args::{FreeArgs, LoadArgs, Reach};
use crate::error::CliError;
use crate::output::{human_bytes, say};
use citius_client::Client;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;

/// Files that are found ahead of their being loaded.
const FOUND_AHEAD_MAX: usize = 256;
/// Files freed at once.
const FREE_JOBS: u16 = 4;

/// Brings files into memory, block by block.
pub(crate) fn load(client: &Client, reach: &Reach, args: &LoadArgs) -> Result<(), CliError> {
    let progress = Progress::new(reach, "loading");
    let (sender, receiver) = sync_channel(FOUND_AHEAD_MAX);
    let sum = RefCell::new(Sum::default());
    let mut loaded_bytes = 0;
    thread::scope(|scope| {
        // Files are found while others are loaded. Who loads receives all that is found.
        scope.spawn(move || walk::files(client, &args.paths).try_for_each(|found| sender.send(found)));
        let next = |may_wait: bool| loop {
            let found = if may_wait { receiver.recv().ok()? } else { receiver.try_recv().ok()? };
            match found {
                Ok(found) => {
                    progress.expect(found.info.length);
                    return Some(found);
                }
                Err(miss) => sum.borrow_mut().note(Err(miss.into())),
            }
        };
        client.load_all(usize::from(args.jobs), next, |found, loaded| {
            loaded_bytes += *loaded.as_ref().unwrap_or(&0);
            progress.done(found.info.length);
            sum.borrow_mut().note(loaded.map(drop).map_err(CliError::from));
        });
    });
    progress.end();
    let ended = sum.into_inner().end(reach, "loaded", loaded_bytes);
    if !reach.json && !reach.quiet {
        say_if_evicted(client, loaded_bytes);
    }
    ended
}

/// Says so when more was loaded than there is room for. Who cannot be asked says nothing of it.
fn say_if_evicted(client: &Client, loaded_bytes: u64) {
    let Ok(cluster) = client.cluster() else { return };
    let live = cluster.workers.iter().filter(|worker| worker.live);
    let room: u64 = live.map(|worker| worker.counters.memory_capacity_bytes).sum();
    if loaded_bytes > room {
        say!(
            "citius: that is more than the {} that the workers have in all, so some of it is evicted again; \
             `citius stat PATH` tells how much of a file is cached",
            human_bytes(room)
        );
    }
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
