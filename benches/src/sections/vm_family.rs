//! A parent in a cell that was at work when it was forked, and two children: what they have of
//! each other's, and what not.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tine_abi::command::{Command, Op};
use tine_abi::layout::{PAGE_SIZE, data_bytes};
use tine_abi::pattern::Selection;
use tine_cell::{Cell, CellSnapshot, SpawnWish};
use tine_vmm::Snapshot;

use super::GUEST_MIB;
use crate::BenchError;
use crate::cells::{self, AtWork, Cells, for_cells};
use crate::content::is_intact;
use crate::error::Doing;
use crate::meminfo::MemInfo;
use crate::rig::WORK_LIMIT;
use crate::stats::microseconds;

/// Pages that the parent has written.
pub const WRITTEN: u64 = 1000;
/// Seed of those writes.
const PARENT_SEED: u64 = 101;
/// Seed of the child's.
const CHILD_SEED: u64 = 102;

/// What a guest has printed.
type Printed = Arc<Mutex<Vec<u8>>>;

/// A parent that was at work when it was forked, and two children that hold what it had.
pub struct Family {
    parent: Arc<Cell>,
    children: Vec<Cell>,
    printed: [Printed; 2],
    /// Whether the first child was at work as soon as it ran.
    at_work: bool,
    fork_us: f64,
    capture_us: f64,
    /// `VmPTE` of the parent before, and of the first child at once.
    page_tables: (u64, u64),
    // Dropped after its cells.
    _cells: Cells,
}

/// What was seen of it.
pub struct Forked {
    /// How long the parent stood still for `fork(2)`.
    pub fork_us: f64,
    /// And while its state was read.
    pub capture_us: f64,
    /// `VmPTE` of the parent before, bytes.
    pub parent_page_tables: u64,
    /// The same of the first child at once.
    pub child_page_tables: u64,
    /// Whether the children were at what their parent was at.
    pub at_work: bool,
    /// Whether each has in its memory what it has written, and no other did.
    pub pages_apart: bool,
    /// Pages of the child's own after it has written.
    pub private_bytes: u64,
    /// Whether what one prints comes out of its own console alone.
    pub console_apart: bool,
    /// Faults that KVM took for reads of pages that the parent had written.
    pub kvm_faults: u64,
    /// Whether the child has one VM open, its own.
    pub own_vm: bool,
    /// Descriptors of parent and child; none where this process may not look.
    pub descriptors: Option<(u64, u64)>,
    /// Mappings of the child.
    pub mappings: u64,
}

fn writes(cell: &Cell, seed: u64) -> Command {
    let pages = data_bytes(cell.ram_bytes()) / PAGE_SIZE;
    Command::new(Op::Dirty, Selection::scattered(pages, WRITTEN, PARENT_SEED)).seed(seed)
}

fn page_tables(cell: &Cell) -> Result<u64, BenchError> {
    MemInfo::of(cell.pid())?.need("VmPTE")
}

impl Family {
    /// Makes it.
    pub fn make(snapshot: &Snapshot) -> Result<Self, BenchError> {
        let snapshot: Arc<CellSnapshot> = for_cells(snapshot)?;
        let cells = Cells::start()?;
        let (parent, _) = cells.spawn(&snapshot, SpawnWish::new(cells::start()))?;
        let parent = Arc::new(parent);
        cells::work(&parent, &writes(&parent, PARENT_SEED))?;
        let before = page_tables(&parent)?;
        let work = AtWork::begin(&parent)?;
        let printed = [Printed::default(), Printed::default()];
        let children = printed.iter().map(|printed| {
            let own = Arc::clone(printed);
            let console = move |bytes: &[u8]| {
                own.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            };
            (SpawnWish::new(cells::start()), Box::new(console) as _)
        });
        let forked = cells.nursery.fork(&parent, children.collect());
        let (children, pause) = forked.doing("fork(2) of a cell")?;
        let children = children.into_iter().map(|child| child.doing("a child of a cell"));
        let children = children.collect::<Result<Vec<_>, _>>()?;
        let after = children.first().map_or(Ok(0), page_tables)?;
        let at_work = children.iter().all(Cell::busy);
        work.end()?;
        cells::calm(&children)?;
        Ok(Self {
            parent,
            children,
            printed,
            at_work,
            fork_us: microseconds(pause.fork),
            capture_us: microseconds(pause.capture),
            page_tables: (before, after),
            _cells: cells,
        })
    }

    /// What the two children, called `child` and `sibling`, and the parent are to each other.
    pub fn look(&self) -> Result<Forked, BenchError> {
        let [child, sibling] = &self.children[..] else {
            return Err(BenchError::Incomplete {
                doing: "a fork into two".into(),
                done: self.children.len() as u64,
                asked: 2,
            });
        };
        let kvm = |cell: &Cell| cell.counters().doing("reading KVM's counters");
        let before = kvm(child)?.page_faults;
        let pages = writes(child, PARENT_SEED).selection;
        cells::work(child, &Command::new(Op::Read, pages))?;
        let kvm_faults = kvm(child)?.page_faults.saturating_sub(before);
        let private = |cell: &Cell| {
            let ledger = cell.ledger().doing("taking a memory account")?;
            Ok::<_, BenchError>(ledger.private_bytes)
        };
        cells::work(child, &writes(child, CHILD_SEED))?;
        let (old, new) = ([GUEST_MIB, PARENT_SEED], [GUEST_MIB, PARENT_SEED, CHILD_SEED]);
        let pages_apart = is_intact(&self.parent, pages, &old)?
            && is_intact(sibling, pages, &old)?
            && is_intact(child, pages, &new)?;
        // What it says before it ends the command is there when that is answered, or soon.
        let say = Command::new(Op::Say, Selection::NONE);
        child.work(0, &say, WORK_LIMIT).doing("having a child print")?;
        std::thread::sleep(Duration::from_millis(50));
        let heard =
            |printed: &Printed| !printed.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        Ok(Forked {
            fork_us: self.fork_us,
            capture_us: self.capture_us,
            parent_page_tables: self.page_tables.0,
            child_page_tables: self.page_tables.1,
            at_work: self.at_work,
            pages_apart,
            private_bytes: private(child)?,
            console_apart: heard(&self.printed[0]) && !heard(&self.printed[1]),
            kvm_faults,
            own_vm: own_vm(&self.parent, child),
            descriptors: descriptors(&self.parent).zip(descriptors(child)),
            mappings: mappings_of(child.pid())?,
        })
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        self.children.iter().for_each(Cell::kill);
        self.parent.kill();
    }
}

/// What the descriptors of `cell` are, with how many there are of each; none where this process
/// may not look.
fn open_files(cell: &Cell) -> Option<BTreeMap<PathBuf, u64>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{}/fd", cell.pid())).ok()? {
        *files.entry(fs::read_link(entry.ok()?.path()).ok()?).or_default() += 1;
    }
    Some(files)
}

fn descriptors(cell: &Cell) -> Option<u64> {
    Some(open_files(cell)?.values().sum())
}

/// Whether `child` has one VM, its own: that of its parent would be a second.
fn own_vm(parent: &Cell, child: &Cell) -> bool {
    let count = |cell: &Cell, what: &str| {
        let files = open_files(cell).unwrap_or_default();
        let found = files.iter().filter(|(file, _)| file.to_string_lossy().contains(what));
        found.map(|(_, count)| count).sum::<u64>()
    };
    count(parent, "kvm-vm") == 1 && count(child, "kvm-vm") == 1 && count(child, "kvm-vcpu") == 1
}

fn mappings_of(pid: u32) -> Result<u64, BenchError> {
    let path = PathBuf::from(format!("/proc/{pid}/maps"));
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().count() as u64),
        Err(source) => Err(BenchError::Read { path, source }),
    }
}
