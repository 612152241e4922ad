//! The fork-exec timeline: section 6 of the source text.

use super::{Judgement, Row, Said, Subject, both, process};
use crate::plan::Section;
use crate::report::Report;
use crate::report::units::{bytes, time};
use crate::sections::vm_timeline::Moment;

/// What is said.
pub fn said() -> Said {
    Said {
        section: 6,
        title: "The fork-exec timeline",
        claim: "A parent of 500 MB: fork about 100 us, the child writes almost nothing, exec about 10 ms, all shared mappings dropped; an eager fork takes about 110 ms, with a spike of 500 MB.",
        rows: both(process::timeline::rows(), vm_rows()),
        by_hand: &["tine bench --only process-timeline,vm-timeline"],
    }
}

fn vm_rows() -> Vec<Row> {
    vec![
        Row::new(
            Subject::Vm,
            "a fork of 500 MB to its first instruction takes about 100 us",
            Section::VmTimeline,
            |report| claimed(report, "fork", "first instruction", 100.0),
        ),
        Row::new(
            Subject::Vm,
            "up to its first useful answer the clone writes almost nothing",
            Section::VmTimeline,
            writes_little,
        ),
        Row::new(
            Subject::Vm,
            "it takes about 10 ms to the first useful answer, as to an exec",
            Section::VmTimeline,
            |report| claimed(report, "fork", "first answer", 10_000.0),
        ),
        Row::new(
            Subject::Vm,
            "at its end all that was shared is dropped, in a time that does not follow its size",
            Section::VmTimeline,
            dropped,
        ),
        Row::new(
            Subject::Vm,
            "an eager copy of 500 MB takes about 110 ms",
            Section::VmTimeline,
            |report| claimed(report, "eager copy", "first instruction", 110_000.0),
        ),
        Row::new(Subject::Vm, "with a spike of all its memory", Section::VmTimeline, spike),
    ]
}

/// A clone at a moment, and the size of its guest.
fn moment<'a>(report: &'a Report, clone: &str, name: &str) -> Option<(&'a Moment, f64)> {
    let row = report.vm_timeline.iter().find(|row| row.clone == clone)?;
    Some((row.moment(name)?, row.guest_bytes as f64))
}

fn claimed(report: &Report, clone: &str, name: &str, us: f64) -> Option<Judgement> {
    let (moment, size) = moment(report, clone, name)?;
    // A time that follows memory is claimed for 500 MB.
    let us = if clone == "eager copy" { us * size / 500e6 } else { us };
    let words = format!("{} for {}, {} claimed", time(moment.us), bytes(size), time(us));
    Some(Judgement::within_twice(moment.us, us, words))
}

fn writes_little(report: &Report) -> Option<Judgement> {
    let (first, size) = moment(report, "fork", "first instruction")?;
    let (answer, _) = moment(report, "fork", "first answer")?;
    let grown = (answer.private_bytes - first.private_bytes).max(0.0);
    Some(Judgement::when(
        grown < size / 1000.0,
        "a thousandth of its memory or less",
        format!("{} of {}", bytes(grown), bytes(size)),
    ))
}

fn dropped(report: &Report) -> Option<Judgement> {
    let lasted = |clone| {
        let (answer, _) = moment(report, clone, "first answer")?;
        let (gone, _) = moment(report, clone, "gone")?;
        Some((gone.us - answer.us, gone.pss_bytes))
    };
    let ((fork, left), (eager, _)) = (lasted("fork")?, lasted("eager copy")?);
    Some(Judgement::when(
        left == 0.0 && fork < 50_000.0,
        "nothing is left, within 50 ms",
        format!("{} for a fork, {} for an eager copy; nothing is left", time(fork), time(eager)),
    ))
}

fn spike(report: &Report) -> Option<Judgement> {
    let (eager, size) = moment(report, "eager copy", "first instruction")?;
    let (fork, _) = moment(report, "fork", "first instruction")?;
    Some(Judgement::when(
        eager.pss_bytes > 0.9 * size,
        "at least nine tenths of it",
        format!(
            "Pss of {} for an eager copy of {}, {} for a fork",
            bytes(eager.pss_bytes),
            bytes(size),
            bytes(fork.pss_bytes)
        ),
    ))
}
