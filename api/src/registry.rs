//! The sandboxes and snapshots that exist, and what may be made.
//!
//! Everything here blocks, and is called on blocking threads only.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tine_vmm::{KvmHost, Machine, MachineConfig, Snapshot, SpawnOptions, Status};

use crate::console::ConsoleBuffer;
use crate::metrics::Metrics;
use crate::model::{
    CloneResult, ForkRequest, LadderAnswer, Memory, SandboxAnswer, SnapshotAnswer, SnapshotRequest,
    SpawnRequest,
};
use crate::problem::Problem;
use crate::time::rfc3339;

/// The one image so far.
const WORKLOAD: &str = "workload";
/// RAM of a sandbox whose request names none, MiB.
const DEFAULT_MEMORY_MIB: u64 = 256;

/// What the daemon admits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most sandboxes.
    pub sandboxes: usize,
    /// Most snapshots, without the images' own.
    pub snapshots: usize,
    /// Most guest RAM of all sandboxes together, bytes. Clones share theirs, so this may
    /// be a multiple of the host's memory.
    pub ram_bytes: u64,
    /// Most guest RAM of one sandbox, bytes.
    pub sandbox_ram_bytes: u64,
    /// Largest request body, bytes.
    pub body_bytes: usize,
    /// Most operations on machines at once; others wait.
    pub operations: usize,
}

impl Limits {
    /// For a host with `memory_bytes` of memory.
    pub fn for_host(memory_bytes: u64) -> Self {
        Self {
            sandboxes: 2000,
            snapshots: 1000,
            ram_bytes: memory_bytes.saturating_mul(64),
            sandbox_ram_bytes: memory_bytes,
            body_bytes: 64 << 10,
            operations: 64,
        }
    }
}

/// A sandbox and what is known of it.
#[derive(Debug)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// The microVM.
    pub machine: Machine,
    /// What it printed.
    pub console: ConsoleBuffer,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    number: u64,
    parent: Option<String>,
    snapshot: Option<String>,
    memory: Memory,
    created: SystemTime,
    lifetime: Option<Duration>,
    expires: Option<Instant>,
}

impl Sandbox {
    /// What the API says of it.
    pub fn describe(&self) -> SandboxAnswer {
        let (state, reason) = match self.machine.status() {
            Status::Running => ("running", None),
            Status::Paused => ("paused", None),
            Status::Failed(reason) => ("failed", Some(reason)),
            Status::Killed => ("killed", None),
        };
        SandboxAnswer {
            id: self.id.clone(),
            state,
            reason,
            busy: self.machine.busy(),
            parent: self.parent.clone(),
            snapshot: self.snapshot.clone(),
            image: WORKLOAD.to_owned(),
            vcpus: self.machine.vcpus(),
            memory_mib: self.machine.ram_bytes() >> 20,
            memory: self.memory,
            labels: self.labels.clone(),
            created_at: rfc3339(self.created),
            expires_at: self.lifetime.map(|lifetime| rfc3339(self.created + lifetime)),
            ladder: LadderAnswer::from(&self.machine.ladder()),
        }
    }
}

/// A snapshot and what is known of it.
#[derive(Debug)]
struct Stored {
    number: u64,
    name: Option<String>,
    sandbox: String,
    snapshot: Snapshot,
    pause: Duration,
    created: SystemTime,
}

impl Stored {
    fn describe(&self, id: &str) -> SnapshotAnswer {
        let Snapshot { image, state, hot_set } = &self.snapshot;
        SnapshotAnswer {
            id: id.to_owned(),
            name: self.name.clone(),
            sandbox: Some(self.sandbox.clone()),
            image: WORKLOAD.to_owned(),
            vcpus: u8::try_from(state.vcpus.len()).unwrap_or(u8::MAX),
            memory_mib: state.ram_bytes >> 20,
            delta_bytes: image.delta().map_or(0, |delta| delta.bytes() as u64),
            hot_set_pages: hot_set.as_ref().map_or(0, |hot| hot.runs().pages()),
            pause_us: self.pause.as_nanos() as f64 / 1000.0,
            created_at: rfc3339(self.created),
        }
    }
}

#[derive(Debug, Default)]
struct Contents {
    sandboxes: HashMap<String, Arc<Sandbox>>,
    snapshots: HashMap<String, Arc<Stored>>,
    /// Sandboxes, and their RAM, that are being made.
    promised: usize,
    promised_bytes: u64,
    /// Counts what was made, for the order of lists.
    made: u64,
    closed: bool,
}

/// A template's place: empty until the image has booted in that shape.
type Template = Arc<Mutex<Option<Snapshot>>>;

/// Everything that the daemon holds.
#[derive(Debug)]
pub struct Registry {
    host: Arc<KvmHost>,
    limits: Limits,
    /// What the daemon counts.
    pub metrics: Metrics,
    contents: Mutex<Contents>,
    /// The image's snapshots by vCPUs and MiB of RAM.
    templates: Mutex<HashMap<(u8, u64), Template>>,
}

/// Room that was promised to sandboxes being made; given back when dropped.
struct Promise<'a> {
    registry: &'a Registry,
    count: usize,
    bytes: u64,
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        let mut contents = self.registry.contents();
        contents.promised -= self.count;
        contents.promised_bytes -= self.bytes;
    }
}

/// Where a clone comes from, and what its maker asked for.
struct Origin<'a> {
    parent: Option<&'a str>,
    snapshot: Option<&'a str>,
    memory: Memory,
    labels: &'a BTreeMap<String, String>,
    timeout_s: Option<u64>,
}

impl Registry {
    /// An empty registry.
    pub fn new(host: Arc<KvmHost>, limits: Limits) -> Self {
        Self {
            host,
            limits,
            metrics: Metrics::new(),
            contents: Mutex::default(),
            templates: Mutex::default(),
        }
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
        let (snapshot, id) = match &request.snapshot {
            Some(name) => {
                let (id, stored) = self.find_snapshot(name)?;
                (stored.snapshot.clone(), Some(id))
            }
            None => {
                let mib = request.memory_mib.unwrap_or(DEFAULT_MEMORY_MIB);
                let bytes = self.check_ram(mib)?;
                self.admissible(request.count, bytes)?;
                (self.template(request.vcpus.unwrap_or(1), mib, bytes)?, None)
            }
        };
        let _promise = self.promise(request.count, snapshot.state.ram_bytes)?;
        let origin = Origin {
            parent: None,
            snapshot: id.as_deref(),
            memory: request.memory,
            labels: &request.labels,
            timeout_s: request.timeout_s,
        };
        let make = |_| {
            let console = ConsoleBuffer::new();
            let mut options = options(&console, request.memory, requested);
            options.hot_set = request.hot_set;
            let made = Machine::spawn(&self.host, &snapshot, options).map_err(Problem::from);
            self.admit("spawn", &origin, console, made)
        };
        Ok((0..request.count).map(make).collect())
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
        let _promise = self.promise(request.count, parent.machine.ram_bytes())?;
        let consoles: Vec<ConsoleBuffer> =
            (0..request.count).map(|_| ConsoleBuffer::new()).collect();
        let children =
            consoles.iter().map(|console| options(console, request.memory, requested)).collect();
        let forked = parent.machine.fork(children)?;
        let origin = Origin {
            parent: Some(id),
            snapshot: None,
            memory: request.memory,
            labels: &request.labels,
            timeout_s: request.timeout_s,
        };
        let first = forked.iter().find_map(|child| child.as_ref().ok());
        if let Some(pause) = first.and_then(|child| child.ladder().parent_pause) {
            self.metrics.paused(pause);
        }
        let admit = |(child, console): (Result<Machine, _>, _)| {
            self.admit("fork", &origin, console, child.map_err(Problem::from))
        };
        Ok(forked.into_iter().zip(consoles).map(admit).collect())
    }

    /// Puts what was made into the registry.
    fn admit(
        &self,
        by: &'static str,
        origin: &Origin<'_>,
        console: ConsoleBuffer,
        made: Result<Machine, Problem>,
    ) -> CloneResult {
        let made = made.and_then(|machine| Ok((new_id()?, machine)));
        let (id, machine) = match made {
            Ok(made) => made,
            Err(problem) => {
                self.metrics.failed(by);
                return CloneResult::Error(problem);
            }
        };
        self.metrics.made(by, &machine.ladder());
        let lifetime = origin.timeout_s.map(Duration::from_secs);
        let mut contents = self.contents();
        if contents.closed {
            return CloneResult::Error(Problem::unavailable("the daemon is stopping"));
        }
        contents.made += 1;
        let sandbox = Arc::new(Sandbox {
            id: id.clone(),
            machine,
            console,
            labels: origin.labels.clone(),
            number: contents.made,
            parent: origin.parent.map(str::to_owned),
            snapshot: origin.snapshot.map(str::to_owned),
            memory: origin.memory,
            created: SystemTime::now(),
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

    /// Whether `count` more sandboxes with `bytes` of RAM each would be admitted now.
    fn admissible(&self, count: u32, bytes: u64) -> Result<(), Problem> {
        self.promise(count, bytes).map(drop)
    }

    fn promise(&self, count: u32, bytes: u64) -> Result<Promise<'_>, Problem> {
        let (count, all) = (count as usize, bytes.saturating_mul(u64::from(count)));
        let mut contents = self.contents();
        if contents.closed {
            return Err(Problem::unavailable("the daemon is stopping"));
        }
        let there = contents.sandboxes.len() + contents.promised;
        if there + count > self.limits.sandboxes {
            let most = self.limits.sandboxes;
            return Err(Problem::unavailable(format!(
                "{count} more sandboxes would be more than the {most} allowed: {there} exist; remove some"
            )));
        }
        let ram: u64 = contents.sandboxes.values().map(|one| one.machine.ram_bytes()).sum();
        let ram = ram + contents.promised_bytes;
        if ram.saturating_add(all) > self.limits.ram_bytes {
            return Err(Problem::unavailable(format!(
                "{} MiB more guest RAM would be more than the {} MiB allowed: {} are in use",
                all >> 20,
                self.limits.ram_bytes >> 20,
                ram >> 20
            )));
        }
        contents.promised += count;
        contents.promised_bytes += all;
        Ok(Promise { registry: self, count, bytes: all })
    }

    /// The snapshot of the image, booted in this shape; it boots for the first who asks.
    fn template(&self, vcpus: u8, mib: u64, ram_bytes: u64) -> Result<Snapshot, Problem> {
        let template = {
            let mut templates = self.templates.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(templates.entry((vcpus, mib)).or_default())
        };
        let mut template = template.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(snapshot) = &*template {
            return Ok(snapshot.clone());
        }
        let config = MachineConfig { ram_bytes, vcpus, ..MachineConfig::default() };
        let begun = Instant::now();
        let booted = Machine::boot(&self.host, &config, Box::new(std::io::sink()))
            .and_then(|machine| machine.snapshot());
        let (snapshot, _) = booted?;
        tracing::info!(vcpus, mib, boot_us = begun.elapsed().as_micros() as u64, "image booted");
        *template = Some(snapshot.clone());
        Ok(snapshot)
    }

    /// Sandbox `id`.
    pub fn find(&self, id: &str) -> Result<Arc<Sandbox>, Problem> {
        let found = self.contents().sandboxes.get(id).cloned();
        found.ok_or_else(|| Problem::missing("sandbox", id))
    }

    /// All sandboxes, or those with a label, in order of their making.
    pub fn list(&self, label: Option<(&str, &str)>) -> Vec<SandboxAnswer> {
        let has = |one: &&Arc<Sandbox>| {
            label.is_none_or(|(key, value)| one.labels.get(key).is_some_and(|own| own == value))
        };
        let mut found: Vec<_> = self.contents().sandboxes.values().filter(has).cloned().collect();
        found.sort_by_key(|sandbox| sandbox.number);
        found.iter().map(|sandbox| sandbox.describe()).collect()
    }

    /// Kills and removes sandbox `id`.
    pub fn remove(&self, id: &str) -> Result<(), Problem> {
        let removed = self.contents().sandboxes.remove(id);
        let sandbox = removed.ok_or_else(|| Problem::missing("sandbox", id))?;
        sandbox.machine.kill();
        self.metrics.killed();
        Ok(())
    }

    /// Kills and removes the sandboxes whose time is up.
    pub fn expire(&self) {
        let now = Instant::now();
        let is_over = |one: &Sandbox| one.expires.is_some_and(|expires| expires <= now);
        let over: Vec<_> = self
            .contents()
            .sandboxes
            .extract_if(|_, one| is_over(one))
            .map(|(_, one)| one)
            .collect();
        for sandbox in over {
            tracing::info!(id = sandbox.id, "the sandbox's time is up");
            sandbox.machine.kill();
            self.metrics.expired();
        }
    }

    /// Takes a snapshot of sandbox `id`, which goes on.
    pub fn take_snapshot(
        &self,
        id: &str,
        request: &SnapshotRequest,
    ) -> Result<SnapshotAnswer, Problem> {
        request.check()?;
        let sandbox = self.find(id)?;
        self.name_is_free(&self.contents(), request.name.as_deref())?;
        let hot_set = match request.hot_set {
            true => Some(sandbox.machine.hot_set()?),
            false => None,
        };
        let (mut snapshot, pause) = sandbox.machine.snapshot()?;
        if let Some(hot_set) = hot_set {
            snapshot = snapshot.with_hot_set(hot_set);
        }
        self.metrics.paused(pause);
        let snapshot_id = new_id()?;
        let mut contents = self.contents();
        self.name_is_free(&contents, request.name.as_deref())?;
        contents.made += 1;
        let stored = Arc::new(Stored {
            number: contents.made,
            name: request.name.clone(),
            sandbox: id.to_owned(),
            snapshot,
            pause,
            created: SystemTime::now(),
        });
        contents.snapshots.insert(snapshot_id.clone(), Arc::clone(&stored));
        Ok(stored.describe(&snapshot_id))
    }

    fn name_is_free(&self, contents: &Contents, name: Option<&str>) -> Result<(), Problem> {
        if contents.snapshots.len() >= self.limits.snapshots {
            let most = self.limits.snapshots;
            return Err(Problem::unavailable(format!("{most} snapshots are kept; remove some")));
        }
        let taken = |stored: &Arc<Stored>| stored.name.as_deref() == name;
        match name {
            Some(name) if contents.snapshots.values().any(taken) => {
                Err(Problem::conflict(format!("a snapshot is named {name:?} already")).at("name"))
            }
            _ => Ok(()),
        }
    }

    fn find_snapshot(&self, name: &str) -> Result<(String, Arc<Stored>), Problem> {
        let contents = self.contents();
        let by_name = |(_, stored): &(&String, &Arc<Stored>)| stored.name.as_deref() == Some(name);
        let found = contents
            .snapshots
            .get_key_value(name)
            .or_else(|| contents.snapshots.iter().find(by_name))
            .map(|(id, stored)| (id.clone(), Arc::clone(stored)));
        found.ok_or_else(|| Problem::missing("snapshot", name))
    }

    /// The snapshot with this id or name.
    pub fn snapshot(&self, name: &str) -> Result<SnapshotAnswer, Problem> {
        self.find_snapshot(name).map(|(id, stored)| stored.describe(&id))
    }

    /// All snapshots, in order of their making.
    pub fn snapshots(&self) -> Vec<SnapshotAnswer> {
        let mut all: Vec<_> = self
            .contents()
            .snapshots
            .iter()
            .map(|(id, stored)| (stored.number, stored.describe(id)))
            .collect();
        all.sort_by_key(|(number, _)| *number);
        all.into_iter().map(|(_, snapshot)| snapshot).collect()
    }

    /// Forgets a snapshot. Sandboxes spawned from it keep what they share.
    pub fn remove_snapshot(&self, name: &str) -> Result<(), Problem> {
        let (id, _) = self.find_snapshot(name)?;
        let removed = self.contents().snapshots.remove(&id);
        removed.map(drop).ok_or_else(|| Problem::missing("snapshot", name))
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
            contents.sandboxes.drain().map(|(_, sandbox)| sandbox).collect()
        };
        let mut ids = Vec::with_capacity(sandboxes.len());
        for sandbox in sandboxes {
            sandbox.machine.kill();
            ids.push(sandbox.id.clone());
        }
        ids.sort();
        ids
    }
}

fn options(console: &ConsoleBuffer, memory: Memory, requested: Instant) -> SpawnOptions {
    SpawnOptions {
        memory: memory.into(),
        console: Box::new(console.clone()),
        requested,
        ..SpawnOptions::new()
    }
}

/// Length of an id.
const ID_BYTES: usize = 20;
const ID_LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// A new id: 20 characters of `[a-z0-9]`, the first a letter, so that it is a DNS label.
fn new_id() -> Result<String, Problem> {
    let mut id = String::with_capacity(ID_BYTES);
    while id.len() < ID_BYTES {
        let mut random = [0u8; 32];
        getrandom::fill(&mut random)
            .map_err(|error| Problem::internal(format!("no random numbers for an id: {error}")))?;
        for byte in random {
            // 252 is the largest multiple of 36 in a byte: no letter is likelier than another.
            let letters = if id.is_empty() { 26 } else { 36 };
            if byte < 252 - 252 % letters && id.len() < ID_BYTES {
                id.push(char::from(ID_LETTERS[usize::from(byte % letters)]));
            }
        }
    }
    Ok(id)
}

/// Whether `text` has the form of an id.
pub fn is_id(text: &str) -> bool {
    text.len() == ID_BYTES && text.bytes().all(|byte| ID_LETTERS.contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_dns_labels_and_differ() {
        let ids: std::collections::BTreeSet<String> = (0..500).map(|_| new_id().unwrap()).collect();
        assert_eq!(ids.len(), 500);
        assert!(ids.iter().all(|id| is_id(id) && id.as_bytes()[0].is_ascii_lowercase()));
    }
}
