//! Rounds and what is made of them.

use anyhow::Result;
use std::time::{Duration, Instant};

/// One side of a ratio: set up once, measured once a round.
pub(crate) trait Side {
    /// Does the work of one round over the offsets that `seed` gives, and says how fast it was, in the ratio's unit.
    fn round(&mut self, seed: u64) -> Result<f64>;

    /// CPU seconds of the last round, of all that work for the client and not of the store; `None` where they say nothing.
    fn cpu_seconds(&self) -> Option<f64> {
        None
    }
}

/// A side that nothing has to be measured of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fixed(pub(crate) f64);

impl Side for Fixed {
    fn round(&mut self, _seed: u64) -> Result<f64> {
        Ok(self.0)
    }
}

/// Medians of both sides; of Citius only where it took part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Medians {
    /// Of Citius.
    pub(crate) citius: Option<f64>,
    /// Of the baseline.
    pub(crate) baseline: f64,
    /// CPU seconds of a round: of Citius, and of the baseline.
    pub(crate) cpu_seconds: Option<(f64, f64)>,
}

/// Measures both sides in the same minutes: one unmeasured round each, then round about, the first of a round being
/// the second of the next, so that neither always comes after the other. Each round has its own offsets, the same for
/// both.
pub(crate) fn interleave(
    rounds: u32,
    seed: u64,
    mut citius: Option<&mut dyn Side>,
    baseline: &mut dyn Side,
) -> Result<Medians> {
    let (mut of_citius, mut of_baseline) = (Vec::new(), Vec::new());
    let (mut cpu_of_citius, mut cpu_of_baseline) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let seed = seed.wrapping_add(u64::from(round));
        let mut values = (None, 0.0);
        for turn in 0..2 {
            if (turn + round) % 2 == 0 {
                values.1 = baseline.round(seed)?;
            } else if let Some(side) = citius.as_deref_mut() {
                values.0 = Some(side.round(seed)?);
            }
        }
        if round > 0 {
            of_citius.extend(values.0);
            of_baseline.push(values.1);
            cpu_of_citius.extend(citius.as_deref().and_then(Side::cpu_seconds));
            cpu_of_baseline.extend(baseline.cpu_seconds());
        }
    }
    let are_watched = !cpu_of_citius.is_empty() && !cpu_of_baseline.is_empty();
    Ok(Medians {
        citius: citius.is_some().then(|| median(&mut of_citius)),
        baseline: median(&mut of_baseline),
        cpu_seconds: are_watched.then(|| (median(&mut cpu_of_citius), median(&mut cpu_of_baseline))),
    })
}

/// The middle value, or the mean of the two in the middle.
///
/// # Panics
/// If there is none.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    assert!(!values.is_empty(), "a median of nothing");
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

/// Times of single requests, or of equal batches of them.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    nanoseconds: Vec<u64>,
}

impl Latencies {
    /// Room for `count` times, so that none is taken while memory grows.
    pub(crate) fn with_capacity(count: usize) -> Self {
        Self { nanoseconds: Vec::with_capacity(count) }
    }

    /// Times one call.
    pub(crate) fn time<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = call();
        self.add(start.elapsed());
        result
    }

    /// Adds a time that was taken elsewhere.
    pub(crate) fn add(&mut self, time: Duration) {
        self.nanoseconds.push(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// The time that `percent` of all were not above, by nearest rank, in nanoseconds.
    ///
    /// # Panics
    /// If there is none, or `percent` is not within 0 to 100.
    pub(crate) fn percentile(&mut self, percent: f64) -> u64 {
        assert!(!self.nanoseconds.is_empty() && (0.0..=100.0).contains(&percent));
        self.nanoseconds.sort_unstable();
        let rank = (percent / 100.0 * self.nanoseconds.len() as f64).ceil() as usize;
        self.nanoseconds[rank.saturating_sub(1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    struct Scripted<'a> {
        name: char,
        log: &'a RefCell<Vec<(char, u64)>>,
        values: Vec<f64>,
        cpu_seconds: Option<f64>,
    }

    impl Side for Scripted<'_> {
        fn round(&mut self, seed: u64) -> Result<f64> {
            self.log.borrow_mut().push((self.name, seed));
            Ok(self.values.remove(0))
        }

        fn cpu_seconds(&self) -> Option<f64> {
            self.cpu_seconds
        }
    }

    #[test]
    fn rounds_alternate_share_their_seed_and_the_first_does_not_count() {
        let log = RefCell::default();
        let mut citius = Scripted { name: 'c', log: &log, values: vec![1e9, 5.0, 1.0, 3.0], cpu_seconds: Some(2.0) };
        let mut baseline =
            Scripted { name: 'b', log: &log, values: vec![1e9, 20.0, 10.0, 90.0], cpu_seconds: Some(4.0) };
        let medians = interleave(3, 7, Some(&mut citius), &mut baseline).unwrap();
        assert_eq!(medians, Medians { citius: Some(3.0), baseline: 20.0, cpu_seconds: Some((2.0, 4.0)) });
        let expected = [('b', 7), ('c', 7), ('c', 8), ('b', 8), ('b', 9), ('c', 9), ('c', 10), ('b', 10)];
        assert_eq!(log.into_inner(), expected);
    }

    #[test]
    fn a_baseline_alone_claims_nothing_of_citius() {
        let log = RefCell::default();
        let mut baseline = Scripted { name: 'b', log: &log, values: vec![0.0, 2.0], cpu_seconds: Some(1.0) };
        let alone = Medians { citius: None, baseline: 2.0, cpu_seconds: None };
        assert_eq!(interleave(1, 0, None, &mut baseline).unwrap(), alone);
    }

    #[test]
    fn medians_of_odd_and_even() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&mut [1.0]), 1.0);
    }

    #[test]
    fn percentiles_by_nearest_rank() {
        let mut latencies = Latencies::default();
        for nanoseconds in (1..=200).rev() {
            latencies.add(Duration::from_nanos(nanoseconds));
        }
        let found = [0.0, 0.5, 50.0, 99.0, 100.0].map(|percent| latencies.percentile(percent));
        assert_eq!(found, [1, 1, 100, 198, 200]);
    }
}
