//! `hdfs://` under-stores: Hadoop's file system, by its own protocol. Through the crate `hdfs-native`, without Java.
//!
//! What file systems on a network have in common is in `tree/`; here are the calls of this one. Name services with
//! several name nodes fail over inside the client.
//!
//! - A version is length and modification time in milliseconds. The name node also numbers files, but the client does
//!   not pass the number on; so where a file replaces one of its own length, its time is set one millisecond later
//!   if it is not later by itself.
//! - A rename happens in one step under the name node's lock, onto nothing or over a file, as is asked.
//! - A file is finished by `hsync` and close: its last block lies on the disks of its data nodes. Where the close fails
//!   after that, the name node is asked to close the file, as it does for writers that are gone (`recoverLease`). Files of
//!   an erasure-coded folder know no `hsync`.
//! - A file is created in the mount's own staging folder. It has the encryption zone, the erasure coding and the default
//!   access list of that folder, not of the one that it is renamed to; HDFS refuses a rename into another
//!   encryption zone.
//! - No name holds a colon.
//!
//! `connect.rs` reads URI and options.

mod connect;

use std::{io, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use hdfs_native::{
    Client, HdfsError, WriteOptions,
    client::FileStatus,
    file::{FileReader, FileWriter},
};

pub(crate) use self::connect::open;
use crate::{
    Error, Result,
    error::Source,
    store::Compares,
    tree::{ADVICE_UNREACHABLE, Chunks, Listing, Node, Protocol, Rules, Sink, Span, What},
};

const MILLISECOND_NS: i64 = 1_000_000;
/// How often a name node is asked to close a file for its writer, and the pause after each time. Data nodes are told of it by
/// their next heartbeat, every three seconds, and old name nodes begin anew when they are asked meanwhile.
const CLOSE_TRIES_MAX: usize = 6;
const CLOSE_PAUSE: Duration = Duration::from_secs(5);
/// Says to `set_times` that a time stays as it is.
const UNCHANGED: u64 = u64::MAX;
/// Permissions of a directory that is its owner's alone.
const PRIVATE_MODE: u32 = 0o700;

/// What to do about a user or ticket that is refused.
const ADVICE_WRONG_KEYS: &str = "check hadoop_user, or the Kerberos ticket of this process (klist)";

/// What to do where Kerberos is wanted and nobody is logged in.
const ADVICE_NO_TICKET: &str = "set kerberos_principal and kerberos_keytab, or log in with kinit and set \
    kerberos_principal and kerberos_cache; hdfs_conf_dir is to name the folder of the cluster's core-site.xml and \
    hdfs-site.xml";
/// A name node that wants Kerberos of a client without, or does not let it act for another, says so and closes the
/// connection; the client loses its words.
const ADVICE_CLOSED: &str = "check that it runs; if it wants Kerberos, set kerberos_principal and kerberos_keytab, or \
    hdfs_conf_dir to the folder of the cluster's core-site.xml and hdfs-site.xml; with Kerberos, hadoop_user is for whom \
    the cluster lets the principal act (hadoop.proxyuser)";
const ADVICE_NO_LIBRARY: &str = "install libgssapi-krb5-2 (Debian) or krb5-libs (Red Hat)";
/// GSSAPI's code for having no credentials (RFC 2744, 3.9.1), among the routine errors of a status.
const GSS_NO_CRED: u32 = 7;

/// A folder of an HDFS.
struct Hdfs {
    client: Client,
    /// Of a name service: gives up after few rounds over its name nodes, and so can say why.
    hasty: Option<Client>,
    /// What errors call the cluster.
    endpoint: String,
    /// The mounted folder: an absolute path without a slash at its end, so empty for all of the file system.
    root: String,
    /// Of files that are created.
    options: WriteOptions,
    /// Permissions of directories that are created.
    dir_mode: u32,
}

impl Hdfs {
    fn at(&self, path: &str) -> String {
        match (self.root.as_str(), path) {
            ("", "") => "/".to_owned(),
            (root, "") => root.to_owned(),
            (root, path) => format!("{root}/{path}"),
        }
    }

    fn failed(&self, path: &str, error: HdfsError) -> Error {
        failed(&self.endpoint, path, error)
    }
}

#[async_trait]
impl Protocol for Hdfs {
    fn endpoint(&self) -> &str {
        &self.endpoint
    }

    fn rules(&self) -> Rules {
        Rules {
            writes: true,
            lists: true,
            create_only: Compares::Atomically,
            mtime_step_ns: Some(MILLISECOND_NS),
            keeps_tags: true,
            refuses_full: true,
            refused_characters: ":",
        }
    }

    async fn reach(&self) -> Result<()> {
        let Some(client) = &self.hasty else { return Ok(()) };
        match client.get_file_info(&self.at("")).await.map_err(|error| self.failed("", error)) {
            // Somebody answers; of what is there the check goes on to tell.
            Ok(_) | Err(Error::NotFound { .. } | Error::PermissionDenied { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn stat(&self, path: &str) -> Result<Node> {
        let status = self.client.get_file_info(&self.at(path)).await;
        status.map(|status| node_of(&status)).map_err(|error| self.failed(path, error))
    }

    fn list(&self, dir: &str) -> Listing {
        let (at, endpoint, dir) = (self.at(dir), self.endpoint.clone(), dir.to_owned());
        let prefix = if at == "/" { at.clone() } else { format!("{at}/") };
        // The client panics at a name that is not UTF-8, which no name node gives out.
        self.client
            .list_status_iter(&at, false)
            .into_stream()
            .map(move |status| {
                let status = status.map_err(|error| failed(&endpoint, &dir, error))?;
                match status.path.strip_prefix(&prefix) {
                    Some(name) => Ok((Ok(name.to_owned()), node_of(&status))),
                    // A file is listed as itself.
                    None => Err(Error::NotADirectory { path: dir.clone() }),
                }
            })
            .boxed()
    }

    async fn read(&self, path: &str, span: Span<'_>) -> Result<Chunks> {
        let reader: FileReader = self.client.read(&self.at(path)).await.map_err(|error| self.failed(path, error))?;
        if reader.file_length() as u64 != span.version.len {
            return Err(Error::VersionChanged { path: path.to_owned() });
        }
        let (offset, len) = (span.offset as usize, span.len as usize);
        let (endpoint, path) = (self.endpoint.clone(), path.to_owned());
        let chunks = reader.read_range_stream(offset, len).boxed();
        // The blocks that were found are read, whatever is at the path meanwhile; of which version they are is not told.
        Ok(chunks.map(move |chunk| chunk.map_err(|error| failed(&endpoint, &path, error))).boxed())
    }

    async fn create(&self, path: &str, shown: &str) -> Result<Box<dyn Sink>> {
        let at = self.at(path);
        let created = self.client.create(&at, &self.options).await;
        let writer = created.map_err(|error| self.failed(path, error))?;
        let (client, endpoint) = (self.client.clone(), self.endpoint.clone());
        Ok(Box::new(HdfsSink { writer, client, at, endpoint, path: shown.to_owned() }))
    }

    async fn mkdir(&self, path: &str, is_private: bool) -> Result<()> {
        let mode = if is_private { PRIVATE_MODE } else { self.dir_mode };
        self.client.mkdirs(&self.at(path), mode, false).await.map_err(|error| self.failed(path, error))
    }

    async fn rename(&self, from: &str, to: &str, replace: bool) -> Result<()> {
        let renamed = self.client.rename(&self.at(from), &self.at(to), replace).await;
        renamed.map_err(|error| self.failed(to, error))
    }

    async fn delete_file(&self, path: &str) -> Result<()> {
        self.delete(path, false).await
    }

    async fn delete_dir(&self, path: &str) -> Result<()> {
        self.delete(path, false).await
    }

    async fn delete_tree(&self, path: &str) -> Result<bool> {
        self.delete(path, true).await.map(|()| true)
    }

    async fn set_mtime(&self, path: &str, mtime_ns: i64) -> Result<()> {
        let mtime_ms = u64::try_from(mtime_ns / MILLISECOND_NS).unwrap_or(0);
        let set = self.client.set_times(&self.at(path), mtime_ms, UNCHANGED).await;
        set.map_err(|error| self.failed(path, error))
    }

    async fn set_mode(&self, path: &str, mode: u32) -> Result<()> {
        let set = self.client.set_permission(&self.at(path), mode).await;
        set.map_err(|error| self.failed(path, error))
    }
}

impl Hdfs {
    async fn delete(&self, path: &str, recursive: bool) -> Result<()> {
        match self.client.delete(&self.at(path), recursive).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::NotFound { path: path.to_owned() }),
            Err(error) => Err(self.failed(path, error)),
        }
    }
}

fn node_of(status: &FileStatus) -> Node {
    let mtime_ns = i64::try_from(status.modification_time).unwrap_or(0).saturating_mul(MILLISECOND_NS);
    if status.isdir {
        return Node::dir(mtime_ns);
    }
    let mode = Some(u32::from(status.permission));
    Node { what: What::File, len: status.length as u64, mtime_ns, tag: String::new(), mode }
}

/// A file that is being written. The client renews its lease until it is closed or dropped.
struct HdfsSink {
    writer: FileWriter,
    client: Client,
    /// Where it lies in the cluster.
    at: String,
    endpoint: String,
    /// What errors call it.
    path: String,
}

impl HdfsSink {
    /// Has the name node close the file with what its data nodes have of it, and says whether that was done.
    async fn is_closed_without_us(&self) -> bool {
        for _ in 0..CLOSE_TRIES_MAX {
            match self.client.recover_lease(&self.at).await {
                Ok(true) => return true,
                Ok(false) => tokio::time::sleep(CLOSE_PAUSE).await,
                Err(error) => {
                    tracing::debug!(%error, path = self.path, "the name node does not close the file");
                    return false;
                }
            }
        }
        false
    }
}

#[async_trait]
impl Sink for HdfsSink {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let written = Box::pin(self.writer.write_bytes(bytes)).await;
        written.map(drop).map_err(|error| failed(&self.endpoint, &self.path, error))
    }

    async fn finish(&mut self) -> Result<()> {
        let is_synced = match self.writer.hsync().await {
            Ok(()) => true,
            // That is how an erasure-coded file answers.
            Err(HdfsError::OperationFailed(_)) => false,
            Err(error) => return Err(failed(&self.endpoint, &self.path, error)),
        };
        match Box::pin(self.writer.close()).await {
            // Every byte is on the disks of the data nodes. Where content is signed or encrypted by SASL, the client sends
            // an empty message after the last packet; a data node that has closed the connection by then resets it, and
            // the client takes the file for lost.
            Err(error) if is_synced && self.is_closed_without_us().await => {
                tracing::debug!(%error, path = self.path, "the name node closed the file, and its writer could not");
                Ok(())
            }
            closed => closed.map_err(|error| failed(&self.endpoint, &self.path, error)),
        }
    }
}

/// The error that the client means.
fn failed(endpoint: &str, path: &str, error: HdfsError) -> Error {
    let shown = || path.to_owned();
    let unreachable =
        |reason: String| Error::Unreachable { endpoint: endpoint.to_owned(), reason, advice: ADVICE_UNREACHABLE };
    let wrong_keys =
        |reason: String| Error::WrongKeys { endpoint: endpoint.to_owned(), reason, advice: ADVICE_WRONG_KEYS };
    let no_keys = |reason: String, advice| Error::MissingKeys { endpoint: endpoint.to_owned(), reason, advice };
    match error {
        HdfsError::AlreadyExists(_) => Error::AlreadyExists { path: shown() },
        HdfsError::FileNotFound(_) => Error::NotFound { path: shown() },
        HdfsError::IOError(error) if error.kind() == io::ErrorKind::ConnectionAborted => Error::Unreachable {
            endpoint: endpoint.to_owned(),
            reason: "it closed the connection".into(),
            advice: ADVICE_CLOSED,
        },
        HdfsError::IOError(error) => unreachable(error.to_string()),
        // The client goes on to tell all that it knows of each node.
        HdfsError::DataTransferError(reason) => {
            unreachable(format!("its data nodes: {}", reason.split(": [").next().unwrap_or_default()))
        }
        HdfsError::SASLError(reason) => wrong_keys(format!("SASL: {reason}")),
        HdfsError::GSSAPIError(status, _, reason) if status.raw() >> 16 & 0xff == GSS_NO_CRED => {
            no_keys(format!("it wants Kerberos: {reason}"), ADVICE_NO_TICKET)
        }
        HdfsError::OperationFailed(reason) if reason.contains("libgssapi") => {
            no_keys("it wants Kerberos, whose library libgssapi_krb5.so.2 cannot be loaded".into(), ADVICE_NO_LIBRARY)
        }
        HdfsError::GSSAPIError(_, _, reason) => wrong_keys(format!("Kerberos: {reason}")),
        HdfsError::NoSASLMechanism => {
            no_keys("it wants Kerberos or a token, and neither is at hand".into(), ADVICE_NO_TICKET)
        }
        HdfsError::RPCError(class, message) | HdfsError::FatalRPCError(class, message) => {
            refused(endpoint, path, &class, first_line(&message))
        }
        other => Error::Store { path: shown(), source: Source::from(other) },
    }
}

/// The error that an exception of the name node means.
fn refused(endpoint: &str, path: &str, class: &str, message: &str) -> Error {
    let (path, reason) = (path.to_owned(), message.to_owned());
    match class.rsplit(['.', '$']).next().unwrap_or(class) {
        "FileNotFoundException" | "ParentNotDirectoryException" => Error::NotFound { path },
        // How a look below a file is answered.
        "AccessControlException" if message.ends_with("(is not a directory)") => Error::NotFound { path },
        "FileAlreadyExistsException" => Error::AlreadyExists { path },
        "PathIsNotEmptyDirectoryException" => Error::NotEmpty { path },
        "AccessControlException" => Error::PermissionDenied { path, reason },
        "AuthorizationException" | "SaslException" | "GSSException" | "InvalidToken" => {
            Error::WrongKeys { endpoint: endpoint.to_owned(), reason, advice: ADVICE_WRONG_KEYS }
        }
        "InvalidPathException" | "PathComponentTooLongException" | "MaxDirectoryItemsExceededException" => {
            Error::Unnameable { path, reason }
        }
        "DSQuotaExceededException" | "NSQuotaExceededException" | "QuotaByStorageTypeExceededException" => {
            Error::NoSpace { path }
        }
        "SafeModeException" | "StandbyException" | "RetriableException" => {
            Error::Unreachable { endpoint: endpoint.to_owned(), reason, advice: ADVICE_UNREACHABLE }
        }
        name => Error::Store { path, source: format!("{name}: {message}").into() },
    }
}

/// An exception's message without its stack.
fn first_line(message: &str) -> &str {
    message.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_taken_for_what_they_mean() {
        let of = |class: &str| {
            let message = "what happened\n\tat org.apache.hadoop.Some.where(Some.java:1)".to_owned();
            failed("hdfs://nn:1", "d/f", HdfsError::RPCError(class.to_owned(), message))
        };
        assert!(matches!(of("java.io.FileNotFoundException"), Error::NotFound { .. }));
        assert!(matches!(of("org.apache.hadoop.fs.ParentNotDirectoryException"), Error::NotFound { .. }));
        let long = of("org.apache.hadoop.hdfs.protocol.FSLimitException$PathComponentTooLongException");
        assert!(matches!(long, Error::Unnameable { .. }));
        let denied = of("org.apache.hadoop.security.AccessControlException").to_string();
        assert!(denied.contains("what happened") && !denied.contains("Some.java"), "{denied}");
        let closed = HdfsError::IOError(io::ErrorKind::ConnectionAborted.into());
        let closed = failed("hdfs://nn:1", "", closed);
        assert!(closed.is_transient() && closed.to_string().contains("kerberos_keytab"), "{closed}");
        let library = HdfsError::OperationFailed("Failed to load libgssapi_krb".into());
        let library = failed("hdfs://nn:1", "", library).to_string();
        assert!(library.contains("Kerberos") && library.contains("install"), "{library}");
        let other = of("java.io.IOException").to_string();
        assert!(other.contains("IOException: what happened"), "{other}");
    }
}
