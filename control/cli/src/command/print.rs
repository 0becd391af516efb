//! `citius cat`, `head`, `tail`: file content on standard output.

use crate::args::{CatArgs, EndArgs};
use crate::error::CliError;
use citius_client::{Client, File};
use std::io::{self, Write};

/// Bytes read at once: large enough that reads of blocks overlap, small enough to start at once.
const CHUNK_BYTES: usize = 4 << 20;
/// Bytes that are searched for line ends at once.
const SEARCH_BYTES: usize = 64 << 10;

/// Prints whole files.
pub(crate) fn cat(client: &Client, args: &CatArgs) -> Result<(), CliError> {
    super::for_each(&args.paths, |path| {
        let file = super::open_settled(client, path)?;
        print(&file, 0, file.len())
    })
}

/// Prints the beginning of a file.
pub(crate) fn head(client: &Client, args: &EndArgs) -> Result<(), CliError> {
    let file = super::open_settled(client, &args.path)?;
    let end = match args.bytes {
        Some(bytes) => bytes.min(file.len()),
        None => end_of_lines(&file, args.lines)?,
    };
    print(&file, 0, end)
}

/// Prints the end of a file.
pub(crate) fn tail(client: &Client, args: &EndArgs) -> Result<(), CliError> {
    let file = super::open_settled(client, &args.path)?;
    let start = match args.bytes {
        Some(bytes) => file.len().saturating_sub(bytes),
        None => start_of_last_lines(&file, args.lines)?,
    };
    print(&file, start, file.len())
}

fn print(file: &File, start: u64, end: u64) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    let mut buffer = vec![0; CHUNK_BYTES.min((end - start) as usize)];
    let mut at = start;
    while at < end {
        let want = buffer.len().min((end - at) as usize);
        let count = file.read_at(&mut buffer[..want], at)?;
        if count == 0 {
            break;
        }
        out.write_all(&buffer[..count])?;
        at += count as u64;
    }
    out.flush()?;
    Ok(())
}

/// Where the first `lines` lines end.
fn end_of_lines(file: &File, lines: u64) -> Result<u64, CliError> {
    let mut buffer = vec![0; SEARCH_BYTES];
    let (mut at, mut seen) = (0, 0);
    while at < file.len() && seen < lines {
        let count = file.read_at(&mut buffer, at)?;
        for (i, byte) in buffer[..count].iter().enumerate() {
            if *byte == b'\n' {
                seen += 1;
                if seen == lines {
                    return Ok(at + i as u64 + 1);
                }
            }
        }
        at += count as u64;
    }
    Ok(if lines == 0 { 0 } else { at })
}

/// Where the last `lines` lines begin. A line end at the end of the file ends its last line.
fn start_of_last_lines(file: &File, lines: u64) -> Result<u64, CliError> {
    let mut buffer = vec![0; SEARCH_BYTES];
    let (mut end, mut seen) = (file.len(), 0);
    if lines == 0 {
        return Ok(end);
    }
    while end > 0 {
        let start = end.saturating_sub(SEARCH_BYTES as u64);
        let want = (end - start) as usize;
        let mut got = 0;
        while got < want {
            match file.read_at(&mut buffer[got..want], start + got as u64)? {
                0 => break,
                count => got += count,
            }
        }
        for i in (0..got).rev() {
            let at = start + i as u64;
            if buffer[i] == b'\n' && at + 1 != file.len() {
                seen += 1;
                if seen == lines {
                    return Ok(at + 1);
                }
            }
        }
        end = start;
    }
    Ok(0)
}
