//! Saves of something that is at work: what Redis does with `BGSAVE`, and tine with a whole
//! machine. Both are measured alike, so that their rows stand in one table.

pub mod memory;
pub mod timeline;

use std::sync::atomic::{AtomicBool, Ordering};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::measure::{Better, Measures, Unit};
use timeline::Bin;

/// Tells a thread to end when dropped, whatever happens before that.
pub struct StopAtEnd<'a>(pub &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// `us` for `bytes`, for a GiB.
pub fn per_gib(us: f64, bytes: u64) -> f64 {
    us * (1u64 << 30) as f64 / bytes.max(1) as f64
}

/// One save while its subject was at work.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SaveRow {
    /// What was saved: `redis`, a server that forked itself; `vm`, a machine that was forked.
    pub subject: String,
    /// What it held, bytes: the memory of the server, or of the guest.
    pub data_bytes: u64,
    /// Of how many things that is made: keys, or pages.
    pub things: u64,
    /// Which part of them was to be written during the save.
    pub asked: f64,
    /// Which part of them was.
    pub written: f64,
    /// Writes during the save.
    pub writes: u64,
    /// How long the fork took, microseconds: as the server says, or how long the guest stood
    /// still.
    pub pause_us: f64,
    /// The same for a GiB of what it held.
    pub pause_us_per_gib: f64,
    /// Longest time without any work done before the save, microseconds.
    pub gap_before_us: f64,
    /// The same from the request of the save to its end.
    pub gap_during_us: f64,
    /// From the request until the file was complete, seconds.
    pub save_seconds: f64,
    /// Size of the file, bytes.
    pub file_bytes: u64,
    /// Most memory that parent and child took beyond what the parent had before, bytes. None
    /// where the save was too short to look.
    pub extra_bytes: Option<f64>,
    /// Memory that the fork has copied, as the server says. None where nobody says it.
    pub copied_bytes: Option<u64>,
    /// Page tables of the child, bytes.
    pub page_table_bytes: Option<u64>,
    /// Work done a second before the save: writes.
    pub before_per_second: f64,
    /// During it.
    pub during_per_second: f64,
    /// After it.
    pub after_per_second: f64,
    /// Median time of a request before the save, microseconds. None where there are no requests.
    pub latency_before_p50_us: Option<f64>,
    /// All but one in a hundred took no longer.
    pub latency_before_p99_us: Option<f64>,
    /// Median during the save.
    pub latency_during_p50_us: Option<f64>,
    /// All but one in a hundred took no longer.
    pub latency_during_p99_us: Option<f64>,
    /// How many things were looked at in what was saved. Each of them was as it was at the one
    /// instant of the fork: anything else fails the run.
    pub checked: u64,
    /// Work over time, from before the save until after it.
    pub timeline: Vec<Bin>,
    /// Memory over time.
    pub memory: Vec<MemoryPoint>,
}

/// Memory of parent and child at some time of a save.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
pub struct MemoryPoint {
    /// Since the request of the save, milliseconds.
    pub ms: f64,
    /// What both take beyond what the parent had before, bytes.
    pub extra_bytes: f64,
    /// What the child has written or keeps alone, bytes.
    pub child_private_bytes: f64,
}

impl SaveRow {
    /// By which part the work was slower during the save than before.
    pub fn dip(&self) -> f64 {
        1.0 - self.during_per_second / self.before_per_second.max(f64::MIN_POSITIVE)
    }

    /// What the save has cost in memory: what was seen, or what the server says if that is more,
    /// as the last look may come before the end. None where neither is known.
    pub fn cost_bytes(&self) -> Option<f64> {
        let said = self.copied_bytes.map(|bytes| bytes as f64);
        match (self.extra_bytes, said) {
            (Some(seen), Some(said)) => Some(seen.max(said)),
            (seen, said) => seen.or(said),
        }
    }

    /// Keeps what there is of it as measures of section `section`.
    pub fn keep(&self, section: &str, measures: &Measures) {
        let part = format!("{}_percent", self.asked * 100.0);
        let id = |what: &str| format!("{section}/{part}/{what}");
        let done = |during: bool| {
            let bins = self.timeline.iter().filter(move |bin| bin.during == during);
            bins.map(|bin| bin.per_second).collect::<Vec<f64>>()
        };
        measures.add(id("work_outside"), Unit::PerSecond, Better::Higher, &done(false));
        measures.add(id("work_during"), Unit::PerSecond, Better::Higher, &done(true));
        measures.time(id("pause"), &[self.pause_us]);
        measures.time(id("longest_gap"), &[self.gap_during_us]);
        measures.time(id("save"), &[self.save_seconds * 1e6]);
        measures.bytes(id("file"), &[self.file_bytes as f64]);
        measures.bytes(id("extra"), self.cost_bytes().as_slice());
    }
}
