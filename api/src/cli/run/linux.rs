//! `tine run IMAGE -- CMD`: a command in a fresh clone of an image.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use tine::agent::AgentConnection;
use tine::template::{self, Shape};
use tine_abi::agent::Request;
use tine_vmm::{KvmHost, Machine, SpawnOptions};

use crate::cli::exec::Program;
use crate::cli::progress::Spinner;
use crate::cli::{image, size, terminal};

/// What `tine run` takes for Linux images.
#[derive(Args, Debug)]
pub struct Options {
    /// Tell on stderr how the sandbox was made and what it took
    #[arg(long)]
    timings: bool,
    #[command(flatten)]
    program: Program,
}

impl Options {
    /// Whether nothing of it was asked for.
    pub fn is_empty(&self) -> bool {
        self.program.is_empty()
    }

    /// Makes a sandbox, runs the command in it, and removes it.
    pub fn run(self, image: &str, memory_mib: u64, vcpus: u8) -> Result<ExitCode> {
        let host = Arc::new(KvmHost::open()?);
        let store = image::store(None)?;
        let shape = Shape { vcpus, memory_mib };
        let exec = self.program.request().exec();
        let begun = Instant::now();
        let spinner = Spinner::start(format!("booting {image}"));
        let template = template::get(&host, &store, image, shape, Box::new(io::sink()))?;
        drop(spinner);
        let machine = Machine::spawn(&host, &template.snapshot, SpawnOptions::new())?;
        if self.timings {
            report(template.boot, &machine, begun);
        }
        let runtime = tokio::runtime::Runtime::new().context("the runtime could not be started")?;
        let code = runtime.block_on(async {
            let exec = exec.map_err(|problem| anyhow!(problem.detail))?;
            let (stdin, tty) = (exec.stdin, exec.terminal.is_some());
            let connection = AgentConnection::open(&machine, Request::Exec(exec)).await?;
            terminal::attach(terminal::Program::of(connection), stdin, tty).await
        });
        // A thread may wait in a read of the terminal, which nothing ends.
        runtime.shutdown_background();
        if self.timings {
            eprintln!("{}", spent(&machine));
        }
        machine.kill();
        code
    }
}

fn report(boot: Option<std::time::Duration>, machine: &Machine, begun: Instant) {
    let micros = |duration: std::time::Duration| size::micros(duration.as_secs_f64() * 1e6);
    if let Some(boot) = boot {
        eprintln!("booted in {}, and kept for the next time", micros(boot));
    }
    let ladder = machine.ladder();
    let steps = ladder
        .total
        .map_or_else(String::new, |total| format!("first instruction after {}, ", micros(total)));
    let ready = ladder.ready.map_or_else(String::new, micros);
    eprintln!("forked: {steps}ready after {ready}; in all {}", micros(begun.elapsed()));
}

/// What the sandbox cost until now.
fn spent(machine: &Machine) -> String {
    let pages = machine.dirty_pages().map_or_else(|error| error.to_string(), |n| n.to_string());
    let exits = match machine.counters() {
        Ok(counters) => counters.exits.to_string(),
        Err(error) => error.to_string(),
    };
    format!("{pages} pages copied, {exits} exits from the guest")
}
