//! Text that must not be left behind: the value of a mount's option, which may be a key.
//!
//! It is wiped when it is dropped, never printed, and compared in a time that does not depend on where two differ. On the wire
//! and in the log it is a string as any other: both go to those who may have it, and nowhere else.

use core::fmt;

use rkyv::{Archive, Deserialize, Serialize};
use zeroize::Zeroize;

/// A string that is wiped on drop and never printed.
#[derive(Archive, Serialize, Deserialize, Clone, Default, Eq)]
pub struct SecretText(String);

impl SecretText {
    /// The text, for who needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Takes the text into keeping, as it is: nothing of it is left elsewhere.
impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for SecretText {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl Drop for SecretText {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PartialEq for SecretText {
    fn eq(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.0.as_bytes(), other.0.as_bytes());
        let differing = ours.iter().zip(theirs).fold(0, |differing, (our, their)| differing | (our ^ their));
        ours.len() == theirs.len() && core::hint::black_box(differing) == 0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_compared_and_not_printed() {
        let text = SecretText::from("hunter2");
        assert_eq!(text, SecretText::from("hunter2".to_owned()));
        for other in ["", "hunter", "hunter3", "Hunter2", "hunter22"] {
            assert_ne!(text, other.into());
        }
        assert_eq!(format!("{text:?} {:?}", Some(&text)).matches("hunter2").count(), 0);
        assert_eq!(text.expose(), "hunter2");
    }
}
