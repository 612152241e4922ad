//! The figures of the README, as Markdown: so that they are those of a run, and of one run.

use std::fmt::Write as _;

use tine_forkbench::rows::Way;

use super::Report;
use super::units::{bytes, percent, short, time, times};
use crate::claims::SIZES_MIB;
use crate::sections::live_fork::LiveForkRow;

/// Everything that the README tells of a run. What was not measured is left out.
pub fn numbers(report: &Report) -> String {
    let parts = [
        header(report),
        spawns(report),
        live_forks(report),
        processes(report),
        after(report),
        claims(report),
    ];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("\n")
}

fn header(report: &Report) -> String {
    let host = &report.host;
    let or_unknown = |fact: &Option<String>| fact.clone().unwrap_or_else(|| "unknown".to_owned());
    let drifts =
        report.noise.controls.iter().filter_map(|control| {
            Some(format!("{} of a {}", percent(control.drift?), control.name))
        });
    let drifts = drifts.collect::<Vec<_>>().join(", ");
    let drifts =
        if drifts.is_empty() { drifts } else { format!("; the host's own drift {drifts}") };
    // Where the program and its files were is nobody's business.
    let names = host.command.split(' ').map(|word| word.rsplit('/').next().unwrap_or_default());
    let command = names.collect::<Vec<_>>().join(" ");
    format!(
        "`{command}` on {}, {} cores, {}, Linux {}, `{}` (guest ring 0 {}), THP `{}`; {}, \
         {:.0} s; p50 unless said{drifts}.\n",
        or_unknown(&host.cpu),
        host.cores,
        bytes(host.memory_bytes as f64),
        host.kernel,
        host.kvm.module,
        host.kvm.ring0,
        or_unknown(&host.thp_enabled),
        host.date.split('T').next().unwrap_or_default(),
        report.seconds,
    )
}

/// A table; nothing if it has no rows.
fn table(columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let rows: String = rows.into_iter().map(|row| line(&row)).collect();
    if rows.is_empty() {
        return rows;
    }
    format!("| {} |\n|{}\n{rows}", columns.join(" | "), "---|".repeat(columns.len()))
}

fn spawns(report: &Report) -> String {
    let rows = report.spawn.iter().filter(|row| row.memory == "cow").map(|cow| {
        let size = cow.guest_bytes;
        let eager = report.spawn.iter().find(|it| it.memory == "eager" && it.guest_bytes == size);
        let dormant = report.dormant.iter().find(|it| it.guest_bytes == size);
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        vec![
            bytes(size as f64),
            or_dash(dormant.map(|it| time(it.in_daemon_p50_us))),
            or_dash(dormant.map(|it| time(it.http_p50_us))),
            time(cow.p50_us),
            time(cow.step("map")),
            or_dash(eager.map(|it| time(it.p50_us))),
            or_dash(eager.map(|it| times(it.ratio_to_cow))),
            or_dash(dormant.map(|it| times(it.ratio))),
        ]
    });
    let columns = [
        "guest",
        "dormant clone",
        "the same, HTTP client",
        "nothing made ahead",
        "its memory step",
        "eager copy",
        "eager / nothing ahead",
        "eager / dormant, both in cells",
    ];
    table(&columns, rows)
}

fn live_forks(report: &Report) -> String {
    let of = |method: &str, like: &LiveForkRow| {
        let mut rows = report.live_fork.iter();
        let found = rows.find(|row| {
            row.method == method
                && (row.dirty_pages, row.children) == (like.dirty_pages, like.children)
                && row.mapped == like.mapped
        });
        let or_dash = |us: Option<f64>| us.map_or_else(|| "-".to_owned(), time);
        let last = |row: &LiveForkRow| match row.children {
            1 => row.first_instruction_us,
            _ => row.last_child_us,
        };
        (or_dash(found.map(|row| row.parent_pause_us)), or_dash(found.map(last)))
    };
    let rows = report.live_fork.iter().filter(|row| row.method == "process").map(|row| {
        let mut name = format!("{} dirty pages", row.dirty_pages);
        if row.mapped == "all" {
            name.push_str(", and all of the rest read");
        }
        if row.children > 1 {
            let _ = write!(name, ", {} children", row.children);
        }
        let (process, copy) = (of("process", row), of("copy", row));
        vec![name, process.0, copy.0, process.1, copy.1]
    });
    let size = report.live_fork.first().map_or(0.0, |row| row.guest_bytes as f64);
    let first = format!("live fork of a running guest of {}", bytes(size));
    let columns = [
        first.as_str(),
        "parent stands still: `fork(2)`",
        "by copy",
        "last child's first instruction: `fork(2)`",
        "by copy",
    ];
    table(&columns, rows)
}

fn processes(report: &Report) -> String {
    let rows = report.process_spawn.iter().flat_map(|figures| {
        let call = |way, mib| {
            figures.of(way, mib).map_or_else(|| "-".to_owned(), |row| time(row.call_p50_us))
        };
        SIZES_MIB.into_iter().filter_map(move |mib| {
            let fork = figures.of(Way::Fork, mib)?;
            let tables = fork.child_page_table_bytes.map(|size| bytes(size as f64));
            Some(vec![
                bytes(fork.size_bytes as f64),
                figures.eager(mib).map_or_else(|| "-".to_owned(), |row| time(row.call_p50_us)),
                time(fork.call_p50_us),
                call(Way::Vfork, mib),
                call(Way::PosixSpawn, mib),
                tables.unwrap_or_else(|| "-".to_owned()),
            ])
        })
    });
    let columns = [
        "process, all of its memory written",
        "eager copy",
        "`fork`",
        "`vfork`",
        "`posix_spawn`",
        "the child's page tables",
    ];
    table(&columns, rows)
}

fn after(report: &Report) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut add = |what: &str, figure: String| rows.push(vec![what.to_owned(), figure]);
    let us = |ns: f64| format!("{} us", short(ns / 1000.0));
    if let (Some(cow), Some(eager)) =
        (report.fault("sequential", "cow", 0.1), report.fault("sequential", "eager", 0.1))
    {
        let figure =
            format!("{} (after an eager copy {})", us(cow.ns_per_page), us(eager.ns_per_page));
        add("first write to a shared page, in the guest, in a row", figure);
    }
    if let Some(fork) =
        report.fork_to_one("process", 10_000).and_then(|row| row.refault_ns_per_page)
        && let Some(copy) =
            report.fork_to_one("copy", 10_000).and_then(|row| row.refault_ns_per_page)
    {
        let figure = format!("{} by `fork(2)`, its child alive; {} by copy", us(fork), us(copy));
        add("a page that the parent writes again after a live fork", figure);
    }
    for row in &report.crossover {
        let figure = match row.fraction {
            Some(fraction) => format!("above {} of 100 MiB written", percent(fraction)),
            None => row.words.clone(),
        };
        add(&format!("eager copy would have been cheaper, {}", row.pattern), figure);
    }
    for row in &report.working_set {
        let figure = format!("{} in place of {}", time(row.on_us), time(row.off_us));
        let what = format!(
            "first {} writes and {} reads of a clone with its hot set, {}",
            row.written_pages, row.read_pages, row.pattern
        );
        add(&what, figure);
    }
    if let Some(fanout) = &report.fanout {
        let figure = format!(
            "{} for all to run; the parent stands still {} time, {}",
            time(fanout.total_us),
            fanout.parent_pauses,
            time(fanout.parent_longest_pause_us)
        );
        let size = bytes(fanout.guest_bytes as f64);
        add(&format!("a running guest of {size} forked into {}", fanout.n), figure);
    }
    if let Some(cells) = &report.cells {
        let what = format!(
            "{} cells of {} alive, each having run",
            cells.count,
            bytes(cells.guest_bytes as f64)
        );
        add(&what, format!("{} each", bytes(cells.bytes_per_cell)));
    }
    if let Some(density) = &report.density {
        let size = bytes(density.guest_bytes as f64);
        let what = format!("{} clones of {size} in one process", density.clones);
        add(&what, format!("{} each", bytes(density.bytes_per_clone)));
    }
    if let Some(reset) = report.reset.first() {
        let figure = format!(
            "{}; {} to an answer, from a new clone {}",
            time(reset.p50_us),
            time(reset.answer_p50_us),
            time(reset.spawn_answer_p50_us)
        );
        add(&format!("reset of a guest with {} dirty pages", reset.dirty_pages), figure);
    }
    if let Some(confinement) = &report.confinement {
        let figure = format!(
            "{} of a dormant clone, {} of a cell, made ahead",
            time(confinement.extra_us().max(0.0)),
            time(confinement.ahead_us().max(0.0))
        );
        add("confinement", figure);
    }
    table(&["what comes after the fork", ""], rows)
}

fn claims(report: &Report) -> String {
    let rows = report.claims.iter().map(|claim| {
        let count = |verdict| claim.rows.iter().filter(|row| row.verdict == verdict).count();
        use crate::claims::Verdict::{Contradicted, Holds, NotMeasured, Partly};
        vec![
            format!("{}. {}", claim.section, claim.title),
            claim.verdict.words().to_owned(),
            [Holds, Partly, Contradicted, NotMeasured].map(|it| count(it).to_string()).join(" / "),
        ]
    });
    let columns = [
        "claim about fork and copy-on-write",
        "verdict",
        "rows: hold / in part / contradicted / not measured",
    ];
    table(&columns, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_needs_rows() {
        assert_eq!(table(&["a"], []), "");
        let row = vec!["x".to_owned(), "1".to_owned()];
        assert_eq!(table(&["a", "b"], [row]), "| a | b |\n|---|---|\n| x | 1 |\n");
    }

    #[test]
    fn a_report_without_figures_has_a_header_alone_and_no_path() {
        let mut report = Report::empty();
        report.host.command = "/home/someone/target/release/tine bench --quick".to_owned();
        let text = numbers(&report);
        assert!(text.starts_with("`tine bench --quick` on a processor, 2 cores"), "{text}");
        assert!(!text.contains("/home"));
        assert_eq!(text.lines().count(), 1);
    }
}
