//! What a mount meets at its under-store, for the person who asks.

use citius_understore::{Diagnosis, Known, MountSpec, Outcome, Probe, diagnose, diagnose_open};
use citius_wire::{CheckedAbility, CheckedStep, Failure, MountCheckup, NamespacePath, SecretText, Status, StepResult};

use super::Service;
use super::failure::status_of_mount;
use super::mounts::store_spec;

/// Looks at an under-store as a mount of it would. Needs no master; must be called inside a tokio runtime.
pub async fn check_under_store(
    uri: &str,
    options: &[(String, SecretText)],
    read_only: bool,
    may_write: bool,
) -> MountCheckup {
    let spec: MountSpec = store_spec(uri, options, read_only);
    told(diagnose(&spec, probe(may_write)).await)
}

impl Service {
    /// Looks at the under-store of a mount.
    pub(super) async fn check_mount(&self, path: &NamespacePath, may_write: bool) -> Result<MountCheckup, Failure> {
        let not_a_mount = || {
            let words =
                format!("{path} is not a mount: see them with `citius mount ls`, or check an under-store by its URI");
            Failure::new(Status::NotFound, words)
        };
        let mounted = self.mount_at(path).and_then(|id| self.mounts.get(id)).ok_or_else(not_a_mount)?;
        let diagnosis = match mounted.open() {
            Some(store) => diagnose_open(store, mounted.read_only, probe(may_write)).await,
            // Why it does not open is what is asked.
            None => diagnose(mounted.spec(), probe(may_write)).await,
        };
        Ok(told(diagnosis))
    }
}

fn probe(may_write: bool) -> Probe {
    if may_write { Probe::Write } else { Probe::Read }
}

fn told(diagnosis: Diagnosis) -> MountCheckup {
    let steps = diagnosis.steps.into_iter().map(|step| {
        let (result, words, status) = match step.outcome {
            Outcome::Passed(words) => (StepResult::Passed, words, None),
            Outcome::Failed(words, class) => (StepResult::Failed, words, Some(status_of_mount(class))),
            Outcome::Skipped(words) => (StepResult::Skipped, words, None),
        };
        CheckedStep { name: step.name.to_owned(), result, words, status, took_us: step.took.as_micros() as u64 }
    });
    let abilities = diagnosis.abilities.into_iter().map(|ability| CheckedAbility {
        name: ability.name.to_owned(),
        answer: ability.answer.into_owned(),
        is_seen: ability.known == Known::Seen,
    });
    MountCheckup { uri: diagnosis.uri, steps: steps.collect(), abilities: abilities.collect() }
}
