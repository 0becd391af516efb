//! Tests in a process of their own, for what a process reads from its environment when it begins.

use std::{
    env,
    ffi::OsStr,
    process::{Command, Stdio},
};

/// Says to a process which of its tests it runs.
const MARK: &str = "CITIUS_TEST_ALONE";

/// Whether this is the process that [`run_alone`] started for this test.
pub fn is_alone(test: &str) -> bool {
    env::var_os(MARK).is_some_and(|marked| marked == OsStr::new(test))
}

/// Runs a test of this program again, by its full name, in a process that begins with these variables.
///
/// # Panics
/// If it fails there, or is no test; with all that it said.
pub fn run_alone<V: AsRef<OsStr>>(test: &str, variables: &[(&str, V)]) {
    assert!(!is_alone(test), "it is alone already");
    let output = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .env(MARK, test)
        .stdin(Stdio::null())
        .output()
        .expect("this program again");
    let said = String::from_utf8_lossy(&output.stdout);
    // What a test says is read as that of this process: without a second count of those that passed.
    let said: Vec<_> = said.lines().filter(|line| !line.starts_with("test result: ")).collect();
    let passed = output.status.success() && said.contains(&"running 1 test");
    let (said, complaints) = (said.join("\n"), String::from_utf8_lossy(&output.stderr));
    assert!(passed, "{test} failed in a process of its own ({}):\n{said}\n{complaints}", output.status);
}
