//! The complete state of vCPUs and VM: taken after the vCPUs parked, given to a shell.
//!
//! Order matters, both ways (KVM API, chapter 4; QEMU and Firecracker agree): reading
//! the multiprocessing state can deliver pending INITs, so it goes first, and pending
//! events last; setting the local APIC needs its base from the special registers, and
//! its timer's deadline needs the APIC and the TSC.

use kvm_bindings::{
    KVM_CLOCK_REALTIME, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    kvm_clock_data, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry,
    kvm_pit_state2, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use std::time::SystemTime;

use kvm_ioctls::{VcpuFd, VmFd};
use serde::{Deserialize, Serialize};

use super::{KvmError, failed, msr};

/// Everything that a vCPU is.
#[derive(Debug, Serialize, Deserialize)]
pub struct VcpuState {
    /// Multiprocessing state.
    pub mp_state: kvm_mp_state,
    /// General registers.
    pub regs: kvm_regs,
    /// Special registers.
    pub sregs: kvm_sregs,
    /// FPU and vector registers.
    pub xsave: Box<kvm_xsave>,
    /// Extended control registers, where the CPU has XSAVE.
    pub xcrs: Option<kvm_xcrs>,
    /// Debug registers.
    pub debug_regs: kvm_debugregs,
    /// Local APIC.
    pub lapic: Box<kvm_lapic_state>,
    /// Frequency of its TSC, kHz.
    pub tsc_khz: u32,
    /// Model-specific registers.
    pub msrs: Vec<kvm_msr_entry>,
    /// Pending exceptions, interrupts, NMIs and SMIs.
    pub events: kvm_vcpu_events,
}

impl VcpuState {
    /// Reads the state of vCPU `number`, which must not run; `msrs` are to be saved.
    pub fn capture(vcpu: &VcpuFd, number: usize, msrs: &[u32]) -> Result<Self, KvmError> {
        let on = format!(" on vCPU {number}");
        Ok(Self {
            mp_state: vcpu.get_mp_state().map_err(failed("KVM_GET_MP_STATE", &on))?,
            regs: vcpu.get_regs().map_err(failed("KVM_GET_REGS", &on))?,
            sregs: vcpu.get_sregs().map_err(failed("KVM_GET_SREGS", &on))?,
            xsave: Box::new(vcpu.get_xsave().map_err(failed("KVM_GET_XSAVE", &on))?),
            xcrs: xcrs(vcpu, &on)?,
            debug_regs: vcpu.get_debug_regs().map_err(failed("KVM_GET_DEBUGREGS", &on))?,
            lapic: Box::new(vcpu.get_lapic().map_err(failed("KVM_GET_LAPIC", &on))?),
            tsc_khz: vcpu.get_tsc_khz().map_err(failed("KVM_GET_TSC_KHZ", &on))?,
            msrs: msr::get(vcpu, number, msrs)?,
            events: vcpu.get_vcpu_events().map_err(failed("KVM_GET_VCPU_EVENTS", &on))?,
        })
    }

    /// Gives the state to vCPU `number`, which must not run.
    pub fn restore(&self, vcpu: &VcpuFd, number: usize) -> Result<(), KvmError> {
        let on = format!(" on vCPU {number}");
        let own_khz = vcpu.get_tsc_khz().map_err(failed("KVM_GET_TSC_KHZ", &on))?;
        if own_khz != self.tsc_khz {
            let on = format!(" to {} on vCPU {number} of a {own_khz} kHz host", self.tsc_khz);
            vcpu.set_tsc_khz(self.tsc_khz).map_err(failed("KVM_SET_TSC_KHZ", on))?;
        }
        vcpu.set_mp_state(self.mp_state).map_err(failed("KVM_SET_MP_STATE", &on))?;
        vcpu.set_regs(&self.regs).map_err(failed("KVM_SET_REGS", &on))?;
        vcpu.set_sregs(&self.sregs).map_err(failed("KVM_SET_SREGS", &on))?;
        // SAFETY: the buffer has the 4096 bytes that KVM_SET_XSAVE reads at most as long
        // as no larger state was enabled by arch_prctl(2), which tine never does.
        unsafe { vcpu.set_xsave(&self.xsave) }.map_err(failed("KVM_SET_XSAVE", &on))?;
        if let Some(xcrs) = &self.xcrs {
            vcpu.set_xcrs(xcrs).map_err(failed("KVM_SET_XCRS", &on))?;
        }
        vcpu.set_debug_regs(&self.debug_regs).map_err(failed("KVM_SET_DEBUGREGS", &on))?;
        vcpu.set_lapic(&self.lapic).map_err(failed("KVM_SET_LAPIC", &on))?;
        msr::set(vcpu, number, &self.msrs)?;
        vcpu.set_vcpu_events(&self.events).map_err(failed("KVM_SET_VCPU_EVENTS", &on))
    }
}

impl VcpuState {
    /// Whether the local APIC's timer runs: it does so, too, while a vCPU waits to be started.
    pub fn has_timer(&self) -> bool {
        /// The timer's initial count (SDM 3A, table 12-1).
        const INITIAL_COUNT: usize = 0x380;
        let count = &self.lapic.regs[INITIAL_COUNT..INITIAL_COUNT + 4];
        let deadline = |msr: &kvm_msr_entry| msr.index == msr::TSC_DEADLINE && msr.data != 0;
        count.iter().any(|&byte| byte != 0) || self.msrs.iter().any(deadline)
    }

    /// Sets back the time-stamp counter of vCPU `number`, which has the rest of the state and has
    /// not run since.
    pub fn restore_tsc(&self, vcpu: &VcpuFd, number: usize) -> Result<(), KvmError> {
        let tsc: Vec<_> = self.msrs.iter().filter(|msr| msr.index == msr::TSC).copied().collect();
        msr::set(vcpu, number, &tsc)
    }
}

fn realtime_ns() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

fn xcrs(vcpu: &VcpuFd, on: &str) -> Result<Option<kvm_xcrs>, KvmError> {
    let xcrs = vcpu.get_xcrs().map_err(failed("KVM_GET_XCRS", on))?;
    // KVM tells of none where the CPU has no XSAVE, and takes none there.
    Ok(Some(xcrs).filter(|xcrs| xcrs.nr_xcrs > 0))
}

/// What the clock of a clone shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClockPolicy {
    /// The time that has passed since the snapshot is added, where the host can do that.
    #[default]
    CatchUp,
    /// It goes on from where the snapshot left it.
    Continue,
}

/// Everything that belongs to the VM rather than to a vCPU.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VmState {
    /// The paravirtual clock, with the host's real time at the same moment where KVM knows it.
    pub clock: kvm_clock_data,
    /// The host's real time, nanoseconds since 1970, as this process saw it.
    pub realtime_ns: u64,
    /// Both PICs and the IOAPIC.
    pub irqchips: Vec<kvm_irqchip>,
    /// The PIT of machines that have one.
    pub pit: Option<kvm_pit_state2>,
}

const IRQCHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];

impl VmState {
    /// Reads the state of `vm`, no vCPU of which runs.
    pub fn capture(vm: &VmFd, pit: bool) -> Result<Self, KvmError> {
        let mut irqchips = Vec::with_capacity(IRQCHIPS.len());
        for chip_id in IRQCHIPS {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            vm.get_irqchip(&mut chip)
                .map_err(failed("KVM_GET_IRQCHIP", format!(" of chip {chip_id}")))?;
            irqchips.push(chip);
        }
        let pit = match pit {
            true => Some(vm.get_pit2().map_err(failed("KVM_GET_PIT2", ""))?),
            false => None,
        };
        let clock = vm.get_clock().map_err(failed("KVM_GET_CLOCK", ""))?;
        Ok(Self { clock, realtime_ns: realtime_ns(), irqchips, pit })
    }

    /// Gives the state to `vm`, before its vCPUs get theirs.
    pub fn restore(&self, vm: &VmFd, policy: ClockPolicy) -> Result<(), KvmError> {
        if self.irqchips.len() != IRQCHIPS.len() {
            return Err(KvmError::Shape {
                what: "interrupt chips",
                found: self.irqchips.len(),
                expected: IRQCHIPS.len(),
            });
        }
        for chip in &self.irqchips {
            vm.set_irqchip(chip)
                .map_err(failed("KVM_SET_IRQCHIP", format!(" of chip {}", chip.chip_id)))?;
        }
        if let Some(pit) = &self.pit {
            vm.set_pit2(pit).map_err(failed("KVM_SET_PIT2", ""))?;
        }
        self.restore_clock(vm, policy)
    }

    /// Gives `vm` its clock alone.
    pub fn restore_clock(&self, vm: &VmFd, policy: ClockPolicy) -> Result<(), KvmError> {
        let mut clock = self.clock;
        // The other flags are KVM's answers, and refused as questions.
        clock.flags &= match policy {
            ClockPolicy::CatchUp => KVM_CLOCK_REALTIME,
            ClockPolicy::Continue => 0,
        };
        if policy == ClockPolicy::CatchUp && clock.flags & KVM_CLOCK_REALTIME == 0 {
            // A host whose clock is not its TSC can't do it itself, nor as exactly.
            clock.clock =
                clock.clock.saturating_add(realtime_ns().saturating_sub(self.realtime_ns));
        }
        vm.set_clock(&clock).map_err(failed("KVM_SET_CLOCK", ""))
    }
}
