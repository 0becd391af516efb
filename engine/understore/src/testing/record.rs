//! What ran on which server. docs/under-stores.md says nothing else of it.
//!
//! Suites say what came of them; where `CITIUS_RECORD_DIR` names a folder, it is kept there, a file for each suite and
//! system. tests/page.rs makes the page of these.

use std::{env, fs, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{Outcome, Report};

/// The variable that names the folder.
pub const FOLDER_VARIABLE: &str = "CITIUS_RECORD_DIR";

/// The suites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Suite {
    /// The contract of an under-store, point by point.
    Contract,
    /// A day of a user: mount, read, write, rename, delete, crash, unmount.
    Day,
    /// Logins with every kind of credentials, each of which then wrote and read.
    Login,
}

/// What came of a suite that passed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ran {
    /// Which system, as the page calls it.
    pub system: String,
    /// Which suite.
    pub suite: Suite,
    /// On which server, with its version.
    pub server: String,
    /// How many points hold; one for a suite without points.
    pub passed: usize,
    /// Points that were not tried, with why.
    pub skipped: Vec<(String, String)>,
    /// What the store can do, if that is what the suite is about: an ability, and how.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub abilities: Vec<(String, String)>,
    /// Which credentials were used, if that is what the suite is about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<String>,
}

impl Ran {
    /// A contract that holds.
    ///
    /// # Panics
    /// If it does not.
    pub fn contract(system: &str, server: &str, report: &Report) -> Self {
        assert_eq!(report.failures().count(), 0, "{report}");
        let skipped = report.skipped().map(|point| match &point.outcome {
            Outcome::Skipped(why) => (point.name.to_owned(), (*why).to_owned()),
            _ => unreachable!("it was sifted"),
        });
        Self {
            system: system.to_owned(),
            suite: Suite::Contract,
            server: server.to_owned(),
            passed: report.passed(),
            skipped: skipped.collect(),
            abilities: report.abilities.iter().map(|it| (it.name.to_owned(), it.answer.to_string())).collect(),
            credentials: Vec::new(),
        }
    }

    /// A day that was lived.
    pub fn day(system: &str, server: &str) -> Self {
        Self::whole(system, Suite::Day, server, 1)
    }

    fn whole(system: &str, suite: Suite, server: &str, passed: usize) -> Self {
        let (system, server) = (system.to_owned(), server.to_owned());
        let (skipped, abilities, credentials) = (Vec::new(), Vec::new(), Vec::new());
        Self { system, suite, server, passed, skipped, abilities, credentials }
    }

    /// Credentials with which somebody logged in, wrote and read.
    pub fn login(system: &str, server: &str, credentials: Vec<String>) -> Self {
        let login = Self::whole(system, Suite::Login, server, credentials.len());
        Self { credentials, ..login }
    }

    /// Keeps it, where it is asked for.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn keep(&self) {
        let Some(folder) = env::var_os(FOLDER_VARIABLE).map(PathBuf::from) else { return };
        let suite = serde_json::to_value(self.suite).expect("a name");
        let file = format!("{}.{}.json", self.system, suite.as_str().expect("a name"));
        let text = serde_json::to_string_pretty(self).expect("plain data");
        fs::create_dir_all(&folder).and_then(|()| fs::write(folder.join(file), text + "\n")).expect("the record");
    }
}
