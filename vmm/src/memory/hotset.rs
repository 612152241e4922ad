//! Pages that a clone is known to use soon, copied ahead in one batch.
//!
//! Pages that are only read are better copied, too: a page that a guest reads for the first
//! time costs it as much as half a write, mapped on the host or not, and next to nothing once
//! it is the guest's own.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use super::copy::PAGES_A_CALL;
use super::mapping::{Mapping, POPULATE_WRITE};
use super::uffd::Uffd;
use super::{MemoryError, PAGE_SIZE, Run, Runs};
use crate::lock;

/// Most pages of a recorded hot set: 16 MiB, which every clone made ahead takes.
pub const MOST_PAGES: u64 = 4096;

/// What [`Watch`] is made of where it can't be made any more.
static GIVEN: Mutex<Option<Uffd>> = Mutex::new(None);

/// Makes ahead what one `Watch` needs, for a process that soon may not make it.
pub fn prepare_watch() -> std::io::Result<()> {
    *lock(&GIVEN) = Some(Uffd::open()?);
    Ok(())
}

/// As long as it lives, the pages of a mapping that a guest reads are told from their
/// neighbours, which the kernel would map with them.
#[derive(Clone, Debug)]
pub(super) struct Watch(#[expect(dead_code, reason = "held for what it does")] Arc<Uffd>);

impl Watch {
    /// Watches all of `mapping`. None where the kernel can't.
    pub(super) fn over(mapping: &Mapping) -> Option<Self> {
        let given = lock(&GIVEN).take();
        let uffd = given.map_or_else(Uffd::open, Ok).ok()?;
        uffd.watch(mapping).ok()?;
        Some(Self(Arc::new(uffd)))
    }
}

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

    /// The pages that were `written` and, as far as there is room, those that were `read`.
    pub(super) fn recorded(written: &Runs, read: &Runs) -> Self {
        let mut room = MOST_PAGES.saturating_sub(written.pages());
        let mut kept = Runs::new();
        for run in read.iter() {
            let pages = run.pages.min(room);
            kept.push(Run { first: run.first, pages });
            room -= pages;
        }
        Self { runs: written.union(&kept) }
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
