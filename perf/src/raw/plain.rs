//! What a plain program does with `object_store` and nothing else: parallel ranges of an object, parallel GETs of many,
//! an upload of parts. Its runtime has a thread for every core that it may use.

use crate::cpu::{Spent, Watch};
use crate::measure::Side;
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use citius_understore::testing::servers::SeaweedFs;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::{ObjectStore as _, ObjectStoreExt as _, WriteMultipart, path::Path};
use std::sync::Arc;
use tokio::runtime::Runtime;

/// What a server may hold beside what is written in a round.
pub(crate) const HELD_BYTES_MAX: u64 = 256 << 20;

/// A client of the bucket, with threads of its own.
pub(crate) struct Plain {
    runtime: Runtime,
    store: AmazonS3,
    server: Arc<SeaweedFs>,
}

impl Plain {
    pub(crate) fn new(server: &Arc<SeaweedFs>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting tokio")?;
        Ok(Self { runtime, store: client(server)?, server: Arc::clone(server) })
    }

    /// Puts objects of such a content.
    pub(crate) fn put_all(&self, keys: impl Iterator<Item = String>, content: &Bytes) -> Result<()> {
        const PUTS_AT_ONCE: usize = 64;
        let put = |key: String| async move {
            let key = Path::parse(key)?;
            self.store.put(&key, content.clone().into()).await.map(drop).map_err(anyhow::Error::from)
        };
        let putting = stream::iter(keys).map(put).buffer_unordered(PUTS_AT_ONCE).try_collect::<()>();
        self.runtime.block_on(putting).context("putting objects")
    }

    /// Deletes an object and has the server give its room back.
    fn forget(&self, key: &Path) -> Result<()> {
        self.runtime.block_on(async {
            self.store.delete(key).await?;
            self.server.reclaim(HELD_BYTES_MAX).await.map_err(anyhow::Error::from)
        })
    }
}

/// A plain client of the server's bucket.
pub(crate) fn client(server: &SeaweedFs) -> Result<AmazonS3> {
    let (id, secret) = server.s3().keys();
    AmazonS3Builder::new()
        .with_endpoint(server.s3().endpoint())
        .with_bucket_name(server.s3().name())
        .with_access_key_id(id)
        .with_secret_access_key(secret)
        .with_allow_http(true)
        .build()
        .context("an S3 client")
}

/// Ranges of one object, many at once, into a buffer that is there.
pub(crate) struct Ranges {
    plain: Plain,
    key: Path,
    buffer: Vec<u8>,
    shape: Shape,
    spent: Option<Spent>,
}

/// How an object is cut.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Ranges at once.
    at_once: usize,
    /// Bytes of a range.
    piece_bytes: usize,
}

impl Ranges {
    /// Cut as was fastest in a trial of all shapes.
    pub(crate) fn new(plain: Plain, key: &str, bytes: usize) -> Result<Self> {
        const AT_ONCE: [usize; 5] = [2, 4, 8, 16, 32];
        const PIECE_BYTES: [usize; 3] = [4 << 20, 8 << 20, 16 << 20];
        let shape = Shape { at_once: AT_ONCE[0], piece_bytes: PIECE_BYTES[0] };
        let mut ranges = Self { plain, key: Path::parse(key)?, buffer: vec![1; bytes], shape, spent: None };
        // Warms the server up.
        ranges.round(0)?;
        let mut best = (0.0, shape);
        for piece_bytes in PIECE_BYTES {
            for at_once in AT_ONCE {
                ranges.shape = Shape { at_once, piece_bytes };
                let speed = ranges.round(0)?.max(ranges.round(0)?);
                if speed > best.0 {
                    best = (speed, ranges.shape);
                }
            }
        }
        ranges.shape = best.1;
        Ok(ranges)
    }
}

impl Side for Ranges {
    /// Bytes per second.
    fn round(&mut self, _seed: u64) -> Result<f64> {
        let Self { plain: Plain { runtime, store, .. }, key, buffer, shape, spent } = self;
        let Shape { at_once, piece_bytes } = *shape;
        buffer.fill(1);
        let watch = Watch::start(None)?;
        runtime.block_on(async {
            let pieces = buffer.chunks_mut(piece_bytes).enumerate().map(|(index, piece)| {
                let (store, key) = (store.clone(), key.clone());
                async move {
                    let first = (index * piece_bytes) as u64;
                    let options = object_store::GetOptions {
                        range: Some((first..first + piece.len() as u64).into()),
                        ..object_store::GetOptions::default()
                    };
                    let mut chunks = store.get_opts(&key, options).await?.into_stream();
                    let mut here = 0;
                    while let Some(chunk) = chunks.try_next().await? {
                        let end = here + chunk.len();
                        piece.get_mut(here..end).context("more bytes than there are")?.copy_from_slice(&chunk);
                        here = end;
                    }
                    ensure!(here == piece.len(), "{here} bytes instead of {}", piece.len());
                    Result::<_>::Ok(())
                }
            });
            stream::iter(pieces).buffer_unordered(at_once).try_collect::<()>().await
        })?;
        Ok(buffer.len() as f64 / spent.insert(watch.stop()?).seconds)
    }

    fn cpu_seconds(&self) -> Option<f64> {
        self.spent.map(|it| it.cpu_seconds)
    }
}

/// All objects under a prefix: listed, and got whole, many at once.
pub(crate) struct Many {
    plain: Plain,
    prefix: Path,
    count: usize,
    bytes: usize,
    spent: Option<Spent>,
}

impl Many {
    /// GETs at once.
    const AT_ONCE: usize = 64;

    pub(crate) fn new(plain: Plain, prefix: &str, count: usize, bytes: usize) -> Result<Self> {
        Ok(Self { plain, prefix: Path::parse(prefix)?, count, bytes, spent: None })
    }
}

impl Side for Many {
    /// Objects per second.
    fn round(&mut self, _seed: u64) -> Result<f64> {
        let Self { plain: Plain { runtime, store, .. }, prefix, count, bytes, spent } = self;
        let watch = Watch::start(None)?;
        let got = runtime.block_on(async {
            let got = store.list(Some(prefix)).map(|object| {
                let store = store.clone();
                // Each in a task of its own, so that all cores work.
                tokio::spawn(async move { store.get(&object?.location).await?.bytes().await })
            });
            got.buffer_unordered(Self::AT_ONCE)
                .map(|joined| Result::<_>::Ok(joined??.len()))
                .try_fold((0, 0), |(count, bytes), len| async move { Ok((count + 1, bytes + len)) })
                .await
        })?;
        ensure!(got == (*count, *count * *bytes), "{got:?} objects and bytes");
        Ok(*count as f64 / spent.insert(watch.stop()?).seconds)
    }

    fn cpu_seconds(&self) -> Option<f64> {
        self.spent.map(|it| it.cpu_seconds)
    }
}

/// An upload of parts, as a stream that is written.
pub(crate) struct Upload {
    plain: Plain,
    key: Path,
    bytes: usize,
    spent: Option<Spent>,
}

impl Upload {
    /// Bytes of a part.
    const PART_BYTES: usize = 8 << 20;
    /// Parts on their way at once.
    const AT_ONCE: usize = 8;

    pub(crate) fn new(plain: Plain, key: &str, bytes: usize) -> Result<Self> {
        Ok(Self { plain, key: Path::parse(key)?, bytes, spent: None })
    }
}

impl Side for Upload {
    /// Bytes per second.
    fn round(&mut self, _seed: u64) -> Result<f64> {
        let content = vec![7; 4 << 20];
        let watch = Watch::start(None)?;
        self.plain.runtime.block_on(async {
            let upload = self.plain.store.put_multipart(&self.key).await?;
            let mut writer = WriteMultipart::new_with_chunk_size(upload, Self::PART_BYTES);
            let mut left = self.bytes;
            while left > 0 {
                let piece = left.min(content.len());
                writer.wait_for_capacity(Self::AT_ONCE).await?;
                writer.write(&content[..piece]);
                left -= piece;
            }
            writer.finish().await.map_err(anyhow::Error::from)
        })?;
        let speed = self.bytes as f64 / self.spent.insert(watch.stop()?).seconds;
        self.plain.forget(&self.key)?;
        Ok(speed)
    }

    fn cpu_seconds(&self) -> Option<f64> {
        self.spent.map(|it| it.cpu_seconds)
    }
}
