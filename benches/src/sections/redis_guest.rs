//! A Redis in a Linux guest: `BGSAVE` inside against a live snapshot of the whole machine.
//!
//! One connection writes key after key as fast as it can all the while. Every key is looked at
//! four times: in the file that `BGSAVE` has written, in the server of a clone of the snapshot, in
//! the file that that server writes, and in the server of a child of the running machine.

use std::thread;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::BenchError;
use crate::bench::Bench;
use crate::daemon::{self, Daemon, spawn, spawn_at};
use crate::host::HostFacts;
use crate::measure::{Better, Unit};
use crate::meminfo::MemInfo;
use crate::redis::guest::GuestRedis;

const IMAGE: &str = "redis";
/// Copies of the guest that must fit into memory: image, guest, clone, and a file of it.
const GUESTS: u64 = 4;
/// Memory that stays free beside them, MiB.
const SPARE_MIB: u64 = 512;
/// How long the file of a snapshot may take.
const SAVE_LIMIT: Duration = Duration::from_secs(300);

/// What a Redis in a guest does.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RedisGuest {
    /// Guest memory, bytes.
    pub guest_bytes: u64,
    /// Keys, of 1 KiB each.
    pub keys: u64,
    /// How long the server's own fork took, as it says, microseconds.
    pub bgsave_fork_us: f64,
    /// From the request of its save to the end of it, seconds.
    pub bgsave_seconds: f64,
    /// How long the machine stood still for its snapshot, microseconds.
    pub snapshot_pause_us: f64,
    /// From the request of the snapshot until its file was complete, seconds.
    pub snapshot_seconds: f64,
    /// Writes a second before, during the server's own save, and during that of the machine.
    pub before_per_second: f64,
    /// During the server's own save.
    pub during_bgsave_per_second: f64,
    /// While the snapshot was made and written.
    pub during_snapshot_per_second: f64,
    /// Keys that were looked at, all of one instant in each place.
    pub checked: u64,
}

/// Saves a Redis in a guest both ways. None where there can be none.
pub fn run(bench: &mut Bench, host: &HostFacts) -> Result<Option<RedisGuest>, BenchError> {
    const NAME: &str = "redis_guest";
    if let Some(reason) = daemon::no_linux(host, IMAGE)? {
        bench.skip(NAME, reason);
        return Ok(None);
    }
    // In the guest: server, both files, and a second server that has loaded one.
    let mib: u64 = bench.plan.choose(256, 1024);
    let (needed, available) = (GUESTS * mib + SPARE_MIB, MemInfo::read()?.need("MemAvailable")?);
    if available >> 20 < needed {
        let reason = format!("it takes {needed} MiB, and {} MiB are available", available >> 20);
        bench.skip(NAME, reason);
        return Ok(None);
    }
    let Bench { plan, measures, progress, .. } = bench;
    let keys = plan.choose(5000, 100_000);
    progress.steps(4);
    let daemon = Daemon::with_images()?;
    let mut client = daemon.client()?;
    progress.say("booting the guest and filling its Redis");
    let parent = spawn(&mut client, &json!({ "image": IMAGE, "memory_mib": mib }))?;
    let redis = GuestRedis::start(&daemon, &parent.id, keys)?;
    progress.step()?;
    let first = redis.count()?;
    thread::sleep(Duration::from_millis(plan.choose(300, 3000)));
    let before = redis.count()?;
    progress.say("BGSAVE in the guest");
    let begun = Instant::now();
    let bgsave_fork_us = redis.save()?;
    let bgsave_seconds = begun.elapsed().as_secs_f64();
    let after_bgsave = redis.count()?;
    redis.check_saved()?;
    progress.step()?;
    progress.say("a live snapshot of the guest");
    let (at_snapshot, begun) = (redis.count()?, Instant::now());
    let path = format!("/v1/sandboxes/{}/snapshot", parent.id);
    let wish = json!({ "name": "bgsave", "keep": true });
    let taken = client.ask("POST", &path, Some(&wish))?.body;
    let snapshot_pause_us = taken["pause_us"].as_f64().ok_or_else(|| BenchError::Daemon {
        doing: "a live snapshot of a daemon's".to_owned(),
        reason: format!("no pause is told: {taken}"),
    })?;
    loop {
        let saved = client.ask("GET", "/v1/snapshots/bgsave", None)?.body;
        match saved["saved"].as_str() {
            Some("saved") => break,
            Some("saving") if begun.elapsed() < SAVE_LIMIT => {
                thread::sleep(Duration::from_millis(5));
            }
            _ => return Err(daemon.failed("writing a live snapshot", &saved.to_string())),
        }
    }
    let snapshot_seconds = begun.elapsed().as_secs_f64();
    let after_snapshot = redis.count()?;
    progress.step()?;
    progress.say("looking at what was saved");
    let clone = spawn(&mut client, &json!({ "snapshot": "bgsave" }))?;
    let cloned = GuestRedis::of(&daemon, &clone.id, keys);
    cloned.check()?;
    cloned.save()?;
    cloned.check_saved()?;
    clone.kill(&mut client)?;
    let path = format!("/v1/sandboxes/{}/fork", parent.id);
    let child = spawn_at(&mut client, &path, &json!({ "count": 1 }))?;
    GuestRedis::of(&daemon, &child.id, keys).check()?;
    child.kill(&mut client)?;
    // The parent's goes on unharmed.
    redis.check()?;
    parent.kill(&mut client)?;
    progress.step()?;
    let figures = RedisGuest {
        guest_bytes: mib << 20,
        keys,
        bgsave_fork_us,
        bgsave_seconds,
        snapshot_pause_us,
        snapshot_seconds,
        before_per_second: before.per_second_since(&first),
        during_bgsave_per_second: after_bgsave.per_second_since(&before),
        during_snapshot_per_second: after_snapshot.per_second_since(&at_snapshot),
        checked: keys,
    };
    measures.time("redis_guest/bgsave/fork", &[figures.bgsave_fork_us]);
    measures.time("redis_guest/bgsave/save", &[figures.bgsave_seconds * 1e6]);
    measures.time("redis_guest/snapshot/pause", &[figures.snapshot_pause_us]);
    measures.time("redis_guest/snapshot/save", &[figures.snapshot_seconds * 1e6]);
    for (what, rate) in [
        ("before", figures.before_per_second),
        ("bgsave", figures.during_bgsave_per_second),
        ("snapshot", figures.during_snapshot_per_second),
    ] {
        let id = format!("redis_guest/{what}/writes");
        measures.add(id, Unit::PerSecond, Better::Higher, &[rate]);
    }
    Ok(Some(figures))
}
