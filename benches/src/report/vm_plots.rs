//! Plots of reads, hot sets, memory and of clones made ahead.

use super::Report;
use super::bars::BarPlot;
use super::lines::{Axis, Line, LinePlot};
use super::plots::{TIME, time_axis};
use super::units::{bytes, percent, short};
use crate::sections::dormant::DormantRow;
use crate::sections::hot_set::WorkingSet;
use crate::sections::reset::ResetRow;

fn line(name: &'static str, color: usize, open: bool, points: Vec<(f64, f64)>) -> Line {
    Line { name, color, open, points }
}

/// One bar of parts.
type Bar = (String, Vec<(String, f64)>);

fn bar<const N: usize>(name: impl Into<String>, parts: [(&str, f64); N]) -> Bar {
    let parts = parts.into_iter().map(|(part, length)| (part.to_owned(), length));
    (name.into(), parts.collect())
}

const KIB: fn(f64) -> String = |kib| format!("{} KiB", short(kib));
const MIB: fn(f64) -> String = |mib| format!("{} MiB", short(mib));

pub fn read_faults(report: &Report) -> LinePlot {
    let points = |operation: &str, memory: &str| {
        let rows = report.read_faults.iter().filter(|row| row.pattern == "scattered");
        let rows = rows.filter(|row| row.operation == operation && row.memory == memory);
        rows.map(|row| (row.fraction, row.total_us)).collect()
    };
    LinePlot {
        title: "Scattered pages read, and then written, by the part of 100 MiB visited",
        x: Axis { name: "part of the region visited", base: 10.0, tick: percent },
        y: time_axis("time, without the clone's making"),
        lines: vec![
            line("copy-on-write, read", 0, false, points("read", "cow")),
            line("copy-on-write, then written", 0, true, points("write after read", "cow")),
            line("eager copy, read", 1, false, points("read", "eager")),
            line("eager copy, then written", 1, true, points("write after read", "eager")),
        ],
        marks: vec![],
    }
}

pub fn hot_set(report: &Report) -> BarPlot {
    let sets = report.hot_set.iter();
    let sets = sets.flat_map(|it| [("in a row", &it.clustered), ("scattered", &it.scattered)]);
    let pair = |(name, set): (&str, &WorkingSet)| {
        let parts = |ahead, write| [("copying ahead", ahead), ("first write in the guest", write)];
        [
            bar(format!("{name}, off"), parts(0.0, set.off_ns_per_page / 1e3)),
            bar(
                format!("{name}, on"),
                parts(set.apply_ns_per_page / 1e3, set.on_ns_per_page / 1e3),
            ),
        ]
    };
    BarPlot {
        title: "A page of a working set, with its hot set off and on",
        axis: "time a page",
        tick: TIME,
        bars: sets.flat_map(pair).collect(),
        legend: true,
    }
}

pub fn working_set(report: &Report) -> BarPlot {
    let pair = |row: &crate::sections::working_set::WorkingSetRow| {
        let parts = |write, read| [("writes", write), ("reads", read)];
        [
            bar(format!("{}, off", row.pattern), parts(row.off_write_us, row.off_read_us)),
            bar(format!("{}, on", row.pattern), parts(row.on_write_us, row.on_read_us)),
        ]
    };
    BarPlot {
        title: "First work of a clone, with its hot set off and on",
        axis: "time, sum of medians",
        tick: TIME,
        bars: report.working_set.iter().flat_map(pair).collect(),
        legend: true,
    }
}

pub fn ledger(report: &Report) -> BarPlot {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let bars = report.ledger.iter().map(|row| {
        let ledger = &row.ledger;
        let name = format!("{}, {} writing", row.memory, row.moment);
        let parts = [
            ("private", mib(ledger.private_bytes)),
            ("shared", mib(ledger.shared_bytes)),
            ("page tables", mib(ledger.page_table_bytes)),
        ];
        bar(name, parts)
    });
    BarPlot {
        title: "Memory that a clone of 256 MiB maps, before and after it writes a tenth",
        axis: "memory",
        tick: MIB,
        bars: bars.collect(),
        legend: true,
    }
}

pub fn reset(report: &Report) -> LinePlot {
    let points = |value: fn(&ResetRow) -> f64| {
        let rows = report.reset.iter();
        // There is no place for none on the axis.
        rows.map(|row| (row.dirty_pages.max(1) as f64, value(row))).collect()
    };
    LinePlot {
        title: "Back to the snapshot until the guest answers, p50",
        x: Axis { name: "pages that were written", base: 10.0, tick: short },
        y: time_axis("time"),
        lines: vec![
            line("reset", 2, false, points(|row| row.answer_p50_us)),
            line("new clone", 0, false, points(|row| row.spawn_answer_p50_us)),
        ],
        marks: vec![],
    }
}

pub fn dormant(report: &Report) -> LinePlot {
    let points = |value: fn(&DormantRow) -> f64| {
        report.dormant.iter().map(|row| (row.guest_bytes as f64, value(row))).collect()
    };
    LinePlot {
        title: "A clone made ahead, to its first instruction, against an eager copy, p50",
        x: Axis { name: "guest memory", base: 2.0, tick: bytes },
        y: time_axis("time"),
        lines: vec![
            line("eager copy", 1, false, points(|row| row.eager_p50_us)),
            line("made ahead, over HTTP", 0, true, points(|row| row.http_p50_us)),
            line("made ahead, in the daemon", 0, false, points(|row| row.in_daemon_p50_us)),
        ],
        marks: vec![],
    }
}

pub fn cells(report: &Report) -> BarPlot {
    let parts = report.cells.iter().flat_map(|cells| &cells.parts.0);
    let bars = parts.map(|(name, size)| bar(name.replace('_', " "), [("", *size / 1024.0)]));
    BarPlot {
        title: "Host memory of a cell and its guest, by what it is",
        axis: "memory",
        tick: KIB,
        bars: bars.collect(),
        legend: false,
    }
}
