//! What a reader sees first: the headline figures, the verdicts, the host.

use super::cards;
use super::markup::{Page, badge, escape, heads, labelled};
use crate::claims::{Claim, Verdict};
use crate::plan::Section;
use crate::report::Report;
use crate::report::text::facts;

const VERDICTS: [Verdict; 4] =
    [Verdict::Holds, Verdict::Partly, Verdict::Contradicted, Verdict::NotMeasured];

/// Says so if the report is not all of the suite.
pub fn banner(page: &mut Page, report: &Report) {
    let lacking = Section::ALL.map(Section::name);
    let lacking = lacking.into_iter().filter(|name| !report.done.iter().any(|done| done == name));
    let lacking: Vec<String> = lacking.map(|name| name.replace('_', "-")).collect();
    if report.complete && lacking.is_empty() {
        return;
    }
    let begun = match (report.complete, report.plan.only.is_empty()) {
        (false, _) => "This run ended early, and the report is incomplete.",
        (true, false) => "Only part of the suite was asked for.",
        (true, true) => "Part of the suite could not be measured here.",
    };
    let all = Section::ALL.len();
    let done = all - lacking.len();
    let missing = match lacking.is_empty() {
        true => String::new(),
        false => format!(" Missing: {}.", lacking.join(", ")),
    };
    page.push(&format!(
        "<div class=\"banner\" role=\"note\"><p><b>{begun}</b> {done} of {all} sections were \
         measured.{missing}</p></div>\n"
    ));
}

/// Where to go.
pub fn contents(page: &mut Page) {
    page.push(
        "<nav aria-label=\"Contents\"><a href=\"#summary\">Summary</a> <a \
         href=\"#words\">Words</a> <a href=\"#host\">Host</a> <a href=\"#noise\">Noise</a> <a \
         href=\"#claim-1\">The claims</a> <a href=\"#beyond\">Beyond them</a> <a \
         href=\"#measures\">All measures</a> <a href=\"#method\">Method</a></nav>\n",
    );
}

/// The headline figures, and the verdicts.
pub fn section(page: &mut Page, report: &Report) {
    page.begin("summary", "Summary");
    let cards = cards::of(report);
    if !cards.is_empty() {
        page.push("<ul class=\"cards\">\n");
        for card in &cards {
            page.push(&format!(
                "<li><span class=\"what\">{}</span><span class=\"figure\">{}</span><span \
                 class=\"detail\">{}</span></li>\n",
                escape(card.what),
                escape(&card.figure),
                escape(&card.detail)
            ));
        }
        page.push("</ul>\n");
    }
    page.push("<ul class=\"counts\" aria-label=\"Verdicts\">\n");
    for verdict in VERDICTS {
        let count = report.claims.iter().filter(|claim| claim.verdict == verdict).count();
        if count > 0 {
            let words = labelled(verdict, &verdict.of_so_many(count));
            page.push(&format!("<li>{words}</li>\n"));
        }
    }
    page.push("</ul>\n");
    let rows: Vec<String> = report.claims.iter().map(row).collect();
    let note = "A verdict of a claim is that of its parts together. Each leads to its figures.";
    page.rows(
        "The claims, and what became of them",
        note,
        "prose verdicts",
        &heads(&["", "claim", "verdict", "its parts"]),
        &rows,
    );
    page.end();
}

fn row(claim: &Claim) -> String {
    let count = |verdict| claim.rows.iter().filter(|row| row.verdict == verdict).count();
    let counts = VERDICTS.map(|verdict| (verdict, count(verdict)));
    let counts = counts.into_iter().filter(|&(_, count)| count > 0);
    let counts: Vec<String> = counts.map(|(verdict, count)| verdict.of_so_many(count)).collect();
    format!(
        "<td>{number}</td><th scope=\"row\"><a href=\"#claim-{number}\">{}</a></th><td>{}</td>\
         <td>{}</td>",
        escape(&claim.title),
        badge(claim.verdict),
        counts.join(", "),
        number = claim.section
    )
}

/// On what it was measured.
pub fn host(page: &mut Page, report: &Report) {
    page.begin("host", "Host");
    page.push("<dl>\n");
    let mode = if report.plan.quick { "quick: fewer sizes and samples" } else { "full" };
    let run = [("mode", mode.to_owned()), ("measured in", format!("{:.0} s", report.seconds))];
    for (name, value) in facts(&report.host).into_iter().chain(run) {
        page.push(&format!("<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(&value)));
    }
    page.push("</dl>\n");
    page.end();
}
