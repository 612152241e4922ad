//! The report as one page that needs nothing else.

use std::fmt::Write as _;

use super::Report;
use super::plots;
use super::tables::{self, Table};
use super::text::facts;
use crate::BenchError;
use crate::claims::ClaimRow;
use crate::plan::Section;

const STYLE: &str = "
:root { color-scheme: light; }
body { font: 15px/1.55 system-ui, -apple-system, 'Segoe UI', sans-serif; color: #282c34;
       background: #f6f7f9; margin: 0; }
main { max-width: 960px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 28px; margin: 0 0 4px; }
h2 { font-size: 20px; margin: 0 0 8px; }
h3 { font-size: 15.5px; margin: 22px 0 2px; }
section { background: #fff; border: 1px solid #e1e4e8; border-radius: 8px;
          padding: 20px 24px; margin: 20px 0; }
p { margin: 4px 0 10px; }
.note { color: #5b626d; font-size: 13.5px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 4px 14px 4px 0; white-space: nowrap; }
th { color: #5b626d; font-weight: 600; border-bottom: 1px solid #d5d9de; }
tr + tr td { border-top: 1px solid #eef0f2; }
.n { text-align: right; }
svg { max-width: 100%; height: auto; display: block; margin: 10px 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 12px 0 0;
     font-size: 14px; }
dt { color: #5b626d; }
dd { margin: 0; overflow-wrap: anywhere; }
ul.verdicts { list-style: none; padding: 0; margin: 14px 0 0; font-size: 14px; }
ul.verdicts li { padding: 5px 0 5px 106px; position: relative; border-top: 1px solid #eef0f2; }
.tag { position: absolute; left: 0; top: 7px; width: 90px; text-align: center;
       border-radius: 4px; font-size: 12px; line-height: 19px; }
.confirmed { background: #e2f3ec; color: #00674b; }
.contradicted { background: #fbe9df; color: #9a4300; }
pre { background: #f6f7f9; border-radius: 6px; padding: 12px 14px; overflow-x: auto;
      font-size: 13px; line-height: 1.5; }
code { font-size: 13px; }
";

/// How to see the same without the suite.
const BY_HAND: &str = "\
<p>The figures of one section, again:</p>
<pre>tine bench --only spawn
tine bench --only cow-faults --json faults.json</pre>
<p>A clone and its steps, with the daemon:</p>
<pre>tine serve --listen 127.0.0.1:7070 --token-file ./token &amp;
export TINE_SERVER=127.0.0.1:7070 TINE_TOKEN_FILE=./token
tine run --op dirty:100M          # a guest to look at, console attached
tine spawn --memory 256           # a sandbox; then, with its id:
tine workload ID dirty --bytes 100M
tine fork ID --count 3
tine memory ID                    # the ledger: private, shared, page tables</pre>
<p>Faults, as the kernel counts them:</p>
<pre>perf stat -e page-faults,minor-faults,major-faults tine bench --quick --only cow-faults
cat /sys/kernel/debug/kvm/pf_taken    # those that KVM took, all guests</pre>
<p>What is shared and what is private, while clones are alive (a memfd's pages that only one
process maps count as private there; <code>tine memory</code> does not make that mistake):</p>
<pre>grep -A 20 memfd:tine-image /proc/$(pgrep -o tine)/smaps | grep -E 'Rss|Pss|Shared|Private'
grep -E '^(Slab|VmallocUsed|PageTables|SecPageTables|AnonPages)' /proc/meminfo</pre>
<p>An eager copy without a VM, for the rate of the memory alone:</p>
<pre>perf bench mem memcpy --size 1GB --nr_loops 5</pre>
";

/// The page.
pub fn page(report: &Report) -> Result<String, BenchError> {
    let mut body = String::new();
    for claim in &report.claims {
        let _ = writeln!(body, "<section><h2>{}. {}</h2>", claim.section, escape(&claim.title));
        push_rows(&mut body, &claim.rows);
        body.push_str("</section>\n");
    }
    for section in Section::ALL {
        body.push_str(&part(section, report)?);
    }
    let facts: String = facts(&report.host)
        .into_iter()
        .map(|(name, value)| format!("<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(&value)))
        .collect();
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>tine bench</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>What a fork of a virtual machine costs</h1>\n\
         <p class=\"note\">Copy-on-write against an eager copy of memory, measured by \
         <code>tine bench</code> in {seconds:.0} s. Making a clone is timed to its first instruction.</p>\n\
         <section><h2>Host</h2>\n<dl>\n{facts}</dl>\n{skipped}</section>\n{body}\
         <section><h2>Reproduce by hand</h2>\n{BY_HAND}</section>\n</main>\n</body>\n</html>\n",
        seconds = report.seconds,
        skipped = skipped(report),
    ))
}

fn heading(section: Section) -> &'static str {
    match section {
        Section::Spawn => "Spawn from a snapshot",
        Section::LiveFork => "Fork of a running guest",
        Section::CowFaults => "Writes after the fork",
        Section::ReadFaults => "Reads after the fork",
        Section::HotSet => "Hot set",
        Section::Ledger => "Memory account",
        Section::Density => "Density",
        Section::Teardown => "Teardown",
        Section::Reset => "Reset",
        Section::Dormant => "Clones made ahead",
        Section::SpawnRate => "Clones a second",
        Section::Fanout => "Fork into many",
        Section::Cells => "Many cells",
        Section::Confinement => "Confinement",
        Section::WorkingSet => "First work",
        Section::Redis => "Redis saves itself",
        Section::RedisGuest => "A Redis in a Linux guest, saved both ways",
        Section::VmBgsave => "A machine is saved while it works",
    }
}

/// Plots, tables and verdicts of one section; nothing if it was not measured.
fn part(section: Section, report: &Report) -> Result<String, BenchError> {
    let tables = tables::of(section, report);
    if tables.is_empty() {
        return Ok(String::new());
    }
    let mut html = format!("<section><h2>{}</h2>\n", heading(section));
    for plot in plots::of(section, report)? {
        html.push_str(&plot);
    }
    for table in &tables {
        push_table(&mut html, table);
    }
    html.push_str("</section>\n");
    Ok(html)
}

// Writing to a string can't fail, so the results of `write!` say nothing.

fn push_table(html: &mut String, table: &Table) {
    let class = |index: usize| if index < table.words { "" } else { " class=\"n\"" };
    let _ = write!(
        html,
        "<h3>{}</h3>\n<p class=\"note\">{}</p>\n<div class=\"wide\"><table>\n<tr>",
        escape(table.title),
        code(&table.note)
    );
    for (index, column) in table.columns.iter().enumerate() {
        let _ = write!(html, "<th{}>{}</th>", class(index), escape(column));
    }
    html.push_str("</tr>\n");
    for row in &table.rows {
        html.push_str("<tr>");
        for (index, cell) in row.iter().enumerate() {
            let _ = write!(html, "<td{}>{}</td>", class(index), escape(cell));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div>\n");
}

fn push_rows(html: &mut String, rows: &[ClaimRow]) {
    html.push_str("<ul class=\"verdicts\">\n");
    for row in rows {
        let found = if row.measured.is_empty() { &row.why } else { &row.measured };
        let _ = writeln!(
            html,
            "<li><span class=\"tag\">{}</span>{}: {}: {}</li>",
            row.verdict.words(),
            row.subject.words(),
            escape(&row.claim),
            escape(found)
        );
    }
    html.push_str("</ul>\n");
}

fn skipped(report: &Report) -> String {
    if report.skipped.is_empty() {
        return String::new();
    }
    let lines = report.skipped.iter();
    let lines: String = lines
        .map(|skipped| format!("<br>{}: {}", escape(&skipped.what), escape(&skipped.reason)))
        .collect();
    format!("<p class=\"note\">Not measured:{lines}</p>\n")
}

/// `text` made harmless, with what stands between backquotes as code.
fn code(text: &str) -> String {
    let parts = text.split('`').enumerate();
    let parts = parts.map(|(index, part)| match index % 2 {
        0 => escape(part),
        _ => format!("<code>{}</code>", escape(part)),
    });
    parts.collect()
}

/// `text` with what HTML would take for markup made harmless.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '"' => safe.push_str("&quot;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_no_markup() {
        assert_eq!(escape("a<b> & \"c\""), "a&lt;b&gt; &amp; &quot;c&quot;");
        assert_eq!(code("the `<x>` step"), "the <code>&lt;x&gt;</code> step");
    }
}
