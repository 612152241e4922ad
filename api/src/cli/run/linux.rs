//! `tine run IMAGE -- CMD`: a command in a fresh clone of an image.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use tine::agent::AgentConnection;
use tine::template::{self, Shape};
use tine_abi::agent::{Exec, PORT, Request};
use tine_images::Store;
use tine_vmm::{KvmHost, Machine, SpawnOptions};

use crate::cli::exec::ProgramArgs;
use crate::cli::progress::Spinner;
use crate::cli::{size, terminal};

/// What runs where no command is named.
const SHELL: &str = "/bin/sh";

/// What `tine run` takes for Linux images.
#[derive(Args, Debug)]
pub struct Options {
    /// Tell on stderr how the sandbox was made and what it took
    #[arg(long)]
    timings: bool,
    #[command(flatten)]
    program: ProgramArgs,
    /// Program and arguments [default: a shell]
    #[arg(value_name = "CMD", last = true)]
    command: Vec<String>,
}

impl Options {
    /// Whether no command was named.
    pub fn is_empty(&self) -> bool {
        self.command.is_empty()
    }

    /// Makes a sandbox, runs the command in it, and removes it.
    pub fn run(mut self, image: &str, memory_mib: u64, vcpus: u8) -> Result<ExitCode> {
        if self.command.is_empty() {
            self.command.push(SHELL.to_owned());
            self.program.interactive = true;
            self.program.tty |= io::stdin().is_terminal();
        }
        let (stdin, tty) = (self.program.interactive, self.program.tty);
        let exec = self.exec()?;
        let begun = Instant::now();
        let host = Arc::new(KvmHost::open()?);
        let store = Store::open(Store::default_path()?)?;
        let shape = Shape { vcpus, memory_mib };
        let spinner = Spinner::start(format!("booting {image}"));
        let template = template::get(&host, &store, image, shape, Box::new(io::sink()))?;
        drop(spinner);
        let machine = Machine::spawn(&host, &template.snapshot, SpawnOptions::new())?;
        if self.timings {
            report(template.boot, &machine, begun);
        }
        let runtime = tokio::runtime::Runtime::new().context("the runtime could not be started")?;
        let code = runtime.block_on(async {
            let stream = machine.connect(PORT)?;
            let connection = AgentConnection::open(stream, Request::Exec(exec)).await?;
            terminal::attach(connection, stdin, tty).await
        });
        // A thread may wait in a read of the terminal, which nothing ends.
        runtime.shutdown_background();
        if self.timings {
            eprintln!("{}", spent(&machine));
        }
        machine.kill();
        code
    }

    /// What the agent is asked for.
    fn exec(&self) -> Result<Exec> {
        let program = &self.program;
        let (env, terminal) = program.surroundings()?;
        Ok(Exec {
            argv: self.command.clone(),
            env,
            cwd: program.workdir.clone(),
            user: program.user.clone(),
            stdin: program.interactive,
            terminal,
            timeout_ms: program.timeout.map(|seconds| seconds.saturating_mul(1000)),
        })
    }
}

fn micros(duration: Duration) -> String {
    size::micros(duration.as_secs_f64() * 1e6)
}

fn report(boot: Option<Duration>, machine: &Machine, begun: Instant) {
    if let Some(boot) = boot {
        eprintln!("booted in {}, and kept for the next time", micros(boot));
    }
    let ladder = machine.ladder();
    let first = ladder.total.map_or_else(|| "not seen".to_owned(), micros);
    let ready = ladder.ready.map_or_else(|| "not seen".to_owned(), micros);
    eprintln!(
        "forked: first instruction {first}, ready {ready} after the request; in all {}",
        micros(begun.elapsed())
    );
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
