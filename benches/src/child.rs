//! Processes that the suite starts.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Has the kernel send `signal` to the process of `command` when the thread that starts it ends:
/// nothing is left of a suite that is killed.
pub fn end_with_parent(command: &mut Command, signal: i32) {
    let prepare = move || {
        // SAFETY: it takes numbers and touches no memory.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec the closure makes one system call, and takes no lock.
    unsafe { command.pre_exec(prepare) };
}
