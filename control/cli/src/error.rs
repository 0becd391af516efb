//! An error as the command line shows it, with the exit code that scripts see.

use crate::output::{say, shown};
use citius_client::{ExitCode, Status};
use serde_json::json;

/// The exit code of a command that the user ended, as shells have it for SIGINT.
const INTERRUPTED: u8 = 130;

/// What ended a command.
#[derive(Debug)]
pub(crate) struct CliError {
    code: u8,
    status: Option<Status>,
    message: String,
    /// What went wrong before, each to be said for itself.
    others: Vec<CliError>,
    /// Who read our output has gone.
    closed_pipe: bool,
}

impl CliError {
    fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self { code: code as u8, status: None, message: message.into(), others: Vec::new(), closed_pipe: false }
    }

    /// The command line makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(ExitCode::Usage, message)
    }

    /// A failure with no code of its own.
    pub(crate) fn failure(message: impl Into<String>) -> Self {
        Self::new(ExitCode::Failure, message)
    }

    /// Not there.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(ExitCode::NotFound, message)
    }

    /// Denied.
    pub(crate) fn denied(message: impl Into<String>) -> Self {
        Self::new(ExitCode::Denied, message)
    }

    /// Try again later, or start it first.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ExitCode::Unavailable, message)
    }

    /// A failure of this class.
    pub(crate) fn of(status: Status, message: impl Into<String>) -> Self {
        Self { status: Some(status), ..Self::new(status.exit_code(), message) }
    }

    /// The user ended it.
    pub(crate) fn interrupted() -> Self {
        Self { code: INTERRUPTED, ..Self::failure("interrupted") }
    }

    /// Some of it worked.
    pub(crate) fn partial(message: impl Into<String>) -> Self {
        Self::new(ExitCode::Partial, message)
    }

    /// The same, said behind others.
    pub(crate) fn behind(self, others: Vec<CliError>) -> Self {
        Self { others, ..self }
    }

    /// What a process exits with.
    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// The words.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Whether it only says that nobody reads our output any more.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        self.closed_pipe
    }

    /// Says it on standard error, and before it what went wrong before: each as a line, or as one JSON value.
    pub(crate) fn report(&self, json: bool) {
        self.others.iter().for_each(|other| other.report(json));
        if json {
            let status = self.status.map(|status| format!("{status:?}"));
            say!("{}", json!({ "error": { "message": self.message, "status": status, "exit_code": self.code() } }));
        } else {
            say!("citius: {}", shown(&self.message));
        }
    }
}

impl From<citius_client::Error> for CliError {
    fn from(error: citius_client::Error) -> Self {
        Self::of(error.status(), error.to_string())
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        Self { closed_pipe: error.kind() == std::io::ErrorKind::BrokenPipe, ..Self::failure(error.to_string()) }
    }
}
