//! Values of a mount's options are wiped wherever the control plane lets go of them: in its commands, its state, what
//! workers get, and the stores that it opens. An allocator looks at all memory that is freed.
//!
//! Not looked at is what goes past as bytes, and is leaked here: frames of connections and entries of the log, whose
//! buffers are those of the libraries below.

#![allow(clippy::unwrap_used)]
#![allow(unsafe_code)]

use citius_control::check_under_store;
use citius_control::state::{Change, Command, MountOptions, MountSpec, State};
use citius_wire::{ClusterId, MacKey, MountSecret, Operation, SecretText};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

/// The system's allocator, looking for a value in all that is freed.
struct Watching;

/// A value that is nowhere by chance. It is whole in the program's text, which nobody frees.
const VALUE: &[u8] = b"q8Zr-v3Xk-T0mW-5nPd-secret-of-a-mount";
static WATCHES: AtomicBool = AtomicBool::new(false);
static LEFT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged. A block is read before it is freed, for its whole length.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is passed on. Zeroes, because what is read again must have been written.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        if WATCHES.load(SeqCst) && layout.size() >= VALUE.len() {
            // SAFETY: the block is allocated, of this length, nobody else's any more, and was initialized when it was made.
            let block = unsafe { std::slice::from_raw_parts(ptr, layout.size()) };
            if block.windows(VALUE.len()).any(|window| window == VALUE) {
                LEFT.fetch_add(1, SeqCst);
            }
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// How many blocks are freed with the value in them while `work` is done.
fn left_by(work: impl FnOnce()) -> usize {
    let before = LEFT.load(SeqCst);
    WATCHES.store(true, SeqCst);
    work();
    WATCHES.store(false, SeqCst);
    LEFT.load(SeqCst) - before
}

fn value() -> &'static str {
    std::str::from_utf8(VALUE).unwrap()
}

fn options(name: &str) -> Vec<(String, SecretText)> {
    vec![(name.to_owned(), value().into())]
}

fn spec(uri: &str, options: Vec<(String, SecretText)>) -> MountSpec {
    MountSpec { uri: uri.to_owned(), options: MountOptions(options), read_only: false, sync_interval_ms: 0 }
}

/// An entry of the log that is never freed.
fn entry(change: Change) -> &'static [u8] {
    Command { caller: None, change }.encode().leak()
}

/// One after another: all look at the memory of the whole process.
#[test]
fn nothing_of_a_value_is_left() {
    assert_eq!(left_by(|| drop(value().to_owned())), 1, "the allocator sees what is not wiped");
    assert_eq!(left_by(|| drop(SecretText::from(value()))), 0);
    a_command_becomes_state_and_goes();
    operations_are_answered_and_workers_told();
    stores_are_opened_and_closed();
}

/// From the log into the state, and out of it when the mount goes.
fn a_command_becomes_state_and_goes() {
    let init = Change::Init { cluster: ClusterId([1; 16]), keys: vec![MacKey([1; 32])], root: spec("/r", vec![]) };
    let mount = Change::MountAdd { path: "/data".into(), spec: spec("s3://b", options("aws_secret_access_key")) };
    let entries = [entry(init), entry(mount), entry(Change::MountRemove { path: "/data".into() })];
    let mut seen = 0;
    let left = left_by(|| {
        let mut state = State::new();
        for entry in entries {
            state.apply(&Command::decode(entry).unwrap(), 1).unwrap();
            let of = |mount: &citius_control::state::Mount| mount.options.clone();
            seen +=
                state.mounts().map(of).filter(|options| options.0.iter().any(|it| it.1.expose() == value())).count();
        }
    });
    assert_eq!((seen, left), (1, 0));
}

/// What a client asks for, and what a worker is told.
fn operations_are_answered_and_workers_told() {
    let left = left_by(|| {
        let operation = Operation::MountAdd {
            path: "/data".into(),
            uri: "s3://b".into(),
            options: options("aws_secret_access_key"),
            read_only: false,
            sync_interval_ms: None,
        };
        let Operation::MountAdd { uri, options, .. } = operation.clone() else { unreachable!() };
        let told = MountSecret { mount: citius_wire::MountId(1), uri, options, read_only: false };
        drop((told.clone(), told, operation));
    });
    assert_eq!(left, 0);
}

/// Those whose key signs and is never sent, as `mount check` and a mount open them: by option and by alias, as far as the
/// first request, which nobody answers.
fn stores_are_opened_and_closed() {
    let with = |pairs: &[(&str, &str)], secret: &str| -> Vec<(String, SecretText)> {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), SecretText::from(*value)));
        pairs.chain(options(secret)).collect()
    };
    let nowhere = "http://127.0.0.1:9";
    let s3 = [("aws_endpoint", nowhere), ("aws_allow_http", "true"), ("aws_access_key_id", "id"), ("retries_max", "0")];
    let oss = [
        ("oss_endpoint", nowhere),
        ("oss_region", "r"),
        ("oss_allow_http", "true"),
        ("oss_access_key_id", "id"),
        ("retries_max", "0"),
    ];
    let gcs = [
        ("google_base_url", nowhere),
        ("google_allow_http", "true"),
        ("google_hmac_access_id", "id"),
        ("retries_max", "0"),
    ];
    let stores = [
        ("s3://b", with(&s3, "aws_secret_access_key")),
        ("s3://b", with(&s3, "fs.s3a.secret.key")),
        ("oss://b", with(&oss, "oss_access_key_secret")),
        ("gs://b", with(&gcs, "google_hmac_secret")),
    ];
    for (uri, options) in stores {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut failed = String::new();
        let left = left_by(|| {
            let checkup = runtime.block_on(check_under_store(uri, &options, false, false));
            failed = checkup.failure().unwrap().name.clone();
            drop((checkup, runtime));
        });
        assert_eq!((failed.as_str(), left), ("network", 0), "{uri} {options:?}");
    }
}
