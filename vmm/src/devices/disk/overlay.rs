//! What was written over a disk's base: blocks in layers of memory. Forks share layers; a layer
//! is written only while nobody else holds it, so a fork's next write begins a new one. Which
//! block is where is a persistent map: copying it takes no time, and looking a block up
//! none the longer for many forks.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use imbl::OrdMap;

use super::{BLOCK_BYTES, DiskError};

/// Blocks in memory, by slot.
#[derive(Debug)]
struct Layer {
    file: File,
    /// Slots that were used.
    used: u64,
    /// Slots whose block was forgotten.
    free: Vec<u64>,
}

impl Layer {
    fn new() -> io::Result<Self> {
        // SAFETY: the name is a string that ends with a zero byte; the kernel copies it.
        let descriptor = unsafe { libc::memfd_create(c"tine-disk".as_ptr(), libc::MFD_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, and nobody else has it.
        let file = unsafe { File::from_raw_fd(descriptor) };
        Ok(Self { file, used: 0, free: Vec::new() })
    }

    fn slot(&mut self) -> u64 {
        self.free.pop().unwrap_or_else(|| {
            self.used += 1;
            self.used - 1
        })
    }
}

/// Where a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    layer: usize,
    slot: u64,
}

/// What was written over a base.
#[derive(Clone, Debug, Default)]
pub(super) struct Overlay {
    blocks: OrdMap<u64, Place>,
    layers: Vec<Arc<Layer>>,
}

impl Overlay {
    /// Reads `block` from byte `within` of it, if it was written. Whether it was.
    pub(super) fn read(
        &self,
        block: u64,
        within: usize,
        target: &mut [u8],
    ) -> Result<bool, DiskError> {
        let Some(place) = self.blocks.get(&block) else { return Ok(false) };
        let at = place.slot * BLOCK_BYTES as u64 + within as u64;
        let read = self.layers[place.layer].file.read_exact_at(target, at);
        read.map_err(|source| DiskError::Layer { action: "reading", source })?;
        Ok(true)
    }

    /// Writes `block`.
    pub(super) fn write(&mut self, block: u64, data: &[u8; BLOCK_BYTES]) -> Result<(), DiskError> {
        let failed = |source| DiskError::Layer { action: "writing", source };
        let own = self.own().map_err(failed)?;
        let layer = Arc::get_mut(&mut self.layers[own]).ok_or_else(|| {
            // It was nobody else's a moment ago, and nobody else has this overlay.
            failed(io::ErrorKind::ResourceBusy.into())
        })?;
        let slot = match self.blocks.get(&block) {
            Some(place) if place.layer == own => place.slot,
            _ => layer.slot(),
        };
        layer.file.write_all_at(data, slot * BLOCK_BYTES as u64).map_err(failed)?;
        self.blocks.insert(block, Place { layer: own, slot });
        Ok(())
    }

    /// Forgets `block`: the base shows through again.
    pub(super) fn forget(&mut self, block: u64) {
        let Some(place) = self.blocks.remove(&block) else { return };
        if let Some(layer) = Arc::get_mut(&mut self.layers[place.layer]) {
            layer.free.push(place.slot);
        }
    }

    /// The last layer, or a new one where others hold that.
    fn own(&mut self) -> io::Result<usize> {
        if self.layers.last_mut().and_then(Arc::get_mut).is_none() {
            self.layers.push(Arc::new(Layer::new()?));
        }
        Ok(self.layers.len() - 1)
    }

    /// The descriptors of its layers.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.layers.iter().map(|layer| layer.file.as_raw_fd())
    }

    /// How many blocks were written.
    pub(super) fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// The numbers of the blocks that were written.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.blocks.keys().copied()
    }
}
