//! Forks of a guest that runs: how long it stands still, and how long its children take.
//!
//! The parent makes exits as fast as it can all the while, so that parking it has
//! something to park, and its children show themselves at once. After every fork its
//! heartbeat must go on.

use std::time::{Duration, Instant};

use serde::Serialize;
use tine_abi::command::{Command, Op, Status};
use tine_abi::pattern::Selection;
use tine_vmm::{Ladder, Machine, MemoryMode};

use super::Steps;
use crate::BenchError;
use crate::error::Doing;
use crate::plan::{Plan, Section};
use crate::progress::Progress;
use crate::rig::{Rig, WORK_LIMIT, data_pages, options, total_us, work};
use crate::stats::{Summary, microseconds};

/// Pages that the parent has written since it was spawned.
const DIRTY: [u64; 3] = [1000, 10_000, 50_000];
/// Pages of the parent that is forked into several children.
const WIDE_DIRTY: u64 = 10_000;
const WIDE_CHILDREN: usize = 4;
/// How long a parent's heartbeat may stand still.
const BEAT_LIMIT: Duration = Duration::from_secs(5);

/// Forks of one kind of parent.
#[derive(Clone, Debug, Serialize)]
pub struct LiveForkRow {
    /// Guest memory.
    pub guest_bytes: u64,
    /// Pages that the parent was told to write.
    pub dirty_pages: u64,
    /// Pages that were copied: those, and the few that it writes to run.
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
    /// Medians of the first child's steps.
    pub ladder: Steps,
}

/// Measures forks into one child, and into several.
pub fn run(plan: &Plan, rig: &mut Rig) -> Result<Vec<LiveForkRow>, BenchError> {
    let forks = DIRTY.iter().map(|&dirty| plan.forks(dirty)).sum::<usize>() + plan.wide_forks();
    let progress = Progress::start(Section::LiveFork.name(), forks);
    let mut rows = Vec::new();
    for dirty in DIRTY {
        let parent = Parent::start(rig, dirty, &progress)?;
        rows.push(parent.measure(1, plan.forks(dirty), &progress)?);
        if dirty == WIDE_DIRTY {
            rows.push(parent.measure(WIDE_CHILDREN, plan.wide_forks(), &progress)?);
        }
        parent.stop()?;
    }
    rows.sort_by_key(|row| (row.children, row.dirty_pages));
    Ok(rows)
}

/// A guest at work.
struct Parent {
    machine: Machine,
    dirty: u64,
    ticket: tine_vmm::Ticket,
}

impl Parent {
    fn start(rig: &mut Rig, dirty: u64, progress: &Progress) -> Result<Self, BenchError> {
        progress.say(format!("{dirty} dirty pages: writing them"));
        let mib = Section::LiveFork.guests_mib()[0];
        let snapshot = rig.snapshot(mib)?;
        let machine = rig.spawn(&snapshot, MemoryMode::Cow)?;
        let pages = Selection::scattered(data_pages(&machine), dirty, dirty);
        work(&machine, &Command::new(Op::Dirty, pages).seed(dirty))?;
        let beat = Command::new(Op::Beat, Selection::NONE).amount(u64::MAX);
        let ticket = machine.submit(0, &beat).doing("setting a parent to work")?;
        progress.say(format!("{dirty} dirty pages"));
        Ok(Self { machine, dirty, ticket })
    }

    fn measure(
        &self,
        children: usize,
        forks: usize,
        progress: &Progress,
    ) -> Result<LiveForkRow, BenchError> {
        // One that is not counted.
        self.fork(children)?;
        let (mut pauses, mut first, mut last) = (Vec::new(), Vec::new(), Vec::new());
        let mut ladders = Vec::new();
        for _ in 0..forks {
            let family = self.fork(children)?;
            if let Some(ladder) = family.first() {
                pauses.push(ladder.parent_pause.map_or(f64::NAN, microseconds));
                first.push(total_us(ladder, "a fork")?);
            }
            if let Some(ladder) = family.last() {
                last.push(total_us(ladder, "a fork")?);
            }
            ladders.extend(family.into_iter().take(1));
            progress.step();
        }
        let (pauses, first) = (Summary::of(pauses), Summary::of(first));
        Ok(LiveForkRow {
            guest_bytes: self.machine.ram_bytes(),
            dirty_pages: self.dirty,
            copied_pages: ladders.first().map_or(0, |ladder| ladder.dirty_pages),
            children,
            strategy: ladders
                .first()
                .map_or_else(String::new, |ladder| ladder.strategy.to_string()),
            n: forks,
            parent_pause_us: pauses.p50,
            parent_pause_p99_us: pauses.p99,
            first_instruction_us: first.p50,
            first_instruction_p99_us: first.p99,
            last_child_us: Summary::of(last).p50,
            ladder: Steps::of(&ladders),
        })
    }

    /// Ladders of the children of one fork, who are gone.
    fn fork(&self, children: usize) -> Result<Vec<Ladder>, BenchError> {
        let children = (0..children).map(|_| options()).collect();
        let family = self.machine.fork(children).doing("a fork of a running guest")?;
        let family = family
            .into_iter()
            .map(|child| child.doing("a child of a running guest"))
            .collect::<Result<Vec<_>, _>>()?;
        goes_on(&self.machine)?;
        Ok(family.iter().map(Machine::ladder).collect())
    }

    fn stop(self) -> Result<(), BenchError> {
        self.machine.cancel(0).doing("stopping a parent")?;
        let reply = self.machine.wait(self.ticket, WORK_LIMIT).doing("stopping a parent")?;
        if reply.status == Status::Cancelled {
            return Ok(());
        }
        let doing = "stopping a parent that was to work for ever".to_owned();
        Err(BenchError::Incomplete { doing, done: reply.done, asked: u64::MAX })
    }
}

/// Sees to it that the guest is still at work.
fn goes_on(machine: &Machine) -> Result<(), BenchError> {
    let beat = || machine.heartbeat(0).doing("listening for a parent's heartbeat");
    let (before, begun) = (beat()?, Instant::now());
    while beat()? == before {
        if begun.elapsed() > BEAT_LIMIT {
            let seconds = BEAT_LIMIT.as_secs();
            return Err(BenchError::Heartbeat { heartbeat: before, seconds });
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    Ok(())
}
