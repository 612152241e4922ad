//! What is paid after the fork of a process: by the child for its writes, by the parent for its
//! own, and from which part on an eager copy is cheaper.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_forkbench::rows::{self, Backing, Memory, Order, Row, Sharer, Way};

use super::{MIB, fault_medians, reserve, rows, unexpected};
use crate::BenchError;
use crate::bench::Bench;
use crate::measure::Measures;
use crate::plan::Section;
use crate::process::Forkbench;
use crate::sections::crossover::crossing;
use crate::sections::{ns_per_page, per_cent};
use crate::stats::median;

const SECTION: Section = Section::ProcessFaults;
/// Size of the region, MiB.
const REGION_MIB: u64 = 100;

/// A child's writes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ProcessFaultRow {
    /// How the child was made.
    pub way: Way,
    /// What the region is made of.
    pub backing: Backing,
    /// In which order pages were written.
    pub order: Order,
    /// Part of the region, 0 to 1.
    pub fraction: f64,
    /// Pages of 4 KiB written.
    pub pages: u64,
    /// Number of children.
    pub n: usize,
    /// The call that made the child, median.
    pub call_us: f64,
    /// All writes, median.
    pub write_us: f64,
    /// The same by the page; 0 for no pages.
    pub ns_per_page: f64,
    /// Minor faults of the child in the writes, median.
    pub minor_faults: f64,
    /// Major ones.
    pub major_faults: f64,
    /// The child's region before the writes, by smaps.
    pub before: Memory,
    /// The child's region after them.
    pub after: Memory,
}

/// A parent's writes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ProcessParentRow {
    /// Whether a child shares its memory.
    pub child: Sharer,
    /// What the region is made of.
    pub backing: Backing,
    /// In which order pages were written.
    pub order: Order,
    /// Part of the region, 0 to 1.
    pub fraction: f64,
    /// Pages of 4 KiB written.
    pub pages: u64,
    /// Number of times.
    pub n: usize,
    /// All writes, median.
    pub write_us: f64,
    /// The same by the page; 0 for no pages.
    pub ns_per_page: f64,
    /// Minor faults in the writes, median.
    pub minor_faults: f64,
}

/// From which part on a copy is cheaper.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ProcessCrossover {
    /// In which order pages were written.
    pub order: Order,
    /// How the copy is made.
    pub copy: Way,
    /// From which part of the region on it is cheaper. None if it is from the start, or never.
    pub fraction: Option<f64>,
    /// Time at that point.
    pub total_us: Option<f64>,
    /// What it means.
    pub words: String,
}

/// What was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ProcessFaultFigures {
    /// Children's writes.
    pub children: Vec<ProcessFaultRow>,
    /// Parents' writes.
    pub parents: Vec<ProcessParentRow>,
    /// From which part on a copy is cheaper.
    pub crossover: Vec<ProcessCrossover>,
}

impl ProcessFaultFigures {
    /// Writes to `fraction` of the region after a fork.
    pub fn after_fork(
        &self,
        backing: Backing,
        order: Order,
        fraction: f64,
    ) -> Option<&ProcessFaultRow> {
        self.children.iter().find(|row| {
            row.way == Way::Fork
                && row.backing == backing
                && row.order == order
                && row.fraction == fraction
        })
    }
}

fn lines(quick: bool) -> [(Backing, &'static str); 3] {
    if quick {
        return [
            (Backing::Small, "--orders sequential --fractions 0,0.01,0.1,0.5,1 --rounds 1"),
            (Backing::Thp, "--orders scattered --fractions 0.01 --ways fork --rounds 2"),
            (Backing::Hugetlb, "--orders scattered --fractions 0.01 --ways fork --rounds 2"),
        ];
    }
    let huge = "--orders scattered,clustered --fractions 0,0.01,0.1,1 --rounds 5";
    [
        (
            Backing::Small,
            "--orders sequential,scattered,clustered --fractions 0,0.01,0.1,0.5,1 --rounds 5",
        ),
        (Backing::Thp, huge),
        (Backing::Hugetlb, huge),
    ]
}

/// Measures.
pub fn run(bench: &mut Bench) -> Result<ProcessFaultFigures, BenchError> {
    let forkbench = Forkbench::new(&bench.interrupt)?;
    let lines = lines(bench.plan.choose(true, false));
    bench.progress.steps(lines.len());
    let mut figures = ProcessFaultFigures::default();
    for (backing, options) in lines {
        // Parent and copy.
        let pages = reserve(bench, SECTION, backing, 2 * REGION_MIB * MIB);
        let line = format!("faults --size {REGION_MIB}M --backing {} {options}", backing.name());
        for row in rows(bench, &forkbench, SECTION, &line)? {
            match row {
                Row::Faults(row) => {
                    figures.children.push(child(row, SECTION.name(), &bench.measures))
                }
                Row::Parent(row) => figures.parents.push(parent(row, &bench.measures)),
                row => return Err(unexpected(&row)),
            }
        }
        drop(pages);
    }
    figures.crossover = crossovers(&figures.children);
    Ok(figures)
}

/// What is told of a child's writes, as figures of `section`.
pub fn child(row: rows::FaultsRow, section: &str, measures: &Measures) -> ProcessFaultRow {
    let id = |what| {
        format!(
            "{section}/{}/{}/{}/{}/{what}",
            row.backing.name(),
            row.order.name(),
            per_cent(row.fraction),
            row.way.name()
        )
    };
    measures.time(id("call"), &row.call_us);
    // Writes to nothing take no time that could be compared.
    if row.pages > 0 {
        measures.time(id("write"), &row.write_us);
    }
    let (minor_faults, major_faults) = fault_medians(&row.faults);
    let n = row.write_us.len();
    let write_us = median(row.write_us);
    ProcessFaultRow {
        way: row.way,
        backing: row.backing,
        order: row.order,
        fraction: row.fraction,
        pages: row.pages,
        n,
        call_us: median(row.call_us),
        write_us,
        ns_per_page: ns_per_page(write_us, row.pages),
        minor_faults,
        major_faults,
        before: row.before,
        after: row.after,
    }
}

fn parent(row: rows::ParentRow, measures: &Measures) -> ProcessParentRow {
    if row.pages > 0 {
        let id = format!(
            "process_faults/{}/{}/{}/parent_child_{}/write",
            row.backing.name(),
            row.order.name(),
            per_cent(row.fraction),
            row.child.name()
        );
        measures.time(id, &row.write_us);
    }
    let n = row.write_us.len();
    let write_us = median(row.write_us);
    ProcessParentRow {
        child: row.child,
        backing: row.backing,
        order: row.order,
        fraction: row.fraction,
        pages: row.pages,
        n,
        write_us,
        ns_per_page: ns_per_page(write_us, row.pages),
        minor_faults: fault_medians(&row.faults).0,
    }
}

fn crossovers(rows: &[ProcessFaultRow]) -> Vec<ProcessCrossover> {
    let mut found = Vec::new();
    for order in Order::ALL {
        for copy in [Way::Eager, Way::Populated] {
            let totals = |way| -> Vec<(f64, f64)> {
                rows.iter()
                    .filter(|row| {
                        row.way == way && row.order == order && row.backing == Backing::Small
                    })
                    .map(|row| (row.fraction, row.call_us + row.write_us))
                    .collect()
            };
            let (cow, eager) = (totals(Way::Fork), totals(copy));
            if let (Some(first), Some(copied)) = (cow.first(), eager.first()) {
                let point = crossing(&cow, &eager);
                let words = match point {
                    Some((fraction, _)) => {
                        format!("the copy is cheaper above {:.1} % of the region", fraction * 100.0)
                    }
                    None if copied.1 < first.1 => {
                        "the copy is cheaper even if nothing is written".to_owned()
                    }
                    None => "fork is cheaper even if the whole region is written".to_owned(),
                };
                let (fraction, total_us) = point.unzip();
                found.push(ProcessCrossover { order, copy, fraction, total_us, words });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crossover_is_where_the_lines_cross() {
        let row = |way, fraction: f64, us: f64| ProcessFaultRow {
            way,
            backing: Backing::Small,
            order: Order::Scattered,
            fraction,
            pages: 0,
            n: 1,
            call_us: 1.0,
            write_us: us,
            ns_per_page: 0.0,
            minor_faults: 0.0,
            major_faults: 0.0,
            before: Memory::default(),
            after: Memory::default(),
        };
        let mut rows: Vec<_> = [0.0, 0.5, 1.0].map(|f| row(Way::Fork, f, f * 100.0)).into();
        rows.extend([0.0, 0.5, 1.0].map(|f| row(Way::Eager, f, 25.0)));
        rows.extend([0.0, 0.5, 1.0].map(|f| row(Way::Populated, f, 500.0)));
        let found = crossovers(&rows);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].copy, found[0].fraction), (Way::Eager, Some(0.25)));
        assert_eq!((found[1].copy, found[1].fraction), (Way::Populated, None));
        assert!(found[1].words.contains("fork is cheaper"), "{}", found[1].words);
    }
}
