//! Machines from snapshots: prepared ahead of time or when they are asked for, then started.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Ladder;
use crate::devices::{Board, ConsoleSink};
use crate::kvm::{ClockPolicy, KvmHost, Shell, ShellConfig, Slot};
use crate::machine::{
    Gate, Herald, Identity, Machine, MachineError, MachineParts, MemoryMode, SpawnOptions,
};
use crate::memory::GuestRam;
use crate::snapshot::{MachineState, Snapshot};

/// How long a vCPU may take to answer in a dry run.
const DRY_RUN_LIMIT: Duration = Duration::from_secs(2);

impl Machine {
    /// Spawns a clone of `snapshot`, and waits for its first instruction.
    pub fn spawn(
        host: &Arc<KvmHost>,
        snapshot: &Snapshot,
        options: SpawnOptions,
    ) -> Result<Self, MachineError> {
        let SpawnOptions { memory, hot_set, clock, console, requested, identity, wait } = options;
        let prepared = Prepared::new(host, snapshot, memory, hot_set, console)?;
        prepared.start(StartOptions { clock, requested, identity, wait })
    }
}

/// A clone that has everything but leave to run: its memory is mapped, its hot set copied,
/// and its threads wait.
pub struct Prepared {
    machine: Machine,
    origin: Snapshot,
    /// Whether it has all of its state, in which only time goes on.
    restored: bool,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("machine", &self.machine).finish_non_exhaustive()
    }
}

/// How a prepared clone is to start.
#[derive(Clone, Debug)]
pub struct StartOptions {
    /// What its clock shows.
    pub clock: ClockPolicy,
    /// When it was asked for: where the ladder begins.
    pub requested: Instant,
    /// What a clone of a Linux guest calls itself.
    pub identity: Identity,
    /// How long to wait for its first instruction.
    pub wait: Duration,
}

impl Prepared {
    /// Prepares a clone of `snapshot`.
    pub fn new(
        host: &Arc<KvmHost>,
        snapshot: &Snapshot,
        memory: MemoryMode,
        hot_set: bool,
        console: ConsoleSink,
    ) -> Result<Self, MachineError> {
        let mut ladder = Ladder::default();
        let state = &snapshot.state;
        let ram = timed(&mut ladder.map, || match memory {
            MemoryMode::Cow => {
                Ok((GuestRam::copy_on_write(&snapshot.image, state.ram.clone())?, "cow"))
            }
            MemoryMode::Eager => GuestRam::eager(&snapshot.image, state.ram.clone())
                .map(|(ram, report)| (ram, report.strategy())),
        });
        let (ram, strategy) = ram?;
        ladder.strategy = strategy.into();
        let shell = shell_for(host, &ram, vcpu_count(state)?, state.vm.pit.is_some(), &mut ladder)?;
        if let Some(hot_set) = snapshot.hot_set.as_ref().filter(|_| hot_set) {
            timed(&mut ladder.hot_set, || ram.apply_hot_set(hot_set))?;
        }
        let begun = Instant::now();
        let machine = assemble(host, shell, ram, state, Some(snapshot.clone()), console, ladder)?;
        machine.amend_ladder(|ladder| ladder.restore = begun.elapsed());
        Ok(Self { machine, origin: snapshot.clone(), restored: false })
    }

    /// Has the guest take its first steps and undoes them, so that the tables that KVM keeps
    /// for it are there when it starts. Only a guest that waits for commands can be asked to:
    /// its steps are few, and nobody sees them. Whether it was.
    pub fn dry_run(&mut self) -> Result<bool, MachineError> {
        let machine = &self.machine;
        let state = &self.origin.state;
        let cow = machine.ram().backing() == crate::memory::ram::Backing::CopyOnWrite;
        if state.board.is_linux() || !cow || !state.vcpus.iter().all(|vcpu| vcpu.idle) {
            return Ok(false);
        }
        machine.restore(state, ClockPolicy::Continue)?;
        machine.walk_once(DRY_RUN_LIMIT)?;
        machine.ram().undo_writes()?;
        machine.restore(state, ClockPolicy::Continue)?;
        self.restored = !state.vcpus.iter().any(|vcpu| vcpu.state.has_timer());
        Ok(true)
    }

    /// From now on, the pages that the guest reads are known one by one, as far as the kernel can
    /// tell them: for its [hot set](Machine::hot_set).
    pub fn watch(&self) {
        self.machine.ram_mut().watch();
    }

    /// Divides its memory into pieces that the kernel keeps apart: what a fork of the process costs
    /// then follows the pieces in which the guest has written, not all that it has touched.
    pub fn divide_memory(&self) -> Result<(), MachineError> {
        Ok(self.machine.ram().mapping().divide()?)
    }

    /// The first vCPU's thread gets up as soon as `herald` announces the start.
    pub fn expect(&self, herald: Herald) -> Result<(), MachineError> {
        self.machine.set_herald(herald)
    }

    /// Forgets how long its making took: it was made before anybody asked.
    pub fn made_ahead(&mut self) {
        self.machine.amend_ladder(|ladder| {
            let strategy = std::mem::take(&mut ladder.strategy);
            *ladder = Ladder { strategy, ..Ladder::default() };
        });
    }

    /// Starts it, and waits for its first instruction.
    pub fn start(self, options: StartOptions) -> Result<Machine, MachineError> {
        let state = &self.origin.state;
        start(self.machine, state, self.restored, options)
    }
}

/// Gives `machine` its state, but for what was `restored` already, lets it run, and waits until
/// it has shown itself.
pub(super) fn start(
    machine: Machine,
    state: &MachineState,
    restored: bool,
    options: StartOptions,
) -> Result<Machine, MachineError> {
    let StartOptions { clock, requested, identity, wait } = options;
    let begun = Instant::now();
    match restored {
        true => machine.restore_time(state, clock)?,
        false => machine.restore(state, clock)?,
    }
    let done = Instant::now();
    machine.amend_ladder(|ladder| {
        // What it was not made for since it was asked for, it waited.
        let made: Duration = ladder.steps().iter().filter_map(|step| step.1).sum();
        ladder.queue = begun.saturating_duration_since(requested).saturating_sub(made);
        ladder.restore += done - begun;
    });
    machine.debut(requested, wait)?;
    if machine.is_linux() {
        machine.adopt(&identity)?;
        machine.amend_ladder(|ladder| ladder.ready = Some(requested.elapsed()));
    }
    Ok(machine)
}

/// Puts a clone together, all but its state; its threads wait.
pub(super) fn assemble(
    host: &Arc<KvmHost>,
    shell: Shell,
    ram: GuestRam,
    state: &MachineState,
    origin: Option<Snapshot>,
    console: ConsoleSink,
    ladder: Ladder,
) -> Result<Machine, MachineError> {
    let board = Board::for_state(&shell.vm, console, ram.access(), &state.board)?;
    let gate = Gate::new(state.vcpus.iter().map(|vcpu| vcpu.idle));
    let tsc_khz = state.vcpus[0].state.tsc_khz;
    let parts = MachineParts { shell, ram, board, gate, origin, tsc_khz };
    parts.assemble(host, ladder)
}

/// Number of vCPUs of a saved machine.
pub(super) fn vcpu_count(state: &MachineState) -> Result<u8, MachineError> {
    u8::try_from(state.vcpus.len())
        .ok()
        .filter(|&vcpus| vcpus > 0)
        .ok_or_else(|| MachineError::Snapshot(format!("{} vCPUs", state.vcpus.len())))
}

/// Makes a shell around `ram`.
pub(crate) fn shell_for(
    host: &KvmHost,
    ram: &GuestRam,
    vcpus: u8,
    pit: bool,
    ladder: &mut Ladder,
) -> Result<Shell, MachineError> {
    let begun = Instant::now();
    let shell = Shell::new(host, &ShellConfig { vcpus, slots: Slot::of(ram), pit })?;
    ladder.memslot = shell.memslot_time;
    ladder.shell = begun.elapsed() - shell.memslot_time;
    Ok(shell)
}

/// Does `work` and adds its time to `step`.
pub(crate) fn timed<T>(step: &mut Duration, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = work();
    *step += begun.elapsed();
    result
}
