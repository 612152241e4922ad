//! Section 8 of the source text, row by row: what is said of a Redis that saves itself, and the
//! same of a machine that is saved.

use super::{Judgement, Row, Subject};
use crate::plan::Section;
use crate::report::Report;
use crate::report::units::{bytes, percent, time};
use crate::saves::SaveRow;

/// What the server of the source text holds, bytes.
const TEN_GB: u64 = 10_000_000_000;

/// A test of the saves of one subject.
type SaveTest = fn(&[SaveRow]) -> Option<Judgement>;

/// What is said of both.
const OF_BOTH: [(&str, SaveTest); 6] = [
    ("what is saved is the data of the instant of the fork", one_instant),
    ("at about 1 % of changes only changed pages are duplicated", few_are_copied),
    ("more is duplicated under heavy writes", more_under_writes),
    ("headroom is needed: under heavy writes a save can take much of the memory again", headroom),
    ("it works on while it is saved, at about 1 % of changes", works_on),
    ("it works on while it is saved, under heavy writes", works_on_under_writes),
];

/// The rows.
pub fn rows() -> Vec<Row> {
    let mut rows = vec![
        Row::new(
            Subject::Process,
            "a server of 10 GB forks, and its child writes the data out while it serves",
            Section::Redis,
            |report| as_large(&report.redis.as_ref()?.saves),
        ),
        Row::new(
            Subject::Process,
            "the fork takes little of the time that the save takes",
            Section::Redis,
            |report| short_pause(&report.redis.as_ref()?.saves),
        ),
    ];
    for (claim, test) in OF_BOTH {
        rows.push(Row::new(Subject::Process, claim, Section::Redis, move |report| {
            test(&report.redis.as_ref()?.saves)
        }));
    }
    rows.push(Row::new(
        Subject::Vm,
        "a machine of 10 GB forks, and its child writes it out while it works",
        Section::VmBgsave,
        |report| as_large(&report.vm_bgsave.as_ref()?.saves),
    ));
    rows.push(Row::new(
        Subject::Vm,
        "the fork takes little of the time that the save takes",
        Section::VmBgsave,
        |report| short_pause(&report.vm_bgsave.as_ref()?.saves),
    ));
    for (claim, test) in OF_BOTH {
        rows.push(Row::new(Subject::Vm, claim, Section::VmBgsave, move |report| {
            test(&report.vm_bgsave.as_ref()?.saves)
        }));
    }
    rows.push(Row::new(
        Subject::Vm,
        "a Redis in a Linux guest is saved by its own fork and with its whole machine, key by key \
         of one instant",
        Section::RedisGuest,
        in_a_guest,
    ));
    rows
}

/// The save during which the least was to be written.
fn calm(rows: &[SaveRow]) -> Option<&SaveRow> {
    rows.iter().min_by(|a, b| a.asked.total_cmp(&b.asked))
}

/// The one during which the most was to be.
fn busy(rows: &[SaveRow]) -> Option<&SaveRow> {
    rows.iter().max_by(|a, b| a.asked.total_cmp(&b.asked))
}

/// The one during which the most was: who is slowed down by the save writes less than asked.
fn most_written(rows: &[SaveRow]) -> Option<&SaveRow> {
    rows.iter().max_by(|a, b| a.written.total_cmp(&b.written))
}

/// A figure of each save, at what was written during it.
fn each(rows: &[SaveRow], figure: impl Fn(&SaveRow) -> String) -> String {
    let figures = rows.iter().map(|row| format!("{} at {}", figure(row), percent(row.written)));
    figures.collect::<Vec<_>>().join(", ")
}

fn as_large(rows: &[SaveRow]) -> Option<Judgement> {
    let row = calm(rows)?;
    let measured = format!(
        "{} saved in {:.1} s, {} on the disk, {} a second done before and {} during it",
        bytes(row.data_bytes as f64),
        row.save_seconds,
        bytes(row.file_bytes as f64),
        row.before_per_second.round(),
        row.during_per_second.round(),
    );
    Some(match row.data_bytes >= TEN_GB {
        true => Judgement::when(row.during_per_second > 0.0, "it goes on", measured),
        false => Judgement::partly("it does, at a smaller size: 10 GB take too long", measured),
    })
}

fn short_pause(rows: &[SaveRow]) -> Option<Judgement> {
    let row = rows.iter().max_by(|a, b| a.pause_us.total_cmp(&b.pause_us))?;
    Some(Judgement::when(
        rows.iter().all(|row| row.pause_us < row.save_seconds * 1e6 / 20.0),
        "less than a twentieth of it in each",
        format!(
            "at most {} of a save of {:.2} s, {} for a GiB",
            time(row.pause_us),
            row.save_seconds,
            time(row.pause_us_per_gib)
        ),
    ))
}

fn one_instant(rows: &[SaveRow]) -> Option<Judgement> {
    let checked: u64 = rows.iter().map(|row| row.checked).sum();
    let things = if calm(rows)?.subject == "redis" { "keys" } else { "pages" };
    Some(Judgement::when(
        checked > 0,
        "each was looked at; one of another instant fails the run",
        format!("{checked} {things} of {} saves, all of one instant each", rows.len()),
    ))
}

fn few_are_copied(rows: &[SaveRow]) -> Option<Judgement> {
    let row = calm(rows)?;
    let part = row.cost_bytes()? / row.data_bytes as f64;
    Some(Judgement::when(
        part < 0.1,
        "extra memory is less than a tenth of what there was",
        format!(
            "{} more, {} of {}, with {} written: {} a write",
            bytes(row.cost_bytes()?),
            percent(part),
            bytes(row.data_bytes as f64),
            percent(row.written),
            bytes(row.cost_bytes()? / row.writes.max(1) as f64)
        ),
    ))
}

fn more_under_writes(rows: &[SaveRow]) -> Option<Judgement> {
    let (few, many) = (calm(rows)?.cost_bytes()?, most_written(rows)?.cost_bytes()?);
    let extra = |row: &SaveRow| row.cost_bytes().map_or_else(|| "unknown".to_owned(), bytes);
    Some(Judgement::when(
        many > 1.25 * few,
        "a quarter more, or more, at the most writes than at the least",
        each(rows, extra),
    ))
}

fn headroom(rows: &[SaveRow]) -> Option<Judgement> {
    let row = most_written(rows)?;
    let part = row.cost_bytes()? / row.data_bytes as f64;
    // Where little could be written, little can be said.
    if row.written < 0.25 {
        let why = format!("only {} were written before the save was over", percent(row.written));
        return Some(Judgement::partly(why, format!("{} more", percent(part))));
    }
    Some(Judgement::when(
        part > 0.25,
        "a quarter of what there was, or more",
        format!("{} more at {} written", percent(part), percent(row.written)),
    ))
}

fn works_on(rows: &[SaveRow]) -> Option<Judgement> {
    let row = calm(rows)?;
    Some(Judgement::when(
        row.dip() < 0.1,
        "at least nine tenths of the throughput",
        format!(
            "{} slower; longest delay {} during it, {} before",
            percent(row.dip()),
            time(row.gap_during_us),
            time(row.gap_before_us)
        ),
    ))
}

fn works_on_under_writes(rows: &[SaveRow]) -> Option<Judgement> {
    let row = busy(rows)?;
    let measured = each(rows, |row| format!("{} slower", percent(row.dip())));
    Some(Judgement::when(row.dip() < 0.1, "at least nine tenths of the throughput", measured))
}

fn in_a_guest(report: &Report) -> Option<Judgement> {
    let figures = report.redis_guest.as_ref()?;
    Some(Judgement::when(
        figures.checked == figures.keys,
        "each was looked at, in both files and in a clone; one of another instant fails the run",
        format!(
            "{} keys; fork in the guest {}, pause of the machine {}; {:.0} writes a second before, \
             {:.0} during BGSAVE, {:.0} during the snapshot",
            figures.keys,
            time(figures.bgsave_fork_us),
            time(figures.snapshot_pause_us),
            figures.before_per_second,
            figures.during_bgsave_per_second,
            figures.during_snapshot_per_second
        ),
    ))
}
