//! How quiet the host was: controls that measure the same again and again while the suite runs.
//!
//! Nothing of tine changes between two readings of a control; whatever they differ by is
//! the host, and any other figure of the run may be off by as much.

use std::f64::consts::SQRT_2;
use std::io;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_forkbench::rows::Row;
use tine_vmm::MemoryMode;

use crate::BenchError;
use crate::interrupt::Interrupt;
use crate::measure::{Measure, Unit};
use crate::plan::Section;
use crate::process::Forkbench;
use crate::rig::{Rig, total_us};
use crate::stats::{Summary, median, microseconds};

/// Size of the guest that is spawned, MiB.
const GUEST_MIB: u64 = 64;
/// How long the thread that is woken has slept: long enough that its processor rests.
const REST: Duration = Duration::from_micros(500);
/// What sizes may differ by although nothing has changed, as a part: caches of the kernel's
/// allocator are filled more or less.
const SIZES: f64 = 0.05;
/// Bytes that are copied.
const COPIED: usize = 8 << 20;
/// Messages of one reading.
const MESSAGES: usize = 41;
/// Copies of one reading.
const COPIES: usize = 11;
/// Spawns of one reading: each is closed at once, and waits for that.
const SPAWNS: usize = 5;
/// Of all pairs of readings of a control, the part that differs by no more than its drift.
const MOST: usize = 90;

/// All readings of one control.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Control {
    /// What it does.
    pub name: String,
    /// Medians, one for each reading, microseconds.
    pub readings_us: Vec<f64>,
    /// By which part nine of ten pairs of readings differ at most. Null for less than two.
    pub drift: Option<f64>,
}

/// What a control exercises, as the sections do that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Memory, and the kernel that hands it out.
    Memory,
    /// The scheduler, and processors that wake.
    Message,
    /// KVM, and mappings.
    Machine,
    /// A process that is new every time, and where its memory happens to lie.
    Process,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Memory => "copy of 8 MiB into new memory",
            Self::Message => "message to a sleeping thread and back",
            Self::Machine => "copy-on-write spawn of 64 MiB",
            Self::Process => "fork of a process of 32 MiB",
        }
    }

    /// What the figures of `section` depend on most.
    const fn of(section: Section) -> Self {
        match section {
            Section::Dormant | Section::SpawnRate => Self::Message,
            Section::Spawn
            | Section::LiveFork
            | Section::Fanout
            | Section::Teardown
            | Section::Reset
            | Section::Confinement
            | Section::VmCopied
            | Section::VmTimeline
            | Section::VmBgsave
            | Section::Peers => Self::Machine,
            Section::ProcessSpawn
            | Section::ProcessFaults
            | Section::ProcessTimeline
            | Section::ProcessCopied
            | Section::ProcessTuning
            | Section::ProcessInGuest
            | Section::Redis => Self::Process,
            _ => Self::Memory,
        }
    }
}

/// What the controls tell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Noise {
    /// The controls.
    pub controls: Vec<Control>,
    /// The noise floor: the largest drift. Smaller differences between two figures of this
    /// report may mean nothing. Null where no control was read twice.
    pub floor: Option<f64>,
}

impl Noise {
    /// Reads every control once more.
    pub fn read(&mut self, rig: &mut Rig, interrupt: &Interrupt) -> Result<(), BenchError> {
        let readings = [
            (Kind::Memory, copy()),
            (Kind::Message, wake()?),
            (Kind::Machine, spawn(rig)?),
            (Kind::Process, fork(interrupt)?),
        ];
        for (kind, reading) in readings {
            match self.controls.iter_mut().find(|control| control.name == kind.name()) {
                Some(control) => control.readings_us.push(reading),
                None => {
                    let (name, readings_us) = (kind.name().to_owned(), vec![reading]);
                    self.controls.push(Control { name, readings_us, drift: None });
                }
            }
        }
        for control in &mut self.controls {
            control.drift = drift(&control.readings_us);
        }
        self.floor = self.controls.iter().filter_map(|control| control.drift).reduce(f64::max);
        Ok(())
    }

    /// Tells each of `measures` by which part of its median another run of the same build may
    /// differ: two medians, each as uncertain as its samples and the host make it.
    pub fn tell(&self, measures: &mut [Measure]) {
        let scatter = usual_scatter(measures);
        for measure in measures {
            let known = measure.low.is_some() || !measure.unit.is_timed();
            let spread = if known { measure.spread() } else { scatter };
            let noise = self.floor_of(measure).map(|floor| SQRT_2 * spread.hypot(floor));
            measure.noise = noise.map(|noise| noise + grain(measure));
        }
    }

    /// The drift of the control that stands for `measure`.
    fn floor_of(&self, measure: &Measure) -> Option<f64> {
        if !measure.unit.is_timed() {
            return Some(SIZES);
        }
        let section = Section::ALL.into_iter().find(|it| it.name() == measure.section());
        let control = section.map(|section| Kind::of(section).name());
        let mut controls = self.controls.iter();
        match control {
            Some(name) => controls.find(|control| control.name == name)?.drift,
            None => self.floor,
        }
    }
}

/// What a size can't say more exactly: page tables begin where a mapping happens to lie.
fn grain(measure: &Measure) -> f64 {
    const PAGES: f64 = 4.0 * 4096.0;
    match measure.unit {
        Unit::Bytes if measure.p50 > 0.0 => PAGES / measure.p50,
        _ => 0.0,
    }
}

/// How much single samples scatter, as a part of their median: what is assumed of measures
/// with too few samples to tell.
fn usual_scatter(measures: &[Measure]) -> f64 {
    const ENOUGH: usize = 10;
    let known = measures.iter().filter(|it| it.n >= ENOUGH && it.unit.is_timed() && it.p50 > 0.0);
    let scatter = median(known.map(|it| it.p90 / it.p50 - 1.0));
    if scatter.is_finite() { scatter } else { 0.0 }
}

/// By which part most pairs of `readings` differ at most.
fn drift(readings: &[f64]) -> Option<f64> {
    let pairs = readings.iter().enumerate().flat_map(|(index, &one)| {
        readings[index + 1..].iter().map(move |&other| one.max(other) / one.min(other) - 1.0)
    });
    let differences = Summary::percentile_of(pairs, MOST);
    differences.is_finite().then_some(differences)
}

/// Median of copies into memory that is new every time: the memory, and the kernel that hands
/// it out.
fn copy() -> f64 {
    let source = vec![1u8; COPIED];
    median((0..COPIES).map(|_| {
        let begun = Instant::now();
        let copied = std::hint::black_box(source.clone());
        let time = microseconds(begun.elapsed());
        drop(copied);
        time
    }))
}

/// Median of messages to a thread that sleeps on another processor, and back: the scheduler, and
/// processors that wake. On the same processor a message takes a tenth of that, and where a
/// thread happens to be would be what is measured.
fn wake() -> Result<f64, BenchError> {
    let (near, far) = UnixStream::pair().map_err(socket("making a pair of sockets"))?;
    thread::scope(|scope| {
        scope.spawn(move || {
            stay_on(1);
            // It ends when the other end is gone.
            io::copy(&mut &far, &mut &far)
        });
        let messages = scope.spawn(move || {
            stay_on(0);
            messages(&near)
        });
        messages
            .join()
            .unwrap_or_else(|_| Err(socket("waking a thread")(io::Error::other("panic"))))
    })
}

fn messages(near: &UnixStream) -> Result<f64, BenchError> {
    let mut samples = Vec::new();
    for _ in 0..MESSAGES {
        thread::sleep(REST);
        let begun = Instant::now();
        io::Write::write_all(&mut &*near, b"?").map_err(socket("waking a thread"))?;
        io::Read::read_exact(&mut &*near, &mut [0]).map_err(socket("hearing of a thread"))?;
        samples.push(microseconds(begun.elapsed()));
    }
    Ok(median(samples))
}

/// Keeps this thread on the processor number `index` of those that it may use, if there are so
/// many. Where it can't be kept it is measured wherever it is.
fn stay_on(index: usize) {
    let mut allowed = std::mem::MaybeUninit::<libc::cpu_set_t>::zeroed();
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: the set is as large as is said, and zeroes are one; the kernel fills it in.
    let allowed = unsafe {
        if libc::sched_getaffinity(0, size, allowed.as_mut_ptr()) != 0 {
            return;
        }
        allowed.assume_init()
    };
    // SAFETY: the set is initialised, and the number is below its size.
    let is_allowed = |cpu: &usize| unsafe { libc::CPU_ISSET(*cpu, &allowed) };
    let Some(cpu) = (0..libc::CPU_SETSIZE as usize).filter(is_allowed).nth(index) else { return };
    // SAFETY: an empty set is all zeroes, `cpu` is below its size, and the kernel reads it only.
    unsafe {
        let mut only = std::mem::zeroed::<libc::cpu_set_t>();
        libc::CPU_SET(cpu, &mut only);
        libc::sched_setaffinity(0, size, &only);
    }
}

fn socket(call: &'static str) -> impl Fn(io::Error) -> BenchError {
    move |source| BenchError::Call { call, source }
}

/// Median of spawns: KVM, and the mappings of this process.
fn spawn(rig: &mut Rig) -> Result<f64, BenchError> {
    let snapshot = rig.snapshot(GUEST_MIB)?;
    let once = |_| total_us(&rig.spawn(&snapshot, MemoryMode::Cow)?.ladder(), "a control");
    Ok(median((0..SPAWNS).map(once).collect::<Result<Vec<_>, _>>()?))
}

/// Median of forks of a new process.
fn fork(interrupt: &Interrupt) -> Result<f64, BenchError> {
    let words = "spawn --size 32M --rounds 5 --ways fork".split(' ').map(str::to_owned);
    let words: Vec<String> = words.collect();
    let rows = Forkbench::new(interrupt)?.run(&words, "a control", &mut Vec::new())?;
    match rows.into_iter().next() {
        Some(Row::Spawn(row)) => Ok(median(row.call_us)),
        row => Err(BenchError::Forkbench {
            command: format!("forkbench {}", words.join(" ")),
            reason: format!("no forks: {row:?}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Measures;

    #[test]
    fn drift_is_what_most_pairs_stay_within() {
        assert_eq!(drift(&[]), None);
        assert_eq!(drift(&[5.0]), None);
        assert_eq!(drift(&[5.0, 5.0, 5.0]), Some(0.0));
        assert_eq!(drift(&[4.0, 5.0]), Some(0.25));
    }

    fn told(controls: &[(Kind, f64)], measures: &Measures) -> Vec<Option<f64>> {
        let controls = controls.iter().map(|&(kind, drift)| Control {
            name: kind.name().to_owned(),
            readings_us: vec![],
            drift: Some(drift),
        });
        let noise = Noise { controls: controls.collect(), floor: Some(9.0) };
        let mut measures = measures.all();
        noise.tell(&mut measures);
        measures.iter().map(|measure| measure.noise).collect()
    }

    #[test]
    fn a_measure_is_as_noisy_as_the_control_that_stands_for_it() {
        let measures = Measures::default();
        measures.time("dormant/64_mib/call", &[10.0; 20]);
        measures.time("spawn/64_mib/cow/total", &[10.0; 20]);
        measures.time("cow_faults/all", &[10.0; 20]);
        measures.bytes("cells/bytes", &[4096.0e6]);
        measures.time("process_spawn/fork", &[10.0; 20]);
        measures.bytes("ledger/page_tables", &[4096.0]);
        let drifts =
            [(Kind::Memory, 0.1), (Kind::Message, 0.2), (Kind::Machine, 0.3), (Kind::Process, 0.4)];
        let told_of = told(&drifts, &measures);
        for (noise, drift) in told_of.iter().zip([0.2, 0.3, 0.1, SIZES, 0.4]) {
            assert!((noise.unwrap() - SQRT_2 * drift).abs() < 1e-4, "{told_of:?}");
        }
        // A page table more or less is nothing.
        assert!(told_of[5].unwrap() > 4.0);
        assert_eq!(told(&[], &measures)[0], None);
    }

    #[test]
    fn few_samples_are_taken_to_scatter_as_others_do() {
        let measures = Measures::default();
        let scattered: Vec<f64> = (0..20).map(|index| 10.0 + f64::from(index)).collect();
        measures.time("spawn/64_mib/cow/total", &scattered);
        measures.time("spawn/4096_mib/eager/total", &[100.0]);
        let noise = told(&[(Kind::Machine, 0.0)], &measures);
        // p50 is 19, p90 is 27.
        assert!((noise[1].unwrap() - SQRT_2 * (27.0 / 19.0 - 1.0)).abs() < 1e-9, "{noise:?}");
    }

    #[test]
    fn a_thread_is_woken() {
        assert!(wake().unwrap() > 0.0);
        assert!(copy() > 0.0);
    }
}
