//! A path in the namespace: absolute, normal, and within the limits, by construction.
//!
//! `.` and `..` are resolved lexically before anything else sees the path, so nothing behind this type can be led
//! out of a mount by dots. Names are UTF-8, at most 255 bytes each, and hold neither `/` nor NUL.

use crate::status::{Failure, Status};
use core::fmt;

/// The longest path, in bytes.
pub const PATH_BYTES_MAX: usize = 4096;
/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// How much of a refused path or name is quoted.
const SHOWN_CHARS_MAX: usize = 80;

/// An absolute, normal path: `/`, or `/a/b` without a slash at its end.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespacePath(String);

impl NamespacePath {
    /// `/`.
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// Normalises what a user wrote. Repeated slashes are one, a slash at the end is none.
    ///
    /// # Errors
    /// `InvalidArgument` if it is not absolute; `InvalidName` for a name with NUL, or a name or path over its limit;
    /// `EscapesMount` if `..` climbs above `/`.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        if !text.starts_with('/') {
            return Err(Failure::new(
                Status::InvalidArgument,
                format!("{} is not a namespace path: it must start with /", Shown(text)),
            ));
        }
        let path = if is_normal(text) { text.to_owned() } else { normalised(text)? };
        if path.len() > PATH_BYTES_MAX {
            return Err(Failure::new(
                Status::InvalidName,
                format!("the path has {} bytes, at most {PATH_BYTES_MAX} are allowed", path.len()),
            ));
        }
        Ok(Self(path))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path as text that its owner keeps.
    pub fn into_string(self) -> String {
        self.0
    }

    /// Whether it is `/`.
    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    /// The directory it lies in; `None` for `/`.
    pub fn parent(&self) -> Option<Self> {
        let (parent, _) = self.split()?;
        Some(Self(if parent.is_empty() { "/".to_owned() } else { parent.to_owned() }))
    }

    /// Its last name; `None` for `/`.
    pub fn name(&self) -> Option<&str> {
        self.split().map(|(_, name)| name)
    }

    /// The path of a child.
    ///
    /// # Errors
    /// `InvalidName` if `name` is no name.
    pub fn join(&self, name: &str) -> Result<Self, Failure> {
        if name.is_empty() || name == "." || name == ".." || name.contains('/') {
            return Err(Failure::new(Status::InvalidName, format!("{} is not a name", Shown(name))));
        }
        Self::parse(&format!("{}/{name}", self.prefix()))
    }

    /// Its names, from the top.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|name| !name.is_empty())
    }

    /// Whether it is `base` or lies under it.
    pub fn is_under(&self, base: &Self) -> bool {
        self.0.strip_prefix(base.prefix()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// What is left of it under `base`, without a leading slash: the under-store path for a mount at `base`.
    pub fn relative_to(&self, base: &Self) -> Option<&str> {
        let rest = self.0.strip_prefix(base.prefix())?;
        match rest.strip_prefix('/') {
            Some(relative) => Some(relative),
            None => rest.is_empty().then_some(""),
        }
    }

    /// The path as what stands before `/name`: empty for `/`.
    fn prefix(&self) -> &str {
        if self.is_root() { "" } else { &self.0 }
    }

    fn split(&self) -> Option<(&str, &str)> {
        if self.is_root() { None } else { self.0.rsplit_once('/') }
    }
}

/// Text as a refusal quotes it: escaped, and only its beginning, because it came from anyone and may be of any length.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(SHOWN_CHARS_MAX) {
            Some((cut, _)) => write!(f, "{:?}…", &self.0[..cut]),
            None => write!(f, "{:?}", self.0),
        }
    }
}

/// Whether an absolute path is as [`normalised`] would leave it: nearly all are, and a look costs less than to write
/// one anew.
fn is_normal(text: &str) -> bool {
    let is_name = |name: &[u8]| !name.is_empty() && name.len() <= NAME_BYTES_MAX && name != b"." && name != b"..";
    // A path of one slash has one empty name.
    text.len() == 1 || !text.contains('\0') && text.as_bytes()[1..].split(|byte| *byte == b'/').all(is_name)
}

/// Takes out of an absolute path what stands for nothing, and judges the names that are left.
fn normalised(text: &str) -> Result<String, Failure> {
    let mut path = String::with_capacity(text.len());
    for name in text.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                let parent = path
                    .rfind('/')
                    .ok_or_else(|| Failure::new(Status::EscapesMount, format!("{} climbs above /", Shown(text))))?;
                path.truncate(parent);
            }
            _ => {
                check_name(name)?;
                path.push('/');
                path.push_str(name);
            }
        }
    }
    if path.is_empty() {
        path.push('/');
    }
    Ok(path)
}

/// Judges one name.
fn check_name(name: &str) -> Result<(), Failure> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Failure::new(
            Status::InvalidName,
            format!("a name has {} bytes, at most {NAME_BYTES_MAX} are allowed: {}", name.len(), Shown(name)),
        ));
    }
    if name.contains('\0') {
        return Err(Failure::new(Status::InvalidName, "a name holds a NUL byte"));
    }
    Ok(())
}

impl fmt::Display for NamespacePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NamespacePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> NamespacePath {
        NamespacePath::parse(text).unwrap()
    }

    #[test]
    fn normal_forms() {
        for (text, expected) in [
            ("/", "/"),
            ("//", "/"),
            ("/a/", "/a"),
            ("/a//b/./c", "/a/b/c"),
            ("/a/../b", "/b"),
            ("/a/b/../..", "/"),
            ("/ ü%#+/?", "/ ü%#+/?"),
        ] {
            assert_eq!(path(text).as_str(), expected, "{text}");
        }
    }

    #[test]
    fn refusals_have_names() {
        let status = |text: &str| NamespacePath::parse(text).unwrap_err().status;
        assert_eq!(status("a"), Status::InvalidArgument);
        assert_eq!(status(""), Status::InvalidArgument);
        assert_eq!(status("/.."), Status::EscapesMount);
        assert_eq!(status("/a/../../b"), Status::EscapesMount);
        assert_eq!(status("/a\0"), Status::InvalidName);
        assert_eq!(status(&format!("/{}", "n".repeat(256))), Status::InvalidName);
        assert_eq!(status(&"/n".repeat(2049)), Status::InvalidName);
        assert!(NamespacePath::parse(&format!("/{}", "n".repeat(255))).is_ok());
        assert!(NamespacePath::parse(&"/n".repeat(2048)).is_ok());
    }

    #[test]
    fn refusals_quote_only_the_beginning() {
        for text in [format!("x{}", "\u{1}".repeat(1 << 20)), format!("/../{}", "ü".repeat(1 << 20))] {
            let refusal = NamespacePath::parse(&text).unwrap_err();
            assert!(refusal.message.len() < 1_000, "{} bytes", refusal.message.len());
        }
        assert_eq!(
            NamespacePath::parse("a\n").unwrap_err().message,
            "\"a\\n\" is not a namespace path: it must start with /"
        );
    }

    #[test]
    fn family() {
        let p = path("/data/a/b");
        assert_eq!(p.parent(), Some(path("/data/a")));
        assert_eq!(p.name(), Some("b"));
        assert_eq!(path("/x").parent(), Some(NamespacePath::root()));
        assert_eq!(NamespacePath::root().parent(), None);
        assert_eq!(p.relative_to(&path("/data")), Some("a/b"));
        assert_eq!(p.relative_to(&NamespacePath::root()), Some("data/a/b"));
        assert_eq!(p.relative_to(&p), Some(""));
        assert_eq!(p.relative_to(&path("/dat")), None);
        assert!(p.is_under(&path("/data")) && !path("/database").is_under(&path("/data")));
    }

    proptest! {
        #[test]
        fn parsing_is_idempotent_and_never_leaves_dots(text in "(/|\\.|[a-c]|ü){0,24}") {
            if let Ok(parsed) = NamespacePath::parse(&format!("/{text}")) {
                prop_assert_eq!(&NamespacePath::parse(parsed.as_str()).unwrap(), &parsed);
                prop_assert!(parsed.names().all(|name| name != "." && name != ".."));
            }
        }

        /// The look that spares a path its rewriting leaves nothing out.
        #[test]
        fn what_looks_normal_is(text in "(/|\\.|[a-c]|ü|\0|[d]{255}){0,12}") {
            let text = format!("/{text}");
            if is_normal(&text) {
                prop_assert_eq!(normalised(&text).ok(), Some(text));
            }
        }
    }
}
