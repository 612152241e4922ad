//! Guests to measure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tine_abi::command::{Command, Op, Reply, Status};
use tine_abi::layout::{PAGE_SIZE, data_bytes};
use tine_abi::pattern::Selection;
use tine_vmm::{KvmHost, Ladder, Machine, MachineConfig, MemoryMode, Snapshot, SpawnOptions};

use crate::BenchError;
use crate::error::Doing;
use crate::limits;
use crate::meminfo::MemInfo;
use crate::stats::microseconds;

/// How long a clone may take to its first instruction once it is made.
pub const FIRST_LIMIT: Duration = Duration::from_secs(10);
/// How long a guest may take for a command.
pub const WORK_LIMIT: Duration = Duration::from_secs(120);
/// How long a clone lives before it may be closed without waiting. KVM's in-kernel irqchip
/// leaves an SRCU grace period behind: a VM that is closed within some milliseconds of
/// its making waits 15 ms for it. Where closing is not what is measured, clones are
/// closed at once all the same, off the timed path: to let them age would keep
/// others alive beside the one that is measured.
pub const AGE: Duration = Duration::from_millis(60);
/// Memory that stays free beside image and eager copy.
const RESERVE: u64 = 2 << 30;

/// Makes guests, and keeps the snapshots of those that several sections use.
pub struct Rig {
    host: Arc<KvmHost>,
    snapshots: BTreeMap<u64, Snapshot>,
}

/// What a command came to.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Time by the guest's own TSC, microseconds.
    pub us: f64,
    /// Page faults that KVM took meanwhile.
    pub page_faults: u64,
    /// Minor faults of this process meanwhile.
    pub minor_faults: u64,
}

impl Rig {
    /// Opens KVM.
    pub fn open() -> Result<Self, BenchError> {
        Ok(Self { host: Arc::new(KvmHost::open()?), snapshots: BTreeMap::new() })
    }

    /// The host's KVM.
    pub fn host(&self) -> &Arc<KvmHost> {
        &self.host
    }

    /// Why a guest of `mib` can't be measured here; none if it can: its image, a whole
    /// copy of it and a reserve must fit into memory.
    pub fn no_room_for(&self, mib: u64) -> Result<Option<String>, BenchError> {
        let copies = if self.snapshots.contains_key(&mib) { 1 } else { 2 };
        let needed = (copies * (mib << 20)).saturating_add(RESERVE);
        let available = MemInfo::read()?.need("MemAvailable")?;
        Ok((available < needed).then(|| {
            format!(
                "image, eager copy and 2 GiB to spare take {} MiB, and {} MiB are available",
                needed >> 20,
                available >> 20
            )
        }))
    }

    /// A snapshot of a guest of `mib` that has written every page of its data region, so
    /// that an eager copy has everything to copy, and no page is a hole.
    pub fn snapshot(&mut self, mib: u64) -> Result<Snapshot, BenchError> {
        if let Some(snapshot) = self.snapshots.get(&mib) {
            return Ok(snapshot.clone());
        }
        let config = MachineConfig { ram_bytes: mib << 20, ..MachineConfig::default() };
        let machine = Machine::boot(&self.host, &config, Box::new(std::io::sink()))
            .doing(&format!("booting a guest of {mib} MiB"))?;
        work(&machine, &Command::new(Op::Dirty, whole(&machine)).seed(mib))?;
        let (snapshot, _) = machine.snapshot().doing("the snapshot of a booted guest")?;
        self.snapshots.insert(mib, snapshot.clone());
        Ok(snapshot)
    }

    /// Lets the snapshot of a guest of `mib` go.
    pub fn forget(&mut self, mib: u64) {
        self.snapshots.remove(&mib);
    }

    /// A clone of `snapshot` that has run its first instruction.
    pub fn spawn(&self, snapshot: &Snapshot, memory: MemoryMode) -> Result<Machine, BenchError> {
        self.spawn_with(snapshot, SpawnOptions { memory, ..options() })
    }

    /// The same with its hot set copied ahead.
    pub fn spawn_hot(&self, snapshot: &Snapshot) -> Result<Machine, BenchError> {
        self.spawn_with(snapshot, SpawnOptions { hot_set: true, ..options() })
    }

    fn spawn_with(
        &self,
        snapshot: &Snapshot,
        options: SpawnOptions,
    ) -> Result<Machine, BenchError> {
        let machine = Machine::spawn(&self.host, snapshot, options).doing("spawning a clone")?;
        total_us(&machine.ladder(), "a spawn")?;
        Ok(machine)
    }
}

/// Options of a clone that is asked for now.
pub fn options() -> SpawnOptions {
    SpawnOptions { wait: FIRST_LIMIT, ..SpawnOptions::new() }
}

/// Time from request to first instruction, microseconds. A clone without one was not
/// measured.
pub fn total_us(ladder: &Ladder, doing: &'static str) -> Result<f64, BenchError> {
    ladder
        .total
        .map(microseconds)
        .ok_or(BenchError::NoFirstInstruction { doing, seconds: FIRST_LIMIT.as_secs() })
}

/// Number of pages of the data region.
pub fn data_pages(machine: &Machine) -> u64 {
    data_bytes(machine.ram_bytes()) / PAGE_SIZE
}

/// The whole data region.
pub fn whole(machine: &Machine) -> Selection {
    Selection::sequential(0, data_pages(machine))
}

/// Has the guest work on pages, and sees to it that it did all of it. The time is the guest's own.
pub fn work(machine: &Machine, command: &Command) -> Result<f64, BenchError> {
    let doing = || format!("{:?} of {} pages", command.op, command.selection.pages);
    let reply = machine.run(0, command, WORK_LIMIT).doing(&doing())?;
    check_done(command, &reply, doing)?;
    Ok(reply.ticks() as f64 * 1000.0 / f64::from(machine.tsc_khz()))
}

/// Sees to it that `reply` is to all of `command`.
pub fn check_done(
    command: &Command,
    reply: &Reply,
    doing: impl Fn() -> String,
) -> Result<(), BenchError> {
    let asked = command.selection.pages.min(command.selection.region_pages);
    if reply.status != Status::Done || reply.done != asked {
        return Err(BenchError::Incomplete { doing: doing(), done: reply.done, asked });
    }
    Ok(())
}

/// The same, with the faults that it took.
pub fn work_counted(machine: &Machine, command: &Command) -> Result<Work, BenchError> {
    let kvm = || machine.counters().doing("reading KVM's counters");
    let (before, minor_before) = (kvm()?, limits::minor_faults()?);
    let us = work(machine, command)?;
    let (minor_after, after) = (limits::minor_faults()?, kvm()?);
    Ok(Work {
        us,
        page_faults: after.page_faults.saturating_sub(before.page_faults),
        minor_faults: minor_after.saturating_sub(minor_before),
    })
}
