//! The report as one page that needs nothing else: no network, no scripts, no fonts.
//!
//! For a reader who knows fork and not tine: what was found first, then each claim with its
//! figures, then all that was measured.

mod cards;
mod claims;
mod markup;
mod measures;
mod noise;
mod summary;
mod words;

#[cfg(test)]
mod tests;

pub use markup::escape;

use super::Report;
use crate::BenchError;
use crate::plan::Section;
use markup::Page;

const STYLE: &str = include_str!("html/page.css");

/// The page. What was not measured is left out, or says why.
pub fn page(report: &Report) -> Result<String, BenchError> {
    let mut page = Page::default();
    page.push("<header>\n<h1>What a fork costs, and what copy-on-write saves</h1>\n");
    page.push(words::INTRODUCTION);
    page.push("</header>\n");
    summary::banner(&mut page, report);
    summary::contents(&mut page);
    summary::section(&mut page, report);
    words::glossary(&mut page);
    summary::host(&mut page, report);
    noise::section(&mut page, report)?;
    for claim in &report.claims {
        claims::section(&mut page, claim, report)?;
    }
    claims::beyond(&mut page, report)?;
    measures::section(&mut page, report);
    measures::skipped(&mut page, report);
    words::method(&mut page);
    let body = page.text();
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>tine bench: what a fork costs</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <main>\n{body}</main>\n</body>\n</html>\n"
    ))
}

/// What stands above the figures of a section.
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
        Section::Pressure => "Under memory pressure",
        Section::VmCopied => "What a clone copies, and what it shares",
        Section::VmTimeline => "The life of a clone",
        Section::Backing => "Small and huge pages",
        Section::ProcessSpawn => "Children of processes",
        Section::ProcessFaults => "Writes of processes after a fork",
        Section::ProcessTimeline => "A process that forks to execute",
        Section::ProcessCopied => "What a fork of a process copies",
        Section::ProcessTuning => "Advice for processes that fork",
        Section::ProcessInGuest => "Processes in a Linux guest",
        Section::Peers => "Other VMMs",
        Section::Redis => "Redis saves itself",
        Section::RedisGuest => "A Redis in a Linux guest, saved both ways",
        Section::VmBgsave => "A machine is saved while it works",
    }
}
