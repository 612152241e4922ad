//! Point-in-time snapshots: Redis BGSAVE: section 8 of the source text.

use tine_abi::layout::PAGE_SIZE;

use super::{Judgement, Row, Said, Subject, bgsave_rows};
use crate::plan::Section;
use crate::report::Report;
use crate::report::units::time;

/// What is said.
pub fn said() -> Said {
    Said {
        section: 8,
        title: "Point-in-time snapshots: Redis BGSAVE",
        claim: "A server forks; the child writes the data set out; the parent changes about 1 % meanwhile, and only changed pages are duplicated, more under heavy writes.",
        rows: bgsave_rows::rows().into_iter().chain(tine_rows()).collect(),
        by_hand: &["tine bench --only redis,vm-bgsave,live-fork,fanout"],
    }
}

/// What follows for forks of machines.
fn tine_rows() -> Vec<Row> {
    vec![
        Row::new(
            Subject::Vm,
            "a snapshot of a running server costs what it has written, not what it holds",
            Section::LiveFork,
            pause_follows_writes,
        ),
        Row::new(
            Subject::Vm,
            "several children cost the parent one pause",
            Section::LiveFork,
            siblings_share,
        ),
        Row::new(
            Subject::Vm,
            "fork(2) of a guest with 10,000 dirty pages stops it for less time than copying them",
            Section::LiveFork,
            process_pauses_less,
        ),
        Row::new(
            Subject::Vm,
            "after fork(2) a parent pays for every page that it writes again, after copying it does not",
            Section::LiveFork,
            process_pays_later,
        ),
        Row::new(
            Subject::Vm,
            "a hundred children cost their parent one pause",
            Section::Fanout,
            one_pause,
        ),
    ]
}

fn pause_follows_writes(report: &Report) -> Option<Judgement> {
    let rows = || {
        let rows = report.live_fork.iter().filter(|row| row.children == 1);
        rows.filter(|row| row.method == "copy" && row.mapped == "dirty")
    };
    let few = rows().min_by_key(|row| row.dirty_pages)?;
    let many = rows().max_by_key(|row| row.dirty_pages)?;
    let all = many.guest_bytes / PAGE_SIZE;
    let per_page = (many.parent_pause_us - few.parent_pause_us)
        / (many.dirty_pages - few.dirty_pages).max(1) as f64;
    Some(Judgement::when(
        many.parent_pause_us < per_page * all as f64 / 2.0,
        "the pause at many written pages is less than half of what all pages would take",
        format!(
            "pause {} at {} written pages and {} at {}, of {all}: {:.2} us a page",
            time(few.parent_pause_us),
            few.dirty_pages,
            time(many.parent_pause_us),
            many.dirty_pages,
            per_page
        ),
    ))
}

fn siblings_share(report: &Report) -> Option<Judgement> {
    let wide = report.live_fork.iter().find(|row| row.children > 1)?;
    let one = report.live_fork.iter().find(|row| {
        row.children == 1
            && row.dirty_pages == wide.dirty_pages
            && row.method == wide.method
            && row.mapped == wide.mapped
    })?;
    Some(Judgement::when(
        wide.parent_pause_us < 2.0 * one.parent_pause_us,
        "less than twice the pause of one child",
        format!(
            "{} for {} children, {} for one, at {} written pages",
            time(wide.parent_pause_us),
            wide.children,
            time(one.parent_pause_us),
            wide.dirty_pages
        ),
    ))
}

fn process_pauses_less(report: &Report) -> Option<Judgement> {
    let (copy, process) =
        (report.fork_to_one("copy", 10_000)?, report.fork_to_one("process", 10_000)?);
    Some(Judgement::when(
        process.parent_pause_us < copy.parent_pause_us,
        "the shorter pause",
        format!(
            "{} by fork(2), {} by copy",
            time(process.parent_pause_us),
            time(copy.parent_pause_us)
        ),
    ))
}

fn process_pays_later(report: &Report) -> Option<Judgement> {
    let (copy, process) =
        (report.fork_to_one("copy", 10_000)?, report.fork_to_one("process", 10_000)?);
    let (copied, forked) = (copy.refault_ns_per_page?, process.refault_ns_per_page?);
    Some(Judgement::when(
        forked > 10.0 * copied,
        "ten times as much a page or more",
        format!(
            "{:.2} us a page after fork(2), {:.2} us after copying",
            forked / 1e3,
            copied / 1e3
        ),
    ))
}

fn one_pause(report: &Report) -> Option<Judgement> {
    let fanout = report.fanout.as_ref()?;
    Some(Judgement::when(
        fanout.parent_pauses == 1,
        "one pause",
        format!(
            "{} children in {}, {} pause of {}",
            fanout.n,
            time(fanout.total_us),
            fanout.parent_pauses,
            time(fanout.parent_longest_pause_us)
        ),
    ))
}
