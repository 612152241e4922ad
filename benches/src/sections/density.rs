//! Many clones alive at once: what each takes of the host's memory, part by part, and
//! whether the last is made as fast as the first.
//!
//! `MemFree` is no measure of it: freed memory comes back late, and the page cache moves.
//! The kernel's own counters of what it has handed out are exact once they have settled,
//! and the memory controller knows what they leave out.

use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_vmm::{Ladder, Machine, MemoryMode};

use super::parts::{Reading, between};
use super::{GUEST_MIB, steps};
use crate::BenchError;
use crate::bench::Bench;
use crate::limits::{Held, max_mappings, raise_descriptors};
use crate::named::Named;
use crate::rig::total_us;
use crate::stats::median;

/// Many clones.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Density {
    /// How many.
    pub clones: u64,
    /// Memory of each guest.
    pub guest_bytes: u64,
    /// Host memory that each takes beside the image that all share: the sum of the parts.
    /// Where there is no part `kernel_pages`, the memory controller does not tell, and
    /// it is too little by that.
    pub bytes_per_clone: f64,
    /// The parts, bytes a clone.
    pub parts: Named,
    /// By how much free memory fell, a clone. For comparison: it counts other things too.
    pub mem_free_bytes_per_clone: Option<f64>,
    /// Descriptors that each takes.
    pub descriptors_per_clone: u64,
    /// Mappings that each takes.
    pub mappings_per_clone: u64,
    /// Time to make them all, one after the other.
    pub seconds: f64,
    /// Clones made a second.
    pub spawns_per_second: f64,
    /// Median spawn of the first tenth.
    pub first_p50_us: f64,
    /// Median spawn of the last tenth.
    pub last_p50_us: f64,
    /// Medians of the first tenth's steps.
    pub first_ladder: Named,
    /// Medians of the last tenth's steps.
    pub last_ladder: Named,
    /// Time to close them all.
    pub teardown_seconds: f64,
}

/// Makes the clones, lets the kernel settle, and counts.
pub fn run(bench: &mut Bench) -> Result<Density, BenchError> {
    let Bench { plan, rig, measures, progress, .. } = bench;
    let count = plan.clones();
    progress.steps(count as usize);
    let snapshot = rig.snapshot(GUEST_MIB)?;
    let held = Held::now()?;
    // One that is not counted shows what each will hold, and fills caches.
    let first = rig.spawn(&snapshot, MemoryMode::Cow)?;
    let with_one = Held::now()?;
    let descriptors = with_one.descriptors.saturating_sub(held.descriptors);
    let mappings = with_one.mappings.saturating_sub(held.mappings);
    check_limits(count, with_one, descriptors, mappings)?;

    let before = Reading::settled()?;
    let mut clones: Vec<Machine> = Vec::with_capacity(count as usize);
    let begun = Instant::now();
    for _ in 0..count {
        clones.push(rig.spawn(&snapshot, MemoryMode::Cow)?);
        progress.step()?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let after = Reading::settled()?;

    let ladders: Vec<Ladder> = clones.iter().map(Machine::ladder).collect();
    let tenth = ladders.len().div_ceil(10);
    let (first_ladders, last_ladders) = (&ladders[..tenth], &ladders[ladders.len() - tenth..]);
    let totals = |ladders: &[Ladder]| -> Result<Vec<f64>, BenchError> {
        ladders.iter().map(|ladder| total_us(ladder, "a spawn")).collect()
    };
    measures.time("density/first_tenth", &totals(first_ladders)?);
    measures.time("density/last_tenth", &totals(last_ladders)?);
    let first_p50_us = median(totals(first_ladders)?);
    let last_p50_us = median(totals(last_ladders)?);
    progress.say("closing them");
    let closing = Instant::now();
    drop(clones);
    let teardown_seconds = closing.elapsed().as_secs_f64();
    drop(first);

    let parts = between(&before, &after, count, after.own_since(&before));
    let free = after.memory.grown(&before.memory, "MemFree");
    measures.bytes("density/bytes", &[parts.sum()]);
    Ok(Density {
        clones: count,
        guest_bytes: GUEST_MIB << 20,
        bytes_per_clone: parts.sum(),
        parts,
        mem_free_bytes_per_clone: free.map(|grown| -grown / count as f64),
        descriptors_per_clone: descriptors,
        mappings_per_clone: mappings,
        seconds,
        spawns_per_second: count as f64 / seconds,
        first_p50_us,
        last_p50_us,
        first_ladder: steps(first_ladders),
        last_ladder: steps(last_ladders),
        teardown_seconds,
    })
}

/// Sees to it that the process may hold `clones` more, beside what it holds.
fn check_limits(
    clones: u64,
    held: Held,
    descriptors: u64,
    mappings: u64,
) -> Result<(), BenchError> {
    // For the few that come and go.
    const SPARE: u64 = 64;
    let check = |what, held: u64, each: u64, limit: u64, setting| {
        let needed = held + each * clones + SPARE;
        if needed <= limit {
            return Ok(());
        }
        Err(BenchError::Limit { clones, what, needed, limit, setting })
    };
    let limit = raise_descriptors()?;
    check("descriptors", held.descriptors, descriptors, limit, "the hard limit, `ulimit -Hn`")?;
    check("mappings", held.mappings, mappings, max_mappings()?, "the sysctl vm.max_map_count")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_clones_are_refused_with_the_limit() {
        let held = Held { descriptors: 10, mappings: 100 };
        check_limits(1, held, 2, 6).unwrap();
        let error = check_limits(1 << 40, held, 2, 6).unwrap_err();
        assert!(error.to_string().contains("descriptors"), "{error}");
        let error = check_limits(1 << 40, held, 0, 6).unwrap_err();
        assert!(error.to_string().contains("vm.max_map_count"), "{error}");
    }
}
