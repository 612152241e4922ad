//! Copy-on-write costs come after the fork: section 7 of the source text.

use super::{Judgement, Row, Said, Subject, both, process};
use crate::plan::Section;
use crate::report::Report;
use crate::report::units::{percent, time};

/// What is said.
pub fn said() -> Said {
    Said {
        section: 7,
        title: "Copy-on-write costs come after the fork",
        claim: "A child that writes one byte into each page of a part of 100 MB takes 0.24 ms for nothing, 2.5 ms for 1 %, 18 ms for 10 %, 85 ms for 50 % and 165 ms for all of it: 6.5 us a page.",
        rows: both(
            process::faults::rows(),
            vec![
                Row::new(
                    Subject::Vm,
                    "a copy-on-write fault costs 6.5 us",
                    Section::CowFaults,
                    fault_time,
                ),
                Row::new(
                    Subject::Vm,
                    "clone and writes to 1, 10, 50, 100 % of 100 MB take 2.5, 18, 85, 165 ms",
                    Section::CowFaults,
                    fault_totals,
                ),
                Row::new(
                    Subject::Vm,
                    "a clone that writes most of its memory would have been cheaper by eager copy",
                    Section::CowFaults,
                    crossover_exists,
                ),
                Row::new(
                    Subject::Vm,
                    "a page that is read first and written later costs more than one written at once",
                    Section::ReadFaults,
                    reading_first_costs,
                ),
            ],
        ),
        by_hand: &[
            "tine bench --only process-faults,cow-faults",
            "perf stat -e page-faults,minor-faults,major-faults tine bench --quick --only cow-faults",
        ],
    }
}

fn fault_time(report: &Report) -> Option<Judgement> {
    let row = report.fault("sequential", "cow", 1.0)?;
    let scattered = report.fault("scattered", "cow", 1.0)?;
    Some(Judgement::within_twice(
        row.ns_per_page,
        6500.0,
        format!(
            "{:.1} us a page in the guest, {:.1} us scattered",
            row.ns_per_page / 1000.0,
            scattered.ns_per_page / 1000.0
        ),
    ))
}

fn fault_totals(report: &Report) -> Option<Judgement> {
    const CLAIMED_MS: [(f64, f64); 4] = [(0.01, 2.5), (0.1, 18.0), (0.5, 85.0), (1.0, 165.0)];
    let mut holds = true;
    let mut figures = Vec::new();
    for (fraction, claimed) in CLAIMED_MS {
        let row = report.fault("sequential", "cow", fraction)?;
        let total = row.clone_us + row.total_us;
        holds &= (0.5..=2.0).contains(&(total / (claimed * 1000.0)));
        figures.push(format!("{} {}", percent(fraction), time(total)));
    }
    Some(Judgement::when(holds, "each of the four within a factor of two", figures.join(", ")))
}

fn crossover_exists(report: &Report) -> Option<Judgement> {
    let points: Vec<String> = report
        .crossover
        .iter()
        .map(|row| match row.fraction {
            Some(fraction) => format!("{} at {}", row.pattern, percent(fraction)),
            None => format!("{}: {}", row.pattern, row.words),
        })
        .collect();
    let found = report.crossover.iter().all(|row| row.fraction.is_some());
    (!points.is_empty()).then(|| {
        Judgement::when(
            found,
            "there is a fraction from which on the eager copy is cheaper",
            points.join(", "),
        )
    })
}

fn reading_first_costs(report: &Report) -> Option<Judgement> {
    let find = |operation: &str| {
        report.read_faults.iter().find(|row| {
            row.operation == operation
                && row.memory == "cow"
                && row.pattern == "scattered"
                && row.fraction == 0.1
        })
    };
    let (read, write) = (find("read")?, find("write after read")?);
    let both = read.ns_per_page + write.ns_per_page;
    // The writes were measured by another section.
    let at_once = report.fault("scattered", "cow", 0.1)?.ns_per_page;
    Some(Judgement::when(
        both > at_once,
        "reading and then writing costs more than writing at once",
        format!(
            "{:.1} us to read and {:.1} us to write then, {:.1} us at once",
            read.ns_per_page / 1000.0,
            write.ns_per_page / 1000.0,
            at_once / 1000.0
        ),
    ))
}
