//! What every section needs: how much to measure, guests to measure, and where the figures go.

use crate::interrupt::Interrupt;
use crate::measure::Measures;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::report::Skipped;
use crate::rig::Rig;

/// A run of the suite.
pub struct Bench {
    /// How much is measured.
    pub plan: Plan,
    /// Makes guests.
    pub rig: Rig,
    /// Every sample of it.
    pub measures: Measures,
    /// What was not measured, and why.
    pub skipped: Vec<Skipped>,
    /// How far it is.
    pub progress: Progress,
    /// Whether it is to end early.
    pub interrupt: Interrupt,
}

impl Bench {
    /// Notes that `what` was not measured for `reason`.
    pub fn skip(&mut self, what: impl Into<String>, reason: impl Into<String>) {
        self.skipped.push(Skipped { what: what.into(), reason: reason.into() });
    }
}
