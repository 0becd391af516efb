//! `citius bench`: what a user of this running cluster gets, beside this machine's memcpy and loopback.
//!
//! Every figure is of this process as a client, so it includes what a client does: frames, checksums, copies. The raw
//! rows are measured in the same run; a figure means little without them.

use crate::args::{BenchArgs, Reach};
use crate::connect_with;
use crate::error::CliError;
use crate::output::{human_bytes, human_nanos, json_line, table};
use citius_client::{Client, Config, CreateOptions, File, Local, Operation, WriteType};
use serde_json::json;
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

/// What one write or large read moves.
const CHUNK_BYTES: usize = 4 << 20;
/// What one small read asks for.
const SMALL_BYTES: usize = 4 << 10;
/// Creates in one batch.
const BATCH: u32 = 64;

/// One line of the result.
struct Row {
    name: &'static str,
    /// Bytes a second, where bytes are what counts.
    bytes_per_second: Option<f64>,
    /// Operations a second.
    per_second: Option<f64>,
    p50_nanos: Option<f64>,
    p99_nanos: Option<f64>,
}

/// Measures.
pub(crate) fn run(client: &Client, reach: &Reach, args: &BenchArgs) -> Result<(), CliError> {
    let dir = format!("{}/citius-bench-{}", args.path.trim_end_matches('/'), std::process::id());
    client.mkdir(&dir, false)?;
    let rows = measure(client, reach, args, &dir);
    // What was made goes, also when measuring failed.
    let cleaned = client.delete(&dir, true);
    let rows = rows?;
    cleaned?;
    let mut out = io::stdout().lock();
    if reach.json {
        for row in &rows {
            json_line(
                &mut out,
                &json!({
                    "name": row.name, "bytes_per_second": row.bytes_per_second, "per_second": row.per_second,
                    "p50_ns": row.p50_nanos, "p99_ns": row.p99_nanos,
                }),
            )?;
        }
    } else {
        let cell = |value: Option<f64>, show: fn(f64) -> String| value.map_or_else(String::new, show);
        let lines = rows.iter().map(|row| {
            vec![
                row.name.to_owned(),
                cell(row.bytes_per_second, |rate| format!("{}/s", human_bytes(rate as u64))),
                cell(row.per_second, |rate| format!("{rate:.0}/s")),
                cell(row.p50_nanos, human_nanos),
                cell(row.p99_nanos, human_nanos),
            ]
        });
        write!(out, "{}", table(&["", ">throughput", ">rate", ">p50", ">p99"], lines))?;
    }
    Ok(())
}

fn measure(client: &Client, reach: &Reach, args: &BenchArgs, dir: &str) -> Result<Vec<Row>, CliError> {
    let path = format!("{dir}/file");
    let mut rows = vec![raw_memcpy(args.bytes), raw_loopback(args.count)?];
    rows.push(write(client, &path, args.bytes)?);

    client.open(&path)?.free()?;
    rows.push(sequential("cold read", &client.open(&path)?, args.bytes)?);
    let tcp = connect_with(reach, Config { local: Local::Never, timeout: reach.timeout, ..Config::default() })?;
    let far = tcp.open(&path)?;
    rows.push(sequential("warm read, tcp", &far, args.bytes)?);
    rows.push(small("warm 4 KiB, tcp", &far, args)?);
    let near = client.open(&path)?;
    rows.push(sequential("warm read, mapped", &near, args.bytes)?);
    rows.push(small("warm 4 KiB, mapped", &near, args)?);

    let mut times = Vec::new();
    for _ in 0..args.count {
        let began = Instant::now();
        black_box(client.stat(&path)?);
        times.push(began.elapsed().as_nanos() as f64);
    }
    rows.push(spread("stat", times, None));
    rows.push(creates(client, dir, args.count)?);
    Ok(rows)
}

fn write(client: &Client, path: &str, bytes: u64) -> Result<Row, CliError> {
    let chunk: Vec<u8> = (0..CHUNK_BYTES).map(|i| ((i * 31) >> 3) as u8).collect();
    let began = Instant::now();
    let mut writer = client.create(path, CreateOptions::default())?;
    let mut rest = bytes;
    while rest > 0 {
        let count = chunk.len().min(rest as usize);
        writer.append(&chunk[..count])?;
        rest -= count as u64;
    }
    writer.close()?;
    Ok(throughput("write, cache-through", bytes, began))
}

fn sequential(name: &'static str, file: &File, bytes: u64) -> Result<Row, CliError> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let began = Instant::now();
    let mut at = 0;
    while at < bytes {
        match file.read_at(&mut buffer, at)? {
            0 => break,
            count => at += count as u64,
        }
        black_box(buffer.first());
    }
    Ok(throughput(name, at, began))
}

fn small(name: &'static str, file: &File, args: &BenchArgs) -> Result<Row, CliError> {
    let mut buffer = vec![0; SMALL_BYTES];
    let sectors = (args.bytes / SMALL_BYTES as u64).max(1);
    let mut offsets = Offsets(1);
    let mut times = Vec::new();
    for _ in 0..args.count {
        let offset = offsets.next() % sectors * SMALL_BYTES as u64;
        let began = Instant::now();
        black_box(file.read_at(&mut buffer, offset)?);
        times.push(began.elapsed().as_nanos() as f64);
    }
    Ok(spread(name, times, Some(SMALL_BYTES)))
}

fn creates(client: &Client, dir: &str, count: u32) -> Result<Row, CliError> {
    let mut times = Vec::new();
    let mut made = 0;
    while made < count {
        let batch: Vec<Operation> = (made..(made + BATCH).min(count))
            .map(|i| Operation::Create {
                path: format!("{dir}/c{i}"),
                overwrite: false,
                parents: false,
                write_type: WriteType::MustCache,
                block_bytes: 0,
            })
            .collect();
        made += batch.len() as u32;
        let size = batch.len() as f64;
        let began = Instant::now();
        for result in client.batch(batch) {
            result?;
        }
        let each = began.elapsed().as_nanos() as f64 / size;
        times.extend(std::iter::repeat_n(each, size as usize));
    }
    Ok(spread("create, 64 a batch", times, None))
}

/// Copies within memory that is larger than any cache.
fn raw_memcpy(bytes: u64) -> Row {
    let from = vec![1_u8; bytes.clamp(64 << 20, 1 << 30) as usize];
    let mut to = vec![0_u8; CHUNK_BYTES];
    let began = Instant::now();
    for chunk in from.chunks_exact(CHUNK_BYTES) {
        to.copy_from_slice(chunk);
        black_box(to.first());
    }
    throughput("raw: memcpy", from.len() as u64, began)
}

/// Asks for 4 KiB from a thread of this process over TCP.
fn raw_loopback(count: u32) -> Result<Row, CliError> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let server = std::thread::spawn(move || -> io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let (mut request, reply) = ([0; 16], vec![1; SMALL_BYTES]);
        while stream.read_exact(&mut request).is_ok() {
            stream.write_all(&reply)?;
        }
        Ok(())
    });
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; SMALL_BYTES];
    let mut times = Vec::new();
    for _ in 0..count {
        let began = Instant::now();
        stream.write_all(&[0; 16])?;
        stream.read_exact(&mut buffer)?;
        times.push(began.elapsed().as_nanos() as f64);
    }
    drop(stream);
    server.join().map_err(|_| CliError::failure("the loopback server ended badly"))??;
    Ok(spread("raw: loopback 4 KiB", times, Some(SMALL_BYTES)))
}

fn throughput(name: &'static str, bytes: u64, began: Instant) -> Row {
    let rate = bytes as f64 / began.elapsed().as_secs_f64().max(1e-9);
    Row { name, bytes_per_second: Some(rate), per_second: None, p50_nanos: None, p99_nanos: None }
}

fn spread(name: &'static str, mut times: Vec<f64>, bytes_each: Option<usize>) -> Row {
    times.sort_unstable_by(f64::total_cmp);
    let at =
        |share: f64| times.get(((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1))).copied();
    let per_second = times.len() as f64 * 1e9 / times.iter().sum::<f64>().max(1.0);
    Row {
        name,
        bytes_per_second: bytes_each.map(|bytes| bytes as f64 * per_second),
        per_second: Some(per_second),
        p50_nanos: at(0.5),
        p99_nanos: at(0.99),
    }
}

/// Offsets that look random and are the same in every run: xorshift64 (Marsaglia 2003).
struct Offsets(u64);

impl Offsets {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
