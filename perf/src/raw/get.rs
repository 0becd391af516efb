//! One streaming GET of an object into a buffer that is there: what a cold read costs at the least.

use crate::measure::Side;
use crate::raw::plain::client;
use anyhow::{Context as _, Result, ensure};
use citius_understore::testing::servers::SeaweedFs;
use futures::StreamExt as _;
use object_store::aws::AmazonS3;
use object_store::{ObjectStoreExt as _, path::Path};
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Runtime;

/// GETs of one object.
pub(crate) struct Get {
    runtime: Runtime,
    store: AmazonS3,
    key: Path,
    buffer: Vec<u8>,
    _server: Arc<SeaweedFs>,
}

impl Get {
    /// Of an object of so many bytes, made here.
    pub(crate) fn of_new_object(server: &Arc<SeaweedFs>, key: &str, bytes: usize) -> Result<Self> {
        let get = Self::new(server, key, bytes)?;
        let content = vec![1_u8; bytes];
        get.runtime.block_on(get.store.put(&get.key, content.into())).context("putting the object")?;
        Ok(get)
    }

    /// Of an object of so many bytes that is there.
    pub(crate) fn new(server: &Arc<SeaweedFs>, key: &str, bytes: usize) -> Result<Self> {
        let store = client(server)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting tokio")?;
        Ok(Self { runtime, store, key: Path::parse(key)?, buffer: vec![1; bytes], _server: Arc::clone(server) })
    }
}

impl Side for Get {
    /// Bytes per second.
    fn round(&mut self, _seed: u64) -> Result<f64> {
        let Self { runtime, store, key, buffer, .. } = self;
        buffer.fill(1);
        let start = Instant::now();
        let here = runtime.block_on(async {
            let mut stream = store.get(key).await?.into_stream();
            let mut here = 0;
            while let Some(chunk) = stream.next().await {
                let chunk = chunk?;
                buffer.get_mut(here..here + chunk.len()).context("more bytes than there are")?.copy_from_slice(&chunk);
                here += chunk.len();
            }
            Result::<_>::Ok(here)
        })?;
        let seconds = start.elapsed().as_secs_f64();
        ensure!(here == buffer.len(), "{here} bytes instead of {}", buffer.len());
        Ok(here as f64 / seconds)
    }
}
