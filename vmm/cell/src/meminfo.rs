//! What the kernel tells of this host's memory.

/// Bytes in `field` of `meminfo`, the text of /proc/meminfo.
pub fn field(meminfo: &str, field: &str) -> Option<u64> {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    rest.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}
