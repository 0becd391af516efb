//! `/metrics` of a mount says what a server saw: a known load, on a real store behind a proxy that counts.

use crate::bucket::Prefix;
use crate::full_disk::get;
use crate::support::{Process, noise, put};
use citius_understore::testing::servers::Witness;

/// 4 is an exit code of a store that denies access.
const DENIED: i32 = 4;
/// Neither is a whole number of pages, nor of anything else.
const A_BYTES: usize = 200_003;
const B_BYTES: usize = 3_000_017;
const WRITTEN_BYTES: usize = 70_001;

/// The mount's metrics at a moment when nothing is asked.
struct Metrics(String);

impl Metrics {
    fn of(local: &Process) -> Self {
        // Workers tell theirs by heartbeats.
        local.requests("/data");
        Self(get(local, "/metrics"))
    }

    /// A counter of the mount; zero while it has no series. `labels` come after the mount's.
    fn read(&self, name: &str, labels: &str) -> u64 {
        let series = format!("\ncitius_mount_{name}{{mount=\"/data\"{labels}}} ");
        self.0.split_once(&series).map_or(0, |(_, rest)| rest.lines().next().unwrap().parse().unwrap())
    }

    fn count(&self, name: &str) -> u64 {
        assert!(self.0.contains(&format!("\ncitius_mount_{name}_total{{mount=\"/data\"}} ")), "{name}: {}", self.0);
        self.read(&format!("{name}_total"), "")
    }

    fn failures(&self, kind: &str) -> u64 {
        self.read("failures_total", &format!(",kind=\"{kind}\""))
    }

    fn requests(&self) -> u64 {
        self.count("read_requests") + self.count("other_requests")
    }

    /// How many requests may be under way, of the master's and the worker's.
    fn limit(&self) -> u64 {
        self.read("concurrency_limit", "")
    }

    /// How many answers were timed, of this operation.
    fn timed(&self, operation: &str) -> u64 {
        self.read("request_seconds_count", &format!(",operation=\"{operation}\""))
    }
}

#[test]
fn metrics_of_a_mount_are_what_its_server_saw() {
    let bucket = Prefix::new("metrics");
    let (a, b) = (noise(A_BYTES, 1), noise(B_BYTES, 2));
    bucket.put("a", a.clone());
    bucket.put("b", b.clone());
    bucket.put("denied", vec![7; 1000]);
    let witness = Witness::before(bucket.endpoint().strip_prefix("http://").unwrap()).unwrap();
    let local = bucket.local_at(&witness.endpoint());
    let idle = Metrics::of(&local);
    assert_eq!((idle.count("read_requests"), idle.count("read_bytes"), idle.count("write_bytes")), (0, 0, 0));

    // Read, and read again from memory.
    assert!(local.run(&["cat", "/data/a"]) == a);
    let cold = Metrics::of(&local);
    assert_eq!(cold.count("read_bytes"), A_BYTES as u64);
    assert!(cold.count("read_requests") >= 1 && cold.requests() == witness.requests(), "{}", cold.0);
    let seen = witness.requests();
    assert!(local.run(&["cat", "/data/a"]) == a);
    let warm = Metrics::of(&local);
    assert_eq!(warm.count("read_bytes"), A_BYTES as u64, "it came from memory");
    let (asked, saved) = (witness.requests() - seen, warm.count("saved_requests") - cold.count("saved_requests"));
    assert!(asked <= 1 && saved >= 1, "{asked} asked, {saved} saved");
    assert_eq!((warm.count("retries"), warm.failures("throttled"), warm.failures("refused")), (0, 0, 0));

    // One is refused for a moment, and asked for again.
    witness.refuse("/b", 503, 1);
    assert!(local.run(&["cat", "/data/b"]) == b);
    assert_eq!(witness.refused(), 1);
    let retried = Metrics::of(&local);
    assert_eq!(retried.count("read_bytes"), (A_BYTES + B_BYTES) as u64);
    assert_eq!((retried.count("retries"), retried.failures("throttled"), retried.failures("refused")), (1, 1, 0));

    // One is refused for good, and not asked for again.
    witness.refuse("/denied", 403, u64::MAX);
    let error = local.fails(DENIED, &["cat", "/data/denied"]);
    assert!(error.contains("/data/denied") && error.contains("denies access"), "{error}");
    let failed = Metrics::of(&local);
    let refused = witness.refused() - 1;
    assert_eq!((failed.count("retries"), failed.failures("throttled"), failed.failures("refused")), (1, 1, refused));
    assert_eq!(failed.count("read_bytes"), (A_BYTES + B_BYTES) as u64, "no byte of it came");

    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    put(&source, &noise(WRITTEN_BYTES, 3));
    local.run(&["cp", &format!("file:{}", source.display()), "/data/written"]);
    let all = Metrics::of(&local);
    assert_eq!(all.count("write_bytes"), WRITTEN_BYTES as u64);
    assert_eq!(all.count("read_bytes"), (A_BYTES + B_BYTES) as u64);
    assert!(all.timed("write") >= 1 && all.timed("write") > failed.timed("write"), "{}", all.0);

    // Every request that the server saw is counted, and timed, once.
    assert_eq!(all.requests(), witness.requests(), "{}", all.0);
    assert_eq!(all.timed("read"), all.count("read_requests"));
    let operations = ["read", "write", "stat", "list", "change"];
    assert_eq!(operations.iter().map(|operation| all.timed(operation)).sum::<u64>(), all.requests(), "{}", all.0);
    for kind in ["unreachable", "timed_out", "broken", "server"] {
        assert_eq!(all.failures(kind), 0, "{kind}");
    }
    assert_eq!((all.count("retries_denied"), all.count("hedges"), all.count("barred_requests")), (0, 0, 0));
}

/// How much a server bears is found out: what it is asked at once falls when it says that this is too much, and rises again
/// while it answers.
#[test]
fn the_limit_on_requests_falls_and_rises_with_what_the_server_says() {
    const FILES: usize = 100;
    const REFUSALS: u64 = 4;
    let bucket = Prefix::new("limit");
    bucket.put_all((0..FILES).map(|number| (format!("d/{number}"), noise(1000, number as u64))));
    bucket.put("busy", noise(1000, 0));
    let witness = Witness::before(bucket.endpoint().strip_prefix("http://").unwrap()).unwrap();
    let local = Process::local(&[]);
    bucket.mount_through(&witness.endpoint(), &local, "/data", &["--option", "max_concurrency=8"]);
    local.run(&["cat", "/data/d/0"]);
    let at_first = Metrics::of(&local);

    witness.refuse("/busy", 503, REFUSALS);
    assert!(local.run(&["cat", "/data/busy"]) == noise(1000, 0));
    let fallen = Metrics::of(&local);
    assert_eq!((fallen.failures("throttled"), fallen.count("retries")), (REFUSALS, REFUSALS));
    assert!(fallen.limit() < at_first.limit(), "{} after {}", fallen.limit(), at_first.limit());

    local.run(&["load", "/data/d"]);
    let risen = Metrics::of(&local);
    assert_eq!(risen.failures("throttled"), REFUSALS);
    assert!(risen.limit() > fallen.limit(), "{} after {}", risen.limit(), fallen.limit());
    assert!(risen.limit() <= at_first.limit(), "{} after {}", risen.limit(), at_first.limit());
}
