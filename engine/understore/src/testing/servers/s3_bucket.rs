//! A bucket of a server that speaks S3.

use std::{
    io,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{Condition, FileId, MountSpec, StorePath, s3};

const NAME: &str = "citius-test";
/// A server's S3 port may answer before what is behind it does.
const READY_PATIENCE: Duration = Duration::from_secs(240);
const TRY_PAUSE: Duration = Duration::from_millis(100);

/// The region of a server that was told none.
pub(super) const REGION: &str = "us-east-1";

/// Where a bucket is, and with which keys.
#[derive(Debug)]
pub struct S3Bucket {
    pub(super) endpoint: String,
    pub(super) region: &'static str,
    pub(super) key: String,
    pub(super) secret: String,
}

impl S3Bucket {
    /// Where the server listens.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The key pair: id and secret.
    pub fn keys(&self) -> (&str, &str) {
        (&self.key, &self.secret)
    }

    /// The bucket's name.
    pub fn name(&self) -> &'static str {
        NAME
    }

    /// A mount of the bucket, or of a prefix in it.
    pub fn mount(&self, prefix: &str) -> MountSpec {
        let uri = if prefix.is_empty() { format!("s3://{NAME}") } else { format!("s3://{NAME}/{prefix}") };
        MountSpec::new(uri)
            .option("aws_endpoint", &self.endpoint)
            .option("aws_access_key_id", &self.key)
            .option("aws_secret_access_key", &self.secret)
            .option("aws_region", self.region)
            .option("aws_allow_http", "true")
    }

    /// Makes the bucket and proves that it takes a write, as soon as the server can.
    pub(super) async fn make(&self) -> io::Result<()> {
        let deadline = Instant::now() + READY_PATIENCE;
        loop {
            match self.try_make().await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(io::Error::other(error)),
                Err(_) => tokio::time::sleep(TRY_PAUSE).await,
            }
        }
    }

    async fn try_make(&self) -> crate::Result<()> {
        let spec = self.mount("");
        let (bucket, _) = s3::connect_aws(&spec.uri, &spec.options)?;
        bucket.create_bucket().await?;
        let store = crate::open(&spec)?;
        let path = StorePath::parse("ready")?;
        let mut staged = store.stage(&path, FileId([0; 16]), None).await?;
        staged.write(Bytes::from_static(b"ready")).await?;
        staged.publish(&Condition::Any).await?;
        store.delete_file(&path).await
    }
}
