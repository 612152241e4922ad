//! How far a median could have come out otherwise.
//!
//! The samples are drawn again, with replacement, many times; the medians of those draws are
//! spread as the median itself would be over other runs. Neighbours in time resemble each
//! other (a host that is slow stays slow for a while), so whole blocks of neighbours are
//! drawn: single samples would promise more than they know.

use super::random::Random;
use super::sorted;

/// Draws: the ends of the interval then move by less than a tenth of its width.
const DRAWS: usize = 500;
/// Most samples that are drawn from; of more, every so-manieth counts.
const MOST: usize = 2000;

/// In which the median lies in 95 of 100 runs, as far as these samples know. They are in the
/// order in which they were taken. None of fewer than three samples.
pub fn median_interval(samples: &[f64]) -> Option<(f64, f64)> {
    if samples.len() < 3 {
        return None;
    }
    let step = samples.len().div_ceil(MOST);
    let samples: Vec<f64> = samples.iter().copied().step_by(step).collect();
    let block = block_length(samples.len());
    // The same samples give the same interval.
    let mut random = Random::new(samples.len() as u64);
    let mut medians: Vec<f64> = (0..DRAWS).map(|_| draw(&samples, block, &mut random)).collect();
    medians.sort_unstable_by(f64::total_cmp);
    let at = |part: f64| medians[((DRAWS - 1) as f64 * part).round() as usize];
    Some((at(0.025), at(0.975)))
}

/// The cube root of their number is the usual choice for blocks that overlap.
fn block_length(samples: usize) -> usize {
    ((samples as f64).cbrt().round() as usize).max(1)
}

fn draw(samples: &[f64], block: usize, random: &mut Random) -> f64 {
    let mut drawn = Vec::with_capacity(samples.len() + block);
    while drawn.len() < samples.len() {
        // Blocks go on at the beginning, so that the ends count as much as the middle.
        let first = random.below(samples.len());
        drawn.extend((0..block).map(|next| samples[(first + next) % samples.len()]));
    }
    drawn.truncate(samples.len());
    middle(&sorted(drawn))
}

/// Between the two in the middle, so that it is not drawn to one side.
fn middle(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    match sorted.len() % 2 {
        0 => (sorted[half - 1] + sorted[half]) / 2.0,
        _ => sorted[half],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In how many of 300 sets of samples the interval holds the true median.
    fn coverage(n: usize, median: f64, sample: impl Fn(&mut Random) -> f64) -> usize {
        let mut random = Random::new(42);
        let held = (0..300).filter(|_| {
            let samples: Vec<f64> = (0..n).map(|_| sample(&mut random)).collect();
            let (low, high) = median_interval(&samples).unwrap();
            low <= median && median <= high
        });
        held.count()
    }

    #[test]
    fn it_holds_the_median_of_known_distributions_in_about_95_of_100_cases() {
        let held = coverage(41, 0.5, Random::unit);
        assert!((265..=298).contains(&held), "uniform: {held} of 300");
        let held = coverage(41, 2f64.ln(), |random| -(1.0 - random.unit()).ln());
        assert!((265..=298).contains(&held), "exponential: {held} of 300");
        let held = coverage(100, 0.0, Random::normal);
        assert!((265..=298).contains(&held), "normal: {held} of 300");
    }

    #[test]
    fn more_samples_know_more() {
        let mut random = Random::new(7);
        let mut width = |n: usize| {
            let samples: Vec<f64> = (0..n).map(|_| random.unit()).collect();
            let (low, high) = median_interval(&samples).unwrap();
            high - low
        };
        assert!(width(1000) < width(20));
    }

    #[test]
    fn samples_that_never_vary_have_no_width_and_too_few_no_interval() {
        assert_eq!(median_interval(&[3.0; 20]), Some((3.0, 3.0)));
        assert_eq!(median_interval(&[1.0, 2.0]), None);
    }

    #[test]
    fn neighbours_that_resemble_each_other_know_less() {
        let mut random = Random::new(9);
        let alone: Vec<f64> = (0..400).map(|_| random.normal()).collect();
        // The same numbers, in an order in which they drift.
        let drifting = sorted(alone.clone());
        let width = |samples: &[f64]| {
            let (low, high) = median_interval(samples).unwrap();
            high - low
        };
        assert!(width(&drifting) > 1.5 * width(&alone));
    }
}
