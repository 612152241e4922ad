//! From which fraction of written pages on an eager copy would have been cheaper: making
//! the clone and writing, taken together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_abi::layout::PAGE_SIZE;

use super::cow_faults::FaultRow;
use super::{GUEST_MIB, PATTERNS, REGION_PAGES, pattern_name};

/// Where the two cost the same.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Crossover {
    /// `sequential` or `scattered`.
    pub pattern: String,
    /// Part of the region, 0 to 1; none when one of the two is always cheaper.
    pub fraction: Option<f64>,
    /// The same in pages.
    pub pages: Option<u64>,
    /// The same as a part of all guest memory, which the eager copy copies.
    pub guest_fraction: Option<f64>,
    /// Time at that point.
    pub total_us: Option<f64>,
    /// What it means.
    pub words: String,
}

/// For every pattern of `rows`.
pub fn find_all(rows: &[FaultRow]) -> Vec<Crossover> {
    PATTERNS.into_iter().map(|pattern| find(rows, pattern_name(pattern))).collect()
}

fn find(rows: &[FaultRow], pattern: &str) -> Crossover {
    let totals = |memory: &str| -> Vec<(f64, f64)> {
        rows.iter()
            .filter(|row| row.pattern == pattern && row.memory == memory)
            .map(|row| (row.fraction, row.clone_us + row.total_us))
            .collect()
    };
    let (cow, eager) = (totals("cow"), totals("eager"));
    let point = crossing(&cow, &eager);
    let fraction = point.map(|point| point.0);
    let pages = fraction.map(|fraction| (fraction * REGION_PAGES as f64).round() as u64);
    let guest_pages = ((GUEST_MIB << 20) / PAGE_SIZE) as f64;
    let words = match fraction {
        Some(fraction) => {
            format!("eager copy is cheaper above {:.1} % of the region", fraction * 100.0)
        }
        None if cheaper_from_the_start(&cow, &eager) => {
            "eager copy is cheaper even if nothing is written".to_owned()
        }
        None => "copy-on-write is cheaper even if the whole region is written".to_owned(),
    };
    Crossover {
        pattern: pattern.to_owned(),
        fraction,
        pages,
        guest_fraction: pages.map(|pages| pages as f64 / guest_pages),
        total_us: point.map(|point| point.1),
        words,
    }
}

fn cheaper_from_the_start(cow: &[(f64, f64)], eager: &[(f64, f64)]) -> bool {
    matches!((cow.first(), eager.first()), (Some(cow), Some(eager)) if eager.1 < cow.1)
}

/// Where the eager line goes below the other, both given at the same fractions in
/// ascending order, by linear interpolation.
pub(super) fn crossing(cow: &[(f64, f64)], eager: &[(f64, f64)]) -> Option<(f64, f64)> {
    let gap = |index: usize| eager[index].1 - cow[index].1;
    (1..cow.len().min(eager.len())).find_map(|index| {
        let (before, after) = (gap(index - 1), gap(index));
        (before >= 0.0 && after < 0.0).then(|| {
            let part = before / (before - after);
            let between = |a: f64, b: f64| a + (b - a) * part;
            let (from, to) = (cow[index - 1], cow[index]);
            (between(from.0, to.0), between(from.1, to.1))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(fractions: &[f64], base: f64, slope: f64) -> Vec<(f64, f64)> {
        fractions.iter().map(|&x| (x, base + slope * x)).collect()
    }

    #[test]
    fn straight_lines_cross_where_they_cross() {
        let fractions = [0.0, 0.01, 0.1, 0.5, 1.0];
        let cow = line(&fractions, 1.0, 100.0);
        let eager = line(&fractions, 21.0, 0.0);
        let (x, y) = crossing(&cow, &eager).unwrap();
        assert!((x - 0.2).abs() < 1e-9 && (y - 21.0).abs() < 1e-9, "{x} {y}");
    }

    #[test]
    fn lines_that_never_cross_say_so() {
        let fractions = [0.0, 1.0];
        let cheap = line(&fractions, 1.0, 1.0);
        let dear = line(&fractions, 10.0, 1.0);
        assert_eq!(crossing(&cheap, &dear), None);
        assert_eq!(crossing(&dear, &cheap), None);
        assert!(cheaper_from_the_start(&dear, &cheap));
        assert!(!cheaper_from_the_start(&cheap, &dear));
        assert_eq!(crossing(&[], &[]), None);
        assert_eq!(find_all(&[])[0].fraction, None);
    }
}
