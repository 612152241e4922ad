//! The control groups of processes, and the kernel memory that is charged to that of this one.
//!
//! KVM takes many pages straight from the page allocator (the caches that its MMU fills
//! before it needs them, the pages that vCPUs share with user space). No field of
//! /proc/meminfo counts them; the memory controller does.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

/// Bytes of it now, of all processes of the group. None where the controller does not
/// tell: it is not there, or this is the root group, to which nothing is charged.
pub fn kernel_bytes() -> Option<u64> {
    match memory_version_1() {
        Some(group) => {
            let used = fs::read_to_string(group.join("memory.kmem.usage_in_bytes")).ok()?;
            used.trim().parse().ok()
        }
        None => stat_kernel(&fs::read_to_string(version_2("self")?.join("memory.stat")).ok()?),
    }
}

/// The memory group of this process, where the controller is of version 1.
pub fn memory_version_1() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    in_mount(&mounts, memory_path(&groups)?, is_memory)
}

/// The group of version 2 of process `pid`, or of this process if that is `self`.
pub fn version_2(pid: impl Display) -> Option<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    // There is one hierarchy, and its line names no controller.
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    in_mount(&mounts, path, is_version_2)
}

/// The path of the group that a `memory` line of /proc/PID/cgroup names.
fn memory_path(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        let path = fields.next()?;
        controllers.split(',').any(|name| name == "memory").then_some(path)
    })
}

/// Where the group `path` is in the first mount that `is` the one: `is` gets what mountinfo
/// says of file system and options.
fn in_mount(mounts: &str, path: &str, is: fn(&str) -> bool) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        // A container may have mounted its own part alone.
        let below = path.strip_prefix(root.trim_end_matches('/'))?;
        is(kind).then(|| Path::new(at).join(below.trim_start_matches('/')))
    })
}

fn is_memory(kind: &str) -> bool {
    let options = kind.rsplit(' ').next().unwrap_or_default();
    kind.starts_with("cgroup ") && options.split(',').any(|option| option == "memory")
}

fn is_version_2(kind: &str) -> bool {
    kind.starts_with("cgroup2 ")
}

fn stat_kernel(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("kernel ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn groups_are_found_below_their_mounts() {
        let groups = "9:name=systemd:/\n4:cpuset,memory:/a/b\n0::/c\n";
        assert_eq!(memory_path(groups), Some("/a/b"));
        assert_eq!(memory_path("0::/c\n"), None);
        let found = |path, is| in_mount(MOUNTS, path, is);
        assert_eq!(found("/a/b", is_memory), Some("/sys/fs/cgroup/memory/a/b".into()));
        assert_eq!(found("/", is_memory), Some("/sys/fs/cgroup/memory/".into()));
        assert_eq!(found("/c", is_version_2), Some("/sys/fs/cgroup/unified/c".into()));
        let part = "35 31 0:32 /docker/1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let found = in_mount(part, "/docker/1/a", is_memory);
        assert_eq!(found, Some("/sys/fs/cgroup/memory/a".into()));
        assert_eq!(in_mount(part, "/elsewhere", is_memory), None);
    }

    #[test]
    fn the_kernel_line_is_found() {
        let stat = "anon 1\nfile 2\nkernel 4096\nkernel_stack 5\n";
        assert_eq!(stat_kernel(stat), Some(4096));
        assert_eq!(stat_kernel("kernel_stack 5\n"), None);
    }
}
