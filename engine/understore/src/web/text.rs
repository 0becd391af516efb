//! What stands in URLs and headers.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Everything but the unreserved characters of RFC 3986, as signatures want it.
pub(crate) const STRICT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same, for paths.
pub(crate) const STRICT_PATH: &AsciiSet = &STRICT.remove(b'/');

/// Percent-encodes a path; its slashes stay.
pub(crate) fn encode_path(path: &str) -> String {
    utf8_percent_encode(path, STRICT_PATH).to_string()
}

/// An error with what caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

/// Milliseconds since 1970 of an RFC 3339 time; zero if it is none.
pub(crate) fn rfc3339_ms(text: &str) -> i64 {
    chrono::DateTime::parse_from_rfc3339(text).map_or(0, |time| time.timestamp_millis())
}

/// Milliseconds since 1970 of a time as HTTP writes it; zero if it is none.
pub(crate) fn http_time_ms(text: &str) -> i64 {
    chrono::DateTime::parse_from_rfc2822(text).map_or(0, |time| time.timestamp_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_encoded_but_for_their_slashes() {
        assert_eq!(encode_path("a b/ü+%#?"), "a%20b/%C3%BC%2B%25%23%3F");
    }

    #[test]
    fn times_are_read_and_what_is_none_is_zero() {
        assert_eq!(http_time_ms("Wed, 21 Oct 2015 07:28:00 GMT"), 1_445_412_480_000);
        assert_eq!(rfc3339_ms("2015-10-21T07:28:00.5Z"), 1_445_412_480_500);
        assert_eq!((http_time_ms("soon"), rfc3339_ms("")), (0, 0));
    }
}
