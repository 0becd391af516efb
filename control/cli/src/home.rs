//! The home: the folder with all state of one cluster's process on this machine.
//!
//! ```text
//! <home>/            0700
//!   version          the format of what is below
//!   lock             held (flock) by the process that runs here; its process id
//!   token      0600  what lets clients in
//!   worker           the id of the worker that lives here
//!   endpoint         HOST:PORT of the master, written when it is ready, removed at a clean end
//!   raft/  root/     the log, the folder behind /
//!   passing-*/       the same of an ephemeral run; removed at its end, or at the next start
//! ```
//!
//! An ephemeral run removes at its end what it made here, and the folder if it made that: it leaves the home as it found it.

use crate::error::CliError;
use citius_client::Token;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The format of a home. A home of another one is refused, never rewritten.
const VERSION: &str = "citius home 1";
const PASSING_PREFIX: &str = "passing-";
/// Files that a run makes in a home that has none. The lock is last: until it goes, nobody else gets in.
const FILES: [&str; 4] = ["token", "worker", "version", "lock"];
/// How often the lock is taken anew because its last holder removed it.
const LOCK_ATTEMPTS_MAX: usize = 16;

/// A home that this process holds.
pub(crate) struct Home {
    dir: PathBuf,
    /// Where the log and the root folder are: the home itself, or a passing folder in it.
    state: PathBuf,
    /// Of an ephemeral run: what to undo at its end.
    passing: Option<Passing>,
    _lock: File,
}

/// What an ephemeral run did to its home.
struct Passing {
    /// Files that were not there.
    made: Vec<PathBuf>,
    /// The mode that the folder had; `None` if there was no folder.
    mode: Option<u32>,
}

/// The home unless told otherwise.
pub(crate) fn default_dir() -> Result<PathBuf, CliError> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_DATA_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("citius"))
        .ok_or_else(|| CliError::usage("there is no default home, because HOME is not set: pass --home DIR"))
}

impl Home {
    /// Makes the home if there is none, checks its version, and locks it.
    pub(crate) fn hold(dir: &Path, ephemeral: bool) -> Result<Self, CliError> {
        let trouble = |what: &str, path: &Path, error: &std::io::Error| {
            CliError::failure(format!("cannot {what} {}: {error}. Choose another home with --home DIR", path.display()))
        };
        let mode = fs::metadata(dir).ok().map(|metadata| metadata.permissions().mode() & 0o7777);
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| trouble("make", dir, &error))?;
        let dir = fs::canonicalize(dir).map_err(|error| trouble("find", dir, &error))?;
        fs::set_permissions(&dir, Permissions::from_mode(0o700)).map_err(|error| trouble("close", &dir, &error))?;
        let made = FILES.map(|name| dir.join(name)).into_iter().filter(|path| !path.exists()).collect();
        let passing = ephemeral.then_some(Passing { made, mode });

        let lock_path = dir.join("lock");
        let mut lock = lock_of(&lock_path).map_err(|error| trouble("open", &lock_path, &error))?.ok_or_else(|| {
            let holder = fs::read_to_string(&lock_path).unwrap_or_default();
            CliError::unavailable(format!(
                "the home {} is in use by process {}. Stop that one, or choose another home with --home DIR",
                dir.display(),
                holder.trim()
            ))
        })?;
        check_version(&dir)?;
        // The endpoint of one that was killed goes before our id shows, so that who sees both sees ours.
        remove_if_there(&dir.join("endpoint")).map_err(|error| trouble("clear", &dir, &error))?;
        lock.set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(|error| trouble("write", &lock_path, &error))?;
        for entry in fs::read_dir(&dir).map_err(|error| trouble("list", &dir, &error))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(PASSING_PREFIX) {
                // Left by an ephemeral run that was killed.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let state = if ephemeral {
            let state = dir.join(format!("{PASSING_PREFIX}{}", std::process::id()));
            DirBuilder::new().mode(0o700).create(&state).map_err(|error| trouble("make", &state, &error))?;
            state
        } else {
            dir.clone()
        };
        Ok(Self { dir, state, passing, _lock: lock })
    }

    /// The folder itself.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where log and root folder go.
    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// The token, made at the first start.
    pub(crate) fn token(&self) -> Result<Token, CliError> {
        let path = self.dir.join("token");
        match fs::read_to_string(&path) {
            Ok(text) => read_token(&path, &text),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let mut bytes = [0; 32];
                getrandom::fill(&mut bytes).map_err(|error| {
                    CliError::failure(format!("the system gives no random bytes for a token: {error}"))
                })?;
                let token = Token(bytes);
                write_whole(&path, &format!("{}\n", token.to_hex()), 0o600)?;
                Ok(token)
            }
            Err(error) => Err(CliError::failure(format!("cannot read {}: {error}", path.display()))),
        }
    }

    /// The id of the worker that lives here, made at its first start and kept: its place among the blocks follows it.
    pub(crate) fn worker_id(&self) -> Result<u64, CliError> {
        let path = self.dir.join("worker");
        match fs::read_to_string(&path) {
            Ok(text) => u64::from_str_radix(text.trim(), 16)
                .map_err(|_| CliError::failure(format!("{} holds no worker id: remove it", path.display()))),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let id = getrandom::u64().map_err(|error| {
                    CliError::failure(format!("the system gives no random bytes for a worker id: {error}"))
                })?;
                write_whole(&path, &format!("{id:016x}\n"), 0o600)?;
                Ok(id)
            }
            Err(error) => Err(CliError::failure(format!("cannot read {}: {error}", path.display()))),
        }
    }

    /// Tells clients where the master is: it is ready.
    pub(crate) fn announce(&self, endpoint: &str) -> Result<(), CliError> {
        write_whole(&self.dir.join("endpoint"), &format!("{endpoint}\n"), 0o600)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.dir.join("endpoint"));
        let Some(passing) = &self.passing else { return };
        let _ = fs::remove_dir_all(&self.state);
        for path in &passing.made {
            let _ = fs::remove_file(path);
        }
        let _ = match passing.mode {
            Some(mode) => fs::set_permissions(&self.dir, Permissions::from_mode(mode)),
            // Something else that came to lie in it stays.
            None => fs::remove_dir(&self.dir),
        };
    }
}

/// Opens and locks the lock file; `None` if another process holds it.
fn lock_of(path: &Path) -> std::io::Result<Option<File>> {
    for _ in 0..LOCK_ATTEMPTS_MAX {
        let lock = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        // An ephemeral run that ended meanwhile took the file away, and its lock is nobody's.
        let ours = lock.metadata()?;
        if fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (ours.dev(), ours.ino())) {
            return Ok(Some(lock));
        }
    }
    Ok(None)
}

/// Reads a token file.
pub(crate) fn read_token(path: &Path, text: &str) -> Result<Token, CliError> {
    Token::from_hex(text).ok_or_else(|| {
        CliError::denied(format!(
            "{} holds no token: it should be 64 hexadecimal digits, as in the file token of the master's home",
            path.display()
        ))
    })
}

fn check_version(dir: &Path) -> Result<(), CliError> {
    let path = dir.join("version");
    match fs::read_to_string(&path) {
        Ok(text) if text.trim() == VERSION => Ok(()),
        Ok(text) => Err(CliError::failure(format!(
            "{} is of {:?}, and this release reads {VERSION:?}. Run the release that made it, or choose another home \
             with --home DIR",
            dir.display(),
            text.trim()
        ))),
        Err(error) if error.kind() == ErrorKind::NotFound => write_whole(&path, &format!("{VERSION}\n"), 0o600),
        Err(error) => Err(CliError::failure(format!("cannot read {}: {error}", path.display()))),
    }
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes a small file so that it is there whole or not at all, also after a crash.
fn write_whole(path: &Path, text: &str, mode: u32) -> Result<(), CliError> {
    let next = path.with_extension("next");
    let write = || {
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(mode).open(&next)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&next, path)
    };
    write().map_err(|error| CliError::failure(format!("cannot write {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_held_by_one_and_closed_to_others() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("h");
        let home = Home::hold(&dir, false).unwrap();
        let token = home.token().unwrap();
        assert!(home.token().unwrap().matches(&token));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join("token"))), (0o700, 0o600));
        let second = Home::hold(&dir, false).err().unwrap();
        assert!(second.message().contains(&format!("process {}", std::process::id())), "{}", second.message());
        drop(home);
        assert!(Home::hold(&dir, false).unwrap().token().unwrap().matches(&token));
    }

    #[test]
    fn a_home_of_another_version_is_refused_untouched() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("version"), "citius home 99\n").unwrap();
        let error = Home::hold(temp.path(), false).err().unwrap();
        assert!(error.message().contains("citius home 99"), "{}", error.message());
        assert_eq!(fs::read_to_string(temp.path().join("version")).unwrap(), "citius home 99\n");
    }

    #[test]
    fn an_ephemeral_state_goes_at_the_end_and_after_a_kill() {
        let temp = tempfile::tempdir().unwrap();
        let dead = temp.path().join("passing-1");
        fs::create_dir(&dead).unwrap();
        let home = Home::hold(temp.path(), true).unwrap();
        assert!(!dead.exists());
        let state = home.state().to_owned();
        assert!(state.exists() && state != home.dir());
        drop(home);
        assert!(!state.exists());
    }

    /// `--ephemeral --home DIR` left lock, token and version behind, so that the folder was a home ever after.
    #[test]
    fn an_ephemeral_run_leaves_a_home_as_it_found_it() {
        let names = |dir: &Path| {
            let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let run = |dir: &Path| {
            let home = Home::hold(dir, true).unwrap();
            home.token().unwrap();
            home.worker_id().unwrap();
            home.announce("127.0.0.1:1").unwrap();
            assert!(Home::hold(dir, false).is_err(), "it is locked");
        };
        let temp = tempfile::tempdir().unwrap();
        let new = temp.path().join("new");
        run(&new);
        assert!(!new.exists());

        let folder = temp.path().join("folder");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.join("mine"), "").unwrap();
        run(&folder);
        assert_eq!(names(&folder), ["mine"]);
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o755);

        let kept = temp.path().join("kept");
        let token = Home::hold(&kept, false).unwrap().token().unwrap();
        let before = names(&kept);
        run(&kept);
        assert_eq!(names(&kept).len(), before.len());
        assert!(Home::hold(&kept, false).unwrap().token().unwrap().matches(&token));
    }

    #[test]
    fn a_lock_that_its_holder_took_away_keeps_nobody_out_and_lets_one_in() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("lock");
        let first = lock_of(&path).unwrap().unwrap();
        assert!(lock_of(&path).unwrap().is_none());
        fs::remove_file(&path).unwrap();
        let second = lock_of(&path).unwrap().unwrap();
        assert!(lock_of(&path).unwrap().is_none());
        drop((first, second));
        assert!(lock_of(&path).unwrap().is_some());
    }

    #[test]
    fn a_damaged_token_file_is_named() {
        let error = read_token(Path::new("t"), "abc").unwrap_err();
        assert!(error.message().contains("64 hexadecimal digits"));
    }
}
