//! Clones of a snapshot, by copy-on-write and by eager copy, from request to first guest
//! instruction.
//!
//! The two are interleaved, so that whatever the host does meets both. One of each is
//! made first and not counted. Every clone is alive alone.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_vmm::{Ladder, MemoryMode, Snapshot};

use super::{memory_name, mib, steps};
use crate::BenchError;
use crate::bench::Bench;
use crate::measure::Measures;
use crate::named::Named;
use crate::plan::Section;
use crate::progress::Progress;
use crate::report::Skipped;
use crate::rig::{Rig, total_us};
use crate::stats::{Summary, microseconds};

/// Spawns of one size and kind.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SpawnRow {
    /// Guest memory.
    pub guest_bytes: u64,
    /// `cow` or `eager`.
    pub memory: String,
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
    pub ladder: Named,
}

impl SpawnRow {
    /// The median of the step `name`, microseconds; of a step that was not taken, 0.
    pub fn step(&self, name: &str) -> f64 {
        self.ladder.get(name).unwrap_or(0.0)
    }
}

/// The smallest and the largest guest of `rows` that was spawned by `memory`, if there are two.
pub fn ends<'a>(rows: &'a [SpawnRow], memory: &str) -> Option<(&'a SpawnRow, &'a SpawnRow)> {
    let rows = || rows.iter().filter(|row| row.memory == memory);
    let small = rows().min_by_key(|row| row.guest_bytes)?;
    let large = rows().max_by_key(|row| row.guest_bytes)?;
    (small.guest_bytes < large.guest_bytes).then_some((small, large))
}

/// Measures every size that the host can hold.
pub fn run(bench: &mut Bench) -> Result<Vec<SpawnRow>, BenchError> {
    let Bench { plan, rig, skipped, measures, progress, .. } = bench;
    let mut rows = Vec::new();
    let rounds = plan.sizes_mib().iter().map(|&mib| plan.spawns(mib).0).sum();
    progress.steps(rounds);
    for &mib in plan.sizes_mib() {
        if let Some(reason) = rig.no_room_for(mib)? {
            skipped
                .push(Skipped { what: format!("{} of {mib} MiB", Section::Spawn.name()), reason });
            continue;
        }
        progress.say(format!("{mib} MiB: booting and writing all memory"));
        let snapshot = rig.snapshot(mib)?;
        progress.say(format!("{mib} MiB"));
        rows.extend(measure(rig, &snapshot, plan.spawns(mib), (measures, progress))?);
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
    (measures, progress): (&Measures, &Progress),
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
        progress.step()?;
    }
    let bytes = snapshot.image.bytes() as u64;
    let cow = row(bytes, MemoryMode::Cow, &cow, measures)?;
    let mut eager = row(bytes, MemoryMode::Eager, &eager, measures)?;
    eager.ratio_to_cow = eager.p50_us / cow.p50_us;
    Ok([cow, eager])
}

fn row(
    guest_bytes: u64,
    memory: MemoryMode,
    ladders: &[Ladder],
    measures: &Measures,
) -> Result<SpawnRow, BenchError> {
    let totals = ladders.iter().map(|ladder| total_us(ladder, "a spawn"));
    let totals = totals.collect::<Result<Vec<_>, _>>()?;
    let id = |what| format!("spawn/{}/{}/{what}", mib(guest_bytes), memory_name(memory));
    measures.time(id("total"), &totals);
    let maps: Vec<f64> = ladders.iter().map(|ladder| microseconds(ladder.map)).collect();
    measures.time(id("map"), &maps);
    let summary = Summary::of(totals);
    Ok(SpawnRow {
        guest_bytes,
        memory: memory_name(memory).to_owned(),
        strategy: ladders.first().map_or_else(String::new, |ladder| ladder.strategy.to_string()),
        n: summary.n,
        p50_us: summary.p50,
        p90_us: summary.p90,
        p99_us: summary.p99,
        min_us: summary.min,
        ratio_to_cow: 1.0,
        ladder: steps(ladders),
    })
}
