//! What a clone pays for writing to pages that it shares: time by the guest's own TSC for
//! one word into each of some pages of 100 MiB, in a fresh clone every time.

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
use crate::rig::{Rig, Work, total_us, work_counted};
use crate::stats::{Summary, median};

/// Parts of the region that are written.
pub const FRACTIONS: [f64; 5] = [0.0, 0.01, 0.1, 0.5, 1.0];

/// Writes of one fraction, pattern and kind of memory.
#[derive(Clone, Debug, Serialize)]
pub struct FaultRow {
    /// `sequential` or `scattered`.
    pub pattern: &'static str,
    /// Part of the region, 0 to 1.
    pub fraction: f64,
    /// Pages written.
    pub pages: u64,
    /// `cow` or `eager`.
    pub memory: &'static str,
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
pub fn run(plan: &Plan, rig: &mut Rig) -> Result<Vec<FaultRow>, BenchError> {
    let rounds = FRACTIONS.map(|fraction| plan.fault_rounds(fraction)).into_iter().max();
    let rounds = rounds.unwrap_or_default();
    let progress = Progress::start(Section::CowFaults.name(), rounds);
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
            let write = Command::new(Op::Dirty, part_of_region(cell.fraction, cell.pattern));
            cell.works.push(work_counted(&clone, &write.seed(1))?);
            cell.clone_us.push(total_us(&clone.ladder(), "a spawn")?);
        }
        progress.step();
    }
    Ok(cells.into_iter().map(Cell::row).collect())
}

/// One combination and its samples.
struct Cell {
    pattern: Pattern,
    fraction: f64,
    memory: MemoryMode,
    works: Vec<Work>,
    clone_us: Vec<f64>,
}

impl Cell {
    fn new(pattern: Pattern, fraction: f64, memory: MemoryMode) -> Self {
        Self { pattern, fraction, memory, works: Vec::new(), clone_us: Vec::new() }
    }

    fn row(self) -> FaultRow {
        let pages = part_of_region(self.fraction, self.pattern).pages;
        let total = Summary::of(self.works.iter().map(|work| work.us));
        FaultRow {
            pattern: pattern_name(self.pattern),
            fraction: self.fraction,
            pages,
            memory: memory_name(self.memory),
            n: total.n,
            ns_per_page: ns_per_page(total.p50, pages),
            total_us: total.p50,
            total_p99_us: total.p99,
            clone_us: median(self.clone_us),
            page_faults: median(self.works.iter().map(|work| work.page_faults as f64)),
            minor_faults: median(self.works.iter().map(|work| work.minor_faults as f64)),
        }
    }
}
