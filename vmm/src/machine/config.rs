//! What a machine is made from.

use std::io;
use std::time::{Duration, Instant};

use crate::boot::linux::Kernel;
use crate::devices::ConsoleSink;
use crate::devices::disk::Disk;
use crate::kvm::ClockPolicy;
use crate::memory::ImageKind;

/// The shape of a machine that boots the embedded workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineConfig {
    /// Size of RAM, bytes.
    pub ram_bytes: u64,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// What kind of pages its memory image is to be made of.
    pub image: ImageKind,
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self { ram_bytes: 256 << 20, vcpus: 1, image: ImageKind::Small }
    }
}

/// The shape of a machine that boots Linux.
#[derive(Debug)]
pub struct LinuxConfig {
    /// Size of RAM, bytes.
    pub ram_bytes: u64,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// What kind of pages its memory image is to be made of.
    pub image: ImageKind,
    /// The kernel and what it is started with.
    pub kernel: Kernel,
    /// Its disks; the first holds the root file system. At most 8.
    pub disks: Vec<Disk>,
}

/// How a clone gets its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryMode {
    /// It shares pages until it writes them.
    #[default]
    Cow,
    /// All of it is copied first.
    Eager,
}

/// What makes a clone of a Linux guest another machine for those who look at it. The rest,
/// clock and random numbers, it gets in any case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Host name; its parent's when none.
    pub hostname: Option<String>,
    /// 32 hexadecimal digits for /etc/machine-id; random ones when none.
    pub machine_id: Option<String>,
}

/// How a clone is to be made.
pub struct SpawnOptions {
    /// How it gets its memory.
    pub memory: MemoryMode,
    /// Whether the snapshot's hot set is copied ahead, if it has one.
    pub hot_set: bool,
    /// What its clock shows.
    pub clock: ClockPolicy,
    /// Where its console output goes.
    pub console: ConsoleSink,
    /// When it was asked for: where the ladder begins.
    pub requested: Instant,
    /// What a clone of a Linux guest calls itself.
    pub identity: Identity,
    /// How long to wait for its first instruction. A guest that was computing when the
    /// snapshot was taken may make no exit for long; it then counts as made all the same.
    pub wait: Duration,
}

impl SpawnOptions {
    /// A copy-on-write clone, asked for now, whose output is lost.
    pub fn new() -> Self {
        Self {
            memory: MemoryMode::Cow,
            hot_set: false,
            clock: ClockPolicy::CatchUp,
            console: Box::new(io::sink()),
            requested: Instant::now(),
            identity: Identity::default(),
            wait: Duration::from_millis(100),
        }
    }
}

impl Default for SpawnOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for SpawnOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpawnOptions")
            .field("memory", &self.memory)
            .field("hot_set", &self.hot_set)
            .finish_non_exhaustive()
    }
}
