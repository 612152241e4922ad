//! What the tests share: cells with real guests on /dev/kvm, what their memory must hold, and
//! their processes as the host sees them.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test file uses its part"
)]

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tine_abi::command::{Checksum, Command, Op, Reply, dirty_word};
use tine_abi::layout::data_bytes;
use tine_abi::pattern::Selection;
use tine_cell::keeper::ConsoleOutput;
use tine_cell::protocol::{Request, Start};
use tine_cell::{Cell, CellSnapshot, Fault, Nursery, NurseryConfig, SpawnWish};
use tine_vmm::memory::ImageKind;

/// Longest that anything may take that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const PAGE: usize = 4096;

/// A nursery that makes nothing ahead but `dormant` clones of each snapshot.
pub fn nursery(dormant: usize) -> Nursery {
    let program = env!("CARGO_BIN_EXE_tine-warden").into();
    let config = NurseryConfig { program, blank: 0, dormant, ..NurseryConfig::default() };
    Nursery::start(config).expect("tests need a usable /dev/kvm and namespaces")
}

/// A snapshot of the workload with `mib` of RAM, just booted.
pub fn template(nursery: &Nursery, mib: u64, vcpus: u8) -> Arc<CellSnapshot> {
    let request = Request::BootWorkload { ram_bytes: mib << 20, vcpus, image: ImageKind::Small };
    Arc::new(nursery.boot(request, &[], PATIENCE).unwrap().snapshot().unwrap())
}

pub fn start() -> Start {
    Start { requested: Instant::now().into(), hostname: None, wait: PATIENCE }
}

pub fn spawn(nursery: &Nursery, snapshot: &Arc<CellSnapshot>) -> Cell {
    nursery.spawn(snapshot, SpawnWish::new(start()), Box::new(|_| {})).unwrap().0
}

/// What `count` children of a fork are to be.
pub fn wishes(count: usize) -> Vec<(SpawnWish, ConsoleOutput)> {
    (0..count).map(|_| (SpawnWish::new(start()), Box::new(|_: &[u8]| {}) as _)).collect()
}

/// A snapshot of `cell`, which goes on, in memory.
pub fn snapshot(nursery: &Nursery, cell: &Cell) -> Result<CellSnapshot, Fault> {
    nursery.freeze(cell)?.0.snapshot()
}

/// A file that is on no disk: what is written waits for none.
pub fn memory_file() -> fs::File {
    rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap().into()
}

/// Writes a snapshot of `cell`, which goes on, into `file`.
pub fn save(nursery: &Nursery, cell: &Cell, file: &fs::File) -> Result<(), Fault> {
    nursery.freeze(cell)?.0.save(file, &mut |_, _| true)
}

pub fn fork(nursery: &Nursery, parent: &Cell, count: usize) -> Vec<Cell> {
    let (children, _) = nursery.fork(parent, wishes(count)).unwrap();
    children.into_iter().map(Result::unwrap).collect()
}

pub fn run(cell: &Cell, vcpu: u8, command: &Command) -> Reply {
    cell.work(vcpu, command, PATIENCE).unwrap()
}

pub fn dirty(cell: &Cell, selection: Selection, seed: u64) {
    run(cell, 0, &Command::new(Op::Dirty, selection).seed(seed));
}

pub fn checksum(cell: &Cell, selection: Selection) -> u64 {
    run(cell, 0, &Command::new(Op::Checksum, selection)).value
}

/// A command that goes on until its cell is gone.
pub fn endless() -> Command {
    Command::new(Op::Spin, Selection::NONE).amount(3_600_000)
}

/// Pages of the data region of a guest with `ram_bytes` of RAM.
pub fn data_pages(ram_bytes: u64) -> u64 {
    data_bytes(ram_bytes) / PAGE as u64
}

/// What the data region of a guest must hold.
#[derive(Clone)]
pub struct Memory(Vec<u64>);

impl Memory {
    /// That of a guest with `ram_bytes` of RAM which has written nothing.
    pub fn new(ram_bytes: u64) -> Self {
        Self(vec![0; data_bytes(ram_bytes) as usize / 8])
    }

    pub fn pages(&self) -> u64 {
        (self.0.len() * 8 / PAGE) as u64
    }

    /// What `Op::Dirty` does.
    pub fn dirty(&mut self, selection: Selection, seed: u64) {
        for page in selection.iter() {
            let (word, place) = dirty_word(seed, page);
            self.0[page as usize * PAGE / 8 + place as usize] = word;
        }
    }

    /// What `Op::Checksum` answers for `pages` pages from page `first`.
    pub fn checksum(&self, first: u64, pages: u64) -> u64 {
        let words = PAGE / 8;
        let range = first as usize * words..(first + pages) as usize * words;
        let mut checksum = Checksum::new();
        for four in self.0[range].chunks_exact(4) {
            checksum.add([four[0], four[1], four[2], four[3]]);
        }
        checksum.finish()
    }
}

/// A cell and what its guest's memory must hold.
pub struct Tracked {
    pub cell: Cell,
    pub memory: Memory,
}

impl Tracked {
    pub fn new(cell: Cell) -> Self {
        let memory = Memory::new(cell.ram_bytes());
        Self { cell, memory }
    }

    /// Writes to `pages` pages all over memory.
    pub fn write(&mut self, pages: u64, seed: u64) {
        let selection = Selection::scattered(self.memory.pages(), pages, seed);
        dirty(&self.cell, selection, seed);
        self.memory.dirty(selection, seed);
    }

    pub fn fork(&self, nursery: &Nursery, count: usize) -> Vec<Self> {
        let children = fork(nursery, &self.cell, count).into_iter();
        children.map(|cell| Self { cell, memory: self.memory.clone() }).collect()
    }

    /// Compares every page, by the guest's checksum of all.
    pub fn check(&self, who: &str) {
        let pages = self.memory.pages();
        let all = Selection::sequential(0, pages);
        if checksum(&self.cell, all) == self.memory.checksum(0, pages) {
            return;
        }
        let wrong: Vec<u64> = (0..pages)
            .filter(|&page| {
                let one = Selection::sequential(page, 1);
                checksum(&self.cell, one) != self.memory.checksum(page, 1)
            })
            .collect();
        panic!("{who}: {} pages differ, the first is {:?}", wrong.len(), wrong.first());
    }
}

pub fn check_all(family: &[Tracked]) {
    for (index, member) in family.iter().enumerate() {
        member.check(&format!("member {index}"));
    }
}

/// Waits until `condition` holds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "{what}: that never happens");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A process, by a handle that no other can get.
pub struct Process {
    pub pid: u32,
    handle: OwnedFd,
}

impl Process {
    pub fn find(pid: u32) -> Self {
        Self::look(pid).unwrap_or_else(|| panic!("there is no process {pid}"))
    }

    /// The same, if it is there.
    pub fn look(pid: u32) -> Option<Self> {
        let id = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        let handle = pidfd_open(id, PidfdFlags::empty()).ok()?;
        Some(Self { pid, handle })
    }

    /// `kill -9`.
    pub fn kill(&self) {
        // It may have ended by itself.
        let _ = pidfd_send_signal(&self.handle, Signal::KILL);
    }

    pub fn is_gone(&self) -> bool {
        self.wait_for(Duration::ZERO)
    }

    /// Waits until it is gone.
    pub fn wait_gone(&self) {
        assert!(self.wait_for(PATIENCE), "process {} does not go", self.pid);
    }

    fn wait_for(&self, limit: Duration) -> bool {
        let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: 0 };
        let mut sources = [PollFd::new(&self.handle, PollFlags::IN)];
        poll(&mut sources, Some(&limit)).unwrap() > 0
    }
}

/// A line of /proc/PID/status.
pub fn status_of(pid: u32, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Some(line?.trim().to_owned())
}

pub fn parent_of(pid: u32) -> Option<u32> {
    status_of(pid, "PPid")?.parse().ok()
}

/// The processes whose parent is `parent`, which has one thread; zombies included.
pub fn children_of(parent: u32) -> BTreeSet<u32> {
    let text = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// The warden of `cell`: the process whose children all cells are.
pub fn warden_of(cell: &Cell) -> u32 {
    parent_of(cell.pid()).unwrap()
}

/// Waits until `warden` has no children but `cells`.
pub fn wait_for_only(warden: u32, cells: &[&Cell]) {
    let expected: BTreeSet<u32> = cells.iter().map(|cell| cell.pid()).collect();
    let begun = Instant::now();
    loop {
        let children = children_of(warden);
        if children == expected {
            return;
        }
        let late = begun.elapsed() > PATIENCE;
        assert!(!late, "the warden has {children:?}, and should have {expected:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
