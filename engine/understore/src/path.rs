//! The name of a file or directory inside an under-store, relative to the mount.
//!
//! Invariants of a [`StorePath`]: UTF-8; no leading, trailing or doubled slash; no `.` or `..`; no NUL; at most
//! [`COMPONENT_BYTES_MAX`] bytes a component and [`PATH_BYTES_MAX`] in all. The empty path is the mount's root.
//! What only one kind of store cannot name (a control character in an object key, say) is refused by its adapter.

use std::{fmt, sync::Arc};

use crate::{Error, Result};

/// Bytes of one component, as Linux has it.
pub const COMPONENT_BYTES_MAX: usize = 255;
/// Bytes of a whole path.
pub const PATH_BYTES_MAX: usize = 4096;
/// The folder of our temporaries in the root of a mounted file system, and the start of their names elsewhere. Both are
/// hidden.
pub(crate) const STAGING: &str = ".citius-staging";

/// A checked path, relative to the root of a mount. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath(Arc<str>);

impl StorePath {
    /// The mounted folder or prefix itself.
    pub fn root() -> Self {
        Self(Arc::from(""))
    }

    /// Checks a path; one leading slash is allowed.
    pub fn parse(path: &str) -> Result<Self> {
        let relative = path.strip_prefix('/').unwrap_or(path);
        if relative.is_empty() {
            return Ok(Self::root());
        }
        let refuse = |reason: String| Err(Error::Unnameable { path: path.to_owned(), reason });
        if relative.len() > PATH_BYTES_MAX {
            return refuse(format!("it is longer than {PATH_BYTES_MAX} bytes"));
        }
        for component in relative.split('/') {
            if let Err(reason) = check_component(component) {
                return refuse(reason.to_owned());
            }
        }
        Ok(Self(Arc::from(relative)))
    }

    /// The path as text, without a leading slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the mount's root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The directory that holds it; none for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.rsplit_once('/') {
            Some((parent, _)) => Self(Arc::from(parent)),
            None => Self::root(),
        })
    }

    /// The last component; empty for the root.
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&*self.0, |(_, name)| name)
    }

    /// Refuses a path that leads through one of our own names.
    pub(crate) fn check_unreserved(&self) -> Result<()> {
        if self.as_str().split('/').any(is_reserved) {
            let reason = format!("names that begin with {STAGING} are kept for Citius' temporaries");
            return Err(Error::Unnameable { path: self.to_string(), reason });
        }
        Ok(())
    }

    /// The path of a child.
    pub fn join(&self, name: &str) -> Result<Self> {
        if self.is_root() { Self::parse(name) } else { Self::parse(&format!("{self}/{name}")) }
    }

    /// Whether `other` is this path or lies under it.
    pub fn contains(&self, other: &Self) -> bool {
        self.is_root() || other.0.strip_prefix(&*self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Whether a name is one of ours, hidden from lists of file systems and refused to users there.
pub(crate) fn is_reserved(name: &str) -> bool {
    name.strip_prefix(STAGING).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// What is wrong with one component, if anything is.
pub(crate) fn check_component(component: &str) -> std::result::Result<(), &'static str> {
    match component {
        "" => Err("a component is empty"),
        "." | ".." => Err("a component is \".\" or \"..\""),
        name if name.len() > COMPONENT_BYTES_MAX => Err("a component is longer than 255 bytes"),
        name if name.contains('\0') => Err("it contains a NUL character"),
        name if name.contains('/') => Err("a component contains a slash"),
        _ => Ok(()),
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_pass_and_tricks_do_not() {
        for good in ["", "/", "a", "/a/b", "a b", "ü/ñ", "100%", "a%231", "#+&?*", "trailing.", "...", "a\nb"] {
            assert!(StorePath::parse(good).is_ok(), "{good:?}");
        }
        for bad in ["//", "a//b", "a/", ".", "..", "a/../b", "a/./b", "a\0b"] {
            assert!(matches!(StorePath::parse(bad), Err(Error::Unnameable { .. })), "{bad:?}");
        }
    }

    #[test]
    fn lengths_are_bounded_at_and_past_the_bound() {
        assert!(StorePath::parse(&"x".repeat(COMPONENT_BYTES_MAX)).is_ok());
        assert!(StorePath::parse(&"x".repeat(COMPONENT_BYTES_MAX + 1)).is_err());
        let long = vec!["x".repeat(127); 32].join("/");
        assert_eq!(long.len(), PATH_BYTES_MAX - 1);
        assert!(StorePath::parse(&long).is_ok());
        assert!(StorePath::parse(&format!("{long}yy")).is_err());
    }

    #[test]
    fn parents_names_and_containment() {
        let path = StorePath::parse("a/b/c").unwrap();
        assert_eq!(path.parent().unwrap().as_str(), "a/b");
        assert_eq!(path.name(), "c");
        assert_eq!(StorePath::parse("a").unwrap().parent().unwrap(), StorePath::root());
        assert!(StorePath::root().parent().is_none());
        let dir = StorePath::parse("a/b").unwrap();
        assert!(dir.contains(&path) && dir.contains(&dir));
        assert!(!dir.contains(&StorePath::parse("a/bc").unwrap()));
    }
}
