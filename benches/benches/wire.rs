//! What the wire crate costs: each group is a step on the path of a read, a stat, or an attach.

#![allow(missing_docs, reason = "the macros of criterion make undocumented functions")]

use citius_benches::{bytes, ring};
use citius_wire::units::{GRAIN_BYTES, PAGE_BYTES, SECTOR_BYTES};
use citius_wire::{
    Access, Batch, BatchReply, Encoder, EntryKind, FileInfo, FileKey, Flags, FrameBuffer, Handle, Kind, MacKey,
    MountId, Operation, Origin, Outcome, Persistence, Place, Prelude, Read, ReadMode, ReadReply, ReadReplyView, Right,
    Serial,
};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

/// Operations of one stat batch, as the metadata goals use it.
const STATS: u64 = 64;

fn receive(buffer: &mut FrameBuffer, bytes: &[u8]) {
    buffer.spare()[..bytes.len()].copy_from_slice(bytes);
    buffer.filled(bytes.len());
}

fn frame(c: &mut Criterion) {
    let header = [9; 32];
    let mut prelude = Prelude {
        kind: Kind::Read,
        flags: Flags::REPLY,
        header_len: header.len() as u32,
        header_crc: 0,
        payload_len: 4096,
        request_id: 7,
    };
    prelude.header_crc = prelude.checksum(&header);
    let bytes = prelude.to_bytes();

    let mut group = c.benchmark_group("frame");
    group.bench_function("encode", |b| {
        b.iter(|| {
            let mut prelude = black_box(prelude);
            prelude.header_crc = prelude.checksum(black_box(&header));
            prelude.to_bytes()
        });
    });
    group.bench_function("decode", |b| {
        b.iter(|| {
            let prelude = Prelude::parse(black_box(&bytes)).expect("a frame");
            prelude.verify(black_box(&header)).expect("undamaged");
            prelude
        });
    });
    group.finish();
}

fn read(c: &mut Criterion) {
    let read = Read { handle: Handle(1), length: 4096, offset: 8192, mode: ReadMode::Cache };
    let (mut encoder, mut out, mut buffer) = (Encoder::default(), Vec::new(), FrameBuffer::new(64 << 10));
    let mut group = c.benchmark_group("read");
    group.bench_function("request/encode", |b| {
        b.iter(|| {
            out.clear();
            encoder.request(&mut out, 7, black_box(&read), 0);
            out.len()
        });
    });
    group.bench_function("request/decode", |b| {
        b.iter(|| {
            receive(&mut buffer, black_box(&out));
            let head = buffer.next_head().expect("a frame").expect("all of it");
            let read = head.access::<Read>().expect("a read");
            (read.handle.0.to_native(), read.offset.to_native(), read.length.to_native())
        });
    });
    for (name, sectors) in [("4k", 1), ("1m", 256)] {
        let crcs = vec![0xdead_beef_u32; sectors];
        let mut out = Vec::new();
        group.bench_function(format!("reply_{name}/encode"), |b| {
            b.iter(|| {
                out.clear();
                let view = ReadReplyView { offset: 8192, crcs: black_box(&crcs) };
                encoder.encode(&mut out, Kind::Read, Flags::REPLY, 7, &view, sectors * SECTOR_BYTES);
                out.len()
            });
        });
        group.bench_function(format!("reply_{name}/decode"), |b| {
            b.iter(|| {
                receive(&mut buffer, black_box(&out));
                let head = buffer.next_head().expect("a frame").expect("all of it");
                let reply = head.access::<ReadReply>().expect("a reply");
                (reply.offset.to_native(), reply.crcs.len())
            });
        });
    }
    group.finish();
}

fn stat_batch(c: &mut Criterion) {
    let path = |i| format!("/data/warehouse/table/part-{i:05}.parquet");
    let batch = Batch { first: Serial(1), operations: (0..STATS).map(|i| Operation::Stat { path: path(i) }).collect() };
    let info = |i| FileInfo {
        path: path(i),
        kind: EntryKind::File,
        length: 64 << 20,
        modified_ms: 1_800_000_000_000,
        version: FileKey([7; 16]),
        persistence: Persistence::Persisted,
        block_bytes: 64 << 20,
        mount: MountId(1),
        is_mount: false,
    };
    let reply: Result<BatchReply, _> =
        Ok(BatchReply { results: (0..STATS).map(|i| Ok(Outcome::Info(info(i)))).collect() });
    let (mut encoder, mut out, mut buffer) = (Encoder::default(), Vec::new(), FrameBuffer::new(64 << 10));

    let mut group = c.benchmark_group("stat_batch_64");
    group.throughput(Throughput::Elements(STATS));
    group.bench_function("request/encode", |b| {
        b.iter(|| {
            out.clear();
            encoder.request(&mut out, 7, black_box(&batch), 0);
            out.len()
        });
    });
    group.bench_function("request/decode", |b| {
        b.iter(|| {
            receive(&mut buffer, black_box(&out));
            buffer.next_head().expect("a frame").expect("all of it").read::<Batch>().expect("a batch")
        });
    });
    let mut out = Vec::new();
    group.bench_function("reply/encode", |b| {
        b.iter(|| {
            out.clear();
            encoder.reply::<Batch>(&mut out, 7, black_box(&reply));
            out.len()
        });
    });
    group.bench_function("reply/decode", |b| {
        b.iter(|| {
            receive(&mut buffer, black_box(&out));
            buffer.next_head().expect("a frame").expect("all of it").read_reply::<Batch>().expect("a reply")
        });
    });
    group.finish();
}

fn capability(c: &mut Criterion) {
    let right = Right {
        file: FileKey([1; 16]),
        place: Place(2),
        mount: MountId(1),
        path: "warehouse/table/part-00001.parquet".into(),
        origin: Origin::UnderStore { token: b"\"d41d8cd98f00b204e9800998ecf8427e\"".to_vec() },
        length: 64 << 20,
        block_bytes: 64 << 20,
        access: Access::Read,
        user: "someone".into(),
        expires_ms: 1_900_000_000_000,
    };
    let keys = [MacKey([1; 32]), MacKey([2; 32])];
    let signed = right.sign(&keys[0]);
    let mut group = c.benchmark_group("capability");
    group.bench_function("sign", |b| b.iter(|| black_box(&right).sign(&keys[0])));
    group.bench_function("check", |b| b.iter(|| Right::check(black_box(&signed), &keys, 0).expect("a right")));
    group.finish();
}

fn placement(c: &mut Criterion) {
    let mut group = c.benchmark_group("placement");
    for workers in [3, 100, 1000] {
        let ring = ring(workers);
        let mut index = 0_u32;
        group.bench_function(format!("{workers}_workers"), |b| {
            b.iter(|| {
                index = index.wrapping_add(1);
                black_box(&ring).owner(Place(0x1234_5678_9abc_def0), index)
            });
        });
    }
    group.finish();
}

fn checksum(c: &mut Criterion) {
    // Larger than the caches, so that what is summed comes from memory, as it does when bytes enter the node; the
    // offsets move by an odd number of pieces.
    let memory = bytes(64 << 20);
    let mut group = c.benchmark_group("crc32");
    for (name, length) in [("sector", SECTOR_BYTES), ("grain", GRAIN_BYTES), ("page", PAGE_BYTES)] {
        let pieces = memory.len() / length;
        let mut piece = 0;
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(name, |b| {
            b.iter_batched(
                || {
                    piece = (piece + 7) % pieces;
                    &memory[piece * length..][..length]
                },
                crc32fast::hash,
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, frame, read, stat_batch, capability, placement, checksum);
criterion_main!(benches);
