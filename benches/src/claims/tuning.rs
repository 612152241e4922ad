//! Tuning for copy-on-write: section 9 of the source text.

use super::{Judgement, Row, Said, Subject, both, process};
use crate::plan::Section;
use crate::report::Report;
use crate::report::units::{bytes, time, times};
use crate::sections::REGION_PAGES;

/// What is said.
pub fn said() -> Said {
    Said {
        section: 9,
        title: "Tuning for copy-on-write",
        claim: "Put hot data together; use huge pages for large data that is mostly read; copy hot pages before the fork.",
        rows: both(process::tuning::rows(), vm_rows()),
        by_hand: &["tine bench --only process-tuning,cow-faults,hot-set,working-set,backing"],
    }
}

fn vm_rows() -> Vec<Row> {
    vec![
        Row::new(
            Subject::Vm,
            "writes that lie together cost less than scattered ones",
            Section::CowFaults,
            clustering,
        ),
        Row::new(
            Subject::Vm,
            "copying scattered hot pages ahead makes their first writes cheaper",
            Section::HotSet,
            |report| copying_ahead(report, false),
        ),
        Row::new(
            Subject::Vm,
            "copying hot pages that lie together ahead makes them cheaper",
            Section::HotSet,
            |report| copying_ahead(report, true),
        ),
        Row::new(
            Subject::Vm,
            "a hot set makes the first work of a clone cheaper",
            Section::WorkingSet,
            hot_set_helps,
        ),
        Row::new(
            Subject::Vm,
            "reading all of an image of transparent huge pages is cheaper than of small ones",
            Section::Backing,
            |report| before_after(report, ("read", "sequential", 1.0), THP, 0.9),
        ),
        Row::new(
            Subject::Vm,
            "so is reading a scattered tenth of it",
            Section::Backing,
            |report| before_after(report, ("read", "scattered", 0.1), THP, 0.9),
        ),
        Row::new(
            Subject::Vm,
            "a write to a shared transparent huge page copies 2 MB",
            Section::Backing,
            |report| copies_two_mb(report, THP),
        ),
        Row::new(
            Subject::Vm,
            "a write to a shared page of hugetlbfs copies 2 MB",
            Section::Backing,
            |report| copies_two_mb(report, "hugetlb"),
        ),
        Row::new(
            Subject::Vm,
            "scattered writes cost no more with huge pages below than with small ones",
            Section::Backing,
            |report| before_after(report, ("write", "scattered", 0.01), THP, 1.1),
        ),
        Row::new(
            Subject::Vm,
            "reserved huge pages (hugetlb) make reading cheaper than small ones",
            Section::Backing,
            |report| before_after(report, ("read", "sequential", 1.0), "hugetlb", 0.9),
        ),
        Row::new(Subject::Vm, "and scattered writes dearer", Section::Backing, |report| {
            dearer(report, ("write", "scattered", 0.01))
        }),
    ]
}

const THP: &str = "transparent huge";

/// Holds if `what` with the other backing takes at most `most` times what it takes with pages of
/// 4 KiB.
fn before_after(
    report: &Report,
    what: (&str, &str, f64),
    backing: &str,
    most: f64,
) -> Option<Judgement> {
    if let Some(missing) = missing(report, backing) {
        return Some(missing);
    }
    let before = report.backing("4 KiB", what)?;
    let after = report.backing(backing, what)?;
    let ratio = after.total_us / before.total_us;
    let words = format!(
        "{} with pages of 4 KiB, {} with {backing} ones: {}",
        time(before.total_us),
        time(after.total_us),
        times(ratio)
    );
    Some(Judgement::when(ratio <= most, format!("{most} times or less"), words))
}

/// Why there are no figures of images of this kind alone.
fn missing(report: &Report, backing: &str) -> Option<Judgement> {
    let what = format!("backing: {backing}");
    let skipped = report.skipped.iter().find(|skipped| skipped.what == what)?;
    Some(Judgement::missing(skipped.reason.clone()))
}

/// Holds if `what` takes more with reserved huge pages than with small ones.
fn dearer(report: &Report, what: (&str, &str, f64)) -> Option<Judgement> {
    if let Some(missing) = missing(report, "hugetlb") {
        return Some(missing);
    }
    let (before, after) = (report.backing("4 KiB", what)?, report.backing("hugetlb", what)?);
    let words = format!("{} against {}", time(after.total_us), time(before.total_us));
    Some(Judgement::when(after.total_us > before.total_us, "more", words))
}

fn copies_two_mb(report: &Report, backing: &str) -> Option<Judgement> {
    if let Some(missing) = missing(report, backing) {
        return Some(missing);
    }
    // So few pages that hardly two of them lie in one huge page.
    let row = report.backing(backing, ("write", "scattered", 0.01))?;
    let copied = row.private_bytes / row.pages.min(REGION_PAGES / 512) as f64;
    Some(Judgement::when(
        copied > (1 << 20) as f64,
        "more than 1 MiB for each huge page in which something was written",
        format!(
            "{} pages written, {} copied: {} for each huge page of {backing} memory",
            row.pages,
            bytes(row.private_bytes),
            bytes(copied)
        ),
    ))
}

fn clustering(report: &Report) -> Option<Judgement> {
    let together = report.fault("sequential", "cow", 0.1)?;
    let apart = report.fault("scattered", "cow", 0.1)?;
    Some(Judgement::when(
        together.ns_per_page < 0.9 * apart.ns_per_page,
        "at least a tenth cheaper",
        format!(
            "{:.1} us a page in a row, {:.1} us scattered",
            together.ns_per_page / 1000.0,
            apart.ns_per_page / 1000.0
        ),
    ))
}

fn copying_ahead(report: &Report, together: bool) -> Option<Judgement> {
    let figures = report.hot_set.as_ref()?;
    let set = if together { &figures.clustered } else { &figures.scattered };
    Some(Judgement::when(
        set.ratio > 1.2,
        "1.2 times cheaper or more",
        format!(
            "{} in the guest ({:.1} us a page instead of {:.1}), {} with the copying counted",
            times(set.ratio),
            set.on_ns_per_page / 1000.0,
            set.off_ns_per_page / 1000.0,
            times(set.ratio_with_apply)
        ),
    ))
}

fn hot_set_helps(report: &Report) -> Option<Judgement> {
    let row = |pattern| report.working_set.iter().find(|row| row.pattern == pattern);
    let (clustered, scattered) = (row("clustered")?, row("scattered")?);
    Some(Judgement::when(
        clustered.ratio > 1.2 && scattered.ratio > 1.2,
        "1.2 times cheaper or more in both patterns",
        format!(
            "{} where pages lie together, {} where they are scattered",
            times(clustered.ratio),
            times(scattered.ratio)
        ),
    ))
}
