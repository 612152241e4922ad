//! Tables of the figures, for the terminal and for the page.

use super::Report;
use super::cell_tables as cells;
use super::memory_tables as memory;
use super::peer_tables as peers;
use super::process_tables as process;
use super::save_tables as saves;
use super::units::{bytes, percent, short, time, times};
use crate::named::Named;
use crate::plan::Section;
use crate::sections::density::Density;
use crate::sections::hot_set::{HotSetFigures, WorkingSet};

/// A table with a title, and what to know to read it.
#[derive(Clone, Debug)]
pub struct Table {
    /// The title.
    pub title: &'static str,
    /// What to know.
    pub note: String,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// How many columns from the left hold words; the others hold numbers.
    pub words: usize,
    /// The cells.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(title: &'static str, note: &str, words: usize, columns: &[&str]) -> Self {
        let columns = columns.iter().map(|&column| column.to_owned()).collect();
        Self { title, note: note.to_owned(), columns, words, rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

/// The tables of `section`; none if it was not measured.
pub fn of(section: Section, report: &Report) -> Vec<Table> {
    let tables = match section {
        Section::Spawn => vec![spawn(report), ladder(report)],
        Section::LiveFork => vec![live_fork(report), live_ladder(report)],
        Section::CowFaults => vec![cow_faults(report), crossover(report)],
        Section::ReadFaults => vec![read_faults(report)],
        Section::HotSet => report.hot_set.iter().map(hot_set).collect(),
        Section::Ledger => vec![ledger(report)],
        Section::Density => {
            report.density.iter().flat_map(|figures| [density(figures), crowd(figures)]).collect()
        }
        Section::Teardown => vec![teardown(report)],
        Section::Reset => vec![reset(report)],
        Section::Dormant => vec![cells::dormant(report)],
        Section::SpawnRate => vec![cells::spawn_rate(report)],
        Section::Fanout => report.fanout.iter().map(cells::fanout).collect(),
        Section::Cells => report.cells.iter().map(cells::cells).collect(),
        Section::Confinement => report.confinement.iter().map(cells::confinement).collect(),
        Section::WorkingSet => vec![cells::working_set(report)],
        Section::Pressure => vec![memory::pressure(report), memory::process_pressure(report)],
        Section::VmCopied => vec![memory::copied(report), memory::seen(report)],
        Section::VmTimeline => vec![memory::timeline(report)],
        Section::Backing => vec![memory::backing(report)],
        Section::ProcessSpawn => {
            report.process_spawn.iter().flat_map(process::children_and_tables).collect()
        }
        Section::ProcessFaults => report.process_faults.iter().flat_map(process::faults).collect(),
        Section::ProcessTimeline => vec![process::timeline(report)],
        Section::ProcessCopied => vec![process::copied(report)],
        Section::ProcessTuning => vec![process::tuning(report)],
        Section::ProcessInGuest => {
            report.process_in_guest.iter().flat_map(process::in_guest).collect()
        }
        Section::Peers => {
            let both = |figures| [peers::peers(figures), peers::compared(figures)];
            report.peers.iter().flat_map(both).collect()
        }
        Section::Redis => report.redis.iter().flat_map(saves::redis).collect(),
        Section::VmBgsave => saves::vm(report),
        Section::RedisGuest => report.redis_guest.iter().map(saves::guest).collect(),
    };
    tables.into_iter().filter(|table| !table.rows.is_empty()).collect()
}

fn spawn(report: &Report) -> Table {
    let mut table = Table::new(
        "Spawn: from the request to the first guest instruction",
        "Copy-on-write and eager copy in turn, in the same run; every clone alive alone. All of \
         the guest's memory was written before the snapshot.",
        2,
        &["guest", "memory", "n", "p50", "p90", "p99", "min", "eager/cow"],
    );
    for row in &report.spawn {
        let memory = match row.memory.as_str() {
            "eager" => format!("eager: {}", row.strategy),
            cow => cow.to_owned(),
        };
        table.row([
            bytes(row.guest_bytes as f64),
            memory,
            row.n.to_string(),
            time(row.p50_us),
            time(row.p90_us),
            time(row.p99_us),
            time(row.min_us),
            if row.memory == "eager" { times(row.ratio_to_cow) } else { String::new() },
        ]);
    }
    table
}

fn ladder(report: &Report) -> Table {
    let rows = report.spawn.iter().map(|row| {
        let name = format!("{} {}", bytes(row.guest_bytes as f64), row.memory);
        (name, row.p50_us, &row.ladder)
    });
    ladder_table(
        "The ladder of a spawn",
        "Median of each step, so that a row need not add up to its total. `memslot` is KVM's \
         metadata, which grows with guest memory; `map` is the clone's memory itself.",
        "clone",
        rows,
    )
}

fn live_ladder(report: &Report) -> Table {
    let rows = report.live_fork.iter().map(|row| {
        let all = if row.mapped == "all" { ", all mapped" } else { "" };
        let name = format!("{}, {} to {}{all}", row.dirty_pages, row.strategy, row.children);
        (name, row.first_instruction_us, &row.ladder)
    });
    let note = "Median of each step of the first child. Of a fork to several, the time until \
                they share a snapshot counts as `queue`.";
    ladder_table("The ladder of a live fork", note, "dirty pages", rows)
}

fn ladder_table<'a>(
    title: &'static str,
    note: &str,
    what: &str,
    rows: impl Iterator<Item = (String, f64, &'a Named)>,
) -> Table {
    let mut table = Table::new(title, note, 1, &[what]);
    let rows: Vec<_> = rows.collect();
    // Steps that none of them took would only make the table wide.
    let all = rows.first().map_or(&[][..], |row| &row.2.0);
    let taken = |name: &&str| rows.iter().any(|row| row.2.get(name).is_some_and(|step| step > 0.0));
    let names: Vec<&str> = all.iter().map(|step| step.0.as_str()).filter(taken).collect();
    table.columns.extend(names.iter().map(|name| name.replace('_', " ")));
    table.columns.push("total".to_owned());
    for (clone, total, steps) in &rows {
        let times = names.iter().map(|name| time(steps.get(name).unwrap_or(0.0)));
        table.row([clone.clone()].into_iter().chain(times).chain([time(*total)]));
    }
    table
}

fn live_fork(report: &Report) -> Table {
    let mut table = Table::new(
        "Live fork: a guest that runs is forked and runs on",
        "Copies in one process, and fork(2) of cells, in turn. The parent makes exits as fast as \
         it can, and went on after every fork. Times of children are from the request to the \
         first instruction. Afterwards the parent writes its dirty pages again, its child alive.",
        3,
        &[
            "method",
            "strategy",
            "mapped",
            "children",
            "dirty pages",
            "n",
            "pause p50",
            "pause p99",
            "first child p50",
            "p99",
            "last child p50",
            "rewrite, ns/page",
        ],
    );
    for row in &report.live_fork {
        table.row([
            row.method.to_owned(),
            row.strategy.clone(),
            row.mapped.to_owned(),
            row.children.to_string(),
            row.dirty_pages.to_string(),
            row.n.to_string(),
            time(row.parent_pause_us),
            time(row.parent_pause_p99_us),
            time(row.first_instruction_us),
            time(row.first_instruction_p99_us),
            time(row.last_child_us),
            row.refault_ns_per_page.map_or_else(|| "-".to_owned(), |ns| format!("{ns:.0}")),
        ]);
    }
    table
}

fn cow_faults(report: &Report) -> Table {
    let mut table = Table::new(
        "Writes: one word into each of some pages of 100 MiB, in a fresh clone of 256 MiB",
        "Times by the guest's TSC, medians. `clone` is the spawn itself. Faults of KVM are those \
         that it took for the guest; minor faults are the process's.",
        2,
        &[
            "pattern",
            "memory",
            "written",
            "pages",
            "ns/page",
            "writes",
            "clone",
            "both",
            "KVM faults",
            "minor faults",
        ],
    );
    for row in &report.cow_faults {
        table.row([
            row.pattern.to_owned(),
            row.memory.to_owned(),
            percent(row.fraction),
            row.pages.to_string(),
            if row.pages == 0 { "-".to_owned() } else { format!("{:.0}", row.ns_per_page) },
            time(row.total_us),
            time(row.clone_us),
            time(row.clone_us + row.total_us),
            format!("{:.0}", row.page_faults),
            format!("{:.0}", row.minor_faults),
        ]);
    }
    table
}

fn crossover(report: &Report) -> Table {
    let mut table = Table::new(
        "Crossover: from where an eager copy would have been cheaper",
        "Clone and writes together, interpolated between the fractions measured.",
        2,
        &["pattern", "meaning", "region", "pages", "guest", "time"],
    );
    for row in &report.crossover {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".to_owned());
        table.row([
            row.pattern.to_owned(),
            row.words.clone(),
            or_none(row.fraction.map(percent)),
            or_none(row.pages.map(|pages| pages.to_string())),
            or_none(row.guest_fraction.map(percent)),
            or_none(row.total_us.map(time)),
        ]);
    }
    table
}

fn read_faults(report: &Report) -> Table {
    let mut table = Table::new(
        "Reads: one word of each of some pages of 100 MiB, and then a write to the same pages",
        "Times by the guest's TSC, medians.",
        3,
        &[
            "operation",
            "pattern",
            "memory",
            "visited",
            "pages",
            "ns/page",
            "total",
            "KVM faults",
            "minor faults",
        ],
    );
    for row in &report.read_faults {
        table.row([
            row.operation.to_owned(),
            row.pattern.to_owned(),
            row.memory.to_owned(),
            percent(row.fraction),
            row.pages.to_string(),
            format!("{:.0}", row.ns_per_page),
            time(row.total_us),
            format!("{:.0}", row.page_faults),
            format!("{:.0}", row.minor_faults),
        ]);
    }
    table
}

fn hot_set(figures: &HotSetFigures) -> Table {
    let mut table = Table::new(
        "Hot set: pages copied before the first instruction",
        "First writes in the guest, without the hot set and with it. `ahead` is what copying \
         ahead takes before the guest runs.",
        1,
        &[
            "working set",
            "pages",
            "off ns/page",
            "on ns/page",
            "cheaper",
            "ahead ns/page",
            "ahead, all",
            "cheaper in all",
        ],
    );
    let mut row = |name: &str, set: &WorkingSet| {
        table.row([
            name.to_owned(),
            set.pages.to_string(),
            format!("{:.0}", set.off_ns_per_page),
            format!("{:.0}", set.on_ns_per_page),
            times(set.ratio),
            format!("{:.0}", set.apply_ns_per_page),
            time(set.apply_us),
            times(set.ratio_with_apply),
        ]);
    };
    row("scattered over all memory", &figures.scattered);
    row("in a row", &figures.clustered);
    table
}

fn ledger(report: &Report) -> Table {
    let mut table = Table::new(
        "Ledger: a clone of 256 MiB before and after it writes a tenth of its memory",
        "From the page tables of the clone's mapping, after it has run.",
        2,
        &[
            "memory",
            "moment",
            "written",
            "private",
            "shared",
            "page tables",
            "in huge pages",
            "KVM faults",
        ],
    );
    for row in &report.ledger {
        let ledger = &row.ledger;
        table.row([
            row.memory.to_owned(),
            row.moment.to_owned(),
            row.written_pages.to_string(),
            bytes(ledger.private_bytes as f64),
            bytes(ledger.shared_bytes as f64),
            bytes(ledger.page_table_bytes as f64),
            bytes(ledger.huge_bytes as f64),
            row.page_faults.to_string(),
        ]);
    }
    table
}

/// What a part of a clone's memory is.
pub fn part_meaning(part: &str) -> &'static str {
    match part {
        "vmalloc" => "KVM's metadata of the memslot",
        "slab" => "VM, vCPU, irqchip and mappings",
        "page_tables" => "the host's page tables of the clone",
        "kvm_mmu" => "the guest's second-level or shadow page tables",
        "kernel_stacks" => "two threads: the vCPU's and KVM's own",
        "percpu" => "counters of the VM",
        "kernel_pages" => "single pages of KVM, most of them kept ready by its MMU",
        "anon" => "pages that the guest and the VMM have written",
        _ => "memory files",
    }
}

fn density(density: &Density) -> Table {
    let mut table = Table::new(
        "Density: clones of 256 MiB alive at once, each having run",
        "Growth of the kernel's counters over all of them, by their number, so keep the host \
         quiet; `kernel pages` is what the memory controller charged beyond them. Where it does \
         not tell, the sum lacks it.",
        2,
        &["part", "what", "a clone"],
    );
    for (name, size) in &density.parts.0 {
        table.row([name.replace('_', " "), part_meaning(name).to_owned(), bytes(*size)]);
    }
    let mut other = |name: &str, what: &str, figure: String| {
        table.row([name.to_owned(), what.to_owned(), figure]);
    };
    other("sum", "", bytes(density.bytes_per_clone));
    let fell = density.mem_free_bytes_per_clone;
    other("", "by which free memory fell", fell.map_or_else(|| "-".to_owned(), bytes));
    other("", "clones", density.clones.to_string());
    other("", "made a second", short(density.spawns_per_second));
    other("", "closed, each", time(density.teardown_seconds * 1e6 / density.clones as f64));
    let held = format!("{} + {}", density.descriptors_per_clone, density.mappings_per_clone);
    other("", "descriptors + mappings, each", held);
    table
}

fn crowd(density: &Density) -> Table {
    let rows = [
        ("the first tenth".to_owned(), density.first_p50_us, &density.first_ladder),
        ("the last tenth".to_owned(), density.last_p50_us, &density.last_ladder),
    ];
    let note = "Median of each step, while the clones made before are alive.";
    ladder_table("The ladder of a spawn among many", note, "clones", rows.into_iter())
}

fn teardown(report: &Report) -> Table {
    let mut table = Table::new(
        "Teardown: from the kill until everything is gone",
        "A VM closed within milliseconds of its making waits for the kernel (SRCU).",
        1,
        &["clone", "n", "p50", "p90", "p99", "min"],
    );
    for row in &report.teardown {
        let figures = [row.p50_us, row.p90_us, row.p99_us, row.min_us].map(time);
        table.row([row.clone.to_owned(), row.n.to_string()].into_iter().chain(figures));
    }
    table
}

fn reset(report: &Report) -> Table {
    let mut table = Table::new(
        "Reset: back to the snapshot in the same VM, against a new clone of which nothing was \
         made ahead",
        "The answer is to a trivial command, so that the guest has run.",
        1,
        &[
            "dirty pages",
            "n",
            "reset p50",
            "p99",
            "to an answer",
            "new clone p50",
            "to an answer",
            "clone/reset",
        ],
    );
    for row in &report.reset {
        table.row([
            row.dirty_pages.to_string(),
            row.n.to_string(),
            time(row.p50_us),
            time(row.p99_us),
            time(row.answer_p50_us),
            time(row.spawn_p50_us),
            time(row.spawn_answer_p50_us),
            times(row.ratio),
        ]);
    }
    table
}
