//! What a cell may take of what the kernel counts by process.

use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};

/// Descriptors: a machine has a dozen, each of its connections two.
const FILES: u64 = 4096;
/// Stack of the main thread, bytes: each live fork goes on deeper in it.
const STACK: u64 = 64 << 20;

/// Processes and threads of a user id that a cell has for itself and its forks.
const PROCESSES: u64 = 16_384;

/// Sets them, for good; `own_user` is whether the user id is the cell's alone.
pub(super) fn set(own_user: bool) -> io::Result<()> {
    let mut limits = vec![
        (Resource::Core, 0),
        (Resource::Nofile, FILES),
        (Resource::Stack, STACK),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
        (Resource::Nice, 0),
        (Resource::Rtprio, 0),
    ];
    if own_user {
        limits.push((Resource::Nproc, PROCESSES));
    }
    for (resource, value) in limits {
        let most = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let value = Some(value.min(most));
        setrlimit(resource, Rlimit { current: value, maximum: value })?;
    }
    Ok(())
}
