//! What a clone of a virtual machine copies, shares and has made anew, thing by thing: how much
//! it is, how long it takes, and whether it behaves so.
//!
//! Two ways of making a clone: a spawn from a snapshot, and a fork of a running machine by
//! `fork(2)` of its cell. The times of a spawn's steps are taken one by one (`vm_steps`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_vmm::devices::disk::Disk;
use tine_vmm::{MemoryMode, Snapshot};

use super::parts::{Reading, between};
use super::vm_family::{Family, Forked, WRITTEN};
use super::vm_steps::{self, Steps};
use super::{GUEST_MIB, density::Density};
use crate::BenchError;
use crate::bench::Bench;
use crate::limits::Held;
use crate::named::Named;
use crate::rig::Rig;
use crate::stats::{median, microseconds};

/// Clones that are alive at once when the kernel's memory is read.
const CLONES: u64 = 64;
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
