//! A mounted folder whose file system stops answering: what it costs others, and what those are told who want it.

use crate::support::{Process, noise, poll, put};
use citius_client::Config;
use citius_understore::testing::FuseFolder;
use std::time::Duration;

/// More than the master has threads for its clients, and more than a mount may keep waiting.
const ASKING: usize = 40;

/// One shard, one master: both once waited for the server of a folder together with whoever asked for a file in it, and
/// with them everybody else.
#[test]
fn a_folder_that_does_not_answer_costs_only_its_own_requests() {
    let (far_bytes, near_bytes) = (noise(300_000, 1), noise(5 << 20, 2));
    let far = match FuseFolder::mount(&[("a", &far_bytes), ("b", &far_bytes)]) {
        Ok(far) => far,
        // The test command's own machine has it: there, not to run is to fail.
        Err(error) if !rustix::process::geteuid().is_root() && std::env::var_os("CI").is_none() => {
            println!("not run, as only root may mount a FUSE file system: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let near = tempfile::tempdir().unwrap();
    put(near.path().join("cold"), &near_bytes);
    put(near.path().join("warm"), &near_bytes);
    let mounts = [format!("/far={}", far.path().display()), format!("/near={}", near.path().display())];
    let local = Process::local(&["--mount", &mounts[0], "--mount", &mounts[1]]);
    assert!(local.run(&["cat", "/far/a"]) == far_bytes && local.run(&["cat", "/near/warm"]) == near_bytes);

    // Without maps, for which readers of a block would queue, each waiting for the folder once more.
    let client = local.client_with(Config { timeout: Duration::from_secs(60), map: false, ..Config::default() });
    let open: Vec<_> = (0..ASKING).map(|_| client.open("/far/b").unwrap()).collect();
    far.hang();
    std::thread::scope(|scope| {
        let readers: Vec<_> = open
            .iter()
            .map(|file| scope.spawn(|| file.read_at(&mut vec![0; 4096], 0).unwrap_err().to_string()))
            .collect();
        let lookers: Vec<_> =
            (0..ASKING).map(|_| scope.spawn(|| client.stat("/far/a").unwrap_err().to_string())).collect();
        poll("somebody waits for the folder", || far.keeps_someone_waiting().then_some(()).ok_or_else(String::new));

        assert_eq!(local.text(&["ls", "/near"]), "cold\nwarm\n");
        assert!(local.run(&["cat", "/near/warm"]) == near_bytes);
        assert!(local.run(&["cat", "/near/cold"]) == near_bytes, "what is not cached comes through the same shard");
        local.run(&["mv", "/near/cold", "/near/moved"]);
        local.run(&["cp", "/near/moved", "/near/copied"]);
        assert!(std::fs::read(near.path().join("copied")).unwrap() == near_bytes);
        local.run(&["cluster"]);
        assert!(far.keeps_someone_waiting());

        for asked in readers.into_iter().chain(lookers) {
            let said = asked.join().unwrap();
            let folder = format!("file://{}/", far.path().display());
            assert!(said.contains("/far/") || said.contains(&folder), "{said}");
            assert!(said.contains("no answer came from"), "{said}");
        }
    });
    let said = local.fails(5, &["stat", "/far/a"]);
    assert!(said.contains("/far/a") && said.contains(&format!("{}/a", far.path().display())), "{said}");
    assert!(said.contains("see whether the server of this file system is up"), "{said}");
    local.fails(5, &["ls", "/far"]);

    far.answer();
    poll("the folder is read again", || {
        let output = local.try_run(&["cat", "/far/b"]);
        (output.stdout == far_bytes).then_some(()).ok_or_else(|| String::from_utf8_lossy(&output.stderr).into_owned())
    });
}
