//! What parent and child of a fork take together, over time.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::MemoryPoint;
use crate::BenchError;
use crate::meminfo::MemInfo;

/// A reading walks all page tables of both, and takes their processor meanwhile: one in so
/// many parts of the time may go for it.
const SHARE: u32 = 8;
/// Least time between two readings.
const LEAST: Duration = Duration::from_millis(50);
/// How long a child may take to be seen.
const CHILD_LIMIT: Duration = Duration::from_secs(5);

/// What a process takes, shared pages by its share of them.
pub fn pss(pid: u32) -> Result<u64, BenchError> {
    MemInfo::shared_by(pid)?.need("Pss")
}

/// Bytes of page tables of process `pid`.
pub fn page_tables(pid: u32) -> Result<u64, BenchError> {
    MemInfo::of(pid)?.need("VmPTE")
}

/// Waits until process `parent` has a child.
pub fn child_of(parent: u32) -> Result<Option<u32>, BenchError> {
    let begun = Instant::now();
    while begun.elapsed() < CHILD_LIMIT {
        if let Some(child) = find_child(parent)? {
            return Ok(Some(child));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(None)
}

/// The last child of process `parent`. Not every kernel has a file with them.
pub fn find_child(parent: u32) -> Result<Option<u32>, BenchError> {
    const PROC: &str = "/proc";
    let entries =
        fs::read_dir(PROC).map_err(|source| BenchError::Read { path: PROC.into(), source })?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let child = |pid: &u32| stat(*pid).is_some_and(|stat| stat.parent == parent && stat.lives);
    Ok(pids.filter(child).max())
}

/// Whether process `pid` is there and has not ended.
pub fn lives(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat.lives)
}

struct Stat {
    parent: u32,
    lives: bool,
}

/// None when there is no such process (any more).
fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name stands in parentheses, and may have any in it.
fn parse_stat(text: &str) -> Option<Stat> {
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    Some(Stat { parent, lives: !matches!(state, "Z" | "X") })
}

/// Looks at `parent` and `child` until `ended`, or until one of them is gone. The parent took
/// `before` bytes before the fork, which was at `begun`.
pub fn watch<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    (parent, child): (u32, u32),
    before: u64,
    begun: Instant,
    ended: &'scope AtomicBool,
) -> ScopedJoinHandle<'scope, Vec<MemoryPoint>> {
    scope.spawn(move || {
        let mut points = Vec::new();
        while !ended.load(Ordering::Relaxed) {
            let at = Instant::now();
            // One that is gone between the look and the reading has nothing to tell.
            let Some(point) = point((parent, child), before, begun) else { break };
            points.push(point);
            let pause = (at.elapsed() * SHARE).max(LEAST);
            let until = Instant::now() + pause;
            while Instant::now() < until && !ended.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(5));
            }
        }
        points
    })
}

/// What both take now; none where one of them has ended.
pub fn point((parent, child): (u32, u32), before: u64, begun: Instant) -> Option<MemoryPoint> {
    let ms = begun.elapsed().as_secs_f64() * 1e3;
    let child = MemInfo::shared_by(child).ok()?;
    let (child_pss, private) = (child.get("Pss")?, child.get("Private_Dirty")?);
    // A process that has ended has no memory: its whole share is with the parent again.
    let parent = (child_pss > 0).then(|| pss(parent).ok())??;
    Some(MemoryPoint {
        ms,
        extra_bytes: (parent + child_pss) as f64 - before as f64,
        child_private_bytes: private as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_stat_line_is_read_behind_the_name() {
        let stat = parse_stat("12 (a) b (c)) S 7 12 12 0").unwrap();
        assert!(stat.parent == 7 && stat.lives);
        assert!(!parse_stat("12 (x) Z 7 12").unwrap().lives);
        assert!(parse_stat("12 x S").is_none());
    }

    #[test]
    fn a_child_is_found_and_its_end_is_seen() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(lives(child.id()) && pss(child.id()).unwrap() > 0);
        assert_eq!(stat(child.id()).unwrap().parent, std::process::id());
        child.kill().unwrap();
        while lives(child.id()) {
            thread::sleep(Duration::from_millis(1));
        }
        child.wait().unwrap();
    }
}
