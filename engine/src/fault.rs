//! Damage on purpose, so that tests can see what readers do about it. In debug builds only.
//!
//! `CITIUS_FAULT=flip:<n>` in the environment of a worker flips one bit of the `n`-th run of bytes, from 1, that enters
//! its memory tier: a piece fetched from an under-store, or a block that came in frames. The bit is flipped after the
//! run's checksums were computed and before anybody can read it, as failing memory would. What a local writer wrote
//! through a map is sealed by the kernel and is not counted.

use crate::ring::SpanMut;

/// Lets the fault strike bytes whose checksums are computed. Does nothing in a release build, or unless asked for.
#[cfg(not(debug_assertions))]
pub(crate) fn strike(_run: &mut [SpanMut]) {}

/// Lets the fault strike bytes whose checksums are computed. Does nothing in a release build, or unless asked for.
#[cfg(debug_assertions)]
pub(crate) fn strike(run: &mut [SpanMut]) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static STRUCK_RUN: LazyLock<Option<u64>> = LazyLock::new(|| parse(&std::env::var("CITIUS_FAULT").ok()?));
    static RUNS: AtomicU64 = AtomicU64::new(0);

    let Some(struck) = *STRUCK_RUN else { return };
    if RUNS.fetch_add(1, Ordering::Relaxed) + 1 == struck
        && let Some(span) = run.iter_mut().find(|span| !span.is_empty())
    {
        tracing::warn!(run = struck, "CITIUS_FAULT flips a bit");
        let at = span.len() / 2;
        span.bytes_mut()[at] ^= 0x10;
    }
}

#[cfg(debug_assertions)]
fn parse(text: &str) -> Option<u64> {
    let parsed = text.strip_prefix("flip:").and_then(|number| number.parse().ok());
    if parsed.is_none() {
        tracing::warn!(text, "CITIUS_FAULT is not understood: flip:<n> is");
    }
    parsed
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn only_a_flip_is_understood() {
        assert_eq!(parse("flip:3"), Some(3));
        assert_eq!((parse("flip:"), parse("flip:x"), parse("3")), (None, None, None));
    }
}
