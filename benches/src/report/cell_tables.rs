//! Tables of what was measured with guests in cells.

use super::Report;
use super::tables::{Table, part_meaning};
use super::units::{bytes, percent, short, time, times};
use crate::sections::cells::CellsFigures;
use crate::sections::confinement::ConfinementFigures;
use crate::sections::fanout::Fanout;

pub fn dormant(report: &Report) -> Table {
    let mut table = Table::new(
        "Dormant: clones made ahead, each in a confined process of its own",
        "To the first guest instruction, from the decision to have a clone; over HTTP, from the \
         request to the whole answer, by a client of a daemon. The eager copy is made in such a \
         process too. Every one of the clones was made ahead.",
        1,
        &[
            "guest",
            "n",
            "p50",
            "p99",
            "call p50",
            "HTTP n",
            "HTTP p50",
            "HTTP p99",
            "eager p50",
            "eager/dormant",
        ],
    );
    for row in &report.dormant {
        table.row([
            bytes(row.guest_bytes as f64),
            row.n.to_string(),
            time(row.in_daemon_p50_us),
            time(row.in_daemon_p99_us),
            time(row.call_p50_us),
            row.http_n.to_string(),
            time(row.http_p50_us),
            time(row.http_p99_us),
            time(row.eager_p50_us),
            times(row.ratio),
        ]);
    }
    table
}

pub fn spawn_rate(report: &Report) -> Table {
    let mut table = Table::new(
        "Spawn rate: clients of a daemon who ask for one clone after the other",
        "Each client ends its clone before it asks for the next, which counts in the rate and \
         not in the times. Clients and daemon share the host's processors.",
        1,
        &["clients", "guest", "spawns", "a second", "made ahead", "p50", "p99"],
    );
    for row in &report.spawn_rate {
        table.row([
            row.clients.to_string(),
            bytes(row.guest_bytes as f64),
            row.spawns.to_string(),
            short(row.spawns_per_second),
            percent(row.dormant_share),
            time(row.p50_us),
            time(row.p99_us),
        ]);
    }
    table
}

pub fn fanout(figures: &Fanout) -> Table {
    let mut table = Table::new(
        "Fanout: one running guest forked into many",
        "The parent is at work all the while, and so is every child from its first instruction \
         on. Each child's memory was compared with its parent's.",
        1,
        &["children", "guest", "dirty pages", "all run", "each", "first", "pause", "pauses"],
    );
    table.row([
        figures.n.to_string(),
        bytes(figures.guest_bytes as f64),
        figures.dirty_pages.to_string(),
        time(figures.total_us),
        time(figures.per_clone_us),
        time(figures.first_child_us),
        time(figures.parent_longest_pause_us),
        figures.parent_pauses.to_string(),
    ]);
    table
}

pub fn cells(figures: &CellsFigures) -> Table {
    let mut table = Table::new(
        "Cells: clones of 256 MiB alive at once, each in a process of its own",
        "Page tables and anon are the processes' own, the rest is growth of the host's counters \
         over all of them, by their number, so keep the host quiet. Pss is each process's share \
         of what it maps, the image included.",
        2,
        &["part", "what", "a cell"],
    );
    for (name, size) in &figures.parts.0 {
        let meaning = match name.as_str() {
            "page_tables" => "page tables of the process, its clone's included",
            "slab" => "process, namespaces, VM, vCPU, irqchip and mappings",
            "kernel_stacks" => "three threads: the cell's, the vCPU's and KVM's own",
            name => part_meaning(name),
        };
        table.row([name.replace('_', " "), meaning.to_owned(), bytes(*size)]);
    }
    let mut other = |name: &str, what: &str, figure: String| {
        table.row([name.to_owned(), what.to_owned(), figure]);
    };
    other("sum", "", bytes(figures.bytes_per_cell));
    other("", "Pss", bytes(figures.pss_bytes_per_cell));
    other("", "pages that its guest has of its own", bytes(figures.private_bytes_per_cell));
    other("", "cells", figures.count.to_string());
    other("", "made a second", short(figures.spawns_per_second));
    other("", "killed, each", time(figures.teardown_seconds * 1e6 / figures.count as f64));
    table
}

pub fn confinement(figures: &ConfinementFigures) -> Table {
    let mut table = Table::new(
        "Confinement: dormant clones and new cells, confined and not",
        "In turn. Confined: namespaces of its own, no capabilities, limits, and a list of system \
         calls.",
        1,
        &["", "n", "clone p50", "clone p99", "cell made"],
    );
    table.row([
        "confined".to_owned(),
        figures.n.to_string(),
        time(figures.confined_p50_us),
        time(figures.confined_p99_us),
        time(figures.confined_cell_p50_us),
    ]);
    table.row([
        "not confined".to_owned(),
        figures.n.to_string(),
        time(figures.unconfined_p50_us),
        time(figures.unconfined_p99_us),
        time(figures.unconfined_cell_p50_us),
    ]);
    table.row([
        "difference".to_owned(),
        String::new(),
        time(figures.extra_us()),
        String::new(),
        time(figures.ahead_us()),
    ]);
    table
}

pub fn working_set(report: &Report) -> Table {
    let mut table = Table::new(
        "Working set: what a clone's first work takes, by its own clock",
        "It writes some pages and then reads others. With the hot set: a dormant clone that has \
         the pages which an earlier clone has used; without: one made when it is asked for.",
        1,
        &[
            "pages",
            "written",
            "read",
            "hot",
            "n",
            "without",
            "with",
            "cheaper",
            "writes without",
            "with",
            "reads without",
            "with",
        ],
    );
    for row in &report.working_set {
        table.row([
            row.pattern.to_owned(),
            row.written_pages.to_string(),
            row.read_pages.to_string(),
            row.hot_pages.to_string(),
            row.n.to_string(),
            time(row.off_us),
            time(row.on_us),
            times(row.ratio),
            time(row.off_write_us),
            time(row.on_write_us),
            time(row.off_read_us),
            time(row.on_read_us),
        ]);
    }
    table
}
