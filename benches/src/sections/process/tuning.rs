//! Advice for memory that is copied on write, followed and not, in a child of `fork`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_forkbench::rows::{Backing, Row, Side, TuningRow};

use super::{MIB, fault_medians, reserve, rows, unexpected};
use crate::BenchError;
use crate::bench::Bench;
use crate::measure::Measures;
use crate::plan::Section;
use crate::process::Forkbench;
use crate::stats::median;

const SECTION: Section = Section::ProcessTuning;
/// Size of the region, MiB.
const REGION_MIB: u64 = 100;

/// The work with one setting.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ProcessSide {
    /// The setting.
    pub setting: String,
    /// The fork, median.
    pub call_us: f64,
    /// What was done ahead, median.
    pub ahead_us: f64,
    /// The work, median.
    pub work_us: f64,
    /// Minor faults in the work, median.
    pub minor_faults: f64,
    /// Memory of the child's own after it.
    pub private_bytes: u64,
}

/// One advice, followed and not.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ProcessTuning {
    /// The advice.
    pub what: String,
    /// The work.
    pub work: String,
    /// Number of children for each.
    pub n: usize,
    /// Without it.
    pub before: ProcessSide,
    /// With it.
    pub after: ProcessSide,
    /// How many times as long the work took without it.
    pub ratio: f64,
}

/// Measures.
pub fn run(bench: &mut Bench) -> Result<Vec<ProcessTuning>, BenchError> {
    let forkbench = Forkbench::new(&bench.interrupt)?;
    let rounds = bench.plan.choose(3, 15);
    bench.progress.steps(1);
    let pages = reserve(bench, SECTION, Backing::Hugetlb, 2 * REGION_MIB * MIB);
    let line = format!("tuning --size {REGION_MIB}M --rounds {rounds}");
    let rows = rows(bench, &forkbench, SECTION, &line)?;
    drop(pages);
    rows.into_iter()
        .map(|row| match row {
            Row::Tuning(row) => Ok(summary(row, &bench.measures)),
            row => Err(unexpected(&row)),
        })
        .collect()
}

fn summary(row: TuningRow, measures: &Measures) -> ProcessTuning {
    let n = row.before.work_us.len();
    let name = row.what.replace(' ', "_");
    let before = side(row.before, &name, measures);
    let after = side(row.after, &name, measures);
    let ratio = before.work_us / after.work_us;
    ProcessTuning { what: row.what, work: row.work, n, before, after, ratio }
}

fn side(side: Side, name: &str, measures: &Measures) -> ProcessSide {
    let setting = side.setting.replace([' ', ','], "_").replace("__", "_");
    let id = |what| format!("process_tuning/{name}/{setting}/{what}");
    measures.time(id("call"), &side.call_us);
    measures.time(id("work"), &side.work_us);
    ProcessSide {
        setting: side.setting,
        call_us: median(side.call_us),
        ahead_us: median(side.ahead_us),
        work_us: median(side.work_us),
        minor_faults: fault_medians(&side.faults).0,
        private_bytes: side.private_bytes,
    }
}
