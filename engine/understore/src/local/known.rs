//! The complete names of directories that do not change, so that of most new names it is known that nothing is there.
//!
//! A kernel's look at a missing name takes ten times as long as one at an open directory's times (2.7 us against 0.27
//! on ext4, Linux 6.18), and a batch of creates is as many missing names. So a directory's times are looked at for each
//! name, and only if they are not those under which its names were read, or the name is one of these, is the name
//! looked at itself. The times are asked for anew each time, so an answer is as of now, as any other look.
//!
//! What is relied on, and where it would not hold:
//! - *Whoever makes, removes or renames an entry changes the directory's ctime before anybody can see the change, and
//!   under the lock that reading its names takes.* So it is where the kernel of this machine makes every change itself:
//!   see `near.rs`. Only the file system of the mount's root is trusted, which is asked once.
//! - *A later change has a later ctime.* File systems stamp with the kernel's coarse clock, which stands still for a tick
//!   of up to 10 ms. So names are read only once that same clock is [`SETTLED_NS`] past the ctime: whatever changes the
//!   directory after that is stamped later. A ctime in the future is never trusted, nor one of whole seconds, as
//!   ext2 and ext4 with small inodes have.
//! - *What is not among the names is not there.* Not in a directory that folds case, where a name answers to others;
//!   so all names must be plain ASCII, no name may answer to its other case, and only plain ASCII names are told to be
//!   missing. Not in an encrypted one either, which has other names without its key.
//!
//! Names are read by who asks for the [`QUESTIONS_MIN`]th name under one ctime: reading costs as much as some looks.
//! Memory: names of [`DIRECTORIES_MAX`] directories, of [`NAMES_MAX`] names each, for each mount.

use std::{
    collections::HashSet,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    sync::OnceLock,
};

use parking_lot::Mutex;
use rustix::{
    fs::{self, AtFlags, Mode, OFlags, RawDir, StatxAttributes, StatxFlags},
    io::Errno,
    time::{ClockId, Timespec, clock_gettime},
};

use super::{near::is_kept_by_this_kernel, root::BENEATH};

/// Directories of one mount; the one longest not asked about goes.
const DIRECTORIES_MAX: usize = 64;
/// Names of one directory; those of a larger one are never known.
const NAMES_MAX: usize = 1024;
/// Names asked for under one ctime before all names are read.
const QUESTIONS_MIN: u32 = 64;
/// What the clock must be past a ctime: two ticks of the coarsest kernel. That it ticked at all would do.
const SETTLED_NS: i128 = 20_000_000;
const READ_BUFFER_BYTES: usize = 8 << 10;

/// Names of directories of one mount.
#[derive(Debug)]
pub(super) struct KnownNames {
    /// The device of the mount's root, if its file system is one to be trusted; asked for when a directory is first
    /// opened.
    device: OnceLock<Option<u64>>,
    /// The one asked about last comes first.
    directories: Mutex<Vec<Directory>>,
    questions_min: u32,
    settled_ns: i128,
}

/// A directory between two changes of its names: another version may have others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    mtime: (i64, u64),
    ctime: (i64, u64),
}

#[derive(Debug)]
struct Directory {
    version: Version,
    names: Names,
}

/// What is known of the names of one version.
#[derive(Debug)]
enum Names {
    /// Nothing yet; so many were asked for.
    Unread(u32),
    /// They are being read, or cannot be relied on, or are too many.
    Unknown,
    /// All of them.
    All(HashSet<Box<[u8]>>),
}

impl Default for KnownNames {
    fn default() -> Self {
        Self::reading_after(QUESTIONS_MIN, SETTLED_NS)
    }
}

impl KnownNames {
    /// Reads names at the `questions_min`th question, if the clock is `settled_ns` past the directory's ctime.
    fn reading_after(questions_min: u32, settled_ns: i128) -> Self {
        assert!(settled_ns > 0, "a change within the tick of the ctime would not be seen");
        Self { device: OnceLock::new(), directories: Mutex::default(), questions_min, settled_ns }
    }

    /// Whether anything can ever be known of an open directory below this root; [`Self::lack`] must not be called of
    /// other directories.
    pub(super) fn may_know(&self, root: &OwnedFd, dir: &OwnedFd) -> bool {
        let device = self.device.get_or_init(|| {
            let is_kept = fs::fstatfs(root).is_ok_and(|statfs| is_kept_by_this_kernel(statfs.f_type));
            is_kept.then(|| fs::fstat(root).ok()).flatten().map(|stat| stat.st_dev)
        });
        device.is_some_and(|device| fs::fstat(dir).is_ok_and(|stat| stat.st_dev == device))
    }

    /// Whether it is known that nothing has this name in an open directory, at this moment.
    pub(super) fn lack(&self, dir: &OwnedFd, name: &str) -> bool {
        let Some(version) = Version::of(dir).filter(|_| name.is_ascii()) else { return false };
        {
            let mut directories = self.directories.lock();
            let Directory { names, .. } = entry(&mut directories, version);
            match names {
                Names::All(all) => return !all.contains(name.as_bytes()),
                Names::Unknown => return false,
                Names::Unread(questions) => {
                    *questions = questions.saturating_add(1);
                    if *questions < self.questions_min || !version.is_settled(self.settled_ns) {
                        return false;
                    }
                    // Others need not read them too, nor wait for it.
                    *names = Names::Unknown;
                }
            }
        }
        let Some(all) = read(dir, version) else { return false };
        let is_missing = !all.contains(name.as_bytes());
        let mut directories = self.directories.lock();
        if let Some(directory) = directories.iter_mut().find(|directory| directory.version == version) {
            directory.names = Names::All(all);
        }
        is_missing
    }
}

/// What is known of a version, in front of the others; an older one of the same directory is forgotten.
fn entry(directories: &mut Vec<Directory>, version: Version) -> &mut Directory {
    let unread = Directory { version, names: Names::Unread(0) };
    match directories.iter().position(|directory| directory.version.is_of_same(&version)) {
        Some(at) => {
            directories[..=at].rotate_right(1);
            if directories[0].version != version {
                directories[0] = unread;
            }
        }
        None => {
            directories.truncate(DIRECTORIES_MAX - 1);
            directories.insert(0, unread);
        }
    }
    &mut directories[0]
}

impl Version {
    fn of(dir: impl AsFd) -> Option<Self> {
        let stat = fs::fstat(dir).ok()?;
        Some(Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
        })
    }

    fn is_of_same(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// Whether any change from now on makes another version.
    fn is_settled(&self, settled_ns: i128) -> bool {
        let ns = |s: i64, ns: i128| i128::from(s) * 1_000_000_000 + ns;
        let (seconds, nanoseconds) = self.ctime;
        // The clock that file systems take their times from, not a finer one.
        let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::RealtimeCoarse);
        nanoseconds != 0 && ns(tv_sec, tv_nsec.into()) - ns(seconds, nanoseconds.into()) >= settled_ns
    }
}

/// All names of a version that is settled; `None` if they are too many, cannot be relied on, or are another version's.
fn read(dir: &OwnedFd, version: Version) -> Option<HashSet<Box<[u8]>>> {
    // What is only a place cannot be read; `.` is the same directory, whatever is mounted or renamed meanwhile.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let list = fs::openat2(dir, ".", flags, Mode::empty(), BENEATH).ok()?;
    let statx = fs::statx(&list, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).ok()?;
    if statx.stx_attributes.contains(StatxAttributes::ENCRYPTED) {
        return None;
    }
    let mut names = HashSet::new();
    let mut buffer = [MaybeUninit::uninit(); READ_BUFFER_BYTES];
    let mut entries = RawDir::new(&list, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.ok()?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        if !name.is_ascii() || names.len() >= NAMES_MAX {
            return None;
        }
        names.insert(name.into());
    }
    (!folds_case(&list, &names) && Version::of(&list)? == version).then_some(names)
}

/// Whether a name answers to its other case. One is enough to tell, if it has another case that is no name itself.
fn folds_case(dir: &OwnedFd, names: &HashSet<Box<[u8]>>) -> bool {
    let mut others = names.iter().map(|name| name.iter().copied().map(other_case).collect::<Vec<u8>>());
    others.find(|other| !names.contains(other.as_slice())).is_some_and(|other| {
        fs::statat(dir, other.as_slice(), AtFlags::SYMLINK_NOFOLLOW).map(drop) != Err(Errno::NOENT)
    })
}

fn other_case(byte: u8) -> u8 {
    if byte.is_ascii_alphabetic() { byte ^ 0x20 } else { byte }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        os::unix::fs::symlink,
        path::Path,
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    /// As soon as the clock ticks after a change.
    const NEXT_TICK_NS: i128 = 1;
    const TICK: Duration = Duration::from_millis(10);

    fn folder() -> (TempDir, OwnedFd) {
        let folder = tempfile::tempdir().unwrap();
        let fd = open(folder.path());
        (folder, fd)
    }

    fn open(folder: &Path) -> OwnedFd {
        fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    fn is_there(dir: &OwnedFd, name: &str) -> bool {
        fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Whether a missing name becomes known to be missing, given some ticks of the clock.
    fn comes_to_know(known: &KnownNames, dir: &OwnedFd, missing: &str) -> bool {
        assert!(!is_there(dir, missing));
        (0..4).any(|_| {
            std::thread::sleep(TICK);
            known.lack(dir, missing)
        })
    }

    #[derive(Debug, Clone)]
    enum Step {
        Make(usize),
        MakeDirectory(usize),
        Link(usize, usize),
        LinkHard(usize, usize),
        Rename(usize, usize),
        MoveOut(usize),
        MoveIn(usize),
        Remove(usize),
        Rest,
    }

    const NAMES: [&str; 8] = ["a", "A", "b", "1", "part-000001", "PART-000001", "new", "ü"];

    fn any_step() -> impl Strategy<Value = Step> {
        let name = || 0..NAMES.len();
        prop_oneof![
            3 => name().prop_map(Step::Make),
            1 => name().prop_map(Step::MakeDirectory),
            1 => (name(), name()).prop_map(|(name, to)| Step::Link(name, to)),
            1 => (name(), name()).prop_map(|(name, to)| Step::LinkHard(name, to)),
            2 => (name(), name()).prop_map(|(from, to)| Step::Rename(from, to)),
            1 => name().prop_map(Step::MoveOut),
            1 => name().prop_map(Step::MoveIn),
            3 => name().prop_map(Step::Remove),
            2 => Just(Step::Rest),
        ]
    }

    /// Does a step as any program would; what cannot be done leaves everything as it is.
    fn take(step: &Step, folder: &Path, outside: &Path) {
        let at = |name: &usize| folder.join(NAMES[*name]);
        let out = |name: &usize| outside.join(NAMES[*name]);
        let _ = match step {
            Step::Make(name) => File::create_new(at(name)).map(drop),
            Step::MakeDirectory(name) => std::fs::create_dir(at(name)),
            Step::Link(name, to) => symlink(NAMES[*to], at(name)),
            Step::LinkHard(name, to) => std::fs::hard_link(at(to), at(name)),
            Step::Rename(from, to) => std::fs::rename(at(from), at(to)),
            Step::MoveOut(name) => std::fs::rename(at(name), out(name)),
            Step::MoveIn(name) => std::fs::rename(out(name), at(name)),
            Step::Remove(name) => std::fs::remove_file(at(name)).or_else(|_| std::fs::remove_dir(at(name))),
            Step::Rest => {
                std::thread::sleep(TICK);
                Ok(())
            }
        };
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// The naive twin is a look at each name. Names are read at the first question after each tick, and there are
        /// questions right before and after each change, in two directories that move names to each other.
        #[test]
        fn what_is_known_to_be_missing_is_missing(steps in prop::collection::vec((any_step(), any::<bool>()), 1..24)) {
            let folders = [folder(), folder()];
            let known = KnownNames::reading_after(1, NEXT_TICK_NS);
            for (step, is_second) in steps {
                let (here, there) = (usize::from(is_second), usize::from(!is_second));
                take(&step, folders[here].0.path(), folders[there].0.path());
                for (folder, dir) in &folders {
                    for name in NAMES {
                        let lacks = known.lack(dir, name);
                        prop_assert!(!(lacks && is_there(dir, name)), "{name} in {folder:?} after {step:?}");
                    }
                }
                if matches!(step, Step::Rest) {
                    for (_, dir) in folders.iter().filter(|(_, dir)| !is_there(dir, "ü")) {
                        let missing = NAMES.iter().find(|name| name.is_ascii() && !is_there(dir, name));
                        prop_assert!(missing.is_none_or(|name| comes_to_know(&known, dir, name)), "{missing:?}");
                    }
                }
            }
        }
    }

    /// Another thread makes names and says so; from that moment on none of them may be missing, and one that it has not
    /// thought of is. It rests now and then, that names may be read in the middle of its work.
    #[test]
    fn a_name_that_was_made_is_not_missing() {
        const NAMES_MADE: usize = 2_000;
        const NAMES_APART: usize = 500;
        let (folder, dir) = folder();
        let known = KnownNames::reading_after(1, NEXT_TICK_NS);
        let made = AtomicUsize::new(0);
        let name = |number: usize| format!("part-{:03}", number % NAMES_APART);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..NAMES_MADE {
                    let path = folder.path().join(name(number));
                    File::create_new(&path).unwrap();
                    made.store(number + 1, Ordering::Release);
                    if number % 50 == 0 {
                        std::thread::sleep(TICK);
                    }
                    made.store(0, Ordering::Release);
                    std::fs::remove_file(path).unwrap();
                }
                made.store(usize::MAX, Ordering::Release);
            });
            let mut lacked = 0;
            loop {
                match made.load(Ordering::Acquire) {
                    usize::MAX => break,
                    0 => {}
                    number => {
                        let is_missing = known.lack(&dir, &name(number - 1));
                        // It may be removed by now, as was said before that.
                        let is_still_made = made.load(Ordering::Acquire) == number;
                        assert!(!(is_missing && is_still_made), "{}", name(number - 1));
                    }
                }
                lacked += usize::from(known.lack(&dir, "nobody's"));
            }
            assert!(lacked > 0, "nothing was ever known");
        });
    }

    #[test]
    fn a_change_is_seen_at_once() {
        let (folder, dir) = folder();
        let known = KnownNames::default();
        std::thread::sleep(Duration::from_nanos(SETTLED_NS as u64) + TICK);
        for _ in 1..QUESTIONS_MIN {
            assert!(!known.lack(&dir, "x"), "before it is worth while");
        }
        assert!(known.lack(&dir, "x") && known.lack(&dir, "y"));
        File::create_new(folder.path().join("x")).unwrap();
        assert!(!known.lack(&dir, "x") && !known.lack(&dir, "y"));
        std::fs::remove_file(folder.path().join("x")).unwrap();
        assert!(!known.lack(&dir, "x"), "of this version nothing is known yet");
    }

    /// What is read while the directory changes may miss names that were there all the time.
    #[test]
    fn names_are_those_of_the_version_or_none() {
        let (folder, dir) = folder();
        let before = Version::of(&dir).unwrap();
        assert_eq!(read(&dir, before), Some(HashSet::new()));
        std::thread::sleep(TICK);
        File::create_new(folder.path().join("x")).unwrap();
        assert_eq!(read(&dir, before), None);
        assert_eq!(read(&dir, Version::of(&dir).unwrap()), Some(HashSet::from([Box::from(*b"x")])));
    }

    /// A change in the same tick as the last one has the same ctime, on kernels before 6.13.
    #[test]
    fn names_of_a_directory_that_just_changed_are_not_read() {
        let (_folder, dir) = folder();
        let known = KnownNames::reading_after(1, i128::from(u32::MAX) * 1_000_000_000);
        assert!(!comes_to_know(&known, &dir, "x"));
        let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::RealtimeCoarse);
        let at = |seconds: i64, nanoseconds: u64| Version {
            ctime: (tv_sec + seconds, nanoseconds),
            ..Version::of(&dir).unwrap()
        };
        assert!(at(-1, (tv_nsec as u64).max(1)).is_settled(SETTLED_NS));
        assert!(!at(1, 1).is_settled(SETTLED_NS) && !at(1, 1).is_settled(NEXT_TICK_NS), "in the future");
        assert!(!at(-1000, 0).is_settled(SETTLED_NS), "whole seconds: a later change may have the same");
    }

    #[test]
    fn no_more_names_are_kept_than_may() {
        let (folder, dir) = folder();
        for number in 0..NAMES_MAX {
            File::create_new(folder.path().join(format!("{number:0200}"))).unwrap();
        }
        let known = KnownNames::reading_after(1, NEXT_TICK_NS);
        assert!(comes_to_know(&known, &dir, "x"));
        assert!((0..NAMES_MAX).all(|number| !known.lack(&dir, &format!("{number:0200}"))));
        File::create_new(folder.path().join("one too many")).unwrap();
        assert!(!comes_to_know(&known, &dir, "x"));
    }

    #[test]
    fn no_more_directories_are_kept_than_may() {
        let (folder, _) = folder();
        let dirs: Vec<OwnedFd> = (0..=DIRECTORIES_MAX)
            .map(|number| {
                let path = folder.path().join(number.to_string());
                std::fs::create_dir(&path).unwrap();
                open(&path)
            })
            .collect();
        let known = KnownNames::reading_after(1, NEXT_TICK_NS);
        let (last, others) = dirs.split_last().unwrap();
        std::thread::sleep(4 * TICK);
        assert!(others.iter().all(|dir| known.lack(dir, "x")));
        // The first is asked about again, so the second is the one to go.
        assert!(known.lack(&dirs[0], "x") && known.lack(last, "x"));
        let inodes: HashSet<u64> = known.directories.lock().iter().map(|directory| directory.version.inode).collect();
        let is_kept = |dir: &OwnedFd| inodes.contains(&Version::of(dir).unwrap().inode);
        assert_eq!(inodes.len(), DIRECTORIES_MAX);
        assert!(is_kept(&dirs[0]) && !is_kept(&dirs[1]) && is_kept(&dirs[2]) && is_kept(last));
    }

    /// Another name may be the same one where case is folded, and in more ways than ASCII has.
    #[test]
    fn where_case_may_be_folded_nothing_is_known() {
        let (folder, dir) = folder();
        let known = KnownNames::reading_after(1, NEXT_TICK_NS);
        assert!(comes_to_know(&known, &dir, "x") && !known.lack(&dir, "ü"));
        for name in ["a", "A", "b", "1"] {
            File::create_new(folder.path().join(name)).unwrap();
        }
        let folds = |names: &[&str]| {
            let names: HashSet<Box<[u8]>> = names.iter().map(|name| name.as_bytes().into()).collect();
            folds_case(&dir, &names)
        };
        assert!(!folds(&["1", "b"]) && !folds(&["a", "A"]) && !folds(&["1"]) && !folds(&[]));
        // As if `A` were no name but what `a` answers to.
        assert!(folds(&["a"]) && folds(&["a", "1"]));
        assert!(comes_to_know(&known, &dir, "x"));
        File::create_new(folder.path().join("ü")).unwrap();
        assert!(!comes_to_know(&known, &dir, "x"));
    }

    #[test]
    fn other_file_systems_are_not_trusted() {
        let (_folder, dir) = folder();
        let proc = open(Path::new("/proc"));
        assert!(!KnownNames::default().may_know(&proc, &proc), "no file system of its kind");
        assert!(!KnownNames::default().may_know(&dir, &proc), "another than the root's");
    }
}
