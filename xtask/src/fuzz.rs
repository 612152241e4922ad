//! `cargo xtask fuzz`: one target of `fuzz/`, for a while.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

/// Fuzzes `target` for `seconds`.
pub fn run(target: &str, seconds: &str) -> Result<ExitCode> {
    let seconds: u64 =
        seconds.parse().with_context(|| format!("\"{seconds}\" is no number of seconds"))?;
    // By its name, not by $CARGO: only rustup's proxy understands +nightly.
    let status = Command::new("cargo")
        .args(["+nightly", "fuzz", "run", target, "--", &format!("-max_total_time={seconds}")])
        .status()
        .context("cargo can't be started")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
