//! What it costs that a cell is confined: on the way to a dormant clone's first instruction, and
//! ahead, when a cell is made.
//!
//! Two nurseries, whose cells differ in nothing else, in turn.

use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_cell::NurseryConfig;
use tine_cell::confine::Confinement;

use super::GUEST_MIB;
use crate::BenchError;
use crate::bench::Bench;
use crate::cells::{Cells, for_cells};
use crate::error::Doing;
use crate::stats::{Summary, microseconds};

/// Cells that are confined, and cells that are not.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ConfinementFigures {
    /// Guest memory.
    pub guest_bytes: u64,
    /// Number of dormant clones of each kind, and of cells made.
    pub n: usize,
    /// A dormant clone, from the decision to its first instruction, confined: median.
    pub confined_p50_us: f64,
    /// The same, 99th percentile.
    pub confined_p99_us: f64,
    /// The same, not confined.
    pub unconfined_p50_us: f64,
    /// The same, 99th percentile.
    pub unconfined_p99_us: f64,
    /// The making of a cell with nothing in it, confined: median.
    pub confined_cell_p50_us: f64,
    /// The same, not confined.
    pub unconfined_cell_p50_us: f64,
}

impl ConfinementFigures {
    /// By how much a dormant spawn takes longer.
    pub fn extra_us(&self) -> f64 {
        self.confined_p50_us - self.unconfined_p50_us
    }

    /// By how much the making of a cell takes longer.
    pub fn ahead_us(&self) -> f64 {
        self.confined_cell_p50_us - self.unconfined_cell_p50_us
    }
}

/// Measures both kinds of cells, in turn.
pub fn run(bench: &mut Bench) -> Result<ConfinementFigures, BenchError> {
    let Bench { plan, rig, measures, progress, .. } = bench;
    let rounds = plan.confinements();
    progress.steps(rounds);
    let snapshot = for_cells(&rig.snapshot(GUEST_MIB)?)?;
    let nursery = |confinement| {
        // None with nothing in them: those are made when they are asked for.
        Cells::with(NurseryConfig { confinement, blank: 0, ..NurseryConfig::default() })
    };
    let kinds = [
        nursery(Confinement::default())?,
        nursery(Confinement { namespaces: false, seccomp: false })?,
    ];
    for cells in &kinds {
        cells.ask_for(&snapshot)?;
    }
    let mut woken = [const { Vec::new() }; 2];
    let mut made = [const { Vec::new() }; 2];
    for round in 0..rounds {
        // Whichever comes second finds the other's memory in the caches.
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        // Nothing is made ahead meanwhile.
        for cells in &kinds {
            cells.fill()?;
        }
        for kind in order {
            let clone = kinds[kind].wake(&snapshot)?;
            woken[kind].push(clone.first_us);
            clone.cell.kill();
        }
        for cells in &kinds {
            cells.fill()?;
        }
        for kind in order {
            let begun = Instant::now();
            let (line, _) = kinds[kind].nursery.blank().doing("making a cell")?;
            made[kind].push(microseconds(begun.elapsed()));
            drop(line);
        }
        progress.step()?;
    }
    for (kind, name) in ["confined", "unconfined"].into_iter().enumerate() {
        measures.time(format!("confinement/{name}/wake"), &woken[kind]);
        measures.time(format!("confinement/{name}/make"), &made[kind]);
    }
    let [confined, unconfined] = woken.map(Summary::of);
    let [confined_cell, unconfined_cell] = made.map(Summary::of);
    Ok(ConfinementFigures {
        guest_bytes: GUEST_MIB << 20,
        n: confined.n,
        confined_p50_us: confined.p50,
        confined_p99_us: confined.p99,
        unconfined_p50_us: unconfined.p50,
        unconfined_p99_us: unconfined.p99,
        confined_cell_p50_us: confined_cell.p50,
        unconfined_cell_p50_us: unconfined_cell.p50,
    })
}
