//! Under memory pressure: section 11 of the source text.

use tine_forkbench::rows::Way;

use super::{Judgement, Row, Said, Subject};
use crate::plan::Section;
use crate::report::Report;
use crate::report::units::{bytes, percent, time};
use crate::sections::pressure::PressureRow;

/// What is said.
pub fn said() -> Said {
    Said {
        section: 11,
        title: "Under memory pressure",
        claim: "With a limit just above the size of one guest eager cloning fails, and copy-on-write cloning goes on until private pages fill it; what then fails is one clone, with a clear error, never the parent.",
        rows: vec![
            Row::new(
                Subject::Process,
                "with a limit a quarter of a parent above the parent an eager copy fails",
                Section::Pressure,
                eager_child_fails,
            ),
            Row::new(
                Subject::Process,
                "under the same limit forks go on until private pages fill it",
                Section::Pressure,
                forks_go_on,
            ),
            Row::new(
                Subject::Process,
                "what fails is one child, never the parent, if the kernel is left to choose",
                Section::Pressure,
                |report| parents_live(report, false),
            ),
            Row::new(
                Subject::Process,
                "the same, if it is told to end children first (oom_score_adj)",
                Section::Pressure,
                |report| parents_live(report, true),
            ),
            Row::new(
                Subject::Vm,
                "with a limit a quarter of a guest above one guest an eager copy fails",
                Section::Pressure,
                eager_fails,
            ),
            Row::new(
                Subject::Vm,
                "under the same limit copy-on-write clones go on until private pages fill it",
                Section::Pressure,
                cow_goes_on,
            ),
            Row::new(
                Subject::Vm,
                "the more each writes the fewer fit: those that write 10 % against 1 %",
                Section::Pressure,
                writes_decide,
            ),
            Row::new(
                Subject::Vm,
                "what fails is one clone, and no other",
                Section::Pressure,
                one_clone_fails,
            ),
            Row::new(Subject::Vm, "with a clear error", Section::Pressure, error_is_clear),
            Row::new(
                Subject::Vm,
                "never the parent, which has all that it had",
                Section::Pressure,
                parent_lives,
            ),
            Row::new(
                Subject::Vm,
                "every other clone has what it had and wrote",
                Section::Pressure,
                others_intact,
            ),
            Row::new(
                Subject::Vm,
                "density: more idle clones fit into a budget than copies would",
                Section::Pressure,
                |report| fit(report, 0.0),
            ),
            Row::new(
                Subject::Vm,
                "density: more clones that write 1 % fit into it than copies would",
                Section::Pressure,
                |report| fit(report, 0.01),
            ),
            Row::new(
                Subject::Vm,
                "clones take a small part of the memory of copies",
                Section::Density,
                sharing,
            ),
            Row::new(
                Subject::Vm,
                "a guest in a process of its own takes a small part of its memory",
                Section::Cells,
                cells_are_small,
            ),
        ],
        by_hand: &[
            "tine bench --only pressure,density,cells",
            "cat /proc/PID/oom_score_adj   # of a sandbox, and of a fork of it",
        ],
    }
}

pub fn eager_child_fails(report: &Report) -> Option<Judgement> {
    let row = report.process_pressure.iter().find(|row| row.way == Way::Populated)?;
    Some(Judgement::when(
        row.made == 0,
        "none is made",
        format!(
            "{} copies of {} made with {} beside the parent: {}",
            row.made,
            bytes(row.size_bytes as f64),
            bytes(row.room_bytes as f64),
            row.error
        ),
    ))
}

fn forks_go_on(report: &Report) -> Option<Judgement> {
    let mut rows = report.process_pressure.iter().filter(|row| row.way == Way::Fork);
    let row = rows.find(|row| row.written == 0.01)?;
    let private = row.made as f64 * row.written * row.size_bytes as f64 / row.room_bytes as f64;
    let words = format!(
        "{} children that wrote 1 % each in {}; {} of it are pages that they wrote",
        row.made,
        bytes(row.room_bytes as f64),
        percent(private)
    );
    Some(match (row.made > 1, private > 0.5) {
        (true, true) => Judgement::when(true, "several, and most of it are their pages", words),
        (true, false) => {
            Judgement::partly("several, but most of it is page tables and the kernel's", words)
        }
        (false, _) => Judgement::when(false, "several", words),
    })
}

fn parents_live(report: &Report, ranked: bool) -> Option<Judgement> {
    let rows = report.process_pressure.iter().filter(|row| row.ranked == ranked);
    let rows: Vec<&tine_forkbench::rows::PressureRow> = rows.collect();
    let ended = rows.iter().map(|row| format!("{} {}", row.way.name(), row.ended.words()));
    let words = ended.collect::<Vec<_>>().join(", ");
    (!rows.is_empty()).then(|| {
        Judgement::when(
            rows.iter().all(|row| row.parent_intact && row.intact == row.alive),
            "the parent is alive, and it and all children left have what they had and wrote",
            format!("ended: {words}"),
        )
    })
}

fn tried<'a>(report: &'a Report, what: &str, written: f64) -> Option<&'a PressureRow> {
    report.pressure.iter().find(|row| row.what == what && row.written == written)
}

fn eager_fails(report: &Report) -> Option<Judgement> {
    let row = tried(report, "eager copy", 0.0)?;
    Some(Judgement::when(
        row.made == 0,
        "none is made",
        format!(
            "{} of {} made with {} beside the parent; the first failed after {}: {}",
            row.made,
            bytes(row.guest_bytes as f64),
            bytes(row.room_bytes as f64),
            time(row.failed_after_us),
            row.error
        ),
    ))
}

fn cow_goes_on(report: &Report) -> Option<Judgement> {
    let row = tried(report, "fork", 0.01)?;
    let private = row.private_bytes as f64 / row.room_bytes as f64;
    let words = format!(
        "{} forks that wrote 1 % each used {} of {}; {} of it are pages of their own",
        row.made,
        bytes(row.used_bytes as f64),
        bytes(row.room_bytes as f64),
        percent(private)
    );
    if row.made < 2 || row.used_bytes < row.room_bytes * 3 / 4 {
        return Some(Judgement::when(false, "several are made, and fill the room", words));
    }
    Some(match private > 0.5 {
        true => Judgement::when(true, "several are made, and most of it are their pages", words),
        false => Judgement::partly(
            "several are made and fill the room, but most of it is page tables and what the \
             kernel holds for each",
            words,
        ),
    })
}

fn writes_decide(report: &Report) -> Option<Judgement> {
    let (few, many) = (tried(report, "fork", 0.01)?, tried(report, "fork", 0.1)?);
    Some(Judgement::when(
        many.made < few.made,
        "fewer",
        format!("{} that write 1 %, {} that write 10 %", few.made, many.made),
    ))
}

fn one_clone_fails(report: &Report) -> Option<Judgement> {
    let all = !report.pressure.is_empty();
    all.then(|| {
        let one = |row: &&PressureRow| {
            row.ended != "the parent" && row.failed_at != "never" && row.kills < 2
        };
        let held = report.pressure.iter().filter(one).count();
        let who = report.pressure.iter().map(|row| format!("{}: {}", row.what, row.ended));
        Judgement::when(
            held == report.pressure.len(),
            "one process ends, and it is a clone",
            who.collect::<Vec<_>>().join(", "),
        )
    })
}

fn error_is_clear(report: &Report) -> Option<Judgement> {
    let unclear = report.pressure.iter().find(|row| !row.error.contains("memory"));
    let shown = unclear.or(report.pressure.first())?;
    Some(Judgement::when(unclear.is_none(), "it names memory", format!("\"{}\"", shown.error)))
}

fn parent_lives(report: &Report) -> Option<Judgement> {
    let parents: Vec<bool> = report.pressure.iter().filter_map(|row| row.parent_intact).collect();
    let intact = parents.iter().filter(|&&intact| intact).count();
    (!parents.is_empty()).then(|| {
        Judgement::when(
            intact == parents.len(),
            "alive, by a checksum of all its memory, in every trial",
            format!("{intact} of {} parents", parents.len()),
        )
    })
}

fn others_intact(report: &Report) -> Option<Judgement> {
    let rows = &report.pressure;
    let (alive, intact): (u64, u64) =
        (rows.iter().map(|row| row.alive).sum(), rows.iter().map(|row| row.intact).sum());
    let made: u64 = rows.iter().map(|row| row.made).sum();
    (!rows.is_empty()).then(|| {
        // One of a trial has to end, and it may be one that was made before.
        Judgement::when(
            intact == alive && alive + rows.len() as u64 >= made,
            "by checksums, in every clone that was made but one a trial",
            format!("{intact} of {alive} alive, of {made} made"),
        )
    })
}

fn fit(report: &Report, written: f64) -> Option<Judgement> {
    let row = tried(report, "clone", written)?;
    let copies = row.room_bytes / row.guest_bytes;
    Some(Judgement::when(
        row.made > copies,
        "more than fit when each is a copy",
        format!(
            "{} clones of {} in {} beside the image, {} each; copies: {copies}",
            row.made,
            bytes(row.guest_bytes as f64),
            bytes(row.room_bytes as f64),
            bytes(row.used_bytes as f64 / row.made.max(1) as f64)
        ),
    ))
}

fn sharing(report: &Report) -> Option<Judgement> {
    let density = report.density.as_ref()?;
    let eager = density.guest_bytes as f64 * density.clones as f64;
    let cow = density.guest_bytes as f64 + density.bytes_per_clone * density.clones as f64;
    Some(Judgement::when(
        cow < eager / 10.0,
        "a tenth of the memory of copies or less",
        format!(
            "{} clones of {} in {}, where copies take {}: {} each",
            density.clones,
            bytes(density.guest_bytes as f64),
            bytes(cow),
            bytes(eager),
            bytes(density.bytes_per_clone)
        ),
    ))
}

fn cells_are_small(report: &Report) -> Option<Judgement> {
    let cells = report.cells.as_ref()?;
    let part = cells.bytes_per_cell / cells.guest_bytes as f64;
    Some(Judgement::when(
        part < 0.02,
        "less than a fiftieth of the guest",
        format!(
            "{} each of {}, {}",
            bytes(cells.bytes_per_cell),
            bytes(cells.guest_bytes as f64),
            percent(part)
        ),
    ))
}
