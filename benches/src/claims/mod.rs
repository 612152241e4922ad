//! What is claimed for `fork(2)` and copy-on-write, held against the figures of a run: for
//! processes, of which the claims speak, and for virtual machines.
//!
//! One file a section of the source text. A row that names a time or a size holds within a
//! factor of two of it, either way; one that sets a bound, if the bound holds. A row for
//! which there are no figures says why.

mod bgsave;
mod bgsave_rows;
mod by_hand;
mod copied;
mod cow_fork;
mod eager;
mod faults;
mod page_tables;
mod place;
mod pressure;
mod process;
mod promises;
mod seeing;
mod timeline;
mod tuning;
mod vfork;

pub use place::{sections_beyond, sections_of, shown_elsewhere};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use process::SIZES_MIB;

use crate::plan::Section;
use crate::report::Report;

/// What the figures say of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It holds here.
    Holds,
    /// Part of it does.
    Partly,
    /// It does not.
    Contradicted,
    /// There are no figures to tell.
    NotMeasured,
}

impl Verdict {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Partly => "holds in part",
            Self::Contradicted => "contradicted",
            Self::NotMeasured => "not measured",
        }
    }

    /// Of so many rows.
    pub fn of_so_many(self, count: usize) -> String {
        let words = match (self, count) {
            (Self::Holds, 2..) => "hold",
            (Self::Partly, 2..) => "hold in part",
            _ => self.words(),
        };
        format!("{count} {words}")
    }

    /// Of a claim that is made of others.
    fn of(parts: &[Self]) -> Self {
        let measured = || parts.iter().filter(|&&part| part != Self::NotMeasured);
        let all = |verdict| measured().all(|&part| part == verdict);
        match () {
            () if measured().next().is_none() => Self::NotMeasured,
            () if all(Self::Holds) => Self::Holds,
            () if all(Self::Contradicted) => Self::Contradicted,
            () => Self::Partly,
        }
    }
}

/// Of what a row speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A process and its child.
    Process,
    /// A virtual machine and its clones.
    Vm,
}

impl Subject {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Vm => "VM",
        }
    }
}

/// One section of the source text, and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Claim {
    /// Its number in the source text, 1 to 11.
    pub section: u32,
    /// What it is about.
    pub title: String,
    /// What it claims.
    pub claim: String,
    /// What was measured.
    pub measured: String,
    /// What the figures say of all of it.
    pub verdict: Verdict,
    /// Why.
    pub why: String,
    /// Its parts.
    pub rows: Vec<ClaimRow>,
    /// How to see the same by hand: lines for a shell.
    pub by_hand: Vec<String>,
}

/// One part of a claim.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClaimRow {
    /// Of what it speaks.
    pub subject: Subject,
    /// What is claimed.
    pub claim: String,
    /// What was measured.
    pub measured: String,
    /// What the figures say.
    pub verdict: Verdict,
    /// Why.
    pub why: String,
}

/// A claim before it is held against figures.
struct Said {
    section: u32,
    title: &'static str,
    claim: &'static str,
    rows: Vec<Row>,
    /// Lines with tine; what shows the same without is in `by_hand`.
    by_hand: &'static [&'static str],
}

/// How a row is judged. None where there are no figures.
type Test = Box<dyn Fn(&Report) -> Option<Judgement>>;

/// A part of a claim before it is held against figures.
struct Row {
    subject: Subject,
    claim: String,
    from: Section,
    test: Test,
}

impl Row {
    /// `subject` is claimed to be so; figures of the section `from` tell.
    fn new(
        subject: Subject,
        claim: impl Into<String>,
        from: Section,
        test: impl Fn(&Report) -> Option<Judgement> + 'static,
    ) -> Self {
        Self { subject, claim: claim.into(), from, test: Box::new(test) }
    }

    /// A row that no suite can fill on this kind of host, for `reason`.
    #[expect(dead_code, reason = "the claims about processes use it")]
    fn never(
        subject: Subject,
        claim: impl Into<String>,
        from: Section,
        reason: &'static str,
    ) -> Self {
        Self::new(subject, claim, from, move |_| Some(Judgement::missing(reason)))
    }

    fn judge(&self, report: &Report) -> ClaimRow {
        let judged = (self.test)(report);
        let judged = judged.unwrap_or_else(|| Judgement::missing(why_missing(report, self.from)));
        let Judgement { verdict, measured, why } = judged;
        ClaimRow { subject: self.subject, claim: self.claim.clone(), measured, verdict, why }
    }
}

/// The rows about processes, of which the text speaks, and then those about machines.
fn both(processes: Vec<Row>, machines: Vec<Row>) -> Vec<Row> {
    processes.into_iter().chain(machines).collect()
}

/// What the figures say of one row.
struct Judgement {
    verdict: Verdict,
    measured: String,
    why: String,
}

impl Judgement {
    /// It holds if `holds`, which `rule` asks for.
    fn when(holds: bool, rule: impl Into<String>, measured: impl Into<String>) -> Self {
        let verdict = if holds { Verdict::Holds } else { Verdict::Contradicted };
        Self { verdict, measured: measured.into(), why: rule.into() }
    }

    /// It holds if `figure` is within a factor of two of `claimed`.
    fn within_twice(figure: f64, claimed: f64, measured: impl Into<String>) -> Self {
        let ratio = figure / claimed;
        let rule = format!("{ratio:.2} times the claim; 0.5 to 2 would do");
        Self::when((0.5..=2.0).contains(&ratio), rule, measured)
    }

    /// It holds for part of what it names.
    fn partly(why: impl Into<String>, measured: impl Into<String>) -> Self {
        Self { verdict: Verdict::Partly, measured: measured.into(), why: why.into() }
    }

    /// There are no figures, for a reason.
    fn missing(why: impl Into<String>) -> Self {
        Self { verdict: Verdict::NotMeasured, measured: String::new(), why: why.into() }
    }
}

/// Why there are no figures of `section`.
fn why_missing(report: &Report, section: Section) -> String {
    let name = section.name();
    let skipped = report.skipped.iter().find(|skipped| skipped.what.starts_with(name));
    match skipped {
        Some(skipped) => format!("{}: {}", skipped.what, skipped.reason),
        None if report.done.iter().any(|done| done == name) => {
            format!("{name} has no such figure in this mode or on this host")
        }
        None => format!("the run ended before {name}"),
    }
}

/// The claims of the source text, in its order.
fn said() -> [Said; 11] {
    [
        eager::said(),
        cow_fork::said(),
        copied::said(),
        page_tables::said(),
        vfork::said(),
        timeline::said(),
        faults::said(),
        bgsave::said(),
        tuning::said(),
        seeing::said(),
        pressure::said(),
    ]
}

/// All claims, held against `report`.
pub fn of(report: &Report) -> Vec<Claim> {
    said().iter().map(|said| judge(said, report)).collect()
}

/// What tine says of itself beyond them, held against `report`.
pub fn promises(report: &Report) -> Vec<ClaimRow> {
    promises::rows().iter().map(|row| row.judge(report)).collect()
}

fn judge(said: &Said, report: &Report) -> Claim {
    let rows: Vec<ClaimRow> = said.rows.iter().map(|row| row.judge(report)).collect();
    let verdicts: Vec<Verdict> = rows.iter().map(|row| row.verdict).collect();
    Claim {
        section: said.section,
        title: said.title.to_owned(),
        claim: said.claim.to_owned(),
        measured: measured(&rows),
        verdict: Verdict::of(&verdicts),
        why: why(&rows),
        rows,
        by_hand: by_hand::lines(said.section, said.by_hand),
    }
}

fn measured(rows: &[ClaimRow]) -> String {
    let rows = rows.iter().filter(|row| !row.measured.is_empty());
    let rows: Vec<String> =
        rows.map(|row| format!("{}: {}", row.subject.words(), row.measured)).collect();
    rows.join("; ")
}

fn why(rows: &[ClaimRow]) -> String {
    /// Contradicted rows that are named: the rows themselves tell of all.
    const NAMED: usize = 3;

    let count = |verdict| rows.iter().filter(|row| row.verdict == verdict).count();
    let verdicts = [Verdict::Holds, Verdict::Partly, Verdict::Contradicted, Verdict::NotMeasured];
    let counts = verdicts.into_iter().map(|verdict| (verdict, count(verdict)));
    let counts: Vec<String> = counts
        .filter(|&(_, count)| count > 0)
        .map(|(verdict, count)| verdict.of_so_many(count))
        .collect();
    let parts = if rows.len() == 1 { "part" } else { "parts" };
    let mut why = format!("of {} {parts}: {}", rows.len(), counts.join(", "));
    let contradicted = || rows.iter().filter(|row| row.verdict == Verdict::Contradicted);
    for row in contradicted().take(NAMED) {
        why.push_str(&format!(". Contradicted ({}): {}", row.subject.words(), row.claim));
    }
    if let more @ 1.. = contradicted().count().saturating_sub(NAMED) {
        why.push_str(&format!("; and {more} more"));
    }
    if let Some(row) = rows.iter().find(|row| row.verdict == Verdict::NotMeasured) {
        why.push_str(&format!(". Not measured: {}", row.why));
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_what_its_rows_are() {
        use Verdict::{Contradicted, Holds, NotMeasured, Partly};
        assert_eq!(Verdict::of(&[]), NotMeasured);
        assert_eq!(Verdict::of(&[NotMeasured, NotMeasured]), NotMeasured);
        assert_eq!(Verdict::of(&[Holds, NotMeasured]), Holds);
        assert_eq!(Verdict::of(&[Contradicted, Contradicted]), Contradicted);
        assert_eq!(Verdict::of(&[Holds, Contradicted]), Partly);
        assert_eq!(Verdict::of(&[Partly]), Partly);
    }

    #[test]
    fn within_twice_is_within_twice() {
        let verdict = |figure| Judgement::within_twice(figure, 10.0, "").verdict;
        assert_eq!(verdict(5.0), Verdict::Holds);
        assert_eq!(verdict(20.0), Verdict::Holds);
        assert_eq!(verdict(4.9), Verdict::Contradicted);
        assert_eq!(verdict(f64::NAN), Verdict::Contradicted);
    }

    #[test]
    fn a_report_without_figures_has_every_claim_and_says_why_there_is_no_verdict() {
        let report = Report::empty();
        let claims = of(&report);
        let sections: Vec<u32> = claims.iter().map(|claim| claim.section).collect();
        assert_eq!(sections, (1..=11).collect::<Vec<_>>());
        for claim in &claims {
            assert_eq!(claim.verdict, Verdict::NotMeasured, "{}", claim.title);
            for row in &claim.rows {
                assert!(!row.why.is_empty() && row.measured.is_empty(), "{}", row.claim);
            }
        }
        assert!(promises(&report).iter().all(|row| row.verdict == Verdict::NotMeasured));
    }
}
