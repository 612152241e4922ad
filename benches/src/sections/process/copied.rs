//! What a fork of a process copies and what it shares: by tests of behaviour, in bytes and in
//! microseconds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_forkbench::rows::{CopiedRow, Fate, Row};

use super::{rows, unexpected};
use crate::BenchError;
use crate::bench::Bench;
use crate::measure::Measures;
use crate::plan::Section;
use crate::process::Forkbench;
use crate::stats::median;

const SECTION: Section = Section::ProcessCopied;

/// What becomes of one thing.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ProcessCopied {
    /// The thing.
    pub what: String,
    /// What is said of it.
    pub claimed: Fate,
    /// What was found.
    pub found: Fate,
    /// How that was found.
    pub test: String,
    /// What it costs a child in memory.
    pub bytes: Option<f64>,
    /// How that was found, or why not.
    pub bytes_how: String,
    /// What copying it costs: the median of calls that had to, less that of calls that had not.
    pub us: Option<f64>,
    /// What was called, or why nothing was.
    pub us_how: String,
}

/// Measures.
pub fn run(bench: &mut Bench) -> Result<Vec<ProcessCopied>, BenchError> {
    let forkbench = Forkbench::new(&bench.interrupt)?;
    let (rounds, children) = bench.plan.choose((200, 200), (1000, 400));
    bench.progress.steps(1);
    let line = format!("copied --rounds {rounds} --children {children}");
    let rows = rows(bench, &forkbench, SECTION, &line)?;
    rows.into_iter()
        .map(|row| match row {
            Row::Copied(row) => Ok(summary(row, &bench.measures)),
            row => Err(unexpected(&row)),
        })
        .collect()
}

fn summary(row: CopiedRow, measures: &Measures) -> ProcessCopied {
    let name = row.what.replace([' ', ','], "_").replace("__", "_");
    measures.time(format!("process_copied/{name}/with"), &row.with_us);
    measures.time(format!("process_copied/{name}/without"), &row.without_us);
    if let Some(bytes) = row.bytes {
        measures.bytes(format!("process_copied/{name}/bytes"), &[bytes]);
    }
    let without = if row.without_us.is_empty() { 0.0 } else { median(row.without_us) };
    ProcessCopied {
        what: row.what,
        claimed: row.claimed,
        found: row.found,
        test: row.test,
        bytes: row.bytes,
        bytes_how: row.bytes_how,
        us: (!row.with_us.is_empty()).then(|| median(row.with_us) - without),
        us_how: row.us_how,
    }
}
