//! What this host's KVM offers: asked once, used for every machine.

use kvm_bindings::{CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm};

use super::msr::MsrLists;
use super::{KvmError, Shell, ShellConfig, cpuid, failed};

/// An open /dev/kvm and what it offers.
#[derive(Debug)]
pub struct KvmHost {
    kvm: Kvm,
    cpuid: CpuId,
    msrs: MsrLists,
    clock_realtime: bool,
    max_vcpus: usize,
}

impl KvmHost {
    /// Opens /dev/kvm, checks what tine needs, and finds out on a throw-away virtual
    /// machine which registers can be saved and restored.
    pub fn open() -> Result<Self, KvmError> {
        let kvm = Kvm::new().map_err(KvmError::Open)?;
        let version = kvm.get_api_version();
        if version != KVM_API_VERSION as i32 {
            return Err(KvmError::ApiVersion(version));
        }
        for (capability, name) in [
            (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
            (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
            (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
            (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
            (Cap::MpState, "KVM_CAP_MP_STATE"),
            (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
            (Cap::Debugregs, "KVM_CAP_DEBUGREGS"),
            (Cap::Xsave, "KVM_CAP_XSAVE"),
            (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK"),
            (Cap::GetTscKhz, "KVM_CAP_GET_TSC_KHZ"),
        ] {
            if !kvm.check_extension(capability) {
                return Err(KvmError::Missing(name));
            }
        }
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(failed("KVM_GET_SUPPORTED_CPUID", ""))?;
        let cpuid = cpuid::offered(&supported, kvm.check_extension(Cap::TscDeadlineTimer));
        let indices = kvm.get_msr_index_list().map_err(failed("KVM_GET_MSR_INDEX_LIST", ""))?;
        let clock_flags = kvm.check_extension_int(Cap::AdjustClock) as u32;
        let max_vcpus = kvm.get_max_vcpus();
        let mut host = Self {
            kvm,
            cpuid,
            msrs: MsrLists::default(),
            clock_realtime: clock_flags & kvm_bindings::KVM_CLOCK_REALTIME != 0,
            max_vcpus,
        };
        let probe = Shell::new(&host, &ShellConfig { vcpus: 1, slots: vec![], pit: false })?;
        host.msrs = MsrLists::probe(&probe, indices.as_slice())?;
        Ok(host)
    }

    /// The open /dev/kvm.
    pub fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    /// CPU features that guests get.
    pub fn cpuid(&self) -> &CpuId {
        &self.cpuid
    }

    /// Registers that are saved and restored.
    pub fn msrs(&self) -> &MsrLists {
        &self.msrs
    }

    /// Whether the guest's clock can be set so that it accounts for time spent in a snapshot.
    pub fn clock_realtime(&self) -> bool {
        self.clock_realtime
    }

    /// Most vCPUs of one machine.
    pub fn max_vcpus(&self) -> usize {
        self.max_vcpus
    }
}
