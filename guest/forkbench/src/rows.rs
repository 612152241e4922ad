//! What the program prints: one [`Row`] a line, as JSON. Times are microseconds, memory is bytes,
//! and every list of samples is in the order in which they were taken.

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Row {
    /// Of the probe `spawn`.
    Spawn(SpawnRow),
    /// Of the probe `tables`.
    Tables(TablesRow),
    /// Of the probe `faults`: what a child's writes cost.
    Faults(FaultsRow),
    /// Of the probe `faults`: what the parent's writes cost.
    Parent(ParentRow),
    /// Of the probe `timeline`.
    Step(StepRow),
    /// Of the probe `copied`.
    Copied(CopiedRow),
    /// Of the probe `tuning`.
    Tuning(TuningRow),
    /// Of the probe `pressure`.
    Pressure(PressureRow),
    /// Something that this host can't show.
    NotMeasured(NotMeasured),
}

/// A way to make a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The naive fork: the child gets a copy of every byte of the region before it starts.
    Eager,
    /// The same made by the kernel: `fork`, and the child has all of the region copied at once.
    Populated,
    /// `fork`.
    Fork,
    /// The system call `clone3` with no flags: `fork` without the C library's part.
    Clone3,
    /// `clone` with `CLONE_VM | CLONE_VFORK`, and the child exits.
    Vfork,
    /// The same, and the child executes another program.
    VforkExec,
    /// `fork`, and the child executes another program.
    ForkExec,
    /// `posix_spawn`.
    PosixSpawn,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Eager,
        Self::Populated,
        Self::Fork,
        Self::Clone3,
        Self::Vfork,
        Self::VforkExec,
        Self::ForkExec,
        Self::PosixSpawn,
    ];

    /// Its name on the command line and in rows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Eager => "eager",
            Self::Populated => "populated",
            Self::Fork => "fork",
            Self::Clone3 => "clone3",
            Self::Vfork => "vfork",
            Self::VforkExec => "vfork_exec",
            Self::ForkExec => "fork_exec",
            Self::PosixSpawn => "posix_spawn",
        }
    }

    /// What is done and timed, in words.
    pub const fn how(self) -> &'static str {
        match self {
            Self::Eager => {
                "fork with the region left out (MADV_DONTFORK); the child maps room for it at the \
                 same address, populated; the parent copies every byte with process_vm_writev; the \
                 child checks some words: then it counts as started, and the call as returned when \
                 all is copied"
            }
            Self::Populated => {
                "fork, and the child has the kernel copy the whole region in one call \
                 (MADV_POPULATE_WRITE) and checks some words: then it counts as started, and the \
                 call as returned"
            }
            Self::Fork => "fork() of the C library; started at the child's first statement",
            Self::Clone3 => {
                "the system call clone3 with SIGCHLD and no flags; started at the \
                             child's first statement"
            }
            Self::Vfork => {
                "clone(CLONE_VM | CLONE_VFORK) on a stack of its own; started at the child's first \
                 statement; the child exits at once, which lets the call return"
            }
            Self::VforkExec => {
                "clone(CLONE_VM | CLONE_VFORK) and exec of this program; started when the new \
                 program's main runs; the exec lets the call return"
            }
            Self::ForkExec => {
                "fork() and exec of this program; started when the new program's \
                               main runs"
            }
            Self::PosixSpawn => {
                "posix_spawn of this program; started when the new program's main runs"
            }
        }
    }

    /// Whether the child becomes another program.
    pub const fn executes(self) -> bool {
        matches!(self, Self::VforkExec | Self::ForkExec | Self::PosixSpawn)
    }

    /// Whether the child gets a copy of every byte.
    pub const fn copies(self) -> bool {
        matches!(self, Self::Eager | Self::Populated)
    }

    /// Whether the child has page tables of the region.
    pub const fn has_region(self) -> bool {
        matches!(self, Self::Eager | Self::Populated | Self::Fork | Self::Clone3)
    }
}

/// What a region of memory is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Backing {
    /// Pages of 4 KiB, by `MADV_NOHUGEPAGE`.
    #[serde(rename = "4k")]
    Small,
    /// Transparent huge pages, by `MADV_HUGEPAGE`.
    #[serde(rename = "thp")]
    Thp,
    /// Pages of 2 MiB of hugetlbfs, which are reserved ahead.
    #[serde(rename = "hugetlb")]
    Hugetlb,
}

impl Backing {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Small, Self::Thp, Self::Hugetlb];

    /// Its name on the command line and in rows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Small => "4k",
            Self::Thp => "thp",
            Self::Hugetlb => "hugetlb",
        }
    }
}

/// How much of a region is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Density {
    /// Every page.
    Dense,
    /// One page in each 2 MiB: as many page tables, hardly any content.
    Sparse,
}

impl Density {
    /// Its name on the command line and in rows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Sparse => "sparse",
        }
    }
}

/// In which order pages are visited, and which they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The first ones, one after the other.
    Sequential,
    /// All over the region.
    Scattered,
    /// Runs of 16 neighbours, which lie all over the region.
    Clustered,
}

impl Order {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sequential, Self::Scattered, Self::Clustered];

    /// Its name on the command line and in rows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::Scattered => "scattered",
            Self::Clustered => "clustered",
        }
    }
}

/// Page faults taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Faults {
    /// Without reading from a disk.
    pub minor: u64,
    /// With.
    pub major: u64,
}

/// How memory is shared at one moment: of a whole process, or of its region alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Memory {
    /// In memory at all (`Rss`, and hugetlb pages, which the kernel does not count there).
    pub rss_bytes: u64,
    /// The same, each page divided by how many share it (`Pss`; no hugetlb pages).
    pub pss_bytes: u64,
    /// Written, and of this process alone (`Private_Dirty`, `Private_Hugetlb`).
    pub private_dirty_bytes: u64,
    /// Not written, and of this process alone (`Private_Clean`).
    pub private_clean_bytes: u64,
    /// In several processes (`Shared_Clean`, `Shared_Dirty`, `Shared_Hugetlb`).
    pub shared_bytes: u64,
    /// Mapped by huge pages (`AnonHugePages` and hugetlb pages).
    pub huge_bytes: u64,
    /// Page tables of the whole process (`VmPTE`).
    pub page_table_bytes: u64,
}

/// What it costs to make a child in one way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SpawnRow {
    /// How the child was made.
    pub way: Way,
    /// What the parent's region is made of.
    pub backing: Backing,
    /// How much of it is filled.
    pub density: Density,
    /// Address space of the region.
    pub size_bytes: u64,
    /// Memory that it holds.
    pub resident_bytes: u64,
    /// Until the call returned in the parent.
    pub call_us: Vec<f64>,
    /// From the start of the call until the child had started.
    pub child_us: Vec<f64>,
    /// From the child's last act until the parent had waited for it.
    pub end_us: Vec<f64>,
    /// Faults that the parent took in the call, each time.
    pub faults: Vec<Faults>,
    /// Page tables of the parent (`VmPTE`).
    pub parent_page_table_bytes: u64,
    /// Page tables of the child when it had started; none for ways that give it no copy of the
    /// parent's.
    pub child_page_table_bytes: Option<u64>,
    /// What was done, in words.
    pub how: String,
}

/// Page tables of a region: by arithmetic and by count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TablesRow {
    /// What the region is made of.
    pub backing: Backing,
    /// How much of it is filled.
    pub density: Density,
    /// Address space of the region.
    pub size_bytes: u64,
    /// Its address.
    pub address: u64,
    /// Tables of the last level that such a region needs at its address, by arithmetic.
    pub pte_pages: u64,
    /// Tables of the level above.
    pub pmd_pages: u64,
    /// Tables of the level above that.
    pub pud_pages: u64,
    /// `VmPTE` before the region was filled.
    pub before_bytes: u64,
    /// `VmPTE` afterwards.
    pub after_bytes: u64,
    /// `VmPTE` of a child of `fork` before the region was filled.
    pub child_before_bytes: u64,
    /// `VmPTE` of a child of `fork` afterwards.
    pub child_after_bytes: u64,
}

/// What a child pays for its writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FaultsRow {
    /// How the child was made: `fork`, `eager` or `populated`.
    pub way: Way,
    /// What the region is made of.
    pub backing: Backing,
    /// In which order pages were written.
    pub order: Order,
    /// Size of the region.
    pub size_bytes: u64,
    /// Which part of its pages was written.
    pub fraction: f64,
    /// How many pages of 4 KiB that is. One word was written in each.
    pub pages: u64,
    /// The call that made the child.
    pub call_us: Vec<f64>,
    /// All writes.
    pub write_us: Vec<f64>,
    /// Faults that the child took in the writes, each time.
    pub faults: Vec<Faults>,
    /// The child's region before the writes.
    pub before: Memory,
    /// The child's region after the writes.
    pub after: Memory,
}

/// Whether a child still shares the parent's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Sharer {
    /// There was no fork.
    None,
    /// The child is alive.
    Alive,
    /// The child has gone.
    Gone,
}

impl Sharer {
    /// Its name in rows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Alive => "alive",
            Self::Gone => "gone",
        }
    }
}

/// What a parent pays for its writes after a fork.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ParentRow {
    /// Whether a child shares its memory.
    pub child: Sharer,
    /// What the region is made of.
    pub backing: Backing,
    /// In which order pages were written.
    pub order: Order,
    /// Size of the region.
    pub size_bytes: u64,
    /// Which part of its pages was written.
    pub fraction: f64,
    /// How many pages of 4 KiB that is.
    pub pages: u64,
    /// All writes.
    pub write_us: Vec<f64>,
    /// Faults that the parent took in the writes, each time.
    pub faults: Vec<Faults>,
}

/// One step of a child that executes another program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StepRow {
    /// How the child was made: `fork`, `eager` or `populated`.
    pub way: Way,
    /// Size of the parent's region.
    pub size_bytes: u64,
    /// What had been done.
    pub step: String,
    /// Since the start, each time.
    pub us: Vec<f64>,
    /// The child's memory then, in one more child that stopped at each step; none when there is
    /// no child.
    pub child: Option<Memory>,
}

/// Whether a child gets a copy of something, or the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// A change in the child is not seen in the parent.
    Copied,
    /// It is seen.
    Shared,
}

/// What becomes of one thing in a fork.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CopiedRow {
    /// The thing.
    pub what: String,
    /// What is said of it.
    pub claimed: Fate,
    /// What was found.
    pub found: Fate,
    /// How that was found.
    pub test: String,
    /// What it costs a child in memory.
    pub bytes: Option<f64>,
    /// How that was found, or why not.
    pub bytes_how: String,
    /// Calls that had to copy it.
    pub with_us: Vec<f64>,
    /// Calls that had not, between those.
    pub without_us: Vec<f64>,
    /// What was called, or why nothing was.
    pub us_how: String,
}

/// The work of a child, with one setting.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Side {
    /// The setting.
    pub setting: String,
    /// The fork.
    pub call_us: Vec<f64>,
    /// What was done ahead of the work.
    pub ahead_us: Vec<f64>,
    /// The work.
    pub work_us: Vec<f64>,
    /// Faults that the child took in the work, each time.
    pub faults: Vec<Faults>,
    /// Memory of the child's own after the work.
    pub private_bytes: u64,
}

/// One advice, followed and not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TuningRow {
    /// The advice.
    pub what: String,
    /// The work.
    pub work: String,
    /// Without it.
    pub before: Side,
    /// With it.
    pub after: Side,
}

/// Who has ended when memory ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The child that was being made, or wrote.
    Newest,
    /// One that was made before.
    Earlier,
    /// Their parent.
    Parent,
}

impl Ended {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Newest => "the newest",
            Self::Earlier => "an earlier one",
            Self::Parent => "the parent",
        }
    }
}

/// Children under a limit on their and their parent's memory, until one fails.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PressureRow {
    /// How they are made.
    pub way: Way,
    /// Part of the region that each writes, 0 to 1.
    pub written: f64,
    /// Whether the kernel was told (`oom_score_adj`) to end children before their parent.
    pub ranked: bool,
    /// Size of the parent's region.
    pub size_bytes: u64,
    /// What the limit leaves beside it.
    pub room_bytes: u64,
    /// How many were made, and wrote what they were to write, before the first failure.
    pub made: u64,
    /// What was told of the failure.
    pub error: String,
    /// Who has ended.
    pub ended: Ended,
    /// Whether the parent is alive, and has all that it had.
    pub parent_intact: bool,
    /// Children that are alive afterwards.
    pub alive: u64,
    /// Of those, how many have what they had and wrote.
    pub intact: u64,
}

/// Something that this host can't show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NotMeasured {
    /// What was to be measured.
    pub what: String,
    /// Why it was not.
    pub why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_json(value: impl Serialize) -> String {
        serde_json::to_string(&value).unwrap().trim_matches('"').to_owned()
    }

    #[test]
    fn names_are_those_of_the_json() {
        Way::ALL.into_iter().for_each(|way| assert_eq!(in_json(way), way.name()));
        Backing::ALL.into_iter().for_each(|backing| assert_eq!(in_json(backing), backing.name()));
        Order::ALL.into_iter().for_each(|order| assert_eq!(in_json(order), order.name()));
        for density in [Density::Dense, Density::Sparse] {
            assert_eq!(in_json(density), density.name());
        }
        for sharer in [Sharer::None, Sharer::Alive, Sharer::Gone] {
            assert_eq!(in_json(sharer), sharer.name());
        }
    }
}
