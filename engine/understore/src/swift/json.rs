//! The documents of Swift: its listings, what it says of a deletion, and the manifest that it is sent.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    object::{Key, Object},
    web::rfc3339_ms,
};

/// The digest of no bytes at all.
const EMPTY_DIGEST: &str = "d41d8cd98f00b204e9800998ecf8427e";

/// One line of a listing.
#[derive(Debug, Deserialize)]
pub(super) struct Listed {
    /// Of a common prefix, instead of all else.
    #[serde(default)]
    pub(super) subdir: Option<String>,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    hash: String,
    /// The etag of a large object, of which `hash` is the manifest's.
    #[serde(default)]
    slo_etag: Option<String>,
    #[serde(default)]
    last_modified: String,
}

impl Listed {
    pub(super) fn mtime_ms(&self) -> i64 {
        // Of Coordinated Universal Time, which Swift does not say.
        match self.last_modified.ends_with('Z') {
            true => rfc3339_ms(&self.last_modified),
            false => rfc3339_ms(&format!("{}Z", self.last_modified)),
        }
    }

    /// Whether this line does not say what the object is: Ceph lists a large object by the length of its manifest's text
    /// and by the digest of nothing. No object has such a digest and any bytes, so these lines are known.
    pub(super) fn is_of_manifest(&self) -> bool {
        self.bytes > 0 && self.hash == EMPTY_DIGEST && self.slo_etag.is_none()
    }

    /// A segment as a manifest would name it.
    pub(super) fn into_line(self, container: &str) -> ManifestLine {
        let name = format!("/{container}/{}", self.name);
        ManifestLine { name, hash: self.hash, bytes: self.bytes, sub_slo: false, range: None }
    }
}

impl From<Listed> for Key {
    fn from(listed: Listed) -> Self {
        debug_assert!(!listed.is_of_manifest(), "what lies there is to be looked at");
        if let Some(subdir) = listed.subdir {
            return Self { name: Ok(subdir), object: None };
        }
        let mtime_ms = listed.mtime_ms();
        let version = bare(listed.slo_etag.as_deref().unwrap_or(&listed.hash)).to_owned();
        Self { name: Ok(listed.name), object: Some(Object { len: listed.bytes, version, mtime_ms }) }
    }
}

/// An etag without the quotes that only those of large objects have.
pub(super) fn bare(etag: &str) -> &str {
    etag.trim_matches('"')
}

/// One segment of a manifest.
#[derive(Debug, Serialize)]
pub(super) struct Segment<'a> {
    /// With its container, and a slash in front.
    pub(super) path: String,
    pub(super) etag: &'a str,
    pub(super) size_bytes: u64,
}

pub(super) fn manifest(segments: &[Segment<'_>]) -> Bytes {
    serde_json::to_vec(segments).expect("texts and numbers make JSON").into()
}

/// One line of a manifest, as it is read back.
#[derive(Debug, Deserialize)]
pub(super) struct ManifestLine {
    /// With its container, and a slash in front.
    pub(super) name: String,
    #[serde(default)]
    pub(super) hash: String,
    #[serde(default)]
    pub(super) bytes: u64,
    /// Whether it is a manifest itself.
    #[serde(default)]
    pub(super) sub_slo: bool,
    /// Which bytes of the segment are meant, where not all are.
    #[serde(default)]
    pub(super) range: Option<String>,
}

/// What became of the deletion of a large object with its segments; also a success says it only here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Deleted {
    #[serde(default, rename = "Response Status")]
    pub(super) status: String,
    #[serde(default, rename = "Number Not Found")]
    pub(super) not_found: u64,
    #[serde(default)]
    pub(super) errors: Vec<(String, String)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read_as_it_is() {
        let text = r#"[{"subdir":"a/"},{"hash":"h1","last_modified":"2015-10-21T07:28:00.500000","bytes":7,"name":"b ü",
            "content_type":"x"},{"hash":"m","slo_etag":"\"h2\"","bytes":9,"name":"c","last_modified":"2015-10-21T07:28:00Z"}]"#;
        let keys: Vec<Key> = serde_json::from_str::<Vec<Listed>>(text).unwrap().into_iter().map(Key::from).collect();
        assert!(keys[0].object.is_none() && keys[0].name.as_deref() == Ok("a/"));
        let small = keys[1].object.as_ref().unwrap();
        assert_eq!((keys[1].name.as_deref(), small.len, small.version.as_str()), (Ok("b ü"), 7, "h1"));
        assert_eq!(small.mtime_ms, 1_445_412_480_500);
        let large = keys[2].object.as_ref().unwrap();
        assert_eq!((large.version.as_str(), large.mtime_ms), ("h2", 1_445_412_480_000));
    }

    /// Ceph's lines of an empty object, of a large one and of one that Swift would list as large.
    #[test]
    fn a_line_that_is_of_a_manifest_is_known() {
        let line = |bytes: u64, more: &str| {
            let text = format!(r#"{{"name":"k","hash":"{EMPTY_DIGEST}","bytes":{bytes}{more}}}"#);
            serde_json::from_str::<Listed>(&text).unwrap().is_of_manifest()
        };
        assert!(!line(0, "") && line(181, "") && !line(181, r#","slo_etag":"\"h\"""#));
    }

    #[test]
    fn a_manifest_and_the_word_of_a_deletion() {
        let text = manifest(&[Segment { path: "/c_segments/k/1".into(), etag: "e", size_bytes: 5 }]);
        assert_eq!(text, r#"[{"path":"/c_segments/k/1","etag":"e","size_bytes":5}]"#);
        let said: Deleted = serde_json::from_str(
            r#"{"Number Not Found":1,"Response Status":"400 Bad Request","Response Body":"","Errors":[["/c/k","403 Forbidden"]]}"#,
        )
        .unwrap();
        assert_eq!((said.status.as_str(), said.errors.len()), ("400 Bad Request", 1));
    }
}
