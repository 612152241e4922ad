//! Chores as code. `cargo xtask` lists them.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod bench_file;
mod fuzz;
mod hold;
mod kvm;
mod readme;
mod run;
mod test;
mod vhost;

use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
cargo xtask test [-- ARGS]    run every test; ARGS go to the test runner
cargo xtask fuzz TARGET SECS  fuzz one target of fuzz/ (needs nightly Rust and cargo-fuzz)
cargo xtask linux-tests [ARGS] run the tests with Linux guests alone, in the virtual KVM host
cargo xtask vhost -- CMD      run CMD in a virtual KVM host, where Linux guests run
cargo xtask kvm               tell which KVM this host has, or why none
cargo xtask check-bench FILE  check that FILE is what `tine bench --json FILE` promises
cargo xtask readme FILE       put the figures of FILE, a whole run's JSON, into the README";

fn main() -> ExitCode {
    match perform() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["test"] => test::run(&[]),
        ["test", "--", rest @ ..] => test::run(rest),
        ["linux-tests", rest @ ..] => test::linux(rest),
        ["kvm"] => kvm::Kvm::find().map(|kvm| {
            println!("{kvm}");
            ExitCode::SUCCESS
        }),
        ["vhost", "--", command @ ..] => vhost::run(command),
        ["hold-kvm"] => hold::run(),
        ["fuzz", target, seconds] => fuzz::run(target, seconds),
        ["readme", file] => readme::write(file.as_ref()),
        ["check-bench", file] => bench_file::check(file.as_ref()),
        [] | ["help" | "--help" | "-h"] => {
            println!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        _ => bail!("no such chore: {}\n{HELP}", arguments.join(" ")),
    }
}
