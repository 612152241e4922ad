//! Cells made ahead: how many, of what, and when.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::cgroup::Cgroups;
use super::line::{Expected, unexpected};
use super::nursery::STEP_LIMIT;
use super::turn::Rank;
use super::{CellSnapshot, Line};
use crate::confine::Confinement;
use crate::fault::Fault;
use crate::meminfo;
use crate::protocol::{Answer, Request};
use crate::warden::Warden;

/// How long the nursery waits after the last that was taken before it makes another: who forks
/// once often forks again, and is not to be slowed.
const REST: Duration = Duration::from_millis(15);
/// How often it looks whether memory is short.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// How many cells are made ahead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NurseryConfig {
    /// The program that has [`warden::SUBCOMMAND`](crate::warden::SUBCOMMAND).
    pub program: PathBuf,
    /// How cells are confined.
    pub confinement: Confinement,
    /// Confined processes with nothing in them.
    pub blank: usize,
    /// Dormant clones of each snapshot that was asked for lately.
    pub dormant: usize,
    /// Snapshots that have dormant clones.
    pub snapshots: usize,
    /// While less memory of the host is available, bytes, none are made, and those that wait
    /// are given up.
    pub reserve_bytes: u64,
}

impl Default for NurseryConfig {
    fn default() -> Self {
        Self {
            program: "/proc/self/exe".into(),
            confinement: Confinement::default(),
            blank: 2,
            dormant: 2,
            snapshots: 8,
            reserve_bytes: 512 << 20,
        }
    }
}

/// Where the cell of a clone came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was made ahead, with the clone in it.
    Dormant,
    /// It was made ahead, with nothing in it.
    Blank,
    /// It was made when it was asked for.
    Fresh,
}

impl Origin {
    /// Its name in ladders and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dormant => "dormant",
            Self::Blank => "blank",
            Self::Fresh => "fresh",
        }
    }
}

/// Dormant clones of one snapshot.
#[derive(Debug)]
pub(super) struct Crib {
    pub(super) snapshot: Weak<CellSnapshot>,
    pub(super) lines: Vec<Line>,
    /// When a clone was asked for last.
    pub(super) asked: Instant,
    /// Pages of the hot set that the lines have.
    pub(super) hot_pages: Option<u64>,
    /// Whether their guests wait for commands, and have taken their first steps.
    pub(super) settled: bool,
}

#[derive(Debug, Default)]
pub(super) struct Pool {
    pub(super) blank: Vec<Line>,
    pub(super) cribs: HashMap<u64, Crib>,
    /// When a cell was taken last.
    pub(super) taken: Option<Instant>,
    pub(super) closed: bool,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: NurseryConfig,
    pub(super) warden: Arc<Warden>,
    pub(super) cgroups: Option<Cgroups>,
    pub(super) rank: Rank,
    pub(super) pool: Mutex<Pool>,
    pub(super) changed: Condvar,
    pub(super) short: AtomicBool,
    pub(super) drained: AtomicU64,
}

/// How full the nursery is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// Cells with nothing in them.
    pub blank: usize,
    /// Dormant clones.
    pub dormant: usize,
    /// Cells that were given up because memory was short, since the beginning.
    pub drained: u64,
}

/// Prepares a clone of `snapshot` in the cell of `line`. Returns how many pages of a hot set were
/// copied ahead, if there is one, and whether the guest has taken its first steps.
pub(super) fn prepare(
    line: &mut Line,
    snapshot: &CellSnapshot,
    eager: bool,
    hot_set: bool,
    ahead: bool,
) -> Result<(Option<u64>, bool), Fault> {
    let hot_pages = snapshot.hot_pages();
    let hot = if hot_set { snapshot.hot_file() } else { None };
    let mut files = snapshot.files();
    files.extend(hot.as_ref().map(|file| file.as_fd()));
    // As long as there is no hot set, one is recorded.
    let watch = !eager && hot_pages.is_none();
    let request = Request::Prepare { eager, hot_set: hot.is_some(), ahead, watch };
    match line.call(request, &files, STEP_LIMIT)?.0 {
        Answer::Prepared { dry_run } => Ok((hot_pages.filter(|_| hot.is_some()), dry_run)),
        other => Err(unexpected(&other)),
    }
}

/// What is to be made next.
pub(super) enum Wish {
    Blank,
    Dormant(Arc<CellSnapshot>),
}

impl Shared {
    pub(super) fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a cell with nothing in it.
    pub(super) fn make(&self) -> Result<Line, Fault> {
        let (expected, end) = Expected::pair()?;
        self.warden.make_cell(end).map_err(|error| Fault::internal(&error))?;
        let mut line = expected.greet()?;
        line.enter(self.cgroups.as_ref())?;
        Ok(line)
    }

    /// A dormant clone of `snapshot`, if there is one; it is asked for in any case.
    pub(super) fn take_dormant(&self, snapshot: &Arc<CellSnapshot>) -> Option<Line> {
        let now = Instant::now();
        let mut pool = self.pool();
        pool.taken = Some(now);
        let crib = pool.cribs.entry(snapshot.number).or_insert_with(|| Crib {
            snapshot: Arc::downgrade(snapshot),
            lines: Vec::new(),
            asked: now,
            hot_pages: None,
            settled: false,
        });
        crib.asked = now;
        crib.lines.pop()
    }

    /// What is missing, and may be made.
    pub(super) fn wish(&self, pool: &mut Pool) -> Option<Wish> {
        if pool.closed || self.short.load(Ordering::Relaxed) {
            return None;
        }
        if pool.blank.len() < self.config.blank {
            return Some(Wish::Blank);
        }
        pool.cribs.retain(|_, crib| crib.snapshot.strong_count() > 0);
        let mut cribs: Vec<_> = pool.cribs.values_mut().collect();
        cribs.sort_by_key(|crib| std::cmp::Reverse(crib.asked));
        // Those that were asked for longest ago are given up.
        for crib in cribs.iter_mut().skip(self.config.snapshots) {
            crib.lines.clear();
        }
        for crib in cribs.into_iter().take(self.config.snapshots) {
            let Some(snapshot) = crib.snapshot.upgrade() else { continue };
            // The hot set became known, or another one.
            if crib.hot_pages != snapshot.hot_pages() {
                crib.lines.clear();
            }
            if crib.lines.len() < self.config.dormant {
                return Some(Wish::Dormant(snapshot));
            }
        }
        None
    }

    /// Makes what is missing, until the nursery closes.
    pub(super) fn refill(&self) {
        let mut looked = Instant::now();
        loop {
            let wish = {
                let mut pool = self.pool();
                loop {
                    if pool.closed {
                        return;
                    }
                    let rest = pool
                        .taken
                        .map_or(Duration::ZERO, |taken| REST.saturating_sub(taken.elapsed()));
                    let wish = self.wish(&mut pool);
                    if let Some(wish) = wish.filter(|_| rest.is_zero()) {
                        break wish;
                    }
                    let limit = if rest.is_zero() { LOOK } else { rest };
                    let waited = self.changed.wait_timeout(pool, limit);
                    pool = waited.unwrap_or_else(PoisonError::into_inner).0;
                    if looked.elapsed() >= LOOK {
                        looked = Instant::now();
                        self.look_at_memory(&mut pool);
                    }
                }
            };
            if let Err(fault) = self.fulfil(wish) {
                tracing::warn!(%fault, "a cell could not be made ahead");
                // It may be that none can be made for a while.
                let pool = self.pool();
                drop(self.changed.wait_timeout(pool, LOOK));
            }
            self.changed.notify_all();
        }
    }

    pub(super) fn fulfil(&self, wish: Wish) -> Result<(), Fault> {
        let mut line = self.make()?;
        match wish {
            Wish::Blank => self.pool().blank.push(line),
            Wish::Dormant(snapshot) => {
                let (hot_pages, settled) = prepare(&mut line, &snapshot, false, true, true)?;
                let mut pool = self.pool();
                if let Some(crib) = pool.cribs.get_mut(&snapshot.number) {
                    crib.hot_pages = hot_pages;
                    crib.settled = settled;
                    crib.lines.push(line);
                }
            }
        }
        Ok(())
    }

    /// Gives up what waits when memory is short.
    pub(super) fn look_at_memory(&self, pool: &mut Pool) {
        let short = match available_bytes() {
            Ok(available) => available < self.config.reserve_bytes,
            Err(error) => {
                tracing::warn!(%error, "how much memory is available can't be found out");
                false
            }
        };
        self.short.store(short, Ordering::Relaxed);
        if short {
            let blank = pool.blank.drain(..);
            let dormant = pool.cribs.values_mut().flat_map(|crib| crib.lines.drain(..));
            let drained = blank.chain(dormant).count() as u64;
            self.drained.fetch_add(drained, Ordering::Relaxed);
            if drained > 0 {
                tracing::info!(drained, "memory is short: cells made ahead were given up");
            }
        }
    }
}

/// Memory of this host that could be had, bytes.
fn available_bytes() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    meminfo::field(&text, "MemAvailable").ok_or_else(|| io::ErrorKind::InvalidData.into())
}
