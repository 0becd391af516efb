//! What a mount meets at its under-store, step by step.

use rkyv::{Archive, Deserialize, Serialize};

use crate::Status;

/// What came of one step.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy, PartialEq, Eq))]
#[repr(u8)]
pub enum StepResult {
    /// It works.
    Passed = 1,
    /// It does not.
    Failed = 2,
    /// It was not tried.
    Skipped = 3,
}

impl StepResult {
    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// One thing that was tried.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct CheckedStep {
    /// What.
    pub name: String,
    /// What came of it.
    pub result: StepResult,
    /// What was seen, or why not and what to do; may be empty.
    pub words: String,
    /// Of a failure: its class, as that of a mount that meets it.
    pub status: Option<Status>,
    /// How long it took, in microseconds.
    pub took_us: u64,
}

/// One thing that an under-store can or cannot do.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct CheckedAbility {
    /// What.
    pub name: String,
    /// How it does that.
    pub answer: String,
    /// Whether this was seen just now, and not only declared.
    pub is_seen: bool,
}

/// What a mount meets.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct MountCheckup {
    /// The URI, without secrets.
    pub uri: String,
    /// What was tried, in order.
    pub steps: Vec<CheckedStep>,
    /// What the store can do; empty if it could not be opened.
    pub abilities: Vec<CheckedAbility>,
}

impl MountCheckup {
    /// The first step that failed.
    pub fn failure(&self) -> Option<&CheckedStep> {
        self.steps.iter().find(|step| step.result == StepResult::Failed)
    }
}
