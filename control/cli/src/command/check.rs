//! `citius mount check`: what an under-store can do, and what is wrong with it.

use crate::args::{MountCheckArgs, Reach};
use crate::connect_with;
use crate::error::CliError;
use crate::output::{json_line, shown, table};
use crate::serve::mounts::{read_options, whole_uri};
use citius_client::{CheckedStep, Config, MountCheckup, StepResult};
use citius_control::check_under_store;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::time::Duration;

/// How long a master may look at an under-store, at least.
const PATIENCE: Duration = Duration::from_secs(300);

/// Looks, prints what was seen, and fails if a step did.
pub(crate) fn run(reach: &Reach, args: &MountCheckArgs) -> Result<(), CliError> {
    let checkup = if args.target.starts_with('/') { of_mount(reach, args)? } else { of_uri(args)? };
    let mut out = io::stdout().lock();
    if reach.json {
        json_line(&mut out, &to_json(&checkup))?;
    } else if !reach.quiet {
        print(&mut out, &checkup)?;
    }
    match checkup.failure() {
        None => Ok(()),
        Some(step) => {
            let words = format!("{}: {}: {}", checkup.uri, step.name, step.words);
            Err(step.status.map_or_else(|| CliError::failure(&words), |status| CliError::of(status, &words)))
        }
    }
}

/// A mount, as its master sees it.
fn of_mount(reach: &Reach, args: &MountCheckArgs) -> Result<MountCheckup, CliError> {
    if !args.options.is_empty() || args.read_only {
        return Err(CliError::usage(format!(
            "the mount {} has its options already; to try others, check its URI, or file:{} for a folder of this machine",
            args.target, args.target
        )));
    }
    let client = connect_with(reach, Config { timeout: reach.timeout.max(PATIENCE), ..Config::default() })?;
    Ok(client.mount_check(&args.target, args.write)?)
}

/// An under-store, as this machine sees it.
fn of_uri(args: &MountCheckArgs) -> Result<MountCheckup, CliError> {
    let uri = whole_uri(&args.target)?;
    let options = read_options(&args.options)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let checkup = runtime.block_on(check_under_store(&uri, &options, args.read_only, args.write));
    // A folder that gives no answer holds a thread, which nobody waits for.
    runtime.shutdown_background();
    Ok(checkup)
}

fn print(out: &mut impl Write, checkup: &MountCheckup) -> io::Result<()> {
    writeln!(out, "{}", shown(&checkup.uri))?;
    let steps =
        checkup.steps.iter().map(|step| vec![mark(step).to_owned(), step.name.clone(), time(step), words(step)]);
    write!(out, "{}", table(&["", "step", ">time", ""], steps))?;
    // What a store could do that does not work is of no use.
    if checkup.failure().is_none() {
        writeln!(out)?;
        let abilities = checkup.abilities.iter().map(|ability| {
            let known = if ability.is_seen { "seen" } else { "declared" };
            vec![shown(&ability.name), shown(&ability.answer), known.to_owned()]
        });
        write!(out, "{}", table(&["ability", "answer", "known"], abilities))?;
    }
    Ok(())
}

fn mark(step: &CheckedStep) -> &'static str {
    match step.result {
        StepResult::Passed => "ok",
        StepResult::Failed => "FAILED",
        StepResult::Skipped => "-",
    }
}

fn time(step: &CheckedStep) -> String {
    match step.result {
        StepResult::Skipped => String::new(),
        // It was seen together with the step before it.
        _ if step.took_us == 0 => String::new(),
        _ => format!("{:.1} ms", step.took_us as f64 / 1000.0),
    }
}

/// What a failure says stands in the error, once.
fn words(step: &CheckedStep) -> String {
    if step.result == StepResult::Failed { String::new() } else { shown(&step.words) }
}

fn to_json(checkup: &MountCheckup) -> Value {
    let steps: Vec<Value> = checkup
        .steps
        .iter()
        .map(|step| {
            json!({"name": step.name, "result": step.result.name(), "words": step.words, "took_us": step.took_us})
        })
        .collect();
    let abilities: Vec<Value> = checkup
        .abilities
        .iter()
        .map(|ability| json!({"name": ability.name, "answer": ability.answer, "seen": ability.is_seen}))
        .collect();
    json!({
        "uri": checkup.uri,
        "works": checkup.failure().is_none(),
        "steps": steps,
        "abilities": abilities,
    })
}
