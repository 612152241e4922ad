//! What is told of many samples.

pub mod bootstrap;
mod random;
pub mod rank;

use std::time::Duration;

/// Percentiles of a set of samples.
#[derive(Clone, Copy, Debug, PartialEq)]
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
        let sorted = sorted(samples.into_iter().collect());
        Self {
            n: sorted.len(),
            p50: percentile(&sorted, 50),
            p90: percentile(&sorted, 90),
            p99: percentile(&sorted, 99),
            min: sorted.first().copied().unwrap_or(f64::NAN),
        }
    }

    /// What `percent` of a hundred `samples` do not exceed. Of none, NaN.
    pub fn percentile_of(samples: impl IntoIterator<Item = f64>, percent: usize) -> f64 {
        percentile(&sorted(samples.into_iter().collect()), percent)
    }
}

/// The median of `samples`.
pub fn median(samples: impl IntoIterator<Item = f64>) -> f64 {
    Summary::of(samples).p50
}

/// In ascending order.
fn sorted(mut samples: Vec<f64>) -> Vec<f64> {
    samples.sort_unstable_by(f64::total_cmp);
    samples
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
