//! A snapshot as open files, to be given to another process: one that says what it is, and
//! those that hold its memory and are below its disks. Nothing of them is believed.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{MachineState, Snapshot};
use crate::devices::disk::given;
use crate::kvm::{KvmHost, cpuid};
use crate::memory::image::{ImageKind, memory_file, seal};
use crate::memory::{HotSet, MemoryError, MemoryImage, Runs};

/// Version of what the first file says.
const VERSION: u32 = 1;
/// Most bytes of the first file.
const MAX_BYTES: u64 = 128 << 20;

/// What can go wrong when a snapshot changes hands.
#[derive(Debug, Error)]
pub enum PartsError {
    /// A file that says what it is could not be made or read.
    #[error("{0} the description of a snapshot failed")]
    Io(&'static str, #[source] io::Error),
    /// It could not be turned into bytes.
    #[error("encoding the description of a snapshot failed")]
    Encode(#[source] postcard::Error),
    /// It makes no sense.
    #[error("the description of a snapshot makes no sense: {0}")]
    Damaged(String),
    /// Its memory can't be used.
    #[error("the memory of a snapshot")]
    Memory(#[from] MemoryError),
}

/// What the first file says before the machine's state.
#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    offset: u64,
    bytes: u64,
    kind: ImageKind,
    delta: Option<Runs>,
    /// What is below the disks.
    bases: Vec<PathBuf>,
}

impl Snapshot {
    /// The snapshot as files: the first says what it is. Its hot set is not among them.
    pub fn to_files(&self) -> Result<Vec<File>, PartsError> {
        let layers = self.image.layers();
        let bases = self.state.board.disk_bases();
        let head = Head {
            version: VERSION,
            offset: layers.offset,
            bytes: layers.bytes,
            kind: layers.kind,
            delta: layers.delta.map(|delta| delta.runs().clone()),
            bases: bases.iter().map(|(path, _)| path.to_path_buf()).collect(),
        };
        let mut bytes = postcard::to_stdvec(&head).map_err(PartsError::Encode)?;
        bytes.extend(postcard::to_stdvec(&*self.state).map_err(PartsError::Encode)?);
        let mut files = vec![file_of(&bytes)?];
        let duplicate =
            |file: &File| file.try_clone().map_err(|error| PartsError::Io("duplicating", error));
        files.push(duplicate(layers.base)?);
        if let Some(delta) = layers.delta {
            files.push(duplicate(delta.file())?);
        }
        for (_, file) in bases {
            files.push(duplicate(file)?);
        }
        Ok(files)
    }

    /// The snapshot that another process gave as `files`, for clones on `host`.
    pub fn from_files(files: Vec<File>, host: &KvmHost) -> Result<Self, PartsError> {
        let mut files = files.into_iter();
        let mut next = |what: &str| {
            files.next().ok_or_else(|| PartsError::Damaged(format!("{what} is missing")))
        };
        let bytes = bytes_of(&next("the description")?)?;
        let damaged = |error: postcard::Error| PartsError::Damaged(error.to_string());
        let (head, rest): (Head, &[u8]) = postcard::take_from_bytes(&bytes).map_err(damaged)?;
        if head.version != VERSION {
            return Err(PartsError::Damaged(format!("it has version {}", head.version)));
        }
        let base = next("the memory")?;
        let delta = match head.delta {
            Some(runs) => Some((next("a layer of the memory")?, runs)),
            None => None,
        };
        for path in head.bases {
            given::take(path, next("a disk")?);
        }
        let state: MachineState = postcard::from_bytes(rest).map_err(damaged)?;
        state.ram.check(head.bytes).map_err(|reason| PartsError::Damaged(reason.into()))?;
        let here = cpuid::leaves(host.cpuid());
        if let Some(reason) = cpuid::incompatibility(&state.cpuid, &here) {
            return Err(PartsError::Damaged(reason));
        }
        if !(1..=255).contains(&state.vcpus.len()) {
            return Err(PartsError::Damaged(format!("{} vCPUs", state.vcpus.len())));
        }
        let image = MemoryImage::from_layers(base, head.offset, head.bytes, head.kind, delta)?;
        Ok(Self { image: Arc::new(image), state: Arc::new(state), hot_set: None })
    }
}

impl HotSet {
    /// The hot set as a file, for another process.
    pub fn to_file(&self) -> Result<File, PartsError> {
        file_of(&postcard::to_stdvec(self).map_err(PartsError::Encode)?)
    }

    /// The hot set that another process gave as `file`.
    pub fn from_file(file: File) -> Result<Self, PartsError> {
        let damaged = |error: postcard::Error| PartsError::Damaged(error.to_string());
        postcard::from_bytes(&bytes_of(&file)?).map_err(damaged)
    }
}

/// A sealed file in memory with `bytes`.
fn file_of(bytes: &[u8]) -> Result<File, PartsError> {
    let mut file = memory_file("tine-snapshot", bytes.len() as u64, 0)?;
    file.write_all(bytes).map_err(|error| PartsError::Io("writing", error))?;
    seal(&file, bytes.len() as u64)?;
    Ok(file)
}

/// What is in `file`. Its position is left alone: other processes that have it share that.
fn bytes_of(file: &File) -> Result<Vec<u8>, PartsError> {
    let failed = |error| PartsError::Io("reading", error);
    let length = file.metadata().map_err(failed)?.len();
    if length > MAX_BYTES {
        return Err(PartsError::Damaged(format!("{length} bytes")));
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0).map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom};

    #[test]
    fn files_are_read_whatever_their_position_is() {
        let mut file = file_of(b"description").unwrap();
        for position in [0, 5, 11] {
            file.seek(SeekFrom::Start(position)).unwrap();
            assert_eq!(bytes_of(&file).unwrap(), b"description");
            // Another process may be about to read it.
            assert_eq!(file.stream_position().unwrap(), position);
        }
    }
}
