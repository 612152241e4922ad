//! `xtask hold-kvm`: holds a virtual machine that never runs; see `vhost/init.rs` for why.

use std::process::ExitCode;

use anyhow::{Context, Result};
use kvm_ioctls::Kvm;

/// Makes it, says so by a file, and waits until it is killed.
pub fn run() -> Result<ExitCode> {
    let kvm = Kvm::new().context("/dev/kvm can't be opened")?;
    let vm = kvm.create_vm().context("KVM_CREATE_VM")?;
    vm.create_irq_chip().context("KVM_CREATE_IRQCHIP")?;
    let _vcpu = vm.create_vcpu(0).context("KVM_CREATE_VCPU")?;
    std::fs::write("/run/kvm-held", "").context("/run/kvm-held can't be written")?;
    loop {
        std::thread::park();
    }
}
