//! What the memory image is made of: small pages, transparent huge pages, reserved huge pages.
//!
//! The same guest in each; clones read and write parts of the same 100 MiB, scattered and in a
//! row.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_abi::command::{Command, Op};
use tine_abi::pattern::Pattern;
use tine_vmm::memory::ImageKind;
use tine_vmm::{Machine, MachineConfig, MachineError, MemoryMode, Snapshot};

use super::{GUEST_MIB, ns_per_page, part_of_region, pattern_name, per_cent};
use crate::BenchError;
use crate::bench::Bench;
use crate::error::Doing;
use crate::meminfo::MemInfo;
use crate::rig::{Rig, Work, whole, work, work_counted};
use crate::setting::Setting;
use crate::stats::{Summary, median};

/// Images whose huge pages must be free: the image itself, the clone, and one to spare.
const POOL_IMAGES: u64 = 3;

/// First visits to a part of a clone's memory.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BackingRow {
    /// `4 KiB`, `transparent huge` or `hugetlb`: what the image was asked to be made of.
    pub backing: String,
    /// How much of the image is huge pages, bytes.
    pub huge_bytes: u64,
    /// `read` or `write`.
    pub operation: String,
    /// `sequential` or `scattered`.
    pub pattern: String,
    /// Part of 100 MiB, 0 to 1.
    pub fraction: f64,
    /// Pages visited.
    pub pages: u64,
    /// Number of clones.
    pub n: usize,
    /// Median nanoseconds a page.
    pub ns_per_page: f64,
    /// Median time, microseconds.
    pub total_us: f64,
    /// Page faults that KVM took, median.
    pub page_faults: f64,
    /// Minor faults of the process, median.
    pub minor_faults: f64,
    /// By how much the clone's own pages grew, median, bytes.
    pub private_bytes: f64,
}

/// One kind of visit.
const VISITS: [(Op, f64); 4] =
    [(Op::Read, 0.1), (Op::Read, 1.0), (Op::Dirty, 0.01), (Op::Dirty, 0.1)];
const PATTERNS: [Pattern; 2] = [Pattern::Sequential, Pattern::Scattered { seed: 41 }];

/// Measures images of each kind in turn.
pub fn run(bench: &mut Bench) -> Result<Vec<BackingRow>, BenchError> {
    let rounds = bench.plan.choose(1, 5);
    // Why not, if this user may not ask for them, is what the images are then said to lack.
    let _files = Setting::huge_memory_files();
    let _pool = Setting::more_huge_pages(pool_pages());
    let mut images = Vec::new();
    for (kind, name) in [
        (ImageKind::Small, "4 KiB"),
        (ImageKind::TransparentHuge, "transparent huge"),
        (ImageKind::HugeTlb, "hugetlb"),
    ] {
        match kind {
            ImageKind::HugeTlb => {
                if let Some(reason) = no_pool()? {
                    bench.skip("backing: hugetlb", reason);
                    continue;
                }
            }
            ImageKind::Small | ImageKind::TransparentHuge => {}
        }
        let snapshot = boot(&bench.rig, kind)?;
        let huge =
            snapshot.image.huge_bytes().map_err(MachineError::from).doing("finding huge pages")?;
        images.push(Image { name, huge: huge as u64, snapshot });
    }
    if let Some(image) = images.iter().find(|image| image.name != "4 KiB" && image.huge == 0) {
        let what = format!("backing: {}", image.name);
        let setting = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
        let now = crate::host::chosen(setting.as_ref());
        let reason = format!(
            "the kernel made no huge pages of the image: {setting} is {}, and must be advise or more",
            now.as_deref().unwrap_or("missing")
        );
        bench.skip(what, reason);
        images.retain(|image| image.name == "4 KiB" || image.huge > 0);
    }
    bench.progress.steps(rounds);
    let mut rows = Rows::new(&images, bench.plan.choose(1, PATTERNS.len()));
    for _ in 0..rounds {
        for row in &mut rows.0 {
            row.samples.push(visit(&bench.rig, row)?);
        }
        bench.progress.step()?;
    }
    Ok(rows.0.iter().map(|row| row.told(bench)).collect())
}

/// An image of one kind.
struct Image {
    name: &'static str,
    huge: u64,
    snapshot: Snapshot,
}

/// Huge pages that have to be free.
const fn pool_pages() -> u64 {
    POOL_IMAGES * (GUEST_MIB >> 1)
}

/// Why an image can't be made of reserved huge pages; none if it can.
fn no_pool() -> Result<Option<String>, BenchError> {
    let info = MemInfo::read()?;
    let needed = pool_pages();
    let free = info.get("HugePages_Free").unwrap_or(0);
    Ok((free < needed).then(|| {
        format!(
            "{needed} huge pages are needed, {free} are free; reserve them: \
             sysctl vm.nr_hugepages={needed}"
        )
    }))
}

/// A snapshot of a guest that has written all of its memory, in an image of `kind`.
fn boot(rig: &Rig, kind: ImageKind) -> Result<Snapshot, BenchError> {
    let config = MachineConfig { ram_bytes: GUEST_MIB << 20, image: kind, ..Default::default() };
    let machine = Machine::boot(rig.host(), &config, Box::new(std::io::sink()));
    let machine = machine.doing("booting a guest in an image of another kind")?;
    work(&machine, &Command::new(Op::Dirty, whole(&machine)).seed(GUEST_MIB))?;
    Ok(machine.snapshot().doing("the snapshot of a booted guest")?.0)
}

/// One row while it is measured.
struct Open<'a> {
    image: &'a Image,
    operation: Op,
    fraction: f64,
    pattern: Pattern,
    samples: Vec<(Work, u64)>,
}

struct Rows<'a>(Vec<Open<'a>>);

impl<'a> Rows<'a> {
    /// All of them, but the whole region in `of_whole` patterns only; the kinds of image follow
    /// each other, so that drift hits all alike.
    fn new(images: &'a [Image], of_whole: usize) -> Self {
        let wanted = |visit: (Op, f64), pattern: Pattern| {
            visit.1 < 1.0 || PATTERNS[..of_whole].contains(&pattern)
        };
        let visits = VISITS.into_iter().flat_map(|visit| PATTERNS.map(|pattern| (visit, pattern)));
        let visits = visits.filter(|&(visit, pattern)| wanted(visit, pattern));
        let rows = visits.flat_map(|((operation, fraction), pattern)| {
            images.iter().map(move |image| Open {
                image,
                operation,
                fraction,
                pattern,
                samples: Vec::new(),
            })
        });
        Self(rows.collect())
    }
}

/// One clone that visits its part for the first time.
fn visit(rig: &Rig, row: &Open<'_>) -> Result<(Work, u64), BenchError> {
    let clone = rig.spawn(&row.image.snapshot, MemoryMode::Cow)?;
    let own = || {
        let ledger = clone.ledger().doing("taking a memory account")?;
        Ok::<_, BenchError>(ledger.private_bytes)
    };
    let before = own()?;
    let pages = part_of_region(row.fraction, row.pattern);
    let work = work_counted(&clone, &Command::new(row.operation, pages).seed(43))?;
    Ok((work, own()?.saturating_sub(before)))
}

impl Open<'_> {
    fn told(&self, bench: &Bench) -> BackingRow {
        let operation = if self.operation == Op::Read { "read" } else { "write" };
        let pages = part_of_region(self.fraction, self.pattern).pages;
        let times: Vec<f64> = self.samples.iter().map(|sample| sample.0.us).collect();
        let id = format!(
            "backing/{}/{operation}/{}/{}",
            self.image.name.replace(' ', "_"),
            pattern_name(self.pattern),
            per_cent(self.fraction)
        );
        bench.measures.time(id, &times);
        let total = Summary::of(times);
        let median_of = |of: fn(&(Work, u64)) -> u64| {
            median(self.samples.iter().map(|sample| of(sample) as f64))
        };
        BackingRow {
            backing: self.image.name.to_owned(),
            huge_bytes: self.image.huge,
            operation: operation.to_owned(),
            pattern: pattern_name(self.pattern).to_owned(),
            fraction: self.fraction,
            pages,
            n: total.n,
            ns_per_page: ns_per_page(total.p50, pages),
            total_us: total.p50,
            page_faults: median_of(|sample| sample.0.page_faults),
            minor_faults: median_of(|sample| sample.0.minor_faults),
            private_bytes: median_of(|sample| sample.1),
        }
    }
}
