//! The figures, and what is made of them: text, JSON, a page with plots.

mod bars;
pub mod html;
mod lines;
mod plots;
pub mod tables;
pub mod text;
mod units;
pub mod verdicts;

use serde::Serialize;

use crate::BenchError;
use crate::host::HostFacts;
use crate::sections::cow_faults::FaultRow;
use crate::sections::crossover::Crossover;
use crate::sections::density::Density;
use crate::sections::hot_set::HotSetFigures;
use crate::sections::ledger::LedgerRow;
use crate::sections::live_fork::LiveForkRow;
use crate::sections::read_faults::ReadRow;
use crate::sections::reset::ResetFigures;
use crate::sections::spawn::SpawnRow;
use crate::sections::teardown::TeardownRow;

/// Version of the JSON: raised when a key goes or changes its meaning.
const VERSION: u32 = 1;

/// Everything that was measured. What was not is empty or null, and in `skipped`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this format.
    pub version: u32,
    /// On what it was measured.
    pub host: HostFacts,
    /// Clones of snapshots.
    pub spawn: Vec<SpawnRow>,
    /// Forks of running guests.
    pub live_fork: Vec<LiveForkRow>,
    /// Writes to shared pages.
    pub cow_faults: Vec<FaultRow>,
    /// Where an eager copy gets cheaper.
    pub crossover: Vec<Crossover>,
    /// Reads of shared pages.
    pub read_faults: Vec<ReadRow>,
    /// Pages copied ahead.
    pub hot_set: Option<HotSetFigures>,
    /// Memory accounts.
    pub ledger: Vec<LedgerRow>,
    /// Many clones at once.
    pub density: Option<Density>,
    /// Ends of clones.
    pub teardown: Vec<TeardownRow>,
    /// Back to the snapshot.
    pub reset: Option<ResetFigures>,
    /// What was not measured.
    pub skipped: Vec<Skipped>,
    /// How long it all took.
    pub seconds: f64,
}

/// Something that was not measured.
#[derive(Clone, Debug, Serialize)]
pub struct Skipped {
    /// What.
    pub what: String,
    /// Why not.
    pub reason: String,
}

impl Skipped {
    /// `what` was skipped for `reason`.
    pub fn new(what: &str, reason: &str) -> Self {
        Self { what: what.to_owned(), reason: reason.to_owned() }
    }
}

impl Report {
    /// Nothing measured yet on `host`.
    pub fn new(host: HostFacts) -> Self {
        Self {
            version: VERSION,
            host,
            spawn: vec![],
            live_fork: vec![],
            cow_faults: vec![],
            crossover: vec![],
            read_faults: vec![],
            hot_set: None,
            ledger: vec![],
            density: None,
            teardown: vec![],
            reset: None,
            skipped: vec![],
            seconds: 0.0,
        }
    }

    /// As JSON, for people too.
    pub fn json(&self) -> Result<String, BenchError> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// The spawn by `memory` of the size nearest to `mib`, and that size.
    fn spawn_near(&self, mib: u64, memory: &str) -> Option<&SpawnRow> {
        let rows = self.spawn.iter().filter(|row| row.memory == memory);
        rows.min_by_key(|row| row.guest_bytes.abs_diff(mib << 20))
    }
}
