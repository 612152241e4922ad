//! Machines from nothing and from snapshots.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tine_abi::layout::RAM_BASE;

use super::Ladder;
use crate::boot::embedded;
use crate::devices::ConsoleSink;
use crate::devices::serial::{SerialConsole, SerialState};
use crate::kvm::{ClockPolicy, KvmHost, Shell, ShellConfig, Slot, failed};
use crate::machine::{
    Gate, Machine, MachineConfig, MachineError, MachineParts, MemoryMode, SpawnOptions,
};
use crate::memory::{GuestRam, MemoryImage};
use crate::snapshot::{MachineState, Snapshot};

/// How long a guest may take to boot.
const BOOT_LIMIT: Duration = Duration::from_secs(30);

impl Machine {
    /// Boots the embedded workload, and waits until all its vCPUs wait for commands.
    pub fn boot(
        host: &Arc<KvmHost>,
        config: &MachineConfig,
        console: ConsoleSink,
    ) -> Result<Self, MachineError> {
        let requested = Instant::now();
        let MachineConfig { ram_bytes, vcpus, image } = *config;
        embedded::check(ram_bytes, vcpus)?;
        let mut ladder = Ladder { strategy: "boot", ..Ladder::default() };
        let image = MemoryImage::create(ram_bytes, image)?;
        let ram = timed(&mut ladder.map, || GuestRam::boot(image, RAM_BASE))?;
        let shell = shell_for(host, &ram, vcpus, false, &mut ladder)?;

        let begun = Instant::now();
        let tsc_khz = shell.vcpus[0].get_tsc_khz().map_err(failed("KVM_GET_TSC_KHZ", ""))?;
        let program = tine_workload::ELF;
        let start = embedded::load(ram.memory(), program, ram_bytes, vcpus, tsc_khz)?;
        for (vcpu, index) in shell.vcpus.iter().zip(0..) {
            start.set(vcpu, index)?;
        }
        ladder.restore = begun.elapsed();

        let gate = Gate::new(vec![false; usize::from(vcpus)], requested);
        let serial = SerialConsole::new(Arc::clone(&shell.vm), console);
        let parts = MachineParts { shell, ram, serial, gate, origin: None, tsc_khz };
        let machine = parts.start(host, ladder)?;
        machine.settle(BOOT_LIMIT)?;
        Ok(machine)
    }

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
                Ok((GuestRam::copy_on_write(&snapshot.image, state.ram_base)?, "cow"))
            }
            MemoryMode::Eager => GuestRam::eager(&snapshot.image, state.ram_base)
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
    let serial = restored_serial(&shell, options.console, &state.serial)?;
    ladder.restore = begun.elapsed();
    let idle = state.vcpus.iter().map(|vcpu| vcpu.idle);
    let gate = Gate::new(idle, options.requested);
    // An idle guest shows that it runs by looking at its mailbox and going idle again.
    gate.wake_all();
    let tsc_khz = state.vcpus[0].state.tsc_khz;
    let parts = MachineParts { shell, ram, serial, gate, origin, tsc_khz };
    let machine = parts.start(host, ladder)?;
    machine.wait_first_instruction(options.wait)?;
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
pub(super) fn shell_for(
    host: &KvmHost,
    ram: &GuestRam,
    vcpus: u8,
    pit: bool,
    ladder: &mut Ladder,
) -> Result<Shell, MachineError> {
    let begun = Instant::now();
    let slot = Slot {
        guest_address: ram.base(),
        host_address: ram.mapping().address() as u64,
        bytes: ram.mapping().bytes() as u64,
    };
    let shell = Shell::new(host, &ShellConfig { vcpus, slots: vec![slot], pit })?;
    ladder.memslot = shell.memslot_time;
    ladder.shell = begun.elapsed() - shell.memslot_time;
    Ok(shell)
}

fn restore_into(
    shell: &Shell,
    state: &MachineState,
    clock: ClockPolicy,
) -> Result<(), MachineError> {
    state.vm.restore(&shell.vm, clock)?;
    for (index, (vcpu, record)) in shell.vcpus.iter().zip(&state.vcpus).enumerate() {
        record.state.restore(vcpu, index)?;
    }
    Ok(())
}

fn restored_serial(
    shell: &Shell,
    console: ConsoleSink,
    state: &SerialState,
) -> Result<SerialConsole, MachineError> {
    Ok(SerialConsole::restored(Arc::clone(&shell.vm), console, state)?)
}

/// Does `work` and adds its time to `step`.
pub(super) fn timed<T>(step: &mut Duration, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = work();
    *step += begun.elapsed();
    result
}
