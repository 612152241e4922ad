//! tine against other VMMs, on the same host, with the same guest, in one run, in turn.
//!
//! The guest is the beacon, which every VMM boots that boots Linux kernels: it has written all of
//! its memory, and calls through its serial port for ever. What is compared is what all of them
//! do: to restore it from a snapshot until its first call is heard outside, to end it, and to write
//! a snapshot of it into files while it runs. A peer that is not installed is listed as not
//! measured: no figure comes from elsewhere.

#[cfg(test)]
mod double;
mod ear;
mod firecracker;
mod ours;
mod process;

use std::env;
use std::path::PathBuf;
use std::process::Command;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::BenchError;
use crate::bench::Bench;
use crate::room;
use firecracker::Firecracker;
use ours::Ours;

/// How tine is named in the rows.
const TINE: &str = "tine";

/// Another VMM, and whether it was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PeerRow {
    /// Its name.
    pub peer: String,
    /// Whether its program is here.
    pub installed: bool,
    /// What it calls its version.
    pub version: Option<String>,
    /// Why there are no figures of it; none if there are.
    pub not_measured: Option<String>,
}

/// One thing that several VMMs do, done by one of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PeerSamples {
    /// Which.
    pub peer: String,
    /// Its version.
    pub version: String,
    /// What was done. Rows of the same name are compared.
    pub what: String,
    /// In which of several ways.
    pub how: String,
    /// Guest memory, all of it written.
    pub guest_bytes: u64,
    /// How often it was measured.
    pub n: usize,
    /// How long each took, microseconds, in their order.
    pub samples_us: Vec<f64>,
    /// What began and what ended the time.
    pub note: String,
}

impl PeerSamples {
    /// Its name among the measures, the same in every run.
    fn measure(&self) -> String {
        let part = |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        let mib = self.guest_bytes >> 20;
        format!("peers/{}/{}/{}/{mib}_mib", part(&self.peer), part(&self.what), part(&self.how))
    }
}

/// Everything that was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PeerFigures {
    /// The peers that are known, installed or not.
    pub peers: Vec<PeerRow>,
    /// What was compared; empty where no peer can be measured.
    pub compared: Vec<PeerSamples>,
    /// Kind of the file system that held the files of all of them, which the time to write them
    /// depends on.
    pub file_system: String,
}

/// Another VMM.
struct Peer {
    name: &'static str,
    program: &'static str,
    /// Names another program than that of `PATH`.
    variable: Option<&'static str>,
}

const FIRECRACKER: Peer =
    Peer { name: "Firecracker", program: "firecracker", variable: Some("TINE_FIRECRACKER") };
const CLOUD_HYPERVISOR: Peer =
    Peer { name: "Cloud Hypervisor", program: "cloud-hypervisor", variable: None };

impl Peer {
    /// Where it is: what its variable names, or the first in `PATH`.
    fn find(&self) -> Option<PathBuf> {
        self.find_in(self.variable.and_then(env::var_os), env::var_os("PATH"))
    }

    fn find_in(
        &self,
        named: Option<std::ffi::OsString>,
        path: Option<std::ffi::OsString>,
    ) -> Option<PathBuf> {
        if let Some(named) = named.filter(|named| !named.is_empty()) {
            return Some(named.into());
        }
        let path = path.unwrap_or_default();
        let places = env::split_paths(&path).map(|directory| directory.join(self.program));
        places.into_iter().find(|place| is_program(place))
    }

    fn absent(&self) -> PeerRow {
        let or = self.variable.map(|variable| format!(" or {variable}")).unwrap_or_default();
        PeerRow {
            peer: self.name.to_owned(),
            installed: false,
            version: None,
            not_measured: Some(format!("not measured: no `{}` in PATH{or}", self.program)),
        }
    }

    fn present(&self, version: String, not_measured: Option<&str>) -> PeerRow {
        PeerRow {
            peer: self.name.to_owned(),
            installed: true,
            version: Some(version),
            not_measured: not_measured.map(str::to_owned),
        }
    }

    /// Its version, as it tells it.
    fn version(&self, program: &std::path::Path) -> Result<String, BenchError> {
        let failed = |reason: String| BenchError::Peer {
            peer: self.name.to_owned(),
            doing: "asking for its version".to_owned(),
            reason,
        };
        let output = Command::new(program).arg("--version").output();
        let output = output.map_err(|error| failed(format!("{}: {error}", program.display())))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        version_in(&text).ok_or_else(|| failed(format!("{}, and it says {text:?}", output.status)))
    }
}

fn is_program(place: &std::path::Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let metadata = std::fs::metadata(place);
    metadata.is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// The version in what a program says of itself: the first word that is a `v` and a digit.
fn version_in(text: &str) -> Option<String> {
    let is_version = |word: &&str| {
        word.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    text.split_whitespace().find(is_version).map(str::to_owned)
}

/// Measures the peers that are here, and tine beside them.
///
/// # Errors
/// When anything fails, also of a peer's: one that is installed is measured or fails the run.
pub fn run(bench: &mut Bench) -> Result<PeerFigures, BenchError> {
    let mut figures = PeerFigures { file_system: room::file_system()?, ..PeerFigures::default() };
    figures.peers.push(match FIRECRACKER.find() {
        None => FIRECRACKER.absent(),
        Some(program) => {
            let version = FIRECRACKER.version(&program)?;
            let no_room = no_room(bench)?;
            if no_room.is_none() {
                figures.compared = compare(&Firecracker::new(program, &version), bench)?;
            }
            FIRECRACKER.present(version, no_room.as_deref())
        }
    });
    figures.peers.push(match CLOUD_HYPERVISOR.find() {
        None => CLOUD_HYPERVISOR.absent(),
        Some(program) => CLOUD_HYPERVISOR.present(
            CLOUD_HYPERVISOR.version(&program)?,
            Some("not measured: tine drives Firecracker only"),
        ),
    });
    for PeerRow { peer, not_measured, .. } in &figures.peers {
        if let Some(reason) = not_measured {
            bench.skip(format!("peers: {peer}"), reason.trim_start_matches("not measured: "));
        }
    }
    // What a peer does is in its rows alone: it must not make a run of tine look worse.
    for row in figures.compared.iter().filter(|row| row.peer == TINE) {
        bench.measures.time(row.measure(), &row.samples_us);
    }
    Ok(figures)
}

/// Why the comparison can't be made here; none if it can.
fn no_room(bench: &Bench) -> Result<Option<String>, BenchError> {
    let (restored, written) = (bench.plan.restores().1, bench.plan.written_snapshots().1);
    let largest = restored.max(written);
    let reason = match bench.rig.no_room_for(largest)? {
        Some(reason) => Some(reason),
        // Two snapshots of the one that is restored, or of the one that is written.
        None => room::no_space_for(2 * largest)?,
    };
    Ok(reason.map(|reason| format!("not measured: {reason}")))
}

/// The peer and tine, one after the other in every round.
fn compare(peer: &Firecracker, bench: &Bench) -> Result<Vec<PeerSamples>, BenchError> {
    let Bench { plan, rig, progress, .. } = bench;
    let ((restores, restored_mib), (snapshots, written_mib)) =
        (plan.restores(), plan.written_snapshots());
    let rounds = restores + 10 * snapshots;
    progress.steps(rounds);
    let mut table = Table::default();
    {
        progress.say("booting");
        let theirs = peer.template(restored_mib)?;
        let ours = Ours::start(rig.host(), restored_mib)?;
        for _ in 0..restores {
            theirs.restore(&mut table)?;
            ours.restore(&mut table)?;
            progress.step()?;
        }
    }
    for _ in 0..snapshots {
        progress.say("snapshots into files");
        // Anew each time, and one alone: their memory and their files are large.
        peer.boot(written_mib)?.write_snapshot(&mut table)?;
        ours::write_snapshot(rig.host(), written_mib, &mut table)?;
        // They take as long as many restores.
        for _ in 0..10 {
            progress.step()?;
        }
    }
    // What is compared stands together.
    let place = |row: &PeerSamples| what::ALL.iter().position(|what| *what == row.what);
    table.rows.sort_by_key(place);
    Ok(table.rows)
}

/// Of what samples are.
#[derive(Clone, Copy)]
struct Kind<'a> {
    peer: &'a str,
    version: &'a str,
    what: &'static str,
    how: &'static str,
    guest_bytes: u64,
    note: &'static str,
}

/// Rows, as samples come.
#[derive(Default)]
struct Table {
    rows: Vec<PeerSamples>,
}

impl Table {
    fn add(&mut self, kind: Kind<'_>, us: f64) {
        let same = |row: &&mut PeerSamples| {
            row.peer == kind.peer && row.what == kind.what && row.how == kind.how
        };
        if let Some(row) = self.rows.iter_mut().find(same) {
            row.samples_us.push(us);
            row.n = row.samples_us.len();
            return;
        }
        self.rows.push(PeerSamples {
            peer: kind.peer.to_owned(),
            version: kind.version.to_owned(),
            what: kind.what.to_owned(),
            how: kind.how.to_owned(),
            guest_bytes: kind.guest_bytes,
            n: 1,
            samples_us: vec![us],
            note: kind.note.to_owned(),
        });
    }
}

/// What is compared.
mod what {
    pub const RESTORE: &str = "restore to the guest's first call";
    pub const READY: &str = "of that: until the VMM takes requests";
    pub const LOADED: &str = "of that: until the VMM says that it is restored";
    pub const EXIT: &str = "of that: until the VMM sees the guest's first exit";
    pub const TEARDOWN: &str = "end of a restored guest";
    pub const PAUSE: &str = "snapshot into files: the guest stands still";
    pub const COMPLETE: &str = "snapshot into files: until they are complete";
    /// All of it, in the order of reports.
    pub const ALL: [&str; 7] = [RESTORE, READY, LOADED, EXIT, TEARDOWN, PAUSE, COMPLETE];
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_peer_is_what_its_variable_names_or_the_first_program_in_the_path() {
        let [empty, full] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let program = full.path().join("firecracker");
        fs::create_dir(empty.path().join("firecracker")).unwrap();
        fs::write(&program, "").unwrap();
        let path = env::join_paths([empty.path(), full.path()]).unwrap();
        let find =
            |named: Option<&str>| FIRECRACKER.find_in(named.map(Into::into), Some(path.clone()));
        assert_eq!(find(None), None, "neither a directory nor what can't be run is a program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find(None), Some(program.clone()));
        assert_eq!(find(Some("")), Some(program));
        assert_eq!(find(Some("/else/where")), Some("/else/where".into()));
        assert_eq!(FIRECRACKER.find_in(None, None), None);
    }

    #[test]
    fn an_absent_peer_is_listed_as_not_measured() {
        let row = FIRECRACKER.absent();
        assert!(!row.installed && row.version.is_none());
        let reason = row.not_measured.unwrap();
        assert_eq!(reason, "not measured: no `firecracker` in PATH or TINE_FIRECRACKER");
        let row = CLOUD_HYPERVISOR.absent();
        assert_eq!(row.not_measured.unwrap(), "not measured: no `cloud-hypervisor` in PATH");
    }

    #[test]
    fn versions_are_found_in_what_programs_say() {
        assert_eq!(version_in("Firecracker v1.7.0\n\n").as_deref(), Some("v1.7.0"));
        assert_eq!(version_in("cloud-hypervisor v38.0\n").as_deref(), Some("v38.0"));
        assert_eq!(version_in("very new"), None);
    }

    #[test]
    fn samples_of_a_kind_come_into_one_row() {
        let kind = |how| Kind {
            peer: TINE,
            version: "v1",
            what: what::RESTORE,
            how,
            guest_bytes: 1,
            note: "",
        };
        let mut table = Table::default();
        for (how, us) in [("a", 1.0), ("b", 2.0), ("a", 3.0)] {
            table.add(kind(how), us);
        }
        let rows: Vec<_> = table.rows.iter().map(|row| (row.n, &row.samples_us[..])).collect();
        assert_eq!(rows, [(2, &[1.0, 3.0][..]), (1, &[2.0][..])]);
    }
}
