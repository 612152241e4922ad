//! The first work of a clone, which writes some pages and reads others: of a dormant clone with
//! the hot set of its snapshot, and of one without.
//!
//! A first clone does that work; the pages that it has used are the hot set.

use std::sync::Arc;

use serde::Serialize;
use tine_abi::command::{Command, Op};
use tine_abi::layout::{PAGE_SIZE, data_bytes};
use tine_abi::pattern::{Pattern, Selection};
use tine_cell::{Cell, CellSnapshot, Fault, SpawnWish};
use tine_vmm::Snapshot;
use tine_vmm::memory::HotSet;
use tine_vmm::snapshot::PartsError;

use super::GUEST_MIB;
use crate::BenchError;
use crate::cells::{self, Cells, for_cells};
use crate::error::Doing;
use crate::plan::{Plan, Section};
use crate::progress::Progress;
use crate::rig::Rig;
use crate::stats::{Summary, median};

const WRITTEN: u64 = 500;
const READ: u64 = 1000;

/// One working set.
#[derive(Clone, Debug, Serialize)]
pub struct WorkingSetRow {
    /// `clustered`: pages in a row; or `scattered` over all memory.
    pub pattern: &'static str,
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
pub fn run(plan: &Plan, rig: &mut Rig) -> Result<Vec<WorkingSetRow>, BenchError> {
    let rounds = plan.working_sets();
    let progress = Progress::start(Section::WorkingSet.name(), 2 * rounds);
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
        measure(&cells, &snapshot, "clustered", clustered, rounds, &progress)?,
        measure(&cells, &snapshot, "scattered", scattered, rounds, &progress)?,
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
    pattern: &'static str,
    [written, read]: [Selection; 2],
    rounds: usize,
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
        progress.step();
    }
    let total = |times: &[Times]| Summary::of(times.iter().map(|one| one.write + one.read));
    let write = |times: &[Times]| median(times.iter().map(|one| one.write));
    let reads = |times: &[Times]| median(times.iter().map(|one| one.read));
    let off_total = total(&off);
    let on_total = total(&on);
    Ok(WorkingSetRow {
        pattern,
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
