//! Page-table arithmetic: section 4 of the source text.

use super::{Said, process};

/// What is said.
pub fn said() -> Said {
    Said {
        section: 4,
        title: "Page-table arithmetic",
        claim: "On x86-64 with four levels a dense gigabyte takes 1 page of PGD, 1 to 2 of PUD, 2 to 4 of PMD and 256 of PTE.",
        rows: process::page_tables::rows(),
        by_hand: &["tine bench --only process-spawn"],
    }
}
