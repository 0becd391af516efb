//! Rows, as people and as programs read them.

use crate::measure::Medians;
use anyhow::Result;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table};
use core::fmt;
use serde::{Serialize, Serializer};

/// What a ratio of Citius to its baseline should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// Less is better, and this is enough: a latency.
    AtMost(f64),
    /// More is better, and this is enough: a throughput.
    AtLeast(f64),
    /// There is none: it is recorded beside one that has.
    None,
}

impl Goal {
    fn is_met_by(self, ratio: f64) -> Option<bool> {
        match self {
            Self::AtMost(bound) => Some(ratio <= bound),
            Self::AtLeast(bound) => Some(ratio >= bound),
            Self::None => None,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "<= {bound}"),
            Self::AtLeast(bound) => write!(f, ">= {bound}"),
            Self::None => f.write_str("-"),
        }
    }
}

impl Serialize for Goal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What was measured. A side that took no part has no figure: nothing is made up.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    /// Which ratio.
    pub(crate) name: &'static str,
    /// The median of Citius.
    pub(crate) citius: Option<f64>,
    /// The median of the baseline.
    pub(crate) baseline: f64,
    /// The first by the second.
    pub(crate) ratio: Option<f64>,
    /// The unit of both.
    pub(crate) unit: &'static str,
    /// What the ratio should be.
    pub(crate) goal: Goal,
    /// Whether it is; `None` if there is no goal or no ratio.
    pub(crate) met: Option<bool>,
    /// CPU seconds of a round of Citius, its client and its server together, where they were taken.
    pub(crate) citius_cpu_seconds: Option<f64>,
    /// CPU seconds of a round of the baseline.
    pub(crate) baseline_cpu_seconds: Option<f64>,
    /// How many rounds the medians are of.
    pub(crate) rounds: u32,
}

impl Row {
    pub(crate) fn new(name: &'static str, unit: &'static str, goal: Goal, rounds: u32, medians: Medians) -> Self {
        let Medians { citius, baseline, cpu_seconds } = medians;
        let ratio = citius.map(|citius| citius / baseline);
        Self {
            name,
            citius,
            baseline,
            ratio,
            unit,
            goal,
            met: ratio.and_then(|ratio| goal.is_met_by(ratio)),
            citius_cpu_seconds: cpu_seconds.map(|(citius, _)| citius),
            baseline_cpu_seconds: cpu_seconds.map(|(_, baseline)| baseline),
            rounds,
        }
    }

    /// CPU time of Citius beside the baseline's.
    fn cpu_ratio(&self) -> Option<f64> {
        Some(self.citius_cpu_seconds? / self.baseline_cpu_seconds?)
    }
}

/// All rows, aligned.
pub(crate) fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header(["name", "citius", "baseline", "ratio", "unit", "goal", "met", "cpu", "rounds"]);
    for row in rows {
        let met = match row.met {
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        };
        table.add_row([
            row.name.to_owned(),
            row.citius.map_or("-".to_owned(), scaled),
            scaled(row.baseline),
            row.ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}")),
            row.unit.to_owned(),
            row.goal.to_string(),
            met.to_owned(),
            row.cpu_ratio().map_or("-".to_owned(), |ratio| format!("{ratio:.2}")),
            row.rounds.to_string(),
        ]);
    }
    for right in [1, 2, 3, 7, 8] {
        if let Some(column) = table.column_mut(right) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A list of objects, one a row.
pub(crate) fn json(rows: &[Row]) -> Result<String> {
    Ok(serde_json::to_string_pretty(rows)? + "\n")
}

/// Four digits and a decimal prefix: the table is for eyes, the JSON has all digits.
fn scaled(value: f64) -> String {
    let (divisor, prefix) = match value.abs() {
        1e9.. => (1e9, " G"),
        1e6.. => (1e6, " M"),
        1e4.. => (1e3, " k"),
        _ => (1.0, ""),
    };
    let value = value / divisor;
    let digits = if value.abs() < 10.0 { 3 } else { 1 };
    format!("{value:.digits$}{prefix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(citius: Option<f64>, goal: Goal) -> Row {
        Row::new("a.b", "ns", goal, 5, Medians { citius, baseline: 200.0, cpu_seconds: citius.map(|_| (3.0, 4.0)) })
    }

    #[test]
    fn goals_are_judged_at_their_bound_and_in_their_direction() {
        let met = |citius, goal| row(Some(citius), goal).met.unwrap();
        assert!(met(300.0, Goal::AtMost(1.5)) && !met(301.0, Goal::AtMost(1.5)));
        assert_eq!(row(Some(1.0), Goal::None).met, None);
        assert!(met(190.0, Goal::AtLeast(0.95)) && !met(189.0, Goal::AtLeast(0.95)));
    }

    #[test]
    fn a_side_that_took_no_part_has_no_figure() {
        let row = row(None, Goal::AtMost(1.5));
        assert_eq!((row.citius, row.ratio, row.met), (None, None, None));
        let line = table(&[row]).lines().find(|line| line.contains("a.b")).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words, ["a.b", "-", "200.0", "-", "ns", "<=", "1.5", "-", "-", "5"]);
    }

    #[test]
    fn json_is_a_list_of_objects() {
        let text = json(&[row(Some(300.0), Goal::AtMost(1.5)), row(None, Goal::AtLeast(0.85))]).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            value[0],
            serde_json::json!({
                "name": "a.b", "citius": 300.0, "baseline": 200.0, "ratio": 1.5,
                "unit": "ns", "goal": "<= 1.5", "met": true,
                "citius_cpu_seconds": 3.0, "baseline_cpu_seconds": 4.0, "rounds": 5
            })
        );
        assert_eq!((&value[1]["citius"], &value[1]["goal"]), (&serde_json::Value::Null, &">= 0.85".into()));
    }

    #[test]
    fn figures_have_four_digits() {
        for (value, expected) in
            [(0.5, "0.500"), (612.34, "612.3"), (9_999.0, "9999.0"), (23_456.0, "23.5 k"), (1.25e9, "1.250 G")]
        {
            assert_eq!(scaled(value), expected);
        }
    }
}
