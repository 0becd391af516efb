//! Files that tests write and read whole.

#![allow(dead_code, clippy::unwrap_used)]

use bytes::Bytes;
use citius_understore::{Condition, Error, FileId, StorePath, UnderStore, VersionToken};

pub(crate) fn path(text: &str) -> StorePath {
    StorePath::parse(text).unwrap()
}

/// Content that is the same for one seed and another at every offset for others.
pub(crate) fn body(len: usize, seed: u8) -> Bytes {
    (0..len).map(|at| (at.wrapping_mul(31) >> 7) as u8 ^ seed).collect::<Vec<u8>>().into()
}

pub(crate) async fn put(
    store: &dyn UnderStore,
    at: &StorePath,
    id: u8,
    content: &Bytes,
) -> Result<VersionToken, Error> {
    let mut staged = store.stage(at, FileId([id; 16]), Some(content.len() as u64)).await?;
    staged.write(content.clone()).await?;
    staged.publish(&Condition::Any).await
}

pub(crate) async fn get(
    store: &dyn UnderStore,
    at: &StorePath,
    token: &VersionToken,
    len: usize,
) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    store.read(at, token, 0..len as u64, &mut |_: u64, bytes: &[u8]| out.extend_from_slice(bytes)).await?;
    Ok(out)
}
