//! The rows of the claims that speak of processes, as all of the source text does. One file a
//! section of it.

pub mod copied;
pub mod cow_fork;
pub mod eager;
pub mod faults;
pub mod page_tables;
pub mod seeing;
pub mod timeline;
pub mod tuning;
pub mod vfork;

use tine_forkbench::rows::Way;

use super::Judgement;
use crate::report::Report;
use crate::report::units::{bytes, time};
use crate::sections::process::spawn::{ProcessSpawnFigures, ProcessSpawnRow};

const MIB: f64 = 1048576.0;

/// The sizes of the source text, MiB; a gigabyte of it is taken as one of 1024 MiB.
pub const SIZES_MIB: [u64; 5] = [10, 100, 1024, 10 * 1024, 100 * 1024];

/// The size in words.
fn words(mib: u64) -> String {
    if mib < 1024 { format!("{mib} MB") } else { format!("{} GB", mib / 1024) }
}

/// Children of the smallest and of the largest parent, if there are two.
fn ends(figures: &ProcessSpawnFigures, way: Way) -> Option<(&ProcessSpawnRow, &ProcessSpawnRow)> {
    let small = figures.dense(way).min_by_key(|row| row.size_bytes)?;
    let large = figures.dense(way).max_by_key(|row| row.size_bytes)?;
    (small.size_bytes < large.size_bytes).then_some((small, large))
}

/// Whether a call takes the same time for parents of every size.
fn is_flat(report: &Report, way: Way) -> Option<Judgement> {
    let (small, large) = ends(report.process_spawn.as_ref()?, way)?;
    Some(Judgement::when(
        large.call_p50_us < 2.0 * small.call_p50_us,
        "less than twice as long for the largest parent as for the smallest",
        format!(
            "{} at {}, {} at {}",
            time(small.call_p50_us),
            bytes(small.size_bytes as f64),
            time(large.call_p50_us),
            bytes(large.size_bytes as f64)
        ),
    ))
}

/// Why there are no children of `mib` by copies, or by any way.
fn why_no_children(report: &Report, mib: u64) -> Option<Judgement> {
    // As the program names what it refused.
    let named = format!("children of {mib} MiB, 4k, Dense");
    let skipped = report.skipped.iter().find(|skipped| skipped.what.contains(&named))?;
    Some(Judgement::missing(skipped.reason.clone()))
}
