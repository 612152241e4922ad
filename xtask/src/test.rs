//! `cargo xtask test`: every test of the workspace, on a real KVM.

use std::process::{Command, ExitCode, Stdio};

use anyhow::Result;

use crate::kvm::Kvm;
use crate::run::counting;

/// Runs all tests; `arguments` go to the runner of the main ones.
pub fn run(arguments: &[&str]) -> Result<ExitCode> {
    let kvm = Kvm::find()?;
    eprintln!("{kvm}");
    let mut main = cargo();
    if has_nextest() {
        main.args(["nextest", "run", "--workspace"]).args(arguments);
    } else {
        main.args(["test", "--workspace", "--lib", "--bins", "--tests"]).args(arguments);
    }
    let main = counting(&mut main)?;
    let mut documentation = cargo();
    documentation.args(["test", "--doc", "--workspace"]);
    let documentation = counting(&mut documentation)?;
    let tests = main.tests + documentation.tests;
    eprintln!("{tests} tests ran on /dev/kvm ({}), 0 in the virtual KVM host", kvm.backend);
    for outcome in [main, documentation] {
        if !outcome.success {
            return Ok(ExitCode::from(outcome.code.max(1)));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The cargo that runs this.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn has_nextest() -> bool {
    let version =
        cargo().args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}
