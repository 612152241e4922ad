//! How quiet the host was: controls that measure the same again and again while the suite runs.
//!
//! Nothing of tine changes between two readings of a control; whatever they differ by is
//! the host, and any other figure of the run may be off by as much.

use std::io;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_vmm::MemoryMode;

use crate::BenchError;
use crate::measure::Measure;
use crate::rig::{Rig, total_us};
use crate::stats::{Summary, median, microseconds};

/// Size of the guest that is spawned, MiB.
const GUEST_MIB: u64 = 64;
/// Bytes that are copied.
const COPIED: usize = 8 << 20;
/// Samples of one reading.
const SAMPLES: usize = 11;
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

/// What the controls tell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Noise {
    /// The controls.
    pub controls: Vec<Control>,
    /// The noise floor: the largest drift. Smaller differences between two figures of this
    /// report mean nothing. Null where no control was read twice.
    pub floor: Option<f64>,
}

impl Noise {
    /// Reads every control once more.
    pub fn read(&mut self, rig: &mut Rig) -> Result<(), BenchError> {
        let readings = [
            ("copy of 8 MiB into new memory", copy()),
            ("message to a sleeping thread and back", wake()?),
            ("copy-on-write spawn of 64 MiB", spawn(rig)?),
        ];
        for (name, reading) in readings {
            match self.controls.iter_mut().find(|control| control.name == name) {
                Some(control) => control.readings_us.push(reading),
                None => {
                    let (name, readings_us) = (name.to_owned(), vec![reading]);
                    self.controls.push(Control { name, readings_us, drift: None });
                }
            }
        }
        self.settle();
        Ok(())
    }

    fn settle(&mut self) {
        for control in &mut self.controls {
            control.drift = drift(&control.readings_us);
        }
        self.floor = self.controls.iter().filter_map(|control| control.drift).reduce(f64::max);
    }

    /// By which part of its median `measure` may differ in another run of the same build: two
    /// medians, each as uncertain as its samples and the host make it.
    pub fn of(&self, measure: &Measure) -> Option<f64> {
        Some(std::f64::consts::SQRT_2 * measure.spread().hypot(self.floor?))
    }
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
    median((0..SAMPLES).map(|_| {
        let begun = Instant::now();
        let copied = std::hint::black_box(source.clone());
        let time = microseconds(begun.elapsed());
        drop(copied);
        time
    }))
}

/// Median of messages to a thread that sleeps, and back: the scheduler, and processors that wake.
fn wake() -> Result<f64, BenchError> {
    const BATCH: usize = 20;
    let (near, far) = UnixStream::pair().map_err(socket("making a pair of sockets"))?;
    thread::scope(|scope| {
        // It ends when this end is gone.
        scope.spawn(move || io::copy(&mut &far, &mut &far));
        let mut samples = Vec::new();
        for _ in 0..SAMPLES * BATCH {
            let begun = Instant::now();
            io::Write::write_all(&mut &near, b"?").map_err(socket("waking a thread"))?;
            io::Read::read_exact(&mut &near, &mut [0]).map_err(socket("hearing of a thread"))?;
            samples.push(microseconds(begun.elapsed()));
        }
        drop(near);
        Ok(median(samples))
    })
}

fn socket(call: &'static str) -> impl Fn(io::Error) -> BenchError {
    move |source| BenchError::Call { call, source }
}

/// Median of spawns: KVM, and the mappings of this process.
fn spawn(rig: &mut Rig) -> Result<f64, BenchError> {
    let snapshot = rig.snapshot(GUEST_MIB)?;
    let once = |_| total_us(&rig.spawn(&snapshot, MemoryMode::Cow)?.ladder(), "a control");
    Ok(median((0..SAMPLES).map(once).collect::<Result<Vec<_>, _>>()?))
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

    #[test]
    fn a_measure_is_as_noisy_as_its_samples_and_the_host() {
        let measures = Measures::default();
        measures.time("a/steady", &[10.0; 20]);
        let steady = &measures.all()[0];
        let noise = |floor| Noise { controls: vec![], floor };
        assert_eq!(noise(None).of(steady), None);
        let noise = noise(Some(0.1)).of(steady).unwrap();
        assert!((noise - 0.1 * std::f64::consts::SQRT_2).abs() < 1e-9, "{noise}");
    }

    #[test]
    fn a_thread_is_woken() {
        assert!(wake().unwrap() > 0.0);
        assert!(copy() > 0.0);
    }
}
