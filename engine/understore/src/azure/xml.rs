//! The documents of Azure Blob storage: its listings, and the list of blocks that it is sent.

use std::{collections::BTreeMap, fmt::Write};

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde::Deserialize;

use crate::{
    object::{Key, Keys, Object},
    web::{Document, http_time_ms},
};

/// The metadata that makes an empty blob stand for a directory, by an old custom of Hadoop's that all of Azure's tools keep.
pub(super) const FOLDER_METADATA: &str = "hdi_isfolder";

/// One page of blobs.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListAnswer {
    #[serde(default)]
    blobs: Blobs,
    #[serde(default)]
    next_marker: String,
}

impl Document for ListAnswer {
    const ROOT: &'static str = "EnumerationResults";
}

#[derive(Debug, Default, Deserialize)]
struct Blobs {
    #[serde(default, rename = "$value")]
    items: Vec<Item>,
}

/// They come mixed, in the order of their names.
#[derive(Debug, Deserialize)]
enum Item {
    Blob(Blob),
    BlobPrefix(BlobPrefix),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Blob {
    name: Name,
    properties: Properties,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BlobPrefix {
    name: Name,
}

#[derive(Debug, Deserialize)]
struct Name {
    /// Whether it is percent-encoded, as names are that XML cannot hold.
    #[serde(default, rename = "@Encoded")]
    is_encoded: bool,
    #[serde(default, rename = "$text")]
    text: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Properties {
    #[serde(default, rename = "Content-Length")]
    content_length: u64,
    #[serde(default, rename = "Last-Modified")]
    last_modified: String,
    #[serde(default, rename = "Etag")]
    etag: String,
    /// Only of accounts with a hierarchical namespace.
    #[serde(default, rename = "ResourceType")]
    resource_type: String,
}

impl Name {
    fn read(self) -> Result<String, String> {
        if !self.is_encoded {
            return Ok(self.text);
        }
        match percent_decode_str(&self.text).decode_utf8() {
            Ok(name) => Ok(name.into_owned()),
            Err(_) => Err(percent_decode_str(&self.text).decode_utf8_lossy().into_owned()),
        }
    }
}

impl Blob {
    fn is_folder(&self) -> bool {
        self.properties.resource_type == "directory"
            || is_folder(self.metadata.iter().map(|(name, value)| (&**name, &**value)))
    }
}

/// Whether this is the metadata of a blob that stands for a directory.
pub(super) fn is_folder<'a>(metadata: impl IntoIterator<Item = (&'a str, &'a str)>) -> bool {
    metadata
        .into_iter()
        .any(|(name, value)| name.eq_ignore_ascii_case(FOLDER_METADATA) && value.eq_ignore_ascii_case("true"))
}

/// Listings give etags without the quotes that headers have them in.
pub(super) fn quoted(etag: &str) -> String {
    match etag.trim_matches('"') {
        "" => String::new(),
        bare => format!("\"{bare}\""),
    }
}

impl From<ListAnswer> for Keys {
    fn from(page: ListAnswer) -> Self {
        let keys = page.blobs.items.into_iter().map(|item| match item {
            Item::BlobPrefix(prefix) => Key { name: prefix.name.read(), object: None },
            Item::Blob(blob) => {
                let is_folder = blob.is_folder();
                let object = Object {
                    len: blob.properties.content_length,
                    version: quoted(&blob.properties.etag),
                    mtime_ms: http_time_ms(&blob.properties.last_modified),
                };
                let name = blob.name.read().map(|name| match is_folder && !name.ends_with('/') {
                    true => name + "/",
                    false => name,
                });
                Key { name, object: Some(object) }
            }
        });
        Self { keys: keys.collect(), next: Some(page.next_marker).filter(|marker| !marker.is_empty()) }
    }
}

/// What makes a blob of blocks.
pub(super) fn block_list(ids: impl Iterator<Item = String>) -> Bytes {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>");
    for id in ids {
        write!(xml, "<Uncommitted>{id}</Uncommitted>").expect("a String takes all");
    }
    xml.push_str("</BlockList>");
    xml.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blobs and prefixes mixed, directories of both kinds, and names that XML spoils if it is let.
    #[test]
    fn a_listing_is_read_as_it_is() {
        let text = "<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults ContainerName=\"https://a/c\">\
            <Prefix>p/</Prefix><Delimiter>/</Delimiter><Blobs>\
            <Blob><Name> a &amp; b </Name><Properties><Last-Modified>Wed, 21 Oct 2015 07:28:00 GMT</Last-Modified>\
            <Etag>0x8D1</Etag><Content-Length>7</Content-Length><BlobType>BlockBlob</BlobType></Properties>\
            <Metadata><citius_file>00</citius_file></Metadata></Blob>\
            <BlobPrefix><Name>p/d/</Name></BlobPrefix>\
            <Blob><Name Encoded=\"true\">p%2Fe%01</Name><Properties><Etag>\"0x8D2\"</Etag></Properties><Metadata /></Blob>\
            <Blob><Name>p/f</Name><Properties><Etag>0x8D3</Etag></Properties>\
            <Metadata><Hdi_isfolder>True</Hdi_isfolder></Metadata></Blob>\
            <Blob><Name>p/g</Name><Properties><ResourceType>directory</ResourceType></Properties></Blob>\
            <BlobPrefix><Name>p/h/</Name></BlobPrefix>\
            <Blob><Name Encoded=\"true\">p%FF</Name><Properties></Properties></Blob>\
            </Blobs><NextMarker>2!8!bmV4dA--</NextMarker></EnumerationResults>";
        let keys: Keys = quick_xml::de::from_str::<ListAnswer>(text).unwrap().into();
        let names: Vec<_> = keys.keys.iter().map(|key| key.name.clone()).collect();
        let expected = [" a & b ", "p/d/", "p/e\u{1}", "p/f/", "p/g/", "p/h/"].map(|name| Ok(name.to_owned()));
        assert_eq!(names[..6], expected);
        assert!(names[6].is_err(), "it is not UTF-8");
        let first = keys.keys[0].object.as_ref().unwrap();
        assert_eq!((first.len, first.version.as_str(), first.mtime_ms), (7, "\"0x8D1\"", 1_445_412_480_000));
        assert_eq!(keys.keys[2].object.as_ref().unwrap().version, "\"0x8D2\"");
        assert!(keys.keys[1].object.is_none() && keys.keys[3].object.is_some());
        assert_eq!(keys.next.as_deref(), Some("2!8!bmV4dA--"));
    }

    #[test]
    fn an_empty_listing_is_no_error() {
        let text = "<EnumerationResults><Blobs /><NextMarker /></EnumerationResults>";
        let keys: Keys = quick_xml::de::from_str::<ListAnswer>(text).unwrap().into();
        assert!(keys.keys.is_empty() && keys.next.is_none());
    }
}
