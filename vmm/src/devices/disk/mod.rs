//! Disks: an immutable base file, and over it what a guest has written. A fork of a disk takes
//! the same time however much that is, and neither side sees what the other writes later.

pub mod given;
mod overlay;
mod record;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use overlay::Overlay;

/// Size of a sector, in which a disk's size is counted, bytes.
pub const SECTOR_BYTES: u64 = 512;
/// Size of the pieces in which an overlay keeps what was written, bytes.
pub const BLOCK_BYTES: usize = 4096;
/// Largest disk, bytes.
pub const MAX_BYTES: u64 = 16 << 40;

/// What can go wrong with a disk.
#[derive(Debug, Error)]
pub enum DiskError {
    /// The base file can't be used.
    #[error("{action} the disk {path} failed")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The base is none, or not any more the one that it was.
    #[error("{path} can't be a disk: {reason}")]
    Base {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A disk can't have such a size.
    #[error("a disk of {0} bytes: it has 512 bytes to 16 TiB, in whole sectors")]
    Size(u64),
    /// The request lies outside of the disk, or writes what can only be read.
    #[error("{bytes} bytes at {at} of a disk of {size} can't be {action}")]
    Outside {
        /// What was tried.
        action: &'static str,
        /// First byte.
        at: u64,
        /// How many.
        bytes: u64,
        /// Size of the disk.
        size: u64,
    },
    /// What was written can't be kept or read back.
    #[error("{action} what was written to a disk failed; is the host out of memory?")]
    Layer {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Too much was written for a snapshot file.
    #[error(
        "{0} bytes were written to the disk: too much for a snapshot file; keep such a snapshot in \
         the daemon, or the contents elsewhere"
    )]
    TooMuch(u64),
}

/// The file below a disk.
#[derive(Clone, Debug)]
struct Base {
    file: Arc<File>,
    path: PathBuf,
    bytes: u64,
    modified_ns: i128,
}

impl Base {
    fn open(path: &Path) -> Result<Self, DiskError> {
        let failed = |action| {
            let path = path.to_path_buf();
            move |source| DiskError::File { action, path, source }
        };
        let file = given::open(path).map_err(failed("opening"))?;
        let data = file.metadata().map_err(failed("examining"))?;
        if !data.is_file() {
            let reason = "it is no regular file".into();
            return Err(DiskError::Base { path: path.to_path_buf(), reason });
        }
        let modified_ns = i128::from(data.mtime()) * 1_000_000_000 + i128::from(data.mtime_nsec());
        Ok(Self { file: Arc::new(file), path: path.to_path_buf(), bytes: data.len(), modified_ns })
    }

    /// Reads from `at`; behind its end are zeros.
    fn read(&self, at: u64, target: &mut [u8]) -> Result<(), DiskError> {
        let there = self.bytes.saturating_sub(at).min(target.len() as u64) as usize;
        let (data, zeros) = target.split_at_mut(there);
        zeros.fill(0);
        self.file.read_exact_at(data, at).map_err(|source| DiskError::File {
            action: "reading",
            path: self.path.clone(),
            source,
        })
    }
}

/// A disk.
#[derive(Clone, Debug)]
pub struct Disk {
    base: Option<Base>,
    overlay: Option<Overlay>,
    bytes: u64,
}

impl Disk {
    /// The file at `path`, to be read only. It must not change while it is in use.
    pub fn read_only(path: &Path) -> Result<Self, DiskError> {
        let base = Base::open(path)?;
        let bytes = check_size(base.bytes)?;
        Ok(Self { base: Some(base), overlay: None, bytes })
    }

    /// A writable disk of `bytes`: what was not written is read from the file `base`, which stays
    /// as it is, and is zeros where there is none.
    pub fn overlay(base: Option<&Path>, bytes: u64) -> Result<Self, DiskError> {
        let base = base.map(Base::open).transpose()?;
        let bytes = check_size(bytes)?;
        Ok(Self { base, overlay: Some(Overlay::default()), bytes })
    }

    /// Size, bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it can't be written.
    pub fn is_read_only(&self) -> bool {
        self.overlay.is_none()
    }

    /// The file below it.
    pub(crate) fn base(&self) -> Option<(&Path, &Arc<File>)> {
        self.base.as_ref().map(|base| (base.path.as_path(), &base.file))
    }

    /// The descriptors that it holds.
    pub(crate) fn descriptors(&self) -> Vec<RawFd> {
        let base = self.base.iter().map(|base| base.file.as_raw_fd());
        base.chain(self.overlay.iter().flat_map(Overlay::descriptors)).collect()
    }

    /// What the guest is told for a serial number: the beginning of the base file's name.
    pub fn serial(&self) -> [u8; 20] {
        let mut serial = [0; 20];
        let name = self.base.as_ref().and_then(|base| base.path.file_name());
        let name = name.map_or(&b"tine-overlay"[..], |name| name.as_encoded_bytes());
        let bytes = name.len().min(serial.len());
        serial[..bytes].copy_from_slice(&name[..bytes]);
        serial
    }

    /// The same disk for another machine. No I/O may be under way.
    #[must_use]
    pub fn fork(&self) -> Self {
        // Layers are shared from here on, and a shared layer is never written.
        self.clone()
    }

    /// Reads `target.len()` bytes from `at`.
    pub fn read(&self, at: u64, target: &mut [u8]) -> Result<(), DiskError> {
        self.check("read", at, target.len() as u64)?;
        let Some(overlay) = &self.overlay else { return self.read_base(at, target) };
        for (block, within, piece) in pieces_mut(at, target) {
            if !overlay.read(block, within, piece)? {
                self.read_base(block * BLOCK_BYTES as u64 + within as u64, piece)?;
            }
        }
        Ok(())
    }

    /// Writes `data` from `at` on.
    pub fn write(&mut self, at: u64, data: &[u8]) -> Result<(), DiskError> {
        self.check("written", at, data.len() as u64)?;
        for (block, within, piece) in pieces(at, data) {
            let mut whole = [0; BLOCK_BYTES];
            if piece.len() < BLOCK_BYTES {
                let start = block * BLOCK_BYTES as u64;
                let there = (self.bytes - start).min(BLOCK_BYTES as u64) as usize;
                self.read(start, &mut whole[..there])?;
            }
            whole[within..within + piece.len()].copy_from_slice(piece);
            self.writable("written", at, data.len() as u64)?.write(block, &whole)?;
        }
        Ok(())
    }

    /// Makes `bytes` from `at` zeros.
    pub fn zero(&mut self, at: u64, bytes: u64) -> Result<(), DiskError> {
        self.check("cleared", at, bytes)?;
        let zeros = [0; BLOCK_BYTES];
        let mut at = at;
        let end = at + bytes;
        while at < end {
            let within = (at % BLOCK_BYTES as u64) as usize;
            let piece = (BLOCK_BYTES - within).min((end - at) as usize);
            if piece == BLOCK_BYTES && self.base.is_none() {
                // What was never written is zeros.
                self.writable("cleared", at, bytes)?.forget(at / BLOCK_BYTES as u64);
            } else {
                self.write(at, &zeros[..piece])?;
            }
            at += piece as u64;
        }
        Ok(())
    }

    fn writable(
        &mut self,
        action: &'static str,
        at: u64,
        bytes: u64,
    ) -> Result<&mut Overlay, DiskError> {
        let size = self.bytes;
        self.overlay.as_mut().ok_or(DiskError::Outside { action, at, bytes, size })
    }

    fn check(&self, action: &'static str, at: u64, bytes: u64) -> Result<(), DiskError> {
        match at.checked_add(bytes) {
            Some(end) if end <= self.bytes => Ok(()),
            _ => Err(DiskError::Outside { action, at, bytes, size: self.bytes }),
        }
    }

    fn read_base(&self, at: u64, target: &mut [u8]) -> Result<(), DiskError> {
        match &self.base {
            Some(base) => base.read(at, target),
            None => {
                target.fill(0);
                Ok(())
            }
        }
    }
}

fn check_size(bytes: u64) -> Result<u64, DiskError> {
    let whole = bytes.is_multiple_of(SECTOR_BYTES);
    match whole && (SECTOR_BYTES..=MAX_BYTES).contains(&bytes) {
        true => Ok(bytes),
        false => Err(DiskError::Size(bytes)),
    }
}

/// The parts of `data`, which begins at byte `at`, by block: its number, where in it, and what.
fn pieces(at: u64, data: &[u8]) -> impl Iterator<Item = (u64, usize, &[u8])> {
    let mut rest = data;
    let mut at = at;
    std::iter::from_fn(move || {
        let within = (at % BLOCK_BYTES as u64) as usize;
        let (piece, after) = rest.split_at(rest.len().min(BLOCK_BYTES - within));
        let block = at / BLOCK_BYTES as u64;
        (rest, at) = (after, at + piece.len() as u64);
        (!piece.is_empty()).then_some((block, within, piece))
    })
}

/// The same for what is to be filled.
fn pieces_mut(at: u64, target: &mut [u8]) -> impl Iterator<Item = (u64, usize, &mut [u8])> {
    let mut rest = Some(target);
    let mut at = at;
    std::iter::from_fn(move || {
        let target = rest.take()?;
        let within = (at % BLOCK_BYTES as u64) as usize;
        let bytes = target.len().min(BLOCK_BYTES - within);
        let (piece, after) = target.split_at_mut(bytes);
        let block = at / BLOCK_BYTES as u64;
        (rest, at) = (Some(after), at + bytes as u64);
        (!piece.is_empty()).then_some((block, within, piece))
    })
}

#[cfg(test)]
mod tests;
