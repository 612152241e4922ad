//! Which pages a command visits, and in which order.

use crate::command::mix;

/// An order of visiting the pages of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// One after the other from the first.
    Sequential,
    /// All over the region without repetition, as `seed` has it.
    Scattered {
        /// Seed of the permutation.
        seed: u64,
    },
    /// Every `pages`-th, from the first; then every `pages`-th from the second, and so on.
    Stride {
        /// Distance in pages; 0 counts as 1.
        pages: u64,
    },
}

/// Pages of the data region: `pages` out of `region_pages`, from page `first_page`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// First page of the region, counted from the start of the data region.
    pub first_page: u64,
    /// Length of the region in pages.
    pub region_pages: u64,
    /// How many of them to visit.
    pub pages: u64,
    /// In which order.
    pub pattern: Pattern,
}

impl Selection {
    /// No pages, for commands that need none.
    pub const NONE: Self = Self::sequential(0, 0);

    /// All of `region_pages` pages from `first_page`, in order.
    pub const fn sequential(first_page: u64, region_pages: u64) -> Self {
        Self { first_page, region_pages, pages: region_pages, pattern: Pattern::Sequential }
    }

    /// `pages` of the first `region_pages` pages, scattered by `seed`.
    pub const fn scattered(region_pages: u64, pages: u64, seed: u64) -> Self {
        Self { first_page: 0, region_pages, pages, pattern: Pattern::Scattered { seed } }
    }

    /// Numbers of the pages to visit, counted from the start of the data region.
    /// Never more than the region has, and none twice.
    pub fn iter(self) -> Pages {
        let bits = 64 - self.region_pages.saturating_sub(1).leading_zeros();
        Pages { selection: self, at: 0, left: self.pages.min(self.region_pages), bits }
    }
}

/// Iterator over the page numbers of a [`Selection`].
#[derive(Clone, Debug)]
pub struct Pages {
    selection: Selection,
    at: u64,
    left: u64,
    bits: u32,
}

impl Iterator for Pages {
    type Item = u64;

    #[inline]
    fn next(&mut self) -> Option<u64> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let region = self.selection.region_pages;
        let page = match self.selection.pattern {
            Pattern::Sequential => self.at,
            Pattern::Scattered { seed } => loop {
                let page = permute(self.at, self.bits, seed);
                if page < region {
                    break page;
                }
                self.at += 1;
            },
            Pattern::Stride { pages } => {
                let stride = pages.clamp(1, region);
                // Column by column of a table `stride` wide; the last row may be short.
                let full = region / stride;
                let long = region % stride;
                let split = long * (full + 1);
                if self.at < split {
                    (self.at % (full + 1)) * stride + self.at / (full + 1)
                } else {
                    let at = self.at - split;
                    (at % full) * stride + long + at / full
                }
            }
        };
        self.at += 1;
        Some(self.selection.first_page.wrapping_add(page))
    }
}

/// A permutation of the numbers below 2^`bits`: odd multiplications and right
/// shifts, each of which can be undone.
#[inline]
const fn permute(index: u64, bits: u32, seed: u64) -> u64 {
    if bits == 0 {
        return index;
    }
    let mask = u64::MAX >> (64 - bits);
    let shift = bits.div_ceil(2);
    let key = mix(seed);
    let mut x = index.wrapping_add(key) & mask;
    x = x.wrapping_mul(key | 1) & mask;
    x ^= x >> shift;
    x = x.wrapping_mul(0xd6e8_feb8_6659_fd93) & mask;
    x ^= x >> shift;
    x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15) & mask;
    x ^ (x >> shift)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    proptest! {
        #[test]
        fn every_pattern_visits_distinct_pages_of_the_region(
            region in 1u64..3000, part in 0.0f64..=1.0, kind in 0u8..3, argument: u64, first in 0u64..1000,
        ) {
            let pages = (region as f64 * part) as u64;
            let pattern = match kind {
                0 => Pattern::Sequential,
                1 => Pattern::Scattered { seed: argument },
                _ => Pattern::Stride { pages: argument % 70 },
            };
            let selection = Selection { first_page: first, region_pages: region, pages, pattern };
            let visited: Vec<u64> = selection.iter().collect();
            let distinct: BTreeSet<u64> = visited.iter().copied().collect();
            prop_assert_eq!(visited.len() as u64, pages);
            prop_assert_eq!(distinct.len(), visited.len());
            prop_assert!(distinct.iter().all(|page| (first..first + region).contains(page)));
        }

        #[test]
        fn no_selection_panics(
            first_page: u64, region_pages: u64, pages: u64, stride: u64,
        ) {
            let pattern = Pattern::Stride { pages: stride };
            let selection = Selection { first_page, region_pages, pages, pattern };
            prop_assert!(selection.iter().take(100).count() <= 100);
        }
    }

    #[test]
    fn scattered_pages_are_seldom_neighbours() {
        let visited: Vec<u64> = Selection::scattered(10_000, 1000, 7).iter().collect();
        let neighbours = visited.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 8).count();
        assert!(neighbours < 50, "{neighbours} of 1000 steps were short");
    }

    #[test]
    fn a_stride_walks_by_columns() {
        let pattern = Pattern::Stride { pages: 3 };
        let selection = Selection { first_page: 0, region_pages: 7, pages: 7, pattern };
        assert_eq!(selection.iter().collect::<Vec<_>>(), [0, 3, 6, 1, 4, 2, 5]);
    }
}
