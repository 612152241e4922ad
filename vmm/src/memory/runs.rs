//! Sets of pages, as sorted runs of neighbours.

use serde::{Deserialize, Serialize};

/// `pages` neighbouring pages from page number `first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Number of the first page, counted from the start of RAM.
    pub first: u64,
    /// How many pages.
    pub pages: u64,
}

impl Run {
    /// One past the last page.
    pub const fn end(&self) -> u64 {
        self.first + self.pages
    }
}

/// A set of pages: runs in ascending order, none touching the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Run>", into = "Vec<Run>")]
pub struct Runs {
    runs: Vec<Run>,
}

impl Runs {
    /// No pages.
    pub const fn new() -> Self {
        Self { runs: Vec::new() }
    }

    /// Adds a run that begins at or after the end of the last; merges neighbours.
    ///
    /// # Panics
    /// When the run begins before the end of the last: the caller scans upwards.
    pub fn push(&mut self, run: Run) {
        if run.pages == 0 {
            return;
        }
        match self.runs.last_mut() {
            Some(last) if last.end() == run.first => last.pages += run.pages,
            Some(last) => {
                assert!(last.end() < run.first, "runs must be pushed in order");
                self.runs.push(run);
            }
            None => self.runs.push(run),
        }
    }

    /// Number of pages.
    pub fn pages(&self) -> u64 {
        self.runs.iter().map(|run| run.pages).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The runs, ascending.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Run> + '_ {
        self.runs.iter().copied()
    }

    /// Number of runs.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// One past the highest page; 0 when empty.
    pub fn end(&self) -> u64 {
        self.runs.last().map_or(0, Run::end)
    }

    /// The pages of either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut all: Vec<Run> = self.iter().chain(other.iter()).collect();
        all.sort_unstable_by_key(|run| run.first);
        let mut union = Self::new();
        for run in all {
            let end = union.end();
            let first = run.first.max(end);
            union.push(Run { first, pages: run.end().saturating_sub(first) });
        }
        union
    }

    /// The pages of this set that `other` lacks.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let mut left = Self::new();
        let mut others = other.runs.iter().peekable();
        for run in self.iter() {
            let mut first = run.first;
            while let Some(cut) = others.peek() {
                if cut.end() <= first {
                    others.next();
                    continue;
                }
                if cut.first >= run.end() {
                    break;
                }
                if cut.first > first {
                    left.push(Run { first, pages: cut.first - first });
                }
                first = cut.end();
                if first >= run.end() {
                    break;
                }
                others.next();
            }
            if first < run.end() {
                left.push(Run { first, pages: run.end() - first });
            }
        }
        left
    }

    /// The same pages in runs of at most `pages`, for work in bounded pieces.
    pub fn pieces(&self, pages: u64) -> impl Iterator<Item = Run> + '_ {
        let pages = pages.max(1);
        self.iter().flat_map(move |run| {
            (run.first..run.end())
                .step_by(pages as usize)
                .map(move |first| Run { first, pages: pages.min(run.end() - first) })
        })
    }
}

impl FromIterator<Run> for Runs {
    /// Collects runs that come in ascending order.
    fn from_iter<I: IntoIterator<Item = Run>>(runs: I) -> Self {
        let mut set = Self::new();
        for run in runs {
            set.push(run);
        }
        set
    }
}

impl From<Runs> for Vec<Run> {
    fn from(set: Runs) -> Self {
        set.runs
    }
}

impl TryFrom<Vec<Run>> for Runs {
    type Error = String;

    /// Refuses runs that are empty, out of order, touching or beyond 2^52 pages, as they
    /// may come from a damaged file.
    fn try_from(runs: Vec<Run>) -> Result<Self, String> {
        let mut end = None;
        for run in &runs {
            let limit = run.first.checked_add(run.pages).filter(|&limit| limit <= 1 << 52);
            if run.pages == 0 || limit.is_none() || end.is_some_and(|end| run.first <= end) {
                return Err(format!("run of {} pages from page {}", run.pages, run.first));
            }
            end = limit;
        }
        Ok(Self { runs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn set(pages: &BTreeSet<u64>) -> Runs {
        pages.iter().map(|&first| Run { first, pages: 1 }).collect()
    }

    fn pages(runs: &Runs) -> BTreeSet<u64> {
        runs.iter().flat_map(|run| run.first..run.end()).collect()
    }

    fn some_pages() -> impl Strategy<Value = BTreeSet<u64>> {
        prop::collection::btree_set(0u64..200, 0..120)
    }

    proptest! {
        #[test]
        fn runs_are_sets_of_pages(a in some_pages(), b in some_pages(), piece in 1u64..20) {
            let (x, y) = (set(&a), set(&b));
            prop_assert_eq!(x.pages(), a.len() as u64);
            prop_assert_eq!(pages(&x), a.clone());
            prop_assert_eq!(pages(&x.union(&y)), a.union(&b).copied().collect());
            prop_assert_eq!(pages(&x.minus(&y)), a.difference(&b).copied().collect());
            let pieces: Vec<Run> = x.pieces(piece).collect();
            prop_assert!(pieces.iter().all(|run| run.pages <= piece && run.pages > 0));
            prop_assert_eq!(pieces.into_iter().collect::<Runs>(), x.clone());
            for result in [x.union(&y), x.minus(&y)] {
                let raw: Vec<Run> = result.clone().into();
                prop_assert_eq!(Runs::try_from(raw), Ok(result));
            }
        }

        #[test]
        fn runs_from_a_file_are_checked(raw in prop::collection::vec((any::<u64>(), any::<u64>()), 0..8)) {
            let raw: Vec<Run> = raw.into_iter().map(|(first, pages)| Run { first, pages }).collect();
            if let Ok(runs) = Runs::try_from(raw) {
                prop_assert!(runs.end() <= 1 << 52);
                prop_assert_eq!(runs.union(&runs), runs);
            }
        }
    }
}
