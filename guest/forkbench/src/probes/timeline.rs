//! The life of a child that executes another program at once: when each step was done, and which
//! memory it had then.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::faults::make;
use super::{Out, not_measured, region, turned};
use crate::child::leave;
use crate::clock;
use crate::counters::memory;
use crate::failure::{During, Failure};
use crate::program::Program;
use crate::region::Region;
use crate::rows::{Backing, Density, Memory, Row, StepRow, Way};
use crate::shared::{Shared, Slot};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of the parent's region, bytes.
    pub size: u64,
    /// How many children in each way.
    pub rounds: usize,
    /// The program that they execute.
    pub program: String,
}

const WAYS: [Way; 3] = [Way::Fork, Way::Eager, Way::Populated];

/// The steps, in their order. An eager copy is all made before the child runs.
const STEPS: [&str; 5] = [
    "the call returned in the parent",
    "the child runs",
    "it has written one page",
    "it has executed the program, whose main runs",
    "it has gone, and the parent has waited for it",
];

/// Measures.
///
/// # Errors
///
/// When a child fails.
pub fn run(options: &Options, out: &mut Out) -> Result<(), Failure> {
    let name = format!("the timeline of a parent of {} MiB", options.size >> 20);
    let region = match region(options.size, 2.0, Backing::Small, Density::Dense)? {
        Ok(region) => region,
        Err(why) => return out(not_measured(name, why)),
    };
    let mut rows = Vec::new();
    for way in WAYS {
        let memory = stops(options, &region, way)?;
        rows.push(
            STEPS
                .iter()
                .zip(memory)
                .map(|(step, child)| StepRow {
                    way,
                    size_bytes: region.bytes() as u64,
                    step: (*step).into(),
                    us: Vec::new(),
                    child,
                })
                .collect::<Vec<_>>(),
        );
    }
    for round in 0..options.rounds {
        for (index, way) in turned(&WAYS, round) {
            for (row, us) in rows[index].iter_mut().zip(timed(options, &region, way)?) {
                row.us.push(us);
            }
        }
    }
    rows.into_iter().flatten().try_for_each(|row| out(Row::Step(row)))
}

/// When a child did each of the steps.
fn timed(options: &Options, region: &Region, way: Way) -> Result<[f64; 5], Failure> {
    let shared = Shared::new()?;
    let program = Program::new(&options.program, &shared, None)?;
    let pointers = program.pointers();
    let partner = make(region, way, |_| {
        shared.stamp(Slot::Started);
        region.write(0, 1);
        shared.stamp(Slot::Written);
        shared.put(Slot::Error, pointers.execute() as u64);
        leave(127)
    })?;
    let (began, returned) = (partner.began, partner.returned);
    let doing = "execute a program";
    let waited = partner.child.wait(doing);
    let ended = clock::now();
    let program = shared.stamped(Slot::Program, doing)?;
    waited?;
    let [started, written] = [Slot::Started, Slot::Written].map(|slot| shared.stamped(slot, doing));
    Ok([returned, started?, written?, program, ended].map(|at| clock::microseconds(began, at)))
}

/// The memory of a child that stops at each of the steps.
fn stops(options: &Options, region: &Region, way: Way) -> Result<[Option<Memory>; 5], Failure> {
    let shared = Shared::new()?;
    // The program says on it that it runs, and ends when the other end is closed.
    let (mut ours, its) = UnixStream::pair().during("making a pair of sockets")?;
    let program = Program::new(&options.program, &shared, Some(its.as_raw_fd()))?;
    let pointers = program.pointers();
    let mut partner = make(region, way, |line| {
        fcntl(&its, FcntlArg::F_SETFD(FdFlag::empty())).during("keeping a socket open")?;
        line.tell(&memory("self")?)?;
        region.write(0, 1);
        line.tell(&memory("self")?)?;
        let error = std::io::Error::from_raw_os_error(pointers.execute());
        Err(error).during("executing the program")
    })?;
    drop(its);
    let doing = "stop at each step";
    let runs: Memory = partner.hear(doing)?;
    let written: Memory = partner.hear(doing)?;
    if ours.read(&mut [0]).during("waiting for the program")? == 0 {
        // Why it was not executed, or how it ended.
        partner.answer::<()>(doing)?;
        return Err(Failure::Child { doing: doing.into(), ended: "never ran the program".into() });
    }
    let executed = memory(&partner.child.pid().to_string())?;
    drop(ours);
    partner.end(doing)?;
    Ok([Some(runs), Some(runs), Some(written), Some(executed), None])
}
