//! A whole machine is saved while its guest works, as Redis saves itself: its cell forks, the
//! child writes the snapshot file, and the guest pays for the pages that it writes meanwhile.
//!
//! The guest writes page after page, scattered over all of its memory, each when it is due, and
//! tells itself how late it was; how many it has written is looked at every few milliseconds.
//! A clone of the file then looks at every page: those that the guest had come to before the
//! fork hold the new version, all others the one before.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_abi::command::{Command, Op};
use tine_abi::layout::{PAGE_SIZE, data_bytes};
use tine_abi::pattern::Selection;
use tine_cell::keeper::FrozenCell;
use tine_cell::protocol::Start;
use tine_cell::{Cell, Fault, SpawnWish};
use tine_vmm::snapshot::Unfinished;

use super::redis::FRACTIONS;
use crate::BenchError;
use crate::bench::Bench;
use crate::cells::{AtWork, Cells, calm, for_cells, reply, start};
use crate::error::Doing;
use crate::interrupt::Interrupt;
use crate::measure::{Better, Unit};
use crate::saves::timeline::{Completion, Span, Work, bins};
use crate::saves::{MemoryPoint, SaveRow, StopAtEnd, memory, per_gib};
use crate::stats::{Summary, median, microseconds};

/// How often the guest's work is looked at.
const LOOK: Duration = Duration::from_millis(4);
/// The order in which the guest writes its pages.
const ORDER: u64 = 11;

/// What a machine does.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct VmBgsave {
    /// Guest memory, bytes.
    pub guest_bytes: u64,
    /// Pages that the guest writes.
    pub pages: u64,
    /// Forks that were timed.
    pub forks: usize,
    /// How long the guest stood still: median, microseconds.
    pub pause_p50_us: f64,
    /// The same, 99th percentile.
    pub pause_p99_us: f64,
    /// A save while the guest does nothing, seconds.
    pub idle_save_seconds: f64,
    /// Pages that the guest writes a second, as fast as it can.
    pub fastest_per_second: f64,
    /// The same while it is saved.
    pub fastest_during_per_second: f64,
    /// Saves while a part of the pages is written.
    pub saves: Vec<SaveRow>,
}

impl VmBgsave {
    /// How long the guest stands still for a GiB of its memory, microseconds.
    pub fn pause_us_per_gib(&self) -> f64 {
        per_gib(self.pause_p50_us, self.guest_bytes)
    }
}

/// Saves a machine.
pub fn run(bench: &mut Bench) -> Result<VmBgsave, BenchError> {
    let Bench { plan, rig, measures, progress, interrupt, .. } = bench;
    let mib = plan.choose(64, 1024);
    let forks = plan.choose(3, 15);
    let around = Duration::from_millis(plan.choose(150, 2000));
    progress.steps(forks + 2 + 2 * FRACTIONS.len());
    let snapshot = rig.snapshot(mib)?;
    let cells = Cells::start()?;
    let (cell, _) = cells.spawn(&for_cells(&snapshot)?, SpawnWish::new(start()))?;
    let subject = Subject::new(&cells, cell, interrupt)?;
    progress.say("its guest writes all of its pages");
    subject.renew_all(1)?;
    let mut pauses = Vec::with_capacity(forks);
    for _ in 0..forks {
        pauses.push(subject.fork()?);
        progress.step()?;
    }
    measures.time("vm_bgsave/pause", &pauses);
    progress.say("a save while the guest does nothing");
    let idle_save_seconds = subject.idle_save()?;
    measures.time("vm_bgsave/idle_save", &[idle_save_seconds * 1e6]);
    progress.step()?;
    let (fastest, fastest_during) = subject.flat_out(around)?;
    measures.add("vm_bgsave/fastest", Unit::PerSecond, Better::Higher, &[fastest]);
    measures.add("vm_bgsave/fastest_during", Unit::PerSecond, Better::Higher, &[fastest_during]);
    progress.step()?;
    let mut seconds = vec![idle_save_seconds];
    let mut saves = Vec::new();
    for asked in FRACTIONS {
        progress.say(format!("{} % of the pages are written during a save", asked * 100.0));
        let rate = ((asked * subject.pages as f64 / median(seconds.iter().copied())) as u64).max(1);
        let saved = subject.save(rate, around)?;
        progress.step()?;
        progress.say("looking at what was saved");
        subject.check(&saved)?;
        progress.step()?;
        let row = subject.row(asked, saved);
        row.keep("vm_bgsave", measures);
        seconds.push(row.save_seconds);
        saves.push(row);
    }
    let pauses = Summary::of(pauses);
    Ok(VmBgsave {
        guest_bytes: mib << 20,
        pages: subject.pages,
        forks: pauses.n,
        pause_p50_us: pauses.p50,
        pause_p99_us: pauses.p99,
        idle_save_seconds,
        fastest_per_second: fastest,
        fastest_during_per_second: fastest_during,
        saves,
    })
}

/// The machine that is saved, and the place for its files.
struct Subject<'a> {
    cells: &'a Cells,
    cell: Arc<Cell>,
    pages: u64,
    directory: tempfile::TempDir,
    interrupt: &'a Interrupt,
}

/// A save while the guest was at work.
struct Saved {
    span: Span,
    pause: Duration,
    /// How late a write of the guest's was at most without a save, and with one, microseconds.
    late: (f64, f64),
    completions: Vec<Completion>,
    /// Version that every page had before.
    version: u64,
    /// The guest's heartbeat at that time, and as it was known before the fork.
    beats: (u64, u64),
    memory: Vec<MemoryPoint>,
    page_table_bytes: u64,
    file_bytes: u64,
}

impl<'a> Subject<'a> {
    fn new(cells: &'a Cells, cell: Cell, interrupt: &'a Interrupt) -> Result<Self, BenchError> {
        let directory = tempfile::Builder::new().prefix("tine-bgsave-").tempdir();
        let directory =
            directory.map_err(|source| BenchError::Write { path: std::env::temp_dir(), source })?;
        let pages = data_bytes(cell.ram_bytes()) / PAGE_SIZE;
        Ok(Self { cells, cell: Arc::new(cell), pages, directory, interrupt })
    }

    fn all(&self, op: Op) -> Command {
        Command::new(op, Selection::scattered(self.pages, self.pages, ORDER))
    }

    /// Gives every page `version`.
    fn renew_all(&self, version: u64) -> Result<(), BenchError> {
        reply(&self.cell, &self.all(Op::Renew).seed(version)).map(drop)
    }

    /// Sets the guest to write `rate` pages a second, the first of them of `version`.
    fn renew(&self, version: u64, rate: u64) -> Result<AtWork, BenchError> {
        AtWork::on(&self.cell, self.all(Op::Renew).seed(version).amount(rate))
    }

    fn freeze(&self) -> Result<(FrozenCell, Duration), BenchError> {
        let frozen = self.cells.nursery.freeze(&self.cell);
        let (frozen, pause) = frozen.doing("forking a machine to save it")?;
        Ok((frozen, pause.total))
    }

    /// One fork, microseconds that the guest stood still. The child ends at once.
    fn fork(&self) -> Result<f64, BenchError> {
        Ok(microseconds(self.freeze()?.1))
    }

    fn file(&self) -> std::path::PathBuf {
        self.directory.path().join("saved.tine")
    }

    /// Has `frozen` write its file, until `stop`.
    fn write(&self, frozen: &mut FrozenCell, stop: &AtomicBool) -> Result<(), BenchError> {
        const DOING: &str = "writing a snapshot file";
        let failed = |error| Fault::internal(&error);
        let unfinished = Unfinished::create(&self.file()).map_err(failed).doing(DOING)?;
        let mut go_on = |_, _| !stop.load(Ordering::Relaxed) && !self.interrupt.asked();
        frozen.save(unfinished.file(), &mut go_on).doing(DOING)?;
        unfinished.finish().map_err(failed).doing(DOING)
    }

    fn idle_save(&self) -> Result<f64, BenchError> {
        let begun = Instant::now();
        let (mut frozen, _) = self.freeze()?;
        self.write(&mut frozen, &AtomicBool::new(false))?;
        Ok(begun.elapsed().as_secs_f64())
    }

    /// Pages a second, as fast as the guest can: alone, and while it is saved, for `time` each.
    fn flat_out(&self, time: Duration) -> Result<(f64, f64), BenchError> {
        self.renew_all(1)?;
        let at_work = self.renew(1, u64::MAX)?;
        let alone = self.pace(time)?;
        let (mut frozen, _) = self.freeze()?;
        let stop = AtomicBool::new(false);
        let during = thread::scope(|scope| {
            let save = scope.spawn(|| self.write(&mut frozen, &stop));
            let end = StopAtEnd(&stop);
            let during = self.pace(time);
            let in_time = !save.is_finished();
            drop(end);
            // It was told to end, and that is an error of its own.
            match save.join() {
                Ok(Err(error)) if !in_time => Err(error),
                Ok(_) => during,
                Err(_) => Err(panicked()),
            }
        })?;
        at_work.end()?;
        Ok((alone, during))
    }

    fn pace(&self, time: Duration) -> Result<f64, BenchError> {
        let (begun, before) = (Instant::now(), self.heartbeat()?);
        thread::sleep(time);
        let beats = self.heartbeat()? - before;
        Ok(beats as f64 / begun.elapsed().as_secs_f64())
    }

    fn heartbeat(&self) -> Result<u64, BenchError> {
        self.cell.heartbeat(0).doing("listening for a guest's heartbeat")
    }

    /// How late the guest's writes are at most, microseconds, when nothing is saved for `time`.
    fn lateness(&self, version: u64, rate: u64, time: Duration) -> Result<f64, BenchError> {
        let at_work = self.renew(version, rate)?;
        thread::sleep(time);
        Ok(self.ticks_us(at_work.end()?.value))
    }

    fn ticks_us(&self, ticks: u64) -> f64 {
        ticks as f64 * 1000.0 / f64::from(self.cell.tsc_khz())
    }

    /// A save while the guest writes `rate` pages a second, from `around` before until `around`
    /// after it.
    fn save(&self, rate: u64, around: Duration) -> Result<Saved, BenchError> {
        // The first write to each page after the last fork is dear, whoever else still holds it.
        self.renew_all(1)?;
        let calm_us = self.lateness(2, rate, around)?;
        let version = 100;
        self.renew_all(version)?;
        let beats = self.heartbeat()?;
        let at_work = self.renew(version + 1, rate)?;
        let (over, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        let (mut saved, completions) = thread::scope(|scope| {
            let end = StopAtEnd(&stop);
            let looks = scope.spawn(|| self.look(&stop));
            thread::sleep(around);
            let pss_before = memory::pss(self.cell.pid())?;
            let beats_before = self.heartbeat()?;
            let begun = Instant::now();
            let (mut frozen, pause) = self.freeze()?;
            let page_table_bytes = memory::page_tables(frozen.pid())?;
            let unwatched = StopAtEnd(&over);
            let pids = (self.cell.pid(), frozen.pid());
            let watch = memory::watch(scope, pids, pss_before, begun, &over);
            self.write(&mut frozen, &AtomicBool::new(false))?;
            let ended = Instant::now();
            drop(unwatched);
            let mut memory = watch.join().map_err(|_| panicked())?;
            // All that was copied is there until the child is gone.
            memory.extend(memory::point(pids, pss_before, begun));
            drop(frozen);
            thread::sleep(around);
            drop(end);
            let completions = looks.join().map_err(|_| panicked())??;
            let saved = Saved {
                span: Span { begun, ended },
                pause,
                late: (calm_us, 0.0),
                completions: vec![],
                version,
                beats: (beats, beats_before),
                memory,
                page_table_bytes,
                file_bytes: allocated(&self.file())?,
            };
            Ok::<_, BenchError>((saved, completions))
        })?;
        saved.late.1 = self.ticks_us(at_work.end()?.value);
        saved.completions = completions;
        Ok(saved)
    }

    /// The guest's work until `stop`.
    fn look(&self, stop: &AtomicBool) -> Result<Vec<Completion>, BenchError> {
        let mut completions = Vec::new();
        let mut last = self.heartbeat()?;
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(LOOK);
            let beats = self.heartbeat()?;
            if beats > last {
                completions.push(Completion { at: Instant::now(), count: beats - last, us: None });
            }
            last = beats;
        }
        Ok(completions)
    }

    /// Sees to it that a clone of the file has every page as it was at one instant, by what the
    /// guest's own registers and counters say of it. The file is gone afterwards.
    fn check(&self, saved: &Saved) -> Result<(), BenchError> {
        const DOING: &str = "opening a saved machine";
        let path = self.file();
        let opened = File::open(&path);
        let file = opened.map_err(|source| BenchError::Read { path: path.clone(), source })?;
        let snapshot = Arc::new(self.cells.nursery.open(&file, &path, &[]).doing(DOING)?);
        // It is at what its parent was at, which makes no exits to see its first instruction by.
        let wish = SpawnWish::new(Start { wait: Duration::ZERO, ..start() });
        let spawned = self.cells.nursery.spawn(&snapshot, wish, Box::new(|_| {}));
        let (clone, _) = spawned.doing("spawning a clone of a saved machine")?;
        // It ends that, and tells how far it had come.
        let clones = [clone];
        calm(&clones)?;
        let [clone] = clones;
        let beats = clone.heartbeat(0).doing("listening for a clone's heartbeat")?;
        let (begun, before_fork) = saved.beats;
        if beats < before_fork {
            let first = format!("the clone has heartbeat {beats} of a fork after {before_fork}");
            let (checked, mismatches) = (self.pages, self.pages);
            return Err(BenchError::Torn { things: "pages", checked, mismatches, first });
        }
        let done = beats - begun;
        let version = saved.version + 1 + done / self.pages;
        let found = reply(&clone, &self.all(Op::Renewed).seed(version))?;
        let (leading, strange) = (done % self.pages, found.value2);
        clone.kill();
        std::fs::remove_file(&path).map_err(|source| BenchError::Write { path, source })?;
        if (found.value, strange) == (leading, 0) {
            return Ok(());
        }
        let first = format!(
            "after {done} writes {leading} pages should hold version {version} and the others the \
             one before; the first {} do, and of the others {strange} do not",
            found.value
        );
        let mismatches = strange + found.value.abs_diff(leading);
        Err(BenchError::Torn { things: "pages", checked: self.pages, mismatches, first })
    }

    fn row(&self, asked: f64, saved: Saved) -> SaveRow {
        let Saved { span, completions, .. } = saved;
        let Work { before, during, after } = Work::of(&completions, span);
        let in_it = completions.iter().filter(|done| span.holds(done.at));
        let writes: u64 = in_it.map(|done| done.count).sum();
        let pause_us = microseconds(saved.pause);
        SaveRow {
            subject: "vm".to_owned(),
            data_bytes: self.cell.ram_bytes(),
            things: self.pages,
            asked,
            // None comes again before all others have.
            written: writes.min(self.pages) as f64 / self.pages as f64,
            writes,
            pause_us,
            pause_us_per_gib: per_gib(pause_us, self.cell.ram_bytes()),
            gap_before_us: saved.late.0,
            gap_during_us: saved.late.1,
            save_seconds: span.seconds(),
            file_bytes: saved.file_bytes,
            extra_bytes: saved.memory.iter().map(|point| point.extra_bytes).reduce(f64::max),
            copied_bytes: None,
            page_table_bytes: Some(saved.page_table_bytes),
            before_per_second: before.per_second,
            during_per_second: during.per_second,
            after_per_second: after.per_second,
            latency_before_p50_us: None,
            latency_before_p99_us: None,
            latency_during_p50_us: None,
            latency_during_p99_us: None,
            checked: self.pages,
            timeline: bins(&completions, span),
            memory: saved.memory,
        }
    }
}

/// What the file takes on the disk: pages of zeros take nothing.
fn allocated(path: &Path) -> Result<u64, BenchError> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path);
    let metadata =
        metadata.map_err(|source| BenchError::Read { path: path.to_path_buf(), source })?;
    Ok(metadata.blocks() * 512)
}

fn panicked() -> BenchError {
    BenchError::Call { call: "a thread", source: std::io::Error::other("it panicked") }
}
