//! What differs between the stores that speak S3's XML. The requests themselves are made once, in `mod.rs`.
//!
//! Sources: the API references of Amazon S3, of Google Cloud Storage's XML API (headers, `PUT` and `DELETE` object,
//! multipart uploads) and of Alibaba OSS (PutObject, CopyObject, CompleteMultipartUpload, common errors).

use bytes::Bytes;
use http::HeaderMap;

use super::client::Failure;
use crate::{
    Condition,
    object::{Digest, DigestKind, Fence, Markers, Rules, text_of},
    store::Compares,
    web::header_of,
};

/// A header that is sent with one value.
pub(super) type Header = (&'static str, &'static str);

/// One way to speak S3's XML.
#[derive(Debug)]
pub(super) struct Dialect {
    /// What tells the versions of an object apart.
    pub(super) version: Version,
    /// How the names of an object's metadata begin.
    pub(super) metadata: &'static str,
    /// Says which write of Citius an object is.
    pub(super) file_id: &'static str,
    /// Names what is copied, after `copy_root`.
    pub(super) copy_source: &'static str,
    pub(super) copy_root: &'static str,
    /// Which bytes of it.
    pub(super) copy_range: &'static str,
    /// Bytes up to which an object is copied at once.
    pub(super) copy_whole_bytes_max: u64,
    /// Which version must be copied.
    pub(super) copy_if: &'static str,
    /// Which version must be read.
    pub(super) read_if: &'static str,
    /// Which version must be deleted, if the store can be told.
    pub(super) delete_if: Option<&'static str>,
    /// That nothing may be at the key of a put, a copy or a completed upload.
    create: Header,
    /// Whether that is not heeded in a bucket that keeps old versions.
    pub(super) versioned_overwrites: bool,
    /// Which version a put must replace, if the store can be told.
    replace: Option<&'static str>,
    /// Whether the end of an upload takes these conditions as well.
    completes_conditionally: bool,
    /// The status, and where it has several meanings the code, of what is there and may not be.
    exists: (u16, Option<&'static str>),
    /// Sent with reads and stats.
    pub(super) read_also: Option<Header>,
    /// Sent with a read of a whole object in place of a range: it has the store tell a digest, which it tells of no range.
    pub(super) read_whole: Option<Header>,
    /// What the head of an answer tells of the whole object.
    pub(super) digest: fn(&HeaderMap) -> Option<Digest>,
    /// What a put and a part tell of their content, where the signature does not: a header, what its value begins with, and
    /// which digest.
    sent_digest: Option<(&'static str, &'static str, DigestKind)>,
    /// Says who pays for requests; the value is the mount's.
    pub(super) payer: &'static str,
    /// Whether equal etags of a copy and its source can be demanded, if neither is of parts.
    pub(super) etags_are_digests: bool,
    /// Whether `encoding-type=url` holds of continuation tokens, too.
    pub(super) encodes_tokens: bool,
    pub(super) rules: Rules,
}

/// What tells the versions of an object apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// Its `ETag`, with its quotes.
    Etag,
    /// Its `x-goog-generation`, a number that each write of a key makes anew.
    Generation,
}

impl Version {
    /// The header of answers that tells it.
    pub(super) fn header(self) -> &'static str {
        match self {
            Self::Etag => "etag",
            Self::Generation => "x-goog-generation",
        }
    }
}

/// Amazon S3, and what speaks as it does. Its parts have at least 5 MiB.
///
/// What is sent is signed with its SHA-256, and held against that by Amazon and Ceph (SeaweedFS 4.48 does not look at it). No
/// other digest is sent: an MD5 would cost each byte more than all else, and for the others some have no header (Backblaze
/// answers 400). Of an object that is read whole Amazon tells a CRC
/// to who asks for it, and of a range none. Etags are not held against what is read: they are digests of content only where
/// nothing is encrypted, and nobody tells that of all who speak S3.
///
/// Amazon documents the conditions on the end of an upload as atomic; others look just before, so `complete` is raised
/// for Amazon's own endpoints only.
pub(super) static S3: Dialect = Dialect {
    version: Version::Etag,
    metadata: "x-amz-meta-",
    file_id: "x-amz-meta-citius-file",
    copy_source: "x-amz-copy-source",
    copy_range: "x-amz-copy-source-range",
    copy_whole_bytes_max: 256 << 20,
    copy_root: "",
    copy_if: "x-amz-copy-source-if-match",
    read_if: "if-match",
    delete_if: Some("if-match"),
    create: ("if-none-match", "*"),
    versioned_overwrites: false,
    replace: Some("if-match"),
    completes_conditionally: true,
    exists: (412, None),
    read_also: None,
    read_whole: Some(("x-amz-checksum-mode", "ENABLED")),
    digest: told_by_amazon,
    sent_digest: None,
    payer: "x-amz-request-payer",
    etags_are_digests: true,
    encodes_tokens: false,
    rules: Rules {
        key_bytes_max: 1024,
        small_bytes_max: 8 << 20,
        part_bytes: 8 << 20,
        part_bytes_max: 5 << 30,
        delete_keys_max: 1000,
        create: Compares::Atomically,
        replace: Compares::Atomically,
        complete: Compares::JustBefore,
        fence: Fence::Abort,
        markers: Markers::Within,
        drops_parts: false,
    },
};

/// Google Cloud Storage. The end of an upload takes no conditions there. An object that is stored with
/// `Content-Encoding: gzip` is sent unpacked, of unknown length and without ranges, to who does not say that it takes gzip.
pub(super) static GCS: Dialect = Dialect {
    version: Version::Generation,
    metadata: "x-goog-meta-",
    file_id: "x-goog-meta-citius-file",
    copy_source: "x-goog-copy-source",
    copy_range: "x-goog-copy-source-range",
    copy_whole_bytes_max: u64::MAX,
    copy_root: "",
    copy_if: "x-goog-copy-source-if-generation-match",
    read_if: "x-goog-if-generation-match",
    delete_if: Some("x-goog-if-generation-match"),
    create: ("x-goog-if-generation-match", "0"),
    versioned_overwrites: false,
    replace: Some("x-goog-if-generation-match"),
    completes_conditionally: false,
    exists: (412, None),
    read_also: Some(("accept-encoding", "gzip")),
    read_whole: None,
    digest: told_by_google,
    sent_digest: Some(("x-goog-hash", "crc32c=", DigestKind::Crc32c)),
    payer: "x-goog-user-project",
    etags_are_digests: false,
    encodes_tokens: false,
    rules: Rules { delete_keys_max: 1, ..S3.rules },
};

/// Alibaba OSS. It can be told that nothing may be there, unless the bucket keeps old versions, and not which version to
/// replace or to delete. Objects of any
/// size are copied within their bucket; etags are digests only of what was put.
pub(super) static OSS: Dialect = Dialect {
    version: Version::Etag,
    metadata: "x-oss-meta-",
    file_id: "x-oss-meta-citius-file",
    copy_source: "x-oss-copy-source",
    copy_range: "x-oss-copy-source-range",
    copy_whole_bytes_max: u64::MAX,
    copy_root: "/",
    copy_if: "x-oss-copy-source-if-match",
    read_if: "if-match",
    delete_if: None,
    create: ("x-oss-forbid-overwrite", "true"),
    versioned_overwrites: true,
    replace: None,
    completes_conditionally: true,
    exists: (409, Some("FileAlreadyExists")),
    read_also: None,
    read_whole: None,
    digest: told_by_alibaba,
    sent_digest: Some(("content-md5", "", DigestKind::Md5)),
    payer: "x-oss-request-payer",
    etags_are_digests: false,
    encodes_tokens: true,
    rules: Rules { key_bytes_max: 1023, replace: Compares::JustBefore, complete: Compares::JustBefore, ..S3.rules },
};

impl Dialect {
    /// The header by which a put has the store judge a condition, if it can.
    pub(super) fn put_if<'a>(&self, condition: &'a Condition) -> Option<(&'static str, &'a str)> {
        match condition {
            Condition::Any => None,
            Condition::MustNotExist => Some(self.create),
            Condition::Replaces(token) => Some((self.replace?, text_of(token).unwrap_or_default())),
        }
    }

    /// The same of the end of an upload.
    pub(super) fn complete_if<'a>(&self, condition: &'a Condition) -> Option<(&'static str, &'a str)> {
        self.put_if(condition).filter(|_| self.completes_conditionally)
    }

    /// The header by which the store sees whether it got the content that was sent.
    pub(super) async fn sent_digest(&self, content: &[Bytes]) -> Option<(&'static str, String)> {
        let (name, prefix, kind) = self.sent_digest?;
        Some((name, format!("{prefix}{}", kind.of(content).await.to_base64())))
    }

    /// The header by which a copy has nothing replaced.
    pub(super) fn create_only(&self) -> Header {
        self.create
    }

    /// Whether a failure says that something is there which may not be.
    pub(super) fn says_exists(&self, failure: &Failure) -> bool {
        let (status, code) = self.exists;
        failure.status == status && code.is_none_or(|code| failure.code == code)
    }
}

/// One of several, in headers of their own; that of an object of parts may be one of their digests.
fn told_by_amazon(headers: &HeaderMap) -> Option<Digest> {
    const TOLD: [(&str, DigestKind); 3] = [
        ("x-amz-checksum-crc64nvme", DigestKind::Crc64Nvme),
        ("x-amz-checksum-crc32c", DigestKind::Crc32c),
        ("x-amz-checksum-crc32", DigestKind::Crc32),
    ];
    if header_of(headers, "x-amz-checksum-type").is_some_and(|of| !of.eq_ignore_ascii_case("FULL_OBJECT")) {
        return None;
    }
    TOLD.into_iter().find_map(|(name, kind)| Digest::from_base64(kind, header_of(headers, name)?))
}

/// `x-goog-hash: crc32c=…,md5=…`, in one header or several.
fn told_by_google(headers: &HeaderMap) -> Option<Digest> {
    let values = headers.get_all("x-goog-hash").into_iter().filter_map(|value| value.to_str().ok());
    let mut told = values.flat_map(|value| value.split(',')).filter_map(|digest| digest.trim().strip_prefix("crc32c="));
    Digest::from_base64(DigestKind::Crc32c, told.next()?)
}

fn told_by_alibaba(headers: &HeaderMap) -> Option<Digest> {
    Digest::from_decimal(DigestKind::Crc64Xz, header_of(headers, "x-oss-hash-crc64ecma")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VersionToken;

    /// A condition that a store cannot judge must not be sent in a header that it ignores: it would be believed.
    #[test]
    fn what_cannot_be_judged_is_not_asked() {
        let replaces = Condition::Replaces(VersionToken::new(b"7").unwrap());
        let sent =
            |dialect: &Dialect, condition| dialect.put_if(condition).map(|(name, value)| format!("{name}: {value}"));
        assert_eq!(sent(&S3, &replaces).as_deref(), Some("if-match: 7"));
        assert_eq!(sent(&GCS, &replaces).as_deref(), Some("x-goog-if-generation-match: 7"));
        assert_eq!(sent(&OSS, &replaces), None);
        assert_eq!(sent(&GCS, &Condition::MustNotExist).as_deref(), Some("x-goog-if-generation-match: 0"));
        for dialect in [&S3, &GCS, &OSS] {
            assert_eq!(sent(dialect, &Condition::Any), None);
            let atomic = dialect.rules.replace == Compares::Atomically;
            assert_eq!(dialect.replace.is_some(), atomic, "{dialect:?}");
        }
        assert_eq!(GCS.complete_if(&Condition::MustNotExist), None);
        assert_eq!(OSS.complete_if(&Condition::MustNotExist), Some(("x-oss-forbid-overwrite", "true")));
    }
}
