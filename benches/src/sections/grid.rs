//! Work on a part of a region, in every pattern, fraction and kind of memory.

use tine_abi::pattern::{Pattern, Selection};
use tine_vmm::{Machine, MemoryMode};

use super::{GUEST_MIB, MEMORIES, PATTERNS, memory_name, part_of_region, pattern_name, per_cent};
use crate::BenchError;
use crate::bench::Bench;

/// One combination and its samples.
pub struct Cell<S> {
    pub pattern: Pattern,
    pub fraction: f64,
    pub memory: MemoryMode,
    pub samples: Vec<S>,
}

impl<S> Cell<S> {
    /// The name of a measure of it.
    pub fn id(&self, section: &str, what: &str) -> String {
        let (pattern, memory) = (pattern_name(self.pattern), memory_name(self.memory));
        format!("{section}/{pattern}/{}/{memory}/{what}", per_cent(self.fraction))
    }

    /// The pages that are worked on.
    pub fn selection(&self) -> Selection {
        part_of_region(self.fraction, self.pattern)
    }
}

/// Takes samples of all combinations in turn, as often as planned, each of a fresh clone.
pub fn measure<S>(
    bench: &mut Bench,
    fractions: &[f64],
    mut sample: impl FnMut(&Machine, Selection) -> Result<S, BenchError>,
) -> Result<Vec<Cell<S>>, BenchError> {
    let Bench { plan, rig, progress, .. } = bench;
    let rounds = fractions.iter().map(|&fraction| plan.fault_rounds(fraction)).max();
    let rounds = rounds.unwrap_or_default();
    progress.steps(rounds);
    let snapshot = rig.snapshot(GUEST_MIB)?;
    let mut cells = Vec::new();
    for pattern in PATTERNS {
        for &fraction in fractions {
            cells.extend(MEMORIES.map(|memory| Cell {
                pattern,
                fraction,
                memory,
                samples: Vec::new(),
            }));
        }
    }
    for round in 0..rounds {
        for cell in cells.iter_mut().filter(|cell| round < plan.fault_rounds(cell.fraction)) {
            let clone = rig.spawn(&snapshot, cell.memory)?;
            cell.samples.push(sample(&clone, cell.selection())?);
        }
        progress.step()?;
    }
    Ok(cells)
}
