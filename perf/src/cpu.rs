//! Pinning, and the CPU time of a process.

#![allow(unsafe_code)]

use anyhow::{Context as _, Result};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

/// Which core the server runs on, and which the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cores {
    /// Index of the server's.
    pub(crate) server: usize,
    /// Index of the client's; the same where there is only one.
    pub(crate) client: usize,
}

impl Cores {
    /// The first and the last of those that this process may use: the two least likely to be threads of one core.
    pub(crate) fn choose() -> Result<Self> {
        let allowed = sched_getaffinity(None).context("asking which cores may be used")?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core));
        let server = cores.next().context("no core may be used")?;
        Ok(Self { server, client: cores.next_back().unwrap_or(server) })
    }
}

/// Keeps the calling thread, and those that it starts from now on, on one core.
pub(crate) fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).with_context(|| format!("pinning to core {core}"))
}

/// Lets the calling thread, and those that it starts from now on, run on both cores.
pub(crate) fn unpin(cores: Cores) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cores.server);
    set.set(cores.client);
    sched_setaffinity(None, &set).context("unpinning")
}

/// Has the process of a command stay on one core, as a whole, and end when the thread that starts it does.
pub(crate) fn confine(command: &mut Command, core: usize) {
    let confined = move || {
        let mut set = CpuSet::new();
        set.set(core);
        sched_setaffinity(None, &set)?;
        set_parent_process_death_signal(Some(Signal::TERM))?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes two system calls, and allocates and locks nothing.
    unsafe { command.pre_exec(confined) };
}

/// CPU time that all threads of a process used so far, those that ended included, in nanoseconds' resolution: the
/// times in /proc come in ticks of 10 ms.
pub(crate) fn process_time(process: u32) -> Result<Duration> {
    let mut clock = 0;
    // SAFETY: the call writes one clock id to the place that it is given.
    let code = unsafe { libc::clock_getcpuclockid(process as libc::pid_t, &raw mut clock) };
    if code != 0 {
        return Err(std::io::Error::from_raw_os_error(code)).context("finding the CPU clock of a process");
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec to the place that it is given.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(std::io::Error::last_os_error()).context("reading the CPU clock of a process");
    }
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// CPU time of the commands that this process ran, and that are over.
fn commands_time() -> Result<Duration> {
    // SAFETY: every field is a number, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the call writes one rusage to the place that it is given.
    if unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) } != 0 {
        return Err(std::io::Error::last_os_error()).context("reading the CPU time of commands");
    }
    let time = |it: libc::timeval| Duration::new(it.tv_sec as u64, 1000 * it.tv_usec as u32);
    Ok(time(usage.ru_utime) + time(usage.ru_stime))
}

/// Takes the time of a piece of work, and the CPU time of all that do it for its client: this process, the commands that it runs
/// meanwhile, and a server of its own if it has one.
pub(crate) struct Watch {
    start: Instant,
    server: Option<u32>,
    before: Duration,
}

impl Watch {
    /// Starts now.
    pub(crate) fn start(server: Option<u32>) -> Result<Self> {
        let before = Self::time(server)?;
        Ok(Self { start: Instant::now(), server, before })
    }

    /// What was spent since.
    pub(crate) fn stop(self) -> Result<Spent> {
        let seconds = self.start.elapsed().as_secs_f64();
        Ok(Spent { seconds, cpu_seconds: (Self::time(self.server)? - self.before).as_secs_f64() })
    }

    fn time(server: Option<u32>) -> Result<Duration> {
        let of_server = server.map_or(Ok(Duration::ZERO), process_time)?;
        Ok(process_time(std::process::id())? + commands_time()? + of_server)
    }
}

/// What a [`Watch`] saw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_of_this_process_grows_with_work() {
        let before = process_time(std::process::id()).unwrap();
        let mut sum = 0_u64;
        while process_time(std::process::id()).unwrap() < before + Duration::from_millis(2) {
            sum = std::hint::black_box(sum.wrapping_mul(3) + 1);
        }
        // One more than the kernel's highest process id.
        assert!(process_time(1 << 22).is_err());
    }

    #[test]
    fn a_watch_sees_this_process_its_commands_and_its_server() {
        let spin = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done";
        let watch = Watch::start(None).unwrap();
        assert!(Command::new("sh").args(["-c", spin]).status().unwrap().success());
        let of_command = watch.stop().unwrap();
        assert!(of_command.cpu_seconds > 1e-3 && of_command.seconds > 1e-3, "{of_command:?}");

        let mut server = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let watch = Watch::start(Some(server.id())).unwrap();
        let before = process_time(server.id()).unwrap();
        while process_time(server.id()).unwrap() < before + Duration::from_millis(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let of_server = watch.stop().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
        assert!(of_server.cpu_seconds >= 0.02, "{of_server:?}");
    }

    #[test]
    fn a_thread_stays_where_it_is_pinned() {
        let cores = Cores::choose().unwrap();
        std::thread::spawn(move || {
            pin(cores.client).unwrap();
            assert_eq!(rustix::thread::sched_getcpu(), cores.client);
            let only = sched_getaffinity(None).unwrap();
            assert_eq!((only.count(), only.is_set(cores.client)), (1, true));
        })
        .join()
        .unwrap();
    }
}
