//! Tables of what was measured with processes.

use tine_forkbench::rows::{Fate, Memory};

use super::Report;
use super::tables::Table;
use super::units::{bytes, percent, short, time, times};
use crate::sections::process::faults::{ProcessFaultFigures, ProcessFaultRow};
use crate::sections::process::in_guest::GuestProcesses;
use crate::sections::process::spawn::{ProcessSpawnFigures, ProcessSpawnRow};

const PAGE: u64 = 4096;

pub fn children_and_tables(figures: &ProcessSpawnFigures) -> [Table; 2] {
    [children("Processes: what it takes to make a child", &figures.children), page_tables(figures)]
}

/// The same in a Linux guest.
pub fn in_guest(figures: &GuestProcesses) -> [Table; 2] {
    [
        children("Processes in a Linux guest: what it takes to make a child", &figures.children),
        child_writes(
            "Processes in a Linux guest: what a child pays for its writes",
            &figures.writes,
        ),
    ]
}

fn children(title: &'static str, rows: &[ProcessSpawnRow]) -> Table {
    let mut table = Table::new(
        title,
        "All ways in turn, in the same run, of a parent with one region of memory. `call` is until \
         the call returned in the parent; `started` until the child's first statement, or the \
         first of the program that it executes; `end` from its last act until it was waited for. \
         `eager` copies every byte by process_vm_writev, `populated` by the kernel in one call.",
        4,
        &[
            "region",
            "pages",
            "filled",
            "way",
            "n",
            "call p50",
            "p90",
            "min",
            "started p50",
            "end p50",
            "minor faults",
            "child's page tables",
        ],
    );
    for row in rows {
        table.row([
            bytes(row.size_bytes as f64),
            row.backing.name().to_owned(),
            row.density.name().to_owned(),
            row.way.name().to_owned(),
            row.n.to_string(),
            time(row.call_p50_us),
            time(row.call_p90_us),
            time(row.call_min_us),
            time(row.child_p50_us),
            time(row.end_p50_us),
            short(row.minor_faults),
            row.child_page_table_bytes.map_or_else(|| "-".to_owned(), |size| bytes(size as f64)),
        ]);
    }
    table
}

fn page_tables(figures: &ProcessSpawnFigures) -> Table {
    let mut table = Table::new(
        "Processes: page tables of a gigabyte, in pages",
        "PTE, PMD and PUD by arithmetic, from the region's address; the others as the kernel counts \
         them (VmPTE), before and after the region was filled. Tables of the upper levels may be \
         there already, for what lies beside it.",
        1,
        &["filled", "region", "PTE", "PMD", "PUD", "counted in the parent", "in a child"],
    );
    for row in &figures.tables {
        table.row([
            row.density.name().to_owned(),
            bytes(row.size_bytes as f64),
            row.pte_pages.to_string(),
            row.pmd_pages.to_string(),
            row.pud_pages.to_string(),
            (row.after_bytes.saturating_sub(row.before_bytes) / PAGE).to_string(),
            (row.child_after_bytes.saturating_sub(row.child_before_bytes) / PAGE).to_string(),
        ]);
    }
    table
}

pub fn faults(figures: &ProcessFaultFigures) -> [Table; 3] {
    [
        child_writes(
            "Processes: one word into each of some pages of 100 MiB, by a child",
            &figures.children,
        ),
        parent_writes(figures),
        crossover(figures),
    ]
}

fn child_writes(title: &'static str, rows: &[ProcessFaultRow]) -> Table {
    let mut table = Table::new(
        title,
        "Medians. `private` is what is the child's own of the region afterwards, by smaps.",
        4,
        &[
            "pages of",
            "order",
            "way",
            "written",
            "pages",
            "n",
            "call",
            "writes",
            "call + writes",
            "ns/page",
            "minor faults",
            "private",
        ],
    );
    for row in rows {
        table.row([
            row.backing.name().to_owned(),
            row.order.name().to_owned(),
            row.way.name().to_owned(),
            percent(row.fraction),
            row.pages.to_string(),
            row.n.to_string(),
            time(row.call_us),
            time(row.write_us),
            time(row.call_us + row.write_us),
            format!("{:.0}", row.ns_per_page),
            short(row.minor_faults),
            bytes(row.after.private_dirty_bytes as f64),
        ]);
    }
    table
}

fn parent_writes(figures: &ProcessFaultFigures) -> Table {
    let mut table = Table::new(
        "Processes: the same by the parent",
        "Without a fork; after one, while the child is alive; and after one, when the child has gone.",
        4,
        &[
            "pages of",
            "order",
            "child",
            "written",
            "pages",
            "n",
            "writes",
            "ns/page",
            "minor faults",
        ],
    );
    for row in &figures.parents {
        table.row([
            row.backing.name().to_owned(),
            row.order.name().to_owned(),
            row.child.name().to_owned(),
            percent(row.fraction),
            row.pages.to_string(),
            row.n.to_string(),
            time(row.write_us),
            format!("{:.0}", row.ns_per_page),
            short(row.minor_faults),
        ]);
    }
    table
}

fn crossover(figures: &ProcessFaultFigures) -> Table {
    let mut table = Table::new(
        "Processes: from where a copy of everything would have been cheaper",
        "Call and writes together, pages of 4 KiB, interpolated between the fractions measured.",
        3,
        &["order", "copy", "meaning", "region", "time"],
    );
    for row in &figures.crossover {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".to_owned());
        table.row([
            row.order.name().to_owned(),
            row.copy.name().to_owned(),
            row.words.clone(),
            or_none(row.fraction.map(percent)),
            or_none(row.total_us.map(time)),
        ]);
    }
    table
}

pub fn timeline(report: &Report) -> Table {
    let mut table = Table::new(
        "Processes: the life of a child that executes another program",
        "Times since the start of the call, medians. Memory is that of one more child, which \
         stopped at each step.",
        2,
        &["way", "step", "parent", "n", "at", "private", "shared", "Pss", "page tables"],
    );
    for row in &report.process_timeline {
        let memory = |part: fn(&Memory) -> u64| {
            row.child.as_ref().map_or_else(|| "-".to_owned(), |child| bytes(part(child) as f64))
        };
        table.row([
            row.way.name().to_owned(),
            row.step.clone(),
            bytes(row.size_bytes as f64),
            row.n.to_string(),
            time(row.us),
            memory(|child| child.private_dirty_bytes + child.private_clean_bytes),
            memory(|child| child.shared_bytes),
            memory(|child| child.pss_bytes),
            memory(|child| child.page_table_bytes),
        ]);
    }
    table
}

pub fn copied(report: &Report) -> Table {
    let mut table = Table::new(
        "Processes: what a fork copies and what it shares",
        "Each by a test: a child makes a change, and the parent sees it or not. Memory is by the \
         child; the time is that of calls that had to copy it, less that of calls that had not.",
        4,
        &["thing", "claimed", "found", "test", "memory", "time"],
    );
    let fate = |fate: Fate| match fate {
        Fate::Copied => "copied".to_owned(),
        Fate::Shared => "shared".to_owned(),
    };
    for row in &report.process_copied {
        table.row([
            row.what.clone(),
            fate(row.claimed),
            fate(row.found),
            row.test.clone(),
            row.bytes.map_or_else(|| "-".to_owned(), bytes),
            row.us.map_or_else(|| "-".to_owned(), time),
        ]);
    }
    table
}

pub fn tuning(report: &Report) -> Table {
    let mut table = Table::new(
        "Processes: advice, followed and not",
        "Medians of children of a parent with 100 MiB. `ahead` is what was done before the work.",
        3,
        &[
            "advice",
            "work",
            "setting",
            "n",
            "fork",
            "ahead",
            "the work",
            "minor faults",
            "private",
            "cheaper",
        ],
    );
    for row in &report.process_tuning {
        for (side, ratio) in [(&row.before, String::new()), (&row.after, times(row.ratio))] {
            table.row([
                row.what.clone(),
                row.work.clone(),
                side.setting.clone(),
                row.n.to_string(),
                time(side.call_us),
                time(side.ahead_us),
                time(side.work_us),
                short(side.minor_faults),
                bytes(side.private_bytes as f64),
                ratio,
            ]);
        }
    }
    table
}
