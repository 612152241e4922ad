//! What a cell and its keeper say to each other. Messages are encoded by postcard; whatever is
//! large goes as a file beside them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tine_abi::command::{COMMAND_WORDS, REPLY_WORDS};
use tine_vmm::fork::Pause;
use tine_vmm::kvm::stats::KvmCounters;
use tine_vmm::memory::{ImageKind, Ledger};
use tine_vmm::{Ladder, Snapshot, Status};

use crate::fault::Fault;

/// Version of the protocol: keeper and cell are one program, but a program can be replaced
/// while it runs.
pub const VERSION: u32 = 1;
/// Most bytes of console output in one message.
pub const CONSOLE_BYTES: usize = 2048;

/// A moment, as all processes of this host know it: nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moment(u64);

impl Moment {
    /// Now.
    pub fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Self(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
    }
}

impl From<Instant> for Moment {
    fn from(instant: Instant) -> Self {
        let ago = u64::try_from(instant.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Self(Self::now().0.saturating_sub(ago))
    }
}

impl From<Moment> for Instant {
    fn from(moment: Moment) -> Self {
        let ago = Duration::from_nanos(Moment::now().0.saturating_sub(moment.0));
        let now = Self::now();
        now.checked_sub(ago).unwrap_or(now)
    }
}

/// How a machine that is made, or found frozen, is to start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    /// When it was asked for.
    pub requested: Moment,
    /// What a Linux guest calls itself.
    pub hostname: Option<String>,
    /// How long to wait for its first instruction.
    pub wait: Duration,
}

/// What a keeper wants of a cell. The descriptors that come with it are named.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Boot the embedded workload.
    BootWorkload {
        /// Size of RAM.
        ram_bytes: u64,
        /// Number of vCPUs.
        vcpus: u8,
        /// What its memory image is made of.
        image: ImageKind,
    },
    /// Boot Linux, and wait for its agent: the kernel, the initramfs, the disks.
    BootLinux {
        /// Size of RAM.
        ram_bytes: u64,
        /// Number of vCPUs.
        vcpus: u8,
        /// What the kernel is told.
        command_line: String,
        /// How errors, and snapshots, name the files.
        files: Vec<PathBuf>,
        /// How long it may take.
        limit: Duration,
    },
    /// Prepare a clone of a snapshot: its files, and its hot set if it has one.
    Prepare {
        /// Whether all memory is copied first.
        eager: bool,
        /// Whether the last file is the hot set.
        hot_set: bool,
        /// Whether nobody has asked for it yet: the guest takes its first steps already, where
        /// that can be undone.
        ahead: bool,
        /// Whether the pages that it reads are to be known.
        watch: bool,
    },
    /// Read the snapshot file that comes with this.
    Open {
        /// How errors name it.
        name: PathBuf,
        /// How it names the files below its disks, which come after it.
        disks: Vec<PathBuf>,
    },
    /// Start what was prepared.
    Start(Start),
    /// Start a machine from what was frozen.
    Thaw(Start),
    /// Use this pagemap of the process: it can't open its own.
    Pagemap,
    /// Stop the vCPUs.
    Pause,
    /// Let them go on.
    Resume,
    /// Back to the snapshot.
    Reset,
    /// Give vCPU `vcpu` a command and wait for the answer.
    Work {
        /// The vCPU.
        vcpu: u8,
        /// The command, encoded.
        command: [u64; COMMAND_WORDS],
        /// How long to wait.
        limit: Duration,
    },
    /// Have the command of vCPU `vcpu` end early.
    Cancel {
        /// The vCPU.
        vcpu: u8,
    },
    /// Type on the console.
    ConsoleInput(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Connect to a port of a Linux guest.
    Connect {
        /// The port.
        port: u32,
    },
    /// The ladder as it is now.
    Ladder,
    /// The memory account.
    Ledger,
    /// KVM's counters.
    Counters,
    /// The pages that the machine has of its own now, as a file.
    HotSet,
    /// How many they are.
    DirtyPages,
    /// Units of work that a vCPU has done.
    Heartbeat {
        /// Number of the vCPU.
        vcpu: u8,
    },
    /// Fork a process that holds the machine as it is now, with the end of a channel for it.
    Freeze,
    /// The frozen: fork a sibling for each of the channels' ends.
    Split,
    /// The frozen: make a snapshot in memory.
    Export,
    /// The running: make a snapshot in memory, by copying while the machine stands still.
    Copy,
    /// The frozen: write a snapshot file into this file.
    Save,
}

/// A request and its number, which the answer has too.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Numbered {
    /// Its number.
    pub number: u64,
    /// What is wanted.
    pub request: Request,
}

/// What a snapshot is, for those who do not look into it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Size of RAM.
    pub ram_bytes: u64,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Size of the layer over its base image.
    pub delta_bytes: u64,
}

impl About {
    /// What `snapshot` is.
    pub fn of(snapshot: &Snapshot) -> Self {
        let Snapshot { image, state, .. } = snapshot;
        Self {
            ram_bytes: state.ram.bytes(),
            vcpus: u8::try_from(state.vcpus.len()).unwrap_or(u8::MAX),
            delta_bytes: image.delta().map_or(0, |delta| delta.bytes() as u64),
        }
    }
}

/// What a cell answers. The descriptors that come with it are named.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// It was done.
    Done,
    /// It was prepared; whether the guest has taken its first steps.
    Prepared {
        /// Whether it has.
        dry_run: bool,
    },
    /// A machine runs.
    Started(Started),
    /// The command's reply, encoded.
    Reply([u64; REPLY_WORDS]),
    /// So many bytes were taken, or there are so many pages.
    Count(u64),
    /// The ladder.
    Ladder(Ladder),
    /// The memory account.
    Ledger(Ledger),
    /// KVM's counters.
    Counters(KvmCounters),
    /// A file, or a stream.
    File,
    /// The machine stood still for so long, and a process with it as it was has been made.
    Frozen {
        /// How long it stood still.
        pause: Pause,
    },
    /// A snapshot: its files.
    Snapshot(About),
}

/// A machine that runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Started {
    /// What it took so far.
    pub ladder: Ladder,
    /// Size of RAM.
    pub ram_bytes: u64,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Frequency of its TSC, kHz.
    pub tsc_khz: u32,
}

/// What a cell says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "there is one at a time, and it is soon gone")]
pub enum Said {
    /// First of all: it is there.
    Hello {
        /// Version of the protocol.
        version: u32,
    },
    /// To a request.
    Answer {
        /// The request's number.
        number: u64,
        /// What came of it.
        result: Result<Answer, Fault>,
    },
    /// The guest printed.
    Console(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The machine's state has changed.
    State {
        /// What it is doing.
        status: Status,
        /// Whether the guest is at work.
        busy: bool,
    },
    /// So much of what is being saved is written.
    Progress {
        /// Bytes.
        done: u64,
        /// Of how many.
        of: u64,
    },
    /// It can't go on, and ends.
    Dying(String),
}
