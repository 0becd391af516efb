//! The token: what every connection shows first. By default it lives in `<home>/token`, readable by its owner only.

use core::fmt;
use rkyv::{Archive, Deserialize, Serialize};

/// 32 random bytes, 64 hexadecimal digits in a file. It never prints.
#[derive(Archive, Serialize, Deserialize, Clone)]
pub struct Token(pub [u8; 32]);

impl Token {
    /// Reads the digits of a token file; white space around them is allowed.
    pub fn from_hex(text: &str) -> Option<Self> {
        crate::hex::from_hex(text.trim()).map(Self)
    }

    /// The digits, for the token file and nothing else.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Compares in a time that does not depend on where the two differ.
    pub fn matches(&self, other: &Self) -> bool {
        blake3::Hash::from_bytes(self.0) == blake3::Hash::from_bytes(other.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_form_round_trips() {
        let token = Token([0xa5; 32]);
        assert!(Token::from_hex(&format!("{}\n", token.to_hex())).unwrap().matches(&token));
        assert!(Token::from_hex("a5").is_none());
        assert!(!token.matches(&Token([0xa4; 32])));
        assert_eq!(format!("{token:?}"), "Token(..)");
    }
}
