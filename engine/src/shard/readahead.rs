//! How far ahead of a sequential reader to fetch.
//!
//! A read that begins where the last one ended is sequential. The window opens at [`WINDOW_BYTES_MIN`] with the second
//! read of a run, doubles with each further one up to [`WINDOW_BYTES_MAX`], and closes with the first read elsewhere:
//! a random reader pays for nothing but its own grains.

use std::cell::Cell;

/// The first window.
pub(crate) const WINDOW_BYTES_MIN: u32 = 256 << 10;
/// The widest window.
pub(crate) const WINDOW_BYTES_MAX: u32 = 8 << 20;

/// What is remembered of one reader of one file.
#[derive(Default)]
pub(crate) struct Readahead {
    /// Where the last read ended; `None` before the first.
    read_to: Cell<Option<u64>>,
    window: Cell<u32>,
}

impl Readahead {
    /// Notes a read of the file's bytes from `start` to `end`, and says how many bytes behind it to fetch as well.
    pub(crate) fn note(&self, start: u64, end: u64) -> u32 {
        let is_sequential = self.read_to.get() == Some(start);
        self.read_to.set(Some(end));
        let window = match (is_sequential, self.window.get()) {
            (false, _) => 0,
            (true, 0) => WINDOW_BYTES_MIN,
            (true, window) => (window * 2).min(WINDOW_BYTES_MAX),
        };
        self.window.set(window);
        window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_for_runs_only() {
        let ahead = Readahead::default();
        assert_eq!(ahead.note(0, 4096), 0, "the first read of a file may be its only one");
        assert_eq!(ahead.note(4096, 8192), WINDOW_BYTES_MIN);
        assert_eq!(ahead.note(8192, 9000), 2 * WINDOW_BYTES_MIN);
        for i in 0..10 {
            ahead.note(9000 + i, 9001 + i);
        }
        assert_eq!(ahead.note(9010, 9011), WINDOW_BYTES_MAX);
        assert_eq!(ahead.note(0, 1), 0, "and closes with a jump");
        assert_eq!(ahead.note(1, 2), WINDOW_BYTES_MIN);
    }
}
