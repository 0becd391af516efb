//! The namespace: what is where, and changes of names.

use crate::client::{Client, Shared, failed_at};
use crate::error::Error;
use crate::listing::Listing;
use crate::retry::Retry;
use citius_wire::{
    Batch, ClusterInfo, Failure, FileInfo, HEADER_BYTES_MAX, MountCheckup, MountInfo, NamespacePath, OPERATIONS_MAX,
    Operation, Outcome, SecretText, Serial, Status,
};

/// Bytes that one batch may hold, of the question and, by the same measure, of its answer. A header is at most
/// [`HEADER_BYTES_MAX`]; what is left of it pays for a measure that is only an estimate.
const BATCH_BYTES_MAX: usize = HEADER_BYTES_MAX - (HEADER_BYTES_MAX / 8);
/// What an operation and its answer take beside the text in them: fixed fields, and a capability.
const OPERATION_BYTES: usize = 512;

/// What is mounted, and how.
#[derive(Clone, Default)]
pub struct MountOptions {
    /// Options of the under-store by `object_store`'s names; values may be secrets.
    pub options: Vec<(String, SecretText)>,
    /// Whether writes are refused.
    pub read_only: bool,
    /// How long metadata of the under-store is believed: -1 for ever, 0 never, else milliseconds; `None` for the
    /// default of its scheme.
    pub sync_interval_ms: Option<i64>,
}

impl core::fmt::Debug for MountOptions {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let names: Vec<_> = self.options.iter().map(|(name, _)| name).collect();
        f.debug_struct("MountOptions")
            .field("options", &names)
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// What is at a path.
    ///
    /// # Errors
    /// `NotFound`, or any class that a master answers with.
    pub fn stat(&self, path: &str) -> Result<FileInfo, Error> {
        let path = normal(path)?;
        match self.operate(Operation::Stat { path: path.to_string() }, &path)? {
            Outcome::Info(info) => Ok(info),
            _ => Err(self.other_outcome()),
        }
    }

    /// The entries of a directory in name order, page by page as the iterator is driven.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no path. All else comes from the iterator.
    pub fn list(&self, path: &str) -> Result<Listing, Error> {
        self.list_from(path, "", None)
    }

    /// As [`Client::list`], only names after `after` and at most `limit` entries.
    ///
    /// # Errors
    /// As [`Client::list`].
    pub fn list_from(&self, path: &str, after: &str, limit: Option<u64>) -> Result<Listing, Error> {
        Ok(Listing::new(self.0.clone(), normal(path)?, after.to_owned(), limit))
    }

    /// Makes a directory. With `parents`, missing parents too, and one that is there is no error.
    ///
    /// # Errors
    /// `AlreadyExists`, `NotFound`, or any class that a master answers with.
    pub fn mkdir(&self, path: &str, parents: bool) -> Result<(), Error> {
        let path = normal(path)?;
        self.operate_done(Operation::Mkdir { path: path.to_string(), parents }, &path)
    }

    /// Removes a file or a directory, with all that is in it if `recursive`.
    ///
    /// # Errors
    /// `NotFound`, `NotEmpty`, or any class that a master answers with.
    pub fn delete(&self, path: &str, recursive: bool) -> Result<(), Error> {
        let path = normal(path)?;
        self.operate_done(Operation::Delete { path: path.to_string(), recursive }, &path)
    }

    /// Renames a file or a directory; with `overwrite`, a file that is there is replaced.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`, `CrossMount`, or any class that a master answers with.
    pub fn rename(&self, from: &str, to: &str, overwrite: bool) -> Result<(), Error> {
        let (from, to) = (normal(from)?, normal(to)?);
        self.operate_done(Operation::Rename { from: from.to_string(), to: to.to_string(), overwrite }, &from)
    }

    /// Mounts an under-store.
    ///
    /// # Errors
    /// Any class that a master answers with.
    pub fn mount_add(&self, path: &str, uri: &str, options: MountOptions) -> Result<MountInfo, Error> {
        let path = normal(path)?;
        let operation = Operation::MountAdd {
            path: path.to_string(),
            uri: uri.to_owned(),
            options: options.options,
            read_only: options.read_only,
            sync_interval_ms: options.sync_interval_ms,
        };
        match self.operate(operation, &path)? {
            Outcome::Mount(mount) => Ok(*mount),
            _ => Err(self.other_outcome()),
        }
    }

    /// Gives a mount other options, such as other keys, and takes some from it; its under-store stays, and all that is known
    /// and held of its files. Where the under-store does not work with them, nothing is changed.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument`, or any class that a master answers with.
    pub fn mount_set(
        &self,
        path: &str,
        options: Vec<(String, SecretText)>,
        unset: Vec<String>,
    ) -> Result<MountInfo, Error> {
        let path = normal(path)?;
        match self.operate(Operation::MountSet { path: path.to_string(), options, unset }, &path)? {
            Outcome::Mount(mount) => Ok(*mount),
            _ => Err(self.other_outcome()),
        }
    }

    /// Removes a mount; the under-store keeps its files.
    ///
    /// # Errors
    /// `NotFound`, or any class that a master answers with.
    pub fn mount_remove(&self, path: &str) -> Result<(), Error> {
        let path = normal(path)?;
        self.operate_done(Operation::MountRemove { path: path.to_string() }, &path)
    }

    /// Looks at the under-store of a mount, step by step, as the master sees it. With `may_write` a directory is made
    /// there, used and deleted.
    ///
    /// # Errors
    /// `NotFound`, or any class that a master answers with. What the under-store refuses is in the answer.
    pub fn mount_check(&self, path: &str, may_write: bool) -> Result<MountCheckup, Error> {
        let path = normal(path)?;
        match self.operate(Operation::MountCheck { path: path.to_string(), may_write }, &path)? {
            Outcome::Checkup(checkup) => Ok(*checkup),
            _ => Err(self.other_outcome()),
        }
    }

    /// All mounts, without secrets.
    ///
    /// # Errors
    /// Any class that a master answers with.
    pub fn mounts(&self) -> Result<Vec<MountInfo>, Error> {
        match self.0.operate(Operation::MountList, self.0.deadline())? {
            Outcome::Mounts(mounts) => Ok(mounts),
            _ => Err(self.other_outcome()),
        }
    }

    /// Health, workers, capacity, traffic.
    ///
    /// # Errors
    /// Any class that a master answers with.
    pub fn cluster(&self) -> Result<ClusterInfo, Error> {
        match self.0.operate(Operation::Cluster, self.0.deadline())? {
            Outcome::Cluster(cluster) => Ok(*cluster),
            _ => Err(self.other_outcome()),
        }
    }

    /// Does operations in order, many to a frame. Each succeeds or fails alone; an operation whose failure may pass is
    /// tried again under its own serial, after those that follow it in the same frame.
    pub fn batch(&self, operations: Vec<Operation>) -> Vec<Result<Outcome, Error>> {
        let mut results = Vec::with_capacity(operations.len());
        let mut rest = operations.into_iter().peekable();
        while rest.peek().is_some() {
            let (mut part, mut bytes) = (Vec::new(), 0);
            while let Some(operation) = rest.next_if(|operation| {
                part.is_empty()
                    || (part.len() < OPERATIONS_MAX && bytes + operation_bytes(operation) <= BATCH_BYTES_MAX)
            }) {
                bytes += operation_bytes(&operation);
                part.push(operation);
            }
            if bytes > BATCH_BYTES_MAX {
                let error = Error::new(Status::InvalidArgument, format!("an operation of {bytes} bytes is too long"));
                results.push(Err(error));
                continue;
            }
            results.extend(self.0.operate_all(&part));
        }
        results
    }

    fn operate(&self, operation: Operation, path: &NamespacePath) -> Result<Outcome, Error> {
        self.0.operate(operation, self.0.deadline()).map_err(|error| error.at(path))
    }

    fn operate_done(&self, operation: Operation, path: &NamespacePath) -> Result<(), Error> {
        match self.operate(operation, path)? {
            Outcome::Done => Ok(()),
            _ => Err(self.other_outcome()),
        }
    }

    fn other_outcome(&self) -> Error {
        self.0.unexpected("the outcome is not one of the operation")
    }
}

impl Shared {
    /// Does the operations of one frame.
    pub(crate) fn operate_all(&self, operations: &[Operation]) -> Vec<Result<Outcome, Error>> {
        let deadline = self.deadline();
        let mut retry = Retry::new(deadline, self);
        let first = self.serials(operations.len());
        let mut results: Vec<Option<Result<Outcome, Failure>>> = vec![None; operations.len()];
        loop {
            if let Err(error) = self.operate_pending(first, operations, &mut results, deadline) {
                // What was answered stands; of the rest nobody knows.
                return results
                    .into_iter()
                    .zip(operations)
                    .map(|(result, operation)| match result {
                        Some(result) => result.map_err(|failure| failed_at(failure, path_of(operation))),
                        None => Err(error.clone()),
                    })
                    .collect();
            }
            let passing = results.iter().flatten().filter_map(|result| result.as_ref().err());
            let passing = passing.into_iter().find(|failure| failure.status.is_retryable()).cloned();
            let again = match passing {
                Some(failure) => retry.pause(failure.into()).is_ok(),
                None => false,
            };
            if !again {
                return results
                    .into_iter()
                    .zip(operations)
                    .map(|(result, operation)| {
                        let result = result.expect("every operation of the frame was answered");
                        result.map_err(|failure| failed_at(failure, path_of(operation)))
                    })
                    .collect();
            }
        }
    }

    /// Asks for those operations that have no result or one that may pass, run by run, so that each keeps its serial.
    fn operate_pending(
        &self,
        first: Serial,
        operations: &[Operation],
        results: &mut [Option<Result<Outcome, Failure>>],
        deadline: crate::deadline::Deadline,
    ) -> Result<(), Error> {
        let is_pending = |result: &Option<Result<Outcome, Failure>>| match result {
            None => true,
            Some(result) => result.as_ref().is_err_and(|failure| failure.status.is_retryable()),
        };
        let mut start = 0;
        while start < operations.len() {
            let run = results[start..].iter().take_while(|result| is_pending(result)).count();
            if run == 0 {
                start += 1;
                continue;
            }
            let range = start..start + run;
            let batch = Batch { first: Serial(first.0 + start as u64), operations: operations[range.clone()].to_vec() };
            let reply = self.ask_master(&batch, deadline)?;
            if reply.results.len() != run {
                return Err(self.unexpected("it answered a batch with another number of results"));
            }
            for (slot, result) in results[range].iter_mut().zip(reply.results) {
                *slot = Some(result);
            }
            start += run;
        }
        Ok(())
    }
}

/// A path as masters take it.
pub(crate) fn normal(path: &str) -> Result<NamespacePath, Error> {
    NamespacePath::parse(path).map_err(|failure| Error::from(failure).at(path))
}

/// The path that a failure of the operation is about.
fn path_of(operation: &Operation) -> Option<&str> {
    match operation {
        Operation::Stat { path }
        | Operation::Open { path, .. }
        | Operation::Create { path, .. }
        | Operation::Mkdir { path, .. }
        | Operation::Delete { path, .. }
        | Operation::Rename { from: path, .. }
        | Operation::MountAdd { path, .. }
        | Operation::MountRemove { path }
        | Operation::MountSet { path, .. }
        | Operation::MountCheck { path, .. } => Some(path),
        _ => None,
    }
}

fn options_bytes(options: &[(String, SecretText)]) -> usize {
    options.iter().map(|(key, value)| key.len() + value.expose().len() + 16).sum()
}

/// An estimate, from above, of what the operation or its answer takes of a header. Answers repeat the path, once in
/// what is there and once in the capability.
fn operation_bytes(operation: &Operation) -> usize {
    let text = match operation {
        Operation::Rename { from, to, .. } => from.len() + to.len(),
        Operation::MountAdd { path, uri, options, .. } => path.len() + uri.len() + options_bytes(options),
        Operation::MountSet { path, options, unset } => {
            path.len() + options_bytes(options) + unset.iter().map(|name| name.len() + 16).sum::<usize>()
        }
        Operation::StageStarted { record, .. } | Operation::PublishIntent { record, .. } => record.len(),
        Operation::PublishDone { token, .. } => token.len(),
        other => path_of(other).map_or(0, str::len),
    };
    OPERATION_BYTES + 2 * text
}

#[cfg(test)]
mod tests {
    use super::*;
    use citius_wire::{Encoder, Request as _};

    #[test]
    fn the_longest_batch_fits_a_header() {
        let path = format!("/{}", "n".repeat(255)).repeat(16);
        let operation = Operation::Open { path, stale: None };
        let count = (BATCH_BYTES_MAX / operation_bytes(&operation)).min(OPERATIONS_MAX);
        let batch = Batch { first: Serial(1), operations: vec![operation; count] };
        let mut out = Vec::new();
        Encoder::default().encode(&mut out, Batch::KIND, citius_wire::Flags::default(), 1, &batch, 0);
        assert!(out.len() < HEADER_BYTES_MAX);
    }
}
