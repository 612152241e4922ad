//! KVM: the host's offer, the shell of a virtual machine, and all of its state.

pub mod backend;
pub mod cpuid;
pub mod host;
pub mod msr;
pub mod shell;
pub mod state;
pub mod stats;

pub use backend::{Backend, Ring0};
pub use host::KvmHost;
pub use shell::{Shell, ShellConfig, Slot};
pub use state::{ClockPolicy, VcpuState, VmState};

use thiserror::Error;

/// What can go wrong with KVM itself.
#[derive(Debug, Error)]
pub enum KvmError {
    /// /dev/kvm can't be used.
    #[error("/dev/kvm can't be opened; is KVM loaded, and may this user read and write it?")]
    Open(#[source] kvm_ioctls::Error),
    /// KVM speaks another version of its interface.
    #[error("KVM has API version {0}; tine needs 12")]
    ApiVersion(i32),
    /// KVM lacks something that tine needs.
    #[error("this KVM does not offer {0}, which tine needs")]
    Missing(&'static str),
    /// A system call on a KVM descriptor failed.
    #[error("{call} failed{on}")]
    Call {
        /// Name of the ioctl or system call.
        call: &'static str,
        /// On what, with a leading blank; may be empty.
        on: String,
        /// What KVM said.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// A model-specific register of a saved state was refused.
    #[error("KVM_SET_MSRS refused MSR {index:#x} with value {value:#x} on vCPU {vcpu}")]
    MsrRefused {
        /// The register.
        index: u32,
        /// The value.
        value: u64,
        /// The vCPU.
        vcpu: usize,
    },
    /// A saved state has another number of vCPUs, or too many of something.
    #[error("a saved state with {found} {what} does not fit: {expected} expected")]
    Shape {
        /// Of what.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
}

/// Makes an error of `call` on `on` from what KVM said.
pub(crate) fn failed(
    call: &'static str,
    on: impl std::fmt::Display,
) -> impl FnOnce(kvm_ioctls::Error) -> KvmError {
    let on = on.to_string();
    move |source| KvmError::Call { call, on, source }
}
