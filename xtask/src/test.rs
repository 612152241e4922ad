//! `cargo xtask test`: every test of the workspace, on a real KVM.
//!
//! Tests with Linux guests are known by their module, [`LINUX`]. They run here where a kernel
//! does, and else in the virtual KVM host.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, ensure};

use crate::kvm::Kvm;
use crate::run::{Counter, Outcome, cargo, counting};
use crate::vhost::{self, Vhost};

/// Module of the tests with Linux guests.
const LINUX: &str = "in_linux::";

/// Runs all tests; `arguments` go to the runner of those that run here.
pub fn run(arguments: &[&str]) -> Result<ExitCode> {
    let kvm = Kvm::find()?;
    eprintln!("{kvm}");
    vhost::build_images()?;
    let mut main = cargo();
    let here = kvm.runs_linux();
    if has_nextest() {
        main.args(["nextest", "run", "--workspace"]).args(arguments);
        if !here {
            main.arg("-E").arg(format!("not test(/^{LINUX}/)"));
        }
    } else {
        main.args(["test", "--workspace", "--lib", "--bins", "--tests"]).args(arguments);
        if !here && !arguments.contains(&"--") {
            main.args(["--", "--skip", LINUX]);
        }
    }
    let main = counting(&mut main)?;
    let mut documentation = cargo();
    documentation.args(["test", "--doc", "--workspace"]);
    let documentation = counting(&mut documentation)?;
    let tests = main.tests + documentation.tests;
    let mut outcomes = vec![main, documentation];
    let mut virtual_tests = 0;
    if !here {
        let linux = in_virtual_host(&[])?;
        virtual_tests = linux.tests;
        outcomes.push(linux);
    }
    eprintln!(
        "{tests} tests ran on /dev/kvm ({}), {virtual_tests} in the virtual KVM host",
        kvm.backend
    );
    match outcomes.iter().find(|outcome| !outcome.success) {
        Some(failed) => Ok(ExitCode::from(failed.code.max(1))),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Runs the tests with Linux guests alone, in the virtual KVM host; `arguments` go to them.
pub fn linux(arguments: &[&str]) -> Result<ExitCode> {
    vhost::build_images()?;
    let outcome = in_virtual_host(arguments)?;
    Ok(ExitCode::from(if outcome.success { 0 } else { outcome.code.max(1) }))
}

/// Runs the tests with Linux guests in the virtual KVM host.
fn in_virtual_host(arguments: &[&str]) -> Result<Outcome> {
    eprintln!("the tests with Linux guests, in the virtual KVM host:");
    let program = linux_tests()?;
    let vhost = Vhost::prepare()?;
    vhost.add_program(&vhost::target_directory()?.join("debug/tine"))?;
    vhost.add_images()?;
    vhost.add_program(&program)?;
    let name = program.file_name().context("a program without a name")?.to_owned();
    let mut command = vec![name, OsString::from("--test-threads=1")];
    command.extend(arguments.iter().map(OsString::from));
    let (mut out, mut err) = (Counter::new(std::io::stdout()), std::io::stderr());
    let code = vhost.run(&command, vhost::Output { out: &mut out, err: &mut err })?;
    ensure!(code != 0 || out.tests() > 0, "no test ran in the virtual KVM host");
    Ok(Outcome { success: code == 0, code, tests: out.tests() })
}

/// Builds the program with the tests that need Linux guests.
fn linux_tests() -> Result<PathBuf> {
    let output = cargo()
        .args(["test", "--no-run", "--quiet", "-p", "tine", "--test", "linux"])
        .arg("--message-format=json")
        .stderr(Stdio::inherit())
        .output()
        .context("cargo can't be started")?;
    ensure!(output.status.success(), "the tests with Linux guests do not build");
    let text = String::from_utf8_lossy(&output.stdout);
    let program = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "linux")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    program.context("cargo built no program with the tests for Linux guests")
}

fn has_nextest() -> bool {
    let version =
        cargo().args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}
