//! The fork-exec timeline: section 6, which speaks of processes.

use tine_forkbench::rows::Way;

use crate::claims::{Judgement, Row, Subject};
use crate::plan::Section;
use crate::report::Report;
use crate::report::units::{bytes, time};
use crate::sections::process::timeline::ProcessStep;

/// The parent of the text, MiB.
const PARENT_MIB: u64 = 500;

pub fn rows() -> Vec<Row> {
    let row = |claim: &str, test: fn(&Report) -> Option<Judgement>| {
        Row::new(Subject::Process, claim, Section::ProcessTimeline, test)
    };
    vec![
        row("a fork of 500 MB takes 100 us", |report| {
            let call = step(report, Way::Fork, 0)?;
            of_that_size(call, |call| Judgement::within_twice(call.us, 100.0, time(call.us)))
        }),
        row(
            "the child writes almost nothing: what is its own is a hundredth of the parent",
            writes_little,
        ),
        row("exec takes 10 ms", |report| {
            let (written, runs) = (step(report, Way::Fork, 2)?, step(report, Way::Fork, 3)?);
            let us = runs.us - written.us;
            Some(Judgement::within_twice(
                us,
                10_000.0,
                format!("{} from the call of a static program to its main", time(us)),
            ))
        }),
        row("exec drops all shared mappings", drops),
        row("an eager fork of 500 MB takes 110 ms", eager_time),
        row("an eager fork has a spike of memory as large as the parent", spike),
    ]
}

fn step(report: &Report, way: Way, number: usize) -> Option<&ProcessStep> {
    report.process_timeline.iter().filter(|row| row.way == way).nth(number)
}

/// Claims that name times are about that parent.
fn of_that_size(row: &ProcessStep, judge: impl Fn(&ProcessStep) -> Judgement) -> Option<Judgement> {
    match row.size_bytes >> 20 {
        PARENT_MIB => Some(judge(row)),
        mib => Some(Judgement::missing(format!("this mode has a parent of {mib} MiB"))),
    }
}

fn writes_little(report: &Report) -> Option<Judgement> {
    let written = step(report, Way::Fork, 2)?;
    let child = written.child?;
    Some(Judgement::when(
        child.private_dirty_bytes < written.size_bytes / 100,
        "less than a hundredth",
        format!(
            "{} of its own, {} shared",
            bytes(child.private_dirty_bytes as f64),
            bytes(child.shared_bytes as f64)
        ),
    ))
}

fn drops(report: &Report) -> Option<Judgement> {
    let (written, runs) = (step(report, Way::Fork, 2)?, step(report, Way::Fork, 3)?);
    let (before, after) = (written.child?, runs.child?);
    Some(Judgement::when(
        before.shared_bytes >= written.size_bytes && after.rss_bytes < written.size_bytes / 10,
        "all of the parent's region before, less than a tenth of it afterwards",
        format!(
            "{} shared before, {} in all afterwards; page tables {} and {}",
            bytes(before.shared_bytes as f64),
            bytes(after.rss_bytes as f64),
            bytes(before.page_table_bytes as f64),
            bytes(after.page_table_bytes as f64)
        ),
    ))
}

fn eager_time(report: &Report) -> Option<Judgement> {
    let (eager, populated) = (step(report, Way::Eager, 0)?, step(report, Way::Populated, 0)?);
    of_that_size(eager, |eager| {
        let best = eager.us.min(populated.us);
        Judgement::within_twice(
            best,
            110_000.0,
            format!(
                "{} by process_vm_writev, {} by the kernel",
                time(eager.us),
                time(populated.us)
            ),
        )
    })
}

fn spike(report: &Report) -> Option<Judgement> {
    let (eager, fork) = (step(report, Way::Eager, 1)?, step(report, Way::Fork, 1)?);
    let (copied, shared) = (eager.child?, fork.child?);
    Some(Judgement::when(
        copied.private_dirty_bytes >= eager.size_bytes,
        "the child's own memory is at least the parent's region",
        format!(
            "{} of its own by eager copy, {} by fork",
            bytes(copied.private_dirty_bytes as f64),
            bytes(shared.private_dirty_bytes as f64)
        ),
    ))
}
