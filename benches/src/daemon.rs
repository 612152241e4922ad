//! A daemon to measure: the running program itself, in a process and a directory of its own.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::BenchError;
use crate::child::end_with_parent;
use crate::client::Client;
use crate::host::HostFacts;

/// How long the daemon may take to listen, and to stop.
const LIMIT: Duration = Duration::from_secs(20);
/// After this time without requests the daemon has all clones ready again: it rests for a
/// few milliseconds after the last that was taken, and makes each in as many.
pub const REFILL: Duration = Duration::from_millis(80);

/// A daemon. It is stopped, and its directory removed, when this is dropped.
pub struct Daemon {
    process: Child,
    directory: PathBuf,
    token: String,
}

impl Daemon {
    /// Starts one that has no images, and waits until it listens.
    pub fn start() -> Result<Self, BenchError> {
        Self::start_with(|directory, command| {
            command.arg("--images").arg(directory.join("images"));
        })
    }

    /// Starts one that has this user's images, and keeps its snapshots for itself.
    pub fn with_images() -> Result<Self, BenchError> {
        Self::start_with(|directory, command| {
            command.arg("--state").arg(directory.join("state"));
        })
    }

    fn start_with(more: impl Fn(&Path, &mut Command)) -> Result<Self, BenchError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("tine-bench-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let made = DirBuilder::new().mode(0o700).create(&directory);
        made.map_err(|source| BenchError::Write { path: directory.clone(), source })?;
        let process = launch(&directory, more).inspect_err(|_| remove(&directory))?;
        let mut daemon = Self { process, directory, token: String::new() };
        daemon.wait()?;
        Ok(daemon)
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }

    /// Waits until it answers.
    fn wait(&mut self) -> Result<(), BenchError> {
        let begun = Instant::now();
        loop {
            if let Ok(token) = fs::read_to_string(self.directory.join("token")) {
                self.token = token.trim().to_owned();
                if let Ok(mut client) = Client::connect(&self.socket(), &self.token) {
                    return client.ask("GET", "/v1/sandboxes", None).map(drop);
                }
            }
            let ended = matches!(self.process.try_wait(), Ok(Some(_)));
            if ended || begun.elapsed() > LIMIT {
                return Err(self.failed("starting a daemon", "it does not listen"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A client with a connection of its own.
    pub fn client(&self) -> Result<Client, BenchError> {
        Client::connect(&self.socket(), &self.token)
            .map_err(|error| self.failed("connecting to a daemon", &error.to_string()))
    }

    /// Puts a file of `bytes` at `path` of sandbox `id`.
    pub fn put(&self, id: &str, bytes: &[u8], path: &str) -> Result<(), BenchError> {
        let file = self.directory.join("file");
        fs::write(&file, bytes)
            .map_err(|source| BenchError::Write { path: file.clone(), source })?;
        let target = format!("{id}:{path}");
        let arguments = [OsStr::new("cp"), file.as_os_str(), OsStr::new(&target)];
        self.tine(&arguments, "copying a file into a guest").map(drop)
    }

    /// Runs `script` in the shell of sandbox `id`, which must succeed; its output.
    pub fn shell(&self, id: &str, script: &str) -> Result<String, BenchError> {
        let arguments = ["exec", id, "--", "/bin/sh", "-c", script].map(OsStr::new);
        self.tine(&arguments, &format!("in a guest: {script:.60}"))
    }

    /// Runs the program as a client of this daemon; its output.
    fn tine(&self, arguments: &[&OsStr], doing: &str) -> Result<String, BenchError> {
        let mut command = Command::new("/proc/self/exe");
        command
            .args(arguments)
            .env("TINE_SERVER", format!("unix:{}", self.socket().display()))
            .env("TINE_TOKEN_FILE", self.directory.join("token"))
            .stdin(Stdio::null());
        let output = command.output();
        let output = output.map_err(|source| BenchError::Call { call: "running tine", source })?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        let reason = format!("{}: {out:.300} {err:.300}", output.status);
        Err(BenchError::Daemon { doing: doing.to_owned(), reason })
    }

    /// It failed for `reason`; the last of its log goes with it.
    pub fn failed(&self, doing: &str, reason: &str) -> BenchError {
        let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let last = log.lines().next_back().unwrap_or_default();
        BenchError::Daemon { doing: doing.to_owned(), reason: format!("{reason} ({last})") }
    }
}

/// Why no Linux guest of `image` can be measured here; none if one can.
pub fn no_linux(host: &HostFacts, image: &str) -> Result<Option<String>, BenchError> {
    if host.kvm.ring0 == "emulated" {
        let reason = format!("{} emulates guests' ring 0, so no Linux guest runs", host.kvm.module);
        return Ok(Some(reason));
    }
    let missing = format!("there is no image `{image}`; make it: tine image build {image}");
    Ok((!has_image(image)?).then_some(missing))
}

/// Whether this user has the image, as the program itself knows it.
fn has_image(image: &str) -> Result<bool, BenchError> {
    let mut command = Command::new("/proc/self/exe");
    let output = command.args(["image", "ls"]).stdin(Stdio::null()).output();
    let output = output.map_err(|source| BenchError::Call { call: "tine image ls", source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().any(|line| line.split_ascii_whitespace().next() == Some(image)))
}

/// Starts the running program as a daemon in `directory`.
fn launch(directory: &Path, more: impl Fn(&Path, &mut Command)) -> Result<Child, BenchError> {
    let path = directory.join("log");
    let log = File::create(&path).map_err(|source| BenchError::Write { path, source })?;
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["serve", "--listen"])
        .arg(format!("unix:{}", directory.join("socket").display()))
        .arg("--token-file")
        .arg(directory.join("token"))
        // What a daemon writes down for every request is measured with it.
        .env("TINE_LOG", "info")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::from(log));
    more(directory, &mut command);
    end_with_parent(&mut command, libc::SIGTERM);
    command.spawn().map_err(|source| BenchError::Call { call: "starting a daemon", source })
}

fn remove(directory: &std::path::Path) {
    // It lies where temporary things lie, in any case.
    let _ = fs::remove_dir_all(directory);
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.process.id()) {
            // SAFETY: sends a signal; the process has not been waited for, so it is this one.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
        let begun = Instant::now();
        while matches!(self.process.try_wait(), Ok(None)) {
            if begun.elapsed() > LIMIT {
                // There is no more that could be done.
                let _ = self.process.kill();
                let _ = self.process.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        remove(&self.directory);
    }
}

/// A clone that the daemon has made.
pub struct Spawned {
    /// Its id.
    pub id: String,
    /// Where its cell came from.
    pub cell: String,
    /// From the request to the whole answer, microseconds.
    pub us: f64,
}

impl Spawned {
    /// Ends it.
    pub fn kill(self, client: &mut Client) -> Result<(), BenchError> {
        client.ask("DELETE", &format!("/v1/sandboxes/{}", self.id), None).map(drop)
    }
}

/// Asks for a clone.
pub fn spawn(client: &mut Client, wish: &Value) -> Result<Spawned, BenchError> {
    spawn_at(client, "/v1/sandboxes", wish)
}

/// The same of whatever makes clones at `path`.
pub fn spawn_at(client: &mut Client, path: &str, wish: &Value) -> Result<Spawned, BenchError> {
    let answer = client.ask("POST", path, Some(wish))?;
    let sandbox = &answer.body["results"][0]["sandbox"];
    let (id, ladder) = (sandbox["id"].as_str(), &sandbox["ladder"]);
    match (id, ladder["total"].as_f64()) {
        (Some(id), Some(_)) => Ok(Spawned {
            id: id.to_owned(),
            cell: ladder["cell"].as_str().unwrap_or("unknown").to_owned(),
            us: answer.us,
        }),
        _ => Err(BenchError::Daemon {
            doing: format!("POST {path} of a daemon"),
            reason: format!("no clone that has run: {}", answer.body),
        }),
    }
}

/// Has the daemon make a snapshot of a guest of `mib`, and returns its name.
pub fn make_snapshot(client: &mut Client, mib: u64) -> Result<String, BenchError> {
    let name = format!("bench-{mib}");
    let first = spawn(client, &json!({ "image": "workload", "memory_mib": mib }))?;
    let path = format!("/v1/sandboxes/{}/snapshot", first.id);
    client.ask("POST", &path, Some(&json!({ "name": name })))?;
    first.kill(client)?;
    Ok(name)
}
