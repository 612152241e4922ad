//! Tuning for copy-on-write: section 9, for processes.

use tine_forkbench::rows::{Backing, Order};

use crate::claims::{Judgement, Row, Subject};
use crate::plan::Section;
use crate::report::Report;
use crate::report::units::{bytes, time, times};

pub fn rows() -> Vec<Row> {
    let mut rows = vec![
        Row::new(
            Subject::Process,
            "writes that lie together cost less than scattered ones",
            Section::ProcessTuning,
            |report| helps(report, "hot data together"),
        ),
        Row::new(
            Subject::Process,
            "copying hot pages ahead makes their first writes cheaper",
            Section::ProcessTuning,
            |report| helps(report, "hot pages copied ahead"),
        ),
    ];
    for backing in [Backing::Thp, Backing::Hugetlb] {
        let name = backing.name();
        rows.push(Row::new(
            Subject::Process,
            format!("huge pages ({name}) make large data that is mostly read cheaper"),
            Section::ProcessTuning,
            move |report| helps(report, &format!("{name} for data that is mostly read")),
        ));
        rows.push(Row::new(
            Subject::Process,
            format!("a write to a huge page ({name}) that is shared copies 2 MB"),
            Section::ProcessFaults,
            move |report| copies_two_megabytes(report, backing),
        ));
    }
    rows
}

fn helps(report: &Report, what: &str) -> Option<Judgement> {
    let row = report.process_tuning.iter().find(|row| row.what == what)?;
    let ahead = match row.after.ahead_us {
        // The two looks at the clock.
        us if us < 50.0 => String::new(),
        us => format!("; {} ahead", time(us)),
    };
    Some(Judgement::when(
        row.ratio > 1.1,
        "at least a tenth cheaper",
        format!(
            "{}: {} for {} ({}), {} for {}{ahead}",
            times(row.ratio),
            time(row.before.work_us),
            row.before.setting,
            row.work,
            time(row.after.work_us),
            row.after.setting
        ),
    ))
}

fn copies_two_megabytes(report: &Report, backing: Backing) -> Option<Judgement> {
    let figures = report.process_faults.as_ref()?;
    let row = figures.after_fork(backing, Order::Scattered, 0.01)?;
    // Several of the pages are in one huge page: what is copied is told by the fault, not by the
    // page.
    let each = row.after.private_dirty_bytes as f64 / row.minor_faults;
    Some(Judgement::within_twice(
        each,
        2.0 * 1048576.0,
        format!(
            "{} private for each of {:.0} faults, {} a fault",
            bytes(each),
            row.minor_faults,
            time(row.write_us / row.minor_faults)
        ),
    ))
}
