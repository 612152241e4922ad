//! The fork-exec timeline: section 6 of the source text.

use super::{Said, process};

/// What is said.
pub fn said() -> Said {
    Said {
        section: 6,
        title: "The fork-exec timeline",
        claim: "A parent of 500 MB: fork about 100 us, the child writes almost nothing, exec about 10 ms, all shared mappings dropped; an eager fork takes about 110 ms, with a spike of 500 MB.",
        rows: process::timeline::rows(),
        by_hand: &["tine bench --only process-timeline"],
    }
}
