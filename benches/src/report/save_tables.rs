//! Tables of saves of something that is at work.

use super::Report;
use super::tables::Table;
use super::units::{bytes, percent, short, time};
use crate::saves::SaveRow;
use crate::sections::redis::RedisFigures;
use crate::sections::redis_guest::RedisGuest;
use crate::sections::vm_bgsave::VmBgsave;

/// What Redis does.
pub fn redis(figures: &RedisFigures) -> Vec<Table> {
    let mut tables = vec![server(figures)];
    tables.extend(saves(
        "Redis BGSAVE: one connection writes key after key, and every saved key was looked at",
        "Writes: the part of the keys that were written during the save. Pause: the fork, as the \
         server says. Gap: the longest time without an answer. Extra: what server and child \
         take beyond what the server had before, or what the server says that the fork has \
         copied, if that is more. Server, child and writer share the host's processors.",
        &figures.saves,
    ));
    tables.push(requests(figures));
    if !figures.benchmark.is_empty() {
        tables.push(benchmark(figures));
    }
    tables
}

fn server(figures: &RedisFigures) -> Table {
    let mut table = Table::new(
        "Redis: the server, and its fork",
        "Forks by `BGSAVE` while nobody writes, each timed by the server; the child ends at once. \
         Most: from one client with 64 writes under way.",
        1,
        &[
            "version",
            "keys",
            "resident",
            "its page tables",
            "forks",
            "p50",
            "p99",
            "a GiB",
            "most writes a second",
            "save, nobody writes",
        ],
    );
    table.row([
        figures.version.clone(),
        figures.keys.to_string(),
        bytes(figures.resident_bytes as f64),
        bytes(figures.page_table_bytes as f64),
        figures.forks.to_string(),
        time(figures.fork_p50_us),
        time(figures.fork_p99_us),
        time(figures.fork_us_per_gib()),
        short(figures.fastest_per_second),
        time(figures.idle_save_seconds * 1e6),
    ]);
    table
}

/// What a machine does, and both side by side.
pub fn vm(report: &Report) -> Vec<Table> {
    let Some(figures) = &report.vm_bgsave else { return vec![] };
    let mut tables = saves(
        "A machine is saved while its guest works: live snapshot to a file",
        "The guest writes page after page, scattered over its memory, each when it is due; every \
         page of what was saved was looked at in a clone. Pause: how long the machine stood \
         still. Gap: the latest that a write came after it was due, by the guest's own clock. \
         Extra: what parent and child take beyond what the parent had before.",
        &figures.saves,
    );
    tables.extend(beside(figures, report.redis.as_ref()));
    tables
}

/// A machine and a Redis side by side.
fn beside(figures: &VmBgsave, redis: Option<&RedisFigures>) -> Vec<Table> {
    let mut table = Table::new(
        "Side by side: a Redis that saves itself, and a machine that is saved",
        "Pause: median of all forks while nothing is written. Extra: memory beyond what there was \
         before, as a part of that, and for each page of 4 KiB or key of 1 KiB that was \
         written, at the part written. Most work: as fast as client or guest can.",
        1,
        &[
            "what",
            "holds",
            "pause p50",
            "pause p99",
            "a GiB",
            "extra of all",
            "a write",
            "most work a second",
            "during a save",
            "dip",
        ],
    );
    let extras = |rows: &[SaveRow]| {
        let of = |figure: fn(&SaveRow) -> Option<String>| {
            let figures = rows.iter().map(|row| figure(row).unwrap_or_else(|| "-".to_owned()));
            figures.collect::<Vec<_>>().join(", ")
        };
        let part = |row: &SaveRow| {
            let part = percent(row.cost_bytes()? / row.data_bytes as f64);
            Some(format!("{part} at {}", percent(row.written)))
        };
        let each = |row: &SaveRow| Some(bytes(row.cost_bytes()? / (row.writes.max(1)) as f64));
        [of(part), of(each)]
    };
    let row =
        |what: &str, size: u64, pauses: [f64; 3], rows: &[SaveRow], work: (f64, Option<f64>)| {
            let [part, each] = extras(rows);
            let (alone, during) = work;
            let unknown = || "-".to_owned();
            let words = [what.to_owned(), bytes(size as f64)];
            let rest = [
                part,
                each,
                short(alone),
                during.map_or_else(unknown, short),
                during.map_or_else(unknown, |during| percent(1.0 - during / alone)),
            ];
            words.into_iter().chain(pauses.map(time)).chain(rest).collect::<Vec<_>>()
        };
    if let Some(redis) = redis {
        table.row(row(
            "redis",
            redis.resident_bytes,
            [redis.fork_p50_us, redis.fork_p99_us, redis.fork_us_per_gib()],
            &redis.saves,
            (redis.fastest_per_second, redis.fastest_during_per_second),
        ));
    }
    table.row(row(
        "vm",
        figures.guest_bytes,
        [figures.pause_p50_us, figures.pause_p99_us, figures.pause_us_per_gib()],
        &figures.saves,
        (figures.fastest_per_second, Some(figures.fastest_during_per_second)),
    ));
    vec![table]
}

/// A Redis in a Linux guest.
pub fn guest(figures: &RedisGuest) -> Table {
    let mut table = Table::new(
        "Redis in a Linux guest: BGSAVE inside, and a live snapshot of the whole machine",
        "One connection writes as fast as it can. Every key was looked at in the file of \
         `BGSAVE`, in the server of a clone of the snapshot, in the file that that server saved, \
         and in a child of the running machine: each of one instant.",
        1,
        &["by", "guest", "keys", "pause", "save", "writes a second", "before", "checked"],
    );
    let rows = [
        (
            "BGSAVE",
            figures.bgsave_fork_us,
            figures.bgsave_seconds,
            figures.during_bgsave_per_second,
        ),
        (
            "live snapshot",
            figures.snapshot_pause_us,
            figures.snapshot_seconds,
            figures.during_snapshot_per_second,
        ),
    ];
    for (by, pause, seconds, rate) in rows {
        table.row([
            by.to_owned(),
            bytes(figures.guest_bytes as f64),
            figures.keys.to_string(),
            time(pause),
            time(seconds * 1e6),
            short(rate),
            short(figures.before_per_second),
            figures.checked.to_string(),
        ]);
    }
    table
}

/// A table of `rows`; none of no rows.
fn saves(title: &'static str, note: &str, rows: &[SaveRow]) -> Vec<Table> {
    let mut table = Table::new(
        title,
        note,
        1,
        &[
            "what",
            "asked",
            "written",
            "pause",
            "a GiB",
            "gap before",
            "gap during",
            "save",
            "file",
            "extra",
            "child's page tables",
            "before",
            "during",
            "after",
            "dip",
            "checked",
        ],
    );
    for row in rows {
        table.row([
            format!("{}, {}", row.subject, bytes(row.data_bytes as f64)),
            percent(row.asked),
            percent(row.written),
            time(row.pause_us),
            time(row.pause_us_per_gib),
            time(row.gap_before_us),
            time(row.gap_during_us),
            time(row.save_seconds * 1e6),
            bytes(row.file_bytes as f64),
            row.cost_bytes().map_or_else(|| "-".to_owned(), bytes),
            row.page_table_bytes.map_or_else(|| "-".to_owned(), |size| bytes(size as f64)),
            format!("{}/s", short(row.before_per_second)),
            format!("{}/s", short(row.during_per_second)),
            format!("{}/s", short(row.after_per_second)),
            percent(row.dip()),
            row.checked.to_string(),
        ]);
    }
    vec![table]
}

fn requests(figures: &RedisFigures) -> Table {
    let mut table = Table::new(
        "Redis: how long a write took, from when it was due",
        "A server that stands still delays all writes that were due meanwhile, and all of them \
         count.",
        0,
        &["written", "writes", "before p50", "before p99", "during p50", "during p99"],
    );
    let us = |us: Option<f64>| us.map_or_else(|| "-".to_owned(), time);
    for row in &figures.saves {
        table.row([
            percent(row.written),
            row.writes.to_string(),
            us(row.latency_before_p50_us),
            us(row.latency_before_p99_us),
            us(row.latency_during_p50_us),
            us(row.latency_during_p99_us),
        ]);
    }
    table
}

fn benchmark(figures: &RedisFigures) -> Table {
    let mut table = Table::new(
        "redis-benchmark: writes of 1 KiB by 50 clients, as fast as they can",
        "Before a save and during one, in which it overwrites keys all over the server.",
        1,
        &["when", "writes", "a second", "p50", "p99", "longest"],
    );
    for row in &figures.benchmark {
        table.row([
            format!("{} a save", row.when),
            row.requests.to_string(),
            short(row.per_second),
            time(row.p50_us),
            time(row.p99_us),
            time(row.longest_us),
        ]);
    }
    table
}
