//! The report on the terminal.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;

use comfy_table::{CellAlignment, ContentArrangement, presets};

use super::tables::Table;
use super::units::{bytes, percent};
use super::{Report, Skipped};
use crate::BenchError;
use crate::claims::ClaimRow;
use crate::host::HostFacts;

/// Where the text goes: to stdout, or to stderr where the JSON goes to stdout.
pub struct Terminal {
    to_stderr: bool,
}

impl Terminal {
    /// Beside JSON that goes to `json`.
    pub fn beside(json: Option<&Path>) -> Self {
        Self { to_stderr: json == Some(Path::new("-")) }
    }

    /// Prints `text` and an end of line.
    pub fn say(&self, text: &str) -> Result<(), BenchError> {
        let printed = if self.to_stderr {
            writeln!(io::stderr().lock(), "{text}")
        } else {
            let mut out = io::stdout().lock();
            writeln!(out, "{text}").and_then(|()| out.flush())
        };
        printed.map_err(BenchError::Print)
    }
}

/// On what it is measured, as names and values.
pub fn facts(host: &HostFacts) -> Vec<(&'static str, String)> {
    let or_unknown = |text: Option<String>| text.unwrap_or_else(|| "unknown".to_owned());
    let number = |number: Option<u64>| or_unknown(number.map(|number| number.to_string()));
    let kvm = &host.kvm;
    vec![
        ("command", host.command.clone()),
        ("date", host.date.clone()),
        ("tine", host.tine.to_owned()),
        ("cpu", format!("{}, {} cores", or_unknown(host.cpu.clone()), host.cores)),
        ("memory", bytes(host.memory_bytes as f64)),
        ("kernel", format!("{}, HZ {}", host.kernel, number(host.hz))),
        (
            "kvm",
            format!(
                "{}, guest ring 0 {} ({:.1} ns an instruction; ring 3 {:.1} ns)",
                kvm.module, kvm.ring0, kvm.ring0_ns, kvm.ring3_ns
            ),
        ),
        (
            "pages",
            format!(
                "{}; THP {}, for memory files {}; huge pages {} reserved, {} free",
                bytes(host.page_bytes as f64),
                or_unknown(host.thp_enabled.clone()),
                or_unknown(host.thp_shmem_enabled.clone()),
                number(host.hugepages_total),
                number(host.hugepages_free)
            ),
        ),
        ("live VMs", host.live_vms.to_string()),
        ("load", or_unknown(host.load.map(|load| format!("{load:.2}")))),
    ]
}

/// The header.
pub fn header(host: &HostFacts) -> String {
    let mut text = String::from("tine bench\n");
    for (name, value) in facts(host) {
        // Writing to a string can't fail.
        let _ = writeln!(text, "  {name:9} {value}");
    }
    text
}

/// A table.
pub fn table(data: &Table) -> String {
    let mut table = comfy_table::Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(data.columns.clone())
        .add_rows(data.rows.clone());
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index >= data.words {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let body = table.trim_fmt();
    let body: String = body.lines().map(|line| format!("  {line}\n")).collect();
    format!("{}\n  {}\n\n{body}", data.title, data.note)
}

/// The claims and what became of them in short, and then their rows.
fn claims(report: &Report) -> String {
    let mut text = String::from("Claims, and what was measured\n\n");
    for claim in &report.claims {
        // Writing to a string can't fail.
        let _ =
            writeln!(text, "  {:2}  {:13}  {}", claim.section, claim.verdict.words(), claim.title);
    }
    for claim in &report.claims {
        let _ = writeln!(text, "\n{}. {}", claim.section, claim.title);
        text.push_str(&rows(&claim.rows));
    }
    text.push_str("\nBeyond them\n");
    text.push_str(&rows(&report.promises));
    text
}

/// Each row as what is claimed, and below it what was measured, or why nothing was.
fn rows(rows: &[ClaimRow]) -> String {
    /// Where the text of a row begins.
    const MARGIN: usize = 26;
    let line = |row: &ClaimRow| {
        let found = if row.measured.is_empty() { &row.why } else { &row.measured };
        let (verdict, subject) = (row.verdict.words(), row.subject.words());
        let (claim, found) = (wrapped(&row.claim, MARGIN), wrapped(found, MARGIN + 2));
        format!("  {subject:7}  {verdict:13}  {claim}\n{:1$}{found}\n", "", MARGIN + 2)
    };
    if rows.is_empty() {
        return "  nothing was measured of it\n".to_owned();
    }
    rows.iter().map(line).collect()
}

/// `text` in lines that fit a terminal, all but the first after `margin` spaces.
fn wrapped(text: &str, margin: usize) -> String {
    const WIDTH: usize = 100;
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().filter(|line| {
            line.is_empty() || margin + line.chars().count() + 1 + word.chars().count() <= WIDTH
        });
        match last {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines.join(&format!("\n{:margin$}", ""))
}

/// The claims, what was skipped, and how long it took.
pub fn closing(report: &Report) -> String {
    let mut text = claims(report);
    text.push('\n');
    if let Some(floor) = report.noise.floor {
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            "noise floor: {}; figures that differ by less do not differ",
            percent(floor)
        );
    }
    for Skipped { what, reason } in &report.skipped {
        // Writing to a string can't fail.
        let _ = writeln!(text, "skipped {what}: {reason}");
    }
    let _ = write!(text, "took {:.1} s", report.seconds);
    if !report.complete {
        text.push_str("; ended early, and incomplete");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims;

    #[test]
    fn long_lines_are_wrapped_after_a_margin() {
        assert_eq!(wrapped("", 4), "");
        assert_eq!(wrapped("a few words", 4), "a few words");
        let word = "w".repeat(60);
        assert_eq!(wrapped(&format!("{word} {word} b"), 4), format!("{word}\n    {word} b"));
    }

    #[test]
    fn every_claim_is_a_line_at_the_end() {
        let mut report = Report::empty();
        report.claims = claims::of(&report);
        let text = closing(&report);
        for claim in &report.claims {
            let line = format!("{:2}  not measured   {}\n", claim.section, claim.title);
            assert!(text.contains(&line), "{line}{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert!(text.ends_with("ended early, and incomplete"));
    }
}
