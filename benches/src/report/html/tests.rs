//! The page of reports of which the figures are known: whole, in part, empty.

use std::collections::BTreeSet;

use serde_json::Value;

use super::markup::code;
use super::*;
use crate::claims::{self, Verdict};
use crate::measure::Measures;
use crate::noise::Control;
use crate::report::{Skipped, tables};

/// What a quick run of everything measured, over an empty report.
fn full() -> Report {
    let mut report = serde_json::to_value(Report::empty()).unwrap();
    let figures: Value = serde_json::from_str(include_str!("full.json")).unwrap();
    for (name, figure) in figures.as_object().unwrap() {
        report[name] = figure.clone();
    }
    let done = Section::ALL.map(|section| section.name().to_owned()).to_vec();
    judged(Report { complete: true, done, ..serde_json::from_value(report).unwrap() })
}

/// A run that ended after its first section.
fn partial() -> Report {
    let Report { spawn, .. } = full();
    let skipped =
        vec![Skipped { what: "spawn".to_owned(), reason: "too <little> room".to_owned() }];
    judged(Report { spawn, skipped, done: vec!["spawn".to_owned()], ..Report::empty() })
}

fn judged(mut report: Report) -> Report {
    report.claims = claims::of(&report);
    report.promises = claims::promises(&report);
    report
}

/// Every value of `attribute` in `page`.
fn values<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
    let begin = format!(" {attribute}=\"");
    let parts = page.split(&*begin).skip(1);
    parts.map(|part| part.split('"').next().unwrap()).collect()
}

/// What the page of any report must be.
fn check(page: &str, report: &Report) {
    for claim in &report.claims {
        assert!(page.contains(&escape(&claim.title)), "{}", claim.title);
        assert!(page.contains(&code(&claim.claim)), "{}", claim.claim);
        for row in &claim.rows {
            assert!(page.contains(&code(&row.claim)), "{}", row.claim);
            assert!(page.contains(&code(&row.why)), "{}", row.why);
        }
    }
    for word in ["NaN", "inf ", ">inf", ">None", "Some("] {
        assert!(!page.contains(word), "{word} is in the page");
    }
    // Nothing is loaded.
    for attribute in ["src", "srcset", "data", "action", "onload", "onclick"] {
        assert_eq!(values(page, attribute), Vec::<&str>::new());
    }
    assert!(!page.contains("url(") && !page.contains("@import") && !page.contains("<script"));
    let ids: BTreeSet<&str> = values(page, "id").into_iter().collect();
    assert_eq!(ids.len(), values(page, "id").len(), "an id is there twice");
    for link in values(page, "href") {
        let id = link.strip_prefix('#').unwrap_or_else(|| panic!("{link} leaves the page"));
        assert!(ids.contains(id), "{link} leads nowhere");
    }
    for id in values(page, "aria-labelledby") {
        assert!(ids.contains(id), "{id} labels nothing");
    }
    balanced(page);
    headings(page);
}

/// Every tag that is opened is closed, in its order, and has no attribute twice.
fn balanced(page: &str) {
    let style = page.find("<style>").unwrap()..page.find("</style>").unwrap();
    let page = format!("{}{}", &page[..style.start + 7], &page[style.end..]);
    let mut open: Vec<&str> = vec![];
    for part in page.split('<').skip(1) {
        let tag = part.split('>').next().unwrap();
        let name = tag.split([' ', '/', '\n']).find(|name| !name.is_empty()).unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "<{tag}> closes something else");
        } else if !tag.ends_with('/') && !["!doctype", "meta", "br"].contains(&name) {
            open.push(name);
        }
        assert!(tag.matches(" class=").count() < 2, "<{tag}> has two classes");
    }
    assert!(open.is_empty(), "{open:?} stay open");
}

/// No heading is more than one level below the one before.
fn headings(page: &str) {
    let mut last = 0;
    for part in page.split("<h").skip(1) {
        let Some(level) = part.chars().next().and_then(|level| level.to_digit(10)) else {
            continue;
        };
        assert!(level <= last + 1, "h{level} after h{last}: {}", &part[..40]);
        last = level;
    }
    assert_eq!(page.matches("<h1>").count(), 1);
}

#[test]
fn the_page_of_an_empty_report_has_every_claim_and_says_that_it_is_empty() {
    let report = judged(Report::empty());
    let text = page(&report).unwrap();
    check(&text, &report);
    assert!(text.contains("ended early") && text.contains(" 0 of "));
    assert!(text.contains("11 not measured"));
    assert!(!text.contains("<svg") && !text.contains("class=\"cards\""));
}

#[test]
fn the_page_of_a_part_has_its_figures_and_says_what_is_missing() {
    let report = partial();
    let text = page(&report).unwrap();
    check(&text, &report);
    assert!(text.contains("<b>This run ended early") && text.contains("live-fork, cow-faults"));
    assert!(text.contains("id=\"spawn\"") && !text.contains("id=\"live-fork\""));
    assert!(text.contains("Copy-on-write against eager copy"));
    assert!(!text.contains("Host memory of one more clone"));
    assert!(text.contains("too &lt;little&gt; room") && !text.contains("too <little>"));
}

#[test]
fn the_page_of_a_full_report_has_every_section_once() {
    let report = full();
    let text = page(&report).unwrap();
    check(&text, &report);
    assert!(!text.contains("class=\"banner\""));
    for section in Section::ALL.into_iter().filter(|it| !tables::of(*it, &report).is_empty()) {
        let id = format!("id=\"{}\"", section.name().replace('_', "-"));
        assert_eq!(text.matches(&id).count(), 1, "{id}");
    }
    for verdict in [Verdict::Holds, Verdict::Partly, Verdict::Contradicted] {
        assert!(text.contains(&markup::badge(verdict)), "{}", verdict.words());
    }
    // The fixture's own figures: 629 ms by eager copy, 4.55 ms by copy-on-write.
    assert!(text.contains("<span class=\"figure\">138x</span>"));
    assert!(text.contains("class=\"cards\"") && text.matches("<figure ").count() >= 10);
    assert_eq!(text.matches("<figure ").count(), text.matches("role=\"img\" aria-label").count());
}

#[test]
fn the_page_of_the_run_that_the_readme_tells_has_every_section_once() {
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/numbers.json");
    let report = judged(Report::read(kept.as_ref()).unwrap());
    let text = page(&report).unwrap();
    check(&text, &report);
    for section in Section::ALL.into_iter().filter(|it| !tables::of(*it, &report).is_empty()) {
        let id = format!("id=\"{}\"", section.name().replace('_', "-"));
        assert_eq!(text.matches(&id).count(), 1, "{id}");
    }
    assert!(report.done.len() > 25 && text.matches("<figure ").count() >= 25);
}

#[test]
fn what_comes_from_the_host_is_no_markup() {
    let mut report = judged(Report::empty());
    let evil = "<script>'\"&";
    report.host.command = evil.to_owned();
    report.host.cpu = Some(evil.to_owned());
    report.noise.controls =
        vec![Control { name: evil.to_owned(), readings_us: vec![1.0, 2.0], drift: None }];
    report.skipped = vec![Skipped { what: evil.to_owned(), reason: evil.to_owned() }];
    let measures = Measures::default();
    measures.time(evil, &[1.0]);
    report.measures = measures.all();
    let text = page(&report).unwrap();
    check(&text, &report);
    assert!(text.matches("&lt;script&gt;&#39;&quot;&amp;").count() >= 5, "{text}");
}

#[test]
fn text_is_no_markup() {
    assert_eq!(escape("a<b> & \"c\""), "a&lt;b&gt; &amp; &quot;c&quot;");
    assert_eq!(code("the `<x>` step"), "the <code>&lt;x&gt;</code> step");
}
