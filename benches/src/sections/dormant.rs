//! Clones that were made ahead: from the decision to have one to its first instruction, as the
//! keeper of cells sees it, and as a client of the daemon does.
//!
//! The daemon is the running program itself, in a process of its own. Before every spawn
//! all that is to be made ahead is there; a clone that was not made ahead fails the section.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tine_cell::SpawnWish;

use super::mib;
use crate::BenchError;
use crate::bench::Bench;
use crate::cells::{self, Cells, for_cells};
use crate::client::Client;
use crate::daemon::{self, Daemon};
use crate::measure::Measures;
use crate::plan::{Plan, Section};
use crate::report::Skipped;
use crate::rig::{Rig, total_us};
use crate::stats::{Summary, median};

/// Clones of one size.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DormantRow {
    /// Guest memory.
    pub guest_bytes: u64,
    /// Number of clones woken in this process.
    pub n: usize,
    /// From the decision to the first guest instruction.
    pub in_daemon_p50_us: f64,
    /// The same.
    pub in_daemon_p99_us: f64,
    /// Until the call returned.
    pub call_p50_us: f64,
    /// Number of clones asked for over HTTP.
    pub http_n: usize,
    /// From the request to the whole answer, as a client sees it.
    pub http_p50_us: f64,
    /// The same.
    pub http_p99_us: f64,
    /// Number of eager copies.
    pub eager_n: usize,
    /// The same spawn by eager copy, in a cell that was made ahead with nothing in it: from the
    /// decision to the first guest instruction.
    pub eager_p50_us: f64,
    /// How many times as long that takes, by the medians.
    pub ratio: f64,
}

/// Measures every size that the host can hold.
pub fn run(bench: &mut Bench) -> Result<Vec<DormantRow>, BenchError> {
    let Bench { plan, rig, skipped, measures, progress, .. } = bench;
    let sizes = plan.sizes_mib();
    progress.steps(2 * sizes.len());
    let mut rows = Vec::new();
    for &mib in sizes {
        if let Some(reason) = rig.no_room_for(mib)? {
            let what = format!("{} of {mib} MiB", Section::Dormant.name());
            skipped.push(Skipped { what, reason });
            continue;
        }
        progress.say(format!("{mib} MiB"));
        rows.push(in_daemon(plan, rig, mib, measures)?);
        if !Section::ALL.iter().any(|section| section.guests_mib().contains(&mib)) {
            rig.forget(mib);
        }
        progress.step()?;
    }
    let daemon = Daemon::start()?;
    let mut client = daemon.client()?;
    for row in &mut rows {
        progress.say(format!("{} MiB over HTTP", row.guest_bytes >> 20));
        let times = over_http(&mut client, row.guest_bytes >> 20, plan.http_spawns())?;
        measures.time(format!("dormant/{}/http", mib(row.guest_bytes)), &times);
        let times = Summary::of(times);
        (row.http_n, row.http_p50_us, row.http_p99_us) = (times.n, times.p50, times.p99);
        progress.step()?;
    }
    Ok(rows)
}

/// Both kinds of clone, in turn.
fn in_daemon(
    plan: &Plan,
    rig: &mut Rig,
    mib: u64,
    measures: &Measures,
) -> Result<DormantRow, BenchError> {
    let snapshot = for_cells(&rig.snapshot(mib)?)?;
    let cells = Cells::start()?;
    cells.ask_for(&snapshot)?;
    let (mut first, mut calls, mut eager) = (Vec::new(), Vec::new(), Vec::new());
    let eager_rounds = plan.dormant_eager(mib);
    let rounds = plan.dormant_spawns();
    for round in 0..rounds {
        let woken = cells.wake(&snapshot)?;
        first.push(woken.first_us);
        calls.push(woken.call_us);
        woken.cell.kill();
        if round % rounds.div_ceil(eager_rounds) == 0 {
            cells.fill()?;
            let wish = SpawnWish { eager: true, ..SpawnWish::new(cells::start()) };
            let (cell, _) = cells.spawn(&snapshot, wish)?;
            eager.push(total_us(&cell.ladder(), "an eager spawn in a cell")?);
            cell.kill();
        }
    }
    for (name, samples) in [("first_instruction", &first), ("call", &calls), ("eager", &eager)] {
        measures.time(format!("dormant/{mib}_mib/{name}"), samples);
    }
    let first = Summary::of(first);
    let eager = Summary::of(eager);
    Ok(DormantRow {
        guest_bytes: mib << 20,
        n: first.n,
        in_daemon_p50_us: first.p50,
        in_daemon_p99_us: first.p99,
        call_p50_us: median(calls),
        http_n: 0,
        http_p50_us: 0.0,
        http_p99_us: 0.0,
        eager_n: eager.n,
        eager_p50_us: eager.p50,
        ratio: eager.p50 / first.p50,
    })
}

/// Times of spawns that a client asks the daemon for, microseconds.
fn over_http(client: &mut Client, mib: u64, spawns: usize) -> Result<Vec<f64>, BenchError> {
    let name = daemon::make_snapshot(client, mib)?;
    let wish = json!({ "snapshot": name });
    // The first makes the daemon keep others ready.
    daemon::spawn(client, &wish)?.kill(client)?;
    let mut times = Vec::with_capacity(spawns);
    for _ in 0..spawns {
        std::thread::sleep(daemon::REFILL);
        let spawned = daemon::spawn(client, &wish)?;
        if spawned.cell != "dormant" {
            return Err(BenchError::Miss { origin: spawned.cell });
        }
        times.push(spawned.us);
        spawned.kill(client)?;
    }
    Ok(times)
}
