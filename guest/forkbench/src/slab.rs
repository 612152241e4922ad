//! What the kernel's own objects take: from its lists of them, before and after.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;

use crate::counters::Fields;
use crate::failure::{During, Failure};

const LIST: &str = "/proc/slabinfo";

/// How much memory the kernel's objects of each kind took at one moment.
#[derive(Clone, Debug, Default)]
pub struct Slabs(BTreeMap<String, u64>);

impl Slabs {
    /// Now. An explanation if only root may know.
    ///
    /// # Errors
    ///
    /// When the list can't be read, or is another.
    pub fn read() -> Result<Result<Self, String>, Failure> {
        match fs::read_to_string(LIST) {
            Ok(text) => Self::parse(&text).map(Ok),
            Err(error)
                if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::NotFound) =>
            {
                Ok(Err(format!("{LIST} can't be read: {error}; only root may")))
            }
            Err(error) => Err(error).during(&format!("reading {LIST}")),
        }
    }

    fn parse(text: &str) -> Result<Self, Failure> {
        let mut slabs = BTreeMap::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(name), Some(active), Some(_), Some(size)) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                continue;
            };
            if let (Ok(active), Ok(size)) = (active.parse::<u64>(), size.parse::<u64>()) {
                slabs.insert(name.to_owned(), active * size);
            }
        }
        match slabs.contains_key("task_struct") {
            true => Ok(Self(slabs)),
            false => Err(Failure::Missing { file: LIST.into(), what: "task_struct".into() }),
        }
    }

    /// Whether the kernel lists objects of one of the kinds `names`. It may list them together with
    /// others of their size, by another name.
    pub fn lists(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.0.contains_key(*name))
    }

    /// By how much all objects of the kinds `names` have grown since `earlier`, bytes.
    pub fn grown(&self, earlier: &Self, names: &[&str]) -> f64 {
        let total = |slabs: &Self| names.iter().filter_map(|name| slabs.0.get(*name)).sum::<u64>();
        total(self) as f64 - total(earlier) as f64
    }
}

/// The size of one object of the kind `name`. None if the kernel does not tell.
pub fn object_bytes(name: &str) -> Option<f64> {
    let size = fs::read_to_string(format!("/sys/kernel/slab/{name}/object_size")).ok()?;
    size.trim().parse().ok()
}

/// Stacks of all threads in the kernel, bytes.
///
/// # Errors
///
/// When the kernel does not tell.
pub fn kernel_stacks() -> Result<u64, Failure> {
    Fields::read("/proc/meminfo")?.need("KernelStack")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_counted_by_their_sizes() {
        let text = |tasks| {
            format!(
                "slabinfo - version: 2.1\n# name            <active_objs> <num_objs> <objsize>\n\
                 task_struct          {tasks}    120   5888    5    8 : tunables    0    0    0\n\
                 signal_cache         131    182   1152   14    4 : tunables    0    0    0\n"
            )
        };
        let (before, after) =
            (Slabs::parse(&text(100)).unwrap(), Slabs::parse(&text(102)).unwrap());
        assert_eq!(after.grown(&before, &["task_struct", "signal_cache", "none"]), 2.0 * 5888.0);
        assert!(after.lists(&["none", "signal_cache"]) && !after.lists(&["none"]));
        assert_eq!(object_bytes("none"), None);
        assert!(Slabs::parse("nothing\n").is_err());
        assert!(kernel_stacks().unwrap() > 0);
    }
}
