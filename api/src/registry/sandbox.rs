//! A sandbox and what is known of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use tine_cell::{CellLimits, Origin};
use tine_vmm::Status;

use super::hot_sets::Watched;
use crate::console::ConsoleBuffer;
use crate::engine::Vm;
use crate::model::{LadderAnswer, Limited, Memory, SandboxAnswer};
use crate::time::rfc3339;

/// A sandbox and what is known of it.
#[derive(Debug)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// The microVM.
    pub vm: Vm,
    /// Whether its hot set is wanted.
    pub(super) watched: Option<Watched>,
    /// What it may take of the host.
    pub(super) limits: CellLimits,
    /// Where its cell came from.
    pub(super) cell: Option<Origin>,
    /// What it printed.
    pub console: ConsoleBuffer,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    pub(super) number: u64,
    /// Size of its RAM, asked once: the machine may be busy when the sum is taken.
    pub(super) ram_bytes: u64,
    pub(super) image: String,
    pub(super) parent: Option<String>,
    pub(super) snapshot: Option<String>,
    pub(super) memory: Memory,
    pub(super) created: SystemTime,
    pub(super) lifetime: Option<Duration>,
    pub(super) expires: Option<Instant>,
}

impl Sandbox {
    /// What the API says of it.
    pub fn describe(&self) -> SandboxAnswer {
        let (state, reason) = match self.vm.status() {
            Status::Running => ("running", None),
            Status::Paused => ("paused", None),
            Status::Failed(reason) => ("failed", Some(reason)),
            Status::Ended(end) => ("ended", Some(format!("the guest {end}"))),
            Status::Killed => ("killed", None),
        };
        SandboxAnswer {
            id: self.id.clone(),
            state,
            reason,
            busy: self.vm.busy(),
            parent: self.parent.clone(),
            snapshot: self.snapshot.clone(),
            image: self.image.clone(),
            vcpus: self.vm.vcpus(),
            memory_mib: self.ram_bytes >> 20,
            memory: self.memory,
            limits: Limited::of(self.limits),
            labels: self.labels.clone(),
            created_at: rfc3339(self.created),
            expires_at: self.lifetime.map(|lifetime| rfc3339(self.created + lifetime)),
            pid: self.vm.pid(),
            ladder: LadderAnswer::new(&self.vm.ladder(), self.cell),
        }
    }

    /// Whether it has all of `labels`.
    pub(super) fn has(&self, labels: &[(String, String)]) -> bool {
        labels.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }

    /// Whether its time is up.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Whether it could still do something.
    pub(super) fn is_alive(&self) -> bool {
        matches!(self.vm.status(), Status::Running | Status::Paused)
    }
}
