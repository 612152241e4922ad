//! The claims, each with what it said, what was measured, and how to see the same by hand.

use super::heading;
use super::markup::{Page, badge, code, escape, heads};
use crate::BenchError;
use crate::claims::{Claim, ClaimRow, sections_beyond, sections_of, shown_elsewhere};
use crate::plan::Section;
use crate::report::{Report, plots, tables};

/// One claim.
pub fn section(page: &mut Page, claim: &Claim, report: &Report) -> Result<(), BenchError> {
    let title = format!("{}. {} {}", claim.section, escape(&claim.title), badge(claim.verdict));
    page.begin(&format!("claim-{}", claim.section), &title);
    page.push(&format!("<blockquote><p>{}</p></blockquote>\n", code(&claim.claim)));
    if claim.rows.is_empty() {
        page.push("<p>The suite has nothing that tells of it.</p>\n");
    } else {
        page.push(&format!("<p><b>Verdict:</b> {}.</p>\n", code(&claim.why)));
        rows(page, "Its parts", "", &claim.rows);
    }
    for section in sections_of(claim.section) {
        figures(page, section, report)?;
    }
    elsewhere(page, claim.section, report);
    if !claim.by_hand.is_empty() {
        page.push("<h3>By hand</h3>\n");
        page.shell(&claim.by_hand);
    }
    page.end();
    Ok(())
}

/// What belongs to none of them.
pub fn beyond(page: &mut Page, report: &Report) -> Result<(), BenchError> {
    page.begin("beyond", "Beyond the claims: what tine adds");
    if !report.promises.is_empty() {
        let note = "What tine says of itself, held against the figures as the claims are.";
        rows(page, "Promises", note, &report.promises);
    }
    for section in sections_beyond() {
        figures(page, section, report)?;
    }
    page.end();
    Ok(())
}

fn rows(page: &mut Page, title: &str, note: &str, rows: &[ClaimRow]) {
    const HEADS: [&str; 5] = ["subject", "claimed", "measured", "verdict", "why"];
    let row = |row: &ClaimRow| {
        let measured = if row.measured.is_empty() { "–" } else { &row.measured };
        let [subject, claimed, found, verdict, why] = HEADS;
        // On a narrow screen each cell is a line of its own, and says what it is.
        format!(
            "<td data-head=\"{subject}\">{}</td><th scope=\"row\" data-head=\"{claimed}\">{}</th>\
             <td data-head=\"{found}\">{}</td><td data-head=\"{verdict}\">{}</td>\
             <td data-head=\"{why}\">{}</td>",
            row.subject.words(),
            code(&row.claim),
            code(measured),
            badge(row.verdict),
            code(&row.why)
        )
    };
    let rows: Vec<String> = rows.iter().map(row).collect();
    page.rows(title, note, "prose parts", &heads(&HEADS), &rows);
}

/// Where one looks for the figures of a section.
fn anchor(section: Section) -> String {
    section.name().replace('_', "-")
}

fn was_measured(section: Section, report: &Report) -> bool {
    !tables::of(section, report).is_empty()
}

/// Plots and tables of one section; nothing if it was not measured.
fn figures(page: &mut Page, section: Section, report: &Report) -> Result<(), BenchError> {
    if !was_measured(section, report) {
        return Ok(());
    }
    page.push(&format!("<h3 id=\"{}\">{}</h3>\n", anchor(section), heading(section)));
    for plot in plots::of(section, report)? {
        page.push(&plot);
    }
    for table in tables::of(section, report) {
        page.table(&table);
    }
    Ok(())
}

/// Leads to figures that are used here and shown under another claim.
fn elsewhere(page: &mut Page, number: u32, report: &Report) {
    let sections = shown_elsewhere(number);
    let sections = sections.into_iter().filter(|&section| was_measured(section, report));
    let links: Vec<String> = sections
        .map(|section| format!("<a href=\"#{}\">{}</a>", anchor(section), heading(section)))
        .collect();
    if !links.is_empty() {
        page.push(&format!("<p class=\"note\">Figures used here too: {}.</p>\n", links.join(", ")));
    }
}
