//! Forks of a guest that runs: how long it stands still, how long its children take, and
//! what it pays afterwards.
//!
//! Two ways, in turn: in one process, by copying the pages that the parent has of its own;
//! and in cells, by `fork(2)`, which copies page tables and leaves the copying of pages to
//! whoever writes them next. The parent makes exits as fast as it can all the while, so that
//! parking it has something to park, and its children show themselves at once. After every
//! fork it must go on.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_abi::command::{Command, Op};
use tine_abi::pattern::Selection;
use tine_vmm::Ladder;

use super::parents::{ByCopy, ByProcess, Parent, scattered_writes};
use super::{ns_per_page, steps};
use crate::BenchError;
use crate::bench::Bench;
use crate::cells::Cells;
use crate::measure::{Better, Measures, Unit};
use crate::named::Named;
use crate::plan::Section;
use crate::progress::Progress;
use crate::rig::total_us;
use crate::stats::{Summary, median, microseconds};

/// Pages that the parent has written since it was spawned.
const DIRTY: [u64; 3] = [1000, 10_000, 50_000];
/// Pages of the parent that is forked into several children, and of the one whose memory is
/// mapped in full.
const MIDDLE: u64 = 10_000;
const WIDE_CHILDREN: usize = 4;

/// Forks of one kind of parent.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LiveForkRow {
    /// `copy`: its pages were copied, in one process; `process`: its process was forked.
    pub method: String,
    /// Guest memory.
    pub guest_bytes: u64,
    /// Pages that the parent was told to write.
    pub dirty_pages: u64,
    /// Which pages the parent has mapped: `dirty`, those that it has written and few more, or
    /// `all`.
    pub mapped: String,
    /// Pages that were copied: those, and the few that it writes to run; none by `fork(2)`.
    pub copied_pages: u64,
    /// Children of one fork.
    pub children: usize,
    /// How the children's memory was made.
    pub strategy: String,
    /// Number of forks.
    pub n: usize,
    /// How long the parent stood still: median.
    pub parent_pause_us: f64,
    /// The same, 99th percentile.
    pub parent_pause_p99_us: f64,
    /// From the request to the first child's first instruction: median.
    pub first_instruction_us: f64,
    /// The same, 99th percentile.
    pub first_instruction_p99_us: f64,
    /// From the request until the last child ran: median.
    pub last_child_us: f64,
    /// What the parent's guest pays for a page that it had written when it writes it again
    /// after the fork, its child alive: median. None where it was not measured.
    pub refault_ns_per_page: Option<f64>,
    /// Medians of the first child's steps.
    pub ladder: Named,
}

/// What is forked, and how often.
#[derive(Clone, Copy)]
struct Kind {
    dirty: u64,
    mapped: &'static str,
    children: usize,
    forks: usize,
    refaults: usize,
}

/// Measures forks into one child, and into several.
pub fn run(bench: &mut Bench) -> Result<Vec<LiveForkRow>, BenchError> {
    let Bench { plan, rig, measures, progress, .. } = bench;
    let kinds = DIRTY.map(|dirty| {
        let one = Kind {
            dirty,
            mapped: "dirty",
            children: 1,
            forks: plan.forks(dirty),
            refaults: plan.refaults(dirty),
        };
        let wide = Kind { children: WIDE_CHILDREN, forks: plan.wide_forks(), refaults: 0, ..one };
        // Last, as what is mapped stays so.
        let all = Kind { mapped: "all", forks: plan.forks_of_all(), refaults: 0, ..one };
        if dirty == MIDDLE { vec![one, wide, all] } else { vec![one] }
    });
    let forks = kinds.iter().flatten().map(|kind| kind.forks).sum();
    progress.steps(forks);
    let mib = Section::LiveFork.guests_mib()[0];
    let snapshot = rig.snapshot(mib)?;
    let cells = Cells::start()?;
    let mut rows = Vec::new();
    for (dirty, kinds) in DIRTY.into_iter().zip(kinds) {
        progress.say(format!("{dirty} dirty pages: writing them"));
        let copy = ByCopy::start(rig, &snapshot)?;
        let process = ByProcess::start(&cells, &snapshot)?;
        let parents: [&dyn Parent; 2] = [&copy, &process];
        for parent in parents {
            parent.work(&scattered_writes(parent, dirty))?;
        }
        cells.fill()?;
        for kind in kinds.into_iter().filter(|kind| kind.forks > 0) {
            progress.say(format!("{dirty} dirty pages"));
            rows.extend(measure(parents, kind, mib << 20, (measures, progress))?);
        }
    }
    rows.sort_by_key(|row| {
        (row.children, row.method.clone(), row.mapped != "dirty", row.dirty_pages)
    });
    Ok(rows)
}

/// Samples of one parent.
#[derive(Default)]
struct Samples {
    pauses: Vec<f64>,
    first: Vec<f64>,
    last: Vec<f64>,
    refaults: Vec<f64>,
    ladders: Vec<Ladder>,
}

fn measure(
    parents: [&dyn Parent; 2],
    kind: Kind,
    guest_bytes: u64,
    (measures, progress): (&Measures, &Progress),
) -> Result<[LiveForkRow; 2], BenchError> {
    for parent in parents {
        if kind.mapped == "all" {
            parent.work(&Command::new(Op::Read, Selection::sequential(0, parent.pages())))?;
        }
        // One that is not counted.
        parent.fork(kind.children)?;
    }
    let mut samples = [Samples::default(), Samples::default()];
    for round in 0..kind.forks {
        for (parent, samples) in parents.into_iter().zip(&mut samples) {
            let family = parent.fork(kind.children)?;
            let ladders = &family.ladders;
            if let (Some(first), Some(last)) = (ladders.first(), ladders.last()) {
                samples.pauses.push(first.parent_pause.map_or(f64::NAN, microseconds));
                samples.first.push(total_us(first, "a fork")?);
                samples.last.push(total_us(last, "a fork")?);
                samples.ladders.push(first.clone());
            }
            if round < kind.refaults {
                let us = parent.work(&scattered_writes(parent, kind.dirty))?;
                samples.refaults.push(ns_per_page(us, kind.dirty));
            }
        }
        progress.step()?;
    }
    for (parent, samples) in parents.into_iter().zip(&samples) {
        keep(measures, parent.method(), kind, samples);
    }
    let [copy, process] = samples;
    Ok([row(parents[0], kind, guest_bytes, copy), row(parents[1], kind, guest_bytes, process)])
}

fn keep(measures: &Measures, method: &str, kind: Kind, samples: &Samples) {
    let Kind { dirty, mapped, children, .. } = kind;
    let id =
        |what| format!("live_fork/{method}/{dirty}_dirty/{mapped}_mapped/to_{children}/{what}");
    measures.time(id("pause"), &samples.pauses);
    measures.time(id("first_instruction"), &samples.first);
    measures.time(id("last_child"), &samples.last);
    measures.add(id("rewrite"), Unit::NsPerPage, Better::Lower, &samples.refaults);
}

fn row(parent: &dyn Parent, kind: Kind, guest_bytes: u64, samples: Samples) -> LiveForkRow {
    let (pauses, first) = (Summary::of(samples.pauses), Summary::of(samples.first));
    let one = samples.ladders.first();
    LiveForkRow {
        method: parent.method().to_owned(),
        guest_bytes,
        dirty_pages: kind.dirty,
        mapped: kind.mapped.to_owned(),
        copied_pages: one.map_or(0, |ladder| ladder.dirty_pages),
        children: kind.children,
        strategy: one.map_or_else(String::new, |ladder| ladder.strategy.to_string()),
        n: pauses.n,
        parent_pause_us: pauses.p50,
        parent_pause_p99_us: pauses.p99,
        first_instruction_us: first.p50,
        first_instruction_p99_us: first.p99,
        last_child_us: median(samples.last),
        refault_ns_per_page: (!samples.refaults.is_empty()).then(|| median(samples.refaults)),
        ladder: steps(&samples.ladders),
    }
}
