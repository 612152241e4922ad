//! Whether one set of samples tends to be larger than another (Mann and Whitney, 1947).
//!
//! It looks at ranks alone, so that neither outliers nor the shape of a distribution matter.

use super::sorted;

/// How probable it is that two sets of samples of the same thing differ as much as `first` and
/// `second`, or more, in either direction: by the normal approximation, corrected for ties
/// and for continuity. 1 where there is nothing to compare.
pub fn probability_of_chance(first: &[f64], second: &[f64]) -> f64 {
    let (n, m) = (first.len() as f64, second.len() as f64);
    if n == 0.0 || m == 0.0 {
        return 1.0;
    }
    let all = sorted(first.iter().chain(second).copied().collect());
    let ranks: f64 = first.iter().map(|&sample| middle_rank(&all, sample)).sum();
    let u = ranks - n * (n + 1.0) / 2.0;
    let total = n + m;
    let ties: f64 = ties(&all).map(|tied| tied * tied * tied - tied).sum();
    let pairs = total * (total - 1.0).max(1.0);
    let variance = n * m / 12.0 * ((total + 1.0) - ties / pairs);
    if variance <= 0.0 {
        return 1.0;
    }
    let distance = ((u - n * m / 2.0).abs() - 0.5).max(0.0) / variance.sqrt();
    (2.0 * upper_tail(distance)).min(1.0)
}

/// The mean rank of the samples in `all` that equal `sample`, from 1 on.
fn middle_rank(all: &[f64], sample: f64) -> f64 {
    let below = all.partition_point(|&other| other < sample);
    let not_above = all.partition_point(|&other| other <= sample);
    (below + not_above + 1) as f64 / 2.0
}

/// Numbers of samples that equal each other.
fn ties(all: &[f64]) -> impl Iterator<Item = f64> + '_ {
    all.chunk_by(|one, other| one == other).map(|tied| tied.len() as f64)
}

/// The part of the standard normal distribution above `z`, which is not negative
/// (Abramowitz and Stegun, 26.2.17: off by less than 8e-8).
fn upper_tail(z: f64) -> f64 {
    const FACTORS: [f64; 5] =
        [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let sum = FACTORS.iter().rev().fold(0.0, |sum, factor| (sum + factor) * t);
    (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt() * sum
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::*;

    fn samples(random: &mut Random, n: usize, shift: f64) -> Vec<f64> {
        (0..n).map(|_| random.normal() + shift).collect()
    }

    #[test]
    fn the_tail_is_the_known_one() {
        for (z, part) in [(0.0, 0.5), (1.0, 0.158_655), (1.959_964, 0.025), (3.0, 0.001_350)] {
            assert!((upper_tail(z) - part).abs() < 1e-6, "{z}");
        }
    }

    #[test]
    fn samples_of_the_same_seldom_seem_different() {
        let mut random = Random::new(3);
        let alarms = (0..1000).filter(|_| {
            let (one, other) = (samples(&mut random, 20, 0.0), samples(&mut random, 25, 0.0));
            probability_of_chance(&one, &other) < 0.05
        });
        let alarms = alarms.count();
        assert!((25..=75).contains(&alarms), "{alarms} of 1000, where 50 are due");
    }

    #[test]
    fn a_shift_of_a_deviation_is_found() {
        let mut random = Random::new(4);
        let found = (0..200).filter(|_| {
            let (one, other) = (samples(&mut random, 30, 0.0), samples(&mut random, 30, 1.0));
            probability_of_chance(&one, &other) < 0.05
        });
        assert!(found.count() > 180);
    }

    #[test]
    fn the_answer_for_a_small_example_is_the_published_kind() {
        // Ranks 1 to 5 against 6 to 10: U = 0, mean 12.5, deviation sqrt(25 * 11 / 12).
        let p = probability_of_chance(&[1.0, 2.0, 3.0, 4.0, 5.0], &[6.0, 7.0, 8.0, 9.0, 10.0]);
        assert!((p - 0.012_186).abs() < 1e-4, "{p}");
    }

    #[test]
    fn equal_samples_and_no_samples_are_no_difference() {
        assert_eq!(probability_of_chance(&[2.0; 9], &[2.0; 9]), 1.0);
        assert_eq!(probability_of_chance(&[], &[1.0]), 1.0);
    }
}
