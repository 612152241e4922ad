//! How the daemon's machines are made and held: each in a cell of its own, or, for those who
//! ask for that, all in this process.

mod vm;

pub use vm::Vm;

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tine_cell::keeper::FrozenCell;
use tine_cell::protocol::{About, Request, Start};
use tine_cell::{CellLimits, CellSnapshot, Fault, Kind, Nursery, Origin, SpawnWish};
use tine_images::{Image, Store};
use tine_vmm::memory::{HotSet, ImageKind};
use tine_vmm::snapshot::{SnapshotFileError, Unfinished};
use tine_vmm::{Identity, KvmHost, Machine, MachineConfig, Snapshot, SpawnOptions};

use crate::console::ConsoleBuffer;
use crate::model::Memory;
use crate::registry::Recorder;
use crate::template::{self, BOOT_LIMIT, Shape, TemplateError};

/// How long a clone's first instruction is waited for.
const FIRST_LIMIT: Duration = Duration::from_millis(100);

/// Makes machines.
#[derive(Debug)]
pub enum Engine {
    /// One confined process for each.
    Cells(Nursery),
    /// All in this process, not confined.
    InProcess(Arc<KvmHost>),
}

/// A snapshot that the daemon holds; a clone of the value is the same snapshot.
#[derive(Clone, Debug)]
pub struct Held {
    place: Place,
    /// What is known of the pages that its clones use.
    pub recorder: Arc<Recorder>,
}

#[derive(Clone, Debug)]
enum Place {
    /// As descriptors.
    Cell(Arc<CellSnapshot>),
    /// In this process.
    Here(Arc<Mutex<Snapshot>>),
}

/// What a clone is to be.
pub struct CloneWish {
    /// How it gets its memory.
    pub memory: Memory,
    /// Whether the hot set is copied ahead.
    pub hot_set: bool,
    /// When it was asked for.
    pub requested: Instant,
    /// What a Linux guest calls itself.
    pub hostname: String,
    /// Where its console output goes.
    pub console: ConsoleBuffer,
    /// What it may take of the host.
    pub limits: CellLimits,
}

impl CloneWish {
    fn start(&self) -> Start {
        let hostname = Some(self.hostname.clone());
        Start { requested: self.requested.into(), hostname, wait: FIRST_LIMIT }
    }

    fn for_cell(self) -> (SpawnWish, tine_cell::keeper::ConsoleOutput) {
        let start = self.start();
        let Self { memory, hot_set, mut console, limits, .. } = self;
        let wish = SpawnWish { eager: memory == Memory::Eager, hot_set, start, limits };
        (wish, Box::new(move |bytes| console.push(bytes)))
    }

    fn for_process(self) -> SpawnOptions {
        SpawnOptions {
            memory: self.memory.into(),
            hot_set: self.hot_set,
            console: Box::new(self.console),
            requested: self.requested,
            identity: Identity { hostname: Some(self.hostname), machine_id: None },
            wait: FIRST_LIMIT,
            ..SpawnOptions::new()
        }
    }
}

/// Limits are for processes.
fn not_here(limits: &CellLimits) -> Result<(), Fault> {
    match limits.is_none() {
        true => Ok(()),
        false => Err(Fault::new(
            Kind::Value("limits".into()),
            "sandboxes that share the daemon's process have no limits of their own",
        )),
    }
}

fn in_process() -> Fault {
    Fault::state("the machine and the daemon do not belong together")
}

impl Engine {
    /// Boots the embedded workload in `shape`, and takes a snapshot of it.
    pub fn boot_workload(&self, shape: Shape) -> Result<Held, Fault> {
        let (ram_bytes, vcpus) = (shape.memory_mib << 20, shape.vcpus);
        match self {
            Self::Cells(nursery) => {
                let image = ImageKind::Small;
                let request = Request::BootWorkload { ram_bytes, vcpus, image };
                let booted = nursery.boot(request, &[], BOOT_LIMIT)?;
                Ok(Held::cell(booted.snapshot()?))
            }
            Self::InProcess(host) => {
                let config = MachineConfig { ram_bytes, vcpus, ..MachineConfig::default() };
                let machine = Machine::boot(host, &config, Box::new(std::io::sink()))?;
                Ok(Held::here(machine.snapshot()?.0))
            }
        }
    }

    /// The template of image `name` of `store` in `shape`, and how long it took to boot when it
    /// had to.
    pub fn template(
        &self,
        store: &Store,
        name: &str,
        shape: Shape,
    ) -> Result<(Held, Option<Duration>), TemplateError> {
        match self {
            Self::InProcess(host) => {
                let sink = Box::new(std::io::sink());
                let template = template::get(host, store, name, shape, sink)?;
                Ok((Held::here(template.snapshot), template.boot))
            }
            Self::Cells(nursery) => template::get_by(
                store,
                name,
                shape,
                |path, image| open(nursery, path, image),
                |path, image| boot(nursery, path, image, shape),
            ),
        }
    }

    /// A clone of `snapshot`, and where its cell came from, if it has one.
    pub fn spawn(&self, snapshot: &Held, wish: CloneWish) -> Result<(Vm, Option<Origin>), Fault> {
        match (self, &snapshot.place) {
            (Self::Cells(nursery), Place::Cell(snapshot)) => {
                let (wish, console) = wish.for_cell();
                let (cell, origin) = nursery.spawn(snapshot, wish, console)?;
                Ok((Vm::Cell(Box::new(cell)), Some(origin)))
            }
            (Self::InProcess(host), Place::Here(snapshot)) => {
                not_here(&wish.limits)?;
                let snapshot = lock(snapshot).clone();
                let machine = Machine::spawn(host, &snapshot, wish.for_process())?;
                Ok((Vm::Here(Box::new(machine)), None))
            }
            _ => Err(in_process()),
        }
    }

    /// Whether a clone of `snapshot` takes less time than the way to another thread and back.
    pub fn is_quick(&self, snapshot: &Held) -> bool {
        match (self, &snapshot.place) {
            (Self::Cells(nursery), Place::Cell(snapshot)) => nursery.is_settled(snapshot),
            _ => false,
        }
    }

    /// Forks `parent`, which goes on: one result for each of `children`, in order.
    pub fn fork(
        &self,
        parent: &Vm,
        children: Vec<CloneWish>,
    ) -> Result<Vec<Result<Vm, Fault>>, Fault> {
        match (self, parent) {
            // All of a child's memory is copied from a snapshot, which the parent stands still
            // for only once.
            (Self::Cells(nursery), Vm::Cell(parent))
                if children.iter().any(|child| child.memory == Memory::Eager) =>
            {
                let (mut frozen, pause) = nursery.freeze(parent)?;
                let snapshot = Arc::new(frozen.snapshot()?);
                let spawn = |child: CloneWish| {
                    let (wish, console) = child.for_cell();
                    let (cell, _) = nursery.spawn(&snapshot, wish, console)?;
                    Ok(Vm::Cell(Box::new(cell.after_pause(pause.total))))
                };
                Ok(children.into_iter().map(spawn).collect())
            }
            (Self::Cells(nursery), Vm::Cell(parent)) => {
                let children = children.into_iter().map(CloneWish::for_cell).collect();
                let (cells, _) = nursery.fork(parent, children)?;
                Ok(cells
                    .into_iter()
                    .map(|cell| cell.map(|cell| Vm::Cell(Box::new(cell))))
                    .collect())
            }
            (Self::InProcess(_), Vm::Here(parent)) => {
                children.iter().try_for_each(|child| not_here(&child.limits))?;
                let children = children.into_iter().map(CloneWish::for_process).collect();
                let here = |machine: Machine| Vm::Here(Box::new(machine));
                let forked = parent.fork(children)?.into_iter();
                Ok(forked.map(|child| child.map(here).map_err(Fault::from)).collect())
            }
            _ => Err(in_process()),
        }
    }

    /// What `vm`, which goes on, is now; and how long it stood still.
    pub fn freeze(&self, vm: &Vm) -> Result<(FrozenVm, Duration), Fault> {
        match (self, vm) {
            (Self::Cells(nursery), Vm::Cell(cell)) => {
                let (frozen, pause) = nursery.freeze(cell)?;
                Ok((FrozenVm::Cell(frozen), pause.total))
            }
            (Self::InProcess(_), Vm::Here(machine)) => {
                let (snapshot, pause) = machine.snapshot()?;
                Ok((FrozenVm::Here(snapshot), pause))
            }
            _ => Err(in_process()),
        }
    }

    /// Reads a snapshot file, with `disks` below its own.
    pub fn open(&self, path: &Path, disks: &[&Path]) -> Result<Held, Fault> {
        let failed = |error: std::io::Error| Fault::of(Kind::Value("snapshot".into()), &error);
        match self {
            Self::Cells(nursery) => {
                let file = File::open(path).map_err(failed)?;
                let opened = disks.iter().map(File::open).collect::<Result<Vec<_>, _>>();
                let opened = opened.map_err(failed)?;
                let disks: Vec<_> = disks.iter().copied().zip(&opened).collect();
                Ok(Held::cell(nursery.open(&file, path, &disks)?))
            }
            Self::InProcess(host) => {
                let verify = tine_vmm::snapshot::Verify::Header;
                let snapshot = Snapshot::open(path, host, verify)
                    .map_err(|error| Fault::of(Kind::Value("snapshot".into()), &error))?;
                Ok(Held::here(snapshot))
            }
        }
    }

    /// The cells that wait; none in this process.
    pub fn nursery(&self) -> Option<&Nursery> {
        match self {
            Self::Cells(nursery) => Some(nursery),
            Self::InProcess(_) => None,
        }
    }
}

/// What a machine was at one moment.
#[derive(Debug)]
pub enum FrozenVm {
    /// In a process of its own.
    Cell(FrozenCell),
    /// In this process.
    Here(Snapshot),
}

impl FrozenVm {
    /// A snapshot of it, in memory.
    pub fn snapshot(&mut self) -> Result<Held, Fault> {
        match self {
            Self::Cell(frozen) => Ok(Held::cell(frozen.snapshot()?)),
            Self::Here(snapshot) => Ok(Held::here(snapshot.clone())),
        }
    }

    /// Writes it to `path`, where it appears whole or not at all. `progress` is told how many
    /// bytes are written, of how many, and says whether to go on.
    pub fn save(
        &mut self,
        path: &Path,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<(), Fault> {
        let failed = |error: SnapshotFileError| Fault::of(Kind::Room, &error);
        match self {
            Self::Cell(frozen) => {
                let unfinished = Unfinished::create(path).map_err(failed)?;
                frozen.save(unfinished.file(), progress)?;
                unfinished.finish().map_err(failed)
            }
            Self::Here(snapshot) => snapshot.save(path).map_err(failed),
        }
    }
}

fn open(nursery: &Nursery, path: &Path, image: &Image) -> Option<Held> {
    let (file, disk) = (File::open(path).ok()?, File::open(&image.rootfs).ok()?);
    match nursery.open(&file, path, &[(&image.rootfs, &disk)]) {
        Ok(snapshot) => Some(Held::cell(snapshot)),
        Err(fault) => {
            tracing::warn!(%fault, path = %path.display(), "a kept snapshot is made anew");
            None
        }
    }
}

/// Boots `image`, and keeps its snapshot at `path`.
fn boot(
    nursery: &Nursery,
    path: &Path,
    image: &Image,
    shape: Shape,
) -> Result<Held, TemplateError> {
    let cell = |fault| TemplateError::Cell { image: image.name.clone(), source: fault };
    let open_file = |path: &Path| {
        File::open(path).map_err(|error| TemplateError::File {
            action: "opening",
            path: path.to_path_buf(),
            source: error,
        })
    };
    let names = vec![image.kernel.clone(), image.initramfs.clone(), image.rootfs.clone()];
    let files = names.iter().map(|path| open_file(path)).collect::<Result<Vec<_>, _>>()?;
    let request = Request::BootLinux {
        ram_bytes: shape.memory_mib.saturating_mul(1 << 20),
        vcpus: shape.vcpus,
        command_line: tine_vmm::boot::linux::COMMAND_LINE.to_owned(),
        files: names,
        limit: BOOT_LIMIT,
    };
    let descriptors: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    // What the boot itself does not notice is noticed a little later.
    let limit = BOOT_LIMIT + Duration::from_secs(30);
    let booted = nursery.boot(request, &descriptors, limit).map_err(cell)?;
    let keep = |error| TemplateError::Keep { image: image.name.clone(), source: Box::new(error) };
    let unfinished = Unfinished::create(path).map_err(keep)?;
    booted.save(unfinished.file()).map_err(cell)?;
    unfinished.finish().map_err(keep)?;
    open(nursery, path, image).ok_or_else(|| {
        cell(Fault::new(Kind::Internal, "the snapshot that was just kept can't be opened"))
    })
}

fn lock(snapshot: &Mutex<Snapshot>) -> MutexGuard<'_, Snapshot> {
    snapshot.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Held {
    fn here(snapshot: Snapshot) -> Self {
        let place = Place::Here(Arc::new(Mutex::new(snapshot)));
        Self { place, recorder: Arc::default() }
    }

    fn cell(snapshot: CellSnapshot) -> Self {
        Self { place: Place::Cell(Arc::new(snapshot)), recorder: Arc::default() }
    }

    /// What it is.
    pub fn about(&self) -> About {
        match &self.place {
            Place::Cell(snapshot) => snapshot.about,
            Place::Here(snapshot) => About::of(&lock(snapshot)),
        }
    }

    /// Gives it a hot set.
    pub fn set_hot_set(&self, hot: &HotSet) -> Result<(), Fault> {
        match &self.place {
            Place::Cell(snapshot) => {
                let file = hot.to_file().map_err(|error| Fault::internal(&error))?;
                snapshot.set_hot_set(file, hot.pages());
            }
            Place::Here(snapshot) => {
                let mut snapshot = lock(snapshot);
                *snapshot = snapshot.with_hot_set(hot.clone());
            }
        }
        Ok(())
    }

    /// How many pages its hot set has; none without one.
    pub fn hot_pages(&self) -> Option<u64> {
        match &self.place {
            Place::Cell(snapshot) => snapshot.hot_pages(),
            Place::Here(snapshot) => lock(snapshot).hot_set.as_ref().map(|hot| hot.pages()),
        }
    }
}
