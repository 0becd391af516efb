//! What the adapter adds to a plain `object_store` GET: the same object from the same S3 server, in turns.
//!
//! `cargo run --release -p citius-understore --features testing --example cold_read`
//!
//! Three columns a round: a plain streaming GET into a buffer allocated before; the adapter's conditional `read` with a
//! landing that copies into such a buffer; and with one that copies and computes the CRC32 of each 4 KiB, as a worker does.

#![allow(clippy::print_stdout)]

use std::time::Instant;

use bytes::Bytes;
use citius_understore::{Condition, FileId, StorePath, open, testing::servers::SeaweedFs};
use futures::StreamExt;
use object_store::{ObjectStoreExt, aws::AmazonS3Builder, path::Path};

const LEN: usize = 256 << 20;
const ROUNDS: usize = 7;
const SECTOR: usize = 4096;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = SeaweedFs::start().await?;
    let store = open(&server.s3().mount(""))?;
    let path = StorePath::parse("object")?;
    let mut staged = store.stage(&path, FileId([1; 16]), Some(LEN as u64)).await?;
    let content = Bytes::from((0..LEN).map(|at| ((at * 31) >> 7) as u8).collect::<Vec<_>>());
    staged.write(content.clone()).await?;
    let token = staged.publish(&Condition::Any).await?;
    let plain = AmazonS3Builder::new()
        .with_endpoint(server.s3().endpoint())
        .with_bucket_name(server.s3().name())
        .with_access_key_id(server.s3().keys().0)
        .with_secret_access_key(server.s3().keys().1)
        .with_allow_http(true)
        .build()?;
    let (key, mut buffer) = (Path::parse("object")?, vec![1_u8; LEN]);
    let mut rates = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let mut stream = plain.get(&key).await?.into_stream();
        let mut at = 0;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            buffer[at..at + chunk.len()].copy_from_slice(&chunk);
            at += chunk.len();
        }
        rates[0].push(mib_per_second(start));
        assert!(at == LEN && buffer == content);

        buffer.fill(1);
        let start = Instant::now();
        let mut copy = |offset: u64, bytes: &[u8]| {
            buffer[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        };
        store.read(&path, &token, 0..LEN as u64, &mut copy).await?;
        rates[1].push(mib_per_second(start));
        assert!(buffer == content);

        buffer.fill(1);
        let start = Instant::now();
        let mut sums = Vec::with_capacity(LEN / SECTOR);
        let mut hasher = crc32fast::Hasher::new();
        let mut copy_and_sum = |offset: u64, mut bytes: &[u8]| {
            let mut at = offset as usize;
            while !bytes.is_empty() {
                let (head, rest) = bytes.split_at((SECTOR - at % SECTOR).min(bytes.len()));
                buffer[at..at + head.len()].copy_from_slice(head);
                hasher.update(head);
                at += head.len();
                bytes = rest;
                if at.is_multiple_of(SECTOR) {
                    sums.push(std::mem::take(&mut hasher).finalize());
                }
            }
        };
        store.read(&path, &token, 0..LEN as u64, &mut copy_and_sum).await?;
        rates[2].push(mib_per_second(start));
        assert!(buffer == content && sums.len() == LEN / SECTOR);
        buffer.fill(1);
    }
    for (name, rates) in ["plain GET", "read, copy", "read, copy, crc32"].iter().zip(&mut rates) {
        rates.sort_by(f64::total_cmp);
        let (low, median, high) = (rates[0], rates[ROUNDS / 2], rates[ROUNDS - 1]);
        println!("{name:18} median {median:6.0} MiB/s  (lowest {low:.0}, highest {high:.0}, {ROUNDS} rounds)");
    }
    Ok(())
}

fn mib_per_second(start: Instant) -> f64 {
    LEN as f64 / start.elapsed().as_secs_f64() / f64::from(1 << 20)
}
