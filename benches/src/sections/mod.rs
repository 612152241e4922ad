//! What is measured: one thing a file.

pub mod cells;
pub mod confinement;
pub mod cow_faults;
pub mod crossover;
pub mod density;
pub mod dormant;
pub mod fanout;
mod grid;
pub mod hot_set;
pub mod ledger;
pub mod live_fork;
mod parents;
pub mod parts;
pub mod read_faults;
pub mod reset;
pub mod spawn;
pub mod spawn_rate;
pub mod teardown;
pub mod working_set;

use serde::{Serialize, Serializer};
use tine_abi::pattern::{Pattern, Selection};
use tine_vmm::{Ladder, MemoryMode};

use crate::stats::{median, microseconds};

/// 100 MiB, the memory in which faults are counted.
pub const REGION_PAGES: u64 = 25_600;
/// Size of the guests whose faults are counted, MiB.
pub const GUEST_MIB: u64 = 256;
/// Both ways of giving a clone its memory.
const MEMORIES: [MemoryMode; 2] = [MemoryMode::Cow, MemoryMode::Eager];
/// Both ways of going through memory.
const PATTERNS: [Pattern; 2] = [Pattern::Sequential, Pattern::Scattered { seed: 7 }];

/// Name of a kind of memory in reports.
fn memory_name(memory: MemoryMode) -> &'static str {
    match memory {
        MemoryMode::Cow => "cow",
        MemoryMode::Eager => "eager",
    }
}

/// Name of a pattern in reports.
fn pattern_name(pattern: Pattern) -> &'static str {
    match pattern {
        Pattern::Sequential => "sequential",
        Pattern::Scattered { .. } => "scattered",
        Pattern::Stride { .. } => "stride",
    }
}

/// `fraction` of the region, in the order of `pattern`.
fn part_of_region(fraction: f64, pattern: Pattern) -> Selection {
    let pages = (REGION_PAGES as f64 * fraction).round() as u64;
    Selection { first_page: 0, region_pages: REGION_PAGES, pages, pattern }
}

/// Nanoseconds a page; of no pages, none.
fn ns_per_page(us: f64, pages: u64) -> f64 {
    if pages == 0 { 0.0 } else { us * 1000.0 / pages as f64 }
}

/// The median of every step of some ladders, microseconds, in their order.
#[derive(Clone, Debug, Default)]
pub struct Steps(pub Vec<(&'static str, f64)>);

impl Steps {
    /// Of `ladders`. A step that some of them lack counts as zero there.
    fn of(ladders: &[Ladder]) -> Self {
        let steps: Vec<_> = ladders.iter().map(Ladder::steps).collect();
        let Some(first) = steps.first() else { return Self::default() };
        let medians = first.iter().enumerate().map(|(index, (name, _))| {
            let times = steps.iter().map(|steps| steps[index].1.map_or(0.0, microseconds));
            (*name, median(times))
        });
        Self(medians.collect())
    }

    /// The step `name`, microseconds.
    pub fn get(&self, name: &str) -> f64 {
        self.0.iter().find(|step| step.0 == name).map_or(0.0, |step| step.1)
    }
}

impl Serialize for Steps {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn steps_are_medians_in_order() {
        let ladder = |us| Ladder { map: Duration::from_micros(us), ..Ladder::default() };
        let steps = Steps::of(&[ladder(9), ladder(1), ladder(5)]);
        assert_eq!(steps.get("map"), 5.0);
        let json = serde_json::to_string(&steps).unwrap();
        assert!(json.starts_with(r#"{"queue":0.0,"shell":0.0,"memslot":0.0,"map":5.0"#), "{json}");
        assert!(Steps::of(&[]).0.is_empty());
    }

    #[test]
    fn the_whole_region_is_the_whole_region() {
        for pattern in PATTERNS {
            assert_eq!(part_of_region(1.0, pattern).iter().count() as u64, REGION_PAGES);
            assert_eq!(part_of_region(0.01, pattern).iter().count(), 256);
        }
        assert_eq!(ns_per_page(5.0, 0), 0.0);
        assert_eq!(ns_per_page(5.0, 2), 2500.0);
    }
}
