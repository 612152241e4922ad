//! Guests that are forked while they run: in this process, and in cells.
//!
//! Only the one that is being forked is at work, so that the others do not take its
//! processors.

use std::sync::Arc;
use std::time::Instant;

use tine_abi::command::{Command, Op, Status};
use tine_abi::pattern::Selection;
use tine_cell::protocol::Start;
use tine_cell::{Cell, SpawnWish};
use tine_vmm::{Ladder, Machine, MemoryMode, Snapshot, Ticket};

use crate::BenchError;
use crate::cells::{self, AtWork, BEAT_LIMIT, Cells, beat, for_cells};
use crate::error::Doing;
use crate::rig::{Rig, WORK_LIMIT, data_pages, options, work};

/// How a running guest is forked.
pub trait Parent {
    /// `copy` or `process`.
    fn method(&self) -> &'static str;
    /// Number of pages of its data region.
    fn pages(&self) -> u64;
    /// Has the guest work; microseconds by its own clock.
    fn work(&self, command: &Command) -> Result<f64, BenchError>;
    /// Forks it while it makes exits as fast as it can, and sees to it that it goes on doing so.
    /// The children stand still when this returns.
    fn fork(&self, children: usize) -> Result<Family, BenchError>;
}

/// The children of one fork. They are gone with this.
pub struct Family {
    /// Their ladders.
    pub ladders: Vec<Ladder>,
    machines: Vec<Machine>,
    cells: Vec<Cell>,
}

impl Drop for Family {
    fn drop(&mut self) {
        self.machines.clear();
        for cell in &self.cells {
            cell.kill();
        }
    }
}

/// A guest in this process: a fork copies the pages that it has of its own.
pub struct ByCopy(Machine);

impl ByCopy {
    pub fn start(rig: &Rig, snapshot: &Snapshot) -> Result<Self, BenchError> {
        Ok(Self(rig.spawn(snapshot, MemoryMode::Cow)?))
    }

    fn stop(&self, ticket: Ticket) -> Result<(), BenchError> {
        const DOING: &str = "stopping a parent that was to work for ever";
        self.0.cancel(0).doing(DOING)?;
        let reply = self.0.wait(ticket, WORK_LIMIT).doing(DOING)?;
        match reply.status {
            Status::Cancelled => Ok(()),
            _ => Err(BenchError::Incomplete {
                doing: DOING.into(),
                done: reply.done,
                asked: u64::MAX,
            }),
        }
    }

    /// Sees to it that the guest is still at work.
    fn goes_on(&self) -> Result<(), BenchError> {
        let heartbeat = || self.0.heartbeat(0).doing("listening for a parent's heartbeat");
        let (before, begun) = (heartbeat()?, Instant::now());
        while heartbeat()? == before {
            if begun.elapsed() > BEAT_LIMIT {
                let seconds = BEAT_LIMIT.as_secs();
                return Err(BenchError::Heartbeat { heartbeat: before, seconds });
            }
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
        Ok(())
    }
}

impl Parent for ByCopy {
    fn method(&self) -> &'static str {
        "copy"
    }

    fn pages(&self) -> u64 {
        data_pages(&self.0)
    }

    fn work(&self, command: &Command) -> Result<f64, BenchError> {
        work(&self.0, command)
    }

    fn fork(&self, children: usize) -> Result<Family, BenchError> {
        let ticket = self.0.submit(0, &beat()).doing("setting a parent to work")?;
        self.goes_on()?;
        let children = (0..children).map(|_| options()).collect();
        let family = self.0.fork(children).doing("a fork of a running guest")?;
        let machines = family
            .into_iter()
            .map(|child| child.doing("a child of a running guest"))
            .collect::<Result<Vec<_>, _>>()?;
        self.goes_on()?;
        for machine in &machines {
            machine.pause().doing("pausing a child")?;
        }
        self.stop(ticket)?;
        let ladders = machines.iter().map(Machine::ladder).collect();
        Ok(Family { ladders, machines, cells: vec![] })
    }
}

/// A guest in a cell: a fork is `fork(2)` of that.
pub struct ByProcess<'a> {
    cells: &'a Cells,
    cell: Arc<Cell>,
}

impl<'a> ByProcess<'a> {
    pub fn start(cells: &'a Cells, snapshot: &Snapshot) -> Result<Self, BenchError> {
        let (cell, _) = cells.spawn(&for_cells(snapshot)?, SpawnWish::new(cells::start()))?;
        Ok(Self { cells, cell: Arc::new(cell) })
    }

    /// Its cell.
    pub fn cell(&self) -> &Arc<Cell> {
        &self.cell
    }
}

impl Parent for ByProcess<'_> {
    fn method(&self) -> &'static str {
        "process"
    }

    fn pages(&self) -> u64 {
        tine_abi::layout::data_bytes(self.cell.ram_bytes()) / tine_abi::layout::PAGE_SIZE
    }

    fn work(&self, command: &Command) -> Result<f64, BenchError> {
        cells::work(&self.cell, command)
    }

    fn fork(&self, children: usize) -> Result<Family, BenchError> {
        let at_work = AtWork::begin(&self.cell)?;
        at_work.goes_on()?;
        let (cells, _) = fork_cell(self.cells, &self.cell, children)?;
        at_work.goes_on()?;
        for cell in &cells {
            cell.pause().doing("pausing a child in a cell")?;
        }
        at_work.end()?;
        let ladders = cells.iter().map(Cell::ladder).collect();
        Ok(Family { ladders, machines: vec![], cells })
    }
}

/// Children of a cell, all of which run, and how long the call took, microseconds.
pub fn fork_cell(
    cells: &Cells,
    parent: &Cell,
    children: usize,
) -> Result<(Vec<Cell>, f64), BenchError> {
    let begun = Instant::now();
    let wish = || SpawnWish::new(Start { requested: begun.into(), ..cells::start() });
    let wishes = (0..children).map(|_| (wish(), Box::new(|_: &[u8]| {}) as _)).collect();
    let (family, _) = cells.nursery.fork(parent, wishes).doing("fork(2) of a cell")?;
    let call_us = crate::stats::microseconds(begun.elapsed());
    let family = family.into_iter().map(|child| child.doing("a child of a cell"));
    Ok((family.collect::<Result<_, _>>()?, call_us))
}

/// Writes to `dirty` pages, scattered over all memory: the same ones for the same number.
pub fn scattered_writes(parent: &dyn Parent, dirty: u64) -> Command {
    Command::new(Op::Dirty, Selection::scattered(parent.pages(), dirty, dirty)).seed(dirty)
}
