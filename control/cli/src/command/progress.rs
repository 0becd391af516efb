//! Progress on standard error, on a terminal only: bytes, rate, time left.

use crate::args::Reach;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// A bar, or nothing where nobody looks.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar whose length grows as work is found.
    pub(crate) fn new(reach: &Reach, what: &str) -> Self {
        let bar = ProgressBar::with_draw_target(
            Some(0),
            if reach.quiet || reach.json || !std::io::stderr().is_terminal() {
                ProgressDrawTarget::hidden()
            } else {
                ProgressDrawTarget::stderr()
            },
        );
        bar.set_style(
            ProgressStyle::with_template(
                "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta}",
            )
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.set_message(what.to_owned());
        Self(bar)
    }

    /// More work was found.
    pub(crate) fn expect(&self, bytes: u64) {
        self.0.inc_length(bytes);
    }

    /// Some of it is done.
    pub(crate) fn done(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// All is done, or given up.
    pub(crate) fn end(&self) {
        self.0.finish_and_clear();
    }
}
