//! The same of tine: the same guest, restored, ended, and written into a file.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tine_cell::protocol::Start;
use tine_cell::{CellSnapshot, NurseryConfig, Origin, SpawnWish};
use tine_vmm::snapshot::Verify;
use tine_vmm::{KvmHost, Machine, MachineConfig, Snapshot, SpawnOptions};

use super::ear::Ear;
use super::firecracker::private_directory;
use super::{Kind, TINE, Table, what};
use crate::BenchError;
use crate::cells::{self, Cells, for_cells};
use crate::error::Doing;
use crate::rig::{options, total_us};
use crate::stats::microseconds;

/// How long a guest may take until it is heard.
const LIMIT: Duration = Duration::from_secs(60);

const EXIT_NOTE: &str = "from the request until the VMM had seen the first exit: no other process, \
                         nor thread, has to wake up for that";
const COLD: &str = "in a new cell";
const DORMANT: &str = "in a dormant cell";
const IN_PROCESS: &str = "in the suite's process";
const FROM_FILE: &str = "in the suite's process, from a file";

/// A running machine of `mib` with the beacon, which has filled its memory.
fn boot(host: &Arc<KvmHost>, mib: u64, ear: &Ear) -> Result<Machine, BenchError> {
    const DOING: &str = "booting the beacon";
    let config = MachineConfig { ram_bytes: mib << 20, ..MachineConfig::default() };
    let program = tine_beacon::elf();
    let machine =
        Machine::boot_bare(host, &config, &program, Box::new(ear.clone())).doing(DOING)?;
    first_call(ear, DOING)?;
    Ok(machine)
}

fn first_call(ear: &Ear, doing: &'static str) -> Result<Instant, BenchError> {
    let silent = BenchError::NoFirstInstruction { doing, seconds: LIMIT.as_secs() };
    ear.first(LIMIT).ok_or(silent)
}

fn goes_on(ear: &Ear, doing: &'static str) -> Result<(), BenchError> {
    match ear.more_than(ear.calls(), LIMIT) {
        true => Ok(()),
        false => Err(BenchError::NoFirstInstruction { doing, seconds: LIMIT.as_secs() }),
    }
}

fn kind(
    what: &'static str,
    how: &'static str,
    guest_bytes: u64,
    note: &'static str,
) -> Kind<'static> {
    let version = concat!("v", env!("CARGO_PKG_VERSION"));
    Kind { peer: TINE, version, what, how, guest_bytes, note }
}

/// A snapshot of the beacon, and those who restore it.
pub struct Ours {
    host: Arc<KvmHost>,
    snapshot: Snapshot,
    cell_snapshot: Arc<CellSnapshot>,
    /// Makes nothing ahead.
    cold: Cells,
    /// Makes clones ahead.
    ahead: Cells,
    file: PathBuf,
    _directory: TempDir,
}

impl Ours {
    /// Boots the guest, and has clones of it made ahead.
    pub fn start(host: &Arc<KvmHost>, mib: u64) -> Result<Self, BenchError> {
        let machine = boot(host, mib, &Ear::default())?;
        let (snapshot, _) = machine.snapshot().doing("the snapshot of the beacon")?;
        drop(machine);
        let directory = private_directory()?;
        let file = directory.path().join("snapshot");
        save(&snapshot, &file)?;
        let cell_snapshot = for_cells(&snapshot)?;
        let nothing = NurseryConfig { blank: 0, dormant: 0, ..NurseryConfig::default() };
        let (cold, ahead) = (Cells::with(nothing)?, Cells::start()?);
        ahead.ask_for(&cell_snapshot)?;
        let host = Arc::clone(host);
        Ok(Self { host, snapshot, cell_snapshot, cold, ahead, file, _directory: directory })
    }

    /// Restores it in every way, hears it, and ends it.
    pub fn restore(&self, table: &mut Table) -> Result<(), BenchError> {
        self.in_cell(&self.cold, Origin::Fresh, COLD, table)?;
        self.in_cell(&self.ahead, Origin::Dormant, DORMANT, table)?;
        // What is made ahead is made now: it would take a processor from what comes next.
        self.ahead.fill()?;
        let snapshot = || Ok(self.snapshot.clone());
        in_process(&self.host, IN_PROCESS, snapshot, table)?;
        let open = || Snapshot::open(&self.file, &self.host, Verify::Header);
        let open = || open().map_err(|error| failed("opening a snapshot file", &error));
        in_process(&self.host, FROM_FILE, open, table)
    }

    fn in_cell(
        &self,
        cells: &Cells,
        origin: Origin,
        how: &'static str,
        table: &mut Table,
    ) -> Result<(), BenchError> {
        const DOING: &str = "restoring the beacon in a cell";
        let (ear, heard) = twice(Ear::default());
        let begun = Instant::now();
        let wish = SpawnWish::new(Start { requested: begun.into(), ..cells::start() });
        let hear = Box::new(move |bytes: &[u8]| heard.hear(bytes));
        let spawned = cells.nursery.spawn(&self.cell_snapshot, wish, hear);
        let (cell, from) = spawned.doing(DOING)?;
        let first = first_call(&ear, DOING)?;
        let exit = total_us(&cell.ladder(), DOING)?;
        let dying = Instant::now();
        cell.kill();
        let end = dying.elapsed();
        if from != origin {
            return Err(BenchError::Miss { origin: from.name().to_owned() });
        }
        let bytes = cell.ram_bytes();
        let note = "from the request until its call came through the cell's channel";
        table.add(kind(what::RESTORE, how, bytes, note), microseconds(first - begun));
        table.add(kind(what::EXIT, how, bytes, EXIT_NOTE), exit);
        let note = "from SIGKILL until the process was gone";
        table.add(kind(what::TEARDOWN, how, bytes, note), microseconds(end));
        Ok(())
    }
}

fn in_process(
    host: &Arc<KvmHost>,
    how: &'static str,
    snapshot: impl FnOnce() -> Result<Snapshot, BenchError>,
    table: &mut Table,
) -> Result<(), BenchError> {
    const DOING: &str = "restoring the beacon";
    let ear = Ear::default();
    let begun = Instant::now();
    let options = SpawnOptions { requested: begun, console: Box::new(ear.clone()), ..options() };
    let machine = Machine::spawn(host, &snapshot()?, options).doing(DOING)?;
    let first = first_call(&ear, DOING)?;
    let exit = total_us(&machine.ladder(), DOING)?;
    let bytes = machine.ram_bytes();
    let dying = Instant::now();
    drop(machine);
    let end = dying.elapsed();
    let note = "from the request until its call was heard";
    table.add(kind(what::RESTORE, how, bytes, note), microseconds(first - begun));
    table.add(kind(what::EXIT, how, bytes, EXIT_NOTE), exit);
    let note = "from the kill until VM and memory were gone";
    table.add(kind(what::TEARDOWN, how, bytes, note), microseconds(end));
    Ok(())
}

/// Writes snapshots of a guest of `mib` into files while it runs: of one that has booted, and of
/// its clone in a cell, by a fork of that.
pub fn write_snapshot(host: &Arc<KvmHost>, mib: u64, table: &mut Table) -> Result<(), BenchError> {
    const BOOTED: &str = "live, of a guest that booted";
    const FORKED: &str = "live, by fork(2) of a clone's cell";
    let directory = private_directory()?;
    let bytes = mib << 20;
    let mut add = |how, pause: Duration, complete: Duration| {
        let note = "as the VMM timed it: from parking the vCPU until it might run";
        table.add(kind(what::PAUSE, how, bytes, note), microseconds(pause));
        let note =
            "from the request until the file was written and synced; the guest ran meanwhile";
        table.add(kind(what::COMPLETE, how, bytes, note), microseconds(complete));
    };
    let ear = Ear::default();
    let machine = boot(host, mib, &ear)?;
    let begun = Instant::now();
    let (snapshot, pause) = machine.snapshot().doing("a live snapshot")?;
    save(&snapshot, &directory.path().join("booted"))?;
    add(BOOTED, pause, begun.elapsed());
    goes_on(&ear, "a guest of which a snapshot was taken")?;
    drop(machine);

    let cells = Cells::with(NurseryConfig { blank: 1, dormant: 0, ..NurseryConfig::default() })?;
    let (ear, heard) = twice(Ear::default());
    let hear = Box::new(move |bytes: &[u8]| heard.hear(bytes));
    let spawned = cells.nursery.spawn(&for_cells(&snapshot)?, SpawnWish::new(cells::start()), hear);
    let (cell, _) = spawned.doing("a clone of the beacon in a cell")?;
    first_call(&ear, "a clone of the beacon in a cell")?;
    let path = directory.path().join("forked");
    let begun = Instant::now();
    let file = File::create(&path).map_err(|source| BenchError::Write { path, source })?;
    let (mut frozen, pause) = cells.nursery.freeze(&cell).doing("a live fork")?;
    frozen.save(&file, &mut |_, _| true).doing("writing a live fork into a file")?;
    add(FORKED, pause.total, begun.elapsed());
    goes_on(&ear, "a guest that was forked")?;
    cell.kill();
    Ok(())
}

fn save(snapshot: &Snapshot, file: &std::path::Path) -> Result<(), BenchError> {
    snapshot.save(file).map_err(|error| failed("writing a snapshot file", &error))
}

fn failed(doing: &str, error: &tine_vmm::snapshot::SnapshotFileError) -> BenchError {
    let fault = tine_cell::Fault::internal(error);
    BenchError::Cell { doing: doing.to_owned(), source: fault }
}

fn twice(ear: Ear) -> (Ear, Ear) {
    (ear.clone(), ear)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beacon_is_heard_from_memory_and_from_a_file() {
        let host = Arc::new(KvmHost::open().unwrap());
        let machine = boot(&host, 16, &Ear::default()).unwrap();
        let (snapshot, _) = machine.snapshot().unwrap();
        drop(machine);
        let directory = private_directory().unwrap();
        let file = directory.path().join("snapshot");
        save(&snapshot, &file).unwrap();
        let mut table = Table::default();
        in_process(&host, IN_PROCESS, || Ok(snapshot.clone()), &mut table).unwrap();
        let open = || Ok(Snapshot::open(&file, &host, Verify::Header).unwrap());
        in_process(&host, FROM_FILE, open, &mut table).unwrap();
        let rows: Vec<_> = table.rows.iter().map(|row| (&row.what[..], &row.how[..])).collect();
        let expected = [IN_PROCESS, FROM_FILE]
            .map(|how| [what::RESTORE, what::EXIT, what::TEARDOWN].map(|what| (what, how)));
        assert_eq!(rows, expected.concat());
        assert!(
            table.rows.iter().all(|row| row.samples_us[0] > 0.0 && row.guest_bytes == 16 << 20)
        );
    }
}
