//! A finding: one place where a rule of the house does not hold.

use std::fmt;

/// Ordered by path and line, so that a report reads like the tree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// The file, relative to the top of the checkout.
    pub(crate) path: String,
    /// Counted from 1; 0 stands for the file as a whole.
    pub(crate) line: usize,
    /// The name of the check, as the code map in `main.rs` has it.
    pub(crate) check: &'static str,
    /// What is wrong and what to do.
    pub(crate) what: String,
}

impl Finding {
    /// A finding about a whole file.
    pub(crate) fn in_file(check: &'static str, path: &str, what: String) -> Self {
        Self::at_line(check, path, 0, what)
    }

    /// A finding about one line of a file.
    pub(crate) fn at_line(check: &'static str, path: &str, line: usize, what: String) -> Self {
        Self { path: path.to_owned(), line, check, what }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(out, "{}: [{}] {}", self.path, self.check, self.what),
            line => write!(out, "{}:{line}: [{}] {}", self.path, self.check, self.what),
        }
    }
}
