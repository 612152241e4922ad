//! What stands at the other end of a channel in tests: a process that says what it should not.

use std::time::{Duration, Instant};

use rustix::net::{SendFlags, send};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::line::{Expected, Line};
use crate::channel::Channel;
use crate::inside::fork;
use crate::protocol::{Said, VERSION};

/// How long a process may live that is to be killed.
const LIMIT: Duration = Duration::from_secs(10);

/// A process that does as a test says, and then nothing. It is killed when this is dropped.
pub(super) struct Peer(Option<Pid>);

impl Peer {
    /// One that does `script`.
    pub(super) fn start(script: impl FnOnce(&Channel)) -> (Expected, Self) {
        use std::os::fd::AsRawFd;
        let (expected, end) = Expected::pair().unwrap();
        // SAFETY: the child has one thread, and ends by `leave` or a signal.
        let pid = match unsafe { libc::fork() } {
            -1 => panic!("{}", std::io::Error::last_os_error()),
            0 => {
                let only = fork::close_all_but(vec![end.as_raw_fd()]);
                let orphaned = Some(Signal::KILL);
                if only.is_err()
                    || rustix::process::set_parent_process_death_signal(orphaned).is_err()
                {
                    fork::leave(1);
                }
                // A panic in a child must not go on as a test.
                let script = std::panic::AssertUnwindSafe(|| script(&end));
                if std::panic::catch_unwind(script).is_err() {
                    fork::leave(1);
                }
                loop {
                    // SAFETY: waits for a signal.
                    unsafe { libc::pause() };
                }
            }
            pid => Pid::from_raw(pid),
        };
        (expected, Self(pid))
    }

    /// One that greets first.
    pub(super) fn greeted(script: impl FnOnce(&Channel)) -> (Line, Self) {
        let (expected, peer) = Self::start(|channel| {
            channel.send(&hello(), &[]).unwrap();
            script(channel);
        });
        (expected.greet().unwrap(), peer)
    }

    /// Waits for its end, which must be a kill.
    pub(super) fn must_be_killed(mut self) {
        let begun = Instant::now();
        let status = loop {
            match waitpid(self.0, WaitOptions::NOHANG).unwrap() {
                Some((_, status)) => break status,
                None => assert!(begun.elapsed() < LIMIT, "nobody kills it"),
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        self.0 = None;
        assert_eq!(status.terminating_signal(), Some(libc::SIGKILL), "{status:?}");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // It is a child that nobody has waited for: the number is its own.
            let _ = kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::empty());
        }
    }
}

pub(super) fn hello() -> Said {
    Said::Hello { version: VERSION }
}

/// Sends what is no message.
pub(super) fn say_bytes(channel: &Channel, bytes: &[u8]) {
    send(channel, bytes, SendFlags::NOSIGNAL).unwrap();
}
