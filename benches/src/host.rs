//! On what the figures were measured.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_vmm::KvmHost;
use tine_vmm::kvm::{Backend, Ring0};

use crate::BenchError;
use crate::error::Doing;
use crate::limits::failed;
use crate::meminfo::MemInfo;

/// The host, as far as it matters for the figures. What can't be found out is null.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HostFacts {
    /// Name of the processor.
    pub cpu: Option<String>,
    /// Processors online.
    pub cores: usize,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// Which KVM it is.
    pub kvm: KvmFacts,
    /// Size of a page, bytes.
    pub page_bytes: u64,
    /// Setting of transparent huge pages for anonymous memory.
    pub thp_enabled: Option<String>,
    /// The same for memory files.
    pub thp_shmem_enabled: Option<String>,
    /// Huge pages reserved.
    pub hugepages_total: Option<u64>,
    /// Of those, free.
    pub hugepages_free: Option<u64>,
    /// Ticks of the kernel's timer a second.
    pub hz: Option<u64>,
    /// Virtual machines that were alive when the suite began, as far as this user may see.
    pub live_vms: u64,
    /// Load of the host when the suite began, mean of a minute: what else ran.
    pub load: Option<f64>,
    /// The exact command.
    pub command: String,
    /// Version of tine.
    pub tine: String,
    /// When the suite began, UTC.
    pub date: String,
}

/// Which KVM it is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct KvmFacts {
    /// The module.
    pub module: String,
    /// How guest ring 0 runs: `native` or `emulated`.
    pub ring0: String,
    /// Nanoseconds an instruction there.
    pub ring0_ns: f64,
    /// Nanoseconds an instruction in ring 3.
    pub ring3_ns: f64,
}

impl HostFacts {
    /// Whether `other` is the same host with the same software.
    pub fn is_same(&self, other: &Self) -> bool {
        let facts = |host: &Self| {
            (
                host.cpu.clone(),
                host.cores,
                host.memory_bytes,
                host.kernel.clone(),
                host.tine.clone(),
            )
        };
        facts(self) == facts(other) && self.kvm.module == other.kvm.module
    }

    /// Finds it all out.
    pub fn gather(kvm: &KvmHost, command: &str) -> Result<Self, BenchError> {
        let memory = MemInfo::read()?;
        let backend = Backend::measure(kvm).doing("measuring how guests run")?;
        let thp = Path::new("/sys/kernel/mm/transparent_hugepage");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            cpu: first_value("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory.need("MemTotal")?,
            kernel: line("/proc/sys/kernel/osrelease")?,
            kvm: KvmFacts {
                module: backend.module,
                ring0: match backend.ring0 {
                    Ring0::Native => "native".to_owned(),
                    Ring0::Emulated => "emulated".to_owned(),
                },
                ring0_ns: backend.ring0_ns,
                ring3_ns: backend.ring3_ns,
            },
            page_bytes: page_bytes()?,
            thp_enabled: chosen(&thp.join("enabled")),
            thp_shmem_enabled: chosen(&thp.join("shmem_enabled")),
            hugepages_total: memory.get("HugePages_Total"),
            hugepages_free: memory.get("HugePages_Free"),
            hz: ticks_a_second(),
            live_vms: live_vms(),
            load: load(),
            command: command.to_owned(),
            tine: env!("CARGO_PKG_VERSION").to_owned(),
            date: utc(now.as_secs()),
        })
    }
}

fn line(path: &str) -> Result<String, BenchError> {
    let text = fs::read_to_string(path)
        .map_err(|source| BenchError::Read { path: path.into(), source })?;
    Ok(text.trim().to_owned())
}

/// The first value of `key` in a file of `key : value` lines.
fn first_value(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    })
}

/// The word in brackets of a file such as `always [madvise] never`.
fn chosen(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

fn page_bytes() -> Result<u64, BenchError> {
    // SAFETY: asks for a number.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).map_err(|_| failed("sysconf(_SC_PAGESIZE)"))
}

/// The kernel's `HZ`: the coarse clock moves once a tick, and says so.
fn ticks_a_second() -> Option<u64> {
    let mut step = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the structure given.
    let done = unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut step) };
    let nanoseconds = u64::try_from(step.tv_nsec).ok().filter(|&ns| ns > 0)?;
    // A tick may be a few nanoseconds off, so the quotient is rounded.
    (done == 0 && step.tv_sec == 0).then(|| (1_000_000_000 + nanoseconds / 2) / nanoseconds)
}

fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// Descriptors of virtual machines that processes of this host have open.
fn live_vms() -> u64 {
    let Ok(processes) = fs::read_dir("/proc") else { return 0 };
    let mut count = 0;
    for process in processes.flatten() {
        // Other users' processes, and those that have ended meanwhile, stay unseen.
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let target = fs::read_link(descriptor.path()).unwrap_or_default();
            count += u64::from(target.as_os_str() == "anon_inode:kvm-vm");
        }
    }
    count
}

/// RFC 3339 of `seconds` since the epoch.
fn utc(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Days since 1 March of year 0, when a leap day ends its year.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (year + era * 400 + month / 10, (month + 2) % 12 + 1);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_735_689_599), "2024-12-31T23:59:59Z");
        assert_eq!(utc(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn the_kernel_tells_its_tick() {
        assert!([100, 250, 300, 1000].contains(&ticks_a_second().unwrap()));
        assert_eq!(page_bytes().unwrap(), 4096);
    }
}
