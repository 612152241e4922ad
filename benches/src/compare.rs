//! Two runs held against each other: what is change, and what is noise.
//!
//! A measure has changed if its median moved by more than twice what the louder of the two runs
//! says that it may by noise, and if the ranks of the samples say that this is hardly chance. The
//! second alone would find every drift of the host; the first alone would trust medians of
//! few samples. Times of which there are too few samples to tell are listed, and count for nothing.

use std::fmt::Write as _;
use std::path::Path;

use crate::BenchError;
use crate::measure::{Better, Measure};
use crate::report::Report;
use crate::report::units::percent;
use crate::stats::rank::probability_of_chance;

/// One false alarm in so many whole comparisons: shared among the measures (Bonferroni).
const CHANCE: f64 = 0.01;
/// Of fewer samples ranks can't tell anything.
const FEW: usize = 4;
/// One measure in twenty moves by more than its noise although nothing has changed, and there
/// are hundreds: by so many times its noise one has to move to count. And a host that is slower
/// during one section shifts all samples of it, which ranks can't tell from a change.
const MANY: f64 = 2.0;

/// How one measure differs between two runs.
#[derive(Clone, Debug, PartialEq)]
struct Difference {
    id: String,
    unit: &'static str,
    before: f64,
    after: f64,
    /// By which part it got larger.
    change: f64,
    /// By which part it may by noise.
    noise: f64,
    /// How probable it is by chance; none where there are too few samples to tell.
    chance: Option<f64>,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Same,
    Better,
    Worse,
    /// Moved, with too few samples to tell.
    Moved,
}

/// What two runs have in common, and how it differs.
#[derive(Clone, Debug)]
pub struct Comparison {
    differences: Vec<Difference>,
    only_before: Vec<String>,
    only_after: Vec<String>,
    warnings: Vec<String>,
}

/// Compares the reports in `before` and `after`.
///
/// # Errors
/// When one of them is no report of this version, or they have no measure in common.
pub fn compare(before: &Path, after: &Path) -> Result<Comparison, BenchError> {
    let comparison = Comparison::of(&Report::read(before)?, &Report::read(after)?);
    if comparison.differences.is_empty() {
        let (before, after) = (before.to_owned(), after.to_owned());
        return Err(BenchError::NothingToCompare { before, after });
    }
    Ok(comparison)
}

impl Comparison {
    fn of(before: &Report, after: &Report) -> Self {
        let find =
            |measures: &[Measure], id: &str| measures.iter().position(|measure| measure.id == id);
        let common = before.measures.iter().filter_map(|old| {
            let new = &after.measures[find(&after.measures, &old.id)?];
            Some((old, new))
        });
        let common: Vec<_> = common.collect();
        let chance = CHANCE / common.len().max(1) as f64;
        let differences = common.iter().map(|(old, new)| Difference::of(old, new, chance));
        let missing = |these: &Report, those: &Report| -> Vec<String> {
            let ids = these.measures.iter().map(|measure| measure.id.clone());
            ids.filter(|id| find(&those.measures, id).is_none()).collect()
        };
        let mut warnings = Vec::new();
        if !before.host.is_same(&after.host) {
            warnings.push("the two are of different hosts, kernels or versions of tine".to_owned());
        }
        for (name, report) in [("first", before), ("second", after)] {
            if !report.complete {
                warnings.push(format!("the {name} run was ended early"));
            }
        }
        Self {
            differences: differences.collect(),
            only_before: missing(before, after),
            only_after: missing(after, before),
            warnings,
        }
    }

    /// Whether any measure got worse beyond noise.
    pub fn is_worse(&self) -> bool {
        self.differences.iter().any(|difference| difference.outcome == Outcome::Worse)
    }

    /// Part of the measures that did not change beyond noise, 0 to 1.
    pub fn same_part(&self) -> f64 {
        let same = self.differences.iter().filter(|it| it.change.abs() <= it.noise);
        same.count() as f64 / self.differences.len().max(1) as f64
    }

    /// It for people: what changed, and a summary.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for warning in &self.warnings {
            // Writing to a string can't fail.
            let _ = writeln!(text, "note: {warning}");
        }
        let told =
            [(Outcome::Worse, "WORSE"), (Outcome::Better, "better"), (Outcome::Moved, "moved?")];
        for (outcome, word) in told {
            for it in self.differences.iter().filter(|it| it.outcome == outcome) {
                let _ = writeln!(text, "{word:7} {}", it.words());
            }
        }
        let count = |outcome| self.differences.iter().filter(|it| it.outcome == outcome).count();
        let _ = writeln!(
            text,
            "{} measures: {} worse, {} better, {} the same, {} of too few samples to tell; {} within \
             their noise",
            self.differences.len(),
            count(Outcome::Worse),
            count(Outcome::Better),
            count(Outcome::Same),
            count(Outcome::Moved),
            percent(self.same_part())
        );
        for (which, ids) in [("first", &self.only_before), ("second", &self.only_after)] {
            if !ids.is_empty() {
                let _ = writeln!(text, "only in the {which}: {}", ids.join(", "));
            }
        }
        text
    }
}

impl Difference {
    fn of(old: &Measure, new: &Measure, chance_limit: f64) -> Self {
        let change = if old.p50 == new.p50 { 0.0 } else { new.p50 / old.p50 - 1.0 };
        // Each run says by how much another may differ from it; the louder one is believed.
        let noise = old.noise.unwrap_or(0.0).max(new.noise.unwrap_or(0.0));
        let enough = old.n >= FEW && new.n >= FEW;
        let chance = enough.then(|| probability_of_chance(&old.samples, &new.samples));
        let beyond =
            change.abs() > MANY * noise && chance.is_none_or(|chance| chance < chance_limit);
        let outcome = match (beyond, change > 0.0, new.better) {
            (false, ..) => Outcome::Same,
            // One sample of a size is as good as many.
            (true, ..) if !enough && new.unit.is_timed() => Outcome::Moved,
            (true, true, Better::Higher) | (true, false, Better::Lower) => Outcome::Better,
            (true, ..) => Outcome::Worse,
        };
        Self {
            id: new.id.clone(),
            unit: new.unit.name(),
            before: old.p50,
            after: new.p50,
            change,
            noise,
            chance,
            outcome,
        }
    }

    fn words(&self) -> String {
        let sign = if self.change > 0.0 { "+" } else { "" };
        let chance = match self.chance {
            Some(chance) if chance < 1e-4 => ", p < 0.0001".to_owned(),
            Some(chance) => format!(", p = {chance:.4}"),
            None => String::new(),
        };
        format!(
            "{}: {} to {} {} ({sign}{}, noise {}{chance})",
            self.id,
            self.before,
            self.after,
            self.unit,
            percent(self.change),
            percent(self.noise)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Measures, Unit};

    fn report(times: &[f64], rate: &[f64], floor: f64) -> Report {
        let measures = Measures::default();
        measures.time("spawn/64_mib", times);
        measures.add("spawn_rate/4", Unit::PerSecond, Better::Higher, rate);
        let mut report = Report { measures: measures.all(), complete: true, ..Report::empty() };
        for measure in &mut report.measures {
            measure.noise = Some(floor.hypot(measure.spread()));
        }
        report
    }

    fn around(middle: f64) -> Vec<f64> {
        (0..40).map(|index| middle * (1.0 + f64::from(index % 7 - 3) / 100.0)).collect()
    }

    #[test]
    fn the_same_figures_are_the_same() {
        let one = report(&around(10.0), &around(500.0), 0.05);
        let comparison = Comparison::of(&one, &one);
        assert!(!comparison.is_worse());
        assert_eq!(comparison.same_part(), 1.0);
        assert!(
            comparison.text().contains("2 measures: 0 worse, 0 better, 2 the same, 0 of too few")
        );
    }

    #[test]
    fn a_slower_time_and_a_lower_rate_are_worse_and_the_other_way_round_better() {
        let fast = report(&around(10.0), &around(500.0), 0.05);
        let slow = report(&around(20.0), &around(500.0), 0.05);
        let rare = report(&around(10.0), &around(250.0), 0.05);
        assert!(Comparison::of(&fast, &slow).is_worse());
        assert!(Comparison::of(&fast, &rare).is_worse());
        assert!(!Comparison::of(&slow, &fast).is_worse());
        assert!(Comparison::of(&slow, &fast).text().contains("1 better"));
    }

    #[test]
    fn a_change_within_the_noise_of_either_run_is_none() {
        let quiet = report(&around(10.0), &around(500.0), 0.01);
        let loud = report(&around(12.0), &around(500.0), 0.3);
        assert!(!Comparison::of(&quiet, &loud).is_worse());
        assert!(!Comparison::of(&loud, &quiet).text().contains("better  spawn"));
    }

    #[test]
    fn a_median_that_moved_by_chance_is_no_change() {
        // Two kinds of samples, of which now one, now the other is the majority.
        let times = |slow: usize| -> Vec<f64> {
            (0..41).map(|index| if index < slow { 20.0 } else { 10.0 }).collect()
        };
        let (one, other) = (report(&times(20), &[1.0], 0.05), report(&times(22), &[1.0], 0.05));
        assert!(!Comparison::of(&one, &other).is_worse());
    }

    #[test]
    fn few_samples_tell_nothing_of_times_but_of_sizes() {
        let of = |us: f64, bytes: f64| {
            let measures = Measures::default();
            measures.time("redis/pause", &[us]);
            measures.bytes("cells/bytes", &[bytes]);
            let mut report = Report { measures: measures.all(), ..Report::empty() };
            report.measures.iter_mut().for_each(|measure| measure.noise = Some(0.05));
            report
        };
        let comparison = Comparison::of(&of(10.0, 4096.0), &of(90.0, 4096.0));
        assert!(!comparison.is_worse());
        assert!(comparison.text().contains("moved?  redis/pause"), "{}", comparison.text());
        assert!(Comparison::of(&of(10.0, 4096.0), &of(10.0, 8192.0)).is_worse());
    }

    #[test]
    fn what_only_one_has_is_named() {
        let one = report(&around(10.0), &[], 0.1);
        let other = report(&around(10.0), &around(5.0), 0.1);
        let text = Comparison::of(&one, &other).text();
        assert!(text.contains("only in the second: spawn_rate/4"), "{text}");
    }
}
