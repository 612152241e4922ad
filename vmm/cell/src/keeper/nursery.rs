//! What is made of cells: clones of snapshots, forks of other cells, snapshots of them.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tine_vmm::fork::Pause;

use super::cell::ConsoleOutput;
use super::cgroup::{CellLimits, Cgroups};
use super::line::{Expected, unexpected};
use super::pool::{Fill, LOOK, NurseryConfig, Origin, Shared, prepare};
use super::turn::Rank;
use super::{Cell, CellSnapshot, Line, Switchboard};
use crate::channel::Channel;
use crate::fault::{Fault, with_causes};
use crate::protocol::{Answer, Request, Start, Started};
use crate::warden::{Warden, WardenError};

/// How long a cell may take for one step of its making.
pub(super) const STEP_LIMIT: Duration = Duration::from_secs(60);
/// Most channel ends that one message to a frozen cell brings.
const ENDS: usize = crate::channel::MAX_FILES;

/// Makes cells.
#[derive(Debug)]
pub struct Nursery {
    shared: Arc<Shared>,
    switchboard: Switchboard,
    unlimited: Option<String>,
    refill: Mutex<Option<JoinHandle<()>>>,
}

impl Nursery {
    /// Starts the warden, and begins to make cells.
    pub fn start(config: NurseryConfig) -> Result<Self, WardenError> {
        let cgroups = Cgroups::divide();
        let unlimited = cgroups.as_ref().err().map(|error| with_causes(error));
        let cgroups = cgroups.ok();
        let warden = Arc::new(Warden::start(&config.program, config.confinement)?);
        let switchboard = Switchboard::start(Arc::clone(&warden)).map_err(WardenError::Start)?;
        let shared = Arc::new(Shared {
            config,
            warden,
            cgroups,
            rank: Rank::of_clones(),
            pool: Mutex::default(),
            changed: Condvar::new(),
            short: AtomicBool::new(false),
            drained: AtomicU64::new(0),
        });
        let own = Arc::clone(&shared);
        let refill = std::thread::Builder::new().name("nursery".into()).spawn(move || own.refill());
        let refill = Mutex::new(Some(refill.map_err(WardenError::Start)?));
        Ok(Self { shared, switchboard, unlimited, refill })
    }

    /// Why sandboxes can't be given limits of their own; none when they can.
    pub fn unlimited(&self) -> Option<&str> {
        self.unlimited.as_deref()
    }

    /// How full it is.
    pub fn fill(&self) -> Fill {
        let pool = self.shared.pool();
        Fill {
            blank: pool.blank.len(),
            dormant: pool.cribs.values().map(|crib| crib.lines.len()).sum(),
            drained: self.shared.drained.load(Ordering::Relaxed),
        }
    }

    /// Waits until everything that is to be made ahead is there, or `limit` is over. Whether it is.
    pub fn wait_full(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut pool = self.shared.pool();
        loop {
            if self.shared.wish(&mut pool).is_none() {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.shared.changed.wait_timeout(pool, left.min(LOOK));
            pool = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether a clone of `snapshot` is ready that will be there within a fraction of a millisecond,
    /// whatever its guest does: it was seen to take its first steps.
    pub fn is_settled(&self, snapshot: &CellSnapshot) -> bool {
        let pool = self.shared.pool();
        let crib = pool.cribs.get(&snapshot.number);
        crib.is_some_and(|crib| crib.settled && !crib.lines.is_empty())
    }

    /// A cell with nothing in it, and where it came from.
    pub fn blank(&self) -> Result<(Line, Origin), Fault> {
        let ready = {
            let mut pool = self.shared.pool();
            pool.taken = Some(Instant::now());
            pool.blank.pop()
        };
        match ready {
            Some(line) => Ok((line, Origin::Blank)),
            None => self.shared.make().map(|line| (line, Origin::Fresh)),
        }
    }

    /// A clone of `snapshot` in a cell of its own, which runs.
    pub fn spawn(
        &self,
        snapshot: &Arc<CellSnapshot>,
        wish: SpawnWish,
        console: ConsoleOutput,
    ) -> Result<(Cell, Origin), Fault> {
        let spawned = self.spawn_from_pool(snapshot, wish, console);
        // Only now: whoever makes the next would take a processor from this one.
        self.shared.changed.notify_all();
        spawned
    }

    fn spawn_from_pool(
        &self,
        snapshot: &Arc<CellSnapshot>,
        wish: SpawnWish,
        console: ConsoleOutput,
    ) -> Result<(Cell, Origin), Fault> {
        let ready = match wish.eager || !wish.hot_set {
            true => None,
            false => self.shared.take_dormant(snapshot),
        };
        let (mut line, origin) = match ready {
            Some(line) => (line, Origin::Dormant),
            None => {
                let (mut line, origin) = self.blank()?;
                let prepared = prepare(&mut line, snapshot, wish.eager, wish.hot_set, false);
                prepared.map_err(|fault| line.explain(fault, &self.switchboard))?;
                (line, origin)
            }
        };
        line.limit(&wish.limits)?;
        let started = start(&mut line, Request::Start(wish.start));
        let started = started.map_err(|fault| line.explain(fault, &self.switchboard))?;
        let rank = self.shared.rank;
        Ok((Cell::attach(line, (started, rank), &self.switchboard, console)?, origin))
    }

    /// Forks `parent`, which goes on: one result for each of `children`, in order, and how long
    /// it stood still.
    pub fn fork(
        &self,
        parent: &Cell,
        children: Vec<(SpawnWish, ConsoleOutput)>,
    ) -> Result<(Vec<Result<Cell, Fault>>, Pause), Fault> {
        let (FrozenCell(mut first), pause) = self.freeze(parent)?;
        let siblings = self.split(&mut first, children.len().saturating_sub(1));
        let lines = std::iter::once(Ok(first)).chain(siblings);
        // None starts before the last is ready to: their guests would take the processors that
        // the others need.
        let ready: Vec<_> = lines
            .zip(children)
            .map(|(line, (wish, console))| {
                let mut line = line?;
                line.enter(self.shared.cgroups.as_ref())?;
                line.limit(&wish.limits)?;
                Ok((line, wish.start, console))
            })
            .collect();
        // All are asked before the first is waited for: they start side by side.
        let asked: Vec<_> = ready
            .into_iter()
            .map(|ready: Result<(Line, Start, ConsoleOutput), Fault>| {
                let (mut line, start, console) = ready?;
                line.ask(Request::Thaw(start), &[])?;
                Ok((line, console))
            })
            .collect();
        let cells = asked
            .into_iter()
            .map(|asked: Result<(Line, ConsoleOutput), Fault>| {
                let (mut line, console) = asked?;
                let answer = line.answer(STEP_LIMIT, &mut |_, _| {});
                let answer = answer.map_err(|fault| line.explain(fault, &self.switchboard));
                let started = started(answer?.0)?;
                let serves = (started, parent.rank().of_child());
                let cell = Cell::attach(line, serves, &self.switchboard, console)?;
                Ok(cell.after_pause(pause.total))
            })
            .collect();
        Ok((cells, pause))
    }

    /// A process that holds what `parent`, which goes on, is now; and how long that stood still.
    pub fn freeze(&self, parent: &Cell) -> Result<(FrozenCell, Pause), Fault> {
        let (expected, end) = Expected::pair()?;
        let (answer, _) = parent.call(Request::Freeze, &[end.as_fd()])?;
        drop(end);
        match answer {
            Answer::Frozen { pause } => Ok((FrozenCell(expected.greet_frozen()?), pause)),
            other => Err(parent.nonsense(&other)),
        }
    }

    /// `count` processes that hold the same as `frozen`.
    fn split(&self, frozen: &mut Line, count: usize) -> Vec<Result<Line, Fault>> {
        let mut siblings = Vec::with_capacity(count);
        while siblings.len() < count {
            let few = (count - siblings.len()).min(ENDS);
            let made = match split_few(frozen, few) {
                Ok(made) => made,
                Err(fault) => std::iter::repeat_with(|| Err(fault.clone())).take(few).collect(),
            };
            siblings.extend(made);
        }
        siblings
    }

    /// Boots a machine in a cell of its own, by `request` with `files`, within `limit`.
    pub fn boot(
        &self,
        request: Request,
        files: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<Booted, Fault> {
        let (mut line, _) = self.blank()?;
        line.call(request, files, limit)?;
        Ok(Booted(line))
    }

    /// A snapshot that lies in `file`, by errors named `name`, with `disks` below its own, as a
    /// cell reads it: nothing of it is believed here.
    pub fn open(
        &self,
        file: &File,
        name: &Path,
        disks: &[(&Path, &File)],
    ) -> Result<CellSnapshot, Fault> {
        let (mut line, _) = self.blank()?;
        let mut files = vec![file.as_fd()];
        files.extend(disks.iter().map(|(_, file)| file.as_fd()));
        let disks = disks.iter().map(|(path, _)| path.to_path_buf()).collect();
        let request = Request::Open { name: name.to_path_buf(), disks };
        snapshot_of(line.call(request, &files, STEP_LIMIT)?)
    }

    /// Ends everything that waits, and makes no more.
    pub fn close(&self) {
        {
            let mut pool = self.shared.pool();
            pool.closed = true;
            pool.blank.clear();
            pool.cribs.clear();
        }
        self.shared.changed.notify_all();
        let refill = self.refill.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(_)) = refill.map(JoinHandle::join) {
            tracing::error!("the thread of the nursery panicked");
        }
    }
}

impl Drop for Nursery {
    fn drop(&mut self) {
        self.close();
    }
}

/// A machine that has booted, to take a snapshot of. It is gone with this.
#[derive(Debug)]
pub struct Booted(Line);

impl Booted {
    /// A snapshot of it, in memory.
    pub fn snapshot(mut self) -> Result<CellSnapshot, Fault> {
        snapshot_of(self.0.call(Request::Copy, &[], STEP_LIMIT)?)
    }

    /// Writes a snapshot of it into `file`.
    pub fn save(mut self, file: &File) -> Result<(), Fault> {
        let (expected, end) = Expected::pair()?;
        self.0.call(Request::Freeze, &[end.as_fd()], STEP_LIMIT)?;
        drop(end);
        FrozenCell(expected.greet_frozen()?).save(file, &mut |_, _| true)
    }
}

/// A process that holds what a machine was at one moment. It is gone with this.
#[derive(Debug)]
pub struct FrozenCell(Line);

impl FrozenCell {
    /// Number of its process.
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// A snapshot of it, in memory.
    pub fn snapshot(&mut self) -> Result<CellSnapshot, Fault> {
        snapshot_of(self.0.call(Request::Export, &[], STEP_LIMIT)?)
    }

    /// Writes a snapshot file into `file`, which is empty. `progress` is told how many bytes are
    /// written, of how many, and says whether to go on.
    pub fn save(
        &mut self,
        file: &File,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<(), Fault> {
        self.0.ask(Request::Save, &[file.as_fd()])?;
        self.0.answer_while(STEP_LIMIT, progress).map(drop)
    }
}

/// What a clone is to be.
pub struct SpawnWish {
    /// Whether all its memory is copied first.
    pub eager: bool,
    /// Whether the snapshot's hot set is copied ahead, if it has one.
    pub hot_set: bool,
    /// How it starts.
    pub start: Start,
    /// What it may take of the host.
    pub limits: CellLimits,
}

impl SpawnWish {
    /// A copy-on-write clone with the hot set, that starts so, without limits.
    pub fn new(start: Start) -> Self {
        Self { eager: false, hot_set: true, start, limits: CellLimits::default() }
    }
}

fn split_few(frozen: &mut Line, count: usize) -> Result<Vec<Result<Line, Fault>>, Fault> {
    let pairs = (0..count).map(|_| Expected::pair()).collect::<Result<Vec<_>, _>>()?;
    let (expected, ends): (Vec<Expected>, Vec<Channel>) = pairs.into_iter().unzip();
    let files: Vec<_> = ends.iter().map(AsFd::as_fd).collect();
    frozen.call(Request::Split, &files, STEP_LIMIT)?;
    // Those that were not made are noticed only when nobody has their end.
    drop(files);
    drop(ends);
    Ok(expected.into_iter().map(Expected::greet_frozen).collect())
}

fn start(line: &mut Line, request: Request) -> Result<Started, Fault> {
    started(line.call(request, &[], STEP_LIMIT)?.0)
}

fn started(answer: Answer) -> Result<Started, Fault> {
    match answer {
        Answer::Started(started) => Ok(started),
        other => Err(unexpected(&other)),
    }
}

fn snapshot_of(answer: (Answer, Vec<OwnedFd>)) -> Result<CellSnapshot, Fault> {
    match answer {
        (Answer::Snapshot(about), files) => Ok(CellSnapshot::new(files, about)),
        (other, _) => Err(unexpected(&other)),
    }
}
