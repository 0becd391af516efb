//! Futures side by side.

use std::future::Future;
use std::task::Poll;

use futures::stream::{FuturesUnordered, StreamExt};
use futures::{FutureExt, poll};

/// Runs `count` futures, which `begin` makes one by one, and gives their results in order. While `waiting_max` of them
/// wait, no other is begun.
///
/// Each is polled once where it is made, and many need no more: what a local under-store or the state says is there at
/// once. Only those that wait are put where they can be woken one by one, which costs more than such an answer.
pub(super) async fn abreast<F: Future>(count: usize, waiting_max: usize, begin: impl Fn(usize) -> F) -> Vec<F::Output> {
    assert!(waiting_max > 0, "somebody must be let in");
    let mut results: Vec<Option<F::Output>> = Vec::new();
    results.resize_with(count, || None);
    let mut waiting = FuturesUnordered::new();
    for i in 0..count {
        let mut future = Box::pin(begin(i));
        match poll!(&mut future) {
            Poll::Ready(result) => results[i] = Some(result),
            Poll::Pending => waiting.push(future.map(move |result| (i, result))),
        }
        while waiting.len() >= waiting_max
            && let Some((i, result)) = waiting.next().await
        {
            results[i] = Some(result);
        }
    }
    while let Some((i, result)) = waiting.next().await {
        results[i] = Some(result);
    }
    results.into_iter().map(|result| result.expect("every future was run to its end")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    /// Whatever order they end in, results come in the order of the futures, and no more wait at once than may.
    #[tokio::test]
    async fn results_are_in_order_and_those_who_wait_are_bounded() {
        const WAITING_MAX: usize = 4;
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let one = |i: usize| {
            let (now, most) = (&now, &most);
            async move {
                most.fetch_max(now.fetch_add(1, Relaxed) + 1, Relaxed);
                // Every third needs no waiting; of the others, the later ones of a handful end first.
                for _ in 0..if i.is_multiple_of(3) { 0 } else { 9 - i % 9 } {
                    tokio::task::yield_now().await;
                }
                now.fetch_sub(1, Relaxed);
                i
            }
        };
        assert_eq!(abreast(100, WAITING_MAX, one).await, (0..100).collect::<Vec<_>>());
        // Those that wait, and the one that was just begun.
        assert_eq!(most.load(Relaxed), WAITING_MAX);
        assert!(abreast(0, 1, one).await.is_empty());
    }
}
