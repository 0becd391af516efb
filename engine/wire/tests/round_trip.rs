//! What is written is read back, and what was never written never panics the reader.

#![allow(clippy::unwrap_used)]

mod every_message;

use citius_wire::*;
use every_message::{judge, received, samples};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeSet;

#[test]
fn every_kind_with_a_message_has_both_its_samples() {
    let mut seen = BTreeSet::new();
    for (name, frame) in samples() {
        let mut buffer = received(&frame);
        let (head, _) = buffer.next_frame().unwrap().unwrap();
        judge(&head).unwrap_or_else(|e| panic!("{name}: {e}"));
        seen.insert((head.prelude.kind as u8, head.prelude.flags.has(Flags::REPLY)));
        assert_eq!(buffer.buffered(), 0);
    }
    for kind in Kind::ALL {
        assert!(seen.contains(&(kind as u8, false)) && seen.contains(&(kind as u8, true)), "{kind:?}");
    }
}

/// Damage that keeps the checksum right, as an enemy would do it: each byte of each header, set to the worst.
#[test]
fn damaged_headers_with_a_right_checksum_are_judged_without_a_panic() {
    let (mut accepted, mut refused) = (0, 0);
    for (_, frame) in samples() {
        let prelude = Prelude::parse(frame.first_chunk().unwrap()).unwrap();
        let head_bytes = PRELUDE_BYTES + prelude.header_len as usize;
        for at in PRELUDE_BYTES..head_bytes {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bad = frame[..head_bytes].to_vec();
                bad[at] = value;
                let mut sealed = prelude;
                sealed.payload_len = 0;
                sealed.header_crc = sealed.checksum(&bad[PRELUDE_BYTES..]);
                bad[..PRELUDE_BYTES].copy_from_slice(&sealed.to_bytes());
                match judge(&received(&bad).next_head().unwrap().unwrap()) {
                    Ok(()) => accepted += 1,
                    Err(error) => {
                        assert_eq!(error, FrameError::Archive(prelude.kind));
                        refused += 1;
                    }
                }
            }
        }
    }
    assert!(accepted > 1_000 && refused > 1_000, "{accepted} {refused}");
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "/[a-z ü%#+]{0,40}", "\\PC{0,300}"]
}

fn file_key() -> impl Strategy<Value = FileKey> {
    any::<[u8; 16]>().prop_map(FileKey)
}

fn operation() -> impl Strategy<Value = Operation> {
    let bytes = || vec(any::<u8>(), 0..64);
    prop_oneof![
        name().prop_map(|path| Operation::Stat { path }),
        name().prop_map(|path| Operation::Open { path, stale: None }),
        (name(), any::<(bool, bool, u32)>(), prop::sample::select(&WriteType::ALL)).prop_map(
            |(path, (overwrite, parents, block_bytes), write_type)| Operation::Create {
                path,
                overwrite,
                parents,
                write_type,
                block_bytes
            }
        ),
        file_key().prop_map(|file| Operation::Renew { file }),
        (file_key(), any::<u64>()).prop_map(|(file, length)| Operation::Complete { file, length }),
        (name(), any::<bool>()).prop_map(|(path, recursive)| Operation::Delete { path, recursive }),
        (name(), name(), any::<bool>()).prop_map(|(from, to, overwrite)| Operation::Rename { from, to, overwrite }),
        (name(), name(), vec((name(), name()), 0..4), any::<bool>(), any::<Option<i64>>()).prop_map(
            |(path, uri, options, read_only, sync_interval_ms)| Operation::MountAdd {
                path,
                uri,
                options: options.into_iter().map(|(name, value)| (name, value.into())).collect(),
                read_only,
                sync_interval_ms
            }
        ),
        (name(), vec((name(), name()), 0..4), vec(name(), 0..4)).prop_map(|(path, options, unset)| {
            let options = options.into_iter().map(|(name, value)| (name, value.into())).collect();
            Operation::MountSet { path, options, unset }
        }),
        Just(Operation::MountList),
        (file_key(), bytes()).prop_map(|(file, record)| Operation::StageStarted { file, record }),
        (file_key(), any::<[u64; 3]>(), bytes()).prop_map(|(file, [length, worker, life], record)| {
            Operation::PublishIntent { file, length, record, worker: WorkerId(worker), incarnation: Incarnation(life) }
        }),
        (file_key(), bytes()).prop_map(|(file, token)| Operation::PublishDone { file, token }),
    ]
}

fn result() -> impl Strategy<Value = Result<Outcome, Failure>> {
    let status = prop::sample::select(vec![Status::NotFound, Status::Busy, Status::Internal]);
    prop_oneof![
        Just(Ok(Outcome::Done)),
        prop::sample::select(every_message::outcomes()).prop_map(Ok),
        any::<Option<Vec<u8>>>().prop_map(|replaces| Ok(Outcome::Intent { replaces })),
        (status, name()).prop_map(|(status, words)| Err(Failure::new(status, words))),
    ]
}

/// Frames as a peer might have written them: a right prelude and checksum, any kind and flags, any header.
fn sealed_garbage() -> impl Strategy<Value = Vec<u8>> {
    (prop::sample::select(&Kind::ALL), 0..16_u16, vec(any::<[u8; HEADER_ALIGN]>(), 0..12)).prop_map(
        |(kind, flags, blocks)| {
            let header = blocks.concat();
            let mut prelude = Prelude {
                kind,
                flags: Flags(flags),
                header_len: header.len() as u32,
                header_crc: 0,
                payload_len: 0,
                request_id: 0,
            };
            prelude.header_crc = prelude.checksum(&header);
            [prelude.to_bytes().to_vec(), header].concat()
        },
    )
}

/// Takes frames until there is none or one is refused.
fn drain(bytes: &[u8]) {
    let mut heads = received(bytes);
    while let Ok(Some(head)) = heads.next_head() {
        let payload = head.prelude.payload_len as usize;
        let _ = judge(&head);
        heads.take_payload(payload);
    }
    let mut frames = received(bytes);
    while let Ok(Some((head, payload))) = frames.next_frame() {
        assert_eq!(payload.len() as u64, head.prelude.payload_len);
        let _ = judge(&head);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn batches(first: u64, operations in vec(operation(), 0..40), id: u64) {
        let mut frame = Vec::new();
        Encoder::default().request(&mut frame, id, &Batch { first: Serial(first), operations: operations.clone() }, 0);
        let mut buffer = received(&frame);
        let head = buffer.next_head().unwrap().unwrap();
        prop_assert_eq!(head.prelude.request_id, id);
        let batch = head.read::<Batch>().unwrap();
        prop_assert!(batch.first == Serial(first) && batch.operations == operations);
    }

    #[test]
    fn batch_replies(results in vec(result(), 0..40)) {
        let mut frame = Vec::new();
        Encoder::default().reply::<Batch>(&mut frame, 1, &Ok(BatchReply { results: results.clone() }));
        let mut buffer = received(&frame);
        let reply = buffer.next_head().unwrap().unwrap().read_reply::<Batch>().unwrap();
        prop_assert_eq!(reply.results, results);
    }

    /// The shard's borrowing view and the client's owning message are one format.
    #[test]
    fn read_reply_views(offset: u64, crcs in vec(any::<u32>(), 0..1_100)) {
        let (mut view, mut owned) = (Vec::new(), Vec::new());
        let mut encoder = Encoder::default();
        encoder.encode(&mut view, Kind::Read, Flags::REPLY, 3, &ReadReplyView { offset, crcs: &crcs }, 9);
        let reply = ReadReply { offset, crcs: crcs.into() };
        encoder.encode(&mut owned, Kind::Read, Flags::REPLY, 3, &reply, 9);
        prop_assert_eq!(&view, &owned);
        prop_assert_eq!(received(&view).next_head().unwrap().unwrap().read_reply::<Read>().unwrap(), reply);
    }

    #[test]
    fn garbage_never_panics(bytes in vec(any::<u8>(), 0..400)) {
        drain(&bytes);
        let _ = Right::check(&bytes, &[every_message::key()], 0);
    }

    #[test]
    fn garbage_behind_a_right_prelude_never_panics(frames in vec(sealed_garbage(), 1..4)) {
        drain(&frames.concat());
    }

    #[test]
    fn spliced_samples_never_panic(
        picks in vec((prop::sample::select(samples()), any::<prop::sample::Index>(), any::<u8>()), 1..4)
    ) {
        let mut bytes = Vec::new();
        for ((_, mut frame), at, value) in picks {
            let at = at.index(frame.len());
            frame[at] = value;
            bytes.extend(frame);
        }
        drain(&bytes);
    }
}
