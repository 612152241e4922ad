//! `tine doctor`: whether this host can run tine, and what would make it better.
//!
//! Wherever it can, a check does the thing it asks about instead of reading what the
//! kernel says of itself.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use serde_json::json;
use tine_cell::confine::Confinement;
use tine_cell::fault::with_causes;
use tine_cell::meminfo;
use tine_cell::warden::Warden;
use tine_vmm::KvmHost;
use tine_vmm::kvm::{Backend, Ring0};
use tine_vmm::memory::pagemap::{self, Method};
use tine_vmm::memory::{ImageKind, MemoryImage, PAGE_SIZE};

use super::output::Output;
use super::size;

/// Options of `tine doctor`.
#[derive(Args, Debug)]
pub struct Doctor {
    #[command(flatten)]
    output: Output,
}

impl Doctor {
    /// Checks everything; the exit code is 1 if anything fails.
    pub fn run(&self) -> Result<ExitCode> {
        let checks = examine();
        let failed = checks.iter().any(|check| check.outcome == Outcome::Fail);
        self.output.print(&json!({ "ok": !failed, "checks": checks }), |_| report(&checks))?;
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Ok,
    Warn,
    Fail,
}

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
struct Check {
    name: &'static str,
    outcome: Outcome,
    detail: String,
    /// What to do about it, unless all is well.
    fix: Option<String>,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Ok, detail: detail.into(), fix: None }
    }

    fn warn(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Warn, detail: detail.into(), fix: Some(fix.into()) }
    }

    fn fail(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Fail, detail: detail.into(), fix: Some(fix.into()) }
    }
}

fn examine() -> Vec<Check> {
    let mut checks = vec![device()];
    match KvmHost::open() {
        Ok(host) => checks.extend([interface(&host), backend(&host), clock(&host)]),
        Err(error) => checks.push(Check::fail(
            "KVM",
            with_causes(&error),
            "load kvm_intel or kvm_amd; a cloud machine needs nested virtualisation or a \
             kernel with kvm_pvm",
        )),
    }
    checks.extend([
        memfd(),
        pagemap_scan(),
        userfaultfd(),
        huge_pages(),
        transparent_huge_pages(),
        shmem_huge_pages(),
        cgroup(),
        confinement(),
        mappings(),
        descriptors(),
        memory(),
    ]);
    checks
}

fn report(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for check in checks {
        let mark = match check.outcome {
            Outcome::Ok => "ok  ",
            Outcome::Warn => "warn",
            Outcome::Fail => "FAIL",
        };
        lines.push(format!("{mark}  {:width$}  {}", check.name, check.detail));
        if let Some(fix) = &check.fix {
            lines.push(format!("      {:width$}  -> {fix}", ""));
        }
    }
    lines.join("\n")
}

fn device() -> Check {
    const NAME: &str = "/dev/kvm";
    match fs::OpenOptions::new().read(true).write(true).open(NAME) {
        Ok(_) => Check::ok(NAME, "can be read and written"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Check::fail(
            NAME,
            error.to_string(),
            "add this user to the group that owns /dev/kvm (`usermod -aG kvm USER`), then log in again",
        ),
        Err(error) => Check::fail(
            NAME,
            error.to_string(),
            "enable virtualisation in the firmware, or nested virtualisation in the cloud, and \
             load kvm_intel or kvm_amd",
        ),
    }
}

fn interface(host: &KvmHost) -> Check {
    let version = host.kvm().get_api_version();
    // Opening the host has refused every other version already.
    Check::ok("KVM interface", format!("version {version}, up to {} vCPUs", host.max_vcpus()))
}

fn backend(host: &KvmHost) -> Check {
    const NAME: &str = "KVM backend";
    match Backend::measure(host) {
        Ok(found) => {
            let measured = format!(
                "{}: {:.1} ns an instruction in ring 0, {:.1} in ring 3",
                found.module, found.ring0_ns, found.ring3_ns
            );
            match found.ring0 {
                Ring0::Native => Check::ok(NAME, format!("{measured}: ring 0 runs natively")),
                Ring0::Emulated => Check::warn(
                    NAME,
                    format!(
                        "{measured}: ring 0 is emulated, so only the embedded workload runs well"
                    ),
                    "for Linux guests use a host with kvm_intel or kvm_amd",
                ),
            }
        }
        Err(error) => Check::fail(
            NAME,
            with_causes(&error),
            "no guest ran; look for the reason in the kernel's log (`dmesg`)",
        ),
    }
}

fn clock(host: &KvmHost) -> Check {
    const NAME: &str = "KVM_CLOCK_REALTIME";
    if host.clock_realtime() {
        Check::ok(NAME, "clones account for the time their snapshot lay still")
    } else {
        Check::warn(
            NAME,
            "absent: a clone's clock goes on from the moment of its snapshot",
            "use Linux 5.16 or newer on a host whose clock source is the TSC",
        )
    }
}

fn memfd() -> Check {
    const NAME: &str = "memfd sealing";
    let sealed =
        MemoryImage::create(PAGE_SIZE as u64, ImageKind::Small).and_then(|image| image.seal());
    match sealed {
        Ok(()) => Check::ok(NAME, "images can be sealed against writing"),
        Err(error) => {
            Check::fail(NAME, with_causes(&error), "use a kernel with CONFIG_MEMFD_CREATE")
        }
    }
}

fn pagemap_scan() -> Check {
    const NAME: &str = "PAGEMAP_SCAN";
    match pagemap::method() {
        Method::Scan => {
            Check::ok(NAME, "dirty pages are found in time proportional to their number")
        }
        Method::Read => Check::warn(
            NAME,
            "absent: dirty pages are found by reading /proc/self/pagemap, in time proportional to RAM",
            "use Linux 6.7 or newer",
        ),
    }
}

fn userfaultfd() -> Check {
    const NAME: &str = "userfaultfd";
    const USER_MODE_ONLY: libc::c_int = 1;
    // SAFETY: makes a descriptor and touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | USER_MODE_ONLY) };
    if fd < 0 {
        return Check::warn(
            NAME,
            format!(
                "refused ({}): scattered pages are copied by writing",
                io::Error::last_os_error()
            ),
            "allow the userfaultfd system call (Linux 5.11 or newer lets every user handle user faults)",
        );
    }
    // SAFETY: the descriptor is new and owned by nobody else.
    unsafe { libc::close(fd as libc::c_int) };
    Check::ok(NAME, "scattered pages are placed at half the price of a copy")
}

fn huge_pages() -> Check {
    const NAME: &str = "huge pages reserved";
    let count = |file| number(&format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{file}"));
    match (count("nr_hugepages"), count("free_hugepages")) {
        (Some(0), _) => Check::ok(NAME, "none; only images of reserved huge pages need them"),
        (Some(all), Some(free)) => Check::ok(NAME, format!("{free} of {all} free, 2 MiB each")),
        _ => Check::warn(
            NAME,
            "this kernel has none of 2 MiB",
            "use a kernel with CONFIG_HUGETLBFS if you want images of reserved huge pages",
        ),
    }
}

fn transparent_huge_pages() -> Check {
    const NAME: &str = "THP";
    match chosen("/sys/kernel/mm/transparent_hugepage/enabled").as_deref() {
        Some(setting @ ("always" | "madvise")) => {
            Check::ok(NAME, format!("{setting}: eager copies use huge pages"))
        }
        other => Check::warn(
            NAME,
            format!(
                "{}: eager copies take about twice as long",
                other.unwrap_or("not in this kernel")
            ),
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        ),
    }
}

fn shmem_huge_pages() -> Check {
    const NAME: &str = "THP for shmem";
    match chosen("/sys/kernel/mm/transparent_hugepage/shmem_enabled").as_deref() {
        Some("never") => Check::ok(NAME, "never: images of huge pages are made by MADV_COLLAPSE"),
        Some("deny") | None => Check::warn(
            NAME,
            "off: images are made of 4 KiB pages only",
            "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled",
        ),
        Some(setting) => Check::ok(NAME, setting),
    }
}

fn cgroup() -> Check {
    const NAME: &str = "cgroup v2";
    const FIX: &str = "boot with systemd.unified_cgroup_hierarchy=1 (or cgroup_no_v1=all), so that each \
                       machine's memory can be limited";
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let Some(root) = cgroup2_mount(&mounts) else {
        return Check::warn(NAME, "not mounted", FIX);
    };
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    if controllers.split_whitespace().any(|controller| controller == "memory") {
        Check::ok(NAME, format!("at {}: {}", root.display(), controllers.trim()))
    } else {
        Check::warn(NAME, format!("at {}, without the memory controller", root.display()), FIX)
    }
}

/// Where `mounts`, the text of /proc/self/mountinfo, has a cgroup2 file system.
fn cgroup2_mount(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let place = before.split(' ').nth(4)?;
        after.starts_with("cgroup2 ").then(|| PathBuf::from(place))
    })
}

/// Makes and confines a first cell.
fn confinement() -> Check {
    const NAME: &str = "confinement";
    const FIX: &str = "raise user.max_user_namespaces, and set kernel.unprivileged_userns_clone=1 where it \
                       exists; else `tine serve --allow-unconfined` does without namespaces";
    match Warden::start(Path::new("/proc/self/exe"), Confinement::default()) {
        Ok(_) => {
            Check::ok(NAME, "each sandbox gets a process in namespaces of its own, under seccomp")
        }
        Err(error) => Check::warn(NAME, with_causes(&error), FIX),
    }
}

fn mappings() -> Check {
    const NAME: &str = "vm.max_map_count";
    const WANTED: u64 = 65_530;
    const FIX: &str = "sysctl -w vm.max_map_count=262144";
    match number("/proc/sys/vm/max_map_count") {
        Some(count) if count >= WANTED => Check::ok(NAME, count.to_string()),
        Some(count) => {
            Check::warn(NAME, format!("{count}: few machines with scattered deltas fit"), FIX)
        }
        None => Check::warn(NAME, "can't be read", FIX),
    }
}

fn descriptors() -> Check {
    const NAME: &str = "open files";
    // A machine holds one for itself and one for each vCPU; a snapshot one for its memory.
    const WANTED: u64 = 4096;
    const NEEDED: u64 = 64;
    const FIX: &str = "ulimit -n 65536, or LimitNOFILE=65536 in the service's unit";
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    match open_files(&limits) {
        Some(limit) if limit < NEEDED => Check::fail(NAME, limit.to_string(), FIX),
        Some(limit) if limit < WANTED => {
            Check::warn(NAME, format!("{limit}: about {} machines fit", limit / 3), FIX)
        }
        Some(u64::MAX) => Check::ok(NAME, "unlimited"),
        Some(limit) => Check::ok(NAME, limit.to_string()),
        None => Check::warn(NAME, "the limit can't be read", FIX),
    }
}

/// The soft limit on open files in `limits`, the text of /proc/self/limits.
fn open_files(limits: &str) -> Option<u64> {
    let rest = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match rest.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        limit => limit.parse().ok(),
    }
}

fn memory() -> Check {
    const NAME: &str = "free memory";
    const WANTED: u64 = 2 << 30;
    const NEEDED: u64 = 256 << 20;
    const FIX: &str = "free some, or fork smaller guests";
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    match meminfo::field(&meminfo, "MemAvailable") {
        Some(free) if free < NEEDED => Check::fail(NAME, size::bytes(free), FIX),
        Some(free) if free < WANTED => {
            Check::warn(NAME, format!("{}: little for large guests", size::bytes(free)), FIX)
        }
        Some(free) => Check::ok(NAME, size::bytes(free)),
        None => Check::warn(NAME, "/proc/meminfo does not say", "mount /proc"),
    }
}

fn number(file: &str) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The choice in brackets of a file like `always [madvise] never`.
fn chosen(file: &str) -> Option<String> {
    bracketed(&fs::read_to_string(file).ok()?).map(str::to_owned)
}

fn bracketed(text: &str) -> Option<&str> {
    text.split_once('[')?.1.split_once(']').map(|(setting, _)| setting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_files_are_read_right() {
        assert_eq!(bracketed("always [madvise] never"), Some("madvise"));
        assert_eq!(bracketed("nothing"), None);
        let meminfo = "MemTotal: 9 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(meminfo::field(meminfo, "MemAvailable"), Some(2 << 20));
        let limits = "Max open files            1024                 4096                 files";
        assert_eq!(open_files(limits), Some(1024));
        assert_eq!(open_files("Max open files  unlimited unlimited files"), Some(u64::MAX));
        let mounts = "30 23 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      31 23 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mount(mounts), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(cgroup2_mount(""), None);
    }

    #[test]
    fn a_report_shows_the_fix_below_its_line() {
        let checks = [Check::ok("a", "fine"), Check::warn("long", "so so", "do it")];
        assert_eq!(report(&checks), "ok    a     fine\nwarn  long  so so\n            -> do it");
    }
}
