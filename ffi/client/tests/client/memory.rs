//! Memory of a worker as a client gets it: a memfd with seals.

use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, SealFlags};

/// So many bytes of memory with these at its start, sealed.
pub(crate) fn memfd(bytes: &[u8], length: u64, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC;
    let descriptor = rustix::fs::memfd_create("block", flags).unwrap();
    rustix::fs::ftruncate(&descriptor, length).unwrap();
    let mut at = 0;
    while at < bytes.len() {
        at += rustix::io::pwrite(&descriptor, &bytes[at..], at as u64).unwrap();
    }
    seal(&descriptor, seals);
    descriptor
}

/// Seals memory that nobody maps. The kernel refuses for a moment while it is busy with one of the pages itself.
pub(crate) fn seal(descriptor: &OwnedFd, seals: SealFlags) {
    const ATTEMPTS_MAX: usize = 20;
    let refusals = (0..ATTEMPTS_MAX).map_while(|_| rustix::fs::fcntl_add_seals(descriptor, seals).err());
    let refused = refusals.inspect(|errno| assert_eq!(*errno, rustix::io::Errno::BUSY)).count();
    assert!(refused < ATTEMPTS_MAX, "somebody maps it");
}
