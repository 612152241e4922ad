//! A run, from the options to the files.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use crate::bench::Bench;
use crate::claims;
use crate::host::HostFacts;
use crate::interrupt::Interrupt;
use crate::measure::Measures;
use crate::plan::{Plan, Section};
use crate::progress::Progress;
use crate::report::text::Terminal;
use crate::report::{Report, csv, html, tables, text};
use crate::rig::Rig;
use crate::{BenchError, Options, sections};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything was measured.
    Complete,
    /// Someone ended it before that. What was measured is written; `resume` goes on from there.
    Interrupted,
}

/// Measures, prints the figures as they come, and writes the files that were asked for.
///
/// # Errors
/// When anything fails that was to be measured: there are no figures with holes. What was
/// measured before is in the JSON file.
pub fn run(options: &Options) -> Result<End, BenchError> {
    let plan = Plan::new(options)?;
    // Better known now than after minutes of measuring.
    for path in [&options.json, &options.html, &options.csv].into_iter().flatten() {
        check_writable(path)?;
    }
    let interrupt = Interrupt::install()?;
    let rig = Rig::open()?;
    let host = HostFacts::gather(rig.host(), &options.command)?;
    let mut report = match (&options.json, options.resume) {
        (Some(path), true) => Report::resumed(path, host, &plan)?,
        _ => Report::new(host, plan.facts()),
    };
    let progress = Progress::start(plan.seconds(&report.done), interrupt.clone());
    let mut bench = Bench {
        plan,
        rig,
        measures: Measures::new(std::mem::take(&mut report.measures)),
        skipped: std::mem::take(&mut report.skipped),
        progress,
        interrupt,
    };
    let terminal = Terminal::beside(options.json.as_deref());
    terminal.say(&text::header(&report.host))?;
    let measured = measure(&mut bench, &mut report, options.json.as_deref(), &terminal);
    let end = match measured {
        Ok(()) => End::Complete,
        // What Ctrl-C does to the guests' processes is no failure of theirs.
        Err(_) if bench.interrupt.asked() => End::Interrupted,
        Err(error) => return Err(error),
    };
    report.complete = end == End::Complete;
    finish(&mut report, &bench);
    drop(bench);
    terminal.say(&text::closing(&report))?;
    if let Some(path) = &options.json {
        write(path, &report.json()?)?;
    }
    if let Some(path) = &options.csv {
        write(path, &csv::lines(&report)?)?;
    }
    if let Some(path) = &options.html {
        write(path, &html::page(&report)?)?;
    }
    Ok(end)
}

fn measure(
    bench: &mut Bench,
    report: &mut Report,
    json: Option<&Path>,
    terminal: &Terminal,
) -> Result<(), BenchError> {
    for section in Section::ALL {
        if report.done.iter().any(|done| done == section.name()) {
            continue;
        }
        let begun = Instant::now();
        if !bench.plan.wants(section) {
            bench.skip(section.name(), "not asked for (--only)");
            continue;
        }
        let needed = section.guests_mib().iter().max();
        if let Some(reason) = needed.map(|&mib| bench.rig.no_room_for(mib)).transpose()?.flatten() {
            bench.skip(section.name(), reason);
            continue;
        }
        bench.progress.begin(section.name(), bench.plan.seconds_of(section));
        report.noise.read(&mut bench.rig, &bench.interrupt)?;
        sections::run(section, bench, report)?;
        bench.progress.end();
        let seconds = begun.elapsed().as_secs_f64();
        report.seconds += seconds;
        report.section_seconds.0.push((section.name().to_owned(), seconds));
        report.done.push(section.name().to_owned());
        for table in tables::of(section, report) {
            terminal.say(&text::table(&table))?;
        }
        // What is on disk survives whatever comes next.
        if let Some(path) = json.filter(|path| *path != Path::new("-")) {
            finish(report, bench);
            write(path, &report.json()?)?;
        }
        bench.interrupt.check()?;
    }
    Ok(())
}

/// Puts into `report` what follows from all that was measured.
fn finish(report: &mut Report, bench: &Bench) {
    report.measures = bench.measures.all();
    report.noise.tell(&mut report.measures);
    report.skipped.clone_from(&bench.skipped);
    report.claims = claims::of(report);
    report.promises = claims::promises(report);
}

fn check_writable(path: &Path) -> Result<(), BenchError> {
    if path == Path::new("-") {
        return Ok(());
    }
    let opened = fs::OpenOptions::new().create(true).append(true).open(path);
    opened.map(drop).map_err(|source| BenchError::Write { path: path.into(), source })
}

/// Writes all of a file or nothing of it: a reader never finds half a report.
pub fn write(path: &Path, text: &str) -> Result<(), BenchError> {
    if path == Path::new("-") {
        return std::io::stdout().write_all(text.as_bytes()).map_err(BenchError::Print);
    }
    let failed = |source| BenchError::Write { path: path.into(), source };
    // What is no file (/dev/stdout, a pipe) can't be replaced.
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return fs::write(path, text).map_err(failed);
    }
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    fs::write(&part, text).and_then(|()| fs::rename(&part, path)).map_err(failed)
}
