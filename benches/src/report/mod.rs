//! The figures, and what is made of them: text, JSON, a page with plots.

mod bars;
pub mod cell_tables;
mod cell_verdicts;
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
use crate::sections::cells::CellsFigures;
use crate::sections::confinement::ConfinementFigures;
use crate::sections::cow_faults::FaultRow;
use crate::sections::crossover::Crossover;
use crate::sections::density::Density;
use crate::sections::dormant::DormantRow;
use crate::sections::fanout::Fanout;
use crate::sections::hot_set::HotSetFigures;
use crate::sections::ledger::LedgerRow;
use crate::sections::live_fork::LiveForkRow;
use crate::sections::read_faults::ReadRow;
use crate::sections::reset::ResetRow;
use crate::sections::spawn::SpawnRow;
use crate::sections::spawn_rate::SpawnRateRow;
use crate::sections::teardown::TeardownRow;
use crate::sections::working_set::WorkingSetRow;

/// Version of the JSON: raised when a key goes or changes its meaning.
const VERSION: u32 = 2;

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
    pub reset: Vec<ResetRow>,
    /// Clones made ahead.
    pub dormant: Vec<DormantRow>,
    /// Clones a second, for clients of the daemon.
    pub spawn_rate: Vec<SpawnRateRow>,
    /// One guest forked into many.
    pub fanout: Option<Fanout>,
    /// Many cells at once.
    pub cells: Option<CellsFigures>,
    /// By how much confinement lengthens a dormant spawn.
    pub confinement_extra_us: Option<f64>,
    /// By how much it lengthens the making of a cell, which is ahead.
    pub confinement_ahead_us: Option<f64>,
    /// Of what these are the differences.
    pub confinement: Option<ConfinementFigures>,
    /// The first work of clones.
    pub working_set: Vec<WorkingSetRow>,
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
            reset: vec![],
            dormant: vec![],
            spawn_rate: vec![],
            fanout: None,
            cells: None,
            confinement_extra_us: None,
            confinement_ahead_us: None,
            confinement: None,
            working_set: vec![],
            skipped: vec![],
            seconds: 0.0,
        }
    }

    /// Notes what confinement costs.
    pub fn confine(&mut self, figures: ConfinementFigures) {
        self.confinement_extra_us = Some(figures.extra_us());
        self.confinement_ahead_us = Some(figures.ahead_us());
        self.confinement = Some(figures);
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
