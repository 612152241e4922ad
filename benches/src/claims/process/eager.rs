//! Eager copy is O(memory): section 1, for processes.

use tine_forkbench::rows::Way;

use super::{MIB, SIZES_MIB, ends, why_no_children, words};
use crate::claims::pressure::eager_child_fails;
use crate::claims::{Judgement, Row, Subject};
use crate::plan::Section;
use crate::report::Report;
use crate::report::units::{bytes, time, times};

/// Milliseconds that are claimed for each size.
const CLAIMED_MS: [f64; 5] = [2.0, 20.0, 200.0, 2_000.0, 20_000.0];

pub fn rows() -> Vec<Row> {
    let mut rows = vec![Row::new(
        Subject::Process,
        "eager copy takes time in proportion to memory",
        Section::ProcessSpawn,
        is_linear,
    )];
    for (mib, ms) in SIZES_MIB.into_iter().zip(CLAIMED_MS) {
        rows.push(Row::new(
            Subject::Process,
            format!("eager copy of {} takes {} at 5 GB/s", words(mib), time(ms * 1000.0)),
            Section::ProcessSpawn,
            move |report| takes(report, mib, ms * 1000.0),
        ));
    }
    rows.push(Row::new(
        Subject::Process,
        "an eager copy doubles memory until the child is gone",
        Section::ProcessTimeline,
        doubles,
    ));
    rows.push(Row::new(
        Subject::Process,
        "where memory is short an eager fork fails outright, whatever its child would do",
        Section::Pressure,
        eager_child_fails,
    ));
    rows
}

fn is_linear(report: &Report) -> Option<Judgement> {
    let (small, large) = ends(report.process_spawn.as_ref()?, Way::Eager)?;
    let grown = large.size_bytes as f64 / small.size_bytes as f64;
    let slower = large.call_p50_us / small.call_p50_us;
    Some(Judgement::within_twice(
        slower,
        grown,
        format!(
            "{} times the memory ({} to {}) took {} the time to copy",
            grown.round(),
            bytes(small.size_bytes as f64),
            bytes(large.size_bytes as f64),
            times(slower)
        ),
    ))
}

fn takes(report: &Report, mib: u64, claimed_us: f64) -> Option<Judgement> {
    let Some(row) = report.process_spawn.as_ref()?.eager(mib) else {
        return why_no_children(report, mib);
    };
    let by = match row.way {
        Way::Populated => "by the kernel in one call",
        _ => "by process_vm_writev",
    };
    let rate = mib as f64 * MIB / row.call_p50_us / 1000.0;
    Some(Judgement::within_twice(
        row.call_p50_us,
        claimed_us,
        format!("{}, {rate:.1} GB/s, {by}", time(row.call_p50_us)),
    ))
}

fn doubles(report: &Report) -> Option<Judgement> {
    let of = |number: usize| {
        report.process_timeline.iter().filter(|row| row.way == Way::Eager).nth(number)
    };
    let (runs, gone) = (of(1)?, of(4)?);
    let own = runs.child?.private_dirty_bytes;
    Some(Judgement::when(
        own >= runs.size_bytes && gone.child.is_none(),
        "the child's own memory is at least the parent's region, until it is waited for",
        format!(
            "{} of the child's own beside {} of the parent's",
            bytes(own as f64),
            bytes(runs.size_bytes as f64)
        ),
    ))
}
