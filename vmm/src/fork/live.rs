//! Snapshots and forks of a machine that runs on.
//!
//! Everything that can be made before the parent stops is made before; while it stands
//! still its state is read, its own pages are found and copied, and nothing else. Every
//! way out of here lets the parent go on, because [`Parked`] does so when it is dropped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Ladder;
use super::spawn::{StartOptions, assemble, shell_for, start, timed};
use crate::machine::{Machine, MachineError, MemoryMode, Parked, SpawnOptions};
use crate::memory::GuestRam;
use crate::memory::ram::Backing;
use crate::snapshot::Snapshot;

impl Machine {
    /// Takes a snapshot while the machine goes on. Returns it, and how long the machine
    /// stood still.
    pub fn snapshot(&self) -> Result<(Snapshot, Duration), MachineError> {
        let (snapshot, pause, _) = self.take_snapshot()?;
        Ok((snapshot, pause))
    }

    /// Forks children off the machine, which goes on: one result for each of `children`,
    /// in order.
    ///
    /// The memory of a single copy-on-write child is made by copying the parent's own
    /// pages straight into it. Several children, or eager ones, are spawned from a
    /// snapshot taken in between, and share what was copied. Either way the parent stops once.
    ///
    /// # Errors
    /// When the parent could not be parked or saved, and no child was made. It runs on.
    pub fn fork(
        &self,
        mut children: Vec<SpawnOptions>,
    ) -> Result<Vec<Result<Self, MachineError>>, MachineError> {
        if children.len() == 1 && children[0].memory == MemoryMode::Cow {
            return match children.pop() {
                Some(child) => Ok(vec![Ok(self.fork_direct(child)?)]),
                None => Ok(vec![]),
            };
        }
        let (snapshot, pause, dirty_pages) = self.take_snapshot()?;
        let spawn = |child: SpawnOptions| {
            let machine = Self::spawn(self.host(), &snapshot, child)?;
            machine.amend_ladder(|ladder| {
                ladder.parent_pause = Some(pause);
                ladder.dirty_pages = dirty_pages;
                if ladder.strategy == "cow" {
                    ladder.strategy = "delta".into();
                }
            });
            Ok(machine)
        };
        Ok(children.into_iter().map(spawn).collect())
    }

    fn take_snapshot(&self) -> Result<(Snapshot, Duration, u64), MachineError> {
        let mut buffer = self.ram().delta_buffer()?;
        let parked = self.park()?;
        let is_first = self.freeze(&parked)?;
        let state = parked.capture()?;
        let ram = self.ram();
        let dirty = ram.dirty()?;
        ram.save(&dirty, &mut buffer)?;
        let pause = parked.release();
        let dirty_pages = dirty.pages();
        if is_first {
            // What came of it, the image tells: `MemoryImage::huge_bytes`.
            ram.collapse_image()?;
        }
        let image = ram.image_of(dirty, buffer)?;
        let snapshot = Snapshot { image, state: Arc::new(state), hot_set: None };
        Ok((snapshot, pause, dirty_pages))
    }

    fn fork_direct(&self, child: SpawnOptions) -> Result<Self, MachineError> {
        let mut ladder = Ladder {
            queue: child.requested.elapsed(),
            strategy: "direct".into(),
            ..Ladder::default()
        };
        let ram = timed(&mut ladder.map, || GuestRam::below(&self.ram()))?;
        let shell = shell_for(self.host(), &ram, self.vcpus(), self.has_pit(), &mut ladder)?;

        let parked = self.park()?;
        let begun = Instant::now();
        self.freeze(&parked)?;
        let (dirty, state) = ram.copy_from(&self.ram(), || parked.capture());
        let (dirty, state) = (dirty?, state?);
        ladder.parent_pause = Some(parked.release());
        ladder.copy = begun.elapsed();

        ladder.dirty_pages = dirty.pages();
        let SpawnOptions { clock, console, requested, identity, wait, .. } = child;
        let machine = assemble(self.host(), shell, ram, &state, None, console, ladder)?;
        start(machine, &state, false, StartOptions { clock, requested, identity, wait })
    }

    /// Makes the image of a machine that booted immutable, when it is first forked.
    /// Whether it is.
    pub(super) fn freeze(&self, _: &Parked<'_>) -> Result<bool, MachineError> {
        let is_first = self.ram().backing() == Backing::Shared;
        if is_first {
            self.ram_mut().freeze()?;
        }
        Ok(is_first)
    }
}
