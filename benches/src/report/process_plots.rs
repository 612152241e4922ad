//! The plots of what is measured of processes.

use tine_forkbench::rows::{Backing, Order, Way};

use super::Report;
use super::bars::BarPlot;
use super::lines::{Axis, Line, LinePlot};
use super::plots::{TIME, time_axis};
use super::units::{bytes, percent};
use crate::sections::process::spawn::ProcessSpawnRow;

/// Children in every way, by the size of their parent.
pub fn spawn(report: &Report) -> LinePlot {
    let points = |way: Way| {
        let rows = report.process_spawn.iter().flat_map(|figures| figures.dense(way));
        rows.map(|row: &ProcessSpawnRow| (row.size_bytes as f64, row.call_p50_us)).collect()
    };
    let line = |name, color, open, way| Line { name, color, open, points: points(way) };
    LinePlot {
        title: "The call that makes a child, p50, by the parent's memory (dense, 4 KiB pages)",
        x: Axis { name: "parent's memory", base: 2.0, tick: bytes },
        y: time_axis("time"),
        lines: vec![
            line("eager, by the program", 1, false, Way::Eager),
            line("eager, by the kernel", 1, true, Way::Populated),
            line("fork", 0, false, Way::Fork),
            line("posix_spawn", 2, true, Way::PosixSpawn),
            line("vfork", 2, false, Way::Vfork),
        ],
        marks: vec![],
    }
}

/// Fork or copy, and the writes after it, by what part of 100 MiB is written.
pub fn faults(report: &Report) -> LinePlot {
    let line = |name, color, open, way: Way, order: Order| {
        let rows = report.process_faults.iter().flat_map(|figures| &figures.children);
        let rows = rows
            .filter(|row| row.way == way && row.order == order && row.backing == Backing::Small);
        let points = rows.map(|row| (row.fraction, row.call_us + row.write_us)).collect();
        Line { name, color, open, points }
    };
    LinePlot {
        title: "Fork and the child's writes together, by the part of 100 MiB written",
        x: Axis { name: "part of the region written", base: 10.0, tick: percent },
        y: time_axis("time"),
        lines: vec![
            line("fork, sequential", 0, false, Way::Fork, Order::Sequential),
            line("fork, scattered", 0, true, Way::Fork, Order::Scattered),
            line("eager by the program, sequential", 1, false, Way::Eager, Order::Sequential),
            line("eager by the kernel, sequential", 1, true, Way::Populated, Order::Sequential),
        ],
        marks: vec![],
    }
}

/// Advice, followed and not.
pub fn tuning(report: &Report) -> BarPlot {
    let sides = report.process_tuning.iter().flat_map(|row| {
        [&row.before, &row.after].map(|side| {
            let parts = vec![
                ("call".to_owned(), side.call_us),
                ("ahead".to_owned(), side.ahead_us),
                ("work".to_owned(), side.work_us),
            ];
            (format!("{}: {}", row.what, side.setting), parts)
        })
    });
    BarPlot {
        title: "Advice for processes that fork: before and after",
        axis: "time, medians: the call, what is done ahead, and the child's work",
        tick: TIME,
        bars: sides.collect(),
        legend: true,
    }
}
