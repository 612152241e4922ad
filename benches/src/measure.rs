//! What is measured, in one form for all of it: for the noise, for CSV, and to compare runs.
//!
//! The sections keep figures of their own beside, in the form that suits each. A measure has
//! a name that is the same in every run, and its samples in the order in which they were taken.

use std::cell::RefCell;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::stats::Summary;
use crate::stats::bootstrap::median_interval;

/// In what a measure is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Microseconds.
    Us,
    /// Nanoseconds for each page.
    NsPerPage,
    /// Bytes.
    Bytes,
    /// Things a second.
    PerSecond,
    /// A number of things.
    Count,
    /// A part of one.
    Part,
}

impl Unit {
    /// Whether it depends on how fast the host is.
    pub const fn is_timed(self) -> bool {
        matches!(self, Self::Us | Self::NsPerPage | Self::PerSecond)
    }

    /// Its name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Us => "us",
            Self::NsPerPage => "ns_per_page",
            Self::Bytes => "bytes",
            Self::PerSecond => "per_second",
            Self::Count => "count",
            Self::Part => "part",
        }
    }
}

/// Which way is an improvement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// Less of it.
    Lower,
    /// More of it.
    Higher,
}

/// Samples of one thing, and what is told of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Measure {
    /// What was measured: the section, and what it took of what, between slashes. The same in
    /// every run.
    pub id: String,
    /// In what.
    pub unit: Unit,
    /// Which way is an improvement.
    pub better: Better,
    /// Number of samples.
    pub n: usize,
    /// Half of them are no larger.
    pub p50: f64,
    /// Nine tenths are no larger.
    pub p90: f64,
    /// All but one in a hundred are no larger; of less than a hundred, it is the largest.
    pub p99: f64,
    /// The smallest.
    pub min: f64,
    /// The median lies above this in 97.5 of 100 runs, as far as the samples of one run know.
    /// Null for fewer than three.
    pub low: Option<f64>,
    /// And below this.
    pub high: Option<f64>,
    /// By which part of the median another run of the same build may differ, in 95 of 100
    /// measures: this one's own spread and the drift of the host together. Null until the run
    /// is complete.
    pub noise: Option<f64>,
    /// The samples, in the order in which they were taken.
    pub samples: Vec<f64>,
}

impl Measure {
    fn of(id: String, unit: Unit, better: Better, samples: &[f64]) -> Option<Self> {
        // Six digits are more than any clock here knows, and half the size.
        let samples: Vec<f64> = samples.iter().map(|&sample| rounded(sample)).collect();
        if samples.is_empty() || !samples.iter().all(|sample| sample.is_finite()) {
            return None;
        }
        let Summary { n, p50, p90, p99, min } = Summary::of(samples.iter().copied());
        let (low, high) = median_interval(&samples).unzip();
        Some(Self { id, unit, better, n, p50, p90, p99, min, low, high, noise: None, samples })
    }

    /// The section that it belongs to.
    pub fn section(&self) -> &str {
        self.id.split('/').next().unwrap_or_default()
    }

    /// How wide the interval of the median is to either side, as a part of it.
    pub fn spread(&self) -> f64 {
        match (self.low, self.high) {
            (Some(low), Some(high)) if self.p50 != 0.0 => (high - low) / 2.0 / self.p50.abs(),
            _ => 0.0,
        }
    }
}

/// `value` to six digits.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powi(5 - value.abs().log10().floor() as i32);
    let rounded = (value * scale).round() / scale;
    if rounded.is_finite() { rounded } else { value }
}

/// All measures of a run, as they come.
#[derive(Debug, Default)]
pub struct Measures(RefCell<Vec<Measure>>);

impl Measures {
    /// Those of a run that goes on.
    pub fn new(earlier: Vec<Measure>) -> Self {
        Self(RefCell::new(earlier))
    }

    /// Adds `samples`. No samples, or one that is no number, make no measure.
    pub fn add(&self, id: impl Into<String>, unit: Unit, better: Better, samples: &[f64]) {
        let measure = Measure::of(id.into(), unit, better, samples);
        self.0.borrow_mut().extend(measure);
    }

    /// Adds times in microseconds, of which less is better.
    pub fn time(&self, id: impl Into<String>, samples: &[f64]) {
        self.add(id, Unit::Us, Better::Lower, samples);
    }

    /// Adds sizes, of which less is better.
    pub fn bytes(&self, id: impl Into<String>, samples: &[f64]) {
        self.add(id, Unit::Bytes, Better::Lower, samples);
    }

    /// All of them until now.
    pub fn all(&self) -> Vec<Measure> {
        self.0.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measure_knows_its_samples() {
        let measures = Measures::default();
        measures.time("spawn/64_mib/cow", &[3.0, 1.0, 2.000_000_4]);
        measures.time("spawn/none", &[]);
        measures.bytes("spawn/nan", &[f64::NAN]);
        let all = measures.all();
        assert_eq!(all.len(), 1);
        let Measure { n, p50, min, samples, .. } = &all[0];
        assert_eq!((*n, *p50, *min), (3, 2.0, 1.0));
        assert_eq!(samples, &[3.0, 1.0, 2.0]);
        assert_eq!(all[0].section(), "spawn");
        assert!(all[0].spread() <= 0.5);
    }

    #[test]
    fn rounding_keeps_six_digits() {
        let values = [1_234_567.0, 0.000_123_456_78, 0.0, -9.876_543_21];
        assert_eq!(values.map(rounded), [1_234_570.0, 0.000_123_457, 0.0, -9.87654]);
    }
}
