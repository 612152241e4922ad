//! Pages that a clone is known to write soon, copied ahead in one batch.

use serde::{Deserialize, Serialize};

use super::copy::PAGES_A_CALL;
use super::mapping::{Mapping, POPULATE_WRITE};
use super::{MemoryError, PAGE_SIZE, Runs};

/// A set of pages to copy before a clone's first instruction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotSet {
    runs: Runs,
}

impl HotSet {
    /// The hot set of `runs`, usually those that an earlier clone wrote.
    pub fn new(runs: Runs) -> Self {
        Self { runs }
    }

    /// How many pages it has.
    pub fn pages(&self) -> u64 {
        self.runs.pages()
    }

    /// Its pages.
    pub fn runs(&self) -> &Runs {
        &self.runs
    }

    /// Copies its pages in `clone`; those beyond its end are left out. Returns how many
    /// were asked for.
    pub(super) fn apply(&self, clone: &Mapping) -> Result<u64, MemoryError> {
        let end = (clone.bytes() / PAGE_SIZE) as u64;
        let mut pages = 0;
        for run in self.runs.pieces(PAGES_A_CALL) {
            let count = run.end().min(end).saturating_sub(run.first);
            if count > 0 {
                let place = run.first as usize * PAGE_SIZE;
                clone.advise(place, count as usize * PAGE_SIZE, POPULATE_WRITE)?;
                pages += count;
            }
        }
        Ok(pages)
    }
}
