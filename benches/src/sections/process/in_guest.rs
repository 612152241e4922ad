//! Processes inside a Linux guest: the same program, copied into it. What a fork and its faults
//! cost there is what they cost on the host, and what second-level page tables add.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tine_forkbench::rows::Row;

use super::faults::{self, ProcessFaultRow};
use super::spawn::{self, ProcessSpawnRow};
use super::unexpected;
use crate::BenchError;
use crate::bench::Bench;
use crate::daemon::{self, Daemon};
use crate::host::HostFacts;
use crate::plan::Section;

const NAME: &str = Section::ProcessInGuest.name();
const IMAGE: &str = "base";
const GUEST_MIB: u64 = 512;
/// Where the program is put.
const PROGRAM: &str = "/tmp/forkbench";
/// What it is told to do: in a quick run, and in a full one.
const PROBES: [[&str; 2]; 2] = [
    [
        "spawn --size 10M --rounds 10 --eager-rounds 2",
        "faults --size 16M --orders sequential --fractions 0.1,1 --ways fork --rounds 2",
    ],
    [
        "spawn --size 100M --rounds 30 --eager-rounds 5",
        "faults --size 100M --orders sequential,scattered --fractions 0.1,1 --ways fork --rounds 5",
    ],
];

/// What was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct GuestProcesses {
    /// Guest memory, bytes.
    pub guest_bytes: u64,
    /// Children of processes in the guest, by the guest's own clock.
    pub children: Vec<ProcessSpawnRow>,
    /// Their writes after a fork.
    pub writes: Vec<ProcessFaultRow>,
}

/// Measures in a guest. None where there can be none.
pub fn run(bench: &mut Bench, host: &HostFacts) -> Result<Option<GuestProcesses>, BenchError> {
    if let Some(reason) = daemon::no_linux(host, IMAGE)? {
        bench.skip(NAME, reason);
        return Ok(None);
    }
    let probes = bench.plan.choose(PROBES[0], PROBES[1]);
    let Bench { measures, progress, .. } = bench;
    progress.steps(probes.len() + 1);
    progress.say("booting a guest");
    let daemon = Daemon::with_images()?;
    let mut client = daemon.client()?;
    let guest = daemon::spawn(&mut client, &json!({ "image": IMAGE, "memory_mib": GUEST_MIB }))?;
    daemon.put(&guest.id, tine_guest_elf::FORKBENCH, PROGRAM)?;
    daemon.shell(&guest.id, &format!("chmod 755 {PROGRAM}"))?;
    progress.step()?;
    let mut figures = GuestProcesses { guest_bytes: GUEST_MIB << 20, ..Default::default() };
    for probe in probes {
        progress.say(probe);
        let lines = daemon.shell(&guest.id, &format!("{PROGRAM} {probe}"))?;
        for line in lines.lines() {
            let row = serde_json::from_str(line).map_err(|error| BenchError::Forkbench {
                command: format!("forkbench {probe}, in a guest"),
                reason: format!("{error}: {line}"),
            })?;
            match row {
                Row::Spawn(row) => figures.children.push(spawn::summary(row, NAME, measures)),
                Row::Faults(row) => figures.writes.push(faults::child(row, NAME, measures)),
                Row::Parent(_) => {}
                row => return Err(unexpected(&row)),
            }
        }
        progress.step()?;
    }
    guest.kill(&mut client)?;
    Ok(Some(figures))
}
