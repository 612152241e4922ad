//! What is measured, and how often.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_abi::layout::MIN_RAM;

use crate::{BenchError, Options};

/// Sizes of guests that are spawned, MiB.
const FULL_SIZES: [u64; 4] = [64, 256, 1024, 4096];
const QUICK_SIZES: [u64; 3] = [64, 256, 1024];

/// One thing that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Clones by copy-on-write and by eager copy.
    Spawn,
    /// Forks of a running guest.
    LiveFork,
    /// Writes to shared pages, and from which fraction on an eager copy is cheaper.
    CowFaults,
    /// Reads of shared pages, and writes after them.
    ReadFaults,
    /// Pages copied ahead.
    HotSet,
    /// The memory account.
    Ledger,
    /// Many clones alive at once.
    Density,
    /// The end of a clone.
    Teardown,
    /// Back to the snapshot, in the same VM.
    Reset,
    /// Clones made ahead.
    Dormant,
    /// Clones a second, over HTTP.
    SpawnRate,
    /// One guest forked into many.
    Fanout,
    /// Many cells alive at once.
    Cells,
    /// What it costs to confine a cell.
    Confinement,
    /// The first work of a clone, with and without a hot set.
    WorkingSet,
    /// Cells under a limit on their memory.
    Pressure,
    /// What a clone copies, and what it shares.
    VmCopied,
    /// The life of a clone.
    VmTimeline,
    /// What an image is made of.
    Backing,
    /// Children of processes, in every way, and their page tables.
    ProcessSpawn,
    /// Writes of processes after a fork, and from which part on an eager copy is cheaper.
    ProcessFaults,
    /// A child of a process that executes another program.
    ProcessTimeline,
    /// What a fork of a process copies.
    ProcessCopied,
    /// Advice for processes that fork.
    ProcessTuning,
    /// Processes in a Linux guest.
    ProcessInGuest,
    /// Redis saves itself while it is written to.
    Redis,
    /// A machine is saved while its guest works.
    VmBgsave,
    /// A Redis in a Linux guest saves itself, and the guest is saved.
    RedisGuest,
    /// Other VMMs beside tine.
    Peers,
}

impl Section {
    /// All of them, in the order in which they are measured.
    pub const ALL: [Self; 29] = [
        Self::Spawn,
        Self::LiveFork,
        Self::CowFaults,
        Self::ReadFaults,
        Self::HotSet,
        Self::Ledger,
        Self::Density,
        Self::Teardown,
        Self::Reset,
        Self::Dormant,
        Self::SpawnRate,
        Self::Fanout,
        Self::Cells,
        Self::Confinement,
        Self::WorkingSet,
        Self::Pressure,
        Self::VmCopied,
        Self::VmTimeline,
        Self::Backing,
        Self::ProcessSpawn,
        Self::ProcessFaults,
        Self::ProcessTimeline,
        Self::ProcessCopied,
        Self::ProcessTuning,
        Self::ProcessInGuest,
        Self::Redis,
        Self::VmBgsave,
        Self::RedisGuest,
        Self::Peers,
    ];

    /// Its name, in JSON and for `--only`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spawn => "spawn",
            Self::LiveFork => "live_fork",
            Self::CowFaults => "cow_faults",
            Self::ReadFaults => "read_faults",
            Self::HotSet => "hot_set",
            Self::Ledger => "ledger",
            Self::Density => "density",
            Self::Teardown => "teardown",
            Self::Reset => "reset",
            Self::Dormant => "dormant",
            Self::SpawnRate => "spawn_rate",
            Self::Fanout => "fanout",
            Self::Cells => "cells",
            Self::Confinement => "confinement",
            Self::WorkingSet => "working_set",
            Self::Pressure => "pressure",
            Self::VmCopied => "vm_copied",
            Self::VmTimeline => "vm_timeline",
            Self::Backing => "backing",
            Self::ProcessSpawn => "process_spawn",
            Self::ProcessFaults => "process_faults",
            Self::ProcessTimeline => "process_timeline",
            Self::ProcessCopied => "process_copied",
            Self::ProcessTuning => "process_tuning",
            Self::ProcessInGuest => "process_in_guest",
            Self::Redis => "redis",
            Self::VmBgsave => "vm_bgsave",
            Self::RedisGuest => "redis_guest",
            Self::Peers => "peers",
        }
    }

    /// How long it takes in a quick run and in a full one, seconds, as seen on two cores of a
    /// cloud machine.
    const fn seconds(self) -> (f64, f64) {
        match self {
            Self::Spawn => (14.0, 80.0),
            Self::LiveFork => (6.5, 42.0),
            Self::CowFaults => (4.0, 22.0),
            Self::ReadFaults => (5.5, 28.0),
            Self::HotSet => (1.0, 5.0),
            Self::Ledger => (0.5, 0.5),
            Self::Density => (3.5, 8.0),
            Self::Teardown => (2.5, 37.0),
            Self::Reset => (2.5, 15.0),
            Self::Dormant => (7.0, 90.0),
            Self::SpawnRate => (3.0, 16.0),
            Self::Fanout => (2.0, 8.0),
            Self::Cells => (3.5, 5.0),
            Self::Confinement => (1.0, 7.0),
            Self::WorkingSet => (1.0, 4.0),
            Self::Pressure => (3.0, 12.0),
            Self::VmCopied => (1.2, 8.0),
            Self::VmTimeline => (1.8, 9.0),
            Self::Backing => (5.0, 15.0),
            Self::ProcessSpawn => (5.5, 85.0),
            Self::ProcessFaults => (2.4, 31.0),
            Self::ProcessTimeline => (0.7, 5.0),
            Self::ProcessCopied => (1.5, 5.0),
            Self::ProcessTuning => (1.0, 3.0),
            Self::ProcessInGuest => (5.0, 20.0),
            Self::Redis => (4.0, 220.0),
            Self::VmBgsave => (5.0, 76.0),
            Self::RedisGuest => (8.0, 40.0),
            Self::Peers => (3.0, 45.0),
        }
    }

    /// Sizes of the guests that it needs, MiB, where the plan does not choose them.
    pub const fn guests_mib(self) -> &'static [u64] {
        match self {
            Self::Spawn
            | Self::Dormant
            | Self::Peers
            | Self::ProcessSpawn
            | Self::ProcessFaults
            | Self::ProcessTimeline
            | Self::ProcessCopied
            | Self::ProcessTuning
            | Self::ProcessInGuest
            | Self::Redis
            | Self::RedisGuest => &[],
            Self::LiveFork | Self::VmBgsave => &[1024],
            Self::VmTimeline => &[512],
            _ => &[256],
        }
    }

    fn named(name: &str) -> Result<Self, BenchError> {
        let found = Self::ALL.into_iter().find(|section| section.name() == name.replace('-', "_"));
        found.ok_or_else(|| BenchError::Section {
            name: name.to_owned(),
            known: Self::ALL.map(Self::name).join(", ").replace('_', "-"),
        })
    }
}

/// How much was to be measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanFacts {
    /// Fewer sizes and samples.
    pub quick: bool,
    /// Sizes of guests that are spawned, MiB.
    pub sizes_mib: Vec<u64>,
    /// The sections that were asked for; all when empty.
    pub only: Vec<String>,
}

/// How often something is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    quick: bool,
    sizes_mib: Vec<u64>,
    only: Vec<Section>,
}

impl Plan {
    /// What `options` ask for.
    pub fn new(options: &Options) -> Result<Self, BenchError> {
        let usual: &[u64] = if options.quick { &QUICK_SIZES } else { &FULL_SIZES };
        let mut sizes_mib: Vec<u64> = usual.iter().chain(&options.sizes_mib).copied().collect();
        sizes_mib.sort_unstable();
        sizes_mib.dedup();
        let least = MIN_RAM >> 20;
        if let Some(&mib) = sizes_mib.iter().find(|&&mib| mib < least) {
            return Err(BenchError::Size { mib, least });
        }
        let only = options.only.iter().map(|name| Section::named(name));
        let only = only.collect::<Result<_, _>>()?;
        Ok(Self { quick: options.quick, sizes_mib, only })
    }

    /// It in words.
    pub fn facts(&self) -> PlanFacts {
        let only = self.only.iter().map(|section| section.name().to_owned()).collect();
        PlanFacts { quick: self.quick, sizes_mib: self.sizes_mib.clone(), only }
    }

    /// How long `section` takes on a slow host, seconds: for the time left.
    pub fn seconds_of(&self, section: Section) -> f64 {
        let (quick, full) = section.seconds();
        self.choose(quick, full)
    }

    /// How long everything takes that is asked for and not `done`.
    pub fn seconds(&self, done: &[String]) -> f64 {
        let left = Section::ALL.into_iter().filter(|section| self.wants(*section));
        let left = left.filter(|section| !done.iter().any(|done| done == section.name()));
        left.map(|section| self.seconds_of(section)).sum()
    }

    /// Whether `section` is to be measured.
    pub fn wants(&self, section: Section) -> bool {
        self.only.is_empty() || self.only.contains(&section)
    }

    /// Sizes of guests to spawn, MiB, ascending.
    pub fn sizes_mib(&self) -> &[u64] {
        &self.sizes_mib
    }

    /// The one for a quick run, or the other.
    pub const fn choose<T: Copy>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Eager spawns of a guest of `mib`, and copy-on-write ones for each of them: fewer
    /// of the large ones, which take seconds.
    pub fn spawns(&self, mib: u64) -> (usize, usize) {
        match mib {
            0..=128 => self.choose((8, 6), (25, 10)),
            129..=512 => self.choose((6, 6), (25, 10)),
            513..=2048 => self.choose((3, 8), (15, 10)),
            2049..=4096 => self.choose((3, 8), (6, 10)),
            _ => self.choose((2, 8), (3, 10)),
        }
    }

    /// Forks of a parent with `dirty` pages.
    pub fn forks(&self, dirty: u64) -> usize {
        if dirty < 20_000 { self.choose(8, 50) } else { self.choose(4, 25) }
    }

    /// Forks of a parent all of whose memory is mapped, which takes seconds to do.
    pub fn forks_of_all(&self) -> usize {
        self.choose(0, 10)
    }

    /// Forks into four of it.
    pub fn wide_forks(&self) -> usize {
        self.choose(3, 10)
    }

    /// Clones that write, or read and then write, `fraction` of the region: fewer of those
    /// that touch all of it, each of which averages over 25,600 pages anyway.
    pub fn fault_rounds(&self, fraction: f64) -> usize {
        if fraction < 0.5 { self.choose(2, 11) } else { self.choose(1, 5) }
    }

    /// Clones with and without a hot set.
    pub fn hot_set_rounds(&self) -> usize {
        self.choose(5, 31)
    }

    /// Clones alive at once.
    pub fn clones(&self) -> u64 {
        self.choose(200, 1000)
    }

    /// Clones that are closed.
    pub fn teardowns(&self) -> usize {
        self.choose(6, 100)
    }

    /// Resets of a guest that has written `pages`.
    pub fn resets(&self, pages: u64) -> usize {
        match pages {
            0..=500 => self.choose(30, 200),
            501..=5000 => self.choose(12, 100),
            _ => self.choose(5, 30),
        }
    }

    /// Times that a parent with `dirty` pages writes them again after a fork.
    pub fn refaults(&self, dirty: u64) -> usize {
        if dirty < 20_000 { self.choose(1, 10) } else { self.choose(0, 5) }
    }

    /// Dormant clones of one size.
    pub fn dormant_spawns(&self) -> usize {
        self.choose(20, 200)
    }

    /// Eager copies of a guest of `mib` beside them.
    pub fn dormant_eager(&self, mib: u64) -> usize {
        if mib <= 512 { self.choose(4, 15) } else { self.choose(2, 6) }
    }

    /// Dormant clones of one size that are asked for over HTTP.
    pub fn http_spawns(&self) -> usize {
        self.choose(8, 150)
    }

    /// How long clients ask for clones.
    pub fn rate_time(&self) -> Duration {
        Duration::from_millis(self.choose(700, 5000))
    }

    /// Forks into many.
    pub fn fanouts(&self) -> usize {
        self.choose(1, 5)
    }

    /// Cells alive at once.
    pub fn cells(&self) -> u64 {
        self.choose(100, 500)
    }

    /// Clones in confined cells, and in others.
    pub fn confinements(&self) -> usize {
        self.choose(25, 200)
    }

    /// Clones that do their first work.
    pub fn working_sets(&self) -> usize {
        self.choose(5, 31)
    }

    /// Guests that each VMM restores in each way, and their size, MiB.
    pub fn restores(&self) -> (usize, u64) {
        self.choose((3, 64), (40, 256))
    }

    /// Snapshots that each VMM writes into files in each way, and the size of their guest, MiB.
    pub fn written_snapshots(&self) -> (usize, u64) {
        self.choose((1, 64), (3, 1024))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_added_once_and_in_order() {
        let options = Options { quick: true, sizes_mib: vec![512, 64], ..Options::default() };
        assert_eq!(Plan::new(&options).unwrap().sizes_mib(), [64, 256, 512, 1024]);
        let options = Options { sizes_mib: vec![0], ..Options::default() };
        assert!(matches!(Plan::new(&options), Err(BenchError::Size { mib: 0, .. })));
    }

    #[test]
    fn sections_are_known_by_both_spellings() {
        let only = ["live-fork", "cow_faults"].map(String::from).to_vec();
        let plan = Plan::new(&Options { only, ..Options::default() }).unwrap();
        let wanted: Vec<_> = Section::ALL.into_iter().filter(|&s| plan.wants(s)).collect();
        assert_eq!(wanted, [Section::LiveFork, Section::CowFaults]);
        let only = vec!["forks".to_owned()];
        let error = Plan::new(&Options { only, ..Options::default() }).unwrap_err();
        assert!(error.to_string().contains("spawn, live-fork, cow-faults"), "{error}");
    }
}
