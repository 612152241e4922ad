//! A machine at one moment, for a child process that shares its memory by `fork(2)`.
//!
//! Anonymous pages can be shared copy-on-write in one way only: a process forks. Whoever does
//! that calls [`Machine::freeze_while`], forks in it, and lets the parent return; in the child
//! the machine's threads do not exist, its descriptors are the parent's, and of all that the
//! parent had only the [`Frozen`] is to be used.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Ladder;
use super::spawn::{StartOptions, assemble, shell_for, start, vcpu_count};
use crate::devices::ConsoleSink;
use crate::kvm::KvmHost;
use crate::machine::{Machine, MachineError};
use crate::memory::GuestRam;
use crate::snapshot::{MachineState, Snapshot, SnapshotFileError, file};

/// Everything that a machine was when it stood still. Its memory is this process's: it stays as
/// it was in a child process alone, and there only until it is [thawed](Self::thaw).
#[derive(Clone, Debug)]
pub struct Frozen {
    ram: GuestRam,
    state: Arc<MachineState>,
}

/// How long a machine stood still, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Until its vCPUs were parked.
    pub park: Duration,
    /// Reading its state.
    pub capture: Duration,
    /// What was done meanwhile: the fork of the process.
    pub fork: Duration,
    /// In all, until it might go on.
    pub total: Duration,
}

impl Machine {
    /// Parks the machine, gives `work` what it is, and lets it go on. Returns what `work`
    /// returned, and how long the machine stood still.
    ///
    /// While `work` runs, every thread of the machine waits at its gate and holds no lock but
    /// those of the machine itself.
    pub fn freeze_while<T>(
        &self,
        work: impl FnOnce(Frozen) -> T,
    ) -> Result<(T, Pause), MachineError> {
        let parked = self.park()?;
        let park = parked.since();
        let is_first = self.freeze(&parked)?;
        let state = Arc::new(parked.capture()?);
        let ram = self.ram().clone();
        let captured = parked.since();
        let result = work(Frozen { ram, state });
        let forked = parked.since();
        let total = parked.release();
        let pause = Pause { park, capture: captured - park, fork: forked - captured, total };
        if is_first {
            self.ram().collapse_image()?;
        }
        Ok((result, pause))
    }
}

impl Frozen {
    /// Makes a machine of it: the memory is the one at hand, everything else is made anew. The
    /// child process's own machine; to be done once.
    pub fn thaw(
        self,
        host: &Arc<KvmHost>,
        console: ConsoleSink,
        options: StartOptions,
    ) -> Result<Machine, MachineError> {
        let Self { ram, state } = self;
        let ram = ram.unwatched();
        let mut ladder = Ladder { strategy: "process".into(), ..Ladder::default() };
        let vcpus = vcpu_count(&state)?;
        let shell = shell_for(host, &ram, vcpus, state.vm.pit.is_some(), &mut ladder)?;
        let begun = Instant::now();
        let machine = assemble(host, shell, ram, &state, None, console, ladder)?;
        machine.amend_ladder(|ladder| ladder.restore = begun.elapsed());
        start(machine, &state, false, options)
    }

    /// A snapshot of it: the pages that were the machine's own are copied into a layer.
    pub fn snapshot(&self) -> Result<Snapshot, MachineError> {
        let dirty = self.ram.dirty()?;
        let mut buffer = self.ram.delta_buffer()?;
        self.ram.save(&dirty, &mut buffer)?;
        let image = self.ram.image_of(dirty, buffer)?;
        Ok(Snapshot { image, state: Arc::clone(&self.state), hot_set: None })
    }

    /// Writes it as a snapshot file into `file`, which is empty; `progress` is told how many
    /// bytes of memory are done, of how many.
    pub fn save(
        &self,
        file: &std::fs::File,
        progress: &mut dyn FnMut(u64, u64) -> io::Result<()>,
    ) -> Result<(), SnapshotFileError> {
        let data = self.ram.data()?;
        file::write(file, &self.state, None, self.ram.mapping(), &data, progress)
    }

    /// Size of its RAM, bytes.
    pub fn ram_bytes(&self) -> u64 {
        self.state.ram.bytes()
    }

    /// The descriptors that it needs: those below its memory and its disks. Of all others that
    /// the parent had, a child process needs none.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let mut descriptors = self.ram.image().descriptors();
        descriptors.extend(self.state.board.disk_descriptors());
        descriptors
    }
}
