//! Something that announces that a machine will be let run: the message that asks for it.
//!
//! To wake a thread takes longer than most of what a dormant clone has left to do. The thread that
//! reads the message and the first vCPU's are woken by it side by side, where otherwise one
//! would wake the other.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

/// How long a vCPU's thread waits awake for leave to run.
const AWAKE: Duration = Duration::from_micros(300);

/// A descriptor that becomes readable when the machine is about to run. It is never read here, and
/// may have been read elsewhere before this thread has looked: a bell of its own is rung, too.
#[derive(Debug)]
pub struct Herald {
    descriptor: OwnedFd,
    bell: EventFd,
}

impl Herald {
    /// The herald that `descriptor` is.
    pub fn new(descriptor: OwnedFd) -> io::Result<Self> {
        Ok(Self { descriptor, bell: EventFd::new(EFD_CLOEXEC)? })
    }

    /// What ends the waiting whatever the descriptor does.
    pub(super) fn bell(&self) -> io::Result<EventFd> {
        self.bell.try_clone()
    }

    /// Waits until it can be read, and then, awake, until `done`, but not for long. Returns early
    /// when its bell is rung or a signal comes.
    pub(super) fn wait(self, done: impl Fn() -> bool) {
        let source = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut sources = [source(self.descriptor.as_raw_fd()), source(self.bell.as_raw_fd())];
        // SAFETY: the kernel reads and writes the two, which outlive the call.
        if unsafe { libc::poll(sources.as_mut_ptr(), 2, -1) } < 0 {
            return;
        }
        let begun = Instant::now();
        while !done() && begun.elapsed() < AWAKE {
            std::hint::spin_loop();
        }
    }
}
