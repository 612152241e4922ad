//! Children of processes of many sizes, in every way there is, and their page tables.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_forkbench::rows::{self, Backing, Density, Row, TablesRow, Way};

use super::{MIB, fault_medians, reserve, rows, size, unexpected};
use crate::BenchError;
use crate::bench::Bench;
use crate::measure::Measures;
use crate::plan::Section;
use crate::process::Forkbench;
use crate::sections::mib;
use crate::stats::{Summary, median};

const SECTION: Section = Section::ProcessSpawn;

/// Children of one size and way.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ProcessSpawnRow {
    /// How the child was made.
    pub way: Way,
    /// What the parent's region is made of.
    pub backing: Backing,
    /// How much of it is filled.
    pub density: Density,
    /// Address space of the region.
    pub size_bytes: u64,
    /// Memory that it holds.
    pub resident_bytes: u64,
    /// Number of children.
    pub n: usize,
    /// Until the call returned in the parent.
    pub call_p50_us: f64,
    /// The same.
    pub call_p90_us: f64,
    /// The same.
    pub call_min_us: f64,
    /// From the start of the call until the child had started.
    pub child_p50_us: f64,
    /// From the child's last act until the parent had waited for it.
    pub end_p50_us: f64,
    /// Minor faults of the parent in the call, median.
    pub minor_faults: f64,
    /// Major ones.
    pub major_faults: f64,
    /// Page tables of the parent (`VmPTE`).
    pub parent_page_table_bytes: u64,
    /// Page tables of the child; none if it has no copy of the parent's.
    pub child_page_table_bytes: Option<u64>,
    /// What was done.
    pub how: String,
}

/// What was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ProcessSpawnFigures {
    /// Children.
    pub children: Vec<ProcessSpawnRow>,
    /// Page tables of a gigabyte, and what arithmetic says of them.
    pub tables: Vec<TablesRow>,
}

impl ProcessSpawnFigures {
    /// Children by `way` of a dense region of small pages.
    pub fn dense(&self, way: Way) -> impl Iterator<Item = &ProcessSpawnRow> {
        self.children.iter().filter(move |row| {
            row.way == way && row.backing == Backing::Small && row.density == Density::Dense
        })
    }

    /// The one of them with `mib`.
    pub fn of(&self, way: Way, mib: u64) -> Option<&ProcessSpawnRow> {
        self.dense(way).find(|row| super::is_size(row.size_bytes, mib))
    }

    /// The cheapest copy of all of `mib`: by the program or by the kernel.
    pub fn eager(&self, mib: u64) -> Option<&ProcessSpawnRow> {
        [Way::Eager, Way::Populated]
            .into_iter()
            .filter_map(|way| self.of(way, mib))
            .min_by(|one, other| one.call_p50_us.total_cmp(&other.call_p50_us))
    }
}

/// One run of the program.
struct Probe {
    mib: u64,
    backing: Backing,
    density: Density,
    rounds: usize,
    eager: usize,
}

const fn probe(mib: u64, rounds: usize, eager: usize) -> Probe {
    Probe { mib, backing: Backing::Small, density: Density::Dense, rounds, eager }
}

fn probes(quick: bool) -> Vec<Probe> {
    let sparse = |probe| Probe { density: Density::Sparse, ..probe };
    let backed = |backing, probe| Probe { backing, ..probe };
    if quick {
        return vec![
            probe(10, 20, 5),
            probe(100, 10, 2),
            probe(1024, 5, 1),
            sparse(probe(1024, 5, 0)),
            backed(Backing::Thp, probe(100, 5, 1)),
            backed(Backing::Hugetlb, probe(100, 5, 1)),
        ];
    }
    vec![
        probe(10, 100, 50),
        probe(100, 50, 20),
        probe(1024, 25, 5),
        probe(10 * 1024, 7, 1),
        probe(100 * 1024, 3, 1),
        sparse(probe(1024, 25, 5)),
        sparse(probe(10 * 1024, 7, 3)),
        backed(Backing::Thp, probe(100, 50, 10)),
        backed(Backing::Thp, probe(1024, 25, 3)),
        backed(Backing::Hugetlb, probe(100, 50, 10)),
        backed(Backing::Hugetlb, probe(1024, 25, 3)),
    ]
}

/// Measures every size that the host can hold.
pub fn run(bench: &mut Bench) -> Result<ProcessSpawnFigures, BenchError> {
    let forkbench = Forkbench::new(&bench.interrupt)?;
    let probes = probes(bench.plan.choose(true, false));
    bench.progress.steps(probes.len() + 2);
    let mut figures = ProcessSpawnFigures::default();
    for probe in &probes {
        // Parent and copy.
        let pages = reserve(bench, SECTION, probe.backing, 2 * probe.mib * MIB);
        let line = format!(
            "spawn --size {} --backing {} --density {} --rounds {} --eager-rounds {}{}",
            size(probe.mib * MIB),
            probe.backing.name(),
            probe.density.name(),
            probe.rounds,
            probe.eager,
            if probe.eager == 0 { " --ways fork,clone3,vfork,posix_spawn" } else { "" },
        );
        for row in rows(bench, &forkbench, SECTION, &line)? {
            let Row::Spawn(row) = row else { return Err(unexpected(&row)) };
            figures.children.push(summary(row, SECTION.name(), &bench.measures));
        }
        drop(pages);
    }
    for density in [Density::Dense, Density::Sparse] {
        let line = format!("tables --size 1G --density {}", density.name());
        for row in rows(bench, &forkbench, SECTION, &line)? {
            let Row::Tables(row) = row else { return Err(unexpected(&row)) };
            figures.tables.push(row);
        }
    }
    Ok(figures)
}

/// What is told of children, as figures of `section`.
pub fn summary(row: rows::SpawnRow, section: &str, measures: &Measures) -> ProcessSpawnRow {
    let id = |what| {
        format!(
            "{section}/{}/{}/{}/{}/{what}",
            mib(row.size_bytes),
            row.backing.name(),
            row.density.name(),
            row.way.name()
        )
    };
    measures.time(id("call"), &row.call_us);
    measures.time(id("child"), &row.child_us);
    measures.time(id("end"), &row.end_us);
    if let Some(bytes) = row.child_page_table_bytes {
        measures.bytes(id("page_tables"), &[bytes as f64]);
    }
    let (minor_faults, major_faults) = fault_medians(&row.faults);
    let call = Summary::of(row.call_us);
    ProcessSpawnRow {
        way: row.way,
        backing: row.backing,
        density: row.density,
        size_bytes: row.size_bytes,
        resident_bytes: row.resident_bytes,
        n: call.n,
        call_p50_us: call.p50,
        call_p90_us: call.p90,
        call_min_us: call.min,
        child_p50_us: median(row.child_us),
        end_p50_us: median(row.end_us),
        minor_faults,
        major_faults,
        parent_page_table_bytes: row.parent_page_table_bytes,
        child_page_table_bytes: row.child_page_table_bytes,
        how: row.how,
    }
}
