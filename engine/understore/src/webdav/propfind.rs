//! What a server says of files: the answers to PROPFIND, as they come.
//!
//! An answer of a large directory is taken apart response by response, so that no more than one is held. Names of
//! elements are looked at without their namespaces: only what we asked for can be in it.

use bytes::{Bytes, BytesMut};
use percent_encoding::percent_decode_str;
use quick_xml::{Reader, events::Event};

use super::time_ns;
use crate::tree::{Name, Node, What};

/// What is asked for.
pub(super) const BODY: &str = concat!(
    r#"<?xml version="1.0" encoding="utf-8"?><D:propfind xmlns:D="DAV:"><D:prop>"#,
    r#"<D:resourcetype/><D:getcontentlength/><D:getlastmodified/><D:getetag/></D:prop></D:propfind>"#
);
/// Bytes of what is said of one file.
const RESPONSE_BYTES_MAX: usize = 1 << 20;
const RESPONSE: &[u8] = b"response";

/// One response: what lies at a URL path.
#[derive(Debug, PartialEq)]
pub(super) struct Found {
    /// The path of its URL, encoded, without a slash at its end.
    pub(super) href: String,
    pub(super) node: Node,
}

impl Found {
    /// The last component of the path, decoded.
    pub(super) fn name(&self) -> Name {
        let last = self.href.rsplit('/').next().unwrap_or_default();
        match percent_decode_str(last).decode_utf8() {
            Ok(name) => Ok(name.into_owned()),
            Err(_) => Err(percent_decode_str(last).decode_utf8_lossy().into_owned()),
        }
    }

    /// Whether it is what lies at this encoded URL path, however either is encoded.
    pub(super) fn is_at(&self, url_path: &str) -> bool {
        let bytes = |path: &str| percent_decode_str(path.trim_end_matches('/')).collect::<Vec<u8>>();
        bytes(&self.href) == bytes(url_path)
    }
}

/// An answer that is being taken apart.
#[derive(Debug, Default)]
pub(super) struct Answer {
    held: BytesMut,
    /// How far there is no end of a response.
    looked: usize,
}

impl Answer {
    /// Takes the next bytes.
    pub(super) fn push(&mut self, bytes: &Bytes) {
        self.held.extend_from_slice(bytes);
    }

    /// The next response that is whole; an error is of the answer, which then has no more.
    pub(super) fn next(&mut self) -> Result<Option<Found>, String> {
        while let Some(end) = self.end_of_response() {
            let response = self.held.split_to(end);
            self.looked = 0;
            if let Some(found) = parse(&response)? {
                return Ok(Some(found));
            }
        }
        if self.held.len() > RESPONSE_BYTES_MAX {
            return Err("it says too much of one file".to_owned());
        }
        Ok(None)
    }

    /// Whether the answer may end here.
    pub(super) fn is_over(&self) -> bool {
        self.held.windows(b"multistatus".len()).any(|bytes| bytes == b"multistatus")
    }

    /// Where the first `</…response>` ends. The text of an element cannot hold it: there its first character is encoded.
    fn end_of_response(&mut self) -> Option<usize> {
        let mut from = self.looked;
        while let Some(at) = self.held[from..].windows(2).position(|bytes| bytes == b"</") {
            let start = from + at + 2;
            let Some(len) = self.held[start..].iter().position(|byte| *byte == b'>') else {
                self.looked = from + at;
                return None;
            };
            let name = self.held[start..start + len].trim_ascii_end();
            if name.rsplit(|byte| *byte == b':').next() == Some(RESPONSE) {
                return Some(start + len + 1);
            }
            from = start + len + 1;
        }
        self.looked = self.held.len().saturating_sub(1).max(from.min(self.held.len()));
        None
    }
}

/// The properties of one response; the good ones and the others come apart.
#[derive(Default)]
struct Properties {
    is_collection: bool,
    len: Option<u64>,
    mtime_ns: i64,
    tag: String,
}

/// Reads one response; `None` if nothing is there after all.
fn parse(xml: &[u8]) -> Result<Option<Found>, String> {
    // What comes before it opens elements that do not end here.
    let start = xml.windows(RESPONSE.len()).position(|bytes| bytes == RESPONSE).unwrap_or(0);
    let start = xml[..start].iter().rposition(|byte| *byte == b'<').unwrap_or(0);
    let mut reader = Reader::from_reader(&xml[start..]);
    let (mut href, mut found, mut here) = (String::new(), None, Properties::default());
    let (mut text, mut is_good, mut in_propstat) = (String::new(), true, false);
    loop {
        match reader.read_event().map_err(|error| error.to_string())? {
            Event::Start(element) => {
                text.clear();
                match element.local_name().as_ref() {
                    b"propstat" => (here, is_good, in_propstat) = (Properties::default(), true, true),
                    b"collection" => here.is_collection = true,
                    _ => {}
                }
            }
            Event::Empty(element) if element.local_name().as_ref() == b"collection" => here.is_collection = true,
            Event::Text(part) => text.push_str(&part.decode().map_err(|error| error.to_string())?),
            Event::CData(part) => text.push_str(&part.decode().map_err(|error| error.to_string())?),
            Event::GeneralRef(entity) => text.push(character_of(&entity)?),
            Event::End(element) => match element.local_name().as_ref() {
                b"href" if !in_propstat => href = url_path_of(text.trim()),
                b"getcontentlength" => here.len = text.trim().parse().ok(),
                b"getlastmodified" => here.mtime_ns = time_ns(text.trim()),
                b"getetag" => here.tag = strong(text.trim()).to_owned(),
                b"status" => {
                    is_good = text.split_whitespace().nth(1) == Some("200");
                    if !in_propstat && !is_good {
                        return Ok(None);
                    }
                }
                b"propstat" => {
                    if is_good {
                        found = Some(std::mem::take(&mut here));
                    }
                    in_propstat = false;
                }
                RESPONSE => break,
                _ => {}
            },
            Event::Eof => return Err("it ends in the middle".to_owned()),
            _ => {}
        }
    }
    let Some(properties) = found else { return Ok(None) };
    let Properties { is_collection, len, mtime_ns, tag } = properties;
    let node = match (is_collection, len) {
        (true, _) => Node::dir(mtime_ns),
        (false, Some(len)) => Node { what: What::File, len, mtime_ns, tag, mode: None },
        (false, None) => Node { what: What::Other("a thing without a length"), ..Node::dir(mtime_ns) },
    };
    Ok(Some(Found { href, node }))
}

/// A tag without what marks it as weak: a server marks it so while the file is young, and no longer when it is not.
pub(super) fn strong(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// The path of what may be a whole URL, without a slash at its end.
fn url_path_of(href: &str) -> String {
    let path = match href.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("", |at| &rest[at..]),
        None => href,
    };
    path.trim_end_matches('/').to_owned()
}

fn character_of(entity: &quick_xml::events::BytesRef<'_>) -> Result<char, String> {
    if let Some(character) = entity.resolve_char_ref().map_err(|error| error.to_string())? {
        return Ok(character);
    }
    match entity.as_ref() {
        b"amp" => Ok('&'),
        b"lt" => Ok('<'),
        b"gt" => Ok('>'),
        b"quot" => Ok('"'),
        b"apos" => Ok('\''),
        other => Err(format!("it holds an entity \"{}\"", String::from_utf8_lossy(other))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const APACHE: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<D:multistatus xmlns:D="DAV:" xmlns:ns0="DAV:">
<D:response xmlns:lp1="DAV:" xmlns:g0="DAV:"><D:href>/d/</D:href><D:propstat><D:prop>
<lp1:resourcetype><D:collection/></lp1:resourcetype><lp1:getlastmodified>Sun, 22 Nov 2026 17:13:57 GMT</lp1:getlastmodified>
<lp1:getetag>"1000-64"</lp1:getetag></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat>
<D:propstat><D:prop><g0:getcontentlength/></D:prop><D:status>HTTP/1.1 404 Not Found</D:status></D:propstat></D:response>
<D:response xmlns:lp1="DAV:"><D:href>/d/a%20b&amp;c&#x2b;</D:href><D:propstat><D:prop><lp1:resourcetype/>
<lp1:getcontentlength>3</lp1:getcontentlength><lp1:getlastmodified>Sun, 22 Nov 2026 17:13:58 GMT</lp1:getlastmodified>
<lp1:getetag>W/"3-64"</lp1:getetag></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>
<D:response><D:href>/d/gone</D:href><D:status>HTTP/1.1 404 Not Found</D:status></D:response>
</D:multistatus>"#;

    fn all(chunks: &[&str]) -> Result<Vec<Found>, String> {
        let (mut answer, mut out) = (Answer::default(), Vec::new());
        for chunk in chunks {
            answer.push(&Bytes::copy_from_slice(chunk.as_bytes()));
            while let Some(found) = answer.next()? {
                out.push(found);
            }
        }
        Ok(out)
    }

    #[test]
    fn an_answer_of_apache_is_read() {
        let found = all(&[APACHE]).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].is_at("/d/") && found[0].node.what == What::Dir);
        assert_eq!(found[1].name(), Ok("a b&c+".to_owned()));
        let node = &found[1].node;
        assert_eq!((node.what, node.len, node.tag.as_str()), (What::File, 3, "\"3-64\""));
        assert_eq!(node.mtime_ns, 1_795_367_638_000_000_000);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_an_answer_is_cut(cuts in prop::collection::vec(0..APACHE.len(), 0..8)) {
            let mut cuts: Vec<usize> = cuts.into_iter().chain([0, APACHE.len()]).collect();
            cuts.sort_unstable();
            let chunks: Vec<&str> = cuts.windows(2).map(|cut| &APACHE[cut[0]..cut[1]]).collect();
            prop_assert_eq!(all(&chunks).unwrap(), all(&[APACHE]).unwrap());
        }

        #[test]
        fn hostile_answers_never_panic(text in "(<[a-z:/]{0,9}>|</d:response>|response|&[a-z#]{0,4};|[ -~\u{e9}]{0,9}){0,30}") {
            let _ = all(&[&text]);
        }
    }

    #[test]
    fn names_that_are_no_text_are_told_and_long_responses_are_refused() {
        let found = Found { href: "/d/%ff".into(), node: Node::dir(0) };
        assert_eq!(found.name(), Err("\u{fffd}".to_owned()));
        let endless = format!("<D:response>{}", "x".repeat(RESPONSE_BYTES_MAX + 1));
        assert!(all(&[&endless]).is_err());
    }

    #[test]
    fn whole_urls_are_paths_too() {
        assert_eq!(url_path_of("http://h:1/a/b/"), "/a/b");
        assert_eq!(url_path_of("http://h"), "");
        assert_eq!(url_path_of("/a%2Fb"), "/a%2Fb");
    }
}
