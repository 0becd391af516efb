//! Ctrl-C during a copy: what is half done is taken back before the process ends.
//!
//! A file that is being written holds its path until its writer says that it gives it up, or for the time of its lease; so a
//! command that dies at once would keep the next one out.

use crate::error::CliError;
use crate::output::say;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};

/// Whether the user wants the command to end.
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes SIGINT and SIGTERM from now on. The second one ends the process at once.
    pub(crate) fn watch() -> Result<Self, CliError> {
        let told = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let guard = runtime.enter();
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        drop(guard);
        let tell = Arc::clone(&told);
        std::thread::spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    if tell.swap(true, Ordering::Relaxed) {
                        std::process::exit(i32::from(CliError::interrupted().code()));
                    }
                    say!("citius: taking back what is half done; once more ends at once");
                }
            });
        });
        Ok(Self(told))
    }

    /// To be asked between two steps.
    ///
    /// # Errors
    /// That the user wants the command to end.
    pub(crate) fn check(&self) -> Result<(), CliError> {
        if self.0.load(Ordering::Relaxed) { Err(CliError::interrupted()) } else { Ok(()) }
    }
}
