//! Every measure, and what was not measured.

use super::markup::{Page, escape, heads};
use crate::measure::{Measure, Unit};
use crate::report::Report;
use crate::report::tables::Table;
use crate::report::units::{bytes, percent, short, time};

const COLUMNS: [&str; 6] = ["measure", "n", "p50", "95 % interval of p50", "p99", "noise"];

/// All measures, to be opened.
pub fn section(page: &mut Page, report: &Report) {
    page.begin("measures", "All measures");
    let mut table = Table::new(
        "Every measure of this run",
        "`noise` is by how much another run of the same build may differ from p50. The samples \
         themselves are in the JSON (`tine bench --json`), a line for each measure in `--csv`.",
        1,
        &COLUMNS,
    );
    for measure in &report.measures {
        table.row(row(measure));
    }
    page.push(&format!("<details>\n<summary>{} measures</summary>\n", report.measures.len()));
    page.table(&table);
    page.push("</details>\n");
    page.end();
}

fn row(measure: &Measure) -> [String; 6] {
    let write = |value| figure(measure.unit, value);
    let interval = match (measure.low, measure.high) {
        (Some(low), Some(high)) => format!("{} to {}", write(low), write(high)),
        _ => "-".to_owned(),
    };
    [
        measure.id.clone(),
        measure.n.to_string(),
        write(measure.p50),
        interval,
        write(measure.p99),
        measure.noise.map_or_else(|| "-".to_owned(), percent),
    ]
}

/// `value` in `unit`, for people.
fn figure(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Us => time(value),
        Unit::NsPerPage => format!("{} ns/page", short(value)),
        Unit::Bytes => bytes(value),
        Unit::PerSecond => format!("{}/s", short(value)),
        Unit::Count => short(value),
        Unit::Part => percent(value),
    }
}

/// What was not measured, and why.
pub fn skipped(page: &mut Page, report: &Report) {
    page.begin("skipped", "Not measured");
    if report.skipped.is_empty() {
        page.push(match report.complete {
            true => "<p>Nothing was left out of what this run was to measure.</p>\n",
            false => "<p>Nothing but what the run did not come to.</p>\n",
        });
    } else {
        let rows: Vec<String> = report
            .skipped
            .iter()
            .map(|it| {
                let what = escape(&it.what);
                format!("<th scope=\"row\">{what}</th><td>{}</td>", escape(&it.reason))
            })
            .collect();
        page.rows("Left out, and why", "", "prose", &heads(&["what", "why"]), &rows);
    }
    page.end();
}
