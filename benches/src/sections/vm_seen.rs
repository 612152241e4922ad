//! A clone that writes a number of pages that is known: whether every counter says so.
//!
//! In a cell, so that the process is the clone's alone.

use std::fs;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_abi::command::{Command, Op};
use tine_abi::layout::{PAGE_SIZE, data_bytes};
use tine_abi::pattern::{Pattern, Selection};
use tine_cell::{Cell, SpawnWish};

use super::mib;
use crate::BenchError;
use crate::bench::Bench;
use crate::cells::{self, Cells, for_cells};
use crate::error::Doing;
use crate::meminfo::MemInfo;

/// Pages that are written: every 32nd from the second on.
const PAGES: u64 = 2000;
const APART: u64 = 32;
/// Pages below one page table: the first of each is written before. A page table of the guest's
/// that KVM reads is a page of the image that this process alone has mapped, and smaps would
/// count it as private.
const TABLE: u64 = 512;
/// What smaps calls guest memory.
const IMAGE: &str = "memfd:tine-image";

/// What counters say of pages that a clone has written.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct VmSeen {
    /// Guest memory.
    pub guest_bytes: u64,
    /// Pages that the guest wrote.
    pub written_pages: u64,
    /// By how much the ledger's private bytes grew.
    pub ledger_private_bytes: u64,
    /// By how much `Private_Dirty` of the mappings that are its memory grew, bytes.
    pub smaps_private_dirty_bytes: f64,
    /// Page faults that KVM took.
    pub kvm_faults: u64,
    /// Minor faults of the cell's process.
    pub minor_faults: u64,
    /// Major faults of it.
    pub major_faults: u64,
}

/// Page tables of a clone all of whose memory was written.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct VmPageTables {
    /// Guest memory.
    pub guest_bytes: u64,
    /// Pages that the guest wrote.
    pub written_pages: u64,
    /// Page tables and directories that map the guest's memory, by the ledger.
    pub ledger_bytes: u64,
    /// Page tables of the whole process (`VmPTE`), when it was new.
    pub new_bytes: u64,
    /// The same when all was written.
    pub written_bytes: u64,
    /// Second-level or shadow tables of KVM: growth of `SecPageTables` of the whole host; none
    /// where this KVM or kernel does not count them.
    pub kvm_bytes: Option<f64>,
}

impl VmPageTables {
    /// Pages of page tables for a GiB of guest memory.
    pub fn tables_per_gib(&self) -> f64 {
        let grown = self.written_bytes.saturating_sub(self.new_bytes) as f64;
        grown / PAGE_SIZE as f64 / (self.written_pages * PAGE_SIZE) as f64 * (1u64 << 30) as f64
    }
}

/// What was seen of a clone that wrote some pages, and of one that wrote all.
pub fn run(bench: &mut Bench) -> Result<(VmSeen, VmPageTables), BenchError> {
    let size = bench.plan.choose(64, 1024);
    let Bench { rig, measures, .. } = bench;
    let small = for_cells(&rig.snapshot(super::GUEST_MIB)?)?;
    let whole = for_cells(&rig.snapshot(size)?)?;
    let cells = Cells::start()?;
    let (clone, _) = cells.spawn(&small, SpawnWish::new(cells::start()))?;
    let seen = see(&clone)?;
    clone.kill();
    let (clone, _) = cells.spawn(&whole, SpawnWish::new(cells::start()))?;
    let tables = fill(&clone)?;
    clone.kill();
    drop(cells);
    if size != super::GUEST_MIB {
        rig.forget(size);
    }
    let id = |what: &str| format!("vm_copied/{}/{what}", mib(tables.guest_bytes));
    measures.bytes(id("page_tables_all_written"), &[tables.written_bytes as f64]);
    Ok((seen, tables))
}

/// Has `clone` write pages, and reads all counters before and after.
fn see(clone: &Cell) -> Result<VmSeen, BenchError> {
    let pages = data_bytes(clone.ram_bytes()) / PAGE_SIZE;
    let tables = Pattern::Stride { pages: TABLE };
    let first = Selection { pattern: tables, ..Selection::sequential(0, pages) };
    let first = Selection { pages: pages / TABLE, ..first };
    cells::work(clone, &Command::new(Op::Dirty, first))?;
    let apart = Pattern::Stride { pages: APART };
    let region = Selection { pattern: apart, ..Selection::sequential(1, pages - 1) };
    let region = Selection { pages: PAGES, ..region };
    // To read them takes memory, and faults, of the process: the faults are read last and first.
    let own = own_bytes(clone)?;
    let before = all_faults(clone)?;
    cells::work(clone, &Command::new(Op::Dirty, region).seed(23))?;
    let after = all_faults(clone)?;
    let own_after = own_bytes(clone)?;
    let [kvm, minor, major] = [0, 1, 2].map(|which| after[which].saturating_sub(before[which]));
    Ok(VmSeen {
        guest_bytes: clone.ram_bytes(),
        written_pages: PAGES,
        ledger_private_bytes: own_after.0.saturating_sub(own.0),
        smaps_private_dirty_bytes: own_after.1 as f64 - own.1 as f64,
        kvm_faults: kvm,
        minor_faults: minor,
        major_faults: major,
    })
}

/// Faults so far: of KVM, minor ones and major ones of the process.
fn all_faults(clone: &Cell) -> Result<[u64; 3], BenchError> {
    let kvm = clone.counters().doing("reading KVM's counters")?.page_faults;
    let (minor, major) = faults(clone.pid())?;
    Ok([kvm, minor, major])
}

/// Bytes of its own: by the ledger, and by smaps.
fn own_bytes(clone: &Cell) -> Result<(u64, u64), BenchError> {
    let ledger = clone.ledger().doing("taking a memory account")?;
    let path = PathBuf::from(format!("/proc/{}/smaps", clone.pid()));
    let smaps = fs::read_to_string(&path)
        .map_err(|source| BenchError::Read { path: path.clone(), source })?;
    let dirty = private_dirty(&smaps, IMAGE);
    let dirty = dirty.ok_or(BenchError::Missing { path, what: "the guest's memory" })?;
    Ok((ledger.private_bytes, dirty))
}

/// `Private_Dirty` of all mappings in `smaps` of the file `name`, bytes; none if there is no
/// such mapping.
fn private_dirty(smaps: &str, name: &str) -> Option<u64> {
    let (mut sum, mut inside) = (None, false);
    for line in smaps.lines() {
        // A line of a field has its name, a colon and a number; that of a mapping begins with
        // addresses.
        let Some((field, value)) = line.split_once(':').filter(|(field, _)| !field.contains('-'))
        else {
            inside = line.contains(name);
            continue;
        };
        if inside && field == "Private_Dirty" {
            let kilobytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
            *sum.get_or_insert(0) += kilobytes << 10;
        }
    }
    sum
}

/// Minor and major faults of process `pid` so far.
fn faults(pid: u32) -> Result<(u64, u64), BenchError> {
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    let text = fs::read_to_string(&path)
        .map_err(|source| BenchError::Read { path: path.clone(), source })?;
    faults_of(&text).ok_or(BenchError::Missing { path, what: "page faults" })
}

fn faults_of(stat: &str) -> Option<(u64, u64)> {
    // The name is in parentheses, and may have any itself.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(7);
    let minor = fields.next()?.parse().ok()?;
    let major = fields.nth(1)?.parse().ok()?;
    Some((minor, major))
}

/// Has `clone` write all of its memory.
fn fill(clone: &Cell) -> Result<VmPageTables, BenchError> {
    let pages = data_bytes(clone.ram_bytes()) / PAGE_SIZE;
    let tables = || MemInfo::of(clone.pid())?.need("VmPTE");
    let (new_bytes, before) = (tables()?, MemInfo::read()?);
    cells::work(clone, &Command::new(Op::Dirty, Selection::sequential(0, pages)).seed(29))?;
    let kvm = MemInfo::read()?.grown(&before, "SecPageTables");
    Ok(VmPageTables {
        guest_bytes: clone.ram_bytes(),
        written_pages: pages,
        ledger_bytes: clone.ledger().doing("taking a memory account")?.page_table_bytes,
        new_bytes,
        written_bytes: tables()?,
        // A KVM that does not count its tables there shows no growth.
        kvm_bytes: kvm.filter(|&grown| grown > 0.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dirty_pages_of_one_file_are_counted() {
        let smaps = "\
7f00-7f10 rw-p 00000000 00:01 1024 /memfd:tine-image (deleted)
Size:                 64 kB
Private_Dirty:        12 kB
7f10-7f20 rw-p 00000000 00:00 0
Private_Dirty:       400 kB
7f20-7f30 rw-p 00010000 00:01 1024 /memfd:tine-image (deleted)
Private_Dirty:         8 kB
VmFlags: rd wr mr
";
        assert_eq!(private_dirty(smaps, IMAGE), Some(20 << 10));
        assert_eq!(private_dirty(smaps, "memfd:other"), None);
    }

    #[test]
    fn faults_are_found_whatever_the_name_is() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194304 123 4 7 0 10 20 0 0 20 0 3 0 1 2 3";
        assert_eq!(faults_of(stat), Some((123, 7)));
        assert_eq!(faults_of("42 (short) S 1"), None);
    }
}
