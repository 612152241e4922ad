//! A sandbox's memory account, from what the kernel says about its mapping.

use serde::{Deserialize, Serialize};

use super::mapping::Mapping;
use super::pagemap::{self, Want};
use super::{HUGE_PAGE_SIZE, MemoryError, PAGE_SIZE, Runs};

/// Where the memory of one guest is. All sizes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Size of guest RAM.
    pub ram_bytes: u64,
    /// Pages that belong to this guest alone: written since it was made, or copied for it.
    pub private_bytes: u64,
    /// Of those, swapped out.
    pub swapped_bytes: u64,
    /// Pages of the image that this guest has touched, shared with every other clone.
    pub shared_bytes: u64,
    /// Host page tables that map the two: a page of them for every 2 MiB region with a
    /// mapped small page, and one for every GiB with such a region.
    pub page_table_bytes: u64,
    /// Of the memory mapped, what huge page entries map.
    pub huge_bytes: u64,
    /// Size of the layer between the base image and this guest, shared with its siblings.
    pub delta_bytes: u64,
}

impl Ledger {
    pub(super) fn of(mapping: &Mapping, delta_bytes: u64) -> Result<Self, MemoryError> {
        let private = pagemap::find(mapping, Want::Private)?;
        let shared = pagemap::find(mapping, Want::Shared)?;
        let huge = pagemap::find(mapping, Want::Huge)?;
        let swapped = pagemap::find(mapping, Want::Swapped)?;
        let small = private.union(&shared).minus(&huge);
        Ok(Self {
            ram_bytes: mapping.bytes() as u64,
            private_bytes: bytes(&private),
            swapped_bytes: bytes(&swapped),
            shared_bytes: bytes(&shared),
            page_table_bytes: page_tables(mapping.address() as u64, &small, &huge),
            huge_bytes: bytes(&huge),
            delta_bytes,
        })
    }
}

fn bytes(runs: &Runs) -> u64 {
    runs.pages() * PAGE_SIZE as u64
}

/// Page tables and page middle directories that map `small` pages and `huge` ones in a mapping at `base`.
fn page_tables(base: u64, small: &Runs, huge: &Runs) -> u64 {
    let all = small.union(huge);
    let tables = regions(base, small, HUGE_PAGE_SIZE as u64) + regions(base, &all, 1 << 30);
    tables * PAGE_SIZE as u64
}

/// How many regions of `size` bytes, aligned in the address space, hold a page of `runs`.
fn regions(base: u64, runs: &Runs, size: u64) -> u64 {
    let mut count = 0;
    let mut next = 0;
    for run in runs.iter() {
        let first = (base + run.first * PAGE_SIZE as u64) / size;
        let last = (base + run.end() * PAGE_SIZE as u64 - 1) / size;
        let first = first.max(next);
        if last >= first {
            count += last - first + 1;
            next = last + 1;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Run;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn every_region_with_a_page_is_counted_once(
            pages in prop::collection::btree_set(0u64..5000, 0..200), base in 0u64..1000,
        ) {
            let base = base * PAGE_SIZE as u64;
            let runs: Runs = pages.iter().map(|&first| Run { first, pages: 1 }).collect();
            let size = HUGE_PAGE_SIZE as u64;
            let expected: BTreeSet<u64> =
                pages.iter().map(|page| (base + page * PAGE_SIZE as u64) / size).collect();
            prop_assert_eq!(regions(base, &runs, size), expected.len() as u64);
        }
    }
}
