//! Firecracker, driven by its own API: a machine with the beacon, its snapshot, and machines
//! restored from that.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::VmmProcess;
use super::{FIRECRACKER, Kind, Table, what};
use crate::BenchError;
use crate::client::Client;
use crate::stats::microseconds;

/// How long it may take to listen, and its guest to be heard.
const LIMIT: Duration = Duration::from_secs(60);
/// How often it is looked whether it listens.
const LOOK: Duration = Duration::from_micros(50);

/// The installed Firecracker.
pub struct Firecracker {
    program: PathBuf,
    version: String,
}

impl Firecracker {
    pub fn new(program: PathBuf, version: &str) -> Self {
        Self { program, version: version.to_owned() }
    }

    /// A running machine of `mib` with the beacon, which has filled its memory.
    pub fn boot(&self, mib: u64) -> Result<Running<'_>, BenchError> {
        let directory = private_directory()?;
        let kernel = directory.path().join("beacon.elf");
        std::fs::write(&kernel, tine_beacon::elf())
            .map_err(|source| BenchError::Write { path: kernel.clone(), source })?;
        let mut vmm = self.start(directory.path())?;
        vmm.put("/machine-config", &json!({ "vcpu_count": 1, "mem_size_mib": mib }))?;
        vmm.put(
            "/boot-source",
            &json!({ "kernel_image_path": kernel, "boot_args": "console=ttyS0" }),
        )?;
        vmm.put("/actions", &json!({ "action_type": "InstanceStart" }))?;
        vmm.first_call("booting the beacon")?;
        Ok(Running { firecracker: self, vmm, directory, guest_bytes: mib << 20 })
    }

    /// A snapshot to restore machines of `mib` from.
    pub fn template(&self, mib: u64) -> Result<Template<'_>, BenchError> {
        let mut running = self.boot(mib)?;
        running.vmm.pause()?;
        running.vmm.create_snapshot(running.directory.path())?;
        let Running { vmm, directory, guest_bytes, .. } = running;
        drop(vmm);
        Ok(Template { firecracker: self, directory, guest_bytes })
    }

    /// Starts its process, and waits until it takes requests.
    fn start(&self, directory: &Path) -> Result<Vmm, BenchError> {
        let socket = directory.join("socket");
        match std::fs::remove_file(&socket) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(BenchError::Write { path: socket, source });
            }
            _ => {}
        }
        let log = directory.join("log");
        // It wants a log to be there.
        File::create(&log).map_err(|source| BenchError::Write { path: log.clone(), source })?;
        let mut command = Command::new(&self.program);
        command.arg("--api-sock").arg(&socket);
        command.arg("--log-path").arg(&log).args(["--level", "Error"]);
        let doing = "starting its process";
        let begun = Instant::now();
        let process = VmmProcess::start(command, &log);
        let mut process = process.map_err(|error| failed(doing, &error.to_string()))?;
        let client = loop {
            match Client::of(&socket, FIRECRACKER.name) {
                Ok(client) => break client,
                Err(error) if process.has_ended() || begun.elapsed() > LIMIT => {
                    let words = process.last_words();
                    return Err(failed(doing, &format!("it does not listen: {error} ({words})")));
                }
                Err(_) => std::thread::sleep(LOOK),
            }
        };
        Ok(Vmm { process, client, begun, ready: Instant::now() })
    }

    fn kind(
        &self,
        what: &'static str,
        how: &'static str,
        bytes: u64,
        note: &'static str,
    ) -> Kind<'_> {
        let (peer, version) = (FIRECRACKER.name, self.version.as_str());
        Kind { peer, version, what, how, guest_bytes: bytes, note }
    }
}

/// For sockets and memory that are nobody else's.
pub fn private_directory() -> Result<TempDir, BenchError> {
    // Mode 0700.
    tempfile::Builder::new()
        .prefix("tine-peers-")
        .tempdir()
        .map_err(|source| BenchError::Write { path: std::env::temp_dir(), source })
}

fn failed(doing: &str, reason: &str) -> BenchError {
    BenchError::Peer {
        peer: FIRECRACKER.name.to_owned(),
        doing: doing.to_owned(),
        reason: reason.to_owned(),
    }
}

/// One of its processes, and a connection to its API.
struct Vmm {
    process: VmmProcess,
    client: Client,
    /// When its process was started.
    begun: Instant,
    /// When it took the connection.
    ready: Instant,
}

impl Vmm {
    fn ask(&mut self, method: &str, path: &str, body: &Value) -> Result<(), BenchError> {
        match self.client.ask(method, path, Some(body)) {
            Ok(_) => Ok(()),
            // It says why in its log, at times, and ends.
            Err(error) => match self.process.last_words() {
                words if words.is_empty() => Err(error),
                words => Err(failed(&format!("{method} {path}"), &format!("{error}; {words}"))),
            },
        }
    }

    fn put(&mut self, path: &str, body: &Value) -> Result<(), BenchError> {
        self.ask("PUT", path, body)
    }

    fn pause(&mut self) -> Result<(), BenchError> {
        self.ask("PATCH", "/vm", &json!({ "state": "Paused" }))
    }

    fn resume(&mut self) -> Result<(), BenchError> {
        self.ask("PATCH", "/vm", &json!({ "state": "Resumed" }))
    }

    /// Writes the snapshot of a paused machine into two files of `directory`.
    fn create_snapshot(&mut self, directory: &Path) -> Result<(), BenchError> {
        let wish = json!({
            "snapshot_type": "Full",
            "snapshot_path": directory.join("state"),
            "mem_file_path": directory.join("memory"),
        });
        self.put("/snapshot/create", &wish)
    }

    /// Restores the machine that is in two files of `directory`, and lets it run.
    fn load_snapshot(&mut self, directory: &Path) -> Result<(), BenchError> {
        let memory = json!({ "backend_type": "File", "backend_path": directory.join("memory") });
        let wish = json!({
            "snapshot_path": directory.join("state"),
            "mem_backend": memory,
            "resume_vm": true,
        });
        self.put("/snapshot/load", &wish)
    }

    /// When the guest called first.
    fn first_call(&self, doing: &str) -> Result<Instant, BenchError> {
        let first = self.process.ear.first(LIMIT);
        first.ok_or_else(|| {
            let words = self.process.last_words();
            failed(
                doing,
                &format!("the guest was not heard within {} s ({words})", LIMIT.as_secs()),
            )
        })
    }
}

/// A machine that booted.
pub struct Running<'a> {
    firecracker: &'a Firecracker,
    // Killed before its files go.
    vmm: Vmm,
    directory: TempDir,
    guest_bytes: u64,
}

impl Running<'_> {
    /// Writes a snapshot into files, and sees to it that the machine goes on.
    pub fn write_snapshot(&mut self, table: &mut Table) -> Result<(), BenchError> {
        let begun = Instant::now();
        self.vmm.pause()?;
        self.vmm.create_snapshot(self.directory.path())?;
        let complete = begun.elapsed();
        self.vmm.resume()?;
        let pause = begun.elapsed();
        let calls = self.vmm.process.ear.calls();
        if !self.vmm.process.ear.more_than(calls, LIMIT) {
            return Err(failed("resuming after a snapshot", "the guest is not heard any more"));
        }
        let how = "paused, written in full, resumed";
        let mut add = |what, time, note| {
            let kind = self.firecracker.kind(what, how, self.guest_bytes, note);
            table.add(kind, microseconds(time));
        };
        add(what::PAUSE, pause, "from the request to pause until that to resume was answered");
        add(what::COMPLETE, complete, "from the request to pause until the files were written");
        Ok(())
    }
}

/// A snapshot in files.
pub struct Template<'a> {
    firecracker: &'a Firecracker,
    directory: TempDir,
    guest_bytes: u64,
}

impl Template<'_> {
    /// Restores a machine in a process of its own, hears it, and ends it.
    pub fn restore(&self, table: &mut Table) -> Result<(), BenchError> {
        let mut vmm = self.firecracker.start(self.directory.path())?;
        let asked = Instant::now();
        vmm.load_snapshot(self.directory.path())?;
        let loaded = Instant::now();
        let first = vmm.first_call("restoring the beacon")?;
        let Vmm { process, client, begun, ready } = vmm;
        drop(client);
        let end =
            process.end().map_err(|error| failed("ending its process", &error.to_string()))?;
        let (cold, warm) = ("in a new process", "in a process that waits for requests");
        let mut add = |what, how, time, note| {
            let kind = self.firecracker.kind(what, how, self.guest_bytes, note);
            table.add(kind, microseconds(time));
        };
        let note = "from the start of the process until its guest's call was read from its stdout";
        add(what::RESTORE, cold, first - begun, note);
        add(what::READY, cold, ready - begun, "from its start until its socket took a connection");
        add(what::LOADED, cold, loaded - begun, "from its start until the load was answered");
        let note = "from the request to load until its guest's call was read from its stdout";
        add(what::RESTORE, warm, first.saturating_duration_since(asked), note);
        add(what::TEARDOWN, cold, end, "from SIGKILL until the process was waited for");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::double::Double;
    use crate::stats::median;

    fn samples(table: &Table, what: &str, how: &str) -> Vec<f64> {
        let row = table.rows.iter().find(|row| row.what == what && row.how == how);
        row.map(|row| row.samples_us.clone()).unwrap_or_default()
    }

    #[test]
    fn the_api_is_driven_in_order_and_timed() {
        let double = Double::install(&[]);
        let firecracker = Firecracker::new(double.program(), "v0");
        let mut table = Table::default();
        let template = firecracker.template(16).unwrap();
        for _ in 0..2 {
            template.restore(&mut table).unwrap();
        }
        firecracker.boot(16).unwrap().write_snapshot(&mut table).unwrap();
        let [cold, ready, loaded] = [what::RESTORE, what::READY, what::LOADED]
            .map(|what| samples(&table, what, "in a new process"));
        assert_eq!(cold.len(), 2);
        // The double is known to sleep for so long in each step.
        let ms = |double: Duration| microseconds(double);
        assert!(median(ready.clone()) >= ms(Double::START));
        assert!(loaded[0] >= ready[0] + ms(Double::LOAD));
        assert!(cold[0] >= loaded[0] + ms(Double::FIRST) - 1000.0, "{cold:?} {loaded:?}");
        let warm = samples(&table, what::RESTORE, "in a process that waits for requests");
        assert!(warm[0] >= ms(Double::LOAD + Double::FIRST) - 1000.0 && warm[0] < cold[0]);
        let how = "paused, written in full, resumed";
        let [pause, complete] =
            [what::PAUSE, what::COMPLETE].map(|what| samples(&table, what, how)[0]);
        assert!(complete >= ms(Double::CREATE) && pause >= complete);
        assert_eq!(samples(&table, what::TEARDOWN, "in a new process").len(), 2);
    }

    #[test]
    fn what_it_refuses_and_what_it_says_of_it_is_told_and_nothing_is_left() {
        for (refused, said) in
            [("/snapshot/load", "the double refuses"), ("listen", "does not listen")]
        {
            let double = Double::install(&[("TINE_DOUBLE_REFUSES", refused)]);
            let firecracker = Firecracker::new(double.program(), "v0");
            let directory = private_directory().unwrap();
            let path = directory.path().to_path_buf();
            let template = Template { firecracker: &firecracker, directory, guest_bytes: 0 };
            let error = template.restore(&mut Table::default()).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
            assert!(error.to_string().contains("Firecracker"), "{error}");
            drop(template);
            assert!(!path.exists());
            assert_eq!(double.processes(), 0);
        }
    }

    #[test]
    fn the_firecracker_that_is_installed_is_measured_or_said_to_be_absent() {
        let Some(program) = FIRECRACKER.find() else {
            let row = FIRECRACKER.absent();
            println!("no Firecracker here, and nothing driven: {row:?}");
            assert!(row.not_measured.is_some_and(|reason| reason.starts_with("not measured")));
            return;
        };
        let version = FIRECRACKER.version(&program).unwrap();
        println!("Firecracker {version} here: it is driven");
        let firecracker = Firecracker::new(program, &version);
        let mut table = Table::default();
        let template = firecracker.template(64).unwrap();
        for _ in 0..3 {
            template.restore(&mut table).unwrap();
        }
        firecracker.boot(64).unwrap().write_snapshot(&mut table).unwrap();
        for row in &table.rows {
            println!("{}, {}: {:?} us", row.what, row.how, row.samples_us);
        }
        assert_eq!(samples(&table, what::RESTORE, "in a new process").len(), 3);
    }
}
