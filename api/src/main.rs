//! The program `tine`.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(code) => code,
        Err(error) if error.is::<cli::ReaderLeft>() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tine: {error:#}");
            ExitCode::FAILURE
        }
    }
}
