//! The ratios, one function each.
//!
//! A function sets up both sides and gives one row. Adding a ratio is adding a function and its line in [`ALL`].

mod cold;
mod meta;
mod shm;
mod tcp;

use crate::context::Context;
use crate::measure::{Side, interleave};
use crate::report::{Goal, Row};
use anyhow::Result;

/// A ratio that can be run.
pub(crate) struct Ratio {
    /// Area, operation, size, and what is measured of it, the widest first.
    pub(crate) name: &'static str,
    /// Runs it.
    pub(crate) run: fn(&Context) -> Result<Row>,
}

/// Every ratio, in the order in which they run.
pub(crate) const ALL: [Ratio; 17] = [
    Ratio { name: shm::READ_4K_P50.name, run: shm::read_4k_p50 },
    Ratio { name: shm::READ_1M.name, run: shm::read_1m },
    Ratio { name: tcp::READ_4K_D1_P50.name, run: tcp::read_4k_d1_p50 },
    Ratio { name: tcp::READ_4K_D32.name, run: tcp::read_4k_d32 },
    Ratio { name: tcp::READ_1M_D4.name, run: tcp::read_1m_d4 },
    Ratio { name: cold::READ_SEQ.name, run: cold::read_seq },
    Ratio { name: cold::READ_4K_BYTES.name, run: cold::read_4k_bytes },
    Ratio { name: cold::READ_RANGES.name, run: cold::read_ranges },
    Ratio { name: cold::READ_REQUESTS.name, run: cold::read_requests },
    Ratio { name: cold::REREAD_REQUESTS.name, run: cold::reread_requests },
    Ratio { name: cold::LOAD_16K.name, run: cold::load_16k },
    Ratio { name: cold::WRITE_STREAM.name, run: cold::write_stream },
    Ratio { name: meta::STAT_PIPELINED.name, run: meta::stat_pipelined },
    Ratio { name: meta::STAT_PIPELINED_CPU.name, run: meta::stat_pipelined_cpu },
    Ratio { name: meta::STAT_UNPIPELINED.name, run: meta::stat_unpipelined },
    Ratio { name: meta::STAT_UNPIPELINED_CPU.name, run: meta::stat_unpipelined_cpu },
    Ratio { name: meta::CREATE.name, run: meta::create },
];

/// What a ratio is called, counted in, and should be.
#[derive(Clone, Copy, Debug)]
struct Spec {
    name: &'static str,
    unit: &'static str,
    goal: Goal,
}

impl Spec {
    /// Measures both sides; Citius may be left out, and then its columns are empty.
    fn measure(self, context: &Context, citius: Option<&mut dyn Side>, baseline: &mut dyn Side) -> Result<Row> {
        let medians = interleave(context.rounds, context.seed, citius, baseline)?;
        Ok(Row::new(self.name, self.unit, self.goal, context.rounds, medians))
    }
}

/// A side as [`Spec::measure`] takes it.
fn side<S: Side>(side: &mut Option<S>) -> Option<&mut dyn Side> {
    side.as_mut().map(|side| side as &mut dyn Side)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_distinct() {
        let names: BTreeSet<_> = ALL.iter().map(|ratio| ratio.name).collect();
        assert_eq!(names.len(), ALL.len());
    }
}
