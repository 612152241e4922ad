//! A snapshot on disk: one file, versioned, checksummed, sparse.
//!
//! | part | bytes |
//! |---|---|
//! | header | [`HEADER_BYTES`]: magic, version, then little-endian words, the last a checksum of the rest |
//! | state | machine state and hot set, by postcard |
//! | chunk checksums | 8 bytes for each [`CHUNK_BYTES`] of memory |
//! | memory | from a page boundary to the end; pages of zeros are holes |
//!
//! Checksums are XXH3-64: they find damage, not malice. A file is mapped `MAP_PRIVATE`,
//! so that all clones of it share the page cache; it must not be changed while in use.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{MachineState, Snapshot};
use crate::kvm::{KvmHost, cpuid};
use crate::memory::mapping::Mapping;
use crate::memory::{HotSet, MemoryError, MemoryImage, PAGE_SIZE};

/// First bytes of every snapshot file.
const MAGIC: [u8; 8] = *b"TINESNAP";
/// Version of the format. Others are refused.
pub const VERSION: u64 = 2;
/// Size of the header, bytes.
pub const HEADER_BYTES: usize = 64;
/// Size of the pieces of memory that have a checksum each, bytes.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Most bytes of state: far above any real one, far below what a damaged length could ask for.
const MAX_STATE_BYTES: u64 = 64 << 20;

/// How much of a file is checked when it is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// Everything: the whole file is read.
    #[default]
    Full,
    /// All but the memory: opening takes the same time whatever its size.
    Header,
}

/// What can go wrong with a snapshot file.
#[derive(Debug, Error)]
pub enum SnapshotFileError {
    /// The file system refused something.
    #[error("{action} the snapshot file {path} failed")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file could not be written.
    #[error("writing a snapshot file failed")]
    Write(#[source] io::Error),
    /// It is no snapshot file.
    #[error("{0} is no tine snapshot file")]
    Foreign(PathBuf),
    /// It is of another version.
    #[error("{path} has snapshot format {found}; this tine reads format {VERSION}")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// It is damaged or cut short.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It was made where the CPU can do what this one can't.
    #[error("{path} can't run on this host: {reason}")]
    Incompatible {
        /// The file.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// The machine state could not be turned into bytes.
    #[error("encoding the machine state failed")]
    Encode(#[source] postcard::Error),
    /// The memory could not be mapped.
    #[error("guest memory of the snapshot")]
    Memory(#[from] MemoryError),
}

/// The header's words.
struct Header {
    state_bytes: u64,
    state_checksum: u64,
    memory_at: u64,
    memory_bytes: u64,
    chunks_checksum: u64,
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend(MAGIC);
        for word in [
            VERSION,
            self.state_bytes,
            self.state_checksum,
            self.memory_at,
            self.memory_bytes,
            self.chunks_checksum,
        ] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(xxh3_64(&bytes).to_le_bytes());
        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(&bytes);
        header
    }

    /// Reads the header in `bytes` of a file of `file_bytes`.
    fn decode(bytes: &[u8; HEADER_BYTES], file_bytes: u64) -> Result<Self, Refusal> {
        let (words, _) = bytes.as_chunks::<8>();
        let word = |index: usize| u64::from_le_bytes(words[index]);
        if words[0] != MAGIC {
            return Err(Refusal::Foreign);
        }
        if word(1) != VERSION {
            return Err(Refusal::Version(word(1)));
        }
        if xxh3_64(&bytes[..HEADER_BYTES - 8]) != word(7) {
            return Err(Refusal::Damaged("the header's checksum is wrong".into()));
        }
        let header = Self {
            state_bytes: word(2),
            state_checksum: word(3),
            memory_at: word(4),
            memory_bytes: word(5),
            chunks_checksum: word(6),
        };
        header.check(file_bytes).map_err(|reason| Refusal::Damaged(reason.into()))?;
        Ok(header)
    }

    fn check(&self, file_bytes: u64) -> Result<(), &'static str> {
        let page = PAGE_SIZE as u64;
        if self.state_bytes > MAX_STATE_BYTES {
            return Err("the machine state is too large");
        }
        if self.memory_bytes == 0
            || !(self.memory_at | self.memory_bytes).is_multiple_of(page)
            || self.memory_bytes > 1 << 52
            || self.memory_at != memory_at(self.state_bytes, self.memory_bytes)
        {
            return Err("the sizes in the header contradict each other");
        }
        if self.memory_at.checked_add(self.memory_bytes) != Some(file_bytes) {
            return Err("it was cut short or has grown");
        }
        Ok(())
    }

    fn chunks(&self) -> u64 {
        self.memory_bytes.div_ceil(CHUNK_BYTES as u64)
    }
}

fn memory_at(state_bytes: u64, memory_bytes: u64) -> u64 {
    let chunks = memory_bytes.div_ceil(CHUNK_BYTES as u64);
    (HEADER_BYTES as u64 + state_bytes + chunks * 8).next_multiple_of(PAGE_SIZE as u64)
}

/// Why bytes are no snapshot, before it is known which file they come from.
#[derive(Debug)]
pub enum Refusal {
    /// No snapshot at all.
    Foreign,
    /// Of another version.
    Version(u64),
    /// Damaged.
    Damaged(String),
}

impl Refusal {
    fn of(self, path: &Path) -> SnapshotFileError {
        let path = path.to_path_buf();
        match self {
            Self::Foreign => SnapshotFileError::Foreign(path),
            Self::Version(found) => SnapshotFileError::Version { path, found },
            Self::Damaged(reason) => SnapshotFileError::Damaged { path, reason },
        }
    }
}

/// What the state part holds.
#[derive(Serialize, Deserialize)]
struct Body<S, H> {
    state: S,
    hot_set: Option<H>,
}

impl Snapshot {
    /// Writes the snapshot to `path`, which appears complete or not at all.
    pub fn save(&self, path: &Path) -> Result<(), SnapshotFileError> {
        let unfinished = Unfinished::create(path)?;
        let view = self.image.read_view()?;
        let hot_set = self.hot_set.as_deref();
        let data = self.image.data();
        write(&unfinished.file, &self.state, hot_set, &view, &data, &mut |_, _| Ok(()))?;
        unfinished.finish()
    }

    /// Opens the snapshot file at `path` for clones on `host`.
    pub fn open(path: &Path, host: &KvmHost, verify: Verify) -> Result<Self, SnapshotFileError> {
        let failed =
            |source| SnapshotFileError::Io { action: "reading", path: path.to_path_buf(), source };
        let file = File::open(path).map_err(failed)?;
        Self::read(file, path, host, verify)
    }

    /// The same of a `file` that is open; errors name it `path`.
    pub fn read(
        file: File,
        path: &Path,
        host: &KvmHost,
        verify: Verify,
    ) -> Result<Self, SnapshotFileError> {
        let failed =
            |source| SnapshotFileError::Io { action: "reading", path: path.to_path_buf(), source };
        let damaged = |reason: &str| Refusal::Damaged(reason.into()).of(path);
        let file_bytes = file.metadata().map_err(failed)?.len();
        if file_bytes < HEADER_BYTES as u64 {
            return Err(Refusal::Foreign.of(path));
        }
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, 0).map_err(failed)?;
        let header = Header::decode(&header, file_bytes).map_err(|refusal| refusal.of(path))?;
        let mut front = vec![0; (header.state_bytes + header.chunks() * 8) as usize];
        file.read_exact_at(&mut front, HEADER_BYTES as u64).map_err(failed)?;
        let (state, chunks) = front.split_at(header.state_bytes as usize);
        if xxh3_64(state) != header.state_checksum {
            return Err(damaged("the checksum of the machine state is wrong"));
        }
        if xxh3_64(chunks) != header.chunks_checksum {
            return Err(damaged("the checksum of the checksums is wrong"));
        }
        let (state, hot_set) = decode_state(state).map_err(|refusal| refusal.of(path))?;
        state.ram.check(header.memory_bytes).map_err(damaged)?;
        let here = cpuid::leaves(host.cpuid());
        if let Some(reason) = cpuid::incompatibility(&state.cpuid, &here) {
            return Err(SnapshotFileError::Incompatible { path: path.to_path_buf(), reason });
        }
        if verify == Verify::Full {
            let wrong = first_wrong_chunk(&file, &header, chunks).map_err(failed)?;
            if let Some(at) = wrong {
                let reason = format!("the checksum of guest memory from {at:#x} on is wrong");
                return Err(damaged(&reason));
            }
        }
        let image = MemoryImage::from_file(file, header.memory_at, header.memory_bytes)?;
        Ok(Self { image: Arc::new(image), state: Arc::new(state), hot_set: hot_set.map(Arc::new) })
    }
}

/// Writes a snapshot into `file`, which is empty, and sees to it that it is on the disk: `state`,
/// and the memory in `view`, of which only the byte ranges `data` may hold anything but zeros.
/// `progress` is told how many bytes of memory are done, of how many; its error ends the work.
pub(crate) fn write(
    file: &File,
    state: &MachineState,
    hot_set: Option<&HotSet>,
    view: &Mapping,
    data: &[(usize, usize)],
    progress: &mut dyn FnMut(u64, u64) -> io::Result<()>,
) -> Result<(), SnapshotFileError> {
    let body = Body { state, hot_set };
    let state = postcard::to_stdvec(&body).map_err(SnapshotFileError::Encode)?;
    let memory_bytes = view.bytes() as u64;
    let memory_at = memory_at(state.len() as u64, memory_bytes);
    let mut write_all = || {
        let chunks = write_memory(file, memory_at, view, data, progress)?;
        let header = Header {
            state_bytes: state.len() as u64,
            state_checksum: xxh3_64(&state),
            memory_at,
            memory_bytes,
            chunks_checksum: xxh3_64(&chunks),
        };
        let mut file = file;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&header.encode())?;
        file.write_all(&state)?;
        file.write_all(&chunks)?;
        file.sync_all()
    };
    write_all().map_err(SnapshotFileError::Write)
}

/// Writes the memory from `at` on, but for pages of zeros. Returns the chunks' checksums.
fn write_memory(
    file: &File,
    at: u64,
    view: &Mapping,
    data: &[(usize, usize)],
    progress: &mut dyn FnMut(u64, u64) -> io::Result<()>,
) -> io::Result<Vec<u8>> {
    file.set_len(at + view.bytes() as u64)?;
    let zeros = [0; PAGE_SIZE];
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut checksums = Vec::new();
    for start in (0..view.bytes()).step_by(CHUNK_BYTES) {
        progress(start as u64, view.bytes() as u64)?;
        let bytes = CHUNK_BYTES.min(view.bytes() - start);
        let chunk = &mut buffer[..bytes];
        if data.iter().any(|range| range.0 < start + bytes && start < range.1) {
            view.read(start, chunk);
        } else {
            chunk.fill(0);
        }
        checksums.extend(xxh3_64(chunk).to_le_bytes());
        for (index, page) in chunk.chunks(PAGE_SIZE).enumerate() {
            if page != zeros {
                file.write_all_at(page, at + (start + index * PAGE_SIZE) as u64)?;
            }
        }
    }
    Ok(checksums)
}

/// Checks the first bytes of a file of `file_bytes`, without opening anything.
pub fn check_header(bytes: &[u8], file_bytes: u64) -> Result<(), Refusal> {
    let header = bytes.first_chunk().ok_or(Refusal::Foreign)?;
    Header::decode(header, file_bytes).map(drop)
}

/// Decodes the state part of a file, of which nothing is believed.
pub fn decode_state(bytes: &[u8]) -> Result<(MachineState, Option<HotSet>), Refusal> {
    let damaged = |reason: String| Refusal::Damaged(reason);
    let (body, rest): (Body<MachineState, HotSet>, &[u8]) =
        postcard::take_from_bytes(bytes).map_err(|error| damaged(error.to_string()))?;
    if !rest.is_empty() {
        return Err(damaged(format!("{} bytes after the machine state", rest.len())));
    }
    let vcpus = body.state.vcpus.len();
    if !(1..=255).contains(&vcpus) {
        return Err(damaged(format!("a machine with {vcpus} vCPUs")));
    }
    Ok((body.state, body.hot_set))
}

/// Where the first chunk of memory with a wrong checksum begins.
fn first_wrong_chunk(file: &File, header: &Header, checksums: &[u8]) -> io::Result<Option<u64>> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut at = 0;
    for checksum in checksums.as_chunks::<8>().0 {
        let bytes = (header.memory_bytes - at).min(CHUNK_BYTES as u64) as usize;
        file.read_exact_at(&mut buffer[..bytes], header.memory_at + at)?;
        let mut hasher = Xxh3::new();
        hasher.update(&buffer[..bytes]);
        if hasher.digest() != u64::from_le_bytes(*checksum) {
            return Ok(Some(at));
        }
        at += bytes as u64;
    }
    Ok(None)
}

/// A file under another name until it is whole; removed when it never is.
#[derive(Debug)]
pub struct Unfinished {
    file: File,
    path: PathBuf,
    target: PathBuf,
    done: bool,
}

impl Unfinished {
    /// A file that will be found at `target`.
    pub fn create(target: &Path) -> Result<Self, SnapshotFileError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut name = target.file_name().unwrap_or_default().to_os_string();
        name.push(format!(
            ".{}-{}.unfinished",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        let path = target.with_file_name(name);
        // Guest memory holds secrets: for the owner only.
        let file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(
                |source| SnapshotFileError::Io { action: "creating", path: path.clone(), source },
            )?;
        Ok(Self { file, path, target: target.to_path_buf(), done: false })
    }

    /// The file, to be written, whoever does that.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The file is whole, and on the disk: it gets its name, in place of one that has it.
    pub fn finish(mut self) -> Result<(), SnapshotFileError> {
        let renamed = fs::rename(&self.path, &self.target).and_then(|()| {
            self.done = true;
            // The new name must survive a crash too.
            let directory = match self.target.parent() {
                Some(parent) if parent != Path::new("") => parent,
                _ => Path::new("."),
            };
            File::open(directory)?.sync_all()
        });
        let path = self.target.clone();
        renamed.map_err(|source| SnapshotFileError::Io { action: "renaming", path, source })
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.done
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "an unfinished snapshot file is left");
        }
    }
}
