//! What comes back over HTTP.

use std::ops::Range;

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use http::{HeaderMap, StatusCode, header};
use object_store::client::{HttpError, HttpErrorKind, HttpResponse};
use quick_xml::events::Event;
use serde::Deserialize;

use super::connection_error;
use crate::{Advice, Result, object::store_error};

/// Bytes of one answer: a thousand keys of 1,024 bytes, encoded threefold, and what is said of each.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// What S3 and its like, and Azure, call content that does not match its digest. Swift has a status of its own for it.
const DAMAGED: [&str; 6] = [
    "XAmzContentSHA256Mismatch",
    "BadDigest",
    "XAmzContentChecksumMismatch",
    "InvalidDigest",
    "Crc64Mismatch",
    "Md5Mismatch",
];

/// An answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Whether no other try of the request was made that may have had an effect, or may still have one.
    pub(super) is_only: bool,
}

impl Answer {
    pub(super) async fn read(response: HttpResponse) -> Result<Self, HttpError> {
        let (parts, body) = response.into_parts();
        let mut stream = body.bytes_stream();
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk?);
            if bytes.len() > ANSWER_BYTES_MAX {
                return Err(HttpError::new(HttpErrorKind::Decode, std::io::Error::other("the answer is too large")));
            }
        }
        Ok(Self::new(parts.status, parts.headers, bytes.into()))
    }

    pub(crate) fn new(status: StatusCode, headers: HeaderMap, body: Bytes) -> Self {
        Self { status, headers, body, is_only: false }
    }

    /// The last of several answers to one request.
    pub(crate) fn of_several(self) -> Self {
        Self { is_only: false, ..self }
    }

    /// Whether what was asked for did not happen, and never will.
    pub(crate) fn is_final_refusal(&self) -> bool {
        let may_pass = matches!(self.status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
        self.is_only && self.status.is_client_error() && !may_pass
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header_of(&self.headers, name)
    }

    /// Whether the server got other content than its digest says.
    pub(super) fn says_damaged(&self) -> bool {
        let code = self.header("x-ms-error-code");
        let says = |name: &str| match code {
            Some(code) => code == name,
            None => self.text().is_some_and(|text| text.contains(&format!("<Code>{name}</Code>"))),
        };
        self.status == StatusCode::UNPROCESSABLE_ENTITY
            || self.status == StatusCode::BAD_REQUEST && DAMAGED.into_iter().any(says)
    }

    /// The body, if it is text.
    pub(crate) fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.body).ok()
    }

    /// The XML document of a success. Another one, as of a login page, would otherwise be read as one that says nothing.
    pub(crate) fn document<T: Document>(&self, shown: &str) -> Result<T> {
        let text = std::str::from_utf8(&self.body).map_err(|error| store_error(shown, error))?;
        if root_of(text).as_deref() != Some(T::ROOT) {
            let reason = format!("it was asked for a {} and answered with another thing; check the endpoint", T::ROOT);
            return Err(store_error(shown, reason));
        }
        let cut = |error| store_error(shown, format!("its answer is no whole {} ({error}); try again", T::ROOT));
        quick_xml::de::from_str(text).map_err(cut)
    }
}

/// A document that is known by the name of its root.
pub(crate) trait Document: for<'de> Deserialize<'de> {
    /// That name.
    const ROOT: &'static str;
}

/// The name of the first element.
fn root_of(text: &str) -> Option<String> {
    let mut reader = quick_xml::Reader::from_str(text);
    loop {
        match reader.read_event().ok()? {
            Event::Start(root) | Event::Empty(root) => {
                return Some(String::from_utf8_lossy(root.local_name().as_ref()).into_owned());
            }
            Event::Eof => return None,
            _ => {}
        }
    }
}

/// An answer whose head is here.
pub(crate) enum Opened {
    /// Its status is that of a success, and its content arrives.
    Flowing {
        /// What the head says.
        headers: HeaderMap,
        /// What is sent of the whole.
        range: Range<u64>,
        /// Whether that is all of it.
        is_whole: bool,
        /// What is sent. An error in it is the connection's.
        chunks: BoxStream<'static, Result<Bytes>>,
    },
    /// Its status is another one.
    Failed(Answer),
}

impl Opened {
    pub(super) fn flowing(
        response: HttpResponse,
        endpoint: String,
        advice: &'static Advice,
        shown: &str,
    ) -> Result<Self> {
        let (parts, body) = response.into_parts();
        let (range, is_whole) = range_of(parts.status, &parts.headers)
            .ok_or_else(|| store_error(shown, "the store does not say which bytes it sends"))?;
        let shown = shown.to_owned();
        let chunks = body
            .bytes_stream()
            .map(move |chunk| chunk.map_err(|error| connection_error(&endpoint, advice, &shown, error)));
        Ok(Self::Flowing { headers: parts.headers, range, is_whole, chunks: chunks.boxed() })
    }
}

/// The text of a header.
pub(crate) fn header_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Which bytes an answer carries, and whether there are no others: by Content-Range where it is of a part (RFC 9110,
/// 14.4), else from the first on.
fn range_of(status: StatusCode, headers: &HeaderMap) -> Option<(Range<u64>, bool)> {
    if status == StatusCode::PARTIAL_CONTENT {
        let text = header_of(headers, header::CONTENT_RANGE.as_str())?.strip_prefix("bytes ")?;
        let (span, total) = text.split_once('/').unwrap_or((text, "*"));
        let (first, last) = span.split_once('-')?;
        let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        let range = first..last.checked_add(1).filter(|end| first < *end)?;
        let is_whole = range.start == 0 && total.trim().parse() == Ok(range.end);
        return Some((range, is_whole));
    }
    Some((0..header_of(headers, header::CONTENT_LENGTH.as_str())?.parse().ok()?, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(status: u16, headers: &[(&'static str, &str)]) -> Option<(Range<u64>, bool)> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        range_of(StatusCode::from_u16(status).unwrap(), &map)
    }

    /// The story: a login page was taken for an empty bucket.
    #[test]
    fn a_document_of_another_kind_is_no_empty_one() {
        #[derive(Deserialize)]
        struct Listing {
            #[serde(default, rename = "Key")]
            keys: Vec<String>,
        }
        impl Document for Listing {
            const ROOT: &'static str = "Listing";
        }
        let read = |body: &str| {
            let body = Bytes::copy_from_slice(body.as_bytes());
            let answer = Answer::new(StatusCode::OK, HeaderMap::new(), body);
            answer.document::<Listing>("b").map(|listing| listing.keys.len())
        };
        assert_eq!(read("<?xml version=\"1.0\"?><!-- c --><Listing xmlns=\"u\"><Key>a</Key></Listing>").unwrap(), 1);
        assert_eq!(read("\u{feff}<n:Listing xmlns:n=\"u\"/>").unwrap(), 0);
        for other in ["<html><body>please log in</body></html>", "", "Listing", "<Error/>", "{}"] {
            let error = read(other).unwrap_err().to_string();
            assert!(error.contains("a Listing") && error.contains("check the endpoint"), "{other}: {error}");
        }
    }

    #[test]
    fn what_is_sent_is_read_from_the_head() {
        assert_eq!(range(206, &[("content-range", "bytes 5-9/10")]), Some((5..10, false)));
        assert_eq!(range(206, &[("content-range", "bytes 0-9/11")]), Some((0..10, false)));
        assert_eq!(range(206, &[("content-range", "bytes 0-9/10")]), Some((0..10, true)));
        assert_eq!(range(206, &[("content-range", "bytes 0-0/*")]), Some((0..1, false)));
        assert_eq!(range(200, &[("content-length", "7"), ("content-range", "bytes 5-9/10")]), Some((0..7, true)));
        for bad in ["bytes */10", "bytes 9-5/10", "bytes 0-18446744073709551615/*", "octets 0-1/2", "bytes 1"] {
            assert_eq!(range(206, &[("content-range", bad)]), None, "{bad}");
        }
        assert_eq!((range(206, &[("content-length", "7")]), range(200, &[])), (None, None));
    }
}
