//! Verdicts on claims about cells.

use super::Report;
use super::units::{bytes, percent, time, times};
use super::verdicts::{Outcome, Verdict, verdict};
use crate::sections::live_fork::LiveForkRow;

fn forks<'a>(report: &'a Report, method: &str, dirty: u64) -> Option<&'a LiveForkRow> {
    report.live_fork.iter().find(|row| {
        row.method == method
            && row.dirty_pages == dirty
            && row.children == 1
            && row.mapped == "dirty"
    })
}

pub fn process_pauses_less(report: &Report) -> Option<Verdict> {
    let (copy, process) = (forks(report, "copy", 10_000)?, forks(report, "process", 10_000)?);
    Some(verdict(
        "fork(2) of a guest with 10,000 dirty pages stops it for less time than copying them",
        Outcome::when(process.parent_pause_us < copy.parent_pause_us),
        format!(
            "{} by fork(2), {} by copy",
            time(process.parent_pause_us),
            time(copy.parent_pause_us)
        ),
    ))
}

pub fn process_pays_later(report: &Report) -> Option<Verdict> {
    let (copy, process) = (forks(report, "copy", 10_000)?, forks(report, "process", 10_000)?);
    let (copied, forked) = (copy.refault_ns_per_page?, process.refault_ns_per_page?);
    Some(verdict(
        "after fork(2) a parent pays for every page that it writes again, after copying it does not",
        Outcome::when(forked > 10.0 * copied),
        format!(
            "{:.2} us a page after fork(2), {:.2} us after copying",
            forked / 1e3,
            copied / 1e3
        ),
    ))
}

pub fn dormant_ratio(report: &Report) -> Option<Verdict> {
    let row = report.dormant.iter().min_by_key(|row| row.guest_bytes.abs_diff(1 << 30))?;
    Some(verdict(
        "a clone of 1 GB that was made ahead runs 1000 times as soon as an eager copy",
        Outcome::when(row.ratio >= 1000.0),
        format!(
            "{} in {} and {} by eager copy: {}",
            bytes(row.guest_bytes as f64),
            time(row.in_daemon_p50_us),
            time(row.eager_p50_us),
            times(row.ratio)
        ),
    ))
}

pub fn dormant_is_flat(report: &Report) -> Option<Verdict> {
    let small = report.dormant.iter().min_by_key(|row| row.guest_bytes)?;
    let large = report.dormant.iter().max_by_key(|row| row.guest_bytes)?;
    (small.guest_bytes < large.guest_bytes).then(|| {
        verdict(
            "a dormant clone takes the same time at any size",
            Outcome::when(large.in_daemon_p50_us < 2.0 * small.in_daemon_p50_us),
            format!(
                "{} at {}, {} at {}",
                time(small.in_daemon_p50_us),
                bytes(small.guest_bytes as f64),
                time(large.in_daemon_p50_us),
                bytes(large.guest_bytes as f64)
            ),
        )
    })
}

pub fn one_pause(report: &Report) -> Option<Verdict> {
    let fanout = report.fanout.as_ref()?;
    Some(verdict(
        "a hundred children cost their parent one pause",
        Outcome::when(fanout.parent_pauses == 1),
        format!(
            "{} children in {}, {} pause of {}",
            fanout.n,
            time(fanout.total_us),
            fanout.parent_pauses,
            time(fanout.parent_longest_pause_us)
        ),
    ))
}

pub fn cells_are_small(report: &Report) -> Option<Verdict> {
    let cells = report.cells.as_ref()?;
    let part = cells.bytes_per_cell / cells.guest_bytes as f64;
    Some(verdict(
        "a guest in a process of its own takes a small part of its memory",
        Outcome::when(part < 0.02),
        format!(
            "{} each of {}, {}",
            bytes(cells.bytes_per_cell),
            bytes(cells.guest_bytes as f64),
            percent(part)
        ),
    ))
}

pub fn confinement_is_ahead(report: &Report) -> Option<Verdict> {
    let figures = report.confinement.as_ref()?;
    let part = figures.extra_us() / figures.unconfined_p50_us;
    Some(verdict(
        "confinement is paid for when a cell is made, not when a clone is woken",
        Outcome::when(part < 0.1 && figures.ahead_us() > figures.extra_us()),
        format!(
            "{} for a clone ({}), {} for a cell",
            signed(figures.extra_us()),
            percent(part),
            signed(figures.ahead_us())
        ),
    ))
}

fn signed(us: f64) -> String {
    if us < 0.0 { format!("-{}", time(-us)) } else { time(us) }
}

pub fn hot_set_helps(report: &Report) -> Option<Verdict> {
    let row = |pattern| report.working_set.iter().find(|row| row.pattern == pattern);
    let (clustered, scattered) = (row("clustered")?, row("scattered")?);
    Some(verdict(
        "a hot set makes the first work of a clone cheaper",
        Outcome::when(clustered.ratio > 1.2 && scattered.ratio > 1.2),
        format!(
            "{} where pages lie together, {} where they are scattered",
            times(clustered.ratio),
            times(scattered.ratio)
        ),
    ))
}
