//! Work over time, from its completions.

use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::stats::microseconds;

/// Length of a bin.
const BIN: Duration = Duration::from_millis(50);

/// Work of 50 ms.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Bin {
    /// When it begins, since the request of the save, milliseconds.
    pub ms: f64,
    /// Whether any of it lies in the save.
    pub during: bool,
    /// Work done a second.
    pub per_second: f64,
    /// Longest time of a request that was answered in it, microseconds. None where there are
    /// no requests, or none was answered.
    pub longest_us: Option<f64>,
}

/// Something was done.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// When it was seen to be done.
    pub at: Instant,
    /// How much.
    pub count: u64,
    /// How long it took from when it was due, microseconds. None where that is not known.
    pub us: Option<f32>,
}

/// When a save was asked for, and when its file was complete.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// The request.
    pub begun: Instant,
    /// The end.
    pub ended: Instant,
}

impl Span {
    /// How long it was, seconds.
    pub fn seconds(&self) -> f64 {
        (self.ended - self.begun).as_secs_f64()
    }

    /// Whether `at` lies in it.
    pub fn holds(&self, at: Instant) -> bool {
        (self.begun..self.ended).contains(&at)
    }
}

/// `completions`, in their order, in bins. The first bin begins at the first of them that
/// lies a whole number of bins before the save; the last, which is cut off, is left out.
pub fn bins(completions: &[Completion], span: Span) -> Vec<Bin> {
    let (Some(first), Some(last)) = (completions.first(), completions.last()) else {
        return vec![];
    };
    let before = bins_between(first.at, span.begun);
    let count = before + bins_between(span.begun, last.at);
    let mut bins: Vec<Bin> = (0..count)
        .map(|index| {
            let ms = (index as f64 - before as f64) * BIN.as_secs_f64() * 1e3;
            let during = index >= before && ms < span.seconds() * 1e3;
            Bin { ms, during, per_second: 0.0, longest_us: None }
        })
        .collect();
    for done in completions {
        let index = if done.at < span.begun {
            let back = (span.begun - done.at).as_nanos().div_ceil(BIN.as_nanos()) as usize;
            before.checked_sub(back)
        } else {
            Some(before + bins_between(span.begun, done.at))
        };
        if let Some(bin) = index.and_then(|index| bins.get_mut(index)) {
            bin.per_second += done.count as f64 / BIN.as_secs_f64();
            let longest = bin.longest_us.into_iter().chain(done.us.map(f64::from));
            bin.longest_us = longest.reduce(f64::max);
        }
    }
    bins
}

/// Whole bins from `from` to `to`.
fn bins_between(from: Instant, to: Instant) -> usize {
    (to.saturating_duration_since(from).as_nanos() / BIN.as_nanos()) as usize
}

/// What is told of the work in some time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Work done a second.
    pub per_second: f64,
    /// Longest time without any that ended in it, microseconds.
    pub gap_us: f64,
}

/// Work before a save, during it, and after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// From the first that was done until the request.
    pub before: Pace,
    /// Until the end of the save.
    pub during: Pace,
    /// Until the last that was done.
    pub after: Pace,
}

impl Work {
    /// Of `completions`, in their order.
    pub fn of(completions: &[Completion], span: Span) -> Self {
        let first = completions.first().map_or(span.begun, |done| done.at).min(span.begun);
        let last = completions.last().map_or(span.ended, |done| done.at).max(span.ended);
        Self {
            before: pace(completions, first, span.begun),
            during: pace(completions, span.begun, span.ended),
            after: pace(completions, span.ended, last),
        }
    }
}

/// The pace of `completions`, in their order, from `from` to `to`.
fn pace(completions: &[Completion], from: Instant, to: Instant) -> Pace {
    let mut last = completions.iter().rfind(|done| done.at < from).map_or(from, |done| done.at);
    let (mut count, mut gap) = (0, Duration::ZERO);
    for done in completions.iter().filter(|done| (from..to).contains(&done.at)) {
        count += done.count;
        gap = gap.max(done.at - last);
        last = done.at;
    }
    let seconds = (to - from).as_secs_f64().max(f64::MIN_POSITIVE);
    Pace { per_second: count as f64 / seconds, gap_us: microseconds(gap) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One thing done every 10 ms but for a hole from 1000 to 1200 ms; saved from 1000 to 1500.
    fn known() -> (Vec<Completion>, Span, Instant) {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let times = (0..=200).map(|tick| tick * 10).filter(|ms| !(1000..1200).contains(ms));
        let done = times.map(|ms| Completion { at: at(ms), count: 1, us: Some(ms as f32) });
        (done.collect(), Span { begun: at(1000), ended: at(1500) }, zero)
    }

    #[test]
    fn bins_count_what_was_done_in_them() {
        let (done, span, _) = known();
        let bins = bins(&done, span);
        assert_eq!(bins.len(), 40);
        assert_eq!((bins[0].ms, bins[20].ms), (-1000.0, 0.0));
        let rates: Vec<f64> = bins.iter().map(|bin| bin.per_second).collect();
        assert!(rates[..20].iter().all(|&rate| rate == 100.0), "{rates:?}");
        assert!(rates[20..24].iter().all(|&rate| rate == 0.0), "{rates:?}");
        assert!(rates[24..].iter().all(|&rate| rate == 100.0), "{rates:?}");
        let during: Vec<usize> = (0..40).filter(|&index| bins[index].during).collect();
        assert_eq!(during, (20..30).collect::<Vec<_>>());
        assert_eq!(bins[24].longest_us, Some(1240.0));
        assert_eq!(bins[20].longest_us, None);
        assert!(super::bins(&[], span).is_empty());
    }

    #[test]
    fn the_pace_knows_the_longest_gap() {
        let (done, span, zero) = known();
        let before = pace(&done, zero, span.begun);
        assert_eq!((before.per_second, before.gap_us), (100.0, 10_000.0));
        let during = pace(&done, span.begun, span.ended);
        assert_eq!((during.per_second, during.gap_us), (60.0, 210_000.0));
    }
}
