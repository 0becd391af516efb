//! Bytes as a hostile peer sends them: taken as a stream of frames, as a capability, and as a path.
//!
//! A checksum would stop nearly all that a fuzzer invents before an archive is looked at. So bytes are taken twice: as
//! they are, and with their checksums (or their MAC) made right, as an enemy would make them.

#![no_main]

#[path = "../../tests/every_message/mod.rs"]
mod every_message;

use citius_wire::{FRAME_BYTES_MAX, FrameBuffer, NamespacePath, PATH_BYTES_MAX, PRELUDE_BYTES, Prelude, Right};
use every_message::judge;
use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;

fuzz_target!(init: seed_corpus(), |bytes: &[u8]| {
    frames(bytes);
    frames(&with_right_checksums(bytes));

    let key = every_message::key();
    assert!(Right::check(bytes, std::slice::from_ref(&key), 0).is_err(), "a forgery");
    let mac = blake3::keyed_hash(&key.0, bytes);
    let signed = [bytes, mac.as_bytes()].concat();
    if let Ok(right) = Right::check(&signed, std::slice::from_ref(&key), 0) {
        assert!(Right::check(&signed, std::slice::from_ref(&key), right.expires_ms).is_err(), "an expired right");
    }

    if let Ok(text) = std::str::from_utf8(bytes) {
        path(text);
        path(&format!("/{text}"));
    }
});

/// Puts a sample of every message into the corpus, the first folder of the command line, so that a run starts from the
/// messages as they are now and not from nothing. Without a folder one input is run again, and needs no seeds.
fn seed_corpus() {
    let Some(folder) = std::env::args_os().skip(1).map(PathBuf::from).find(|argument| argument.is_dir()) else {
        return;
    };
    for (name, frame) in every_message::samples() {
        std::fs::write(folder.join(name), frame).expect("the corpus can be written");
    }
}

/// Takes all frames, by their heads and then whole, from a small buffer and in small receives; both ways agree.
fn frames(bytes: &[u8]) {
    let (mut heads, mut wholes) = (Vec::new(), Vec::new());
    let mut owed = 0;
    receive(bytes, |buffer| {
        loop {
            owed -= buffer.take_payload(owed).len();
            if owed > 0 {
                return true;
            }
            match buffer.next_head() {
                Ok(Some(head)) => {
                    owed = head.prelude.payload_len as usize;
                    heads.push((head.prelude, judge(&head)));
                }
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    });
    receive(bytes, |buffer| {
        loop {
            match buffer.next_frame() {
                Ok(Some((head, payload))) => {
                    assert_eq!(payload.len() as u64, head.prelude.payload_len);
                    wholes.push((head.prelude, judge(&head)));
                }
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    });
    // The last payload may be cut short, which only who waits for it notices.
    assert!(heads.starts_with(&wholes) && heads.len() <= wholes.len() + 1);
}

/// Receives in steps of odd sizes until the taker has had enough.
fn receive(mut bytes: &[u8], mut take: impl FnMut(&mut FrameBuffer) -> bool) {
    const STEP_BYTES: usize = 61;
    let mut buffer = FrameBuffer::new(48);
    while !bytes.is_empty() {
        let spare = buffer.spare();
        let count = spare.len().min(bytes.len()).min(STEP_BYTES);
        assert!(count > 0);
        spare[..count].copy_from_slice(&bytes[..count]);
        buffer.filled(count);
        bytes = &bytes[count..];
        if !take(&mut buffer) {
            return;
        }
        assert!(buffer.buffered() <= FRAME_BYTES_MAX);
    }
}

/// The same stream, each frame that is all here with the checksum that it should have.
fn with_right_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut stream = bytes.to_vec();
    let mut at = 0;
    while let Some(Ok(mut prelude)) = stream[at..].first_chunk::<PRELUDE_BYTES>().map(Prelude::parse) {
        let header_end = at + PRELUDE_BYTES + prelude.header_len as usize;
        let Some(header) = stream.get(at + PRELUDE_BYTES..header_end) else { break };
        prelude.header_crc = prelude.checksum(header);
        stream[at..at + PRELUDE_BYTES].copy_from_slice(&prelude.to_bytes());
        at = (at + prelude.frame_bytes()).min(stream.len());
    }
    stream
}

/// A path that is accepted is normal, within its limits, and made of its own names.
fn path(text: &str) {
    let Ok(path) = NamespacePath::parse(text) else { return };
    assert!(path.as_str().len() <= PATH_BYTES_MAX);
    assert_eq!(NamespacePath::parse(path.as_str()).as_ref(), Ok(&path));
    let mut joined = NamespacePath::root();
    for name in path.names() {
        assert!(name != "." && name != "..");
        joined = joined.join(name).expect("a name of a path is a name");
        assert!(path.is_under(&joined));
    }
    assert_eq!(joined, path);
    assert_eq!(path.relative_to(&NamespacePath::root()), Some(&path.as_str()[1..]));
}
