//! What a clone pays for writing to pages that it shares: time by the guest's own TSC for
//! one word into each of some pages of 100 MiB, in a fresh clone every time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_abi::command::{Command, Op};

use super::grid::{self, Cell};
use super::{memory_name, ns_per_page, pattern_name};
use crate::BenchError;
use crate::bench::Bench;
use crate::measure::Measures;
use crate::rig::{Work, total_us, work_counted};
use crate::stats::{Summary, median};

/// Parts of the region that are written.
pub const FRACTIONS: [f64; 5] = [0.0, 0.01, 0.1, 0.5, 1.0];

/// Writes of one fraction, pattern and kind of memory.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FaultRow {
    /// `sequential` or `scattered`.
    pub pattern: String,
    /// Part of the region, 0 to 1.
    pub fraction: f64,
    /// Pages written.
    pub pages: u64,
    /// `cow` or `eager`.
    pub memory: String,
    /// Number of clones.
    pub n: usize,
    /// Median nanoseconds a page; 0 for no pages.
    pub ns_per_page: f64,
    /// Median time of the writes.
    pub total_us: f64,
    /// The same, 99th percentile.
    pub total_p99_us: f64,
    /// Median time from the clone's request to its first instruction.
    pub clone_us: f64,
    /// Page faults that KVM took, median.
    pub page_faults: f64,
    /// Minor faults of the process, median.
    pub minor_faults: f64,
}

/// Measures all combinations in turn, as often as planned.
pub fn run(bench: &mut Bench) -> Result<Vec<FaultRow>, BenchError> {
    let cells = grid::measure(bench, &FRACTIONS, |clone, pages| {
        let work = work_counted(clone, &Command::new(Op::Dirty, pages).seed(1))?;
        Ok((work, total_us(&clone.ladder(), "a spawn")?))
    })?;
    Ok(cells.iter().map(|cell| row(cell, &bench.measures)).collect())
}

fn row(cell: &Cell<(Work, f64)>, measures: &Measures) -> FaultRow {
    let pages = cell.selection().pages;
    let works = || cell.samples.iter().map(|(work, _)| work);
    let times: Vec<f64> = works().map(|work| work.us).collect();
    measures.time(cell.id("cow_faults", "write"), &times);
    let total = Summary::of(times);
    FaultRow {
        pattern: pattern_name(cell.pattern).to_owned(),
        fraction: cell.fraction,
        pages,
        memory: memory_name(cell.memory).to_owned(),
        n: total.n,
        ns_per_page: ns_per_page(total.p50, pages),
        total_us: total.p50,
        total_p99_us: total.p99,
        clone_us: median(cell.samples.iter().map(|(_, clone_us)| *clone_us)),
        page_faults: median(works().map(|work| work.page_faults as f64)),
        minor_faults: median(works().map(|work| work.minor_faults as f64)),
    }
}
