//! What tine says of itself, beyond the source text.

use super::{Judgement, Row, Subject};
use crate::plan::Section;
use crate::report::Report;
use crate::report::units::{bytes, percent, time, times};
use crate::sections::reset::ResetRow;

/// What is said.
pub fn rows() -> Vec<Row> {
    vec![
        Row::new(
            Subject::Vm,
            "dropping private pages is the cheapest way to a clean guest",
            Section::Reset,
            reset_is_cheapest,
        ),
        Row::new(
            Subject::Vm,
            "a clone of 1 GB that was made ahead runs 1000 times as soon as an eager copy",
            Section::Dormant,
            dormant_ratio,
        ),
        Row::new(
            Subject::Vm,
            "confinement is paid for when a cell is made, not when a clone is woken",
            Section::Confinement,
            confinement_is_ahead,
        ),
    ]
}

fn reset_is_cheapest(report: &Report) -> Option<Judgement> {
    let words = |row: &ResetRow| {
        format!(
            "{} from a reset to an answer after {} written pages, {} from a new clone",
            time(row.answer_p50_us),
            row.dirty_pages,
            time(row.spawn_answer_p50_us)
        )
    };
    let (first, last) = (report.reset.first()?, report.reset.last()?);
    let figures = format!("{}; {}", words(first), words(last));
    let cheaper = report.reset.iter().filter(|row| row.ratio > 1.0).count();
    Some(match cheaper {
        some if (1..report.reset.len()).contains(&some) => {
            Judgement::partly("sooner only after few written pages", figures)
        }
        some => {
            Judgement::when(some > 0, "the guest answers sooner, whatever it has written", figures)
        }
    })
}

fn dormant_ratio(report: &Report) -> Option<Judgement> {
    let row = report.dormant.iter().min_by_key(|row| row.guest_bytes.abs_diff(1 << 30))?;
    Some(Judgement::when(
        row.ratio >= 1000.0,
        "1000 times or more",
        format!(
            "{} in {} and {} by eager copy: {}",
            bytes(row.guest_bytes as f64),
            time(row.in_daemon_p50_us),
            time(row.eager_p50_us),
            times(row.ratio)
        ),
    ))
}

fn confinement_is_ahead(report: &Report) -> Option<Judgement> {
    let figures = report.confinement.as_ref()?;
    let part = figures.extra_us() / figures.unconfined_p50_us;
    Some(Judgement::when(
        part < 0.1 && figures.ahead_us() > figures.extra_us(),
        "less than a tenth of a wake-up, and less than what it costs ahead",
        format!(
            "{} for a clone ({}), {} for a cell",
            signed(figures.extra_us()),
            percent(part),
            signed(figures.ahead_us())
        ),
    ))
}

fn signed(us: f64) -> String {
    if us < 0.0 { format!("-{}", time(-us)) } else { time(us) }
}
