//! What a cell may take of what the kernel counts by process.

use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};

/// Descriptors: a machine has a dozen, each of its connections two.
const FILES: u64 = 4096;
/// Stack of the main thread, bytes: each live fork goes on deeper in it.
const STACK: u64 = 64 << 20;

/// Sets them, for good.
pub(super) fn set() -> io::Result<()> {
    let limits = [
        (Resource::Core, 0),
        (Resource::Nofile, FILES),
        (Resource::Stack, STACK),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
        (Resource::Nice, 0),
        (Resource::Rtprio, 0),
    ];
    for (resource, value) in limits {
        let most = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let value = Some(value.min(most));
        setrlimit(resource, Rlimit { current: value, maximum: value })?;
    }
    Ok(())
}
