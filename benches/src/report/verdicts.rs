//! The claims that are made for copy-on-write forks, held against the figures.
//!
//! Most are made for processes; what is measured are virtual machines. The rest are tine's
//! own. A claim that names
//! a time counts as confirmed within a factor of two of it, either way; one that
//! sets a bound, if the bound holds.

use tine_abi::layout::PAGE_SIZE;

use super::Report;
use super::cell_verdicts as cells;
use super::units::{bytes, percent, time, times};
use crate::plan::Section;
use crate::sections::cow_faults::FaultRow;
use crate::sections::spawn::SpawnRow;

/// What the figures say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The claim holds here.
    Confirmed,
    /// It does not.
    Contradicted,
}

impl Outcome {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Contradicted => "contradicted",
        }
    }

    pub(super) fn when(holds: bool) -> Self {
        if holds { Self::Confirmed } else { Self::Contradicted }
    }

    fn within_twice(measured: f64, claimed: f64) -> Self {
        Self::when((0.5..=2.0).contains(&(measured / claimed)))
    }
}

/// A claim and what became of it.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The claim.
    pub claim: &'static str,
    /// What the figures say of it.
    pub outcome: Outcome,
    /// The figures.
    pub figures: String,
}

pub(super) fn verdict(claim: &'static str, outcome: Outcome, figures: String) -> Verdict {
    Verdict { claim, outcome, figures }
}

/// Verdicts on the claims that `section` tests.
pub fn of(section: Section, report: &Report) -> Vec<Verdict> {
    let verdicts = match section {
        Section::Spawn => vec![
            eager_is_linear(report),
            eager_rate(report),
            memory_step_is_flat(report),
            cow_time(report),
            thousand_times(report),
            constant_time(report),
        ],
        Section::LiveFork => vec![
            pause_follows_writes(report),
            siblings_share(report),
            cells::process_pauses_less(report),
            cells::process_pays_later(report),
        ],
        Section::CowFaults => vec![
            fault_time(report),
            fault_totals(report),
            only_written_pages(report),
            crossover_exists(report),
            clustering(report),
        ],
        Section::ReadFaults => vec![reading_first_costs(report)],
        Section::HotSet => vec![copying_ahead(report, false), copying_ahead(report, true)],
        Section::Ledger => vec![page_tables(report), private_follows_writes(report)],
        Section::Density => vec![sharing(report)],
        Section::Teardown => vec![],
        Section::Reset => vec![reset_is_cheapest(report)],
        Section::Dormant => vec![cells::dormant_ratio(report), cells::dormant_is_flat(report)],
        Section::SpawnRate => vec![],
        Section::Fanout => vec![cells::one_pause(report)],
        Section::Cells => vec![cells::cells_are_small(report)],
        Section::Confinement => vec![cells::confinement_is_ahead(report)],
        Section::WorkingSet => vec![cells::hot_set_helps(report)],
    };
    verdicts.into_iter().flatten().collect()
}

/// The smallest and the largest guest spawned by `memory`, if there are two.
fn ends<'a>(report: &'a Report, memory: &str) -> Option<(&'a SpawnRow, &'a SpawnRow)> {
    let rows = || report.spawn.iter().filter(|row| row.memory == memory);
    let small = rows().min_by_key(|row| row.guest_bytes)?;
    let large = rows().max_by_key(|row| row.guest_bytes)?;
    (small.guest_bytes < large.guest_bytes).then_some((small, large))
}

fn size(row: &SpawnRow) -> String {
    bytes(row.guest_bytes as f64)
}

fn eager_is_linear(report: &Report) -> Option<Verdict> {
    let (small, large) = ends(report, "eager")?;
    let grown = large.guest_bytes as f64 / small.guest_bytes as f64;
    let slower = large.ladder.get("map") / small.ladder.get("map");
    Some(verdict(
        "eager copy takes time in proportion to memory",
        Outcome::within_twice(slower, grown),
        format!(
            "{} times the memory ({} to {}) took {} the time to copy",
            grown,
            size(small),
            size(large),
            times(slower)
        ),
    ))
}

fn eager_rate(report: &Report) -> Option<Verdict> {
    let row = report.spawn_near(1024, "eager")?;
    let rate = row.guest_bytes as f64 / row.ladder.get("map") / 1000.0;
    Some(verdict(
        "eager copy runs at 5 GB/s, 200 ms for 1 GB",
        Outcome::within_twice(rate, 5.0),
        format!("{rate:.1} GB/s, {} for {}", time(row.ladder.get("map")), size(row)),
    ))
}

fn memory_step_is_flat(report: &Report) -> Option<Verdict> {
    let (small, large) = ends(report, "cow")?;
    let (at_small, at_large) = (small.ladder.get("map"), large.ladder.get("map"));
    Some(verdict(
        "copy-on-write shares memory in a time that does not depend on its size",
        Outcome::when(at_large < 2.0 * at_small.max(2.0)),
        format!(
            "the memory step takes {} at {} and {} at {}",
            time(at_small),
            size(small),
            time(at_large),
            size(large)
        ),
    ))
}

fn cow_time(report: &Report) -> Option<Verdict> {
    let row = report.spawn_near(1024, "cow")?;
    Some(verdict(
        "a copy-on-write fork of 1 GB takes 200 us",
        Outcome::within_twice(row.p50_us, 200.0),
        format!(
            "{} for a whole machine of {}, first instruction included; KVM's memslot alone {}",
            time(row.p50_us),
            size(row),
            time(row.ladder.get("memslot"))
        ),
    ))
}

fn thousand_times(report: &Report) -> Option<Verdict> {
    let row = report.spawn_near(1024, "eager")?;
    Some(verdict(
        "at 1 GB copy-on-write is 1000 times as fast as an eager copy",
        Outcome::when(row.ratio_to_cow >= 1000.0),
        format!(
            "{} times as fast at {}, the whole machine included; the memory step alone {} times",
            row.ratio_to_cow.round(),
            size(row),
            memory_ratio(report, row).round()
        ),
    ))
}

fn memory_ratio(report: &Report, eager: &SpawnRow) -> f64 {
    let cow =
        report.spawn.iter().find(|row| row.memory == "cow" && row.guest_bytes == eager.guest_bytes);
    cow.map_or(f64::NAN, |cow| eager.ladder.get("map") / cow.ladder.get("map"))
}

fn constant_time(report: &Report) -> Option<Verdict> {
    let (small, large) = ends(report, "cow")?;
    let rest = |row: &SpawnRow| row.p50_us - row.ladder.get("memslot");
    Some(verdict(
        "a fork that copies no page tables takes the same time at any size",
        Outcome::when(large.p50_us < 2.0 * small.p50_us),
        format!(
            "{} at {}, {} at {}; without KVM's memslot {} and {}",
            time(small.p50_us),
            size(small),
            time(large.p50_us),
            size(large),
            time(rest(small)),
            time(rest(large))
        ),
    ))
}

fn pause_follows_writes(report: &Report) -> Option<Verdict> {
    let rows = || {
        let rows = report.live_fork.iter().filter(|row| row.children == 1);
        rows.filter(|row| row.method == "copy" && row.mapped == "dirty")
    };
    let few = rows().min_by_key(|row| row.dirty_pages)?;
    let many = rows().max_by_key(|row| row.dirty_pages)?;
    let all = many.guest_bytes / PAGE_SIZE;
    let per_page = (many.parent_pause_us - few.parent_pause_us)
        / (many.dirty_pages - few.dirty_pages).max(1) as f64;
    Some(verdict(
        "a snapshot of a running server costs what it has written, not what it holds",
        Outcome::when(many.parent_pause_us < per_page * all as f64 / 2.0),
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

fn siblings_share(report: &Report) -> Option<Verdict> {
    let wide = report.live_fork.iter().find(|row| row.children > 1)?;
    let one = report.live_fork.iter().find(|row| {
        row.children == 1
            && row.dirty_pages == wide.dirty_pages
            && row.method == wide.method
            && row.mapped == wide.mapped
    })?;
    Some(verdict(
        "several children cost the parent one pause",
        Outcome::when(wide.parent_pause_us < 2.0 * one.parent_pause_us),
        format!(
            "{} for {} children, {} for one, at {} written pages",
            time(wide.parent_pause_us),
            wide.children,
            time(one.parent_pause_us),
            wide.dirty_pages
        ),
    ))
}

fn fault<'a>(
    report: &'a Report,
    pattern: &str,
    memory: &str,
    fraction: f64,
) -> Option<&'a FaultRow> {
    report
        .cow_faults
        .iter()
        .find(|row| row.pattern == pattern && row.memory == memory && row.fraction == fraction)
}

fn fault_time(report: &Report) -> Option<Verdict> {
    let row = fault(report, "sequential", "cow", 1.0)?;
    let scattered = fault(report, "scattered", "cow", 1.0)?;
    Some(verdict(
        "a copy-on-write fault costs 6.5 us",
        Outcome::within_twice(row.ns_per_page, 6500.0),
        format!(
            "{:.1} us a page in the guest, {:.1} us scattered",
            row.ns_per_page / 1000.0,
            scattered.ns_per_page / 1000.0
        ),
    ))
}

fn fault_totals(report: &Report) -> Option<Verdict> {
    const CLAIMED_MS: [(f64, f64); 4] = [(0.01, 2.5), (0.1, 18.0), (0.5, 85.0), (1.0, 165.0)];
    let mut holds = true;
    let mut figures = Vec::new();
    for (fraction, claimed) in CLAIMED_MS {
        let row = fault(report, "sequential", "cow", fraction)?;
        let total = row.clone_us + row.total_us;
        holds &= Outcome::within_twice(total, claimed * 1000.0) == Outcome::Confirmed;
        figures.push(format!("{} {}", percent(fraction), time(total)));
    }
    Some(verdict(
        "clone and writes to 1, 10, 50, 100 % of 100 MB take 2.5, 18, 85, 165 ms",
        Outcome::when(holds),
        figures.join(", "),
    ))
}

fn only_written_pages(report: &Report) -> Option<Verdict> {
    let row = fault(report, "scattered", "cow", 0.1)?;
    let each = row.page_faults / row.pages as f64;
    Some(verdict(
        "every shared page that is written costs one fault, and no other page any",
        Outcome::when((0.9..1.2).contains(&each)),
        format!("{:.2} faults of KVM for each of {} scattered pages", each, row.pages),
    ))
}

fn crossover_exists(report: &Report) -> Option<Verdict> {
    let points: Vec<String> = report
        .crossover
        .iter()
        .map(|row| match row.fraction {
            Some(fraction) => format!("{} at {}", row.pattern, percent(fraction)),
            None => format!("{}: {}", row.pattern, row.words),
        })
        .collect();
    let found = report.crossover.iter().all(|row| row.fraction.is_some());
    (!points.is_empty()).then(|| {
        verdict(
            "a clone that writes most of its memory would have been cheaper by eager copy",
            Outcome::when(found),
            points.join(", "),
        )
    })
}

fn clustering(report: &Report) -> Option<Verdict> {
    let together = fault(report, "sequential", "cow", 0.1)?;
    let apart = fault(report, "scattered", "cow", 0.1)?;
    Some(verdict(
        "writes that lie together cost less than scattered ones",
        Outcome::when(together.ns_per_page < 0.9 * apart.ns_per_page),
        format!(
            "{:.1} us a page in a row, {:.1} us scattered",
            together.ns_per_page / 1000.0,
            apart.ns_per_page / 1000.0
        ),
    ))
}

fn reading_first_costs(report: &Report) -> Option<Verdict> {
    let find = |operation: &str| {
        report.read_faults.iter().find(|row| {
            row.operation == operation
                && row.memory == "cow"
                && row.pattern == "scattered"
                && row.fraction == 0.1
        })
    };
    let (read, write) = (find("read")?, find("write after read")?);
    let both = read.ns_per_page + write.ns_per_page;
    // The writes were measured by another section.
    let at_once = fault(report, "scattered", "cow", 0.1)?.ns_per_page;
    Some(verdict(
        "a page that is read first and written later costs more than one written at once",
        Outcome::when(both > at_once),
        format!(
            "{:.1} us to read and {:.1} us to write then, {:.1} us at once",
            read.ns_per_page / 1000.0,
            write.ns_per_page / 1000.0,
            at_once / 1000.0
        ),
    ))
}

fn copying_ahead(report: &Report, together: bool) -> Option<Verdict> {
    let figures = report.hot_set.as_ref()?;
    let (claim, set) = match together {
        false => (
            "copying scattered hot pages ahead makes their first writes cheaper",
            &figures.scattered,
        ),
        true => {
            ("copying hot pages that lie together ahead makes them cheaper", &figures.clustered)
        }
    };
    Some(verdict(
        claim,
        Outcome::when(set.ratio > 1.2),
        format!(
            "{} in the guest ({:.1} us a page instead of {:.1}), {} with the copying counted",
            times(set.ratio),
            set.on_ns_per_page / 1000.0,
            set.off_ns_per_page / 1000.0,
            times(set.ratio_with_apply)
        ),
    ))
}

fn page_tables(report: &Report) -> Option<Verdict> {
    let row = report.ledger.iter().find(|row| row.memory == "cow" && row.moment == "before")?;
    // The claim is 8 KiB for a MiB.
    let claimed = row.ledger.ram_bytes as f64 / 128.0;
    let tables = row.ledger.page_table_bytes as f64;
    Some(verdict(
        "a fork takes page tables for all of its memory at once, 8 MB for 1 GB",
        Outcome::within_twice(tables, claimed),
        format!(
            "{} right after the first instruction for {}, where {} are claimed",
            bytes(tables),
            bytes(row.ledger.ram_bytes as f64),
            bytes(claimed)
        ),
    ))
}

fn private_follows_writes(report: &Report) -> Option<Verdict> {
    let find =
        |moment: &str| report.ledger.iter().find(|row| row.memory == "cow" && row.moment == moment);
    let (before, after) = (find("before")?, find("after")?);
    let grown = after.ledger.private_bytes.saturating_sub(before.ledger.private_bytes);
    let written = after.written_pages * PAGE_SIZE;
    Some(verdict(
        "a clone's own memory is what it has written",
        Outcome::when(grown.abs_diff(written) <= written / 100),
        format!("{} private for {} written", bytes(grown as f64), bytes(written as f64)),
    ))
}

fn sharing(report: &Report) -> Option<Verdict> {
    let density = report.density.as_ref()?;
    let eager = density.guest_bytes as f64 * density.clones as f64;
    let cow = density.guest_bytes as f64 + density.bytes_per_clone * density.clones as f64;
    Some(verdict(
        "clones take a small part of the memory of copies",
        Outcome::when(cow < eager / 10.0),
        format!(
            "{} clones of {} in {}, where copies take {}: {} each",
            density.clones,
            bytes(density.guest_bytes as f64),
            bytes(cow),
            bytes(eager),
            bytes(density.bytes_per_clone)
        ),
    ))
}

fn reset_is_cheapest(report: &Report) -> Option<Verdict> {
    let reset = report.reset.first()?;
    Some(verdict(
        "dropping private pages is the cheapest way to a clean guest",
        Outcome::when(reset.ratio > 1.0),
        format!(
            "{} from a reset to an answer, {} from a new clone",
            time(reset.answer_p50_us),
            time(reset.spawn_answer_p50_us)
        ),
    ))
}
