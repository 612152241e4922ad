//! What a clone pays for reading pages that it shares, and for writing them afterwards:
//! a page that was read is mapped for reading, and its first write has to change that.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_abi::command::{Command, Op};

use super::grid::{self, Cell};
use super::{memory_name, ns_per_page, pattern_name};
use crate::BenchError;
use crate::bench::Bench;
use crate::measure::Measures;
use crate::rig::{Work, work_counted};
use crate::stats::{Summary, median};

const FRACTIONS: [f64; 3] = [0.01, 0.1, 1.0];

/// Reads, or the writes after them, of one fraction, pattern and kind of memory.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ReadRow {
    /// `read`, or `write after read`.
    pub operation: String,
    /// `sequential` or `scattered`.
    pub pattern: String,
    /// Part of the region, 0 to 1.
    pub fraction: f64,
    /// Pages visited.
    pub pages: u64,
    /// `cow` or `eager`.
    pub memory: String,
    /// Number of clones.
    pub n: usize,
    /// Median nanoseconds a page.
    pub ns_per_page: f64,
    /// Median time.
    pub total_us: f64,
    /// The same, 99th percentile.
    pub total_p99_us: f64,
    /// Page faults that KVM took, median.
    pub page_faults: f64,
    /// Minor faults of the process, median.
    pub minor_faults: f64,
}

/// Measures all combinations in turn, as often as planned.
pub fn run(bench: &mut Bench) -> Result<Vec<ReadRow>, BenchError> {
    let cells = grid::measure(bench, &FRACTIONS, |clone, pages| {
        let read = work_counted(clone, &Command::new(Op::Read, pages))?;
        let write = work_counted(clone, &Command::new(Op::Dirty, pages).seed(1))?;
        Ok([read, write])
    })?;
    Ok(cells.iter().flat_map(|cell| rows(cell, &bench.measures)).collect())
}

fn rows(cell: &Cell<[Work; 2]>, measures: &Measures) -> [ReadRow; 2] {
    let row = |operation: &str, which: usize| {
        let pages = cell.selection().pages;
        let works = || cell.samples.iter().map(|works| works[which]);
        let times: Vec<f64> = works().map(|work| work.us).collect();
        measures.time(cell.id("read_faults", &operation.replace(' ', "_")), &times);
        let total = Summary::of(times);
        ReadRow {
            operation: operation.to_owned(),
            pattern: pattern_name(cell.pattern).to_owned(),
            fraction: cell.fraction,
            pages,
            memory: memory_name(cell.memory).to_owned(),
            n: total.n,
            ns_per_page: ns_per_page(total.p50, pages),
            total_us: total.p50,
            total_p99_us: total.p99,
            page_faults: median(works().map(|work| work.page_faults as f64)),
            minor_faults: median(works().map(|work| work.minor_faults as f64)),
        }
    };
    [row("read", 0), row("write after read", 1)]
}
