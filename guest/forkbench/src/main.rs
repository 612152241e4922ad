//! Measures what `fork` and copy-on-write cost processes, and prints a JSON object a line.

use std::env;
use std::io::{Write, stdout};
use std::process::ExitCode;

use tine_forkbench::args::{Args, Size};
use tine_forkbench::failure::{During, Failure, chain};
use tine_forkbench::probes::{copied, faults, pressure, spawn, tables, timeline, tuning};
use tine_forkbench::rows::{Backing, Density, Order, Row, Way};
use tine_forkbench::{program, room};

const USAGE: &str = "\
usage: forkbench PROBE [--option VALUE]...
  spawn     --size 100M --backing 4k|thp|hugetlb --density dense|sparse --ways eager,populated,fork,clone3,vfork,\
vfork_exec,fork_exec,posix_spawn --rounds 20 --eager-rounds 20
  tables    --size 1G --backing 4k --density dense
  faults    --size 100M --backing 4k --orders sequential,scattered,clustered --fractions 0,0.01,0.1,0.5,1 \
--ways fork,eager,populated --rounds 5 --parent true
  timeline  --size 500M --rounds 5
  copied    --rounds 200 --children 200
  tuning    --size 100M --rounds 5
  pressure  --size 256M --room 64M --group DIR     (an empty control group with the memory controller)
  nop       end at once: what children execute";

/// The program that children execute: this one.
const SELF: &str = "/proc/self/exe";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forkbench: {}", chain(&error));
            if let Failure::Usage(_) = error {
                eprintln!("{USAGE}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let mut words = env::args().skip(1);
    let probe = words.next().ok_or_else(|| Failure::Usage("which probe?".into()))?;
    let mut args = Args::parse(words)?;
    if probe == "nop" {
        return nop(args);
    }
    room::go_first()?;
    let program = SELF.to_owned();
    match probe.as_str() {
        "spawn" => {
            let rounds = args.take("rounds", 20)?;
            let options = spawn::Options {
                size: size(&mut args, 100 << 20)?,
                backing: args.one("backing", Backing::Small)?,
                density: args.one("density", Density::Dense)?,
                ways: args.list("ways", Way::ALL.to_vec())?,
                rounds,
                eager_rounds: args.take("eager-rounds", rounds)?,
                program,
            };
            args.finish()?;
            spawn::run(&options, &mut print)
        }
        "tables" => {
            let options = tables::Options {
                size: size(&mut args, 1 << 30)?,
                backing: args.one("backing", Backing::Small)?,
                density: args.one("density", Density::Dense)?,
            };
            args.finish()?;
            tables::run(&options, &mut print)
        }
        "faults" => {
            let options = faults::Options {
                size: size(&mut args, 100 << 20)?,
                backing: args.one("backing", Backing::Small)?,
                orders: args.list("orders", Order::ALL.to_vec())?,
                fractions: args.list("fractions", vec![0.0, 0.01, 0.1, 0.5, 1.0])?,
                ways: args.list("ways", vec![Way::Fork, Way::Eager, Way::Populated])?,
                rounds: args.take("rounds", 5)?,
                parent: args.take("parent", true)?,
            };
            args.finish()?;
            faults::run(&options, &mut print)
        }
        "timeline" => {
            let size = size(&mut args, 500 << 20)?;
            let options = timeline::Options { size, rounds: args.take("rounds", 5)?, program };
            args.finish()?;
            timeline::run(&options, &mut print)
        }
        "copied" => {
            let rounds = args.take("rounds", 200)?;
            let options = copied::Options { rounds, children: args.take("children", 200)? };
            args.finish()?;
            copied::run(&options, &mut print)
        }
        "tuning" => {
            let size = size(&mut args, 100 << 20)?;
            let options = tuning::Options { size, rounds: args.take("rounds", 5)? };
            args.finish()?;
            tuning::run(&options, &mut print)
        }
        "pressure" => {
            let size = size(&mut args, 256 << 20)?;
            let room = args.take("room", Size(size / 4))?.0;
            let group = args.take("group", String::new())?.into();
            args.finish()?;
            pressure::run(&pressure::Options { size, room, group }, &mut print)
        }
        _ => Err(Failure::Usage(format!("there is no probe {probe:?}"))),
    }
}

fn nop(mut args: Args) -> Result<(), Failure> {
    // A program that is told nothing does nothing.
    let (stamp, hold) = (args.take("stamp", -1)?, args.take("hold", -1)?);
    args.finish()?;
    match stamp {
        -1 => Ok(()),
        stamp => program::nop(stamp, (hold != -1).then_some(hold)),
    }
}

fn size(args: &mut Args, default: u64) -> Result<u64, Failure> {
    Ok(args.take("size", Size(default))?.0)
}

fn print(row: Row) -> Result<(), Failure> {
    let mut line =
        serde_json::to_vec(&row).map_err(|source| Failure::Json { what: "a row", source })?;
    line.push(b'\n');
    let mut out = stdout().lock();
    out.write_all(&line).and_then(|()| out.flush()).during("writing to stdout")
}
