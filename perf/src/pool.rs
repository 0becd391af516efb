//! The hugepage pool: grown for a run if it may be, and put back after it.

use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Where the kernel keeps the pool of 2 MiB pages.
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// A pool that may have been grown. It is put back to its former size when this drops, or when the program is
/// interrupted; pages still in use at that time go when they are freed. A kill -9 leaves it grown.
#[derive(Debug)]
pub(crate) struct HugepagePool {
    folder: PathBuf,
    before: Arc<Mutex<Option<u64>>>,
}

impl HugepagePool {
    /// Sees to it that `pages` are free, as far as this process may and the machine can. `None` if the machine has no
    /// such pool; how many pages are free in the end is for [`HugepagePool::free`] to say.
    pub(crate) fn grow(pages: u64) -> Option<Self> {
        let pool = Self::grow_in(Path::new(POOL), pages)?;
        pool.put_back_when_interrupted();
        Some(pool)
    }

    fn grow_in(folder: &Path, pages: u64) -> Option<Self> {
        let pool = Self { folder: folder.to_owned(), before: Arc::default() };
        let before = pool.number("nr_hugepages").ok()?;
        let missing = pages.saturating_sub(pool.free().ok()?);
        if missing > 0 {
            // Memory may be too much in pieces, or the file not ours to write: then there are fewer.
            let grown = fs::write(folder.join("nr_hugepages"), (before + missing).to_string());
            if grown.is_ok() {
                *pool.before.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
            }
        }
        Some(pool)
    }

    /// Pages that nobody uses and nobody has reserved.
    pub(crate) fn free(&self) -> Result<u64> {
        Ok(self.number("free_hugepages")?.saturating_sub(self.number("resv_hugepages")?))
    }

    fn number(&self, name: &str) -> Result<u64> {
        let path = self.folder.join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        text.trim().parse().with_context(|| format!("{} holds {text:?}", path.display()))
    }

    fn put_back_when_interrupted(&self) {
        let (folder, before) = (self.folder.clone(), Arc::clone(&self.before));
        // Without this thread an interrupt only leaves the pool grown, so that it cannot start is no reason to stop.
        let _ = std::thread::Builder::new().name("interrupt".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
            runtime.block_on(async {
                use tokio::signal::unix::{SignalKind, signal};
                let (mut interrupt, mut terminate) =
                    (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
                let kind = tokio::select! {
                    _ = interrupt.recv() => SignalKind::interrupt(),
                    _ = terminate.recv() => SignalKind::terminate(),
                };
                put_back(&folder, &before);
                std::process::exit(128 + kind.as_raw_value());
                #[allow(unreachable_code)]
                std::io::Result::Ok(())
            })
        });
    }
}

impl Drop for HugepagePool {
    fn drop(&mut self) {
        put_back(&self.folder, &self.before);
    }
}

/// Puts the pool back, once.
fn put_back(folder: &Path, before: &Mutex<Option<u64>>) {
    if let Some(before) = before.lock().unwrap_or_else(PoisonError::into_inner).take()
        && let Err(error) = fs::write(folder.join("nr_hugepages"), before.to_string())
    {
        use std::io::Write as _;
        // Nobody is left to give the error to, and standard error may be gone too.
        let _ = writeln!(std::io::stderr(), "the hugepage pool could not be put back to {before} pages: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder like the kernel's, in which nothing happens by itself.
    fn pool(nr: u64, free: u64, reserved: u64) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, value) in [("nr_hugepages", nr), ("free_hugepages", free), ("resv_hugepages", reserved)] {
            fs::write(folder.path().join(name), format!("{value}\n")).unwrap();
        }
        folder
    }

    fn size(folder: &Path) -> u64 {
        fs::read_to_string(folder.join("nr_hugepages")).unwrap().trim().parse().unwrap()
    }

    #[test]
    fn grows_by_what_is_missing_and_is_put_back() {
        let folder = pool(10, 4, 1);
        let grown = HugepagePool::grow_in(folder.path(), 8).unwrap();
        assert_eq!(size(folder.path()), 15);
        drop(grown);
        assert_eq!(size(folder.path()), 10);
    }

    #[test]
    fn is_left_alone_when_it_is_large_enough() {
        let folder = pool(10, 10, 0);
        let same = HugepagePool::grow_in(folder.path(), 10).unwrap();
        assert_eq!((size(folder.path()), same.free().unwrap()), (10, 10));
        // Somebody else grows it meanwhile; that is not ours to undo.
        fs::write(folder.path().join("nr_hugepages"), "20").unwrap();
        drop(same);
        assert_eq!(size(folder.path()), 20);
    }

    #[test]
    fn a_machine_without_one_has_none() {
        assert!(HugepagePool::grow_in(Path::new("/nowhere"), 1).is_none());
    }
}
