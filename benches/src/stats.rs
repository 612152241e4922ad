//! What is told of many samples.

use std::time::Duration;

use serde::Serialize;

/// Percentiles of a set of samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// How many samples.
    pub n: usize,
    /// Half of them are no larger.
    pub p50: f64,
    /// Nine tenths are no larger.
    pub p90: f64,
    /// All but one in a hundred are no larger; of less than a hundred, it is the largest.
    pub p99: f64,
    /// The smallest.
    pub min: f64,
}

impl Summary {
    /// Of `samples`, in any order. Of none, everything is NaN.
    pub fn of(samples: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        Self {
            n: sorted.len(),
            p50: percentile(&sorted, 50),
            p90: percentile(&sorted, 90),
            p99: percentile(&sorted, 99),
            min: sorted.first().copied().unwrap_or(f64::NAN),
        }
    }
}

/// The median of `samples`.
pub fn median(samples: impl IntoIterator<Item = f64>) -> f64 {
    Summary::of(samples).p50
}

/// The nearest-rank percentile: the smallest sample that at least `percent` of a hundred
/// do not exceed. It is always a value that was measured.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (percent * sorted.len()).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// Microseconds, with fractions.
pub fn microseconds(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let hundred = Summary::of((1..=100).rev().map(f64::from));
        assert_eq!(hundred, Summary { n: 100, p50: 50.0, p90: 90.0, p99: 99.0, min: 1.0 });
        let five = Summary::of([15.0, 20.0, 35.0, 40.0, 50.0]);
        assert_eq!(five, Summary { n: 5, p50: 35.0, p90: 50.0, p99: 50.0, min: 15.0 });
        assert_eq!(median([2.0, 1.0]), 1.0);
    }

    #[test]
    fn one_sample_is_everything_and_none_is_nothing() {
        assert_eq!(Summary::of([7.0]), Summary { n: 1, p50: 7.0, p90: 7.0, p99: 7.0, min: 7.0 });
        let none = Summary::of([]);
        assert!(none.n == 0 && none.p50.is_nan() && none.min.is_nan());
    }

    #[test]
    fn a_summary_does_not_depend_on_order() {
        let mut samples: Vec<f64> = (0..57).map(|i| f64::from(i * 37 % 57)).collect();
        let before = Summary::of(samples.clone());
        samples.reverse();
        assert_eq!(Summary::of(samples), before);
    }

    #[test]
    fn microseconds_keep_their_fractions() {
        assert_eq!(microseconds(Duration::from_nanos(1_234_567)), 1234.567);
    }
}
