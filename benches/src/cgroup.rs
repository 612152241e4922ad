//! Kernel memory that is charged to the control group of this process.
//!
//! KVM takes many pages straight from the page allocator (the caches that its MMU fills
//! before it needs them, the pages that vCPUs share with user space). No field of
//! /proc/meminfo counts them; the memory controller does.

use std::fs;

/// Bytes of it now, of all processes of the group. None where the controller does not
/// tell: it is not there, or this is the root group, to which nothing is charged.
pub fn kernel_bytes() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        match controllers {
            // Version 2 has one hierarchy, and this line names no controller.
            "" => {
                stat_kernel(&fs::read_to_string(format!("/sys/fs/cgroup{path}/memory.stat")).ok()?)
            }
            _ if controllers.split(',').any(|name| name == "memory") => {
                let file = format!("/sys/fs/cgroup/memory{path}/memory.kmem.usage_in_bytes");
                fs::read_to_string(file).ok()?.trim().parse().ok()
            }
            _ => None,
        }
    })
}

fn stat_kernel(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("kernel ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_line_is_found() {
        let stat = "anon 1\nfile 2\nkernel 4096\nkernel_stack 5\n";
        assert_eq!(stat_kernel(stat), Some(4096));
        assert_eq!(stat_kernel("kernel_stack 5\n"), None);
    }
}
