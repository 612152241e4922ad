//! One guest at work, forked into a hundred at once.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_abi::command::{Command, Op};
use tine_abi::pattern::Selection;

use super::GUEST_MIB;
use super::parents::{ByProcess, Parent, fork_cell, scattered_writes};
use crate::BenchError;
use crate::bench::Bench;
use crate::cells::{self, AtWork, Cells};
use crate::rig::total_us;
use crate::stats::{Summary, microseconds};

/// Children of one fork.
const CHILDREN: usize = 100;
/// Pages that the parent has written.
const DIRTY: u64 = 1000;
/// Pages of which parent and children tell a checksum.
const CHECKED: u64 = 256;

/// Forks of one guest into many. Times are those of the fork in the middle, by `total_us`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Fanout {
    /// Children of one fork.
    pub n: usize,
    /// Number of forks.
    pub forks: usize,
    /// Guest memory.
    pub guest_bytes: u64,
    /// Pages that the parent had written.
    pub dirty_pages: u64,
    /// From the request until every child had run its first instruction.
    pub total_us: f64,
    /// The same for each of them.
    pub per_clone_us: f64,
    /// From the request until the first of them had.
    pub first_child_us: f64,
    /// The longest that the parent stood still for any of the forks.
    pub parent_longest_pause_us: f64,
    /// How often it stood still for one fork.
    pub parent_pauses: usize,
}

/// One fork.
struct Sample {
    total_us: f64,
    first_us: f64,
    pause_us: f64,
    pauses: usize,
}

/// Measures forks of one guest.
pub fn run(bench: &mut Bench) -> Result<Fanout, BenchError> {
    let Bench { plan, rig, measures, progress, .. } = bench;
    let forks = plan.fanouts();
    progress.steps(forks);
    let snapshot = rig.snapshot(GUEST_MIB)?;
    let cells = Cells::start()?;
    let parent = ByProcess::start(&cells, &snapshot)?;
    parent.work(&scattered_writes(&parent, DIRTY))?;
    let mut samples = Vec::new();
    for _ in 0..forks {
        cells.fill()?;
        samples.push(fork(&cells, &parent)?);
        progress.step()?;
    }
    let all = |of: fn(&Sample) -> f64| -> Vec<f64> { samples.iter().map(of).collect() };
    measures.time("fanout/to_100/total", &all(|one| one.total_us));
    measures.time("fanout/to_100/first_child", &all(|one| one.first_us));
    measures.time("fanout/to_100/pause", &all(|one| one.pause_us));
    samples.sort_by(|a, b| a.total_us.total_cmp(&b.total_us));
    let middle = &samples[(samples.len() - 1) / 2];
    Ok(Fanout {
        n: CHILDREN,
        forks,
        guest_bytes: GUEST_MIB << 20,
        dirty_pages: DIRTY,
        total_us: middle.total_us,
        per_clone_us: middle.total_us / CHILDREN as f64,
        first_child_us: middle.first_us,
        parent_longest_pause_us: samples.iter().map(|one| one.pause_us).fold(0.0, f64::max),
        parent_pauses: samples.iter().map(|one| one.pauses).max().unwrap_or_default(),
    })
}

fn fork(cells: &Cells, parent: &ByProcess<'_>) -> Result<Sample, BenchError> {
    let checksum = Command::new(Op::Checksum, Selection::sequential(0, CHECKED));
    let expected = cells::reply(parent.cell(), &checksum)?.value;
    let at_work = AtWork::begin(parent.cell())?;
    at_work.goes_on()?;
    let (children, _) = fork_cell(cells, parent.cell(), CHILDREN)?;
    at_work.goes_on()?;
    at_work.end()?;
    // All of them are at what their parent was at.
    cells::calm(&children)?;
    let (mut totals, mut pauses) = (Vec::new(), Vec::new());
    for (number, child) in children.iter().enumerate() {
        if cells::reply(child, &checksum)?.value != expected {
            return Err(BenchError::OtherMemory { child: number });
        }
        let ladder = child.ladder();
        totals.push(total_us(&ladder, "a fork into many")?);
        pauses.push(ladder.parent_pause.map_or(f64::NAN, microseconds));
        child.kill();
    }
    let pause_us = pauses.iter().copied().fold(0.0, f64::max);
    // Children of one pause tell of the same one.
    pauses.sort_by(f64::total_cmp);
    pauses.dedup();
    Ok(Sample {
        total_us: totals.iter().copied().fold(0.0, f64::max),
        first_us: Summary::of(totals).min,
        pause_us,
        pauses: pauses.len(),
    })
}
