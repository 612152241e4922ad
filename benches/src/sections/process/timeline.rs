//! The life of a child that executes another program at once: fork against eager copies.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_forkbench::rows::{Memory, Row, Way};

use super::{rows, unexpected};
use crate::BenchError;
use crate::bench::Bench;
use crate::plan::Section;
use crate::process::Forkbench;
use crate::sections::mib;
use crate::stats::Summary;

const SECTION: Section = Section::ProcessTimeline;

/// One step.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ProcessStep {
    /// How the child was made.
    pub way: Way,
    /// Size of the parent's region.
    pub size_bytes: u64,
    /// What had been done.
    pub step: String,
    /// Number of children.
    pub n: usize,
    /// Since the start, median.
    pub us: f64,
    /// The child's memory then; none when there is no child.
    pub child: Option<Memory>,
}

/// Measures.
pub fn run(bench: &mut Bench) -> Result<Vec<ProcessStep>, BenchError> {
    let forkbench = Forkbench::new(&bench.interrupt)?;
    let (size, rounds) = bench.plan.choose(("100M", 3), ("500M", 7));
    bench.progress.steps(1);
    let line = format!("timeline --size {size} --rounds {rounds}");
    let mut steps: Vec<ProcessStep> = Vec::new();
    for row in rows(bench, &forkbench, SECTION, &line)? {
        let Row::Step(row) = row else { return Err(unexpected(&row)) };
        // Some words of a step are enough to know it by.
        let number = steps.iter().filter(|step| step.way == row.way).count();
        let name = ["call", "child", "written", "executed", "gone"].get(number).unwrap_or(&"more");
        let id = format!("process_timeline/{}/{}/{name}", mib(row.size_bytes), row.way.name());
        bench.measures.time(id, &row.us);
        let times = Summary::of(row.us);
        steps.push(ProcessStep {
            way: row.way,
            size_bytes: row.size_bytes,
            step: row.step,
            n: times.n,
            us: times.p50,
            child: row.child,
        });
    }
    Ok(steps)
}
