//! Pages copied before the first instruction against pages copied when they are written.
//!
//! A first clone writes a working set; the pages that are then its own are the hot set of
//! the next ones, which write the same.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_abi::command::{Command, Op};
use tine_abi::pattern::Selection;
use tine_vmm::MemoryMode;

use super::{GUEST_MIB, ns_per_page};
use crate::BenchError;
use crate::bench::Bench;
use crate::error::Doing;
use crate::measure::Measures;
use crate::progress::Progress;
use crate::rig::{Rig, data_pages, work};
use crate::stats::{Summary, median, microseconds};

/// Pages of the working set.
const PAGES: u64 = 2000;

/// A working set that lies together, and a scattered one.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HotSetFigures {
    /// Guest memory.
    pub guest_bytes: u64,
    /// Pages in a row, as a program that keeps hot data together has them.
    #[serde(flatten)]
    pub clustered: WorkingSet,
    /// As many pages scattered over all memory.
    pub scattered: WorkingSet,
}

/// The first writes to one working set.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WorkingSet {
    /// Pages that the guest writes.
    pub pages: u64,
    /// Pages of the hot set: those, and the few that a guest writes to run.
    pub hot_pages: u64,
    /// Number of clones with and without.
    pub n: usize,
    /// Median nanoseconds of a first write in the guest, without the hot set.
    pub off_ns_per_page: f64,
    /// The same with it.
    pub on_ns_per_page: f64,
    /// How many times cheaper the guest's write is.
    pub ratio: f64,
    /// Median time that copying ahead took.
    pub apply_us: f64,
    /// The same for a page of it, nanoseconds.
    pub apply_ns_per_page: f64,
    /// Without the hot set: nanoseconds a page over those of copying ahead and writing.
    pub ratio_with_apply: f64,
}

/// Measures both working sets.
pub fn run(bench: &mut Bench) -> Result<HotSetFigures, BenchError> {
    let Bench { plan, rig, measures, progress, .. } = bench;
    let rounds = plan.hot_set_rounds();
    progress.steps(2 * rounds);
    let snapshot = rig.snapshot(GUEST_MIB)?;
    let all = data_pages(&rig.spawn(&snapshot, MemoryMode::Cow)?);
    let scattered = Selection::scattered(all, PAGES, 11);
    let clustered = Selection::sequential(all / 2, PAGES);
    Ok(HotSetFigures {
        guest_bytes: GUEST_MIB << 20,
        clustered: measure(rig, &snapshot, ("clustered", clustered), rounds, (measures, progress))?,
        scattered: measure(rig, &snapshot, ("scattered", scattered), rounds, (measures, progress))?,
    })
}

fn measure(
    rig: &Rig,
    snapshot: &tine_vmm::Snapshot,
    (name, pages): (&str, Selection),
    rounds: usize,
    (measures, progress): (&Measures, &Progress),
) -> Result<WorkingSet, BenchError> {
    let write = Command::new(Op::Dirty, pages).seed(3);
    let first = rig.spawn(snapshot, MemoryMode::Cow)?;
    work(&first, &write)?;
    let hot = first.hot_set().doing("finding a clone's own pages")?;
    drop(first);
    let hot_pages = hot.runs().pages();
    let snapshot = snapshot.with_hot_set(hot);
    let (mut off, mut on, mut apply) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        off.push(work(&rig.spawn(&snapshot, MemoryMode::Cow)?, &write)?);
        let clone = rig.spawn_hot(&snapshot)?;
        on.push(work(&clone, &write)?);
        apply.push(microseconds(clone.ladder().hot_set));
        progress.step()?;
    }
    for (which, samples) in [("off", &off), ("on", &on), ("ahead", &apply)] {
        measures.time(format!("hot_set/{name}/{which}"), samples);
    }
    let off = Summary::of(off);
    let (on, apply) = (median(on), median(apply));
    Ok(WorkingSet {
        pages: pages.pages,
        hot_pages,
        n: off.n,
        off_ns_per_page: ns_per_page(off.p50, pages.pages),
        on_ns_per_page: ns_per_page(on, pages.pages),
        ratio: off.p50 / on,
        apply_us: apply,
        apply_ns_per_page: ns_per_page(apply, hot_pages),
        ratio_with_apply: off.p50 / (on + apply),
    })
}
