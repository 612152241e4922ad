//! CPU features: what a guest is offered, and whether a host can serve a snapshot.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};
use serde::{Deserialize, Serialize};

/// KVM's leaf of paravirtual features (Linux Documentation/virt/kvm/x86/cpuid.rst).
const KVM_FEATURES: u32 = 0x4000_0001;
/// Features in it that keep no host address and need no help from the host side:
/// clock source (old and new registers), no I/O delay, stable clock.
const KVM_FEATURES_OFFERED: u32 = 1 | 1 << 1 | 1 << 3 | 1 << 24;
/// AMX in leaf 7 (bits 22, 24 and 25 of EDX): its state needs a permission per process.
const AMX: u32 = 1 << 22 | 1 << 24 | 1 << 25;
/// XTILE components of leaf 0xd.
const XTILE: u32 = 0b11 << 17;

/// The local APIC's deadline timer, in leaf 1, ECX. KVM's list never has it, since only an
/// in-kernel APIC can do it (KVM API 4.46), which all guests of tine have.
const TSC_DEADLINE: u32 = 1 << 24;

/// In leaf 1, ECX: there is a hypervisor, so leaf 0x40000000 is worth a look. Not in KVM's
/// list either.
const HYPERVISOR: u32 = 1 << 31;

/// What guests are offered of what KVM supports; `tsc_deadline` is whether its APIC has a
/// deadline timer.
pub fn offered(supported: &CpuId, tsc_deadline: bool) -> CpuId {
    let mut cpuid = supported.clone();
    for entry in cpuid.as_mut_slice() {
        match (entry.function, entry.index) {
            (1, _) if tsc_deadline => entry.ecx |= HYPERVISOR | TSC_DEADLINE,
            (1, _) => entry.ecx |= HYPERVISOR,
            (KVM_FEATURES, _) => entry.eax &= KVM_FEATURES_OFFERED,
            (7, 0) => entry.edx &= !AMX,
            (0xd, 0) => entry.eax &= !XTILE,
            (0xd, 17 | 18) | (0x1d | 0x1e, _) => {
                (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
            }
            _ => {}
        }
    }
    cpuid
}

/// The features for one vCPU: they hold its APIC id.
pub fn for_vcpu(offered: &CpuId, vcpu: u8, vcpus: u8) -> CpuId {
    let mut cpuid = offered.clone();
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => {
                let siblings = u32::from(vcpus) << 16;
                entry.ebx = entry.ebx & 0x0000_ffff | u32::from(vcpu) << 24 | siblings;
            }
            0xb | 0x1f => entry.edx = u32::from(vcpu),
            0x8000_001e => entry.eax = u32::from(vcpu),
            _ => {}
        }
    }
    cpuid
}

/// One leaf of the features that a snapshot was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// EAX on entry.
    pub function: u32,
    /// ECX on entry.
    pub index: u32,
    /// EAX, EBX, ECX and EDX on return.
    pub values: [u32; 4],
}

/// The leaves of `cpuid`, to be kept with a snapshot.
pub fn leaves(cpuid: &CpuId) -> Vec<Leaf> {
    let leaf = |entry: &kvm_cpuid_entry2| Leaf {
        function: entry.function,
        index: entry.index,
        values: [entry.eax, entry.ebx, entry.ecx, entry.edx],
    };
    cpuid.as_slice().iter().map(leaf).collect()
}

/// Leaves whose registers are sets of features, each of which the guest may be using:
/// function, index and which of EAX to EDX count.
const FEATURE_SETS: [(u32, u32, [bool; 4]); 9] = [
    (1, 0, [false, false, true, true]),
    (7, 0, [false, true, true, true]),
    (7, 1, [true, true, true, true]),
    (0xd, 0, [true, false, false, false]),
    (0xd, 1, [true, false, true, false]),
    (0x14, 0, [false, true, true, false]),
    (KVM_FEATURES, 0, [true, false, false, false]),
    (0x8000_0001, 0, [false, false, true, true]),
    (0x8000_0008, 0, [false, true, false, false]),
];

/// Why a host that offers `here` can't run a snapshot made with `there`, if it can't:
/// another vendor, or a feature that is missing here.
pub fn incompatibility(there: &[Leaf], here: &[Leaf]) -> Option<String> {
    let find = |leaves: &[Leaf], function, index| {
        leaves
            .iter()
            .find(|leaf| leaf.function == function && leaf.index == index)
            .map_or([0; 4], |leaf| leaf.values)
    };
    let vendor = |leaves: &[Leaf]| {
        let [_, ebx, ecx, edx] = find(leaves, 0, 0);
        let bytes: Vec<u8> = [ebx, edx, ecx].iter().flat_map(|word| word.to_le_bytes()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (maker, own) = (vendor(there), vendor(here));
    if maker != own {
        return Some(format!("it was made on a {maker} CPU, this is a {own}"));
    }
    // OSXSAVE and OSPKE mirror bits of CR4, not features.
    const MIRRORS: [(u32, usize, u32); 2] = [(1, 2, 1 << 27), (7, 2, 1 << 4)];
    for (function, index, counted) in FEATURE_SETS {
        let (needed, offered) = (find(there, function, index), find(here, function, index));
        for register in (0..4).filter(|&register| counted[register]) {
            let mirror: u32 = MIRRORS
                .iter()
                .filter(|mirror| (mirror.0, mirror.1) == (function, register))
                .map(|mirror| mirror.2)
                .sum();
            let missing = needed[register] & !offered[register] & !mirror;
            if missing != 0 {
                let name = ["EAX", "EBX", "ECX", "EDX"][register];
                return Some(format!(
                    "it needs CPU features {missing:#x} in {name} of CPUID leaf {function:#x}.{index}, \
                     which this host lacks"
                ));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32, values: [u32; 4]) -> Leaf {
        Leaf { function, index, values }
    }

    #[test]
    fn a_host_with_more_features_serves_a_snapshot_with_fewer() {
        let fewer = [leaf(1, 0, [0, 0, 0b01, 0])];
        let more = [leaf(1, 0, [0, 0, 0b11, 0])];
        assert_eq!(incompatibility(&fewer, &more), None);
        let reason = incompatibility(&more, &fewer).unwrap();
        assert!(reason.contains("0x2 in ECX of CPUID leaf 0x1.0"), "{reason}");
    }

    #[test]
    fn another_vendor_is_refused() {
        let one = [leaf(0, 0, [0, 1, 2, 3])];
        let two = [leaf(0, 0, [0, 4, 5, 6])];
        assert!(incompatibility(&one, &two).unwrap().contains("was made on"));
    }

    #[test]
    fn mirrored_control_bits_are_no_features() {
        let there = [leaf(1, 0, [0, 0, 1 << 27, 0])];
        assert_eq!(incompatibility(&there, &[leaf(1, 0, [0; 4])]), None);
    }
}
