//! Tuning for copy-on-write: section 9 of the source text.

use super::{Judgement, Row, Said, Subject, both, process};
use crate::plan::Section;
use crate::report::Report;
use crate::report::units::times;

/// What is said.
pub fn said() -> Said {
    Said {
        section: 9,
        title: "Tuning for copy-on-write",
        claim: "Put hot data together; use huge pages for large data that is mostly read; copy hot pages before the fork.",
        rows: both(
            process::tuning::rows(),
            vec![
                Row::new(
                    Subject::Vm,
                    "writes that lie together cost less than scattered ones",
                    Section::CowFaults,
                    clustering,
                ),
                Row::new(
                    Subject::Vm,
                    "copying scattered hot pages ahead makes their first writes cheaper",
                    Section::HotSet,
                    |report| copying_ahead(report, false),
                ),
                Row::new(
                    Subject::Vm,
                    "copying hot pages that lie together ahead makes them cheaper",
                    Section::HotSet,
                    |report| copying_ahead(report, true),
                ),
                Row::new(
                    Subject::Vm,
                    "a hot set makes the first work of a clone cheaper",
                    Section::WorkingSet,
                    hot_set_helps,
                ),
            ],
        ),
        by_hand: &[
            "tine bench --only process-tuning,process-faults,cow-faults,hot-set,working-set",
        ],
    }
}

fn clustering(report: &Report) -> Option<Judgement> {
    let together = report.fault("sequential", "cow", 0.1)?;
    let apart = report.fault("scattered", "cow", 0.1)?;
    Some(Judgement::when(
        together.ns_per_page < 0.9 * apart.ns_per_page,
        "at least a tenth cheaper",
        format!(
            "{:.1} us a page in a row, {:.1} us scattered",
            together.ns_per_page / 1000.0,
            apart.ns_per_page / 1000.0
        ),
    ))
}

fn copying_ahead(report: &Report, together: bool) -> Option<Judgement> {
    let figures = report.hot_set.as_ref()?;
    let set = if together { &figures.clustered } else { &figures.scattered };
    Some(Judgement::when(
        set.ratio > 1.2,
        "1.2 times cheaper or more",
        format!(
            "{} in the guest ({:.1} us a page instead of {:.1}), {} with the copying counted",
            times(set.ratio),
            set.on_ns_per_page / 1000.0,
            set.off_ns_per_page / 1000.0,
            times(set.ratio_with_apply)
        ),
    ))
}

fn hot_set_helps(report: &Report) -> Option<Judgement> {
    let row = |pattern| report.working_set.iter().find(|row| row.pattern == pattern);
    let (clustered, scattered) = (row("clustered")?, row("scattered")?);
    Some(Judgement::when(
        clustered.ratio > 1.2 && scattered.ratio > 1.2,
        "1.2 times cheaper or more in both patterns",
        format!(
            "{} where pages lie together, {} where they are scattered",
            times(clustered.ratio),
            times(scattered.ratio)
        ),
    ))
}
