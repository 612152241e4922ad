//! What goes over the wire: requests, checked, and answers.

mod exec;
mod files;
mod snapshots;
mod workload;

pub use exec::{Chunk, Control, ExecEvent, ExecRequest, Exited, Terminal, Text};
pub use files::{
    Entry, EntryKind, Listing, MkdirRequest, ReadQuery, RemoveQuery, RenameRequest, WriteQuery,
};
pub use snapshots::{Progress, Saved, SnapshotAnswer, SnapshotList, SnapshotRequest};
pub use workload::{WorkloadAnswer, WorkloadOp, WorkloadRequest};

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tine_cell::{CellLimits, Origin};
use tine_vmm::kvm::stats::KvmCounters;
use tine_vmm::memory::Ledger;
use tine_vmm::{Ladder, MemoryMode};
use utoipa::{IntoParams, ToSchema};

use crate::problem::Problem;
use crate::registry::Lost;

/// Most sandboxes of one request.
pub const MAX_COUNT: u32 = 1000;
/// Longest timeout, seconds: a year.
const MAX_TIMEOUT_S: u64 = 366 * 86_400;

/// How a sandbox gets its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Memory {
    /// It shares pages until it writes them.
    #[default]
    Cow,
    /// All of it is copied first.
    Eager,
}

impl Memory {
    /// Its name, as the API has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cow => "cow",
            Self::Eager => "eager",
        }
    }
}

impl From<Memory> for MemoryMode {
    fn from(memory: Memory) -> Self {
        match memory {
            Memory::Cow => Self::Cow,
            Memory::Eager => Self::Eager,
        }
    }
}

/// What a sandbox may take of its host; what is not named is not limited.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Limited {
    /// Memory: pages of its own, page tables, and what the kernel holds for it. A sandbox that
    /// takes more is killed, and it alone.
    pub memory_mib: Option<u64>,
    /// Processor time, in processors: 0.5 is half of one.
    pub cpus: Option<f64>,
    /// Processes and threads of its cell.
    pub processes: Option<u32>,
}

impl Limited {
    fn check(self) -> Result<(), Problem> {
        let Self { memory_mib, cpus, processes } = self;
        let memory = memory_mib.is_none_or(|mib| (4..=1 << 30).contains(&mib));
        let cpus = cpus.is_none_or(|cpus| (0.01..=4096.0).contains(&cpus));
        let processes = processes.is_none_or(|count| (8..=65_536).contains(&count));
        match memory && cpus && processes {
            true => Ok(()),
            false => Err(Problem::value(
                "limits",
                "memory_mib is 4 and more, cpus 0.01 to 4096, processes 8 to 65536",
            )),
        }
    }

    /// The limits as cells have them.
    pub fn limits(self) -> CellLimits {
        CellLimits {
            memory_bytes: self.memory_mib.map(|mib| mib << 20),
            cpus: self.cpus,
            processes: self.processes,
        }
    }

    /// What to tell of `limits`; nothing when there are none.
    pub fn of(limits: CellLimits) -> Option<Self> {
        let CellLimits { memory_bytes, cpus, processes } = limits;
        let memory_mib = memory_bytes.map(|bytes| bytes >> 20);
        (!limits.is_none()).then_some(Self { memory_mib, cpus, processes })
    }
}

/// Body of `POST /v1/sandboxes`. Names either an image or a snapshot.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SpawnRequest {
    /// Image to boot: `workload`, or one that `tine image` made. It boots once for each shape,
    /// and is then cloned.
    pub image: Option<String>,
    /// Snapshot to clone, by id or name.
    pub snapshot: Option<String>,
    /// How many.
    #[serde(default = "one")]
    pub count: u32,
    /// Number of vCPUs; of an image only. Default 1.
    pub vcpus: Option<u8>,
    /// Guest RAM; of an image only. Default 256.
    pub memory_mib: Option<u64>,
    /// Labels to find them by.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Seconds until they are killed.
    pub timeout_s: Option<u64>,
    /// How they get their memory.
    #[serde(default)]
    pub memory: Memory,
    /// Whether the snapshot's hot set is copied ahead: the pages that its first clones were seen
    /// to use.
    #[serde(default = "yes")]
    pub hot_set: bool,
    /// What each may take of the host.
    pub limits: Option<Limited>,
}

/// Body of `POST /v1/sandboxes/{id}/fork`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ForkRequest {
    /// How many.
    #[serde(default = "one")]
    pub count: u32,
    /// How they get their memory.
    #[serde(default)]
    pub memory: Memory,
    /// Labels to find them by.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Seconds until they are killed.
    pub timeout_s: Option<u64>,
    /// What each may take of the host; as their parent by default.
    pub limits: Option<Limited>,
}

/// Query of `GET /v1/sandboxes`.
#[derive(Clone, Debug, Default, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// `key=value`: only sandboxes with that label. Given more than once, with all of them.
    pub label: Vec<String>,
}

impl ListQuery {
    /// What the `pairs` of a query ask for.
    pub fn read(pairs: Vec<(String, String)>) -> Result<Self, Problem> {
        let mut query = Self::default();
        for (key, value) in pairs {
            if key != "label" {
                let detail = format!("there is no parameter {key:?}; there is \"label\"");
                return Err(Problem::malformed(detail).at(&key));
            }
            query.label.push(value);
        }
        Ok(query)
    }

    /// The labels, as keys and values.
    pub fn labels(&self) -> Result<Vec<(String, String)>, Problem> {
        let split = |label: &String| {
            let pair = label.split_once('=').filter(|(key, _)| !key.is_empty());
            let pair = pair.map(|(key, value)| (key.to_owned(), value.to_owned()));
            pair.ok_or_else(|| Problem::value("label", "a filter is key=value"))
        };
        self.label.iter().map(split).collect()
    }
}

/// Query of `GET /v1/sandboxes/{id}/console`.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ConsoleQuery {
    /// Whether to wait for more until the sandbox is gone.
    #[serde(default)]
    pub follow: bool,
}

/// Answer of `POST /v1/sandboxes/{id}/console`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ConsoleInputAnswer {
    /// How many of the bytes the console took: the rest does not fit until the guest reads.
    pub bytes: usize,
}

/// The steps that a sandbox's making took, in microseconds.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LadderAnswer {
    /// Waiting for a turn.
    pub queue: f64,
    /// VM, interrupt chips and vCPUs.
    pub shell: f64,
    /// The memslot, which grows with guest memory.
    pub memslot: f64,
    /// Mapping the memory, or copying it.
    pub map: f64,
    /// Copying the parent's own pages.
    pub copy: f64,
    /// Copying the hot set.
    pub hot_set: f64,
    /// Giving it its state.
    pub restore: f64,
    /// Starting its threads.
    pub first_run: f64,
    /// In KVM and the guest until the first exit on purpose; null until it was seen.
    pub first_instruction: Option<f64>,
    /// From the request to that exit.
    pub total: Option<f64>,
    /// From the request until the guest was another machine than its parent; null for guests
    /// without an agent.
    pub ready: Option<f64>,
    /// How long the parent stood still; null after a spawn.
    pub parent_pause: Option<f64>,
    /// Pages copied from the parent.
    pub dirty_pages: u64,
    /// How the memory was made.
    pub strategy: String,
    /// Where the cell came from: `dormant`, `blank` or `fresh`; null after a fork, and without
    /// cells.
    pub cell: Option<&'static str>,
}

impl LadderAnswer {
    /// What `ladder` says of a clone whose cell came from `origin`.
    pub fn new(ladder: &Ladder, origin: Option<Origin>) -> Self {
        Self {
            cell: origin.map(Origin::name),
            queue: micros(ladder.queue),
            shell: micros(ladder.shell),
            memslot: micros(ladder.memslot),
            map: micros(ladder.map),
            copy: micros(ladder.copy),
            hot_set: micros(ladder.hot_set),
            restore: micros(ladder.restore),
            first_run: micros(ladder.first_run),
            first_instruction: ladder.first_instruction.map(micros),
            total: ladder.total.map(micros),
            ready: ladder.ready.map(micros),
            parent_pause: ladder.parent_pause.map(micros),
            dirty_pages: ladder.dirty_pages,
            strategy: ladder.strategy.to_string(),
        }
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1000.0
}

/// A sandbox.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SandboxAnswer {
    /// Its id.
    pub id: String,
    /// `running`, `paused`, `failed`, `ended` or `killed`.
    pub state: &'static str,
    /// Why it failed, or how it ended.
    pub reason: Option<String>,
    /// Whether the guest is at work.
    pub busy: bool,
    /// The sandbox it was forked from.
    pub parent: Option<String>,
    /// The snapshot it was spawned from.
    pub snapshot: Option<String>,
    /// The image it goes back to.
    pub image: String,
    /// The process that hosts it alone; null without cells.
    pub pid: Option<u32>,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Guest RAM.
    pub memory_mib: u64,
    /// How it got its memory.
    pub memory: Memory,
    /// What it may take of the host; null without limits.
    pub limits: Option<Limited>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: String,
    /// When it will be killed.
    pub expires_at: Option<String>,
    /// What its making took.
    pub ladder: LadderAnswer,
}

/// One result of a spawn or a fork.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CloneResult {
    /// It was made.
    Sandbox(Box<SandboxAnswer>),
    /// It could not be made.
    Error(Problem),
}

/// Answer of spawn and fork: one result for each clone, in order.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CloneResults {
    /// The results.
    pub results: Vec<CloneResult>,
}

/// The sandboxes.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SandboxList {
    /// In order of their making.
    pub sandboxes: Vec<SandboxAnswer>,
}

/// The sandboxes that a daemon left when it died: they are gone.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LostList {
    /// In order of their ids.
    pub lost: Vec<Lost>,
}

/// A sandbox's memory account.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MemoryAnswer {
    /// Size of guest RAM.
    pub ram_bytes: u64,
    /// Pages of this sandbox alone.
    pub private_bytes: u64,
    /// Of those, swapped out.
    pub swapped_bytes: u64,
    /// Pages shared with the image that it has touched.
    pub shared_bytes: u64,
    /// Host page tables for them.
    pub page_table_bytes: u64,
    /// Of the memory mapped, what lies in huge pages.
    pub huge_bytes: u64,
    /// The layer between the base image and this sandbox, shared with its siblings.
    pub delta_bytes: u64,
    /// KVM's counters since it was made.
    pub kvm: KvmAnswer,
}

/// KVM's counters of one sandbox.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct KvmAnswer {
    /// Times that a vCPU left the guest.
    pub exits: u64,
    /// Page faults that KVM handled.
    pub page_faults: u64,
    /// Those fixed by mapping a page.
    pub page_faults_fixed: u64,
    /// Port accesses that left the kernel or not.
    pub io_exits: u64,
    /// Interrupts injected.
    pub interrupts: u64,
}

impl MemoryAnswer {
    /// The account of `ledger` and `counters`.
    pub fn new(ledger: &Ledger, counters: &KvmCounters) -> Self {
        Self {
            ram_bytes: ledger.ram_bytes,
            private_bytes: ledger.private_bytes,
            swapped_bytes: ledger.swapped_bytes,
            shared_bytes: ledger.shared_bytes,
            page_table_bytes: ledger.page_table_bytes,
            huge_bytes: ledger.huge_bytes,
            delta_bytes: ledger.delta_bytes,
            kvm: KvmAnswer {
                exits: counters.exits,
                page_faults: counters.page_faults,
                page_faults_fixed: counters.page_faults_fixed,
                io_exits: counters.io_exits,
                interrupts: counters.interrupts,
            },
        }
    }
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

/// Reads a JSON body; an error names the field at fault.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let field = error.path().to_string();
        let problem = Problem::malformed(format!("the body is wrong: {}", error.inner()));
        if field == "." { problem } else { problem.at(&field) }
    })?;
    reader.end().map_err(|_| Problem::malformed("there is something after the JSON body"))?;
    Ok(value)
}

fn check_count(count: u32) -> Result<(), Problem> {
    match count {
        1..=MAX_COUNT => Ok(()),
        _ => Err(Problem::value(
            "count",
            format!("1 to {MAX_COUNT} can be made at once, not {count}"),
        )),
    }
}

fn check_timeout(timeout_s: Option<u64>) -> Result<(), Problem> {
    match timeout_s {
        None | Some(1..=MAX_TIMEOUT_S) => Ok(()),
        Some(other) => {
            let detail = format!("a timeout is 1 to {MAX_TIMEOUT_S} seconds, not {other}");
            Err(Problem::value("timeout_s", detail))
        }
    }
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Problem> {
    let fits = |text: &str| text.len() <= 256;
    let named = labels.keys().all(|key| !key.is_empty() && !key.contains('='));
    if labels.len() <= 64 && named && labels.iter().all(|(key, value)| fits(key) && fits(value)) {
        return Ok(());
    }
    let rule = "at most 64 labels, with keys of 1 to 256 bytes without '=' and values up to 256";
    Err(Problem::value("labels", rule))
}

impl SpawnRequest {
    /// Checks what can be checked without the registry.
    pub fn check(&self) -> Result<(), Problem> {
        check_count(self.count)?;
        check_timeout(self.timeout_s)?;
        check_labels(&self.labels)?;
        self.limits.map_or(Ok(()), Limited::check)?;
        match (&self.image, &self.snapshot) {
            (Some(_), Some(_)) => {
                Err(Problem::value("snapshot", "name an image or a snapshot, not both"))
            }
            (None, None) => Err(Problem::value("image", "name an image or a snapshot")),
            (None, Some(_)) if self.vcpus.is_some() => {
                Err(Problem::value("vcpus", "a snapshot has its own number of vCPUs"))
            }
            (None, Some(_)) if self.memory_mib.is_some() => {
                Err(Problem::value("memory_mib", "a snapshot has its own memory"))
            }
            _ => Ok(()),
        }
    }
}

impl ForkRequest {
    /// Checks what can be checked without the registry.
    pub fn check(&self) -> Result<(), Problem> {
        check_count(self.count)?;
        check_timeout(self.timeout_s)?;
        self.limits.map_or(Ok(()), Limited::check)?;
        check_labels(&self.labels)
    }
}
