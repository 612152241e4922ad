//! Terminals for programs.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::pty::{posix_openpt, unlockpt};
use tine_abi::agent::WindowSize;

/// Opens a new terminal: the agent's side, and the program's.
pub fn open(size: WindowSize) -> io::Result<(File, OwnedFd)> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let ours = posix_openpt(flags)?;
    unlockpt(&ours)?;
    // SAFETY: TIOCGPTPEER takes flags and touches no memory. The descriptor is a terminal's
    // master, open during the call.
    let theirs =
        Errno::result(unsafe { libc::ioctl(ours.as_raw_fd(), libc::TIOCGPTPEER, flags.bits()) })?;
    // SAFETY: the call made this descriptor just now, and nobody else has it.
    let theirs = unsafe { OwnedFd::from_raw_fd(theirs) };
    let ours = File::from(OwnedFd::from(ours));
    resize(&ours, size)?;
    Ok((ours, theirs))
}

/// Gives the terminal another size, of which its programs are told.
pub fn resize(terminal: &File, size: WindowSize) -> io::Result<()> {
    let size =
        libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize, which `size` is.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) })?;
    Ok(())
}
