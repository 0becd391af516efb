//! What comes back over HTTP.

use std::ops::Range;

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use http::{HeaderMap, StatusCode, header};
use object_store::client::{HttpError, HttpErrorKind, HttpResponse};
use serde::Deserialize;

use super::connection_error;
use crate::{Advice, Result, object::store_error};

/// Bytes of one answer: a thousand keys of 1,024 bytes, encoded threefold, and what is said of each.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// An answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
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
        Ok(Self { status: parts.status, headers: parts.headers, body: bytes.into() })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header_of(&self.headers, name)
    }

    /// The body, if it is text.
    pub(crate) fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.body).ok()
    }

    /// The XML document of a success.
    pub(crate) fn document<T: for<'de> Deserialize<'de>>(&self, shown: &str) -> Result<T> {
        let text = std::str::from_utf8(&self.body).map_err(|error| store_error(shown, error))?;
        quick_xml::de::from_str(text).map_err(|error| store_error(shown, error))
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
        let range = range_of(parts.status, &parts.headers)
            .ok_or_else(|| store_error(shown, "the store does not say which bytes it sends"))?;
        let shown = shown.to_owned();
        let chunks = body
            .bytes_stream()
            .map(move |chunk| chunk.map_err(|error| connection_error(&endpoint, advice, &shown, error)));
        Ok(Self::Flowing { headers: parts.headers, range, chunks: chunks.boxed() })
    }
}

/// The text of a header.
pub(crate) fn header_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Which bytes an answer carries: by Content-Range where it is of a part (RFC 9110, 14.4), else from the first on.
fn range_of(status: StatusCode, headers: &HeaderMap) -> Option<Range<u64>> {
    if status == StatusCode::PARTIAL_CONTENT {
        let text = header_of(headers, header::CONTENT_RANGE.as_str())?.strip_prefix("bytes ")?;
        let (first, last) = text.split('/').next()?.split_once('-')?;
        let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        return (first <= last).then(|| last.checked_add(1).map(|end| first..end))?;
    }
    Some(0..header_of(headers, header::CONTENT_LENGTH.as_str())?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(status: u16, headers: &[(&'static str, &str)]) -> Option<Range<u64>> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        range_of(StatusCode::from_u16(status).unwrap(), &map)
    }

    #[test]
    fn what_is_sent_is_read_from_the_head() {
        assert_eq!(range(206, &[("content-range", "bytes 5-9/10")]), Some(5..10));
        assert_eq!(range(206, &[("content-range", "bytes 0-0/*")]), Some(0..1));
        assert_eq!(range(200, &[("content-length", "7"), ("content-range", "bytes 5-9/10")]), Some(0..7));
        for bad in ["bytes */10", "bytes 9-5/10", "bytes 0-18446744073709551615/*", "octets 0-1/2", "bytes 1"] {
            assert_eq!(range(206, &[("content-range", bad)]), None, "{bad}");
        }
        assert_eq!((range(206, &[("content-length", "7")]), range(200, &[])), (None, None));
    }
}
