//! What forks of virtual machines and copy-on-write faults cost against an eager copy,
//! measured on the host at hand with real guests.
//!
//! One file of `sections` measures one thing and returns figures; `report` makes text,
//! JSON and a page with plots of them, and holds them against the claims that are made for
//! `fork(2)`. `rig` makes guests, `plan` says how many and how large.

#![warn(missing_docs)]
// Tests may stop at what surprises them.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod cells;
mod cgroup;
mod client;
mod daemon;
mod error;
mod host;
mod limits;
mod meminfo;
mod peers;
mod plan;
mod progress;
mod report;
mod rig;
mod sections;
mod stats;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub use error::BenchError;

use host::HostFacts;
use plan::{Plan, Section};
use report::{Report, Skipped, html, tables, text, verdicts};
use rig::Rig;
use sections::{
    confinement, cow_faults, crossover, density, dormant, fanout, hot_set, ledger, live_fork,
    read_faults, reset, spawn, spawn_rate, teardown, working_set,
};

/// What to measure, and where the figures go.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Guest sizes to measure beside the usual ones, MiB.
    pub sizes_mib: Vec<u64>,
    /// Fewer sizes and samples: a minute and a half.
    pub quick: bool,
    /// Write the figures to this file.
    pub json: Option<PathBuf>,
    /// Write a page with plots to this file.
    pub html: Option<PathBuf>,
    /// The exact command that was given, for the header.
    pub command: String,
    /// Measure only these sections; all when empty.
    pub only: Vec<String>,
}

/// Measures, prints the figures as they come, and writes the files that were asked for.
///
/// # Errors
/// When anything fails that was to be measured: there are no figures with holes.
pub fn run(options: &Options) -> Result<(), BenchError> {
    let begun = Instant::now();
    let plan = Plan::new(options)?;
    // Better known now than after minutes of measuring.
    for path in [&options.json, &options.html].into_iter().flatten() {
        check_writable(path)?;
    }
    let mut rig = Rig::open()?;
    let mut report = Report::new(HostFacts::gather(rig.host(), &options.command)?);
    text::say(&text::header(&report.host))?;
    measure(&plan, &mut rig, &mut report)?;
    report.seconds = begun.elapsed().as_secs_f64();
    text::say(&text::closing(&report))?;
    if let Some(path) = &options.json {
        write(path, &report.json()?)?;
    }
    if let Some(path) = &options.html {
        write(path, &html::page(&report)?)?;
    }
    Ok(())
}

fn measure(plan: &Plan, rig: &mut Rig, report: &mut Report) -> Result<(), BenchError> {
    for section in Section::ALL {
        if !plan.wants(section) {
            report.skipped.push(Skipped::new(section.name(), "not asked for (--only)"));
            continue;
        }
        let needed = section.guests_mib().iter().max();
        if let Some(reason) = needed.map(|&mib| rig.no_room_for(mib)).transpose()?.flatten() {
            report.skipped.push(Skipped::new(section.name(), &reason));
            continue;
        }
        match section {
            Section::Spawn => report.spawn = spawn::run(plan, rig, &mut report.skipped)?,
            Section::LiveFork => report.live_fork = live_fork::run(plan, rig)?,
            Section::CowFaults => {
                report.cow_faults = cow_faults::run(plan, rig)?;
                report.crossover = crossover::find_all(&report.cow_faults);
            }
            Section::ReadFaults => report.read_faults = read_faults::run(plan, rig)?,
            Section::HotSet => report.hot_set = Some(hot_set::run(plan, rig)?),
            Section::Ledger => report.ledger = ledger::run(rig)?,
            Section::Density => report.density = Some(density::run(plan, rig)?),
            Section::Teardown => report.teardown = teardown::run(plan, rig)?,
            Section::Reset => report.reset = reset::run(plan, rig)?,
            Section::Dormant => report.dormant = dormant::run(plan, rig, &mut report.skipped)?,
            Section::SpawnRate => report.spawn_rate = spawn_rate::run(plan)?,
            Section::Fanout => report.fanout = Some(fanout::run(plan, rig)?),
            Section::Cells => report.cells = Some(sections::cells::run(plan, rig)?),
            Section::Confinement => report.confine(confinement::run(plan, rig)?),
            Section::WorkingSet => report.working_set = working_set::run(plan, rig)?,
        }
        for table in tables::of(section, report) {
            text::say(&text::table(&table))?;
        }
        text::say(&text::verdicts(&verdicts::of(section, report)))?;
    }
    Ok(())
}

fn check_writable(path: &Path) -> Result<(), BenchError> {
    let opened = fs::OpenOptions::new().create(true).append(true).open(path);
    opened.map(drop).map_err(|source| BenchError::Write { path: path.into(), source })
}

fn write(path: &Path, text: &str) -> Result<(), BenchError> {
    fs::write(path, text).map_err(|source| BenchError::Write { path: path.into(), source })
}
