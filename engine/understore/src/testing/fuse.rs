//! A file system of another program, which stops answering when a test says so: what a folder on NFS, GlusterFS or CephFS
//! is while its server is away.
//!
//! It speaks the kernel's FUSE protocol (`linux/fuse.h`, 7.31) itself, as far as reading a flat folder needs: one thread
//! takes a request and writes its answer, and while it is [`FuseFolder::hang`]ing it answers nothing. The mount and what
//! hangs in it end with the value. Only root may mount it.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;

/// How often the thread looks whether it is to end or to hang.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// More than any request that the kernel is allowed to make, and at least what it asks for.
const REQUEST_BYTES_MAX: usize = 1 << 20;
const READ_BYTES_MAX: u32 = 64 << 10;
const REQUEST_HEAD_BYTES: usize = 40;
const ROOT: u64 = 1;

/// A mounted folder of a few files.
#[derive(Debug)]
pub struct FuseFolder {
    mounted: TempDir,
    orders: Arc<Orders>,
    server: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Orders {
    hang: AtomicBool,
    end: AtomicBool,
    asked_in_vain: AtomicBool,
}

impl FuseFolder {
    /// Mounts a folder of these files.
    ///
    /// # Errors
    /// What the system says: most often that only root may.
    pub fn mount(files: &[(&str, &[u8])]) -> io::Result<Self> {
        let mounted = tempfile::tempdir()?;
        let device = File::options().read(true).write(true).open("/dev/fuse")?;
        let status = Command::new("mount")
            .args(["-i", "-t", "fuse", "-o", "fd=0,rootmode=40000,user_id=0,group_id=0", "citius-test"])
            .arg(mounted.path())
            .stdin(Stdio::from(device.try_clone()?))
            .status()?;
        if !status.success() {
            return Err(io::Error::other(format!("a FUSE file system cannot be mounted: mount ended with {status}")));
        }
        let files = files.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec())).collect();
        let orders = Arc::new(Orders::default());
        let served = Arc::clone(&orders);
        let server = std::thread::spawn(move || Served { device, files, orders: served }.serve());
        Ok(Self { mounted, orders, server: Some(server) })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.mounted.path()
    }

    /// Answers nothing any more.
    pub fn hang(&self) {
        self.orders.hang.store(true, Ordering::SeqCst);
    }

    /// Answers again, also what was asked meanwhile.
    pub fn answer(&self) {
        self.orders.asked_in_vain.store(false, Ordering::SeqCst);
        self.orders.hang.store(false, Ordering::SeqCst);
    }

    /// Whether somebody waits for an answer.
    pub fn keeps_someone_waiting(&self) -> bool {
        self.orders.asked_in_vain.load(Ordering::SeqCst)
    }
}

impl Drop for FuseFolder {
    fn drop(&mut self) {
        self.orders.end.store(true, Ordering::SeqCst);
        // The thread closes the device, with which the kernel ends whatever hangs.
        if let Some(server) = self.server.take() {
            drop(server.join());
        }
        drop(Command::new("umount").arg("-l").arg(self.mounted.path()).status());
    }
}

struct Served {
    device: File,
    files: Vec<(String, Vec<u8>)>,
    orders: Arc<Orders>,
}

/// A request as the kernel sends it: `len u32 | opcode u32 | unique u64 | nodeid u64 | ...` and its arguments.
struct Request<'a> {
    opcode: u32,
    unique: u64,
    node: u64,
    arguments: &'a [u8],
}

impl<'a> Request<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        Some(Self {
            opcode: u32_at(bytes, 4)?,
            unique: u64_at(bytes, 8)?,
            node: u64_at(bytes, 16)?,
            arguments: bytes.get(REQUEST_HEAD_BYTES..)?,
        })
    }
}

impl Served {
    fn serve(mut self) {
        let mut bytes = vec![0; REQUEST_BYTES_MAX];
        let pause = Timespec { tv_sec: 0, tv_nsec: LOOK_PAUSE.as_nanos() as i64 };
        while !self.orders.end.load(Ordering::SeqCst) {
            let mut polled = [PollFd::new(&self.device, PollFlags::IN)];
            if !poll(&mut polled, Some(&pause)).is_ok_and(|count| count > 0) {
                continue;
            }
            let Ok(count) = self.device.read(&mut bytes) else { return };
            let Some(request) = Request::parse(&bytes[..count]) else { return };
            while self.orders.hang.load(Ordering::SeqCst) && !self.orders.end.load(Ordering::SeqCst) {
                self.orders.asked_in_vain.store(true, Ordering::SeqCst);
                std::thread::sleep(LOOK_PAUSE);
            }
            if let Some(answer) = self.answer(&request) {
                let (error, body) = answer.map_or_else(|errno| (-errno, Vec::new()), |body| (0, body));
                let mut reply = Vec::with_capacity(16 + body.len());
                reply.extend((16 + body.len() as u32).to_ne_bytes());
                reply.extend(error.to_ne_bytes());
                reply.extend(request.unique.to_ne_bytes());
                reply.extend(body);
                // Who asked may have been killed meanwhile.
                drop(self.device.write_all(&reply));
            }
        }
    }

    /// What is answered; `None` to what the kernel does not wait for.
    fn answer(&self, request: &Request<'_>) -> Option<Result<Vec<u8>, i32>> {
        Some(match request.opcode {
            opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT => return None,
            opcode::INIT => Ok(initialized()),
            opcode::LOOKUP => self.lookup(request.arguments),
            opcode::GETATTR => self.attributes(request.node).map(|attributes| [vec![0; 16], attributes].concat()),
            opcode::OPEN | opcode::OPENDIR => Ok(vec![0; 16]),
            opcode::READ => self.read(request),
            opcode::READDIR => Ok(self.names(request.arguments)),
            opcode::STATFS => Ok(vec![0; 80]),
            opcode::FLUSH | opcode::RELEASE | opcode::RELEASEDIR => Ok(Vec::new()),
            _ => Err(errno::NOSYS),
        })
    }

    fn lookup(&self, arguments: &[u8]) -> Result<Vec<u8>, i32> {
        let name = arguments.strip_suffix(b"\0").unwrap_or(arguments);
        let index = self.files.iter().position(|(known, _)| known.as_bytes() == name).ok_or(errno::NOENT)?;
        let node = ROOT + 1 + index as u64;
        // Nothing is to be believed for any time: each look is a request.
        Ok([node.to_ne_bytes().to_vec(), vec![0; 32], self.attributes(node)?].concat())
    }

    fn content(&self, node: u64) -> Result<&[u8], i32> {
        let index = node.checked_sub(ROOT + 1).ok_or(errno::ISDIR)?;
        self.files.get(index as usize).map(|(_, content)| content.as_slice()).ok_or(errno::NOENT)
    }

    /// `struct fuse_attr`.
    fn attributes(&self, node: u64) -> Result<Vec<u8>, i32> {
        const FILE: u32 = 0o100_444;
        const DIRECTORY: u32 = 0o040_555;
        const TIME: u64 = 1_700_000_000;
        let (mode, length) = if node == ROOT { (DIRECTORY, 0) } else { (FILE, self.content(node)?.len() as u64) };
        let wide = [node, length, length.div_ceil(512), TIME, TIME, TIME];
        let (nanoseconds, links) = (1, 1);
        let narrow = [nanoseconds, nanoseconds, nanoseconds, mode, links, 0, 0, 0, 4096, 0];
        Ok([wide.map(u64::to_ne_bytes).concat(), narrow.map(u32::to_ne_bytes).concat()].concat())
    }

    fn read(&self, request: &Request<'_>) -> Result<Vec<u8>, i32> {
        let content = self.content(request.node)?;
        let at = |offset| u64_at(request.arguments, offset).ok_or(errno::INVAL);
        let start = (at(8)? as usize).min(content.len());
        let end = (start + u32_at(request.arguments, 16).ok_or(errno::INVAL)? as usize).min(content.len());
        Ok(content[start..end].to_vec())
    }

    /// `struct fuse_dirent`s, all of them at once: there are few.
    fn names(&self, arguments: &[u8]) -> Vec<u8> {
        const REGULAR: u32 = 8;
        if u64_at(arguments, 8) != Some(0) {
            return Vec::new();
        }
        let mut entries = Vec::new();
        for (index, (name, _)) in self.files.iter().enumerate() {
            let number = index as u64 + 1;
            entries.extend((ROOT + number).to_ne_bytes());
            entries.extend(number.to_ne_bytes());
            entries.extend((name.len() as u32).to_ne_bytes());
            entries.extend(REGULAR.to_ne_bytes());
            entries.extend(name.as_bytes());
            entries.resize(entries.len().next_multiple_of(8), 0);
        }
        entries
    }
}

/// `struct fuse_init_out`.
fn initialized() -> Vec<u8> {
    const MAJOR: u32 = 7;
    const MINOR: u32 = 31;
    let mut out = [MAJOR, MINOR, READ_BYTES_MAX, 0, 0, READ_BYTES_MAX, 1].map(u32::to_ne_bytes).concat();
    out.resize(64, 0);
    out
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Requests, by the numbers of the protocol.
mod opcode {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const STATFS: u32 = 17;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const FLUSH: u32 = 25;
    pub(super) const INIT: u32 = 26;
    pub(super) const OPENDIR: u32 = 27;
    pub(super) const READDIR: u32 = 28;
    pub(super) const RELEASEDIR: u32 = 29;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const BATCH_FORGET: u32 = 42;
}

mod errno {
    use rustix::io::Errno;

    pub(super) const NOENT: i32 = Errno::NOENT.raw_os_error();
    pub(super) const ISDIR: i32 = Errno::ISDIR.raw_os_error();
    pub(super) const INVAL: i32 = Errno::INVAL.raw_os_error();
    pub(super) const NOSYS: i32 = Errno::NOSYS.raw_os_error();
}
