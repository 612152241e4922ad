//! The end of a clone: its vCPUs stop, its VM is closed, its memory goes.

use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_abi::command::{Command, Op};
use tine_abi::pattern::Selection;
use tine_vmm::{Machine, MemoryMode};

use super::GUEST_MIB;
use crate::BenchError;
use crate::bench::Bench;
use crate::rig::{AGE, data_pages, work};
use crate::stats::{Summary, microseconds};

/// Pages that a clone at work has written.
const DIRTY: u64 = 10_000;

/// Ends of one kind of clone.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TeardownRow {
    /// What kind.
    pub clone: String,
    /// Guest memory.
    pub guest_bytes: u64,
    /// Pages that it had written.
    pub dirty_pages: u64,
    /// Number of clones.
    pub n: usize,
    /// From the kill until everything is gone.
    pub p50_us: f64,
    /// The same.
    pub p90_us: f64,
    /// The same.
    pub p99_us: f64,
    /// The same.
    pub min_us: f64,
}

/// What becomes of a clone before it is closed.
#[derive(Clone, Copy)]
enum Life {
    Aged,
    None,
    Work,
}

/// Measures clones that aged, clones closed at once, and clones that have written.
pub fn run(bench: &mut Bench) -> Result<Vec<TeardownRow>, BenchError> {
    let Bench { plan, rig, measures, progress, .. } = bench;
    let lives = [
        (Life::Aged, "idle, 60 ms old"),
        (Life::None, "closed right after its first instruction"),
        (Life::Work, "10,000 dirty pages, 60 ms old and more"),
    ];
    progress.steps(plan.teardowns());
    let snapshot = rig.snapshot(GUEST_MIB)?;
    let mut samples = [const { Vec::new() }; 3];
    for _ in 0..plan.teardowns() {
        for ((life, _), samples) in lives.iter().zip(&mut samples) {
            let clone = rig.spawn(&snapshot, MemoryMode::Cow)?;
            live(&clone, *life)?;
            let begun = Instant::now();
            clone.kill();
            drop(clone);
            samples.push(microseconds(begun.elapsed()));
        }
        progress.step()?;
    }
    for ((_, name), samples) in lives.iter().zip(&samples) {
        measures.time(format!("teardown/{}", name.replace([' ', ','], "_")), samples);
    }
    let rows = lives.into_iter().zip(samples).map(|((life, name), samples)| {
        let time = Summary::of(samples);
        TeardownRow {
            clone: name.to_owned(),
            guest_bytes: GUEST_MIB << 20,
            dirty_pages: if matches!(life, Life::Work) { DIRTY } else { 0 },
            n: time.n,
            p50_us: time.p50,
            p90_us: time.p90,
            p99_us: time.p99,
            min_us: time.min,
        }
    });
    Ok(rows.collect())
}

fn live(clone: &Machine, life: Life) -> Result<(), BenchError> {
    if let Life::Work = life {
        let pages = Selection::scattered(data_pages(clone), DIRTY, 13);
        work(clone, &Command::new(Op::Dirty, pages).seed(13))?;
    }
    if !matches!(life, Life::None) {
        std::thread::sleep(AGE);
    }
    Ok(())
}
