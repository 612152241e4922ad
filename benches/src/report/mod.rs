//! The figures, and what is made of them: text, JSON, a page with plots.

mod bars;
pub mod cell_tables;
pub mod csv;
mod dots;
pub mod html;
mod legend;
mod lines;
pub mod markdown;
pub mod memory_tables;
mod peer_tables;
mod plots;
mod process_plots;
mod process_tables;
pub mod save_tables;
pub mod schema;
pub mod tables;
pub mod text;
mod theme;
mod times;
pub mod units;
mod vm_plots;

use std::fs;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::BenchError;
use crate::claims::{Claim, ClaimRow};
use crate::host::HostFacts;
use crate::measure::Measure;
use crate::named::Named;
use crate::noise::Noise;
use crate::peers::PeerFigures;
use crate::plan::{Plan, PlanFacts};
use crate::sections::backing::BackingRow;
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
use crate::sections::pressure::PressureRow;
use crate::sections::process::copied::ProcessCopied;
use crate::sections::process::faults::ProcessFaultFigures;
use crate::sections::process::in_guest::GuestProcesses;
use crate::sections::process::spawn::ProcessSpawnFigures;
use crate::sections::process::timeline::ProcessStep;
use crate::sections::process::tuning::ProcessTuning;
use crate::sections::read_faults::ReadRow;
use crate::sections::redis::RedisFigures;
use crate::sections::redis_guest::RedisGuest;
use crate::sections::reset::ResetRow;
use crate::sections::spawn::SpawnRow;
use crate::sections::spawn_rate::SpawnRateRow;
use crate::sections::teardown::TeardownRow;
use crate::sections::vm_bgsave::VmBgsave;
use crate::sections::vm_copied::CopiedRow;
use crate::sections::vm_seen::{VmPageTables, VmSeen};
use crate::sections::vm_timeline::TimelineRow;
use crate::sections::working_set::WorkingSetRow;

/// Version of the JSON: raised when a key goes or changes its meaning.
pub const VERSION: u32 = 3;

/// Everything that was measured. What was not is empty or null, and in `skipped`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// Version of this format.
    pub version: u32,
    /// On what it was measured.
    pub host: HostFacts,
    /// How much was to be measured.
    pub plan: PlanFacts,
    /// Whether all of that was. If not, someone ended the run, or something failed.
    pub complete: bool,
    /// The claims of the source text, one for each of its sections.
    pub claims: Vec<Claim>,
    /// What tine says of itself beyond them.
    pub promises: Vec<ClaimRow>,
    /// How quiet the host was.
    pub noise: Noise,
    /// Every figure with its samples.
    pub measures: Vec<Measure>,
    /// Sections that were measured, in their order.
    pub done: Vec<String>,
    /// How long each took.
    pub section_seconds: Named,
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
    /// Cells under a limit on their memory.
    pub pressure: Vec<PressureRow>,
    /// The same of processes.
    pub process_pressure: Vec<tine_forkbench::rows::PressureRow>,
    /// What a clone copies, and what it shares.
    pub vm_copied: Vec<CopiedRow>,
    /// What counters say of pages that a clone wrote.
    pub vm_seen: Option<VmSeen>,
    /// Page tables of a clone all of whose memory was written.
    pub vm_page_tables: Option<VmPageTables>,
    /// Lives of clones.
    pub vm_timeline: Vec<TimelineRow>,
    /// Images of small and of huge pages.
    pub backing: Vec<BackingRow>,
    /// Children of processes.
    pub process_spawn: Option<ProcessSpawnFigures>,
    /// Writes of processes after a fork.
    pub process_faults: Option<ProcessFaultFigures>,
    /// A child of a process that executes another program, step by step.
    pub process_timeline: Vec<ProcessStep>,
    /// What a fork of a process copies.
    pub process_copied: Vec<ProcessCopied>,
    /// Advice for processes that fork, followed and not.
    pub process_tuning: Vec<ProcessTuning>,
    /// Processes in a Linux guest.
    pub process_in_guest: Option<GuestProcesses>,
    /// Other VMMs beside tine.
    pub peers: Option<PeerFigures>,
    /// Redis saves itself while it is written to.
    pub redis: Option<RedisFigures>,
    /// A machine is saved while its guest works.
    pub vm_bgsave: Option<VmBgsave>,
    /// A Redis in a Linux guest saves itself, and the guest is saved.
    pub redis_guest: Option<RedisGuest>,
    /// What was not measured.
    pub skipped: Vec<Skipped>,
    /// How long it all took.
    pub seconds: f64,
}

/// Something that was not measured.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Skipped {
    /// What.
    pub what: String,
    /// Why not.
    pub reason: String,
}

impl Report {
    /// Nothing measured yet on `host`.
    pub fn new(host: HostFacts, plan: PlanFacts) -> Self {
        Self {
            version: VERSION,
            host,
            plan,
            complete: false,
            claims: vec![],
            promises: vec![],
            noise: Noise::default(),
            measures: vec![],
            done: vec![],
            section_seconds: Named::default(),
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
            pressure: vec![],
            process_pressure: vec![],
            vm_copied: vec![],
            vm_seen: None,
            vm_page_tables: None,
            vm_timeline: vec![],
            backing: vec![],
            process_spawn: None,
            process_faults: None,
            process_timeline: vec![],
            process_copied: vec![],
            process_tuning: vec![],
            process_in_guest: None,
            peers: None,
            redis: None,
            vm_bgsave: None,
            redis_guest: None,
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

    /// What a run that was ended has left in `path`, to go on with on the same host by the
    /// same plan.
    pub fn resumed(path: &Path, host: HostFacts, plan: &Plan) -> Result<Self, BenchError> {
        let mut report = Self::read(path)?;
        let other = |what: &'static str| BenchError::Resume { path: path.into(), what };
        if report.plan != plan.facts() {
            return Err(other("was to measure something else (--quick, --sizes, --only)"));
        }
        if !report.host.is_same(&host) {
            return Err(other("is of another host, kernel or version of tine"));
        }
        if report.complete {
            return Err(other("is complete"));
        }
        // What was not measured is tried again.
        report.skipped.clear();
        report.host.command = host.command;
        Ok(report)
    }

    /// Reads the JSON in `path`.
    pub fn read(path: &Path) -> Result<Self, BenchError> {
        /// What every version has.
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let text =
            fs::read(path).map_err(|source| BenchError::Read { path: path.to_owned(), source })?;
        let format = |source| BenchError::Format { path: path.to_owned(), source };
        let Head { version } = serde_json::from_slice(&text).map_err(format)?;
        if version != VERSION {
            return Err(BenchError::Version { path: path.to_owned(), version, known: VERSION });
        }
        serde_json::from_slice(&text).map_err(format)
    }

    /// As JSON, for people too.
    pub fn json(&self) -> Result<String, BenchError> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// The spawn by `memory` of the size nearest to `mib`, and that size.
    pub fn spawn_near(&self, mib: u64, memory: &str) -> Option<&SpawnRow> {
        let rows = self.spawn.iter().filter(|row| row.memory == memory);
        rows.min_by_key(|row| row.guest_bytes.abs_diff(mib << 20))
    }

    /// Writes to copy-on-write or eager memory.
    pub fn fault(&self, pattern: &str, memory: &str, fraction: f64) -> Option<&FaultRow> {
        let mut rows = self.cow_faults.iter();
        rows.find(|row| row.pattern == pattern && row.memory == memory && row.fraction == fraction)
    }

    /// First visits to clones of an image of one kind.
    pub fn backing(&self, name: &str, what: (&str, &str, f64)) -> Option<&BackingRow> {
        let mut rows = self.backing.iter().filter(|row| row.backing == name);
        rows.find(|row| (row.operation.as_str(), row.pattern.as_str(), row.fraction) == what)
    }

    /// Forks of a guest to one child, of which only the dirty pages are mapped.
    pub fn fork_to_one(&self, method: &str, dirty: u64) -> Option<&LiveForkRow> {
        let mut rows = self.live_fork.iter().filter(|row| row.children == 1);
        rows.find(|row| row.method == method && row.dirty_pages == dirty && row.mapped == "dirty")
    }
}

#[cfg(test)]
impl Report {
    /// Nothing measured, on no host.
    pub fn empty() -> Self {
        let host = serde_json::json!({
            "cpu": "a processor", "cores": 2, "memory_bytes": 1, "kernel": "6.18",
            "kvm": { "module": "kvm", "ring0": "native", "ring0_ns": 1.0, "ring3_ns": 1.0 },
            "page_bytes": 4096, "thp_enabled": null, "thp_shmem_enabled": null,
            "hugepages_total": 0, "hugepages_free": 0, "hz": 250, "live_vms": 0, "load": 0.5,
            "command": "tine bench", "tine": "0.1.0", "date": "2026-11-24T00:00:00Z",
        });
        Self::new(serde_json::from_value(host).unwrap(), PlanFacts::default())
    }
}
