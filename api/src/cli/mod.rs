//! The command line: what can be asked, and who answers.

mod bench;
mod client;
mod console;
mod copy;
#[cfg(test)]
mod daemon;
mod doctor;
mod exec;
mod files;
mod image;
mod interrupt;
mod make;
mod memory;
mod notify;
mod output;
mod progress;
mod resolve;
mod run;
mod sandboxes;
mod serve;
mod size;
mod snapshots;
mod terminal;
mod tree;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use client::{Client, Connection};
pub use output::ReaderLeft;

/// Where the daemon listens unless told otherwise.
const DEFAULT_ADDRESS: &str = "127.0.0.1:7070";

/// Forks whole virtual machines, copy-on-write.
#[derive(Parser, Debug)]
#[command(name = "tine", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Check whether this host can run tine, and say what to mend
    Doctor(doctor::Doctor),
    /// Run a guest here, without a daemon: a command in an image, or the workload
    Run(run::Run),
    /// Measure what forks and copy-on-write faults cost on this host
    Bench(bench::Bench),
    /// Start the daemon
    Serve(serve::Serve),
    /// List sandboxes
    Ps(sandboxes::Ps),
    /// Make sandboxes from an image or a snapshot
    Spawn(make::Spawn),
    /// Fork a running sandbox
    Fork(make::Fork),
    /// Take a snapshot of a sandbox
    Snapshot(snapshots::Snapshot),
    /// List snapshots
    Snapshots(snapshots::Snapshots),
    /// Stop a sandbox's vCPUs
    Pause(sandboxes::One),
    /// Let a paused sandbox go on
    Resume(sandboxes::One),
    /// Put a sandbox back to the state it was spawned from
    Reset(sandboxes::One),
    /// Show where a sandbox's memory is
    Memory(memory::Memory),
    /// Give the embedded guest something to do
    Workload(workload::Workload),
    /// Print what a guest has printed
    Console(console::Console),
    /// Run a program in a Linux guest
    Exec(exec::ExecArgs),
    /// Copy files into a Linux guest, or out of it
    Cp(copy::Cp),
    /// List a directory of a Linux guest
    Ls(files::Ls),
    /// Remove sandboxes, or snapshots
    Rm(sandboxes::Rm),
    /// Build, list, import and remove images of Linux guests
    Image(image::Image),
    /// Draw who was forked from whom
    Tree(tree::Tree),
    /// Be the process that the daemon's cells come from
    #[command(hide = true)]
    Warden,
    /// Print a script that completes these commands in a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Does what the command line asks.
pub fn run() -> Result<ExitCode> {
    let Cli { connection, verb } = Cli::parse();
    let client = || Client::new(&connection);
    match verb {
        Verb::Doctor(doctor) => doctor.run(),
        Verb::Run(run) => run.run(),
        Verb::Bench(bench) => bench.run(),
        Verb::Serve(serve) => serve.run(connection.token_file),
        Verb::Ps(ps) => ps.run(&client()?),
        Verb::Spawn(spawn) => spawn.run(&client()?),
        Verb::Fork(fork) => fork.run(&client()?),
        Verb::Snapshot(snapshot) => snapshot.run(&client()?),
        Verb::Snapshots(snapshots) => snapshots.run(&client()?),
        Verb::Pause(one) => one.run(&client()?, "pause"),
        Verb::Resume(one) => one.run(&client()?, "resume"),
        Verb::Reset(one) => one.run(&client()?, "reset"),
        Verb::Memory(memory) => memory.run(&client()?),
        Verb::Workload(workload) => workload.run(&client()?),
        Verb::Console(console) => console.run(&client()?),
        Verb::Exec(exec) => exec.run(&client()?),
        Verb::Cp(cp) => cp.run(&client()?),
        Verb::Ls(ls) => ls.run(&client()?),
        Verb::Rm(rm) => rm.run(&client()?),
        Verb::Image(image) => image.run(),
        Verb::Tree(tree) => tree.run(&client()?),
        Verb::Warden => {
            tine_cell::warden::main()?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tine", &mut script);
            output::line(&String::from_utf8_lossy(&script))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Where the daemon keeps its token unless told otherwise; none without a home directory.
fn default_token_file() -> Option<PathBuf> {
    Some(default_state()?.join("token"))
}

/// Where the daemon keeps what it must know again; none without a home directory.
fn default_state() -> Option<PathBuf> {
    let directory = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let state = match directory("XDG_STATE_HOME") {
        Some(state) => PathBuf::from(state),
        None => PathBuf::from(directory("HOME")?).join(".local/state"),
    };
    Some(state.join("tine"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_systemd_unit_starts_what_there_is() {
        let unit = include_str!("../../systemd/tine.service").replace("\\\n", " ");
        let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        let cli = Cli::try_parse_from(command.split_whitespace()).unwrap();
        assert!(matches!(cli.verb, Verb::Serve(_)));
    }

    #[test]
    fn the_server_may_be_named_before_or_after_the_verb() {
        for line in [["tine", "--server", "unix:/a", "ps"], ["tine", "ps", "--server", "unix:/a"]] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.connection.server.to_string(), "unix:/a");
        }
    }
}
