//! fork, vfork, posix_spawn: section 5, for processes.

use tine_forkbench::rows::Way;

use super::is_flat;
use crate::claims::{Judgement, Row, Subject};
use crate::plan::Section;
use crate::report::Report;
use crate::report::units::{bytes, time};

/// Microseconds that are claimed for a fork of each size, MiB.
const FORKS: [(u64, f64); 4] = [(10, 100.0), (100, 150.0), (1024, 200.0), (10 * 1024, 500.0)];

pub fn rows() -> Vec<Row> {
    let row = |claim: &str, test: fn(&Report) -> Option<Judgement>| {
        Row::new(Subject::Process, claim, Section::ProcessSpawn, test)
    };
    vec![
        row("vfork takes the same time at any size", |report| is_flat(report, Way::Vfork)),
        row("vfork takes 50 us", vfork_time),
        row("fork takes 100, 150, 200, 500 us at 10 MB, 100 MB, 1 GB, 10 GB", fork_times),
        row("posix_spawn takes the same time at any size", |report| {
            is_flat(report, Way::PosixSpawn)
        }),
        row("vfork suspends the parent until the child executes or exits", suspends),
    ]
}

fn vfork_time(report: &Report) -> Option<Judgement> {
    let rows: Vec<_> = report.process_spawn.as_ref()?.dense(Way::Vfork).collect();
    let figures: Vec<String> = rows
        .iter()
        .map(|row| format!("{} at {}", time(row.call_p50_us), bytes(row.size_bytes as f64)))
        .collect();
    (!rows.is_empty()).then(|| {
        Judgement::when(
            rows.iter().all(|row| (0.5..=2.0).contains(&(row.call_p50_us / 50.0))),
            "each within a factor of two",
            figures.join(", "),
        )
    })
}

fn fork_times(report: &Report) -> Option<Judgement> {
    let figures = report.process_spawn.as_ref()?;
    let found =
        FORKS.into_iter().filter_map(|(mib, claimed)| Some((figures.of(Way::Fork, mib)?, claimed)));
    let found: Vec<_> = found.collect();
    let words: Vec<String> = found
        .iter()
        .map(|(row, _)| format!("{} at {}", time(row.call_p50_us), bytes(row.size_bytes as f64)))
        .collect();
    let holding = found
        .iter()
        .filter(|(row, claimed)| (0.5..=2.0).contains(&(row.call_p50_us / claimed)))
        .count();
    let rule = format!("{holding} of {} within a factor of two", found.len());
    match (found.len(), holding) {
        (0, _) => None,
        (all, some) if 0 < some && some < all => Some(Judgement::partly(rule, words.join(", "))),
        (_, some) => Some(Judgement::when(some > 0, rule, words.join(", "))),
    }
}

fn suspends(report: &Report) -> Option<Judgement> {
    let row = report.process_spawn.as_ref()?.dense(Way::Vfork).next()?;
    Some(Judgement::when(
        row.call_p50_us >= row.child_p50_us,
        "the call returns after the child's first statement",
        format!(
            "the child ran after {}, the call returned after {}",
            time(row.child_p50_us),
            time(row.call_p50_us)
        ),
    ))
}
