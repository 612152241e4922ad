//! Clones of a snapshot, by copy-on-write and by eager copy, from request to first guest
//! instruction.
//!
//! The two are interleaved, so that whatever the host does meets both. One of each is
//! made first and not counted. Every clone is alive alone.

use serde::Serialize;
use tine_vmm::{Ladder, MemoryMode, Snapshot};

use super::{Steps, memory_name};
use crate::BenchError;
use crate::plan::{Plan, Section};
use crate::progress::Progress;
use crate::report::Skipped;
use crate::rig::{Rig, total_us};
use crate::stats::Summary;

/// Spawns of one size and kind.
#[derive(Clone, Debug, Serialize)]
pub struct SpawnRow {
    /// Guest memory.
    pub guest_bytes: u64,
    /// `cow` or `eager`.
    pub memory: &'static str,
    /// How the memory was made.
    pub strategy: String,
    /// Number of clones.
    pub n: usize,
    /// Request to first instruction.
    pub p50_us: f64,
    /// The same.
    pub p90_us: f64,
    /// The same.
    pub p99_us: f64,
    /// The same.
    pub min_us: f64,
    /// How many times as long as by copy-on-write, by the medians.
    pub ratio_to_cow: f64,
    /// Medians of the steps.
    pub ladder: Steps,
}

/// Measures every size that the host can hold.
pub fn run(
    plan: &Plan,
    rig: &mut Rig,
    skipped: &mut Vec<Skipped>,
) -> Result<Vec<SpawnRow>, BenchError> {
    let mut rows = Vec::new();
    let rounds = plan.sizes_mib().iter().map(|&mib| plan.spawns(mib).0).sum();
    let progress = Progress::start(Section::Spawn.name(), rounds);
    for &mib in plan.sizes_mib() {
        if let Some(reason) = rig.no_room_for(mib)? {
            skipped.push(Skipped::new(&format!("{} of {mib} MiB", Section::Spawn.name()), &reason));
            continue;
        }
        progress.say(format!("{mib} MiB: booting and writing all memory"));
        let snapshot = rig.snapshot(mib)?;
        progress.say(format!("{mib} MiB"));
        rows.extend(measure(rig, &snapshot, plan.spawns(mib), &progress)?);
        // The others are needed again.
        if !Section::ALL.iter().any(|section| section.guests_mib().contains(&mib)) {
            drop(snapshot);
            rig.forget(mib);
        }
    }
    Ok(rows)
}

fn measure(
    rig: &Rig,
    snapshot: &Snapshot,
    (rounds, cow_a_round): (usize, usize),
    progress: &Progress,
) -> Result<[SpawnRow; 2], BenchError> {
    let once = |memory| -> Result<Ladder, BenchError> { Ok(rig.spawn(snapshot, memory)?.ladder()) };
    once(MemoryMode::Cow)?;
    once(MemoryMode::Eager)?;
    let (mut cow, mut eager) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for _ in 0..cow_a_round {
            cow.push(once(MemoryMode::Cow)?);
        }
        eager.push(once(MemoryMode::Eager)?);
        progress.step();
    }
    let bytes = snapshot.image.bytes() as u64;
    let mut cow = row(bytes, MemoryMode::Cow, &cow)?;
    let mut eager = row(bytes, MemoryMode::Eager, &eager)?;
    eager.ratio_to_cow = eager.p50_us / cow.p50_us;
    cow.ratio_to_cow = 1.0;
    Ok([cow, eager])
}

fn row(guest_bytes: u64, memory: MemoryMode, ladders: &[Ladder]) -> Result<SpawnRow, BenchError> {
    let totals = ladders.iter().map(|ladder| total_us(ladder, "a spawn"));
    let summary = Summary::of(totals.collect::<Result<Vec<_>, _>>()?);
    Ok(SpawnRow {
        guest_bytes,
        memory: memory_name(memory),
        strategy: ladders.first().map_or_else(String::new, |ladder| ladder.strategy.to_string()),
        n: summary.n,
        p50_us: summary.p50,
        p90_us: summary.p90,
        p99_us: summary.p99,
        min_us: summary.min,
        ratio_to_cow: f64::NAN,
        ladder: Steps::of(ladders),
    })
}
