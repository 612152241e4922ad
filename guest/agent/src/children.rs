//! All children of this process: those that it spawned, and the orphans that come to the
//! first process of a machine.
//!
//! One thread waits for any of them. It only looks at who ended, and reaps under the lock
//! that spawning and signalling take: so no end is missed however early, and no signal goes
//! to a process id that already belongs to somebody else.

use std::collections::BTreeMap;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::errno::Errno;
use tine_abi::agent::{self, Exit};

/// Where the ends of running programs are written to, by process id.
type Running = BTreeMap<i32, PipeWriter>;

/// The children of this process.
#[derive(Default)]
pub struct Children {
    running: Mutex<Running>,
    spawned: Condvar,
}

/// A program that was spawned.
pub struct Child {
    children: Arc<Children>,
    pid: i32,
    end: PipeReader,
}

impl Children {
    /// Starts to reap. From now on nothing else in this process may wait for children.
    ///
    /// # Errors
    ///
    /// When there can be no thread.
    pub fn start() -> io::Result<Arc<Self>> {
        let children = Arc::new(Self::default());
        let reaper = Arc::clone(&children);
        thread::Builder::new()
            .name("reaper".into())
            .stack_size(64 << 10)
            .spawn(move || reaper.reap_for_ever())?;
        Ok(children)
    }

    /// Spawns a program, which must make itself the leader of a process group.
    ///
    /// # Errors
    ///
    /// As [`Command::spawn`].
    pub fn spawn(self: &Arc<Self>, command: &mut Command) -> io::Result<Child> {
        let (end, writer) = io::pipe()?;
        let mut running = self.running();
        let pid = command.spawn()?.id() as i32;
        running.insert(pid, writer);
        self.spawned.notify_one();
        Ok(Child { children: Arc::clone(self), pid, end })
    }

    fn reap_for_ever(&self) {
        loop {
            match wait(libc::P_ALL, 0, libc::WNOWAIT) {
                Ok(Some((pid, _))) => self.reap(pid),
                Ok(None) | Err(Errno::EINTR) => {}
                // No children. None can come but by spawning, as orphans are descendants too; those
                // of the kernel's own helpers wait for the next.
                Err(_) => self.wait_for_a_spawn(),
            }
        }
    }

    fn reap(&self, pid: i32) {
        let mut running = self.running();
        // Spawning reaps what failed to execute itself, so this one may be gone.
        let Ok(Some((pid, exit))) = wait(libc::P_PID, pid as u32, libc::WNOHANG) else { return };
        if let Some(mut writer) = running.remove(&pid) {
            // An empty pipe takes it at once; with nobody at its other end nobody asks.
            let _nobody_asks = agent::send(&mut writer, &exit);
        }
    }

    fn wait_for_a_spawn(&self) {
        let mut running = self.running();
        while running.is_empty() {
            running = self.spawned.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Child {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid as u32
    }

    /// Sends its process group a signal, unless it ended.
    ///
    /// # Errors
    ///
    /// `EINVAL` when there is no such signal.
    pub fn signal(&self, signal: i32) -> nix::Result<()> {
        let running = self.children.running();
        if !running.contains_key(&self.pid) {
            return Ok(());
        }
        // SAFETY: kill touches no memory. The process is not reaped while it is in the map,
        // which is locked: the number is its own.
        Errno::result(unsafe { libc::kill(-self.pid, signal) }).map(drop)
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// When it was asked for before.
    pub fn exit(&mut self) -> io::Result<Exit> {
        agent::receive(&mut self.end)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl AsFd for Child {
    /// Readable when it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}

/// Whether this process has children, alive or not reaped.
pub fn any() -> bool {
    wait(libc::P_ALL, 0, libc::WNOHANG | libc::WNOWAIT) != Err(Errno::ECHILD)
}

/// `waitid` for an end: of whom, and how. None when nobody ended and `WNOHANG` is given.
fn wait(which: libc::idtype_t, id: u32, flags: i32) -> nix::Result<Option<(i32, Exit)>> {
    // SAFETY: a siginfo_t is plain numbers, for which zeroes are values.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: waitid writes to `info` only, which lives until it returns.
    Errno::result(unsafe { libc::waitid(which, id, &mut info, libc::WEXITED | flags) })?;
    // SAFETY: waitid filled these fields, or left the zeroes.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    let exit = match info.si_code {
        libc::CLD_EXITED => Exit::Code(status),
        _ => Exit::Signal(status),
    };
    Ok((pid != 0).then_some((pid, exit)))
}
