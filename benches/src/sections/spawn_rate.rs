//! Clones a second that the daemon makes for clients who ask for one after the other, and end
//! each before they ask for the next.

use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::GUEST_MIB;
use crate::BenchError;
use crate::bench::Bench;
use crate::daemon::{self, Daemon};
use crate::measure::{Better, Measures, Unit};
use crate::stats::Summary;

/// Clients at once.
const CLIENTS: [usize; 3] = [1, 4, 16];

/// Clones for some clients.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SpawnRateRow {
    /// Clients at once.
    pub clients: usize,
    /// Guest memory.
    pub guest_bytes: u64,
    /// How long they asked.
    pub seconds: f64,
    /// Clones that they got.
    pub spawns: usize,
    /// Clones a second, of all clients together; each was ended, too.
    pub spawns_per_second: f64,
    /// Part of them that was made ahead, 0 to 1.
    pub dormant_share: f64,
    /// From a client's request to the whole answer.
    pub p50_us: f64,
    /// The same.
    pub p99_us: f64,
}

/// Measures each number of clients.
pub fn run(bench: &mut Bench) -> Result<Vec<SpawnRateRow>, BenchError> {
    let Bench { plan, measures, progress, .. } = bench;
    progress.steps(CLIENTS.len());
    let daemon = Daemon::start()?;
    let mut client = daemon.client()?;
    let name = daemon::make_snapshot(&mut client, GUEST_MIB)?;
    let wish = json!({ "snapshot": name });
    daemon::spawn(&mut client, &wish)?.kill(&mut client)?;
    let mut rows = Vec::new();
    for clients in CLIENTS {
        std::thread::sleep(daemon::REFILL);
        rows.push(measure(&daemon, &wish, clients, plan.rate_time(), measures)?);
        progress.step()?;
    }
    Ok(rows)
}

fn measure(
    daemon: &Daemon,
    wish: &serde_json::Value,
    clients: usize,
    time: Duration,
    measures: &Measures,
) -> Result<SpawnRateRow, BenchError> {
    let connected = (0..clients).map(|_| daemon.client()).collect::<Result<Vec<_>, _>>()?;
    let begun = Instant::now();
    let one = |mut client| -> Result<Vec<(f64, bool)>, BenchError> {
        let mut spawns = Vec::new();
        while begun.elapsed() < time {
            let spawned = daemon::spawn(&mut client, wish)?;
            spawns.push((spawned.us, spawned.cell == "dormant"));
            spawned.kill(&mut client)?;
        }
        Ok(spawns)
    };
    let one = &one;
    let spawns = std::thread::scope(|scope| {
        let threads: Vec<_> =
            connected.into_iter().map(|client| scope.spawn(move || one(client))).collect();
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(spawns) => spawns,
            Err(_) => Err(daemon.failed("asking for clones", "a client panicked")),
        });
        joined.collect::<Result<Vec<_>, _>>()
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    let spawns: Vec<(f64, bool)> = spawns.into_iter().flatten().collect();
    let dormant = spawns.iter().filter(|spawn| spawn.1).count();
    let times: Vec<f64> = spawns.iter().map(|spawn| spawn.0).collect();
    measures.time(format!("spawn_rate/{clients}_clients/answer"), &times);
    let rate = [spawns.len() as f64 / seconds];
    let id = format!("spawn_rate/{clients}_clients/rate");
    measures.add(id, Unit::PerSecond, Better::Higher, &rate);
    let times = Summary::of(times);
    Ok(SpawnRateRow {
        clients,
        guest_bytes: GUEST_MIB << 20,
        seconds,
        spawns: spawns.len(),
        spawns_per_second: spawns.len() as f64 / seconds,
        dormant_share: dormant as f64 / spawns.len() as f64,
        p50_us: times.p50,
        p99_us: times.p99,
    })
}
