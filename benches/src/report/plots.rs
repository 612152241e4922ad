//! The plots of the page.

use super::Report;
use super::bars::BarPlot;
use super::lines::{Axis, Line, LinePlot};
use super::times::{TimeLine, TimePlot};
use super::units::{bytes, percent, short};
use super::{process_plots, vm_plots};
use crate::BenchError;
use crate::plan::Section;
use crate::saves::SaveRow;
use crate::sections::live_fork::LiveForkRow;

/// The plot of `section`, as SVG; none if there is nothing to draw.
pub fn of(section: Section, report: &Report) -> Result<Vec<String>, BenchError> {
    let plots = match section {
        Section::Spawn => vec![spawn(report).svg()?, ladder(report).svg()?],
        Section::LiveFork => vec![live_fork(report).svg()?],
        Section::CowFaults => vec![cow_faults(report).svg()?],
        Section::Density => vec![density(report).svg()?],
        Section::VmTimeline => vec![timeline(report).svg()?],
        Section::ReadFaults => vec![vm_plots::read_faults(report).svg()?],
        Section::HotSet => vec![vm_plots::hot_set(report).svg()?],
        Section::Ledger => vec![vm_plots::ledger(report).svg()?],
        Section::Reset => vec![vm_plots::reset(report).svg()?],
        Section::Dormant => vec![vm_plots::dormant(report).svg()?],
        Section::Cells => vec![vm_plots::cells(report).svg()?],
        Section::WorkingSet => vec![vm_plots::working_set(report).svg()?],
        Section::ProcessSpawn => vec![process_plots::spawn(report).svg()?],
        Section::ProcessFaults => vec![process_plots::faults(report).svg()?],
        Section::ProcessTuning => vec![process_plots::tuning(report).svg()?],
        Section::Redis => match &report.redis {
            Some(figures) => saves("Redis BGSAVE", "writes a second", &figures.saves)?,
            None => vec![],
        },
        Section::VmBgsave => match &report.vm_bgsave {
            Some(figures) => saves("A machine is saved", "pages written a second", &figures.saves)?,
            None => vec![],
        },
        _ => vec![],
    };
    Ok(plots.into_iter().flatten().collect())
}

/// Writes a time at a tick.
pub const TIME: fn(f64) -> String = |us| match us {
    0.0 => "0".to_owned(),
    us if us < 1e3 => format!("{} us", short(us)),
    us if us < 1e6 => format!("{} ms", short(us / 1e3)),
    us => format!("{} s", short(us / 1e6)),
};

/// An axis of times.
pub fn time_axis(name: &'static str) -> Axis {
    Axis { name, base: 10.0, tick: TIME }
}

fn spawn(report: &Report) -> LinePlot {
    let points = |memory: &str, value: fn(&crate::sections::spawn::SpawnRow) -> f64| {
        let rows = report.spawn.iter().filter(|row| row.memory == memory);
        rows.map(|row| (row.guest_bytes as f64, value(row))).collect()
    };
    let line = |name, color, open, points| Line { name, color, open, points };
    LinePlot {
        title: "Request to first guest instruction, p50",
        x: Axis { name: "guest memory", base: 2.0, tick: bytes },
        y: time_axis("time"),
        lines: vec![
            line("eager copy", 1, false, points("eager", |row| row.p50_us)),
            line("copy-on-write", 0, false, points("cow", |row| row.p50_us)),
            line("its memory step", 0, true, points("cow", |row| row.step("map"))),
        ],
        marks: vec![],
    }
}

fn ladder(report: &Report) -> BarPlot {
    let rows = report.spawn.iter().filter(|row| row.memory == "cow");
    let bars = rows.map(|row| {
        let parts = row.ladder.0.iter().map(|step| (step.0.replace('_', " "), step.1));
        (bytes(row.guest_bytes as f64), parts.collect())
    });
    BarPlot {
        title: "Steps of a copy-on-write spawn, by guest memory",
        axis: "time, sum of the steps' medians",
        tick: TIME,
        bars: bars.collect(),
        legend: true,
    }
}

fn cow_faults(report: &Report) -> LinePlot {
    let line = |name, color, open, pattern: &str, memory: &str| {
        let rows = report.cow_faults.iter();
        let rows = rows.filter(|row| row.pattern == pattern && row.memory == memory);
        let points = rows.map(|row| (row.fraction, row.clone_us + row.total_us)).collect();
        Line { name, color, open, points }
    };
    let marks = report.crossover.iter().filter_map(|row| {
        let word = format!("crossover, {}: {}", row.pattern, percent(row.fraction?));
        Some((row.fraction?, row.total_us?, word))
    });
    LinePlot {
        title: "Clone and writes together, by the part of 100 MiB written",
        x: Axis { name: "part of the region written", base: 10.0, tick: percent },
        y: time_axis("time"),
        lines: vec![
            line("copy-on-write, sequential", 0, false, "sequential", "cow"),
            line("copy-on-write, scattered", 0, true, "scattered", "cow"),
            line("eager copy, sequential", 1, false, "sequential", "eager"),
            line("eager copy, scattered", 1, true, "scattered", "eager"),
        ],
        marks: marks.collect(),
    }
}

fn live_fork(report: &Report) -> LinePlot {
    let line = |name, color, method, value: fn(&LiveForkRow) -> f64| {
        let rows = report.live_fork.iter().filter(|row| row.children == 1);
        let rows = rows.filter(|row| row.method == method && row.mapped == "dirty");
        let points = rows.map(|row| (row.dirty_pages as f64, value(row))).collect();
        Line { name, color, open: method == "process", points }
    };
    LinePlot {
        title: "Fork of a running guest, p50",
        x: Axis { name: "pages that the parent has written", base: 10.0, tick: short },
        y: time_axis("time"),
        lines: vec![
            line("child's first instruction, by copy", 2, "copy", |row| row.first_instruction_us),
            line("parent's pause, by copy", 0, "copy", |row| row.parent_pause_us),
            line("child's first instruction, by fork(2)", 2, "process", |row| {
                row.first_instruction_us
            }),
            line("parent's pause, by fork(2)", 0, "process", |row| row.parent_pause_us),
        ],
        marks: vec![],
    }
}

fn timeline(report: &Report) -> LinePlot {
    let line = |name, color, clone: &str| {
        let row = report.vm_timeline.iter().find(|row| row.clone == clone);
        let moments = row.map_or(&[][..], |row| &row.moments);
        let points = moments.iter().map(|moment| (moment.us, moment.pss_bytes)).collect();
        Line { name, color, open: false, points }
    };
    LinePlot {
        title: "Memory of a clone's process, from the request to its first answer",
        x: time_axis("time since the request"),
        y: Axis { name: "share of what it maps (Pss)", base: 2.0, tick: bytes },
        lines: vec![
            line("eager copy", 1, "eager copy"),
            line("fork of a running machine", 2, "fork"),
            line("spawn from a snapshot", 0, "spawn"),
        ],
        marks: vec![],
    }
}

fn density(report: &Report) -> BarPlot {
    let parts = report.density.iter().flat_map(|density| &density.parts.0);
    let bars = parts.map(|(name, size)| {
        let name = name.replace('_', " ");
        (name.clone(), vec![(name, *size / 1024.0)])
    });
    BarPlot {
        title: "Host memory of a clone, by what it is",
        axis: "memory",
        tick: |kib| format!("{} KiB", short(kib)),
        bars: bars.collect(),
        legend: false,
    }
}

/// Work over time, one plot for each save with the save marked, and memory over time.
fn saves(
    what: &str,
    axis: &'static str,
    rows: &[SaveRow],
) -> Result<Vec<Option<String>>, BenchError> {
    let mut plots = Vec::new();
    for (color, row) in rows.iter().enumerate() {
        let points = row.timeline.iter().map(|bin| (bin.ms / 1e3, bin.per_second)).collect();
        let name = format!("{} written", percent(row.written));
        let plot = TimePlot {
            title: format!("{what}: throughput, {name} during the save"),
            axis,
            tick: short,
            lines: vec![TimeLine { name, color, points }],
            span: Some((0.0, row.save_seconds, "the save".to_owned())),
        };
        plots.push(plot.svg()?);
    }
    let lines = rows.iter().enumerate().map(|(color, row)| TimeLine {
        name: format!("{} written", percent(row.written)),
        color,
        points: row
            .memory
            .iter()
            .map(|point| (point.ms / 1e3, point.extra_bytes / f64::from(1 << 20)))
            .collect(),
    });
    let memory = TimePlot {
        title: format!("{what}: memory beyond what there was before"),
        axis: "memory",
        tick: |mib| format!("{} MiB", short(mib)),
        lines: lines.collect(),
        span: None,
    };
    plots.push(memory.svg()?);
    Ok(plots)
}
