//! Hexadecimal digits of a fixed number of bytes, as ids and tokens are written for people.

/// Reads exactly `2 * N` digits. Nothing else is taken for a digit: not a sign, not a space.
pub(crate) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high << 4 | low) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_and_nothing_else() {
        assert_eq!(from_hex("00fFa5"), Some([0, 255, 0xa5]));
        // The integer parser of the standard library would take the signs.
        for wrong in ["", "00ff", "00ffa5a5", "+0ffa5", "00+fa5", "-0ffa5", " 0ffa5", "0xffa5", "00ffg5", "00ffé"] {
            assert_eq!(from_hex::<3>(wrong), None, "{wrong:?}");
        }
    }
}
