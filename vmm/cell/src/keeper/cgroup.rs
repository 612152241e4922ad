//! What the host lets one cell take: a leaf of the cgroup hierarchy (v2) for each.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What leaves are made for.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// Most processes and threads of a cell that names no limit: as many vCPUs as there can be, and
/// what helps them.
const PROCESSES: u32 = 512;
/// How a cell has ended that was killed for the memory it took.
pub(super) const OVER_LIMIT: &str = "it took more memory than its limit allows";
/// In which a share of processor time is counted, microseconds.
const PERIOD_US: u64 = 100_000;

/// Why cells can't be given limits.
#[derive(Debug, Error)]
pub enum CgroupError {
    /// There is no such hierarchy here.
    #[error("there is no cgroup v2 here")]
    None,
    /// It lacks controllers.
    #[error("the cgroup v2 here has no controller for {0}")]
    Controllers(String),
    /// It is not this process's to divide.
    #[error(
        "{path} can't be divided: {action} failed; run the daemon in a cgroup of its own (systemd: Delegate=yes)"
    )]
    Divide {
        /// The cgroup.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A limit could not be set.
    #[error("{action} {path} failed")]
    Leaf {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// What one sandbox may take of its host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CellLimits {
    /// Memory, bytes: pages of its own, page tables and what the kernel holds for it.
    pub memory_bytes: Option<u64>,
    /// Processor time, in processors.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub processes: Option<u32>,
}

impl CellLimits {
    /// Whether none is named.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Where the leaves of one daemon are. It goes, when they have gone, with this.
#[derive(Debug)]
pub struct Cgroups {
    directory: PathBuf,
    next: AtomicU64,
}

fn divided(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_path_buf();
    move |source| CgroupError::Divide { path, action, source }
}

impl Cgroups {
    /// Divides the cgroup of this process, so that cells can have leaves of it. Where it is not
    /// the root, the process moves into one of its own.
    pub fn divide() -> Result<Self, CgroupError> {
        let mount = mount_point().ok_or(CgroupError::None)?;
        let own = own_cgroup().ok_or(CgroupError::None)?;
        let base = mount.join(own.trim_start_matches('/'));
        let offered = fs::read_to_string(base.join("cgroup.controllers")).unwrap_or_default();
        let missing: Vec<_> = CONTROLLERS
            .into_iter()
            .filter(|wanted| !offered.split_whitespace().any(|one| one == *wanted))
            .collect();
        if !missing.is_empty() {
            return Err(CgroupError::Controllers(missing.join(", ")));
        }
        if own != "/" {
            let daemon = base.join("daemon");
            make(&daemon).map_err(divided(&base, "making a cgroup in it"))?;
            let pid = std::process::id().to_string();
            fs::write(daemon.join("cgroup.procs"), pid)
                .map_err(divided(&base, "leaving it for one below"))?;
        }
        hand_down(&base).map_err(divided(&base, "handing controllers down"))?;
        let directory = base.join(format!("tine-{}", std::process::id()));
        make(&directory).map_err(divided(&base, "making a cgroup in it"))?;
        let cgroups = Self { directory, next: AtomicU64::new(0) };
        hand_down(&cgroups.directory).map_err(divided(&base, "handing controllers down"))?;
        Ok(cgroups)
    }

    /// A leaf with process `pid` in it.
    pub(super) fn leaf(&self, pid: u32) -> Result<Leaf, CgroupError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("cell-{number}"));
        make(&path).map_err(|source| CgroupError::Leaf {
            action: "making",
            path: path.clone(),
            source,
        })?;
        let leaf = Leaf { path };
        leaf.set("memory.oom.group", "1".into())?;
        leaf.set("pids.max", PROCESSES.to_string())?;
        leaf.set("cgroup.procs", pid.to_string())?;
        Ok(leaf)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        remove(&self.directory);
    }
}

/// The cgroup of one cell. It goes with this, when its process is gone.
#[derive(Debug)]
pub struct Leaf {
    path: PathBuf,
}

impl Leaf {
    fn set(&self, name: &str, value: String) -> Result<(), CgroupError> {
        let path = self.path.join(name);
        fs::write(&path, value).map_err(|source| CgroupError::Leaf {
            action: "writing",
            path,
            source,
        })
    }

    /// Sets the limits that are named.
    pub(super) fn limit(&self, limits: &CellLimits) -> Result<(), CgroupError> {
        if let Some(bytes) = limits.memory_bytes {
            self.set("memory.max", bytes.to_string())?;
        }
        if let Some(cpus) = limits.cpus {
            let quota = (cpus * PERIOD_US as f64).max(1000.0) as u64;
            self.set("cpu.max", format!("{quota} {PERIOD_US}"))?;
        }
        if let Some(processes) = limits.processes {
            self.set("pids.max", processes.to_string())?;
        }
        Ok(())
    }

    /// Kills every process in it: also those that a cell that was taken over may have made.
    pub(super) fn kill(&self) {
        if let Err(error) = self.set("cgroup.kill", "1".into()) {
            tracing::debug!(%error, "a cgroup can't be killed as one");
        }
    }

    /// Whether a process in it was killed for the memory it took.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.is_some_and(|kills| kills.trim() != "0")
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn make(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Removes a cgroup whose processes have been killed, and may take a moment to be gone.
fn remove(path: &Path) {
    for _ in 0..100 {
        match fs::remove_dir(path) {
            Ok(()) => return,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "a cgroup is left");
                return;
            }
        }
    }
    tracing::warn!(path = %path.display(), "a cgroup is left: there are processes in it");
}

/// Lets the cgroups below `path` have the controllers.
fn hand_down(path: &Path) -> io::Result<()> {
    let all = CONTROLLERS.map(|controller| format!("+{controller}")).join(" ");
    fs::write(path.join("cgroup.subtree_control"), all)
}

fn mount_point() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

fn own_cgroup() -> Option<String> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    own.lines().find_map(|line| line.strip_prefix("0::").map(str::to_owned))
}
