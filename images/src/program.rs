//! Programs of the host that do what no crate does.

use std::io;
use std::process::{Command, Stdio};

use crate::ImageError;

/// Runs `command`, of Debian's package `package`. Returns its output.
pub fn run(command: &mut Command, package: &'static str) -> Result<Vec<u8>, ImageError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ImageError::Missing { program: program.clone(), package },
        _ => ImageError::Program { program: program.clone(), said: error.to_string() },
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    // The last lines say what went wrong; what comes before is progress.
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let said = lines[lines.len().saturating_sub(3)..].join("; ");
    Err(ImageError::Program { program, said: format!("{said} ({})", output.status) })
}
