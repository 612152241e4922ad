//! What the kernel counts: page faults, page tables, and how memory is shared.

use std::fs;
use std::ops::Range;

use nix::sys::resource::{UsageWho, getrusage};

use crate::failure::{During, Failure};
use crate::rows::{Faults, Memory};

/// Faults that this thread has taken so far.
///
/// # Errors
///
/// When the kernel does not count them.
pub fn faults() -> Result<Faults, Failure> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).during("getrusage")?;
    Ok(Faults { minor: usage.minor_page_faults() as u64, major: usage.major_page_faults() as u64 })
}

impl Faults {
    /// Those since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self { minor: self.minor - earlier.minor, major: self.major - earlier.major }
    }
}

/// A file of lines `Name: value`, at one moment.
#[derive(Clone, Debug)]
pub struct Fields {
    file: String,
    text: String,
}

impl Fields {
    /// Reads `file`.
    ///
    /// # Errors
    ///
    /// When it can't be read.
    pub fn read(file: impl Into<String>) -> Result<Self, Failure> {
        let file = file.into();
        let text = fs::read_to_string(&file).during(&format!("reading {file}"))?;
        Ok(Self { file, text })
    }

    /// The field `name`: in bytes, or as a number where it has no unit. None if there is none.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.text.lines().find_map(|line| value(line, name))
    }

    /// The field `name`, which every kernel has.
    ///
    /// # Errors
    ///
    /// When this one has not.
    pub fn need(&self, name: &str) -> Result<u64, Failure> {
        self.get(name)
            .ok_or_else(|| Failure::Missing { file: self.file.clone(), what: name.into() })
    }
}

/// The value of the field `name` if `line` is it.
fn value(line: &str, name: &str) -> Option<u64> {
    let value = line.strip_prefix(name)?.strip_prefix(':')?.trim();
    match value.strip_suffix("kB") {
        Some(kilobytes) => Some(kilobytes.trim().parse::<u64>().ok()? << 10),
        None => value.parse().ok(),
    }
}

/// Page tables of a process (`VmPTE`), which is `self` or a process id.
///
/// # Errors
///
/// When the kernel does not tell.
pub fn page_tables(process: &str) -> Result<u64, Failure> {
    Fields::read(format!("/proc/{process}/status"))?.need("VmPTE")
}

/// Memory of a whole process, which is `self` or a process id.
///
/// # Errors
///
/// When the kernel does not tell.
pub fn memory(process: &str) -> Result<Memory, Failure> {
    let rollup = Fields::read(format!("/proc/{process}/smaps_rollup"))?;
    rollup.need("Rss")?;
    Ok(Memory { page_table_bytes: page_tables(process)?, ..sum(rollup.text.lines()) })
}

/// Memory of this process within `addresses`.
///
/// # Errors
///
/// When the kernel does not tell.
pub fn memory_of(addresses: Range<usize>) -> Result<Memory, Failure> {
    let smaps = Fields::read("/proc/self/smaps")?;
    let mut inside = false;
    let lines = smaps.text.lines().filter(|line| {
        if let Some(range) = mapping(line) {
            inside = addresses.start <= range.start && range.end <= addresses.end;
        }
        inside
    });
    let memory = sum(lines);
    Ok(Memory { page_table_bytes: page_tables("self")?, ..memory })
}

/// The addresses of a mapping if `line` is the first of its lines.
fn mapping(line: &str) -> Option<Range<usize>> {
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

fn sum<'a>(lines: impl Iterator<Item = &'a str>) -> Memory {
    let mut memory = Memory::default();
    for line in lines {
        let Some((name, _)) = line.split_once(':') else { continue };
        let Some(bytes) = value(line, name) else { continue };
        match name {
            "Rss" => memory.rss_bytes += bytes,
            "Pss" => memory.pss_bytes += bytes,
            "Private_Dirty" => memory.private_dirty_bytes += bytes,
            "Private_Clean" => memory.private_clean_bytes += bytes,
            "Shared_Clean" | "Shared_Dirty" => memory.shared_bytes += bytes,
            "AnonHugePages" => memory.huge_bytes += bytes,
            "Private_Hugetlb" => {
                memory.rss_bytes += bytes;
                memory.private_dirty_bytes += bytes;
                memory.huge_bytes += bytes;
            }
            "Shared_Hugetlb" => {
                memory.rss_bytes += bytes;
                memory.shared_bytes += bytes;
                memory.huge_bytes += bytes;
            }
            _ => {}
        }
    }
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
7f0000000000-7f0000200000 rw-p 00000000 00:00 0 
Size:               2048 kB
Rss:                  12 kB
Pss:                   8 kB
Shared_Dirty:          8 kB
Private_Dirty:         4 kB
Private_Hugetlb:    2048 kB
VmFlags: rd wr mr
7f0000200000-7f0000300000 rw-p 00000000 00:00 0                          [heap]
Rss:                 100 kB
";

    #[test]
    fn fields_are_summed() {
        let memory = sum(SMAPS.lines());
        assert_eq!(memory.rss_bytes, (12 + 2048 + 100) << 10);
        assert_eq!(memory.pss_bytes, 8 << 10);
        assert_eq!(memory.shared_bytes, 8 << 10);
        assert_eq!(memory.private_dirty_bytes, (4 + 2048) << 10);
        assert_eq!(memory.huge_bytes, 2048 << 10);
    }

    #[test]
    fn mappings_are_told_from_fields() {
        assert_eq!(
            mapping(SMAPS.lines().next().unwrap()),
            Some(0x7f00_0000_0000..0x7f00_0020_0000)
        );
        assert_eq!(SMAPS.lines().filter(|line| mapping(line).is_some()).count(), 2);
        assert!(page_tables("self").unwrap() > 0);
        assert!(Fields::read("/proc/self/status").unwrap().need("Nonsense").is_err());
    }
}
