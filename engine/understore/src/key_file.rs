//! Files that hold keys: small, read whole, wiped from memory, and looked at again for changes.

use std::{
    fs,
    io::ErrorKind,
    path::Path,
    time::{Duration, SystemTime},
};

use zeroize::Zeroizing;

/// Bytes of one file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// How long a file is not looked at again.
pub(crate) const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// What changes when a file does; `None` if it is not there.
pub(crate) type Stamp = Option<(SystemTime, u64)>;

pub(crate) fn stamp_of(file: &Path) -> Stamp {
    let metadata = fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// None if there is no such file.
pub(crate) fn text_of(file: &Path) -> Result<Option<Zeroizing<String>>, String> {
    let failed = |error: std::io::Error| format!("{} cannot be read: {error}", file.display());
    match fs::metadata(file) {
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => Err(format!("{} is larger than 1 MiB", file.display())),
        Ok(_) => fs::read_to_string(file).map(|text| Some(Zeroizing::new(text))).map_err(failed),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}
