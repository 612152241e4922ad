//! Redis saves itself by `fork(2)` while clients write: how long it stands still, what the
//! copies of pages take in memory and in throughput, and whether the file is the data of one
//! instant.
//!
//! The server, its child and the writer share the host's processors. The rate of the writer is
//! set so that a part of the keys is written while the child saves, by how long the saves before
//! took; what part it was is in the row. Each file is loaded by a second server, and every key
//! of it is looked at.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::BenchError;
use crate::bench::Bench;
use crate::interrupt::Interrupt;
use crate::measure::{Better, Unit};
use crate::meminfo::MemInfo;
use crate::redis::benchmark::{self, BenchmarkRow};
use crate::redis::client::Client;
use crate::redis::failed;
use crate::redis::record::VALUE_BYTES;
use crate::redis::save::Saved;
use crate::redis::server::{Server, installed};
use crate::redis::writer::Writer;
use crate::room;
use crate::saves::{SaveRow, memory, per_gib};
use crate::stats::{Summary, median};

/// Parts of the keys that are written during a save.
pub const FRACTIONS: [f64; 3] = [0.01, 0.1, 0.5];
/// Of what the server can take, the part that the writer asks for at most.
const MOST_LOAD: f64 = 0.8;
/// Copies of the data that must fit into memory: the server with what its allocator adds, a
/// child that has copied all of it, and a second server to look at the file.
const COPIES: u64 = 5;
/// Memory that stays free beside them.
const RESERVE: u64 = 2 << 30;

/// What Redis does.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RedisFigures {
    /// Version of the server.
    pub version: String,
    /// Keys, of 1 KiB each.
    pub keys: u64,
    /// Memory of the server, bytes.
    pub resident_bytes: u64,
    /// Its page tables, bytes.
    pub page_table_bytes: u64,
    /// Forks that were timed.
    pub forks: usize,
    /// How long one took, as the server says: median, microseconds.
    pub fork_p50_us: f64,
    /// The same, 99th percentile.
    pub fork_p99_us: f64,
    /// Writes a second that the server takes from one client that has 64 under way.
    pub fastest_per_second: f64,
    /// The same while it saves. None where the save was over too soon.
    pub fastest_during_per_second: Option<f64>,
    /// A save while nobody writes, seconds.
    pub idle_save_seconds: f64,
    /// Saves while a part of the keys is written.
    pub saves: Vec<SaveRow>,
    /// What `redis-benchmark` says before and during a save. Empty where it is not installed.
    pub benchmark: Vec<BenchmarkRow>,
}

impl RedisFigures {
    /// How long a fork takes for a GiB of the server's memory, microseconds.
    pub fn fork_us_per_gib(&self) -> f64 {
        per_gib(self.fork_p50_us, self.resident_bytes)
    }
}

/// How much of everything.
#[derive(Clone, Copy)]
struct Sizes {
    keys: u32,
    forks: usize,
    fastest: Duration,
    /// How long the writer works before a save, and after it.
    around: Duration,
    /// Writes of `redis-benchmark`.
    requests: u64,
}

/// Fills a server, has it save, and looks at what it saved. None where there is no Redis, or
/// no room for it.
pub fn run(bench: &mut Bench) -> Result<Option<RedisFigures>, BenchError> {
    if !installed("redis-server") {
        bench.skip("redis", "redis-server is not installed; apt install redis-server");
        return Ok(None);
    }
    let Some(keys) = keys(bench)? else { return Ok(None) };
    let plan = &bench.plan;
    let sizes = Sizes {
        keys,
        forks: plan.choose(3, 15),
        fastest: Duration::from_millis(plan.choose(100, 1500)),
        around: Duration::from_millis(plan.choose(150, 2000)),
        requests: plan.choose(10_000, 200_000),
    };
    bench.progress.steps(sizes.forks + 2 * FRACTIONS.len() + 4);
    let with_benchmark = installed("redis-benchmark");
    if !with_benchmark {
        bench.skip("redis: redis-benchmark", "it is not installed; apt install redis-tools");
    }
    measure(bench, sizes, with_benchmark).map(Some)
}

/// How many keys there is room and time for.
fn keys(bench: &mut Bench) -> Result<Option<u32>, BenchError> {
    let wanted: u64 = bench.plan.choose(32 << 20, 3 << 30);
    let available = MemInfo::read()?.need("MemAvailable")?;
    let room = available.saturating_sub(RESERVE) / COPIES;
    // The file, and what else is on the disk.
    let bytes = wanted.min(room).min(room::free_bytes()? / 2);
    if bytes < 16 << 20 {
        let reason = format!(
            "a server of 16 MiB, its copies and 2 GiB to spare do not fit into the {} MiB of \
             memory that are available, or its file twice into the {} MiB of disk",
            available >> 20,
            room::free_bytes()? >> 20
        );
        bench.skip("redis", reason);
        return Ok(None);
    }
    Ok(u32::try_from(bytes / VALUE_BYTES as u64).ok())
}

fn measure(
    bench: &mut Bench,
    sizes: Sizes,
    with_benchmark: bool,
) -> Result<RedisFigures, BenchError> {
    let Bench { measures, progress, interrupt, .. } = bench;
    progress.say("filling the server");
    let server = Server::start()?;
    let mut control = server.client()?;
    let mut writer = Writer::fill(server.client()?, sizes.keys).map_err(failed("filling Redis"))?;
    progress.step()?;
    progress.say("timing its forks");
    let mut forks = Vec::with_capacity(sizes.forks);
    for _ in 0..sizes.forks {
        forks.push(fork(&server, &mut control)?);
        progress.step()?;
    }
    measures.time("redis/fork", &forks);
    let fastest = writer.fastest(sizes.fastest).map_err(failed("writing to Redis"))?;
    measures.add("redis/fastest", Unit::PerSecond, Better::Higher, &[fastest]);
    let fastest_during = fastest_during(&server, &mut control, || writer.fastest(sizes.fastest))?;
    let during = fastest_during.as_slice();
    measures.add("redis/fastest_during", Unit::PerSecond, Better::Higher, during);
    progress.step()?;
    progress.say("a save while nobody writes");
    let idle_save_seconds = idle_save(&server, &mut control, interrupt)?;
    measures.time("redis/idle_save", &[idle_save_seconds * 1e6]);
    progress.step()?;
    let mut seconds = vec![idle_save_seconds];
    let mut saves = Vec::new();
    for asked in FRACTIONS {
        let wanted = asked * f64::from(sizes.keys) / median(seconds.iter().copied());
        let rate = wanted.min(MOST_LOAD * fastest);
        progress.say(format!("{} % of the keys are written during a save", asked * 100.0));
        let load = (rate, sizes.around);
        let saved = Saved::make(&server, &mut control, &mut writer, load, interrupt)?;
        progress.step()?;
        progress.say("looking at what was saved");
        saved.check(&server, &writer, interrupt)?;
        progress.step()?;
        let row = saved.row(&server, &writer, asked)?;
        row.keep("redis", measures);
        saved.keep(&format!("redis/{}", super::per_cent(asked)), measures);
        seconds.push(row.save_seconds);
        saves.push(row);
    }
    let (memory, keys) = (MemInfo::of(server.pid())?, sizes.keys);
    let resident_bytes = memory.need("VmRSS")?;
    let page_table_bytes = memory.need("VmPTE")?;
    let version = control.info("server", "redis_version").map_err(failed("asking Redis"))?;
    let benchmark = match with_benchmark {
        true => run_benchmark(&server, &mut control, sizes, interrupt)?,
        false => vec![],
    };
    progress.step()?;
    let forks = Summary::of(forks);
    Ok(RedisFigures {
        version,
        keys: keys.into(),
        resident_bytes,
        page_table_bytes,
        forks: forks.n,
        fork_p50_us: forks.p50,
        fork_p99_us: forks.p99,
        fastest_per_second: fastest,
        fastest_during_per_second: fastest_during,
        idle_save_seconds,
        saves,
        benchmark,
    })
}

/// One fork, microseconds as the server says. Its child ends at once.
fn fork(server: &Server, control: &mut Client) -> Result<f64, BenchError> {
    let saving = server.begin_save(control)?;
    server.give_up(&saving)?;
    server.wait_child(&saving, || Ok(()))?;
    server.end_save(control, false)?;
    Ok(saving.fork_us as f64)
}

/// Writes a second during a save that is given up then. None where it ended before.
fn fastest_during(
    server: &Server,
    control: &mut Client,
    work: impl FnOnce() -> std::io::Result<f64>,
) -> Result<Option<f64>, BenchError> {
    let saving = server.begin_save(control)?;
    let fastest = work().map_err(failed("writing to Redis"))?;
    let in_time = memory::lives(saving.child);
    if in_time {
        server.give_up(&saving)?;
    }
    server.wait_child(&saving, || Ok(()))?;
    server.end_save(control, !in_time)?;
    Ok(in_time.then_some(fastest))
}

fn idle_save(
    server: &Server,
    control: &mut Client,
    interrupt: &Interrupt,
) -> Result<f64, BenchError> {
    let saving = server.begin_save(control)?;
    let ended = server.wait_child(&saving, || interrupt.check())?;
    server.end_save(control, true)?;
    Ok((ended - saving.begun).as_secs_f64())
}

/// `redis-benchmark` while nothing else goes on, and while the server saves itself.
fn run_benchmark(
    server: &Server,
    control: &mut Client,
    sizes: Sizes,
    interrupt: &Interrupt,
) -> Result<Vec<BenchmarkRow>, BenchError> {
    let before = benchmark::run(server, sizes.keys, sizes.requests, "before")?;
    let saving = server.begin_save(control)?;
    let during = benchmark::run(server, sizes.keys, sizes.requests, "during")?;
    let in_time = memory::lives(saving.child);
    server.wait_child(&saving, || interrupt.check())?;
    server.end_save(control, true)?;
    // One that ended before the benchmark did says little of a save.
    Ok([Some(before), in_time.then_some(during)].into_iter().flatten().collect())
}
