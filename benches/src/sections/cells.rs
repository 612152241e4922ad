//! Many clones alive at once, each in a cell of its own: what each takes of the host's memory.
//!
//! As many cells are made ahead when it is counted before as after, so that they do not
//! count.

use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_cell::{Cell, SpawnWish};

use super::GUEST_MIB;
use super::parts::{Own, Reading, between};
use crate::BenchError;
use crate::bench::Bench;
use crate::cells::{self, Cells, for_cells};
use crate::limits::raise_descriptors;
use crate::meminfo::MemInfo;
use crate::named::Named;

/// Many cells.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CellsFigures {
    /// How many.
    pub count: u64,
    /// Memory of each guest.
    pub guest_bytes: u64,
    /// Host memory that each takes beside the image that all share: the sum of the parts. Where
    /// there is no part `kernel_pages`, the memory controller does not tell, and it is
    /// too little by that.
    pub bytes_per_cell: f64,
    /// The parts, bytes a cell. Page tables and pages are the cells' own; what the kernel has
    /// handed out is the whole host's, so that others count too.
    pub parts: Named,
    /// Its share of all that it maps (Pss): what is mapped by several counts for each in part, the
    /// image too.
    pub pss_bytes_per_cell: f64,
    /// Pages that a guest has written itself, bytes: what none of them could share.
    pub private_bytes_per_cell: f64,
    /// Time to make them all, one after the other.
    pub seconds: f64,
    /// Cells made a second.
    pub spawns_per_second: f64,
    /// Time to kill them all, until each is gone.
    pub teardown_seconds: f64,
}

/// Makes the cells, lets the kernel settle, and counts.
pub fn run(bench: &mut Bench) -> Result<CellsFigures, BenchError> {
    let Bench { plan, rig, measures, progress, .. } = bench;
    let count = plan.cells();
    progress.steps(count as usize);
    // Two for each: its channel and its process.
    raise_descriptors()?;
    let snapshot = for_cells(&rig.snapshot(GUEST_MIB)?)?;
    let cells = Cells::start()?;
    // One that is not counted fills caches, and has others made ahead.
    let (first, _) = cells.spawn(&snapshot, SpawnWish::new(cells::start()))?;
    cells.fill()?;

    let before = Reading::settled()?;
    let mut clones: Vec<Cell> = Vec::with_capacity(count as usize);
    let begun = Instant::now();
    for _ in 0..count {
        clones.push(cells.spawn(&snapshot, SpawnWish::new(cells::start()))?.0);
        progress.step()?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    cells.fill()?;
    let after = Reading::settled()?;

    let each = |bytes: u64| bytes as f64 / count as f64;
    let (mut pss, mut own) = (0, Own { page_tables: Some(0.0), anon: Some(0.0) });
    for cell in &clones {
        let (shared, status) = (MemInfo::shared_by(cell.pid())?, MemInfo::of(cell.pid())?);
        pss += shared.need("Pss")?;
        let add = |sum: Option<f64>, more: Option<u64>| Some(sum? + more? as f64);
        own.page_tables = add(own.page_tables, status.get("VmPTE"));
        own.anon = add(own.anon, shared.get("Pss_Anon"));
    }
    let pages = clones.iter().map(Cell::dirty_pages).sum::<Result<u64, _>>();
    let pages = crate::error::Doing::doing(pages, "counting the pages of cells")?;
    progress.say("closing them");
    let closing = Instant::now();
    for cell in &clones {
        cell.kill();
    }
    let teardown_seconds = closing.elapsed().as_secs_f64();
    first.kill();

    measures.bytes("cells/pss", &[each(pss)]);
    let parts = between(&before, &after, count, own);
    measures.bytes("cells/bytes", &[parts.sum()]);
    Ok(CellsFigures {
        count,
        guest_bytes: GUEST_MIB << 20,
        bytes_per_cell: parts.sum(),
        parts,
        pss_bytes_per_cell: each(pss),
        private_bytes_per_cell: each(pages * tine_abi::layout::PAGE_SIZE),
        seconds,
        spawns_per_second: count as f64 / seconds,
        teardown_seconds,
    })
}
