//! A limit on the memory of all cells of a nursery together, by the memory controller.
//!
//! Where control groups are of version 1, a group is made below that of this process, and the
//! warden moved into it: every cell made from then on is in it. Of version 2, the nursery has
//! its cells in leaves of a group of its own already, and that gets the limit.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tine_cell::{Cell, Nursery};

use crate::BenchError;
use crate::cgroup;
use crate::meminfo::MemInfo;

/// How long the group may take to be empty, when its processes are gone.
const EMPTY_TRIES: u32 = 200;
const EMPTY_WAIT: Duration = Duration::from_millis(10);
/// Number of the next group.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A group of processes whose memory is limited together. It goes with this: to be dropped
/// after its processes.
#[derive(Debug)]
pub struct MemoryLimit {
    group: PathBuf,
    version: Version,
    /// Whether it was made here, and has to go.
    made: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Version {
    /// The file that holds the limit, and what lifts it.
    const fn limit(self) -> (&'static str, &'static str) {
        match self {
            Self::One => ("memory.limit_in_bytes", "-1"),
            Self::Two => ("memory.max", "max"),
        }
    }

    const fn usage(self) -> &'static str {
        match self {
            Self::One => "memory.usage_in_bytes",
            Self::Two => "memory.current",
        }
    }

    /// The file that counts processes killed for memory.
    const fn kills(self) -> &'static str {
        match self {
            Self::One => "memory.oom_control",
            Self::Two => "memory.events",
        }
    }
}

impl MemoryLimit {
    /// A group for every cell that `nursery` makes from now on; `first` is one that it has
    /// made. Where there can be none, the reason.
    pub fn over(nursery: &Nursery, first: &Cell) -> Result<Result<Self, String>, BenchError> {
        if nursery.unlimited().is_none() {
            return Self::of_leaves(first);
        }
        let Some(own) = cgroup::memory_version_1() else {
            let why = nursery.unlimited().unwrap_or_default();
            return Ok(Err(format!("there is no memory controller of version 1, and {why}")));
        };
        let warden = MemInfo::of(first.pid())?.need("PPid")?;
        Self::below(&own, warden)
    }

    /// An empty group; the reason where there can be none.
    pub fn empty() -> Result<Self, String> {
        let mut why = "there is no memory controller".to_owned();
        for parent in cgroup::memory_version_1().into_iter().chain(own_group_2()) {
            match Self::new_in(&parent) {
                Ok(limit) if limit.group.join(limit.version.usage()).exists() => return Ok(limit),
                // It goes again.
                Ok(_) => why = format!("{} hands no memory controller down", parent.display()),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    /// Its directory.
    pub fn path(&self) -> std::path::Display<'_> {
        self.group.display()
    }

    fn new_in(parent: &Path) -> Result<Self, String> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let group = parent.join(format!("tine-bench-{}-{number}", std::process::id()));
        match fs::create_dir(&group) {
            Ok(()) if group.join(Version::One.usage()).exists() => {
                Ok(Self { group, version: Version::One, made: true })
            }
            Ok(()) => Ok(Self { group, version: Version::Two, made: true }),
            Err(error) => {
                let at = parent.display();
                Err(format!("no control group can be made in {at}: {error}"))
            }
        }
    }

    /// Version 2: `first` is in a leaf, and the limit is for the group of all leaves.
    fn of_leaves(first: &Cell) -> Result<Result<Self, String>, BenchError> {
        let group = cgroup::version_2(first.pid());
        let Some(all) = group.as_deref().and_then(Path::parent) else {
            return Ok(Err("the control group of a cell can't be found".into()));
        };
        let limit = Self { group: all.to_path_buf(), version: Version::Two, made: false };
        match limit.write(Version::Two.limit().0, Version::Two.limit().1) {
            Ok(()) => Ok(Ok(limit)),
            Err(error) => Ok(Err(format!("{} can't be limited: {error}", all.display()))),
        }
    }

    /// Version 1: a new group below `own`, with process `pid` in it.
    fn below(own: &Path, pid: u64) -> Result<Result<Self, String>, BenchError> {
        let limit = match Self::new_in(own) {
            Ok(limit) => limit,
            Err(reason) => return Ok(Err(reason)),
        };
        match limit.write("cgroup.procs", &pid.to_string()) {
            Ok(()) => Ok(Ok(limit)),
            Err(error) => Ok(Err(format!("no process can be moved into a group: {error}"))),
        }
    }

    /// All that is charged to it now, bytes.
    pub fn usage(&self) -> Result<u64, BenchError> {
        let path = self.group.join(self.version.usage());
        let text = read(&path)?;
        text.trim().parse().map_err(|_| BenchError::Missing { path, what: "the memory charged" })
    }

    /// Limits it to `bytes`.
    pub fn set(&self, bytes: u64) -> Result<(), BenchError> {
        let name = self.version.limit().0;
        self.write(name, &bytes.to_string()).map_err(|source| self.failed(name, source))
    }

    /// Lifts the limit.
    pub fn lift(&self) -> Result<(), BenchError> {
        let (name, none) = self.version.limit();
        self.write(name, none).map_err(|source| self.failed(name, source))
    }

    /// Processes of it that the kernel has killed for want of memory.
    pub fn kills(&self) -> Result<u64, BenchError> {
        let path = self.group.join(self.version.kills());
        oom_kills(&read(&path)?).ok_or(BenchError::Missing { path, what: "the kills" })
    }

    fn write(&self, name: &str, value: &str) -> io::Result<()> {
        fs::write(self.group.join(name), value)
    }

    fn failed(&self, name: &str, source: io::Error) -> BenchError {
        BenchError::Group { path: self.group.join(name), source }
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // That of a nursery is removed by it, and used until then.
        if !self.made {
            return;
        }
        for _ in 0..EMPTY_TRIES {
            match fs::remove_dir(&self.group) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    std::thread::sleep(EMPTY_WAIT);
                }
                Ok(()) => return,
                Err(error) => {
                    eprintln!("the control group {} is left: {error}", self.group.display());
                    return;
                }
            }
        }
        eprintln!("the control group {} is left: it has processes", self.group.display());
    }
}

/// Where a group of version 2 may be made, whose memory can be limited: below that of this
/// process, or, where the process was moved out of the way, beside it.
fn own_group_2() -> Vec<PathBuf> {
    let own = cgroup::version_2("self");
    own.iter().flat_map(|own| own.ancestors().take(2)).map(Path::to_path_buf).collect()
}

fn oom_kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

fn read(path: &Path) -> Result<String, BenchError> {
    fs::read_to_string(path).map_err(|source| BenchError::Read { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_in_both_versions() {
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), Some(3));
        assert_eq!(oom_kills("low 0\noom 7\noom_kill 5\noom_group_kill 1\n"), Some(5));
        assert_eq!(oom_kills("oom 7\n"), None);
    }
}
