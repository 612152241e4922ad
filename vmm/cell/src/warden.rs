//! The process whose children all cells are: the first of its own PID namespace, so that none
//! of them outlives it, as it does not outlive the daemon.
//!
//! It has one thread and is forked for every cell, without a new program: what a program's
//! start costs and takes of memory is shared by all cells. It never hears of guests.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{WaitOptions, wait};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tine_vmm::KvmHost;
use tine_vmm::kvm::KvmError;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use vmm_sys_util::signal::register_signal_handler;

use crate::channel::{Channel, ChannelError, descriptor};
use crate::confine::{ConfineError, Confinement, Filter, confine};
use crate::fault::with_causes;
use crate::inside;

/// The subcommand by which the program becomes a warden.
pub const SUBCOMMAND: &str = "warden";

/// What can go wrong with a warden.
#[derive(Debug, Error)]
pub enum WardenError {
    /// Its process could not be started.
    #[error("starting the process that all cells come from failed")]
    Start(#[source] io::Error),
    /// It can't be spoken with.
    #[error("the process that all cells come from can't be spoken with")]
    Channel(#[from] ChannelError),
    /// It said that it can't do its work.
    #[error("no cells can be made: {0}")]
    Unable(String),
}

/// What the daemon tells a warden.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Order {
    /// First of all: how cells are confined.
    Begin(Confinement),
    /// Make a cell, with the end of a channel.
    Cell,
}

/// What a warden tells the daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Report {
    /// It works; or why it can't.
    Ready(Result<(), String>),
    /// A cell could not be made.
    NoCell(String),
    /// A process has ended: its number in the warden's PID namespace, and its wait status.
    Ended(u32, i32),
}

/// A warden, as the daemon has it. It ends, with all cells, when this is dropped.
#[derive(Debug)]
pub struct Warden {
    channel: Channel,
    process: Mutex<Child>,
    ending: AtomicBool,
}

impl Warden {
    /// Starts `program` as one, and waits until it has shown on a first cell that it can confine cells so.
    pub fn start(program: &Path, confinement: Confinement) -> Result<Self, WardenError> {
        let (own, other) = Channel::pair().map_err(WardenError::Start)?;
        let process = Command::new(program)
            .arg0("tine")
            .arg(SUBCOMMAND)
            .stdin(Stdio::from(OwnedFd::from(other)))
            .stdout(Stdio::null())
            .spawn()
            .map_err(WardenError::Start)?;
        let warden =
            Self { channel: own, process: Mutex::new(process), ending: AtomicBool::new(false) };
        warden.channel.send(&Order::Begin(confinement), &[])?;
        match warden.channel.receive()?.message {
            Report::Ready(Ok(())) => Ok(warden),
            Report::Ready(Err(reason)) | Report::NoCell(reason) => Err(WardenError::Unable(reason)),
            Report::Ended(..) => Err(WardenError::Unable("it lost a cell before the first".into())),
        }
    }

    /// Has it make a cell that serves the keeper at the other end of `end`.
    pub fn make_cell(&self, end: Channel) -> Result<(), WardenError> {
        use std::os::fd::AsFd;
        Ok(self.channel.send(&Order::Cell, &[end.as_fd()])?)
    }

    /// Its channel, to wait for [reports](Self::report).
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// The next report, if there is one.
    pub fn report(&self) -> Result<Option<Report>, WardenError> {
        Ok(self.channel.try_receive()?.map(|packet| packet.message))
    }

    /// Whether its end is meant.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// Ends it, with all cells, and waits until they are gone.
    pub fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
        // It leaves when its channel does.
        if let Err(error) = rustix::net::shutdown(&self.channel, rustix::net::Shutdown::Both) {
            tracing::debug!(%error, "the warden has left already");
        }
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = process.wait() {
            tracing::warn!(%error, "the warden can't be waited for");
        }
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        self.end();
    }
}

/// The life of a warden: what the program does when it is called with [`SUBCOMMAND`], its
/// standard input being the channel. Returns when the daemon is gone.
pub fn main() -> io::Result<()> {
    // SAFETY: standard input is a descriptor that nothing else in this program uses.
    let channel = Channel::from(unsafe { OwnedFd::from_raw_fd(0) });
    // Of a group of its own: a Ctrl-C at the daemon's terminal is for the daemon.
    if let Err(error) = rustix::process::setsid() {
        tracing::debug!(%error, "no session of the warden's own");
    }
    let order: Order = channel.receive().map_err(io::Error::other)?.message;
    let Order::Begin(confinement) = order else {
        return Err(io::Error::other("the first order must say how cells are confined"));
    };
    if confinement.namespaces {
        // Only children are in it, so the warden proper is one.
        unshare_pids()?;
        // SAFETY: this process has one thread.
        match unsafe { libc::fork() } {
            0 => {}
            -1 => return Err(io::Error::last_os_error()),
            child => return outlive(child, channel),
        }
        // With what waits for it, too.
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    }
    let ready = prepare(confinement);
    let told = ready.as_ref().map(drop).map_err(|error| with_causes(error));
    channel.send(&Report::Ready(told), &[]).map_err(io::Error::other)?;
    match ready {
        Ok(tools) => serve(&channel, &tools),
        Err(_) => Ok(()),
    }
}

/// Waits for the warden proper, so that whoever started this process has one to wait for.
fn outlive(child: i32, channel: Channel) -> io::Result<()> {
    drop(channel);
    let pid = rustix::process::Pid::from_raw(child);
    rustix::process::waitpid(pid, WaitOptions::empty())?;
    Ok(())
}

/// Makes this process's children the first of a new PID namespace, and moves it into a network
/// namespace with nothing in it, which they inherit.
fn unshare_pids() -> io::Result<()> {
    let wanted = UnshareFlags::NEWPID | UnshareFlags::NEWNET;
    // SAFETY: the file descriptor table is not among what is unshared.
    match unsafe { rustix::thread::unshare_unsafe(wanted) } {
        Err(rustix::io::Errno::PERM) => {}
        other => return Ok(other?),
    }
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    let flags = UnshareFlags::NEWUSER | wanted;
    // SAFETY: as above.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{0} {0} 1", user.as_raw()))?;
    std::fs::write("/proc/self/gid_map", format!("{0} {0} 1", group.as_raw()))
}

/// What cells are made with.
struct Tools {
    host: Arc<KvmHost>,
    filter: Filter,
    confinement: Confinement,
    ended: EventFd,
}

#[derive(Debug, Error)]
enum Unable {
    #[error("KVM can't be used")]
    Kvm(#[from] KvmError),
    #[error("cells can't be confined")]
    Confine(#[from] ConfineError),
    #[error("a process can't be made or waited for")]
    Process(#[from] io::Error),
    #[error("a first cell could not be confined: {0}")]
    Trial(String),
}

/// Where the handler of SIGCHLD tells that a child has ended.
static ENDED: AtomicI32 = AtomicI32::new(-1);

extern "C" fn on_child(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: write(2) may be called by a signal handler; the descriptor is an eventfd that
    // is never closed, and a full one needs no more.
    unsafe { libc::write(ENDED.load(Ordering::Relaxed), one.as_ptr().cast(), one.len()) };
}

/// Has `ps` show this process under another name.
fn call_oneself(name: &CStr) {
    if let Err(error) = rustix::thread::set_name(name) {
        tracing::debug!(%error, "a process keeps its name");
    }
}

fn prepare(confinement: Confinement) -> Result<Tools, Unable> {
    call_oneself(c"tine-warden");
    let host = Arc::new(KvmHost::open()?);
    let filter = Filter::new()?;
    // Both find out once how the kernel does it, which they can't in a cell.
    tine_vmm::memory::pagemap::method();
    crate::protocol::Moment::now();
    // SAFETY: sets an option of the allocator in a process of one thread: one arena for all
    // threads of a cell, which are few and rarely allocate.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    let ended = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
    ENDED.store(ended.as_raw_fd(), Ordering::Relaxed);
    register_signal_handler(libc::SIGCHLD, on_child).map_err(io::Error::from)?;
    let tools = Tools { host, filter, confinement, ended };
    tools.try_out()?;
    Ok(tools)
}

impl Tools {
    /// Confines a first process, which does nothing else.
    fn try_out(&self) -> Result<(), Unable> {
        let (own, other) = Channel::pair()?;
        // SAFETY: this process has one thread.
        match unsafe { libc::fork() } {
            -1 => return Err(io::Error::last_os_error().into()),
            0 => {
                let outcome = confine(self.confinement, &self.filter);
                let _ = other.send(&outcome.map_err(|error| with_causes(&error)), &[]);
                inside::fork::leave(0)
            }
            _ => drop(other),
        }
        let told = own.receive::<Result<(), String>>();
        wait(WaitOptions::empty()).map_err(io::Error::from)?;
        let outcome = told.map_err(|error| Unable::Trial(with_causes(&error)))?.message;
        outcome.map_err(Unable::Trial)
    }

    /// Makes a cell.
    fn make_cell(&self, end: OwnedFd, channel: &Channel) -> io::Result<()> {
        // SAFETY: this process has one thread.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                let end = Channel::from(end);
                let kept = vec![end.as_raw_fd(), self.host.kvm().as_raw_fd()];
                let _ = channel;
                let code = match inside::fork::close_all_but(kept) {
                    Ok(()) => self.become_cell(end),
                    Err(_) => 1,
                };
                inside::fork::leave(code)
            }
            _ => Ok(()),
        }
    }

    fn become_cell(&self, end: Channel) -> u8 {
        call_oneself(c"tine-cell");
        match confine(self.confinement, &self.filter) {
            Ok(()) => inside::run(end, Arc::clone(&self.host)),
            Err(error) => {
                let _ = end.send(&crate::protocol::Said::Dying(with_causes(&error)), &[]);
                1
            }
        }
    }
}

/// Makes cells, and tells of those that end, until the daemon is gone.
fn serve(channel: &Channel, tools: &Tools) -> io::Result<()> {
    match work(channel, tools) {
        // The daemon is gone while it was told something.
        Err(ChannelError::Closed) => Ok(()),
        other => other.map_err(io::Error::other),
    }
}

fn work(channel: &Channel, tools: &Tools) -> Result<(), ChannelError> {
    loop {
        let ended = descriptor(&tools.ended);
        let mut sources =
            [PollFd::new(channel, PollFlags::IN), PollFd::from_borrowed_fd(ended, PollFlags::IN)];
        match poll(&mut sources, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(ChannelError::Io("waiting for", error.into())),
        }
        // Nothing to read is no matter: a signal tells of several, or of one seen already.
        let _ = tools.ended.read();
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get() as u32;
            let report = Report::Ended(pid, status.as_raw());
            channel.send(&report, &[])?;
        }
        loop {
            let order = match channel.try_receive::<Order>() {
                Ok(Some(packet)) => packet,
                Ok(None) => break,
                Err(error) => return Err(error),
            };
            let Some(end) = order.files.into_iter().next() else { continue };
            if let Err(error) = tools.make_cell(end, channel) {
                let report = Report::NoCell(error.to_string());
                channel.send(&report, &[])?;
            }
        }
    }
}

/// How a process with wait status `status` ended, for people.
pub fn how_it_ended(status: i32) -> String {
    let status = ExitStatus::from_raw(status);
    match (status.code(), status.signal()) {
        (Some(0), _) => "it left".into(),
        (Some(code), _) => format!("it gave up with code {code}"),
        (_, Some(libc::SIGKILL)) => {
            "it was killed (SIGKILL): by somebody, or for the memory it took".into()
        }
        (_, Some(libc::SIGSYS)) => "it was killed: it made a system call that cells may not".into(),
        (_, Some(libc::SIGSEGV | libc::SIGBUS)) => {
            format!("it crashed (signal {})", status.signal().unwrap_or_default())
        }
        (_, signal) => format!("it was ended by signal {}", signal.unwrap_or_default()),
    }
}
