//! Back to the snapshot in the same VM, against a new clone.
//!
//! A clock that stops before the guest runs measures nothing, so both are also taken
//! to the guest's first answer to a trivial command.

use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_abi::command::{Command, Op};
use tine_abi::pattern::Selection;
use tine_vmm::{Machine, MemoryMode, Snapshot};

use super::GUEST_MIB;
use crate::BenchError;
use crate::bench::Bench;
use crate::error::Doing;
use crate::measure::Measures;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::rig::{Rig, WORK_LIMIT, data_pages, total_us, work};
use crate::stats::{Summary, median, microseconds};

/// Pages that the guest writes in each of its lives.
const DIRTY: [u64; 3] = [100, 1000, 10_000];

/// Resets of a guest that has written so much, and spawns of the same, in turn.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ResetRow {
    /// Guest memory.
    pub guest_bytes: u64,
    /// Pages that it had written.
    pub dirty_pages: u64,
    /// Number of resets, and of spawns.
    pub n: usize,
    /// A reset, until the guest may run: median.
    pub p50_us: f64,
    /// The same, 99th percentile.
    pub p99_us: f64,
    /// A reset, until the guest has answered: median.
    pub answer_p50_us: f64,
    /// A new clone, of which nothing was made ahead, from request to first instruction: median.
    pub spawn_p50_us: f64,
    /// A new clone, until it has answered: median.
    pub spawn_answer_p50_us: f64,
    /// How many times as long a new clone takes to its answer.
    pub ratio: f64,
}

/// Measures both, in turn, for guests that write little and much.
pub fn run(bench: &mut Bench) -> Result<Vec<ResetRow>, BenchError> {
    let Bench { plan, rig, measures, progress, .. } = bench;
    let resets = DIRTY.iter().map(|&pages| plan.resets(pages)).sum();
    progress.steps(resets);
    let snapshot = rig.snapshot(GUEST_MIB)?;
    DIRTY.iter().map(|&pages| measure(rig, &snapshot, pages, plan, (measures, progress))).collect()
}

fn measure(
    rig: &Rig,
    snapshot: &Snapshot,
    pages: u64,
    plan: &Plan,
    (measures, progress): (&Measures, &Progress),
) -> Result<ResetRow, BenchError> {
    let machine = rig.spawn(snapshot, MemoryMode::Cow)?;
    let dirty = Selection::scattered(data_pages(&machine), pages, 17);
    let dirty = Command::new(Op::Dirty, dirty).seed(17);
    // One that is not counted: it finds nothing to drop but what it takes to run.
    machine.reset().doing("a reset")?;
    let least = machine.dirty_pages().doing("counting pages after a reset")?;
    let (mut resets, mut answers) = (Vec::new(), Vec::new());
    let (mut spawns, mut spawn_answers) = (Vec::new(), Vec::new());
    for _ in 0..plan.resets(pages) {
        work(&machine, &dirty)?;
        let begun = Instant::now();
        machine.reset().doing("a reset")?;
        resets.push(microseconds(begun.elapsed()));
        answer(&machine)?;
        answers.push(microseconds(begun.elapsed()));
        let left = machine.dirty_pages().doing("counting pages after a reset")?;
        if left >= pages.min(least + 100) {
            let doing = "a reset that was to drop pages".to_owned();
            return Err(BenchError::Incomplete { doing, done: 0, asked: pages });
        }

        let begun = Instant::now();
        let clone = rig.spawn(snapshot, MemoryMode::Cow)?;
        answer(&clone)?;
        spawn_answers.push(microseconds(begun.elapsed()));
        spawns.push(total_us(&clone.ladder(), "a spawn")?);
        progress.step()?;
    }
    let kinds = [("reset", &resets), ("reset_answer", &answers), ("spawn_answer", &spawn_answers)];
    for (name, samples) in kinds {
        measures.time(format!("reset/{pages}_dirty/{name}"), samples);
    }
    let resets = Summary::of(resets);
    let (answer, spawn_answer) = (median(answers), median(spawn_answers));
    Ok(ResetRow {
        guest_bytes: GUEST_MIB << 20,
        dirty_pages: pages,
        n: resets.n,
        p50_us: resets.p50,
        p99_us: resets.p99,
        answer_p50_us: answer,
        spawn_p50_us: median(spawns),
        spawn_answer_p50_us: spawn_answer,
        ratio: spawn_answer / answer,
    })
}

/// Has the guest do next to nothing.
fn answer(machine: &Machine) -> Result<(), BenchError> {
    let nothing = Command::new(Op::Compute, Selection::NONE).amount(1);
    machine.run(0, &nothing, WORK_LIMIT).doing("asking a guest").map(drop)
}
