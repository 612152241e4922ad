//! What the kernel says about the host's memory, and this process's.

use std::fs;
use std::path::PathBuf;

use crate::BenchError;

/// One reading of /proc/meminfo, or of a file of the same form.
#[derive(Clone, Debug)]
pub struct MemInfo {
    path: PathBuf,
    text: String,
}

impl MemInfo {
    /// The host's memory now.
    pub fn read() -> Result<Self, BenchError> {
        Self::from("/proc/meminfo")
    }

    /// The memory of this process now.
    pub fn own() -> Result<Self, BenchError> {
        Self::from("/proc/self/status")
    }

    /// How the memory of process `pid` is shared, summed over its mappings.
    pub fn shared_by(pid: u32) -> Result<Self, BenchError> {
        Self::from(format!("/proc/{pid}/smaps_rollup"))
    }

    /// The memory of process `pid`.
    pub fn of(pid: u32) -> Result<Self, BenchError> {
        Self::from(format!("/proc/{pid}/status"))
    }

    fn from(path: impl Into<PathBuf>) -> Result<Self, BenchError> {
        let path = path.into();
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Self { path, text }),
            Err(source) => Err(BenchError::Read { path, source }),
        }
    }

    /// The field `name`, in bytes, or as a number where it has no unit. None when this
    /// kernel lacks it.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.text.lines().find_map(|line| {
            let value = line.strip_prefix(name)?.strip_prefix(':')?.trim();
            match value.strip_suffix("kB") {
                Some(kilobytes) => Some(kilobytes.trim().parse::<u64>().ok()? << 10),
                None => value.parse().ok(),
            }
        })
    }

    /// The field `name`, which every kernel has.
    pub fn need(&self, name: &'static str) -> Result<u64, BenchError> {
        self.get(name).ok_or(BenchError::Missing { path: self.path.clone(), what: name })
    }

    /// By how much the field `name` is larger than in `earlier`, in bytes.
    pub fn grown(&self, earlier: &Self, name: &str) -> Option<f64> {
        Some(self.get(name)? as f64 - earlier.get(name)? as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_units_or_none() {
        let info = |text: &str| MemInfo { path: "meminfo".into(), text: text.to_owned() };
        let before = info("MemTotal:       24683520 kB\nHugePages_Total:       3\nSlab: 10 kB\n");
        assert_eq!(before.get("MemTotal"), Some(24_683_520 << 10));
        assert_eq!(before.get("HugePages_Total"), Some(3));
        assert_eq!(before.get("Mem"), None);
        assert_eq!(info("Slab: 8 kB\n").grown(&before, "Slab"), Some(-2048.0));
        assert!(matches!(before.need("MemFree"), Err(BenchError::Missing { .. })));
        assert!(MemInfo::own().unwrap().need("RssAnon").unwrap() > 0);
    }
}
