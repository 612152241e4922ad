//! The figures that stand at the very top.

use crate::report::Report;
use crate::report::units::{bytes, percent, time, times};

/// One figure.
pub struct Card {
    /// Of what.
    pub what: &'static str,
    /// The figure.
    pub figure: String,
    /// What it means.
    pub detail: String,
}

/// Those that were measured.
pub fn of(report: &Report) -> Vec<Card> {
    let cards = [spawn, dormant, live_fork, fault, crossover, density];
    cards.iter().filter_map(|card| card(report)).collect()
}

fn spawn(report: &Report) -> Option<Card> {
    let (cow, eager) = (report.spawn_near(1024, "cow")?, report.spawn_near(1024, "eager")?);
    Some(Card {
        what: "Copy-on-write against eager copy",
        figure: times(eager.p50_us / cow.p50_us),
        detail: format!(
            "as fast: a clone of {} runs after {}, an eager copy after {}",
            bytes(cow.guest_bytes as f64),
            time(cow.p50_us),
            time(eager.p50_us)
        ),
    })
}

fn dormant(report: &Report) -> Option<Card> {
    let row = report.dormant.iter().min_by_key(|row| row.guest_bytes.abs_diff(1 << 30))?;
    Some(Card {
        what: "A clone that was made ahead",
        figure: time(row.in_daemon_p50_us),
        detail: format!(
            "from the decision to the first instruction of {}",
            bytes(row.guest_bytes as f64)
        ),
    })
}

fn live_fork(report: &Report) -> Option<Card> {
    let (copy, process) =
        (report.fork_to_one("copy", 10_000)?, report.fork_to_one("process", 10_000)?);
    Some(Card {
        what: "Pause of a running guest that is forked",
        figure: time(process.parent_pause_us),
        detail: format!(
            "by fork(2), and {} by copying the 10,000 pages that it has written",
            time(copy.parent_pause_us)
        ),
    })
}

fn fault(report: &Report) -> Option<Card> {
    let row = report.fault("sequential", "cow", 1.0)?;
    let scattered = report.fault("scattered", "cow", 1.0)?;
    Some(Card {
        what: "First write to a shared page, in a guest",
        figure: time(row.ns_per_page / 1e3),
        detail: format!("a page in a row, {} scattered", time(scattered.ns_per_page / 1e3)),
    })
}

fn crossover(report: &Report) -> Option<Card> {
    let row = report.crossover.iter().find(|row| row.pattern == "sequential")?;
    Some(Card {
        what: "From where an eager copy is cheaper",
        figure: percent(row.fraction?),
        detail: "of 100 MiB written in a row after the fork".to_owned(),
    })
}

fn density(report: &Report) -> Option<Card> {
    let density = report.density.as_ref()?;
    Some(Card {
        what: "Host memory of one more clone",
        figure: bytes(density.bytes_per_clone),
        detail: format!(
            "with {} of {} alive at once",
            density.clones,
            bytes(density.guest_bytes as f64)
        ),
    })
}
