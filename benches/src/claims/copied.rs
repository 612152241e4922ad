//! What a fork copies and what it shares: section 3 of the source text.

use tine_abi::layout::PAGE_SIZE;

use super::{Judgement, Row, Said, Subject, both, process};
use crate::plan::Section;
use crate::report::Report;
use crate::report::units::{bytes, time};
use crate::sections::vm_copied::CopiedRow;

/// What is said.
pub fn said() -> Said {
    Said {
        section: 3,
        title: "What a fork copies and what it shares",
        claim: "Copied: process control block, memory descriptor and VMA list, page tables, descriptor table, signal handlers, credentials, limits. Shared: page frames, open file structures, working directory.",
        rows: both(process::copied::rows(), vm_rows()),
        by_hand: &[
            "tine bench --only process-copied,ledger,vm-copied",
            "tine memory ID   # of a sandbox",
        ],
    }
}

/// What is claimed of things of a virtual machine: words, and what they are called in the figures.
const OF_VMS: [(&str, &[&str]); 10] = [
    (
        "VM and vCPU structures are made anew, KB of each",
        &["VM structure", "vCPU structures", "irqchip structures"],
    ),
    (
        "vCPU and irqchip state is copied, KB of it",
        &["vCPU state", "irqchip and clock state", "CPU features"],
    ),
    (
        "shadow or second-level page tables are made anew, and fill as the clone works",
        &["second-level or shadow page tables"],
    ),
    ("device state is copied, KB of it", &["device state"]),
    ("a clone has a console of its own", &["console"]),
    ("page frames are shared until they are written", &["page frames"]),
    ("disks are shared until they are written", &["disk"]),
    ("a live fork copies the host's page tables of what is mapped", &["host page tables, forked"]),
    (
        "descriptors are made anew: a clone has a VM of its own open, and no other",
        &["file descriptors"],
    ),
    ("identity is made anew", &["identity"]),
];

/// A state or structure of so many bytes is some KB.
const SOME_KB: f64 = 64.0 * 1024.0;

fn vm_rows() -> Vec<Row> {
    let own = Row::new(
        Subject::Vm,
        "a clone's own memory is what it has written",
        Section::Ledger,
        private_follows_writes,
    );
    let things = OF_VMS.into_iter().map(|(claim, things)| {
        let kb = claim.contains("KB");
        Row::new(Subject::Vm, claim, Section::VmCopied, move |report| of_things(report, things, kb))
    });
    std::iter::once(own).chain(things).collect()
}

/// Whether what was tried with `things` went as claimed and, where they are to be of some `kb`,
/// whether they are. Things of which nothing tells leave it open.
fn of_things(report: &Report, things: &[&str], kb: bool) -> Option<Judgement> {
    let rows: Vec<&CopiedRow> =
        report.vm_copied.iter().filter(|row| things.contains(&row.thing.as_str())).collect();
    let first = rows.first()?;
    let small = |row: &&CopiedRow| row.bytes.is_none_or(|bytes| bytes <= SOME_KB);
    let figures = rows.iter().any(|row| row.bytes.is_some());
    let tried: Vec<bool> = rows.iter().filter_map(|row| row.holds).collect();
    if tried.is_empty() && !(kb && figures) {
        return Some(Judgement::missing(first.how.clone()));
    }
    let holds = tried.iter().all(|&holds| holds) && (!kb || rows.iter().all(small));
    let tests: Vec<&str> = rows.iter().filter_map(|row| row.test.as_deref()).collect();
    let rule = match (tests.is_empty(), kb) {
        (true, _) => "64 KiB of each or less".to_owned(),
        (false, true) => format!("64 KiB of each or less, and {}", tests.join("; ")),
        (false, false) => tests.join("; "),
    };
    let words = rows.iter().map(|row| {
        let of = |words: Option<String>| words.map(|words| format!(" {words}"));
        let size = of(row.bytes.map(bytes)).unwrap_or_default();
        let time = of(row.us.map(time)).unwrap_or_default();
        format!("{}: {}{size}{time}", row.thing, row.fork)
    });
    Some(Judgement::when(holds, rule, words.collect::<Vec<_>>().join(", ")))
}

fn private_follows_writes(report: &Report) -> Option<Judgement> {
    let find =
        |moment: &str| report.ledger.iter().find(|row| row.memory == "cow" && row.moment == moment);
    let (before, after) = (find("before")?, find("after")?);
    let grown = after.ledger.private_bytes.saturating_sub(before.ledger.private_bytes);
    let written = after.written_pages * PAGE_SIZE;
    Some(Judgement::when(
        grown.abs_diff(written) <= written / 100,
        "within a hundredth",
        format!("{} private for {} written", bytes(grown as f64), bytes(written as f64)),
    ))
}
