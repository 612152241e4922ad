//! `tine bench`: the measurement suite.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

/// Options of `tine bench`.
#[derive(Args, Debug)]
pub struct Bench {
    /// Fewer sizes and samples, a minute and a half
    #[arg(long)]
    quick: bool,
    /// Sizes of guests to measure beside the usual ones, MiB
    #[arg(long, value_name = "MIB", value_delimiter = ',')]
    sizes: Vec<u64>,
    /// Write the figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a report with plots to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Measure these sections only, e.g. spawn,live-fork
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<String>,
}

impl Bench {
    /// Measures; a step that fails fails it all.
    pub fn run(self) -> Result<ExitCode> {
        let options = tine_bench::Options {
            sizes_mib: self.sizes,
            quick: self.quick,
            json: self.json,
            html: self.html,
            command: std::env::args().collect::<Vec<_>>().join(" "),
            only: self.only,
        };
        tine_bench::run(&options)?;
        Ok(ExitCode::SUCCESS)
    }
}
