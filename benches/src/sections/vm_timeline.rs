//! The life of one clone: asked for, first instruction, first useful answer, gone; and what it
//! takes of memory at each of these moments.
//!
//! Times and memory are taken of different clones: to read a process's memory takes longer than
//! most of what is timed.

use std::sync::Arc;
use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_abi::command::{Command, Op};
use tine_abi::layout::{PAGE_SIZE, data_bytes};
use tine_abi::pattern::Selection;
use tine_cell::protocol::Start;
use tine_cell::{Cell, CellSnapshot, NurseryConfig, SpawnWish};

use super::mib;
use super::parents::fork_cell;
use crate::BenchError;
use crate::bench::Bench;
use crate::cells::{self, Cells, for_cells};
use crate::error::Doing;
use crate::meminfo::MemInfo;
use crate::rig::total_us;
use crate::stats::{median, microseconds};

/// Part of its memory that the parent of forks has written.
const PARENT_WROTE: f64 = 0.01;

/// The life of one kind of clone.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TimelineRow {
    /// `spawn` from a snapshot, `fork` of a running machine, or `eager copy`.
    pub clone: String,
    /// Guest memory.
    pub guest_bytes: u64,
    /// Number of clones.
    pub n: usize,
    /// From the request to each moment, medians, and the memory at it, in order.
    pub moments: Vec<Moment>,
}

/// A clone at one moment.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Moment {
    /// `first instruction`, `first answer`, `gone`.
    pub name: String,
    /// From the request, microseconds.
    pub us: f64,
    /// Pages of guest memory that are its own, bytes.
    pub private_bytes: f64,
    /// Page tables of its process.
    pub page_table_bytes: f64,
    /// Its process's share of all that it maps (Pss).
    pub pss_bytes: f64,
}

impl TimelineRow {
    /// The moment `name`.
    pub fn moment(&self, name: &str) -> Option<&Moment> {
        self.moments.iter().find(|moment| moment.name == name)
    }
}

/// Ways of making a clone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Spawn,
    Fork,
    Eager,
}

impl Way {
    const ALL: [Self; 3] = [Self::Spawn, Self::Fork, Self::Eager];

    fn name(self) -> &'static str {
        match self {
            Self::Spawn => "spawn",
            Self::Fork => "fork",
            Self::Eager => "eager copy",
        }
    }
}

/// Measures all kinds in turn.
pub fn run(bench: &mut Bench) -> Result<Vec<TimelineRow>, BenchError> {
    let (size, rounds) = bench.plan.choose((256, 4), (512, 15));
    let Bench { rig, measures, progress, .. } = bench;
    progress.steps(rounds);
    let snapshot = for_cells(&rig.snapshot(size)?)?;
    if size != super::GUEST_MIB {
        rig.forget(size);
    }
    // None is made ahead: who makes one would take a processor from what is timed.
    let config = NurseryConfig { blank: 0, dormant: 0, ..NurseryConfig::default() };
    let stage = Stage::set(Cells::with(config)?, snapshot)?;
    let mut lives = Way::ALL.map(|_| Vec::new());
    for _ in 0..rounds {
        for (way, lives) in Way::ALL.into_iter().zip(&mut lives) {
            lives.push(stage.life(way)?);
        }
        progress.step()?;
    }
    let mut rows = Vec::new();
    for (way, lives) in Way::ALL.into_iter().zip(&lives) {
        let memory = stage.memory(way)?;
        let moments = Life::NAMES.iter().enumerate().map(|(index, name)| {
            let samples: Vec<f64> = lives.iter().map(|life| life.0[index]).collect();
            let [way, moment] = [way.name(), name].map(|name| name.replace(' ', "_"));
            measures.time(format!("vm_timeline/{}/{way}/{moment}", mib(size << 20)), &samples);
            Moment { name: (*name).to_owned(), us: median(samples), ..memory[index].clone() }
        });
        rows.push(TimelineRow {
            clone: way.name().to_owned(),
            guest_bytes: size << 20,
            n: lives.len(),
            moments: moments.collect(),
        });
    }
    stage.parent.kill();
    Ok(rows)
}

/// Times of the three moments of one clone, from the request, microseconds.
struct Life([f64; 3]);

impl Life {
    const NAMES: [&'static str; 3] = ["first instruction", "first answer", "gone"];
}

/// Where clones live: cells, a snapshot, and a guest that is forked.
struct Stage {
    parent: Cell,
    snapshot: Arc<CellSnapshot>,
    cells: Cells,
}

impl Stage {
    fn set(cells: Cells, snapshot: Arc<CellSnapshot>) -> Result<Self, BenchError> {
        let (parent, _) = cells.spawn(&snapshot, SpawnWish::new(cells::start()))?;
        let pages = data_bytes(parent.ram_bytes()) / PAGE_SIZE;
        let some = Selection::scattered(pages, (pages as f64 * PARENT_WROTE) as u64, 31);
        cells::work(&parent, &Command::new(Op::Dirty, some).seed(31))?;
        Ok(Self { parent, snapshot, cells })
    }

    fn clone(&self, way: Way, requested: Instant) -> Result<Cell, BenchError> {
        if way == Way::Fork {
            let (mut children, _) = fork_cell(&self.cells, &self.parent, 1)?;
            return children.pop().ok_or_else(|| BenchError::Incomplete {
                doing: "a fork of a cell".into(),
                done: 0,
                asked: 1,
            });
        }
        let start = Start { requested: requested.into(), ..cells::start() };
        let wish = SpawnWish { eager: way == Way::Eager, ..SpawnWish::new(start) };
        Ok(self.cells.spawn(&self.snapshot, wish)?.0)
    }

    fn life(&self, way: Way) -> Result<Life, BenchError> {
        let begun = Instant::now();
        let clone = self.clone(way, begun)?;
        answer(&clone)?;
        let answered = microseconds(begun.elapsed());
        let first = total_us(&clone.ladder(), "a clone in a cell")?;
        let told = begun.elapsed();
        clone.kill();
        // What was asked between is no part of its life.
        let gone = answered + microseconds(begun.elapsed() - told);
        Ok(Life([first, answered, gone]))
    }

    /// The memory of another clone of the kind, at each moment.
    fn memory(&self, way: Way) -> Result<[Moment; 3], BenchError> {
        let clone = self.clone(way, Instant::now())?;
        let first = Moment::of(&clone)?;
        answer(&clone)?;
        let answered = Moment::of(&clone)?;
        clone.kill();
        // Until someone has waited for it, its number is taken, but nothing else.
        let left = MemInfo::of(clone.pid()).ok().and_then(|status| status.get("VmRSS"));
        if left.is_some() {
            let (doing, done) = ("the end of a killed clone".into(), 0);
            return Err(BenchError::Incomplete { doing, done, asked: 1 });
        }
        Ok([first, answered, Moment::none()])
    }
}

/// A trivial command: one page is read.
fn answer(clone: &Cell) -> Result<(), BenchError> {
    cells::work(clone, &Command::new(Op::Read, Selection::sequential(0, 1))).map(drop)
}

impl Moment {
    /// Nothing is left.
    fn none() -> Self {
        let (us, private_bytes) = (0.0, 0.0);
        Self { name: String::new(), us, private_bytes, page_table_bytes: 0.0, pss_bytes: 0.0 }
    }

    fn of(clone: &Cell) -> Result<Self, BenchError> {
        let ledger = clone.ledger().doing("taking a memory account")?;
        Ok(Self {
            private_bytes: ledger.private_bytes as f64,
            page_table_bytes: MemInfo::of(clone.pid())?.need("VmPTE")? as f64,
            pss_bytes: MemInfo::shared_by(clone.pid())?.need("Pss")? as f64,
            ..Self::none()
        })
    }
}
