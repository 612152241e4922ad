//! Tables of what becomes of memory: limits, backings, what is copied and what is shared.

use super::Report;
use super::tables::Table;
use super::units::{bytes, percent, time};

pub fn process_pressure(report: &Report) -> Table {
    let mut table = Table::new(
        "Pressure: children of a process whose memory is limited with theirs, until one fails",
        "The room is what the limit leaves beside the parent's memory. The kernel chooses whom to \
         end: among all alike, or, where told so (`oom_score_adj`), children first.",
        4,
        &[
            "child",
            "kernel's choice",
            "ended",
            "error",
            "parent's",
            "written",
            "room",
            "made",
            "parent",
            "alive",
            "intact",
        ],
    );
    for row in &report.process_pressure {
        table.row([
            row.way.name().to_owned(),
            if row.ranked { "children first" } else { "all alike" }.to_owned(),
            row.ended.words().to_owned(),
            row.error.clone(),
            bytes(row.size_bytes as f64),
            percent(row.written),
            bytes(row.room_bytes as f64),
            row.made.to_string(),
            if row.parent_intact { "intact" } else { "lost" }.to_owned(),
            row.alive.to_string(),
            row.intact.to_string(),
        ]);
    }
    table
}

/// A figure, or a dash where there is none.
fn or_none(figure: Option<f64>, words: fn(f64) -> String) -> String {
    figure.map_or_else(|| "-".to_owned(), words)
}

pub fn copied(report: &Report) -> Table {
    let mut table = Table::new(
        "Copied, made anew, shared: what becomes of each thing of a virtual machine",
        "Of what is shared, `bytes` is how much is; of all else, what each clone has of its own. \
         Times of one step alone, medians.",
        4,
        &["thing", "spawn", "live fork", "seen by", "so", "bytes", "time", "how"],
    );
    for row in &report.vm_copied {
        table.row([
            row.thing.clone(),
            row.spawn.clone(),
            row.fork.clone(),
            row.test.clone().unwrap_or_else(|| "-".to_owned()),
            match row.holds {
                Some(true) => "yes",
                Some(false) => "NO",
                None => "-",
            }
            .to_owned(),
            or_none(row.bytes, bytes),
            or_none(row.us, time),
            row.how.clone(),
        ]);
    }
    table
}

pub fn seen(report: &Report) -> Table {
    let mut table = Table::new(
        "Seen: what the counters say of pages that a guest in a cell has written",
        "Growth of each counter over the writes, which lie apart; at last, a clone all of \
         whose memory was written in order.",
        1,
        &["what", "pages", "bytes"],
    );
    let mut row = |what: &str, pages: String, bytes: String| {
        table.row([what.to_owned(), pages, bytes]);
    };
    let of_pages = |size: f64| (super::units::short(size / 4096.0), bytes(size));
    if let Some(seen) = &report.vm_seen {
        row("written", seen.written_pages.to_string(), bytes(seen.written_pages as f64 * 4096.0));
        let (pages, size) = of_pages(seen.ledger_private_bytes as f64);
        row("private, by the ledger", pages, size);
        let (pages, size) = of_pages(seen.smaps_private_dirty_bytes);
        row("Private_Dirty, by smaps", pages, size);
        row("faults of KVM", seen.kvm_faults.to_string(), String::new());
        row("minor faults of the process", seen.minor_faults.to_string(), String::new());
        row("major faults of the process", seen.major_faults.to_string(), String::new());
    }
    if let Some(tables) = &report.vm_page_tables {
        row(
            "all of it written",
            tables.written_pages.to_string(),
            bytes(tables.written_pages as f64 * 4096.0),
        );
        let (pages, size) = of_pages(tables.ledger_bytes as f64);
        row("host page tables, by the ledger", pages, size);
        let (pages, size) = of_pages(tables.new_bytes as f64);
        row("page tables of the process (VmPTE), new", pages, size);
        let (pages, size) = of_pages(tables.written_bytes as f64);
        row("the same, all written", pages, size);
        let kvm = tables.kvm_bytes.map(of_pages);
        let (pages, size) = kvm.unwrap_or_else(|| ("-".to_owned(), "-".to_owned()));
        row("second-level or shadow tables (SecPageTables)", pages, size);
    }
    table
}

pub fn timeline(report: &Report) -> Table {
    let mut table = Table::new(
        "Timeline: a clone in a cell, from the request to its end",
        "Nothing is made ahead. The answer is to a trivial command. Memory is that of the guest's \
         own pages, the process's page tables, and its share of all that it maps (Pss).",
        2,
        &["clone", "moment", "guest", "n", "time", "own pages", "page tables", "Pss"],
    );
    for row in &report.vm_timeline {
        for moment in &row.moments {
            table.row([
                row.clone.clone(),
                moment.name.clone(),
                bytes(row.guest_bytes as f64),
                row.n.to_string(),
                time(moment.us),
                bytes(moment.private_bytes),
                bytes(moment.page_table_bytes),
                bytes(moment.pss_bytes),
            ]);
        }
    }
    table
}

pub fn backing(report: &Report) -> Table {
    let mut table = Table::new(
        "Backing: first visits to parts of 100 MiB, by what the image is made of",
        "In a fresh copy-on-write clone of 256 MiB each. Times by the guest's TSC, medians.",
        3,
        &[
            "operation",
            "pattern",
            "image",
            "huge",
            "visited",
            "pages",
            "n",
            "ns/page",
            "total",
            "KVM faults",
            "minor faults",
            "own pages",
        ],
    );
    for row in &report.backing {
        table.row([
            row.operation.clone(),
            row.pattern.clone(),
            row.backing.clone(),
            bytes(row.huge_bytes as f64),
            percent(row.fraction),
            row.pages.to_string(),
            row.n.to_string(),
            format!("{:.0}", row.ns_per_page),
            time(row.total_us),
            format!("{:.0}", row.page_faults),
            format!("{:.0}", row.minor_faults),
            bytes(row.private_bytes),
        ]);
    }
    table
}

pub fn pressure(report: &Report) -> Table {
    let mut table = Table::new(
        "Pressure: cells whose memory is limited together, until something fails",
        "The room is what the limit leaves beside what was there before: beside a parent with \
         all of its memory of its own, for copies and forks; beside the image, for clones of a \
         snapshot. `made` have written all they were to write. `intact` have all that they had and \
         wrote, after the failure.",
        4,
        &[
            "what",
            "failed at",
            "ended",
            "error",
            "guest",
            "written",
            "room",
            "made",
            "used",
            "their own",
            "kills",
            "parent",
            "alive",
            "intact",
        ],
    );
    for row in &report.pressure {
        table.row([
            row.what.clone(),
            format!("{}, after {}", row.failed_at, time(row.failed_after_us)),
            row.ended.clone(),
            row.error.clone(),
            bytes(row.guest_bytes as f64),
            percent(row.written),
            bytes(row.room_bytes as f64),
            row.made.to_string(),
            bytes(row.used_bytes as f64),
            bytes(row.private_bytes as f64),
            row.kills.to_string(),
            match row.parent_intact {
                Some(true) => "intact",
                Some(false) => "lost",
                None => "-",
            }
            .to_owned(),
            row.alive.to_string(),
            row.intact.to_string(),
        ]);
    }
    table
}
