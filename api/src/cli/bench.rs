//! `tine bench`: the measurement suite.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use tine_bench::End;

use super::output::{self, ReaderLeft};

/// What a program that Ctrl-C ended exits with.
const INTERRUPTED: u8 = 130;
/// What `compare` exits with when it has nothing to compare: 1 means that something got worse.
const UNUSABLE: u8 = 2;

/// Options of `tine bench`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Bench {
    #[command(subcommand)]
    command: Option<BenchCommand>,
    /// Fewer sizes and samples, a minute and a half
    #[arg(long)]
    quick: bool,
    /// Sizes of guests to measure beside the usual ones, MiB
    #[arg(long, value_name = "MIB", value_delimiter = ',')]
    sizes: Vec<u64>,
    /// Write the figures as JSON to this file, or to stdout; what is measured is there as it comes
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// Write a report with plots to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write every measure, a line each, to this file
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Go on with the run that was ended, whose figures are in the file of --json
    #[arg(long, requires = "json")]
    resume: bool,
    /// Measure these sections only, e.g. spawn,live-fork; peers measures the `firecracker` of PATH, or
    /// that of $TINE_FIRECRACKER, beside tine
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<String>,
    /// Print the JSON schema of the figures, and measure nothing
    #[arg(long, exclusive = true)]
    schema: bool,
}

#[derive(Subcommand, Debug)]
enum BenchCommand {
    /// Compare two runs: exits with 1 if something got worse beyond noise
    Compare {
        /// The figures of the run before, from --json
        before: PathBuf,
        /// The figures of the run after it
        after: PathBuf,
    },
    /// Write the page or the lines of a run that was measured before, and measure nothing; the
    /// verdicts are made anew of its figures
    #[command(group = clap::ArgGroup::new("files").required(true).multiple(true))]
    Render {
        /// The figures, from --json
        report: PathBuf,
        /// Write a report with plots to this file
        #[arg(long, value_name = "FILE", group = "files")]
        html: Option<PathBuf>,
        /// Write every measure, a line each, to this file
        #[arg(long, value_name = "FILE", group = "files")]
        csv: Option<PathBuf>,
        /// Write the main figures as Markdown to this file; - is stdout
        #[arg(long, value_name = "FILE", group = "files")]
        markdown: Option<PathBuf>,
    },
}

impl Bench {
    /// Measures; a step that fails fails it all.
    pub fn run(self) -> Result<ExitCode> {
        match self.command {
            Some(BenchCommand::Compare { before, after }) => return Ok(compare(&before, &after)),
            Some(BenchCommand::Render { report, html, csv, markdown }) => {
                let files = tine_bench::Rendered { html, csv, markdown };
                tine_bench::render(&report, &files)?;
                return Ok(ExitCode::SUCCESS);
            }
            None => {}
        }
        if self.schema {
            output::write(tine_bench::schema()?.as_bytes())?;
            return Ok(ExitCode::SUCCESS);
        }
        let options = tine_bench::Options {
            sizes_mib: self.sizes,
            quick: self.quick,
            json: self.json,
            html: self.html,
            csv: self.csv,
            resume: self.resume,
            command: std::env::args().collect::<Vec<_>>().join(" "),
            only: self.only,
        };
        Ok(match tine_bench::run(&options)? {
            End::Complete => ExitCode::SUCCESS,
            End::Interrupted => ExitCode::from(INTERRUPTED),
        })
    }
}

fn compare(before: &Path, after: &Path) -> ExitCode {
    match told(before, after) {
        Ok(true) => ExitCode::FAILURE,
        Ok(false) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tine: {error:#}");
            ExitCode::from(UNUSABLE)
        }
    }
}

/// Prints how two runs differ, and tells whether something got worse: also to whoever has stopped
/// reading.
fn told(before: &Path, after: &Path) -> Result<bool> {
    let comparison = tine_bench::compare(before, after)?;
    match output::write(comparison.text().as_bytes()) {
        Err(error) if !error.is::<ReaderLeft>() => Err(error),
        _ => Ok(comparison.is_worse()),
    }
}
