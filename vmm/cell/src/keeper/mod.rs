//! The daemon's side: cells that are made, held, asked, and ended.
//!
//! A [`Line`] is a cell that one holder uses alone, request by request: while it is prepared
//! and started. [`Cell`] is one that many use at once; the [`Switchboard`] reads for all of
//! them. [`Nursery`] makes something of cells, of which the `pool` keeps some ahead.

mod cell;
mod cgroup;
mod line;
mod nursery;
#[cfg(test)]
mod peer;
mod pool;
mod snapshot;
mod switchboard;
mod turn;

pub use cell::{Cell, ConsoleOutput};
pub use cgroup::{CellLimits, CgroupError, Cgroups};
pub use line::Line;
pub use nursery::{Booted, FrozenCell, Nursery, SpawnWish};
pub use pool::{Fill, NurseryConfig, Origin};
pub use snapshot::CellSnapshot;
pub use switchboard::Switchboard;

use std::fs;
use std::io;

/// A process of a cell, as the daemon knows it. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    /// Its number here.
    pub(crate) pid: u32,
    /// Its number where the warden counts.
    pub(crate) inner_pid: u32,
    handle: std::os::fd::OwnedFd,
}

impl Process {
    /// The process `pid`, which the kernel has just named as the sender of a message.
    pub(crate) fn find(pid: u32) -> io::Result<Self> {
        let none = || io::Error::from(io::ErrorKind::NotFound);
        let id = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        let id = id.ok_or_else(none)?;
        let handle = rustix::process::pidfd_open(id, rustix::process::PidfdFlags::empty())?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let inner = numbers.and_then(|numbers| numbers.split_whitespace().next_back());
        let inner_pid = inner.and_then(|number| number.parse().ok()).ok_or_else(none)?;
        Ok(Self { pid, inner_pid, handle })
    }

    /// Ends it, whatever it does.
    pub(crate) fn kill(&self) {
        use rustix::process::{Signal, pidfd_send_signal};
        match pidfd_send_signal(&self.handle, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => tracing::error!(%error, pid = self.pid, "a cell can't be killed"),
        }
    }

    /// Waits until it is gone, at most `limit`. Whether it is.
    pub(crate) fn wait_gone(&self, limit: std::time::Duration) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let limit =
            Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
        let mut sources = [PollFd::new(&self.handle, PollFlags::IN)];
        matches!(poll(&mut sources, Some(&limit)), Ok(ready) if ready > 0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
