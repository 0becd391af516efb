//! The log holds the secrets of mounts: its files are its user's alone, also where the home is copied to another place.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// The mode of a file.
const FILE: u32 = 0o600;
/// The mode of a folder.
const FOLDER: u32 = 0o700;

/// Makes a folder, and those above it that are missing; one that is there keeps its mode.
pub(crate) fn create_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER).create(dir)
}

/// Makes a file to write and read back; one that is there is emptied, and keeps its mode.
pub(crate) fn create_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(FILE).open(path)
}

/// Closes the files of a folder to others, of which another library makes some.
pub(crate) fn close_files(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let closed = match entry.metadata() {
            Ok(found) if found.is_file() && found.permissions().mode() & 0o777 != FILE => {
                fs::set_permissions(entry.path(), Permissions::from_mode(FILE))
            }
            other => other.map(drop),
        };
        // A file that was purged since it was seen is closed to everybody.
        closed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_that_others_could_read_are_closed() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("a/b");
        create_dir(&dir).unwrap();
        fs::create_dir(dir.join("folder")).unwrap();
        fs::write(dir.join("file"), "secret").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let folder_before = mode(&dir.join("folder"));
        close_files(&dir).unwrap();
        assert_eq!((mode(&dir), mode(&dir.join("file"))), (FOLDER, FILE));
        assert_eq!(mode(&dir.join("folder")), folder_before);
    }
}
