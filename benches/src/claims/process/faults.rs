//! Copy-on-write costs come after the fork: section 7, for processes.

use tine_forkbench::rows::{Backing, Order, Sharer};

use crate::claims::{Judgement, Row, Subject};
use crate::plan::Section;
use crate::report::Report;
use crate::report::units::{percent, time};

/// Milliseconds that are claimed for each part of 100 MB.
const CLAIMED_MS: [(f64, f64); 5] =
    [(0.0, 0.24), (0.01, 2.5), (0.1, 18.0), (0.5, 85.0), (1.0, 165.0)];

pub fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = CLAIMED_MS
        .into_iter()
        .map(|(fraction, ms)| {
            Row::new(
                Subject::Process,
                format!(
                    "fork and writes to {} of 100 MB take {}",
                    percent(fraction),
                    time(ms * 1000.0)
                ),
                Section::ProcessFaults,
                move |report| total(report, fraction, ms * 1000.0),
            )
        })
        .collect();
    let row = |claim: &str, test: fn(&Report) -> Option<Judgement>| {
        Row::new(Subject::Process, claim, Section::ProcessFaults, test)
    };
    rows.push(row("a copy-on-write fault costs 6.5 us", each));
    rows.push(row(
        "a child that writes most of its memory would have been cheaper by eager copy",
        crossover,
    ));
    rows.push(row("a parent pays too for what it writes while its child lives", parent));
    rows.push(Row::new(
        Subject::Process,
        "in a Linux guest: a copy-on-write fault costs 6.5 us",
        Section::ProcessInGuest,
        in_guest,
    ));
    rows
}

fn in_guest(report: &Report) -> Option<Judgement> {
    let rows = &report.process_in_guest.as_ref()?.writes;
    let row = rows.iter().find(|row| row.order == Order::Sequential && row.fraction == 1.0)?;
    let us = row.ns_per_page / 1000.0;
    Some(Judgement::within_twice(us, 6.5, format!("{us:.2} us a page in a row")))
}

fn total(report: &Report, fraction: f64, claimed_us: f64) -> Option<Judgement> {
    let figures = report.process_faults.as_ref()?;
    let row = figures.after_fork(Backing::Small, Order::Sequential, fraction)?;
    Some(Judgement::within_twice(
        row.call_us + row.write_us,
        claimed_us,
        format!("{} to fork and {} to write", time(row.call_us), time(row.write_us)),
    ))
}

fn each(report: &Report) -> Option<Judgement> {
    let figures = report.process_faults.as_ref()?;
    let us = |order| {
        let row = figures.after_fork(Backing::Small, order, 1.0)?;
        Some(row.ns_per_page / 1000.0)
    };
    let sequential = us(Order::Sequential)?;
    let scattered =
        us(Order::Scattered).map_or_else(String::new, |us| format!(", {us:.2} us scattered"));
    Some(Judgement::within_twice(
        sequential,
        6.5,
        format!("{sequential:.2} us a page in a row{scattered}"),
    ))
}

fn crossover(report: &Report) -> Option<Judgement> {
    let found = &report.process_faults.as_ref()?.crossover;
    let words: Vec<String> = found
        .iter()
        .map(|row| match row.fraction {
            Some(fraction) => {
                format!("{}, {}: {}", row.order.name(), row.copy.name(), percent(fraction))
            }
            None => format!("{}, {}: {}", row.order.name(), row.copy.name(), row.words),
        })
        .collect();
    let crossing = found.iter().filter(|row| row.fraction.is_some()).count();
    let rule = format!("{crossing} of {} pairs of order and copy have such a point", found.len());
    match (found.len(), crossing) {
        (0, _) => None,
        (all, some) if 0 < some && some < all => Some(Judgement::partly(rule, words.join("; "))),
        (_, some) => Some(Judgement::when(some > 0, rule, words.join("; "))),
    }
}

fn parent(report: &Report) -> Option<Judgement> {
    let figures = report.process_faults.as_ref()?;
    let of = |child| {
        figures.parents.iter().find(|row| {
            row.child == child
                && row.backing == Backing::Small
                && row.order == Order::Sequential
                && row.fraction == 1.0
        })
    };
    let (none, alive, gone) = (of(Sharer::None)?, of(Sharer::Alive)?, of(Sharer::Gone)?);
    Some(Judgement::when(
        alive.ns_per_page > 2.0 * none.ns_per_page,
        "more than twice as much as without a child",
        format!(
            "{:.0} ns a page without a fork, {:.0} with a child alive, {:.0} when it has gone",
            none.ns_per_page, alive.ns_per_page, gone.ns_per_page
        ),
    ))
}
