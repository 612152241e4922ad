//! Machines from snapshots.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Ladder;
use crate::devices::Board;
use crate::kvm::{ClockPolicy, KvmHost, Shell, ShellConfig, Slot};
use crate::machine::{Gate, Machine, MachineError, MachineParts, MemoryMode, SpawnOptions};
use crate::memory::GuestRam;
use crate::snapshot::{MachineState, Snapshot};

impl Machine {
    /// Spawns a clone of `snapshot`, and waits for its first instruction.
    pub fn spawn(
        host: &Arc<KvmHost>,
        snapshot: &Snapshot,
        options: SpawnOptions,
    ) -> Result<Self, MachineError> {
        let mut ladder = Ladder { queue: options.requested.elapsed(), ..Ladder::default() };
        let state = &snapshot.state;
        let ram = timed(&mut ladder.map, || match options.memory {
            MemoryMode::Cow => {
                Ok((GuestRam::copy_on_write(&snapshot.image, state.ram.clone())?, "cow"))
            }
            MemoryMode::Eager => GuestRam::eager(&snapshot.image, state.ram.clone())
                .map(|(ram, report)| (ram, report.strategy())),
        });
        let (ram, strategy) = ram?;
        ladder.strategy = strategy;
        let shell = shell_for(host, &ram, vcpu_count(state)?, state.vm.pit.is_some(), &mut ladder)?;
        if let Some(hot_set) = snapshot.hot_set.as_ref().filter(|_| options.hot_set) {
            timed(&mut ladder.hot_set, || ram.apply_hot_set(hot_set))?;
        }
        finish(host, shell, ram, state, Some(snapshot.clone()), options, ladder)
    }
}

/// Gives `state` to `shell` and starts it.
pub(super) fn finish(
    host: &Arc<KvmHost>,
    shell: Shell,
    ram: GuestRam,
    state: &MachineState,
    origin: Option<Snapshot>,
    options: SpawnOptions,
    mut ladder: Ladder,
) -> Result<Machine, MachineError> {
    let begun = Instant::now();
    restore_into(&shell, state, options.clock)?;
    let board = Board::restored(&shell.vm, options.console, ram.access(), &state.board)?;
    ladder.restore = begun.elapsed();
    let idle = state.vcpus.iter().map(|vcpu| vcpu.idle);
    let gate = Gate::new(idle, options.requested);
    // An idle guest shows that it runs by looking at its mailbox and going idle again.
    gate.wake_all();
    let tsc_khz = state.vcpus[0].state.tsc_khz;
    let parts = MachineParts { shell, ram, board, gate, origin, tsc_khz };
    let machine = parts.start(host, ladder)?;
    machine.wait_first_instruction(options.wait)?;
    if state.board.is_linux() {
        machine.adopt(&options.identity)?;
        machine.amend_ladder(|ladder| ladder.ready = Some(options.requested.elapsed()));
    }
    Ok(machine)
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

fn restore_into(
    shell: &Shell,
    state: &MachineState,
    clock: ClockPolicy,
) -> Result<(), MachineError> {
    state.vm.restore(&shell.vm, state.clock(clock))?;
    for (index, (vcpu, record)) in shell.vcpus.iter().zip(&state.vcpus).enumerate() {
        record.state.restore(vcpu, index)?;
    }
    Ok(())
}

/// Does `work` and adds its time to `step`.
pub(crate) fn timed<T>(step: &mut Duration, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = work();
    *step += begun.elapsed();
    result
}
