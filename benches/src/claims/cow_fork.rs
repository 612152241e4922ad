//! A copy-on-write fork is O(page tables): section 2 of the source text.

use super::{Judgement, Row, Said, Subject, both, process};
use crate::plan::Section;
use crate::report::Report;
use crate::report::units::{bytes, time};
use crate::sections::spawn;

/// What is said.
pub fn said() -> Said {
    Said {
        section: 2,
        title: "A copy-on-write fork is O(page tables)",
        claim: "A copy-on-write fork takes about 100 us at 10 MB and 100 MB, 200 us at 1 GB, 500 us at 10 GB, 2 ms at 100 GB; at 1 GB it is 1000 times as fast as an eager one. It follows mapped pages, not what is in them.",
        rows: both(
            process::cow_fork::rows(),
            vec![
                Row::new(
                    Subject::Vm,
                    "copy-on-write shares memory in a time that does not depend on its size",
                    Section::Spawn,
                    memory_step_is_flat,
                ),
                Row::new(
                    Subject::Vm,
                    "a copy-on-write fork of 1 GB takes 200 us",
                    Section::Spawn,
                    cow_time,
                ),
                Row::new(
                    Subject::Vm,
                    "at 1 GB copy-on-write is 1000 times as fast as an eager copy",
                    Section::Spawn,
                    thousand_times,
                ),
                Row::new(
                    Subject::Vm,
                    "a fork takes page tables for all of its memory at once, 8 MB for 1 GB",
                    Section::Ledger,
                    page_tables,
                ),
            ],
        ),
        by_hand: &["tine bench --only process-spawn,spawn,ledger"],
    }
}

fn memory_step_is_flat(report: &Report) -> Option<Judgement> {
    let (small, large) = spawn::ends(&report.spawn, "cow")?;
    let (at_small, at_large) = (small.step("map"), large.step("map"));
    Some(Judgement::when(
        at_large < 2.0 * at_small.max(2.0),
        "less than twice as long for the largest guest as for the smallest",
        format!(
            "the memory step takes {} at {} and {} at {}",
            time(at_small),
            bytes(small.guest_bytes as f64),
            time(at_large),
            bytes(large.guest_bytes as f64)
        ),
    ))
}

fn cow_time(report: &Report) -> Option<Judgement> {
    let row = report.spawn_near(1024, "cow")?;
    Some(Judgement::within_twice(
        row.p50_us,
        200.0,
        format!(
            "{} for a whole machine of {}, first instruction included; KVM's memslot alone {}",
            time(row.p50_us),
            bytes(row.guest_bytes as f64),
            time(row.step("memslot"))
        ),
    ))
}

fn thousand_times(report: &Report) -> Option<Judgement> {
    let row = report.spawn_near(1024, "eager")?;
    Some(Judgement::when(
        row.ratio_to_cow >= 1000.0,
        "1000 times or more",
        format!(
            "{} times as fast at {}, the whole machine included; the memory step alone {} times",
            row.ratio_to_cow.round(),
            bytes(row.guest_bytes as f64),
            memory_ratio(report, row).round()
        ),
    ))
}

fn page_tables(report: &Report) -> Option<Judgement> {
    let row = report.ledger.iter().find(|row| row.memory == "cow" && row.moment == "before")?;
    // The claim is 8 KiB for a MiB.
    let claimed = row.ledger.ram_bytes as f64 / 128.0;
    let tables = row.ledger.page_table_bytes as f64;
    Some(Judgement::within_twice(
        tables,
        claimed,
        format!(
            "{} right after the first instruction for {}, where {} are claimed",
            bytes(tables),
            bytes(row.ledger.ram_bytes as f64),
            bytes(claimed)
        ),
    ))
}

fn memory_ratio(report: &Report, eager: &spawn::SpawnRow) -> f64 {
    let cow =
        report.spawn.iter().find(|row| row.memory == "cow" && row.guest_bytes == eager.guest_bytes);
    cow.map_or(f64::NAN, |cow| eager.step("map") / cow.step("map"))
}
