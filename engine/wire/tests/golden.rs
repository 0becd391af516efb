//! Golden bytes: what a release before this one wrote, this one must write and read. A change here is a change of the
//! protocol, and needs another `PROTOCOL_VERSION`.
//!
//! The four messages that matter most stand here in full; a sample of every message is a file in `tests/golden`.
//! `CITIUS_WRITE_GOLDEN=1 cargo test -p citius-wire --test golden` writes the files anew.

#![allow(clippy::unwrap_used)]

mod every_message;

use citius_wire::{Batch, Encoder, Flags, Hello, Kind, Read, ReadReply};
use every_message::received;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn hex(bytes: &[u8]) -> String {
    bytes.chunks(16).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n").collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

fn request<R: citius_wire::Request>(request: &R) -> Vec<u8> {
    let mut frame = Vec::new();
    Encoder::default().request(&mut frame, 0x1122_3344_5566_7788, request, 0);
    frame
}

const READ: &str = "
43544955011200002000000037a083b2
00000000000000008877665544332211
00000000000000000000000000000003
00000000100000080706050403020101
";

#[test]
fn read_request() {
    assert_eq!(hex(&request(&every_message::read())), READ.trim_start());
    let mut buffer = received(&unhex(READ));
    let head = buffer.next_head().unwrap().unwrap();
    assert_eq!((head.prelude.kind, head.prelude.request_id), (Kind::Read, 0x1122_3344_5566_7788));
    assert_eq!(head.read::<Read>().unwrap(), every_message::read());
}

const READ_REPLY: &str = "
4354495501120100200000009c492801
00300000000000008877665544332211
00000000222211114444333366665555
0020000000000000ecffffff03000000
";

#[test]
fn read_reply() {
    let mut frame = Vec::new();
    let reply = every_message::read_reply();
    Encoder::default().encode(&mut frame, Kind::Read, Flags::REPLY, 0x1122_3344_5566_7788, &reply, 12_288);
    assert_eq!(hex(&frame), READ_REPLY.trim_start());
    let mut buffer = received(&unhex(READ_REPLY));
    let head = buffer.next_head().unwrap().unwrap();
    assert_eq!(head.prelude.payload_len, 12_288);
    assert_eq!(head.read_reply::<Read>().unwrap(), ReadReply { ..reply });
}

const HELLO: &str = "
435449550101000040000000989eae14
00000000000000008877665544332211
00000000000000000000000000000001
02030405060708090a0b0c0d0e0f1011
12131415161718191a1b1c1d1e1fc1c1
c1c1c1c1c1c1c1c1c1c1c1c1c1c10200
";

#[test]
fn hello() {
    let sent = every_message::hello();
    assert_eq!(hex(&request(&sent)), HELLO.trim_start());
    let hello = received(&unhex(HELLO)).next_head().unwrap().unwrap().read::<Hello>().unwrap();
    assert!(hello.token.matches(&sent.token) && hello.client == sent.client && hello.shard == sent.shard);
}

const BATCH: &str = "
4354495501020000c00000008b3f42b5
00000000000000008877665544332211
00000000000000002f646174612f6120
622fc3bc2f646174612f6e6577008c00
0000eaffffff00000000000000000000
00000000000000000000000000000000
00000000000000000000000000000289
000000c5ffffff010003000020000000
00000000000000000000000000000000
0000000000000000000000000000000b
00000000000000000000000000000000
00000000000000000000000000000000
00000000000000000000000000000000
290000000000000065ffffff03000000
";

#[test]
fn batch() {
    let sent = every_message::batch();
    assert_eq!(hex(&request(&sent)), BATCH.trim_start());
    let batch = received(&unhex(BATCH)).next_head().unwrap().unwrap().read::<Batch>().unwrap();
    assert_eq!((batch.first, batch.operations), (sent.first, sent.operations));
}

/// Every message has a file and every file is a message; their bytes are the same.
#[test]
fn every_message_in_its_file() {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let write = std::env::var_os("CITIUS_WRITE_GOLDEN").is_some();
    let mut names = BTreeSet::new();
    for (name, bytes) in every_message::samples() {
        let name = format!("{name}.frame");
        if write {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(&name), &bytes).unwrap();
        }
        let golden = std::fs::read(folder.join(&name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(hex(&golden), hex(&bytes), "{name}");
        names.insert(name);
    }
    let found: BTreeSet<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".frame"))
        .collect();
    assert_eq!(found, names);
}
