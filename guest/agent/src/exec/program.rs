//! A program, and the agent's ends of what it reads and writes.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::fchown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use nix::errno::Errno;
use nix::unistd::{chdir, geteuid, setgid, setgroups, setsid, setuid};
use tine_abi::agent::{AgentMessage, Exec, Failure};

use super::terminal;
use crate::children::{Child, Children};
use crate::connection::set_blocking;
use crate::failure::{on_file, os};
use crate::users::Identity;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The last signal of Linux.
const LAST_SIGNAL: i32 = 64;

/// A program that runs. Dropped, its process group is killed if it still does.
pub struct Program {
    /// The process.
    pub child: Child,
    /// Its standard input, if it has one.
    pub input: Option<File>,
    /// What it writes.
    pub outputs: Vec<Output>,
    /// Its terminal, if it has one.
    pub terminal: Option<File>,
}

/// One of the streams that a program writes.
pub struct Output {
    /// Where to read it.
    pub file: File,
    /// The message for bytes of it.
    pub message: fn(Vec<u8>) -> AgentMessage,
}

impl Program {
    /// Starts what `exec` says.
    pub fn start(exec: &Exec, children: &Arc<Children>) -> Result<Self, Failure> {
        let Some(name) = exec.argv.first() else {
            return Err(Failure::Invalid("argv is empty".into()));
        };
        let identity = identity(exec)?;
        let mut command = Command::new(name);
        command.args(&exec.argv[1..]).env_clear().envs(environment(exec, &identity)?);
        let streams = Streams::open(exec, &identity, &mut command)
            .map_err(|error| os(format!("making the streams of {name}"), error))?;
        let setup = Setup::new(exec, identity)?;
        // SAFETY: `apply` makes system calls only and allocates nothing, as it must between
        // fork and exec in a program with threads.
        unsafe { command.pre_exec(move || setup.apply()) };
        let child =
            children.spawn(&mut command).map_err(|error| on_file("running", name, error))?;
        let Streams { input, outputs, terminal } = streams;
        Ok(Self { child, input, outputs, terminal })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SIGKILL exists, so this can't fail.
        let _sent = self.child.signal(libc::SIGKILL);
    }
}

fn identity(exec: &Exec) -> Result<Identity, Failure> {
    match &exec.user {
        Some(user) => Identity::find(user),
        None => Identity::find(&geteuid().to_string()),
    }
}

/// The program's environment: what is asked for, over a minimal one.
fn environment(exec: &Exec, identity: &Identity) -> Result<BTreeMap<String, String>, Failure> {
    if let Some(name) = exec.env.keys().find(|name| name.is_empty() || name.contains('=')) {
        return Err(Failure::Invalid(format!("{name:?} can't be an environment variable")));
    }
    let minimal = [("PATH", PATH), ("HOME", &identity.home), ("USER", &identity.name)];
    let terminal = exec.terminal.map(|_| ("TERM", "xterm"));
    let minimal = minimal.into_iter().chain(terminal);
    let mut environment: BTreeMap<_, _> =
        minimal.map(|(name, value)| (name.into(), value.into())).collect();
    environment.extend(exec.env.clone());
    Ok(environment)
}

/// The agent's ends of a program's streams.
struct Streams {
    input: Option<File>,
    outputs: Vec<Output>,
    terminal: Option<File>,
}

impl Streams {
    /// Opens them, and gives the other ends to `command` and to the user: programs open
    /// /dev/stdout, which the owner alone may.
    fn open(exec: &Exec, identity: &Identity, command: &mut Command) -> io::Result<Self> {
        let own = |end: &dyn AsFd| match exec.user {
            Some(_) => fchown(end.as_fd(), Some(identity.uid.as_raw()), None),
            None => Ok(()),
        };
        if let Some(size) = exec.terminal {
            let (ours, theirs) = terminal::open(size)?;
            own(&theirs)?;
            command.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?).stderr(theirs);
            return Ok(Self {
                input: Some(unblocked(ours.try_clone()?)?),
                outputs: vec![output(ours.try_clone()?, AgentMessage::Stdout)?],
                terminal: Some(ours),
            });
        }
        let input = match exec.stdin {
            true => {
                let (theirs, ours): (PipeReader, PipeWriter) = io::pipe()?;
                own(&theirs)?;
                command.stdin(theirs);
                Some(unblocked(ours)?)
            }
            false => {
                command.stdin(Stdio::null());
                None
            }
        };
        let (stdout, theirs) = io::pipe()?;
        own(&theirs)?;
        command.stdout(theirs);
        let (stderr, theirs) = io::pipe()?;
        own(&theirs)?;
        command.stderr(theirs);
        let outputs =
            vec![output(stdout, AgentMessage::Stdout)?, output(stderr, AgentMessage::Stderr)?];
        Ok(Self { input, outputs, terminal: None })
    }
}

fn output(end: impl Into<OwnedFd>, message: fn(Vec<u8>) -> AgentMessage) -> io::Result<Output> {
    Ok(Output { file: unblocked(end)?, message })
}

/// The end of a stream that never makes the agent wait. The program's end is not affected.
fn unblocked(end: impl Into<OwnedFd>) -> io::Result<File> {
    let file = File::from(end.into());
    set_blocking(&file, false)?;
    Ok(file)
}

/// What the new process does before it becomes the program. Its OOM score needs no reset:
/// the agent never changes its own, as the kernel does not kill the first process.
struct Setup {
    terminal: bool,
    /// Whom to become; it stays the agent's user if none.
    identity: Option<Identity>,
    directory: CString,
}

impl Setup {
    fn new(exec: &Exec, identity: Identity) -> Result<Self, Failure> {
        let directory = match &exec.cwd {
            Some(path) => {
                // Said here, so that it is not taken for the program that is missing.
                fs::metadata(path).map_err(|error| on_file("entering", path, error))?;
                path
            }
            None if Path::new(&identity.home).is_dir() => &identity.home,
            None => "/",
        };
        let directory = CString::new(directory)
            .map_err(|error| os(format!("entering {directory:?}"), io::Error::from(error)))?;
        let identity = exec.user.is_some().then_some(identity);
        Ok(Self { terminal: exec.terminal.is_some(), identity, directory })
    }

    fn apply(&self) -> io::Result<()> {
        setsid()?;
        if self.terminal {
            // SAFETY: TIOCSCTTY takes a number. Standard input is the terminal.
            Errno::result(unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) })?;
        }
        for signal in 1..=LAST_SIGNAL {
            // SAFETY: the default needs no handler. It refuses what can't be changed, and
            // the two signals that the C library keeps, which nobody here changed.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        // SAFETY: this only marks descriptors. The streams keep theirs; whatever else this
        // process or who started it has open ends with exec.
        Errno::result(unsafe {
            libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int)
        })?;
        if let Some(identity) = &self.identity {
            setgroups(&identity.groups)?;
            setgid(identity.gid)?;
            setuid(identity.uid)?;
        }
        chdir(self.directory.as_c_str())?;
        Ok(())
    }
}
