//! The documents of S3: what it answers, and the one that it is sent.
//!
//! Keys are asked for percent-encoded, so that one which XML cannot hold is a refusal instead of the end of a list.

use bytes::Bytes;
use serde::Deserialize;

use super::{
    client::decode_key,
    dialect::{Dialect, Version},
};
use crate::{
    Part,
    object::{Key, Keys, Object, Upload, Uploads, UploadsFrom},
    web::{Document, rfc3339_ms},
};

/// One page of keys.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListAnswer {
    #[serde(default)]
    contents: Vec<Contents>,
    #[serde(default)]
    common_prefixes: Vec<CommonPrefix>,
    next_continuation_token: Option<String>,
    /// Where it is not said, a token says it.
    is_truncated: Option<bool>,
    /// Absent when the server ignored the wish to have keys encoded. Google writes it with a hyphen.
    #[serde(alias = "Encoding-Type")]
    encoding_type: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Contents {
    key: String,
    size: u64,
    #[serde(default)]
    last_modified: String,
    #[serde(default, rename = "ETag")]
    etag: String,
    #[serde(default)]
    generation: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CommonPrefix {
    prefix: String,
}

impl ListAnswer {
    /// The keys, as a dialect means them.
    pub(super) fn into_keys(self, dialect: &Dialect) -> Keys {
        let encoded = self.encoding_type.as_deref() == Some("url");
        let decode = |key: String| if encoded { decode_key(&key) } else { Ok(key) };
        let objects = self.contents.into_iter().map(|found| {
            let version = match dialect.version {
                Version::Etag => found.etag,
                Version::Generation => found.generation,
            };
            let object = Object { len: found.size, version, mtime_ms: rfc3339_ms(&found.last_modified) };
            Key { name: decode(found.key), object: Some(object) }
        });
        let prefixes = self.common_prefixes.into_iter().map(|found| Key { name: decode(found.prefix), object: None });
        let next = self.next_continuation_token.filter(|token| self.is_truncated != Some(false) && !token.is_empty());
        let next = next.map(|token| match decode_key(&token) {
            Ok(token) if encoded && dialect.encodes_tokens => token,
            _ => token,
        });
        Keys { keys: objects.chain(prefixes).collect(), next }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InitiateAnswer {
    pub(super) upload_id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CompleteAnswer {
    #[serde(default, rename = "ETag")]
    pub(super) etag: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CopyPartAnswer {
    #[serde(default, rename = "ETag")]
    pub(super) etag: String,
}

/// Which keys could not be deleted.
#[derive(Debug, Deserialize)]
pub(super) struct DeleteAnswer {
    #[serde(default, rename = "Error")]
    pub(super) errors: Vec<DeleteError>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct DeleteError {
    pub(super) key: String,
    pub(super) code: String,
    pub(super) message: String,
}

/// One page of uploads under way.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct UploadsAnswer {
    #[serde(default, rename = "Upload")]
    uploads: Vec<UploadUnderWay>,
    #[serde(default)]
    is_truncated: bool,
    next_key_marker: Option<String>,
    next_upload_id_marker: Option<String>,
    #[serde(alias = "Encoding-Type")]
    encoding_type: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UploadUnderWay {
    key: String,
    upload_id: String,
    #[serde(default)]
    initiated: String,
}

impl UploadsAnswer {
    /// Whether the server says that it encoded the keys.
    pub(super) fn says_encoded(&self) -> bool {
        self.encoding_type.as_deref() == Some("url")
    }
}

impl From<UploadsAnswer> for Uploads {
    fn from(page: UploadsAnswer) -> Self {
        let encoded = page.says_encoded();
        let uploads = page.uploads.into_iter().map(|found| Upload {
            key: if encoded { decode_key(&found.key).ok() } else { Some(found.key) },
            id: found.upload_id,
            begun_ms: rfc3339_ms(&found.initiated),
        });
        let decode = |text: String| if encoded { decode_key(&text).unwrap_or(text) } else { text };
        let next = page.next_key_marker.filter(|_| page.is_truncated);
        let id = page.next_upload_id_marker.unwrap_or_default();
        Self { uploads: uploads.collect(), next: next.map(|key| UploadsFrom { key: decode(key), id }) }
    }
}

/// Whether a bucket keeps old versions.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct VersioningAnswer {
    /// Empty if it never did.
    #[serde(default)]
    pub(super) status: String,
}

impl Document for ListAnswer {
    const ROOT: &'static str = "ListBucketResult";
}

impl Document for InitiateAnswer {
    const ROOT: &'static str = "InitiateMultipartUploadResult";
}

impl Document for CompleteAnswer {
    const ROOT: &'static str = "CompleteMultipartUploadResult";
}

impl Document for CopyPartAnswer {
    const ROOT: &'static str = "CopyPartResult";
}

impl Document for DeleteAnswer {
    const ROOT: &'static str = "DeleteResult";
}

impl Document for UploadsAnswer {
    const ROOT: &'static str = "ListMultipartUploadsResult";
}

impl Document for VersioningAnswer {
    const ROOT: &'static str = "VersioningConfiguration";
}

/// What deletes keys, and is answered by those that could not be.
pub(super) fn delete_body(keys: &[String]) -> Bytes {
    let mut xml = String::from("<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Quiet>true</Quiet>");
    for key in keys {
        xml.push_str("<Object><Key>");
        xml.push_str(&quick_xml::escape::escape(key.as_str()));
        xml.push_str("</Key></Object>");
    }
    xml.push_str("</Delete>");
    xml.into()
}

/// What completes an upload.
pub(super) fn complete_body(parts: &[Part]) -> Bytes {
    use std::fmt::Write;

    let mut xml = String::from("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for part in parts {
        let etag = quick_xml::escape::escape(part.tag.as_str());
        write!(xml, "<Part><ETag>{etag}</ETag><PartNumber>{}</PartNumber></Part>", part.number)
            .expect("a String takes all");
    }
    xml.push_str("</CompleteMultipartUpload>");
    xml.into()
}
