//! What is done to a machine as a whole: pause, resume, kill, reset, and parking it
//! while its state is taken.

use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Identity;
use super::gate::Want;
use super::{Machine, MachineError, Status};
use crate::fork::Ladder;
use crate::kvm::cpuid;
use crate::kvm::stats::KvmCounters;
use crate::kvm::{ClockPolicy, VcpuState, VmState};
use crate::memory::{HotSet, Ledger};
use crate::snapshot::{MachineState, VcpuRecord};

/// How long a vCPU may take to get out of the guest.
const PARK_LIMIT: Duration = Duration::from_secs(10);

/// Held by whoever changes the machine as a whole.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// Whether somebody wants the machine to stand still.
    pub(super) paused: bool,
}

/// A machine whose vCPUs are parked. It goes on when this is dropped, on every path,
/// unless it was paused before.
pub(crate) struct Parked<'a> {
    machine: &'a Machine,
    control: MutexGuard<'a, Control>,
    since: Instant,
}

impl Parked<'_> {
    /// Since when it has stood still.
    pub(crate) fn since(&self) -> Duration {
        self.since.elapsed()
    }

    /// Lets the machine go on. Returns how long it stood still.
    pub(crate) fn release(self) -> Duration {
        let since = self.since;
        drop(self);
        since.elapsed()
    }

    /// Reads the state of vCPUs, VM and devices.
    pub(crate) fn capture(&self) -> Result<MachineState, MachineError> {
        let machine = self.machine;
        let msrs = &machine.host.msrs().state;
        let mut vcpus = Vec::with_capacity(machine.vcpus.len());
        for (vcpu, idle) in machine.vcpus.iter().zip(machine.gate.idle_flags()) {
            let state = VcpuState::capture(&vcpu.fd(), vcpu.index(), msrs)?;
            vcpus.push(VcpuRecord { idle, state });
        }
        Ok(MachineState {
            ram: machine.ram().layout().clone(),
            cpuid: cpuid::leaves(machine.host.cpuid()),
            vm: VmState::capture(&machine.vm, machine.pit)?,
            vcpus,
            board: machine.board.state(),
        })
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        if !self.control.paused {
            self.machine.gate.want(Want::Run);
        }
    }
}

impl Machine {
    pub(super) fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for whoever changes the machine, and parks its vCPUs.
    pub(crate) fn park(&self) -> Result<Parked<'_>, MachineError> {
        let control = self.control();
        self.alive()?;
        let since = Instant::now();
        let parked = Parked { machine: self, control, since };
        self.stop_vcpus(Want::Pause)?;
        // A vCPU that failed meanwhile leaves nothing worth saving.
        self.alive()?;
        Ok(parked)
    }

    fn stop_vcpus(&self, want: Want) -> Result<(), MachineError> {
        self.gate.want(want);
        for index in self.gate.running() {
            self.vcpus[index].kick();
        }
        self.gate
            .wait_quiet(PARK_LIMIT)
            .map_err(|who| MachineError::Park { who, limit: PARK_LIMIT })
    }

    /// An error when the machine has failed or was killed.
    pub(super) fn alive(&self) -> Result<(), MachineError> {
        match self.status() {
            Status::Running | Status::Paused => Ok(()),
            Status::Failed(reason) => Err(MachineError::Failed(reason)),
            Status::Ended(end) => Err(MachineError::Ended(end)),
            Status::Killed => Err(MachineError::Killed),
        }
    }

    /// Parks the vCPUs until [`resume`](Self::resume). Does nothing to a paused machine.
    pub fn pause(&self) -> Result<(), MachineError> {
        let mut parked = self.park()?;
        parked.control.paused = true;
        Ok(())
    }

    /// Lets a paused machine go on. Does nothing to a running one.
    pub fn resume(&self) -> Result<(), MachineError> {
        let mut control = self.control();
        self.alive()?;
        control.paused = false;
        self.gate.want(Want::Run);
        Ok(())
    }

    /// Stops the vCPUs for good. What waits for commands is told so. Memory and VM go
    /// when the value does. Does nothing to a killed machine.
    pub fn kill(&self) {
        let _control = self.control();
        self.gate.want(Want::Stop);
        for vcpu in &self.vcpus {
            vcpu.kick();
        }
        for vcpu in &self.vcpus {
            vcpu.join();
        }
        if let Some(devices) = &self.device_thread {
            devices.join();
        }
    }

    /// Puts the machine back to the state it was spawned from, in the same VM: private
    /// pages are dropped, and state is restored. Returns the ladder of it.
    pub fn reset(&self) -> Result<Ladder, MachineError> {
        let requested = Instant::now();
        let origin = self.origin.as_ref().ok_or(MachineError::NoOrigin)?;
        let parked = self.park()?;
        let mut ladder = Ladder { strategy: "reset".into(), ..Ladder::default() };
        ladder.queue = requested.elapsed();
        let begun = Instant::now();
        let result = self.ram().reset();
        let mapped = Instant::now();
        ladder.map = mapped - begun;
        let result = result.map_err(MachineError::from).and_then(|()| {
            self.board.replace_devices(&origin.state.board)?;
            self.restore(&origin.state, ClockPolicy::CatchUp)
        });
        if let Err(error) = result {
            // Neither the old state nor the new one: it must not run on.
            self.gate.fail(format!("reset failed: {error}"));
            return Err(error);
        }
        ladder.restore = mapped.elapsed();
        self.gate.rebirth(origin.state.vcpus.iter().map(|vcpu| vcpu.idle));
        ladder.total = Some(requested.elapsed());
        drop(parked);
        if self.board.is_linux() {
            self.adopt(&Identity::default())?;
            ladder.ready = Some(requested.elapsed());
        }
        Ok(ladder)
    }

    /// Gives it a saved state, all but memory; it stands still.
    pub(crate) fn restore(
        &self,
        state: &MachineState,
        clock: ClockPolicy,
    ) -> Result<(), MachineError> {
        state.vm.restore(&self.vm, state.clock(clock))?;
        for (vcpu, record) in self.vcpus.iter().zip(&state.vcpus) {
            record.state.restore(&vcpu.fd(), vcpu.index())?;
        }
        Ok(self.board.go_on(&state.board)?)
    }

    /// Sets back the time of a machine that has the rest of a saved state, and has not run since.
    pub(crate) fn restore_time(
        &self,
        state: &MachineState,
        clock: ClockPolicy,
    ) -> Result<(), MachineError> {
        state.vm.restore_clock(&self.vm, state.clock(clock))?;
        for (vcpu, record) in self.vcpus.iter().zip(&state.vcpus) {
            record.state.restore_tsc(&vcpu.fd(), vcpu.index())?;
        }
        Ok(())
    }

    /// The memory account. Exact only while the guest stands still or waits.
    pub fn ledger(&self) -> Result<Ledger, MachineError> {
        Ok(self.ram().ledger()?)
    }

    /// What KVM counted so far. Waits for a running vCPU's next exit by kicking it.
    pub fn counters(&self) -> Result<KvmCounters, MachineError> {
        let parked = self.park()?;
        let fds: Vec<_> = self.vcpus.iter().map(|vcpu| vcpu.fd()).collect();
        let counters = KvmCounters::read(fds.iter().map(|fd| &**fd));
        drop(fds);
        drop(parked);
        counters.map_err(MachineError::Counters)
    }

    /// The pages that this machine has used: what a clone of the same snapshot will likely use
    /// too. Those that were only read are among them if it was spawned to be
    /// [watched](crate::fork::Prepared::watch).
    pub fn hot_set(&self) -> Result<HotSet, MachineError> {
        Ok(self.ram().used()?)
    }

    /// How many pages this machine has of its own now.
    pub fn dirty_pages(&self) -> Result<u64, MachineError> {
        Ok(self.ram().dirty()?.pages())
    }

    /// Copies guest memory from byte `at` of RAM. For a consistent copy, pause first.
    ///
    /// # Panics
    /// When it lies outside of RAM.
    pub fn read_memory(&self, at: usize, target: &mut [u8]) {
        self.ram().mapping().read(at, target);
    }
}
