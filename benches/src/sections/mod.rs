//! What is measured: one thing a file.

pub mod backing;
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
pub mod pressure;
pub mod process;
pub mod read_faults;
pub mod redis;
pub mod redis_guest;
pub mod reset;
pub mod spawn;
pub mod spawn_rate;
pub mod teardown;
pub mod vm_bgsave;
pub mod vm_copied;
mod vm_family;
pub mod vm_seen;
mod vm_steps;
pub mod vm_timeline;
pub mod working_set;

use tine_abi::pattern::{Pattern, Selection};
use tine_vmm::{Ladder, MemoryMode};

use crate::BenchError;
use crate::bench::Bench;
use crate::named::Named;
use crate::peers;
use crate::plan::Section;
use crate::report::Report;
use crate::stats::{median, microseconds};

/// Measures `section` and puts its figures into `report`.
pub fn run(section: Section, bench: &mut Bench, report: &mut Report) -> Result<(), BenchError> {
    match section {
        Section::Spawn => report.spawn = spawn::run(bench)?,
        Section::LiveFork => report.live_fork = live_fork::run(bench)?,
        Section::CowFaults => {
            report.cow_faults = cow_faults::run(bench)?;
            report.crossover = crossover::find_all(&report.cow_faults);
        }
        Section::ReadFaults => report.read_faults = read_faults::run(bench)?,
        Section::HotSet => report.hot_set = Some(hot_set::run(bench)?),
        Section::Ledger => report.ledger = ledger::run(bench)?,
        Section::Density => report.density = Some(density::run(bench)?),
        Section::Teardown => report.teardown = teardown::run(bench)?,
        Section::Reset => report.reset = reset::run(bench)?,
        Section::Dormant => report.dormant = dormant::run(bench)?,
        Section::SpawnRate => report.spawn_rate = spawn_rate::run(bench)?,
        Section::Fanout => report.fanout = Some(fanout::run(bench)?),
        Section::Cells => report.cells = Some(cells::run(bench)?),
        Section::Confinement => report.confine(confinement::run(bench)?),
        Section::WorkingSet => report.working_set = working_set::run(bench)?,
        Section::Pressure => {
            report.pressure = pressure::run(bench)?;
            report.process_pressure = process::pressure::run(bench)?;
        }
        Section::VmCopied => {
            report.vm_copied = vm_copied::run(bench, report.density.as_ref())?;
            let (seen, tables) = vm_seen::run(bench)?;
            (report.vm_seen, report.vm_page_tables) = (Some(seen), Some(tables));
        }
        Section::VmTimeline => report.vm_timeline = vm_timeline::run(bench)?,
        Section::Backing => report.backing = backing::run(bench)?,
        Section::ProcessSpawn => report.process_spawn = Some(process::spawn::run(bench)?),
        Section::ProcessFaults => report.process_faults = Some(process::faults::run(bench)?),
        Section::ProcessTimeline => report.process_timeline = process::timeline::run(bench)?,
        Section::ProcessCopied => report.process_copied = process::copied::run(bench)?,
        Section::ProcessTuning => report.process_tuning = process::tuning::run(bench)?,
        Section::ProcessInGuest => {
            report.process_in_guest = process::in_guest::run(bench, &report.host)?;
        }
        Section::Peers => report.peers = Some(peers::run(bench)?),
        Section::Redis => report.redis = redis::run(bench)?,
        Section::RedisGuest => report.redis_guest = redis_guest::run(bench, &report.host)?,
        Section::VmBgsave => report.vm_bgsave = Some(vm_bgsave::run(bench)?),
    }
    Ok(())
}

/// 100 MiB, the memory in which faults are counted.
pub const REGION_PAGES: u64 = 25_600;
/// Size of the guests whose faults are counted, MiB.
pub const GUEST_MIB: u64 = 256;
/// Both ways of giving a clone its memory.
const MEMORIES: [MemoryMode; 2] = [MemoryMode::Cow, MemoryMode::Eager];
/// Both ways of going through memory.
const PATTERNS: [Pattern; 2] = [Pattern::Sequential, Pattern::Scattered { seed: 7 }];

/// `bytes` in MiB, as part of a measure's name.
fn mib(bytes: u64) -> String {
    format!("{}_mib", bytes >> 20)
}

/// `fraction` in per cent, as part of a measure's name.
fn per_cent(fraction: f64) -> String {
    format!("{}_percent", fraction * 100.0)
}

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

/// The median of every step of some ladders, microseconds, in their order. A step that some of
/// them lack counts as zero there.
fn steps(ladders: &[Ladder]) -> Named {
    let steps: Vec<_> = ladders.iter().map(Ladder::steps).collect();
    let Some(first) = steps.first() else { return Named::default() };
    let medians = first.iter().enumerate().map(|(index, (name, _))| {
        let times = steps.iter().map(|steps| steps[index].1.map_or(0.0, microseconds));
        (*name, median(times))
    });
    medians.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn steps_are_medians_in_order() {
        let ladder = |us| Ladder { map: Duration::from_micros(us), ..Ladder::default() };
        let medians = steps(&[ladder(9), ladder(1), ladder(5)]);
        assert_eq!(medians.get("map"), Some(5.0));
        assert_eq!(medians.0[3].0, "map");
        assert!(steps(&[]).0.is_empty());
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
