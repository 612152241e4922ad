//! What a clone pays for reading pages that it shares, and for writing them afterwards:
//! a page that was read is mapped for reading, and its first write has to change that.

use serde::Serialize;
use tine_abi::command::{Command, Op};

use super::grid::{self, Cell};
use super::{memory_name, ns_per_page, pattern_name};
use crate::BenchError;
use crate::plan::{Plan, Section};
use crate::rig::{Rig, Work, work_counted};
use crate::stats::{Summary, median};

const FRACTIONS: [f64; 3] = [0.01, 0.1, 1.0];

/// Reads, or the writes after them, of one fraction, pattern and kind of memory.
#[derive(Clone, Debug, Serialize)]
pub struct ReadRow {
    /// `read`, or `write after read`.
    pub operation: &'static str,
    /// `sequential` or `scattered`.
    pub pattern: &'static str,
    /// Part of the region, 0 to 1.
    pub fraction: f64,
    /// Pages visited.
    pub pages: u64,
    /// `cow` or `eager`.
    pub memory: &'static str,
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
pub fn run(plan: &Plan, rig: &mut Rig) -> Result<Vec<ReadRow>, BenchError> {
    let cells = grid::measure(plan, rig, Section::ReadFaults, &FRACTIONS, |clone, pages| {
        let read = work_counted(clone, &Command::new(Op::Read, pages))?;
        let write = work_counted(clone, &Command::new(Op::Dirty, pages).seed(1))?;
        Ok([read, write])
    })?;
    Ok(cells.iter().flat_map(rows).collect())
}

fn rows(cell: &Cell<[Work; 2]>) -> [ReadRow; 2] {
    let row = |operation, which: usize| {
        let pages = cell.selection().pages;
        let works = || cell.samples.iter().map(|works| works[which]);
        let total = Summary::of(works().map(|work| work.us));
        ReadRow {
            operation,
            pattern: pattern_name(cell.pattern),
            fraction: cell.fraction,
            pages,
            memory: memory_name(cell.memory),
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
