//! Which KVM tests run on.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::path::Path;

use anyhow::{Context, Result};

/// A usable KVM.
pub struct Kvm {
    /// Its modules, as /sys/module has them.
    pub backend: String,
    kernel: String,
}

impl Kvm {
    /// The KVM of this host; an error that says what is wrong where there is none.
    pub fn find() -> Result<Self> {
        OpenOptions::new().read(true).write(true).open("/dev/kvm").context(
            "the tests run real guests and need /dev/kvm, readable and writable, which this \
             host does not give; for Linux guests alone, `cargo xtask vhost` stands in",
        )?;
        let loaded = ["kvm_intel", "kvm_amd", "kvm_pvm"]
            .into_iter()
            .filter(|module| Path::new("/sys/module").join(module).exists());
        let loaded = loaded.collect::<Vec<_>>().join(", ");
        let backend = if loaded.is_empty() { "unknown backend".to_owned() } else { loaded };
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")
            .context("the kernel's release can't be read")?;
        Ok(Self { backend, kernel: kernel.trim().to_owned() })
    }
}

impl Kvm {
    /// Whether a Linux kernel runs in its guests: not where their ring 0 is emulated.
    pub fn runs_linux(&self) -> bool {
        self.backend != "kvm_pvm"
    }
}

impl fmt::Display for Kvm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel {}, /dev/kvm by {}", self.kernel, self.backend)
    }
}
