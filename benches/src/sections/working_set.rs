//! The first work of a clone, which writes some pages and reads others: of a dormant clone with
//! the hot set of its snapshot, and of one without.
//!
//! A first clone does that work; the pages that it has used are the hot set.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_abi::command::{Command, Op};
use tine_abi::layout::{PAGE_SIZE, data_bytes};
use tine_abi::pattern::{Pattern, Selection};
use tine_cell::{Cell, CellSnapshot, Fault, SpawnWish};
use tine_vmm::Snapshot;
use tine_vmm::memory::HotSet;
use tine_vmm::snapshot::PartsError;

use super::GUEST_MIB;
use crate::BenchError;
use crate::bench::Bench;
use crate::cells::{self, Cells, for_cells};
use crate::error::Doing;
use crate::measure::Measures;
use crate::progress::Progress;
use crate::stats::{Summary, median};

const WRITTEN: u64 = 500;
const READ: u64 = 1000;

/// One working set.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WorkingSetRow {
    /// `clustered`: pages in a row; or `scattered` over all memory.
    pub pattern: String,
    /// Guest memory.
    pub guest_bytes: u64,
    /// Pages that the guest writes.
    pub written_pages: u64,
    /// Other pages that it reads, after that.
    pub read_pages: u64,
    /// Pages of the hot set.
    pub hot_pages: u64,
    /// Number of clones with and without.
    pub n: usize,
    /// The work without the hot set, by the guest's own clock: median.
    pub off_us: f64,
    /// The same with it.
    pub on_us: f64,
    /// How many times as long it takes without.
    pub ratio: f64,
    /// The writes alone, without: median.
    pub off_write_us: f64,
    /// The same with it.
    pub on_write_us: f64,
    /// The reads alone, without: median.
    pub off_read_us: f64,
    /// The same with it.
    pub on_read_us: f64,
}

/// Measures both working sets.
pub fn run(bench: &mut Bench) -> Result<Vec<WorkingSetRow>, BenchError> {
    let Bench { plan, rig, measures, progress, .. } = bench;
    let rounds = plan.working_sets();
    progress.steps(2 * rounds);
    let snapshot = rig.snapshot(GUEST_MIB)?;
    let half = data_bytes(GUEST_MIB << 20) / PAGE_SIZE / 2;
    let scattered = |first_page, pages| Selection {
        first_page,
        region_pages: half,
        pages,
        pattern: Pattern::Scattered { seed: 23 },
    };
    let clustered = [Selection::sequential(0, WRITTEN), Selection::sequential(half, READ)];
    let scattered = [scattered(0, WRITTEN), scattered(half, READ)];
    let cells = Cells::start()?;
    Ok(vec![
        measure(&cells, &snapshot, ("clustered", clustered), rounds, measures, progress)?,
        measure(&cells, &snapshot, ("scattered", scattered), rounds, measures, progress)?,
    ])
}

/// The times of one clone's work.
struct Times {
    write: f64,
    read: f64,
}

fn measure(
    cells: &Cells,
    snapshot: &Snapshot,
    (pattern, [written, read]): (&str, [Selection; 2]),
    rounds: usize,
    measures: &Measures,
    progress: &Progress,
) -> Result<WorkingSetRow, BenchError> {
    let snapshot = for_cells(snapshot)?;
    let work = |cell: &Cell| -> Result<Times, BenchError> {
        let write = cells::work(cell, &Command::new(Op::Dirty, written).seed(3))?;
        Ok(Times { write, read: cells::work(cell, &Command::new(Op::Read, read))? })
    };
    let hot_pages = record(cells, &snapshot, work)?;
    cells.ask_for(&snapshot)?;
    let (mut off, mut on) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let woken = cells.wake(&snapshot)?;
        on.push(work(&woken.cell)?);
        woken.cell.kill();
        cells.fill()?;
        let wish = SpawnWish { hot_set: false, ..SpawnWish::new(cells::start()) };
        let (cell, _) = cells.spawn(&snapshot, wish)?;
        off.push(work(&cell)?);
        cell.kill();
        progress.step()?;
    }
    let totals =
        |times: &[Times]| -> Vec<f64> { times.iter().map(|one| one.write + one.read).collect() };
    let (off_totals, on_totals) = (totals(&off), totals(&on));
    measures.time(format!("working_set/{pattern}/off"), &off_totals);
    measures.time(format!("working_set/{pattern}/on"), &on_totals);
    let write = |times: &[Times]| median(times.iter().map(|one| one.write));
    let reads = |times: &[Times]| median(times.iter().map(|one| one.read));
    let off_total = Summary::of(off_totals);
    let on_total = Summary::of(on_totals);
    Ok(WorkingSetRow {
        pattern: pattern.to_owned(),
        guest_bytes: GUEST_MIB << 20,
        written_pages: WRITTEN,
        read_pages: READ,
        hot_pages,
        n: off_total.n,
        off_us: off_total.p50,
        on_us: on_total.p50,
        ratio: off_total.p50 / on_total.p50,
        off_write_us: write(&off),
        on_write_us: write(&on),
        off_read_us: reads(&off),
        on_read_us: reads(&on),
    })
}

/// Gives `snapshot` the hot set of a clone that has done the work, and tells its pages.
fn record(
    cells: &Cells,
    snapshot: &Arc<CellSnapshot>,
    work: impl Fn(&Cell) -> Result<Times, BenchError>,
) -> Result<u64, BenchError> {
    let (cell, _) = cells.spawn(snapshot, SpawnWish::new(cells::start()))?;
    work(&cell)?;
    let unreadable = |error: PartsError| Fault::internal(&error);
    let used = cell.hot_set().and_then(|file| HotSet::from_file(file).map_err(unreadable));
    let used = used.doing("finding the pages that a clone has used")?;
    let file = used.to_file().map_err(unreadable).doing("keeping a hot set")?;
    let pages = used.pages();
    snapshot.set_hot_set(file, pages);
    cell.kill();
    Ok(pages)
}
