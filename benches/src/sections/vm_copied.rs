//! What a clone of a virtual machine copies, shares and has made anew, thing by thing: how much
//! it is, how long it takes, and whether it behaves so.
//!
//! Two ways of making a clone: a spawn from a snapshot, and a fork of a running machine by
//! `fork(2)` of its cell. The times of a spawn's steps are taken one by one (`vm_steps`).

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_abi::command::{Command, Op};
use tine_abi::layout::{PAGE_SIZE, data_bytes};
use tine_abi::pattern::Selection;
use tine_cell::{Cell, CellSnapshot, SpawnWish};
use tine_vmm::devices::disk::Disk;
use tine_vmm::{MemoryMode, Snapshot};

use super::parts::{Reading, between};
use super::vm_steps::{self, Steps};
use super::{GUEST_MIB, density::Density};
use crate::BenchError;
use crate::bench::Bench;
use crate::cells::{self, AtWork, Cells, for_cells};
use crate::content::is_intact;
use crate::error::Doing;
use crate::limits::Held;
use crate::meminfo::MemInfo;
use crate::named::Named;
use crate::rig::{Rig, WORK_LIMIT};
use crate::stats::{median, microseconds};

/// Clones that are alive at once when the kernel's memory is read.
const CLONES: u64 = 64;
/// Pages that the parent of a fork has written.
const WRITTEN: u64 = 1000;
/// Seed of those writes.
const PARENT_SEED: u64 = 101;
/// Seed of the child's.
const CHILD_SEED: u64 = 102;
/// A disk, bytes.
const DISK: u64 = 64 << 20;

/// One thing of a virtual machine, and what becomes of it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CopiedRow {
    /// What it is.
    pub thing: String,
    /// What a spawn from a snapshot does with it: `copied`, `made anew`, `shared`.
    pub spawn: String,
    /// What a fork of a running machine does with it.
    pub fork: String,
    /// How much of it each clone has of its own, bytes; of what is shared, how much is.
    pub bytes: Option<f64>,
    /// How long it takes, microseconds.
    pub us: Option<f64>,
    /// How that was found.
    pub how: String,
    /// What was tried to see that it is so; none where nothing can be tried from outside.
    pub test: Option<String>,
    /// Whether it was so.
    pub holds: Option<bool>,
}

impl CopiedRow {
    fn new(thing: &str, spawn: &str, fork: &str, how: &str) -> Self {
        let [thing, spawn, fork, how] = [thing, spawn, fork, how].map(str::to_owned);
        Self { thing, spawn, fork, bytes: None, us: None, how, test: None, holds: None }
    }

    fn bytes(self, bytes: impl Into<Option<f64>>) -> Self {
        Self { bytes: bytes.into(), ..self }
    }

    fn us(self, us: f64) -> Self {
        Self { us: Some(us).filter(|us| us.is_finite()), ..self }
    }

    fn tested(self, test: &str, holds: bool) -> Self {
        Self { test: Some(test.to_owned()), holds: Some(holds), ..self }
    }
}

/// Measures every row. What the kernel takes for a clone is known from `density`, if that was
/// measured in the same run.
pub fn run(bench: &mut Bench, density: Option<&Density>) -> Result<Vec<CopiedRow>, BenchError> {
    let rounds = bench.plan.choose(8, 60);
    let Bench { rig, measures, progress, .. } = bench;
    progress.steps(3);
    let snapshot = rig.snapshot(GUEST_MIB)?;
    let steps = vm_steps::take(rig, &snapshot, rounds)?;
    let named = [
        ("create_vm", &steps.vm),
        ("create_irqchip", &steps.irqchip),
        ("create_vcpu", &steps.vcpu),
        ("memslot", &steps.memslot),
        ("map", &steps.map),
        ("vm_state", &steps.vm_state),
        ("vcpu_state", &steps.vcpu_state),
        ("devices", &steps.devices),
    ];
    for (name, samples) in named {
        measures.time(format!("vm_copied/{name}"), samples);
    }
    progress.step()?;
    let kernel = match density {
        Some(density) => density.parts.clone(),
        None => kernel_parts(rig, &snapshot)?,
    };
    let descriptors = descriptors_of_one(rig, &snapshot)?;
    progress.step()?;
    let family = Family::make(&snapshot)?;
    let forked = family.look()?;
    measures.time("vm_copied/fork_of_process", &[forked.fork_us]);
    measures.bytes("vm_copied/page_tables_of_child", &[forked.child_page_tables as f64]);
    progress.step()?;
    let mut rows = structures(&steps, &kernel);
    rows.extend(states(&steps, &snapshot, &forked)?);
    rows.extend(memory(&steps, &kernel, &forked));
    rows.push(disk()?);
    rows.extend(process(&kernel, descriptors, &forked));
    Ok(rows)
}

/// What the kernel takes for each of some clones.
fn kernel_parts(rig: &Rig, snapshot: &Snapshot) -> Result<Named, BenchError> {
    let before = Reading::settled()?;
    let clones = (0..CLONES).map(|_| rig.spawn(snapshot, MemoryMode::Cow));
    let clones = clones.collect::<Result<Vec<_>, _>>()?;
    let after = Reading::settled()?;
    drop(clones);
    Ok(between(&before, &after, CLONES, after.own_since(&before)))
}

/// Descriptors that one clone takes of the process that it is in.
fn descriptors_of_one(rig: &Rig, snapshot: &Snapshot) -> Result<u64, BenchError> {
    // One that is not counted opens what stays open.
    drop(rig.spawn(snapshot, MemoryMode::Cow)?);
    let before = Held::now()?.descriptors;
    let clone = rig.spawn(snapshot, MemoryMode::Cow)?;
    let after = Held::now()?.descriptors;
    drop(clone);
    Ok(after.saturating_sub(before))
}

/// What a guest has printed.
type Printed = Arc<Mutex<Vec<u8>>>;

/// A parent that was at work when it was forked, and two children that hold what it had.
struct Family {
    parent: Arc<Cell>,
    children: Vec<Cell>,
    printed: [Printed; 2],
    /// Whether the first child was at work as soon as it ran.
    at_work: bool,
    fork_us: f64,
    capture_us: f64,
    /// `VmPTE` of the parent before, and of the first child at once.
    page_tables: (u64, u64),
    // Dropped after its cells.
    _cells: Cells,
}

/// What was seen of it.
struct Forked {
    fork_us: f64,
    capture_us: f64,
    parent_page_tables: u64,
    child_page_tables: u64,
    at_work: bool,
    pages_apart: bool,
    private_bytes: u64,
    console_apart: bool,
    kvm_faults: u64,
    own_vm: bool,
    descriptors: Option<(u64, u64)>,
    mappings: u64,
}

fn writes(cell: &Cell, seed: u64) -> Command {
    let pages = data_bytes(cell.ram_bytes()) / PAGE_SIZE;
    Command::new(Op::Dirty, Selection::scattered(pages, WRITTEN, PARENT_SEED)).seed(seed)
}

fn page_tables(cell: &Cell) -> Result<u64, BenchError> {
    MemInfo::of(cell.pid())?.need("VmPTE")
}

impl Family {
    fn make(snapshot: &Snapshot) -> Result<Self, BenchError> {
        let snapshot: Arc<CellSnapshot> = for_cells(snapshot)?;
        let cells = Cells::start()?;
        let (parent, _) = cells.spawn(&snapshot, SpawnWish::new(cells::start()))?;
        let parent = Arc::new(parent);
        cells::work(&parent, &writes(&parent, PARENT_SEED))?;
        let before = page_tables(&parent)?;
        let work = AtWork::begin(&parent)?;
        let printed = [Printed::default(), Printed::default()];
        let children = printed.iter().map(|printed| {
            let own = Arc::clone(printed);
            let console = move |bytes: &[u8]| {
                own.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            };
            (SpawnWish::new(cells::start()), Box::new(console) as _)
        });
        let forked = cells.nursery.fork(&parent, children.collect());
        let (children, pause) = forked.doing("fork(2) of a cell")?;
        let children = children.into_iter().map(|child| child.doing("a child of a cell"));
        let children = children.collect::<Result<Vec<_>, _>>()?;
        let after = children.first().map_or(Ok(0), page_tables)?;
        let at_work = children.iter().all(Cell::busy);
        work.end()?;
        cells::calm(&children)?;
        Ok(Self {
            parent,
            children,
            printed,
            at_work,
            fork_us: microseconds(pause.fork),
            capture_us: microseconds(pause.capture),
            page_tables: (before, after),
            _cells: cells,
        })
    }

    /// What the two children, called `child` and `sibling`, and the parent are to each other.
    fn look(&self) -> Result<Forked, BenchError> {
        let [child, sibling] = &self.children[..] else {
            return Err(BenchError::Incomplete {
                doing: "a fork into two".into(),
                done: self.children.len() as u64,
                asked: 2,
            });
        };
        let kvm = |cell: &Cell| cell.counters().doing("reading KVM's counters");
        let before = kvm(child)?.page_faults;
        let pages = writes(child, PARENT_SEED).selection;
        cells::work(child, &Command::new(Op::Read, pages))?;
        let kvm_faults = kvm(child)?.page_faults.saturating_sub(before);
        let private = |cell: &Cell| {
            let ledger = cell.ledger().doing("taking a memory account")?;
            Ok::<_, BenchError>(ledger.private_bytes)
        };
        cells::work(child, &writes(child, CHILD_SEED))?;
        let (old, new) = ([GUEST_MIB, PARENT_SEED], [GUEST_MIB, PARENT_SEED, CHILD_SEED]);
        let pages_apart = is_intact(&self.parent, pages, &old)?
            && is_intact(sibling, pages, &old)?
            && is_intact(child, pages, &new)?;
        // What it says before it ends the command is there when that is answered, or soon.
        let say = Command::new(Op::Say, Selection::NONE);
        child.work(0, &say, WORK_LIMIT).doing("having a child print")?;
        std::thread::sleep(std::time::Duration::from_millis(50));
        let heard =
            |printed: &Printed| !printed.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        Ok(Forked {
            fork_us: self.fork_us,
            capture_us: self.capture_us,
            parent_page_tables: self.page_tables.0,
            child_page_tables: self.page_tables.1,
            at_work: self.at_work,
            pages_apart,
            private_bytes: private(child)?,
            console_apart: heard(&self.printed[0]) && !heard(&self.printed[1]),
            kvm_faults,
            own_vm: own_vm(&self.parent, child),
            descriptors: descriptors(&self.parent).zip(descriptors(child)),
            mappings: mappings_of(child.pid())?,
        })
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        self.children.iter().for_each(Cell::kill);
        self.parent.kill();
    }
}

/// What the descriptors of `cell` are, with how many there are of each; none where this process
/// may not look.
fn open_files(cell: &Cell) -> Option<BTreeMap<PathBuf, u64>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{}/fd", cell.pid())).ok()? {
        *files.entry(fs::read_link(entry.ok()?.path()).ok()?).or_default() += 1;
    }
    Some(files)
}

fn descriptors(cell: &Cell) -> Option<u64> {
    Some(open_files(cell)?.values().sum())
}

/// Whether `child` has one VM, its own: that of its parent would be a second.
fn own_vm(parent: &Cell, child: &Cell) -> bool {
    let count = |cell: &Cell, what: &str| {
        let files = open_files(cell).unwrap_or_default();
        let found = files.iter().filter(|(file, _)| file.to_string_lossy().contains(what));
        found.map(|(_, count)| count).sum::<u64>()
    };
    count(parent, "kvm-vm") == 1 && count(child, "kvm-vm") == 1 && count(child, "kvm-vcpu") == 1
}

fn mappings_of(pid: u32) -> Result<u64, BenchError> {
    let path = PathBuf::from(format!("/proc/{pid}/maps"));
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().count() as u64),
        Err(source) => Err(BenchError::Read { path, source }),
    }
}

fn structures(steps: &Steps, kernel: &Named) -> Vec<CopiedRow> {
    let median = |samples: &[f64]| median(samples.iter().copied());
    let anew = |thing: &str, how: &str| CopiedRow::new(thing, "made anew", "made anew", how);
    vec![
        anew("VM structure", "KVM_CREATE_VM; slab of VM, vCPU and irqchip together, a clone")
            .us(median(&steps.vm))
            .bytes(kernel.get("slab")),
        anew("vCPU structures", "KVM_CREATE_VCPU; single pages of KVM, by the memory controller")
            .us(median(&steps.vcpu))
            .bytes(kernel.get("kernel_pages")),
        anew("irqchip structures", "KVM_CREATE_IRQCHIP; bytes: in the slab of the VM")
            .us(median(&steps.irqchip)),
        anew("memslot metadata", "KVM_SET_USER_MEMORY_REGION; growth of VmallocUsed, a clone")
            .us(median(&steps.memslot))
            .bytes(kernel.get("vmalloc")),
        anew("threads", "growth of KernelStack, a clone").bytes(kernel.get("kernel_stacks")),
    ]
}

fn states(
    steps: &Steps,
    snapshot: &Snapshot,
    forked: &Forked,
) -> Result<Vec<CopiedRow>, BenchError> {
    let state = &snapshot.state;
    let median = |samples: &[f64]| median(samples.iter().copied());
    let copied = |thing: &str, how: &str| CopiedRow::new(thing, "copied", "copied", how);
    Ok(vec![
        copied("vCPU state", "size as it is saved; KVM_SET_* of a vCPU")
            .bytes(saved_size(&state.vcpus)?)
            .us(median(&steps.vcpu_state))
            .tested("a child goes on in the middle of its parent's command", forked.at_work),
        copied("irqchip and clock state", "size as it is saved; KVM_SET_IRQCHIP, KVM_SET_CLOCK")
            .bytes(saved_size(&state.vm)?)
            .us(median(&steps.vm_state)),
        copied("CPU features", "size as it is saved; part of making a vCPU")
            .bytes(saved_size(&state.cpuid)?),
        copied("device state", "size as it is saved; devices made with their state")
            .bytes(saved_size(&state.board)?)
            .us(median(&steps.devices)),
        copied("reading all state of a parent", "the parent's pause while its state is read")
            .us(forked.capture_us),
        CopiedRow::new("console", "made anew", "made anew", "each has an output of its own")
            .tested(
                "what a child says comes out of its console and no other",
                forked.console_apart,
            ),
    ])
}

fn saved_size(state: &impl Serialize) -> Result<f64, BenchError> {
    Ok(postcard::to_stdvec(state)
        .map_err(|_| BenchError::Incomplete {
            doing: "counting the bytes of a state".into(),
            done: 0,
            asked: 1,
        })?
        .len() as f64)
}

fn memory(steps: &Steps, kernel: &Named, forked: &Forked) -> Vec<CopiedRow> {
    let map = median(steps.map.iter().copied());
    vec![
        CopiedRow::new(
            "page frames",
            "shared until written",
            "shared until written",
            "mmap of the image; all of guest RAM is shared",
        )
        .bytes((GUEST_MIB << 20) as f64)
        .us(map)
        .tested(
            "a child writes 1000 pages that its parent wrote: parent and sibling keep theirs",
            forked.pages_apart,
        ),
        CopiedRow::new(
            "host page tables, spawned",
            "made anew",
            "-",
            "page tables of a clone that has run; nothing is there before it touches a page",
        )
        .bytes(kernel.get("page_tables")),
        CopiedRow::new(
            "host page tables, forked",
            "-",
            "copied",
            "VmPTE of a child at once; the parent's pause for fork(2), its parent having \
             written 1000 scattered pages",
        )
        .bytes(forked.child_page_tables as f64)
        .us(forked.fork_us)
        .tested(
            "a child has page tables of more than a tenth of its parent's before it touches a page",
            forked.child_page_tables * 10 > forked.parent_page_tables,
        ),
        CopiedRow::new(
            "second-level or shadow page tables",
            "made anew",
            "made anew",
            "growth of SecPageTables, a clone that has run",
        )
        .bytes(kernel.get("kvm_mmu"))
        .tested(
            "a child's reads of pages that its parent had mapped fault in KVM again",
            forked.kvm_faults >= WRITTEN / 2,
        ),
    ]
}

/// A disk with writes, forked; both sides write on. The embedded guest has none, so the disk
/// stands alone.
fn disk() -> Result<CopiedRow, BenchError> {
    let mut parent = Disk::overlay(None, DISK)?;
    let block = |byte: u8| vec![byte; 1 << 20];
    for at in (0..DISK / 2).step_by(1 << 20) {
        parent.write(at, &block(1))?;
    }
    let begun = std::time::Instant::now();
    let mut child = parent.fork();
    let us = microseconds(begun.elapsed());
    child.write(0, &block(2))?;
    parent.write(1 << 20, &block(3))?;
    let reads = |disk: &Disk, at: u64| {
        let mut read = block(0);
        disk.read(at, &mut read).map(|()| read)
    };
    let apart = reads(&parent, 0)? == block(1)
        && reads(&child, 0)? == block(2)
        && reads(&child, 1 << 20)? == block(1)
        && reads(&parent, 1 << 20)? == block(3)
        && reads(&child, 2 << 20)? == block(1);
    let how = "a disk alone, half of 64 MiB written before; the embedded guest has none";
    Ok(CopiedRow::new("disk", "shared until written", "shared until written", how)
        .bytes((DISK / 2) as f64)
        .us(us)
        .tested("parent and child write on: neither reads what the other wrote", apart))
}

fn process(kernel: &Named, descriptors: u64, forked: &Forked) -> Vec<CopiedRow> {
    let mut rows = vec![
        CopiedRow::new(
            "pages of its own",
            "made anew",
            "copied when written",
            "ledger of a child that has written 1000 pages",
        )
        .bytes(forked.private_bytes as f64),
        CopiedRow::new(
            "mappings",
            "made anew",
            "copied",
            &format!("{} of a child, from /proc/PID/maps; part of fork(2)", forked.mappings),
        ),
        CopiedRow::new(
            "identity",
            "made anew",
            "made anew",
            "a Linux guest gets another generation id, host name and random numbers; the \
             embedded guest has none of them",
        ),
        CopiedRow::new("counters", "made anew", "made anew", "growth of Percpu, a clone")
            .bytes(kernel.get("percpu")),
    ];
    let how = match forked.descriptors {
        Some((parent, child)) => {
            format!("{descriptors} a clone in one process; a cell has {parent}, its fork {child}")
        }
        None => format!("{descriptors} a clone in one process; those of cells can't be seen"),
    };
    let row = CopiedRow::new("file descriptors", "made anew", "made anew, but for the image", &how);
    rows.push(match forked.descriptors {
        Some(_) => row.tested("a child has one VM open, its own", forked.own_vm),
        None => row,
    });
    rows
}
