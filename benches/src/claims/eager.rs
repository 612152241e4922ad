//! Eager copy is O(memory): section 1 of the source text.

use super::{Judgement, Row, Said, Subject, both, process};
use crate::plan::Section;
use crate::report::Report;
use crate::report::units::{bytes, time, times};
use crate::sections::spawn;

/// What is said.
pub fn said() -> Said {
    Said {
        section: 1,
        title: "Eager copy is O(memory)",
        claim: "A fork that copies every byte takes time in proportion to memory: at 5 GB/s 10 MB in 2 ms, 100 MB in 20 ms, 1 GB in 200 ms, 10 GB in 2 s, 100 GB in 20 s; memory doubles until the child is gone.",
        rows: both(
            process::eager::rows(),
            vec![
                Row::new(
                    Subject::Vm,
                    "eager copy takes time in proportion to memory",
                    Section::Spawn,
                    eager_is_linear,
                ),
                Row::new(
                    Subject::Vm,
                    "eager copy runs at 5 GB/s, 200 ms for 1 GB",
                    Section::Spawn,
                    eager_rate,
                ),
            ],
        ),
        by_hand: &["tine bench --only process-spawn,process-timeline,spawn"],
    }
}

fn eager_is_linear(report: &Report) -> Option<Judgement> {
    let (small, large) = spawn::ends(&report.spawn, "eager")?;
    let grown = large.guest_bytes as f64 / small.guest_bytes as f64;
    let slower = large.step("map") / small.step("map");
    Some(Judgement::within_twice(
        slower,
        grown,
        format!(
            "{} times the memory ({} to {}) took {} the time to copy",
            grown,
            bytes(small.guest_bytes as f64),
            bytes(large.guest_bytes as f64),
            times(slower)
        ),
    ))
}

fn eager_rate(report: &Report) -> Option<Judgement> {
    let row = report.spawn_near(1024, "eager")?;
    let rate = row.guest_bytes as f64 / row.step("map") / 1000.0;
    Some(Judgement::within_twice(
        rate,
        5.0,
        format!("{rate:.1} GB/s, {} for {}", time(row.step("map")), bytes(row.guest_bytes as f64)),
    ))
}
