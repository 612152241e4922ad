//! From a kernel that has just started its first process to a machine that can be used.

mod cmdline;
mod modules;
mod mounts;

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::sethostname;

use crate::log;
pub use cmdline::{Cmdline, Disk};

const MODULES: &str = "/modules";
/// Most open files of a process, at first and at most: the agent's own connections have
/// several each, and the kernel's 1024 is short for many a server.
const OPEN_FILES: (u64, u64) = (65_536, 1 << 20);

/// A step that the machine can't do without.
#[derive(Debug)]
pub struct Error {
    action: String,
    source: io::Error,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.action, self.source)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Makes an error of what went wrong in `action`.
fn doing<E: Into<io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> Error {
    let action = action.into();
    |error| Error { action, source: error.into() }
}

/// Mounts what there is to mount, loads modules, goes to the root disk, and sets the machine
/// up. What programs can do without is reported only.
///
/// # Errors
///
/// When a file system that the machine needs can't be mounted.
pub fn boot() -> Result<(), Error> {
    mounts::first()?;
    modules::load(Path::new(MODULES));
    let cmdline = Cmdline::of_this_machine();
    mounts::enter_root(&cmdline)?;
    mounts::then()?;
    mounts::disks(&cmdline);
    report("setting the host name", sethostname(&cmdline.hostname));
    report("setting up the loopback interface", bring_loopback_up());
    report("allowing more files", setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES.0, OPEN_FILES.1));
    Ok(())
}

fn report(action: &str, result: nix::Result<()>) {
    if let Err(error) = result {
        log::error(doing(action)(error));
    }
}

/// netdevice(7): the kernel gives `lo` its addresses when it goes up.
fn bring_loopback_up() -> nix::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: an ifreq is numbers, characters and an address that nobody reads here, for all
    // of which zeroes are values.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which `request` is.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) })
        .map(drop)
}
