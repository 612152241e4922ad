//! Guests in cells under a limit on the memory of all of them together: what fails, who has to
//! end for it, and whether everyone else has what he had.
//!
//! The parent has all of its memory of its own, and the limit leaves a part of its size beside
//! it. Copies of it are tried, and forks of it that write, until something fails. Clones of
//! a snapshot, whose image lies outside, are made until their part is full.

use std::sync::Arc;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_abi::command::{Command, Op};
use tine_abi::layout::{PAGE_SIZE, data_bytes};
use tine_abi::pattern::Selection;
use tine_cell::{Cell, CellSnapshot, NurseryConfig, SpawnWish};
use tine_vmm::Status;

use super::parents::fork_cell;
use crate::BenchError;
use crate::bench::Bench;
use crate::cells::{self, Cells, for_cells};
use crate::content::is_intact;
use crate::error::{Doing, text};
use crate::interrupt::Interrupt;
use crate::limits::raise_descriptors;
use crate::measure::{Better, Unit};
use crate::memory_limit::MemoryLimit;
use crate::stats::microseconds;

/// Most clones that are tried.
const MOST: u64 = 5000;
/// How long the warden may take to tell of an end.
const SETTLE: Duration = Duration::from_millis(100);
/// Pages of a clone that are looked at beside those that it has written.
const LOOKED_AT: u64 = 64;

/// What was made until something failed, under one limit.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PressureRow {
    /// `eager copy`, `fork` of a running parent, or `clone` of a snapshot.
    pub what: String,
    /// Part of its memory that each writes, 0 to 1.
    pub written: f64,
    /// Guest memory.
    pub guest_bytes: u64,
    /// What the limit left beside what was there before.
    pub room_bytes: u64,
    /// How many were made, and wrote all they were to write, before the first failure.
    pub made: u64,
    /// What they took of the room, as it is charged.
    pub used_bytes: u64,
    /// Pages of their own of those that are alive afterwards, bytes.
    pub private_bytes: u64,
    /// What was being done when something failed: `making` or `writing`.
    pub failed_at: String,
    /// What was told of the failure.
    pub error: String,
    /// From the request that failed to its failure, microseconds.
    pub failed_after_us: f64,
    /// Who has ended: `the one being made`, `the newest`, `an earlier one`, `the parent`, or
    /// `nobody`.
    pub ended: String,
    /// Processes that the kernel has killed.
    pub kills: u64,
    /// Whether the parent is alive, and all its memory is what it was; none where there is none.
    pub parent_intact: Option<bool>,
    /// Of those that were made, how many are alive.
    pub alive: u64,
    /// Of those, how many have what they had and wrote.
    pub intact: u64,
}

/// One kind of trial.
#[derive(Clone, Copy)]
struct Trial {
    kind: Kind,
    written: f64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Eager,
    Fork,
    Clone,
}

impl Trial {
    const ALL: [Self; 5] = [
        Self { kind: Kind::Eager, written: 0.0 },
        Self { kind: Kind::Fork, written: 0.01 },
        Self { kind: Kind::Fork, written: 0.1 },
        Self { kind: Kind::Clone, written: 0.0 },
        Self { kind: Kind::Clone, written: 0.01 },
    ];

    fn name(self) -> &'static str {
        match self.kind {
            Kind::Eager => "eager copy",
            Kind::Fork => "fork",
            Kind::Clone => "clone",
        }
    }
}

/// Tries all of it. Nothing where memory can't be limited here.
pub fn run(bench: &mut Bench) -> Result<Vec<PressureRow>, BenchError> {
    let (mib, clone_room_mib) = bench.plan.choose((64, 48), (256, 512));
    // And one for processes.
    bench.progress.steps(Trial::ALL.len() + 1);
    // Two for each: its channel and its process.
    raise_descriptors()?;
    let snapshot = bench.rig.snapshot(mib)?;
    let snapshot = for_cells(&snapshot)?;
    let mut rows = Vec::new();
    for trial in Trial::ALL {
        let room = match trial.kind {
            Kind::Clone => clone_room_mib << 20,
            Kind::Eager | Kind::Fork => mib << 18,
        };
        let arena = match Arena::make(&snapshot, mib)? {
            Ok(arena) => arena,
            Err(reason) => {
                bench.skip("pressure: cells", reason);
                return Ok(vec![]);
            }
        };
        let row = arena.hold(trial, room, &bench.interrupt)?;
        let id = |what| {
            let kind = row.what.replace(' ', "_");
            format!("pressure/{kind}/{}/{what}", super::per_cent(row.written))
        };
        if trial.kind != Kind::Eager {
            let made = [row.made as f64];
            bench.measures.add(id("made"), Unit::Count, Better::Higher, &made);
            let each = row.used_bytes as f64 / row.made.max(1) as f64;
            bench.measures.bytes(id("each"), &[each]);
        }
        rows.push(row);
        bench.progress.step()?;
    }
    Ok(rows)
}

/// Cells whose memory is limited together.
struct Arena<'a> {
    // Dropped in this order: processes first.
    cells: Cells,
    limit: MemoryLimit,
    snapshot: &'a Arc<CellSnapshot>,
    /// What the snapshot's guest has written everywhere.
    seed: u64,
}

/// What a clone was told to write, all over the lower half of its memory; the upper half stays.
fn writes(cell: &Cell, written: f64, seed: u64) -> Command {
    let pages = data_pages(cell);
    let own = (pages as f64 * written).round() as u64;
    Command::new(Op::Dirty, Selection::scattered(pages / 2, own, seed)).seed(seed)
}

fn data_pages(cell: &Cell) -> u64 {
    data_bytes(cell.ram_bytes()) / PAGE_SIZE
}

/// Why a machine does not run any more; none if it does.
fn failure(cell: &Cell) -> Option<String> {
    match cell.status() {
        Status::Running | Status::Paused => None,
        Status::Failed(reason) => Some(reason),
        other => Some(format!("{other:?}")),
    }
}

/// How one trial has failed.
struct Failed {
    at: &'static str,
    error: Option<String>,
    after_us: f64,
}

/// How far it came.
struct Figures {
    room: u64,
    complete: u64,
    used: u64,
    failed: Failed,
}

impl<'a> Arena<'a> {
    /// Cells of which none is made ahead; the reason where their memory can't be limited.
    fn make(
        snapshot: &'a Arc<CellSnapshot>,
        seed: u64,
    ) -> Result<Result<Self, String>, BenchError> {
        let config = NurseryConfig { blank: 0, dormant: 0, ..NurseryConfig::default() };
        let cells = Cells::with(config)?;
        let (first, _) = cells.spawn(snapshot, SpawnWish::new(cells::start()))?;
        let limit = MemoryLimit::over(&cells.nursery, &first)?;
        first.kill();
        Ok(limit.map(|limit| Self { cells, limit, snapshot, seed }))
    }

    fn eager(&self) -> Result<Cell, BenchError> {
        let wish = SpawnWish { eager: true, ..SpawnWish::new(cells::start()) };
        Ok(self.cells.spawn(self.snapshot, wish)?.0)
    }

    /// Whether the parent, all of whose memory has been written by its ancestor, still has it.
    fn parent_intact(&self, parent: &Cell) -> Result<bool, BenchError> {
        let all = Selection::sequential(0, data_pages(parent));
        Ok(failure(parent).is_none() && is_intact(parent, all, &[self.seed])?)
    }

    /// Makes what `trial` says, within `room`, until something fails.
    fn hold(
        &self,
        trial: Trial,
        room: u64,
        interrupt: &Interrupt,
    ) -> Result<PressureRow, BenchError> {
        let parent = (trial.kind != Kind::Clone).then(|| self.eager()).transpose()?;
        if let Some(parent) = &parent
            && !self.parent_intact(parent)?
        {
            return Err(BenchError::Spoilt { who: "a parent before it was forked".into() });
        }
        let before = self.limit.usage()?;
        self.limit.set(before + room)?;
        let (mut made, mut complete, mut used) = (Vec::new(), 0, 0);
        let failed = loop {
            if made.len() as u64 == MOST {
                break Failed { at: "never", error: None, after_us: 0.0 };
            }
            interrupt.check()?;
            let begun = Instant::now();
            let failed = |at, error: Option<BenchError>| Failed {
                at,
                error: error.map(|error| text(&error)),
                after_us: microseconds(begun.elapsed()),
            };
            let cell = match self.one(trial, parent.as_ref()) {
                Ok(cell) => cell,
                Err(error) => break failed("making", Some(error)),
            };
            if self.limit.kills()? > 0 {
                made.push(cell);
                break failed("making", None);
            }
            let done = match trial.written {
                0.0 => Ok(()),
                part => cells::work(&cell, &writes(&cell, part, made.len() as u64)).map(drop),
            };
            made.push(cell);
            if let Err(error) = done {
                break failed("writing", Some(error));
            }
            if self.limit.kills()? > 0 {
                break failed("writing", None);
            }
            complete += 1;
            used = self.limit.usage()?.saturating_sub(before);
        };
        // To look at memory takes some of it.
        self.limit.lift()?;
        let figures = Figures { room, complete, used, failed };
        self.account(trial, figures, parent.as_ref(), &made)
    }

    /// One more.
    fn one(&self, trial: Trial, parent: Option<&Cell>) -> Result<Cell, BenchError> {
        match (trial.kind, parent) {
            (Kind::Eager, _) => self.eager(),
            (Kind::Fork, Some(parent)) => {
                let (mut children, _) = fork_cell(&self.cells, parent, 1)?;
                children.pop().ok_or_else(|| BenchError::Incomplete {
                    doing: "a fork of a cell".into(),
                    done: 0,
                    asked: 1,
                })
            }
            _ => Ok(self.cells.spawn(self.snapshot, SpawnWish::new(cells::start()))?.0),
        }
    }

    /// Who has ended, and what the others have.
    fn account(
        &self,
        trial: Trial,
        Figures { room, complete, used, failed }: Figures,
        parent: Option<&Cell>,
        made: &[Cell],
    ) -> Result<PressureRow, BenchError> {
        std::thread::sleep(SETTLE);
        let kills = self.limit.kills()?;
        let newest = (failed.at == "writing").then(|| made.last()).flatten();
        let gone = made.iter().find_map(failure);
        let parent_gone = parent.and_then(failure);
        let ended = match () {
            () if parent_gone.is_some() => "the parent",
            () if newest.and_then(failure).is_some() => "the newest",
            () if gone.is_some() => "an earlier one",
            () if kills > 0 => "the one being made",
            () => "nobody",
        };
        let error = failed.error.or(parent_gone).or(gone).unwrap_or_default();
        let (mut alive, mut intact, mut pages) = (0, 0, 0);
        for (number, cell) in made.iter().enumerate().filter(|(_, one)| failure(one).is_none()) {
            alive += 1;
            pages += cell.dirty_pages().doing("counting the pages of cells")?;
            // The one that could not write everything has something in between.
            let wrote = (number as u64) < complete;
            intact += u64::from(self.clone_intact(cell, trial, number as u64, wrote)?);
        }
        let parent_intact = parent.map(|parent| self.parent_intact(parent)).transpose()?;
        made.iter().chain(parent).for_each(Cell::kill);
        Ok(PressureRow {
            what: trial.name().to_owned(),
            written: trial.written,
            guest_bytes: self.seed << 20,
            room_bytes: room,
            made: complete,
            used_bytes: used,
            private_bytes: pages * PAGE_SIZE,
            failed_at: failed.at.to_owned(),
            error,
            failed_after_us: failed.after_us,
            ended: ended.to_owned(),
            kills,
            parent_intact,
            alive,
            intact,
        })
    }

    fn clone_intact(
        &self,
        cell: &Cell,
        trial: Trial,
        seed: u64,
        wrote: bool,
    ) -> Result<bool, BenchError> {
        let own = writes(cell, trial.written, seed).selection;
        let upper = data_pages(cell) / 2;
        let rest = Selection::sequential(upper, LOOKED_AT);
        let rest = is_intact(cell, rest, &[self.seed])?;
        Ok(rest && (!wrote || is_intact(cell, own, &[self.seed, seed])?))
    }
}
