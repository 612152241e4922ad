//! `fork(2)` of a cell. `docs/fork.md` argues why that is sound in a process with threads.

use std::io;
use std::os::fd::RawFd;

/// The child is a child of the cell's own parent, the warden: it outlives the cell.
pub(crate) const FLAGS: libc::c_int = libc::CLONE_PARENT | libc::SIGCHLD;

/// Where a call of [`fork`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Parent,
    Child,
}

/// Forks this process.
///
/// # Safety
/// Every other thread of this process must wait, in a system call, with no lock but those of
/// the machine that it belongs to. The child must not use or drop anything that belongs to
/// them, and must end by [`leave`].
pub(super) unsafe fn fork() -> io::Result<Side> {
    // SAFETY: without CLONE_VM the child has memory of its own, and goes on on a copy of this
    // stack; the caller sees to the rest. The system call is made by hand because fork(3) has
    // no CLONE_PARENT; what fork(3) does besides (handlers, the allocator's locks) is needless
    // where no other thread holds any.
    match unsafe { libc::syscall(libc::SYS_clone, FLAGS, 0, 0, 0, 0) } {
        0 => Ok(Side::Child),
        pid if pid > 0 => Ok(Side::Parent),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Closes all descriptors but those of `kept`.
pub(crate) fn close_all_but(mut kept: Vec<RawFd>) -> io::Result<()> {
    kept.sort_unstable();
    let mut first: libc::c_uint = 0;
    for kept in kept.into_iter().filter_map(|fd| libc::c_uint::try_from(fd).ok()) {
        if first < kept {
            close_range(first, kept - 1)?;
        }
        first = first.max(kept + 1);
    }
    close_range(first, libc::c_uint::MAX)
}

fn close_range(first: libc::c_uint, last: libc::c_uint) -> io::Result<()> {
    // SAFETY: whoever owns a descriptor of the range is never used again, nor dropped: the
    // callers are child processes that have left their parent's objects behind.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends this process, without running what was to run at its end: it may be its parent's.
pub(crate) fn leave(code: u8) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code.into()) }
}
