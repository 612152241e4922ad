//! One microVM, from guest bytes to running vCPUs, and its copy-on-write forks.
//!
//! ```no_run
//! use std::sync::Arc;
//! use std::time::Duration;
//! use tine_abi::command::{Command, Op};
//! use tine_abi::pattern::Selection;
//! use tine_vmm::{KvmHost, End, Machine, MachineConfig, SpawnOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let host = Arc::new(KvmHost::open()?);
//! let parent = Machine::boot(&host, &MachineConfig::default(), Box::new(std::io::stdout()))?;
//! let limit = Duration::from_secs(10);
//! let dirty = Command::new(Op::Dirty, Selection::sequential(0, 1000)).seed(42);
//! parent.run(0, &dirty, limit)?;
//!
//! // A child with all that the parent had, while the parent goes on.
//! let mut children = parent.fork(vec![SpawnOptions::new()])?;
//! let child = children.remove(0)?;
//! println!("{:?}", child.ladder());
//! # Ok(())
//! # }
//! ```

#![warn(missing_docs)]
// Tests may stop at what surprises them.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod boot;
pub mod devices;
pub mod fork;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod snapshot;

pub use fork::Ladder;
pub use kvm::KvmHost;
pub use machine::{
    Agent, End, Herald, Identity, LinuxConfig, Machine, MachineConfig, MachineError, MemoryMode,
    SpawnOptions, Status, Ticket,
};
pub use snapshot::Snapshot;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks; a panic of another holder does not spread: what the locks here protect is
/// valid between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
