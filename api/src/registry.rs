//! The sandboxes and snapshots that exist, and what may be made.
//!
//! Everything here blocks, and is called on blocking threads only.

mod admission;
mod hot_sets;
mod id;
mod kept;
mod limits;
mod records;
mod sandbox;
mod snapshots;
mod templates;

pub use hot_sets::Recorder;
use hot_sets::Watched;
pub use id::is_id;
pub(crate) use id::new_id;
pub use limits::{Limits, MAX_OPERATIONS, OVERCOMMIT};
pub use records::{Lost, Records, RecordsError, SandboxRecord, SnapshotRecord};
pub use sandbox::Sandbox;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tine_cell::{CellLimits, Fault, Origin as CellOrigin};

use crate::console::{ConsoleBuffer, ConsoleReader};
use crate::engine::{CloneWish, Engine, Held, Vm};
use crate::metrics::Metrics;
use crate::model::{CloneResult, ForkRequest, Limited, Memory, SandboxAnswer, SpawnRequest};
use crate::problem::Problem;
use crate::template::Shape;
use crate::time::rfc3339;
use admission::Room;
use snapshots::Stored;
use templates::Templates;

/// The image that is built in.
const WORKLOAD: &str = "workload";
/// RAM of a sandbox whose request names none, MiB.
const DEFAULT_MEMORY_MIB: u64 = 256;

#[derive(Debug, Default)]
struct Contents {
    sandboxes: HashMap<String, Arc<Sandbox>>,
    snapshots: HashMap<String, Arc<Stored>>,
    /// For sandboxes that are being made.
    promised: Room,
    /// Counts what was made, for the order of lists.
    made: u64,
    closed: bool,
}

/// Everything that the daemon holds.
#[derive(Debug)]
pub struct Registry {
    engine: Engine,
    /// Where images of Linux guests are, if anywhere.
    images: Option<PathBuf>,
    limits: Limits,
    /// What the daemon counts.
    pub metrics: Metrics,
    contents: Mutex<Contents>,
    templates: Templates,
    records: Option<Arc<Records>>,
    /// Where what outlives the daemon is, if anywhere.
    state: Option<PathBuf>,
}

/// Where a clone comes from, and what its maker asked for.
struct Origin<'a> {
    image: &'a str,
    parent: Option<&'a str>,
    snapshot: Option<&'a str>,
    memory: Memory,
    labels: &'a BTreeMap<String, String>,
    timeout_s: Option<u64>,
    /// What it may take of the host.
    limits: CellLimits,
    /// The snapshot whose hot set is to be recorded.
    recorded: Option<&'a Held>,
}

impl Registry {
    /// An empty registry, which finds images of Linux guests in the store at `images`.
    pub fn new(engine: Engine, images: Option<PathBuf>, limits: Limits) -> Self {
        Self {
            engine,
            images,
            limits,
            metrics: Metrics::new(),
            contents: Mutex::default(),
            templates: Templates::default(),
            records: None,
            state: None,
        }
    }

    /// What makes its machines.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What it admits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sandboxes from an image or a snapshot; `requested` is when it was asked for.
    pub fn spawn(
        &self,
        request: &SpawnRequest,
        requested: Instant,
    ) -> Result<Vec<CloneResult>, Problem> {
        request.check()?;
        let (snapshot, image, id, _promise) = match &request.snapshot {
            Some(name) => {
                let (id, stored) = self.find_snapshot(name)?;
                let bytes = stored.snapshot.about().ram_bytes;
                let promise = self.promise(request.count, bytes, request.memory)?;
                (stored.snapshot.clone(), stored.image().to_owned(), Some(id), promise)
            }
            None => {
                let memory_mib = request.memory_mib.unwrap_or(DEFAULT_MEMORY_MIB);
                let bytes = self.check_ram(memory_mib)?;
                let promise = self.promise(request.count, bytes, request.memory)?;
                let shape = Shape { vcpus: request.vcpus.unwrap_or(1), memory_mib };
                let image = request.image.as_deref().unwrap_or(WORKLOAD);
                let store = self.images.as_deref();
                let snapshot = self.templates.get(&self.engine, store, image, shape)?;
                (snapshot, image.to_owned(), None, promise)
            }
        };
        let origin = Origin {
            image: &image,
            parent: None,
            snapshot: id.as_deref(),
            memory: request.memory,
            labels: &request.labels,
            timeout_s: request.timeout_s,
            limits: request.limits.map(Limited::limits).unwrap_or_default(),
            recorded: Some(&snapshot).filter(|_| request.hot_set && request.memory == Memory::Cow),
        };
        let make = |_| {
            // A large request must not keep the daemon from stopping.
            if self.contents().closed {
                return CloneResult::Error(stopping());
            }
            let wanted = match Wanted::new() {
                Ok(wanted) => wanted,
                Err(problem) => return CloneResult::Error(problem),
            };
            let wish = wanted.wish(request.memory, request.hot_set, origin.limits, requested);
            let made = self.engine.spawn(&snapshot, wish);
            self.admit("spawn", &origin, wanted, made)
        };
        Ok((0..request.count).map(make).collect())
    }

    /// Whether `request` will take less time than the way to another thread and back.
    pub fn is_quick(&self, request: &SpawnRequest) -> bool {
        if request.count != 1 || !request.hot_set || request.memory != Memory::Cow {
            return false;
        }
        let snapshot = match &request.snapshot {
            Some(name) => self.find_snapshot(name).ok().map(|(_, stored)| stored.snapshot.clone()),
            None => {
                let memory_mib = request.memory_mib.unwrap_or(DEFAULT_MEMORY_MIB);
                let shape = Shape { vcpus: request.vcpus.unwrap_or(1), memory_mib };
                self.templates.there(request.image.as_deref().unwrap_or(WORKLOAD), shape)
            }
        };
        snapshot.is_some_and(|snapshot| self.engine.is_quick(&snapshot))
    }

    /// Forks sandbox `id`, which goes on.
    pub fn fork(
        &self,
        id: &str,
        request: &ForkRequest,
        requested: Instant,
    ) -> Result<Vec<CloneResult>, Problem> {
        request.check()?;
        let parent = self.find(id)?;
        let _promise = self.promise(request.count, parent.ram_bytes, request.memory)?;
        let wanted: Vec<Wanted> =
            (0..request.count).map(|_| Wanted::new()).collect::<Result<_, _>>()?;
        let limits = request.limits.map_or(parent.limits, Limited::limits);
        let wish = |one: &Wanted| one.wish(request.memory, false, limits, requested);
        let children = wanted.iter().map(wish).collect();
        let forked = self.engine.fork(&parent.vm, children).inspect_err(|_| {
            self.metrics.failed("fork", request.count);
        })?;
        let origin = Origin {
            image: &parent.image,
            parent: Some(id),
            snapshot: None,
            memory: request.memory,
            labels: &request.labels,
            timeout_s: request.timeout_s,
            limits,
            recorded: None,
        };
        let first = forked.iter().find_map(|child| child.as_ref().ok());
        if let Some(pause) = first.and_then(|child| child.ladder().parent_pause) {
            self.metrics.paused(pause);
        }
        let admit = |(child, wanted): (Result<Vm, Fault>, _)| {
            self.admit("fork", &origin, wanted, child.map(|vm| (vm, None)))
        };
        Ok(forked.into_iter().zip(wanted).map(admit).collect())
    }

    /// Puts what was made into the registry.
    fn admit(
        &self,
        by: &'static str,
        origin: &Origin<'_>,
        wanted: Wanted,
        made: Result<(Vm, Option<CellOrigin>), Fault>,
    ) -> CloneResult {
        let Wanted { id, console } = wanted;
        let (vm, cell) = match made {
            Ok(made) => made,
            Err(fault) => {
                self.metrics.failed(by, 1);
                return CloneResult::Error(fault.into());
            }
        };
        self.metrics.made(by, origin.memory, &vm.ladder());
        if let Some(cell) = cell {
            self.metrics.cell(cell);
        }
        let lifetime = origin.timeout_s.map(Duration::from_secs);
        let created = SystemTime::now();
        self.record(|| SandboxRecord {
            id: id.clone(),
            image: origin.image.to_owned(),
            parent: origin.parent.map(str::to_owned),
            snapshot: origin.snapshot.map(str::to_owned),
            vcpus: vm.vcpus(),
            memory_mib: vm.ram_bytes() >> 20,
            labels: origin.labels.clone(),
            created_at: rfc3339(created),
            expires_at: lifetime.map(|lifetime| rfc3339(created + lifetime)),
            pid: vm.pid(),
        });
        let mut contents = self.contents();
        if contents.closed {
            drop(contents);
            self.unrecord(&id);
            return CloneResult::Error(stopping());
        }
        contents.made += 1;
        let recorded = origin.recorded.filter(|held| held.recorder.wants_one());
        let watched = recorded.map(|held| Watched::new(held.clone()));
        let sandbox = Arc::new(Sandbox {
            id: id.clone(),
            watched,
            limits: origin.limits,
            ram_bytes: vm.ram_bytes(),
            vm,
            cell,
            console,
            labels: origin.labels.clone(),
            image: origin.image.to_owned(),
            number: contents.made,
            parent: origin.parent.map(str::to_owned),
            snapshot: origin.snapshot.map(str::to_owned),
            memory: origin.memory,
            created,
            lifetime,
            expires: lifetime.map(|lifetime| Instant::now() + lifetime),
        });
        contents.sandboxes.insert(id, Arc::clone(&sandbox));
        drop(contents);
        CloneResult::Sandbox(Box::new(sandbox.describe()))
    }

    fn check_ram(&self, mib: u64) -> Result<u64, Problem> {
        let most = self.limits.sandbox_ram_bytes;
        match mib.checked_mul(1 << 20) {
            Some(bytes) if mib > 0 && bytes <= most => Ok(bytes),
            _ => {
                let detail =
                    format!("a sandbox has 8 to {} MiB of RAM here, not {mib}", most >> 20);
                Err(Problem::value("memory_mib", detail))
            }
        }
    }

    /// Sandbox `id`.
    pub fn find(&self, id: &str) -> Result<Arc<Sandbox>, Problem> {
        let found = self.contents().sandboxes.get(id).cloned();
        found.ok_or_else(|| Problem::missing("sandbox", id))
    }

    /// What sandbox `id` printed.
    pub fn console(&self, id: &str) -> Result<ConsoleReader, Problem> {
        // Under the lock, so that no machine ends with what the caller holds.
        let reader = self.contents().sandboxes.get(id).map(|sandbox| sandbox.console.reader());
        reader.ok_or_else(|| Problem::missing("sandbox", id))
    }

    /// The sandboxes that have all of `labels`, in order of their making.
    pub fn list(&self, labels: &[(String, String)]) -> Vec<SandboxAnswer> {
        let has = |one: &&Arc<Sandbox>| one.has(labels);
        let mut found: Vec<_> = self.contents().sandboxes.values().filter(has).cloned().collect();
        found.sort_by_key(|sandbox| sandbox.number);
        found.iter().map(|sandbox| sandbox.describe()).collect()
    }

    /// Kills and removes sandbox `id`.
    pub fn remove(&self, id: &str) -> Result<(), Problem> {
        let removed = self.contents().sandboxes.remove(id);
        let sandbox = removed.ok_or_else(|| Problem::missing("sandbox", id))?;
        sandbox.record_hot_set();
        sandbox.vm.kill();
        self.unrecord(id);
        self.metrics.killed();
        Ok(())
    }

    /// Kills and removes the sandboxes whose time is up. Returns their ids.
    pub fn expire(&self) -> Vec<String> {
        let now = Instant::now();
        let over: Vec<_> = self
            .contents()
            .sandboxes
            .extract_if(|_, one| one.is_over(now))
            .map(|(_, one)| one)
            .collect();
        let end = |sandbox: Arc<Sandbox>| {
            tracing::info!(id = sandbox.id, "the sandbox's time is up");
            sandbox.vm.kill();
            self.unrecord(&sandbox.id);
            self.metrics.expired();
            sandbox.id.clone()
        };
        over.into_iter().map(end).collect()
    }

    /// How many sandboxes and snapshots there are.
    pub fn counts(&self) -> (usize, usize) {
        let contents = self.contents();
        (contents.sandboxes.len(), contents.snapshots.len())
    }

    /// Admits nothing any more, and kills everything. Returns the ids of what still ran.
    pub fn close(&self) -> Vec<String> {
        let sandboxes: Vec<_> = {
            let mut contents = self.contents();
            contents.closed = true;
            for stored in contents.snapshots.values() {
                stored.keeping.cancel();
            }
            contents.sandboxes.drain().map(|(_, sandbox)| sandbox).collect()
        };
        let mut ids = Vec::with_capacity(sandboxes.len());
        for sandbox in sandboxes {
            if sandbox.is_alive() {
                ids.push(sandbox.id.clone());
            }
            sandbox.vm.kill();
            self.unrecord(&sandbox.id);
        }
        ids.sort();
        ids
    }
}

fn stopping() -> Problem {
    Problem::unavailable("the daemon is stopping").retry_after(1)
}

/// A sandbox that is to be made.
struct Wanted {
    id: String,
    console: ConsoleBuffer,
}

impl Wanted {
    fn new() -> Result<Self, Problem> {
        Ok(Self { id: new_id()?, console: ConsoleBuffer::new() })
    }

    /// How it is made: a Linux guest calls itself by its id.
    fn wish(
        &self,
        memory: Memory,
        hot_set: bool,
        limits: CellLimits,
        requested: Instant,
    ) -> CloneWish {
        CloneWish {
            memory,
            hot_set,
            requested,
            hostname: self.id.clone(),
            console: self.console.clone(),
            limits,
        }
    }
}
