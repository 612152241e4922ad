//! A Redis server of its own: a directory, a Unix socket, and no configuration of the host's.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::client::{Answer, Client};
use super::failed;
use crate::BenchError;
use crate::child::end_with_parent;
use crate::saves::memory;

/// How long the server may take to listen.
const LISTEN_LIMIT: Duration = Duration::from_secs(20);
/// How long it may take to load a file, or to write one.
const FILE_LIMIT: Duration = Duration::from_secs(300);
/// Name of the file that it saves to and loads from.
const DUMP: &str = "dump.rdb";

/// Whether `program` is there to be run.
pub fn installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|path| path.join(program).is_file())
}

/// A server. It is killed, and its directory removed, when this is dropped.
pub struct Server {
    process: Option<Child>,
    directory: TempDir,
}

/// A save that is going on.
#[derive(Clone, Copy, Debug)]
pub struct Saving {
    /// When it was asked for.
    pub begun: Instant,
    /// The process that writes.
    pub child: u32,
    /// How long the fork took, as the server says, microseconds.
    pub fork_us: u64,
}

impl Server {
    /// Starts one with nothing in it.
    pub fn start() -> Result<Self, BenchError> {
        Self::start_with(None)
    }

    /// Starts one with what is in the file `dump`, which is moved into its directory.
    pub fn load(dump: &Path) -> Result<Self, BenchError> {
        Self::start_with(Some(dump))
    }

    fn start_with(dump: Option<&Path>) -> Result<Self, BenchError> {
        let directory = tempfile::Builder::new().prefix("tine-redis-").tempdir();
        let directory =
            directory.map_err(|source| BenchError::Write { path: std::env::temp_dir(), source })?;
        let mut server = Self { process: None, directory };
        if let Some(dump) = dump {
            fs::rename(dump, server.dump()).map_err(failed("handing a file to a second Redis"))?;
        }
        server.process = Some(server.launch()?);
        server.wait_ready()?;
        Ok(server)
    }

    fn launch(&self) -> Result<Child, BenchError> {
        let path = self.directory.path().join("log");
        let log = File::create(&path).map_err(|source| BenchError::Write { path, source })?;
        let mut command = Command::new("redis-server");
        command
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no"])
            .arg("--unixsocket")
            .arg(self.socket())
            .arg("--dir")
            .arg(self.directory.path())
            .args(["--dbfilename", DUMP])
            .stdin(Stdio::null())
            .stdout(Stdio::from(log))
            .stderr(Stdio::null());
        end_with_parent(&mut command, libc::SIGKILL);
        let without_huge_pages = || {
            // SAFETY: it sets a property of the new process, before its program starts. What
            // Redis advises of huge pages holds for every version of it.
            match unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        // SAFETY: the closure makes one system call and takes no lock.
        unsafe { command.pre_exec(without_huge_pages) };
        command.spawn().map_err(failed("starting redis-server"))
    }

    /// Waits until it listens, and has loaded its file.
    fn wait_ready(&mut self) -> Result<(), BenchError> {
        let begun = Instant::now();
        let mut client = loop {
            let ended =
                self.process.as_mut().is_none_or(|process| !matches!(process.try_wait(), Ok(None)));
            match Client::connect(&self.socket()) {
                Ok(client) => break client,
                Err(error) if ended || begun.elapsed() > LISTEN_LIMIT => {
                    return Err(self.failed("starting redis-server", &error.to_string()));
                }
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        };
        while client.info_number("persistence", "loading").map_err(failed("asking Redis"))? != 0 {
            if begun.elapsed() > FILE_LIMIT {
                return Err(self.failed("loading a saved file", "it takes too long"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// What went wrong, with the last line of its log.
    fn failed(&self, doing: &str, reason: &str) -> BenchError {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let last = log.lines().next_back().unwrap_or_default();
        failed(doing)(io::Error::other(format!("{reason} ({last})")))
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, Child::id)
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// The file that it saves to.
    pub fn dump(&self) -> PathBuf {
        self.directory.path().join(DUMP)
    }

    /// A client with a connection of its own.
    pub fn client(&self) -> Result<Client, BenchError> {
        Client::connect(&self.socket()).map_err(failed("connecting to Redis"))
    }

    /// Has it fork, and the child save.
    pub fn begin_save(&self, control: &mut Client) -> Result<Saving, BenchError> {
        const DOING: &str = "BGSAVE";
        let begun = Instant::now();
        match control.ask(&["BGSAVE"]).map_err(failed(DOING))? {
            Answer::Word(word) if word.contains("started") => {}
            other => return Err(self.failed(DOING, &format!("answered with {other:?}"))),
        }
        let fork_us = control.info_number("stats", "latest_fork_usec").map_err(failed(DOING))?;
        let child = memory::child_of(self.pid())?;
        let child = child.ok_or_else(|| self.failed(DOING, "there is no child"))?;
        Ok(Saving { begun, child, fork_us })
    }

    /// Waits until the child has ended. Returns when that was seen.
    pub fn wait_child(
        &self,
        saving: &Saving,
        check: impl Fn() -> Result<(), BenchError>,
    ) -> Result<Instant, BenchError> {
        while memory::lives(saving.child) {
            if saving.begun.elapsed() > FILE_LIMIT {
                return Err(self.failed("BGSAVE", "it takes too long"));
            }
            check()?;
            thread::sleep(Duration::from_millis(2));
        }
        Ok(Instant::now())
    }

    /// Waits until the server has noticed that, and sees to it that the file is as it should be
    /// if `complete`.
    pub fn end_save(&self, control: &mut Client, complete: bool) -> Result<(), BenchError> {
        const DOING: &str = "the end of a BGSAVE";
        let begun = Instant::now();
        let mut busy = || control.info_number("persistence", "rdb_bgsave_in_progress");
        while busy().map_err(failed(DOING))? != 0 {
            if begun.elapsed() > LISTEN_LIMIT {
                return Err(self.failed(DOING, "the server does not notice it"));
            }
            thread::sleep(Duration::from_millis(5));
        }
        let status =
            control.info("persistence", "rdb_last_bgsave_status").map_err(failed(DOING))?;
        match status.as_str() {
            "ok" => Ok(()),
            _ if !complete => Ok(()),
            other => Err(self.failed(DOING, &format!("the save is {other:?}"))),
        }
    }

    /// Has the child of a save end at once, as Redis itself does when it does not need it.
    pub fn give_up(&self, saving: &Saving) -> Result<(), BenchError> {
        signal(saving.child, libc::SIGUSR1)
    }
}

/// Signals process `pid`: a child of this process that it has not waited for, or one of its
/// children that was just seen.
fn signal(pid: u32, signal: libc::c_int) -> Result<(), BenchError> {
    let pid = libc::pid_t::try_from(pid).ok().filter(|&pid| pid > 1);
    // SAFETY: signals one process, as its number is positive.
    match pid.map(|pid| unsafe { libc::kill(pid, signal) }) {
        Some(0) => Ok(()),
        _ => Err(crate::limits::failed("kill")),
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // A child that saves notices that its parent is gone, but not at once.
            let child = memory::find_child(process.id()).ok().flatten();
            for pid in [Some(process.id()), child].into_iter().flatten() {
                // One that has ended by itself meanwhile needs no end.
                let _ = signal(pid, libc::SIGKILL);
            }
            // What was killed can be waited for; there is nobody to tell if not.
            let _ = process.wait();
        }
    }
}
