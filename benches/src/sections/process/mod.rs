//! The same questions for processes, which the claims are made for: what a fork costs, what is
//! paid after it, what it copies. The program `forkbench` measures; here is what it is told to
//! do, and what becomes of its samples.

pub mod copied;
pub mod faults;
pub mod in_guest;
pub mod pressure;
pub mod spawn;
pub mod timeline;
pub mod tuning;

use tine_forkbench::rows::{Backing, Faults, Row};

use crate::BenchError;
use crate::bench::Bench;
use crate::plan::Section;
use crate::process::Forkbench;
use crate::setting::Setting;
use crate::stats::median;

const MIB: u64 = 1 << 20;

/// Runs a probe for `section`. `line` is its name and options, with blanks between.
fn rows(
    bench: &mut Bench,
    forkbench: &Forkbench,
    section: Section,
    line: &str,
) -> Result<Vec<Row>, BenchError> {
    bench.progress.say(line);
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let rows = forkbench.run(&words, section.name(), &mut bench.skipped)?;
    bench.progress.step()?;
    Ok(rows)
}

/// A row of another probe than the one that was run.
fn unexpected(row: &Row) -> BenchError {
    BenchError::Forkbench {
        command: "forkbench".into(),
        reason: format!("a row of another probe: {row:?}"),
    }
}

/// Huge pages for `bytes`, if a region of `backing` needs them. The program says why if there
/// are too few of them.
fn reserve(bench: &mut Bench, section: Section, backing: Backing, bytes: u64) -> Option<Setting> {
    if backing != Backing::Hugetlb {
        return None;
    }
    match Setting::more_huge_pages(bytes.div_ceil(2 * MIB)) {
        Ok(pages) => Some(pages),
        Err(why) => {
            bench.skip(format!("{}: huge pages of hugetlbfs", section.name()), why);
            None
        }
    }
}

/// The median of the minor faults, and of the major ones.
fn fault_medians(faults: &[Faults]) -> (f64, f64) {
    let of = |each: fn(&Faults) -> u64| median(faults.iter().map(|faults| each(faults) as f64));
    (of(|faults| faults.minor), of(|faults| faults.major))
}

/// A size as an option, and as a part of a measure's name.
fn size(bytes: u64) -> String {
    format!("{}M", bytes / MIB)
}

/// Whether `row` is about a region of nearly `mib`.
fn is_size(bytes: u64, mib: u64) -> bool {
    bytes == mib * MIB
}
