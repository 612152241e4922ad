//! The timed steps of one fork, from the request to the first guest instruction.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long each step took. Steps that a fork did not need are zero.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ladder {
    /// From the request to the first step: waiting for a turn.
    pub queue: Duration,
    /// VM, interrupt chips and vCPUs.
    pub shell: Duration,
    /// The memslot, whose metadata grows with guest memory.
    pub memslot: Duration,
    /// Mapping the memory; for an eager copy, making the copy.
    pub map: Duration,
    /// Copying the pages that the parent had of its own.
    pub copy: Duration,
    /// Copying pages ahead that the clone will write soon.
    pub hot_set: Duration,
    /// Giving state to vCPUs, VM and devices.
    pub restore: Duration,
    /// Starting the vCPU threads, until the first of them enters KVM.
    pub first_run: Duration,
    /// In KVM and the guest until the first exit that the guest made on purpose; none
    /// as long as it made none.
    pub first_instruction: Option<Duration>,
    /// From the request to that exit.
    pub total: Option<Duration>,
    /// From the request to the agent's word that a clone of a Linux guest has its own clock,
    /// random numbers and name; none for other guests.
    pub ready: Option<Duration>,
    /// How long the parent stood still, in a fork of a running machine.
    pub parent_pause: Option<Duration>,
    /// Pages that were copied from the parent.
    pub dirty_pages: u64,
    /// How the memory was made: `boot`, `cow`, an eager strategy, `direct`, `delta`,
    /// `process` or `reset`.
    pub strategy: Cow<'static, str>,
}

impl Ladder {
    /// The steps by name, in order, without the totals.
    pub fn steps(&self) -> Vec<(&'static str, Option<Duration>)> {
        vec![
            ("queue", Some(self.queue)),
            ("shell", Some(self.shell)),
            ("memslot", Some(self.memslot)),
            ("map", Some(self.map)),
            ("copy", Some(self.copy)),
            ("hot_set", Some(self.hot_set)),
            ("restore", Some(self.restore)),
            ("first_run", Some(self.first_run)),
            ("first_instruction", self.first_instruction),
        ]
    }
}
