//! `tine run workload`: the embedded workload, its console on stdout.

use std::io;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tine_abi::command::{Command, Op};
use tine_abi::layout::{self, PAGE_SIZE};
use tine_abi::pattern::Selection;
use tine_vmm::{KvmHost, Machine, MachineConfig};

use crate::cli::interrupt::Interrupt;
use crate::cli::size;

/// What a shell expects of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Longest that one command may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// Something for the guest to do: an operation, and how many bytes, milliseconds or rounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Task {
    name: String,
    op: Op,
    amount: Option<u64>,
}

impl FromStr for Task {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, amount) = match text.split_once(':') {
            Some((name, amount)) => (name, Some(size::parse_bytes(amount)?)),
            None => (text, None),
        };
        let op = match name {
            "touch" => Op::Touch,
            "dirty" => Op::Dirty,
            "read" => Op::Read,
            "checksum" => Op::Checksum,
            "spin" => Op::Spin,
            "compute" => Op::Compute,
            "clock" => Op::Clock,
            "say" => Op::Say,
            _ => {
                return Err("an operation is touch, dirty, read or checksum (of BYTES), spin (MILLISECONDS), \
                            compute (ROUNDS), clock or say"
                    .to_owned());
            }
        };
        Ok(Self { name: name.to_owned(), op, amount })
    }
}

impl Task {
    /// The command for a guest with `ram_bytes` of memory.
    fn command(&self, ram_bytes: u64) -> Command {
        let all = layout::data_bytes(ram_bytes);
        match self.op {
            Op::Touch | Op::Dirty | Op::Read | Op::Checksum => {
                let pages = self.amount.unwrap_or(all).div_ceil(PAGE_SIZE);
                Command::new(self.op, Selection::sequential(0, pages)).seed(1)
            }
            Op::Spin => Command::new(self.op, Selection::NONE).amount(self.amount.unwrap_or(1000)),
            _ => Command::new(self.op, Selection::NONE).amount(self.amount.unwrap_or(1_000_000)),
        }
    }
}

/// Why a run ended.
enum End {
    Interrupted,
    TimeUp,
    Guest(Result<()>),
}

/// Boots the workload, has it do `tasks`, and stays with it.
pub(super) fn run(
    ram_bytes: u64,
    vcpus: u8,
    limit: Option<Duration>,
    tasks: Vec<Task>,
) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // From here on Ctrl-C no longer ends the process by itself.
        let mut interrupt = Interrupt::listen()?;
        let host = Arc::new(KvmHost::open()?);
        let config = MachineConfig { ram_bytes, vcpus, ..MachineConfig::default() };
        let begun = Instant::now();
        let machine = tokio::task::spawn_blocking(move || {
            Machine::boot(&host, &config, Box::new(io::stdout()))
        });
        let machine = Arc::new(machine.await.context("the boot ended in its middle")??);
        eprintln!("booted in {}", size::micros(begun.elapsed().as_secs_f64() * 1e6));

        let worker = Arc::clone(&machine);
        let mut work = tokio::task::spawn_blocking(move || live(&worker, &tasks));
        let end = tokio::select! {
            biased;
            () = interrupt.wait() => End::Interrupted,
            () = until(begun, limit) => End::TimeUp,
            result = &mut work => End::Guest(result.context("the guest's driver ended")?),
        };
        machine.kill();
        match end {
            End::Interrupted => {
                eprintln!("interrupted; the guest is gone");
                Ok(ExitCode::from(INTERRUPTED))
            }
            End::TimeUp => Ok(ExitCode::SUCCESS),
            End::Guest(result) => result.map(|()| ExitCode::SUCCESS),
        }
    })
}

/// Gives the guest `tasks`, and then has it print its heartbeat once a second until it dies.
fn live(machine: &Machine, tasks: &[Task]) -> Result<()> {
    for task in tasks {
        let command = task.command(machine.ram_bytes());
        let reply = machine.run(0, &command, PATIENCE).with_context(|| task.name.clone())?;
        ensure!(machine.tsc_khz() > 0, "KVM does not tell the frequency of the guest's TSC");
        let took = size::micros(reply.ticks() as f64 * 1e3 / f64::from(machine.tsc_khz()));
        let value = match task.op {
            Op::Read | Op::Checksum | Op::Compute => format!(", value {:#018x}", reply.value),
            Op::Clock => format!(", {} ns of monotonic time", reply.value),
            _ => String::new(),
        };
        eprintln!("{}: {} done in {took}{value}", task.name, reply.done);
    }
    let rest = Command::new(Op::Spin, Selection::NONE).amount(1000);
    let say = Command::new(Op::Say, Selection::NONE);
    loop {
        machine.run(0, &rest, PATIENCE)?;
        machine.run(0, &say, PATIENCE)?;
    }
}

/// Ends `limit` after `begun`, or never.
async fn until(begun: Instant, limit: Option<Duration>) {
    match limit.and_then(|limit| begun.checked_add(limit)) {
        Some(end) => tokio::time::sleep_until(end.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_an_operation_and_an_amount() {
        let task: Task = "dirty:64M".parse().unwrap();
        assert_eq!((task.op, task.amount), (Op::Dirty, Some(64 << 20)));
        assert_eq!(task.command(256 << 20).selection.pages, (64 << 20) / PAGE_SIZE);
        let task: Task = "checksum".parse().unwrap();
        let pages = layout::data_bytes(256 << 20) / PAGE_SIZE;
        assert_eq!(task.command(256 << 20).selection.pages, pages);
        assert!("paint".parse::<Task>().is_err());
        assert!("dirty:much".parse::<Task>().is_err());
    }
}
