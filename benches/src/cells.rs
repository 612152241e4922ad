//! Guests in cells: one confined process each, as the daemon has them.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tine_abi::command::{Command, Op, Reply, Status};
use tine_abi::pattern::Selection;
use tine_cell::protocol::{About, Start};
use tine_cell::{Cell, CellSnapshot, Fault, Nursery, NurseryConfig, Origin, SpawnWish};
use tine_vmm::Snapshot;

use crate::BenchError;
use crate::error::Doing;
use crate::rig::{FIRST_LIMIT, WORK_LIMIT, check_done, total_us};
use crate::stats::microseconds;

/// How long the nursery may take to have everything made ahead.
const FULL_LIMIT: Duration = Duration::from_secs(60);
/// How long a guest may take to begin, to go on, or to stop.
pub const BEAT_LIMIT: Duration = Duration::from_secs(5);

/// A nursery of its own.
pub struct Cells {
    /// Makes cells, and makes some ahead.
    pub nursery: Nursery,
}

/// A clone that was made ahead, and how long it took to wake it.
pub struct Woken {
    /// The clone, which runs.
    pub cell: Cell,
    /// From the decision to its first instruction, microseconds.
    pub first_us: f64,
    /// Until the call that woke it returned.
    pub call_us: f64,
}

impl Cells {
    /// As the daemon has them.
    pub fn start() -> Result<Self, BenchError> {
        Self::with(NurseryConfig::default())
    }

    /// Otherwise than the daemon has them.
    pub fn with(config: NurseryConfig) -> Result<Self, BenchError> {
        Ok(Self { nursery: Nursery::start(config)? })
    }

    /// Waits until everything that is to be made ahead is there.
    pub fn fill(&self) -> Result<(), BenchError> {
        match self.nursery.wait_full(FULL_LIMIT) {
            true => Ok(()),
            false => {
                let text = format!("not done within {} s", FULL_LIMIT.as_secs());
                Err(Fault::state(text)).doing("making cells ahead")
            }
        }
    }

    /// Has clones of `snapshot` made ahead from now on: one is spawned, and gone.
    pub fn ask_for(&self, snapshot: &Arc<CellSnapshot>) -> Result<(), BenchError> {
        self.spawn(snapshot, SpawnWish::new(start()))?.0.kill();
        self.fill()
    }

    /// A clone that has run its first instruction, and where its cell came from.
    pub fn spawn(
        &self,
        snapshot: &Arc<CellSnapshot>,
        wish: SpawnWish,
    ) -> Result<(Cell, Origin), BenchError> {
        let spawned = self.nursery.spawn(snapshot, wish, Box::new(|_| {}));
        let (cell, origin) = spawned.doing("spawning a clone in a cell")?;
        total_us(&cell.ladder(), "a spawn in a cell")?;
        Ok((cell, origin))
    }

    /// Wakes a clone that was made ahead, once all are there. One that was not is an error.
    pub fn wake(&self, snapshot: &Arc<CellSnapshot>) -> Result<Woken, BenchError> {
        self.fill()?;
        let begun = Instant::now();
        let wish = SpawnWish::new(Start { requested: begun.into(), ..start() });
        let (cell, origin) =
            self.nursery.spawn(snapshot, wish, Box::new(|_| {})).doing("waking a dormant clone")?;
        let call_us = microseconds(begun.elapsed());
        if origin != Origin::Dormant {
            return Err(BenchError::Miss { origin: origin.name().to_owned() });
        }
        let first_us = total_us(&cell.ladder(), "a spawn from a dormant cell")?;
        Ok(Woken { cell, first_us, call_us })
    }
}

/// Now, and without a name.
pub fn start() -> Start {
    Start { requested: Instant::now().into(), hostname: None, wait: FIRST_LIMIT }
}

/// `snapshot`, for cells.
pub fn for_cells(snapshot: &Snapshot) -> Result<Arc<CellSnapshot>, BenchError> {
    let files = snapshot.to_files().map_err(|error| Fault::internal(&error));
    let files = files.doing("handing out a snapshot")?;
    let files = files.into_iter().map(|file: File| OwnedFd::from(file)).collect();
    Ok(Arc::new(CellSnapshot::new(files, About::of(snapshot))))
}

/// Has the guest of a cell work on pages, and sees to it that it did all of it.
pub fn reply(cell: &Cell, command: &Command) -> Result<Reply, BenchError> {
    let doing = || format!("{:?} of {} pages in a cell", command.op, command.selection.pages);
    let reply = cell.work(0, command, WORK_LIMIT).doing(&doing())?;
    check_done(command, &reply, doing)?;
    Ok(reply)
}

/// The same, and the time that it took by the guest's own clock, microseconds.
pub fn work(cell: &Cell, command: &Command) -> Result<f64, BenchError> {
    let reply = reply(cell, command)?;
    Ok(reply.ticks() as f64 * 1000.0 / f64::from(cell.tsc_khz()))
}

/// A guest in a cell that makes exits as fast as it can.
pub struct AtWork {
    cell: Arc<Cell>,
    thread: JoinHandle<Result<Reply, Fault>>,
}

impl AtWork {
    /// Sets the guest of `cell` to work.
    pub fn begin(cell: &Arc<Cell>) -> Result<Self, BenchError> {
        Self::on(cell, beat())
    }

    /// Sets the guest of `cell` to `command`, which has no end.
    pub fn on(cell: &Arc<Cell>, command: Command) -> Result<Self, BenchError> {
        let own = Arc::clone(cell);
        let thread = std::thread::spawn(move || own.work(0, &command, WORK_LIMIT));
        until(|| Ok(cell.busy()))?;
        Ok(Self { cell: Arc::clone(cell), thread })
    }

    /// Sees to it that it still is.
    pub fn goes_on(&self) -> Result<(), BenchError> {
        let exits = || self.cell.counters().doing("counting a parent's exits");
        let before = exits()?.exits;
        // The request itself makes the guest exit: it has to make more.
        until(|| Ok(exits()?.exits > before + 100))
    }

    /// Has it end; its answer.
    pub fn end(self) -> Result<Reply, BenchError> {
        const DOING: &str = "stopping a parent that was to work for ever";
        self.cell.cancel(0).doing(DOING)?;
        let joined = self.thread.join().map_err(|_| Fault::state("its thread panicked"));
        let reply = joined.doing(DOING)?.doing(DOING)?;
        if reply.status == Status::Cancelled {
            return Ok(reply);
        }
        Err(BenchError::Incomplete { doing: DOING.into(), done: reply.done, asked: u64::MAX })
    }
}

/// Work without an end.
pub fn beat() -> Command {
    Command::new(Op::Beat, Selection::NONE).amount(u64::MAX)
}

/// Has the guests of children end what their parent was at when it was forked. All are told at
/// once, as each that goes on takes the processors that the others need to stop.
pub fn calm(children: &[Cell]) -> Result<(), BenchError> {
    std::thread::scope(|scope| {
        let told: Vec<_> =
            children.iter().map(|child| scope.spawn(move || child.cancel(0))).collect();
        told.into_iter().try_for_each(|told| {
            let told = told.join().map_err(|_| Fault::state("its thread panicked"));
            told.and_then(|cancelled| cancelled).doing("stopping a child")
        })
    })?;
    children.iter().try_for_each(|child| until(|| Ok(!child.busy())))
}

/// Waits until something `is` so.
fn until(mut is: impl FnMut() -> Result<bool, BenchError>) -> Result<(), BenchError> {
    let begun = Instant::now();
    while !is()? {
        if begun.elapsed() > BEAT_LIMIT {
            let seconds = BEAT_LIMIT.as_secs();
            return Err(BenchError::Heartbeat { heartbeat: 0, seconds });
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    Ok(())
}
