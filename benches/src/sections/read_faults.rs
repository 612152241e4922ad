//! What a clone pays for reading pages that it shares, and for writing them afterwards:
//! a page that was read is mapped for reading, and its first write has to change that.

use serde::Serialize;
use tine_abi::command::{Command, Op};
use tine_abi::pattern::Pattern;
use tine_vmm::MemoryMode;

use super::{
    GUEST_MIB, MEMORIES, PATTERNS, memory_name, ns_per_page, part_of_region, pattern_name,
};
use crate::BenchError;
use crate::plan::{Plan, Section};
use crate::progress::Progress;
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
    let rounds = FRACTIONS.map(|fraction| plan.fault_rounds(fraction)).into_iter().max();
    let rounds = rounds.unwrap_or_default();
    let progress = Progress::start(Section::ReadFaults.name(), rounds);
    let snapshot = rig.snapshot(GUEST_MIB)?;
    let mut cells = Vec::new();
    for pattern in PATTERNS {
        for fraction in FRACTIONS {
            cells.extend(MEMORIES.map(|memory| Cell::new(pattern, fraction, memory)));
        }
    }
    for round in 0..rounds {
        for cell in cells.iter_mut().filter(|cell| round < plan.fault_rounds(cell.fraction)) {
            let clone = rig.spawn(&snapshot, cell.memory)?;
            let pages = part_of_region(cell.fraction, cell.pattern);
            cell.reads.push(work_counted(&clone, &Command::new(Op::Read, pages))?);
            cell.writes.push(work_counted(&clone, &Command::new(Op::Dirty, pages).seed(1))?);
        }
        progress.step();
    }
    Ok(cells.iter().flat_map(Cell::rows).collect())
}

/// One combination and its samples.
struct Cell {
    pattern: Pattern,
    fraction: f64,
    memory: MemoryMode,
    reads: Vec<Work>,
    writes: Vec<Work>,
}

impl Cell {
    fn new(pattern: Pattern, fraction: f64, memory: MemoryMode) -> Self {
        Self { pattern, fraction, memory, reads: Vec::new(), writes: Vec::new() }
    }

    fn rows(&self) -> [ReadRow; 2] {
        [("read", &self.reads), ("write after read", &self.writes)]
            .map(|(operation, works)| self.row(operation, works))
    }

    fn row(&self, operation: &'static str, works: &[Work]) -> ReadRow {
        let pages = part_of_region(self.fraction, self.pattern).pages;
        let total = Summary::of(works.iter().map(|work| work.us));
        ReadRow {
            operation,
            pattern: pattern_name(self.pattern),
            fraction: self.fraction,
            pages,
            memory: memory_name(self.memory),
            n: total.n,
            ns_per_page: ns_per_page(total.p50, pages),
            total_us: total.p50,
            total_p99_us: total.p99,
            page_faults: median(works.iter().map(|work| work.page_faults as f64)),
            minor_faults: median(works.iter().map(|work| work.minor_faults as f64)),
        }
    }
}
