//! Children of this process. Each is waited for on every path, and killed first where it may
//! still live.

use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;

use crate::clock;
use crate::failure::{During, Failure, chain};
use crate::line::Line;

/// A child that has not been waited for.
#[derive(Debug)]
pub struct Child(Pid);

impl Child {
    /// The child with the process id `pid`.
    pub fn new(pid: i32) -> Self {
        Self(Pid::from_raw(pid))
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.0
    }

    /// Waits until it has gone.
    ///
    /// # Errors
    ///
    /// When it did not end well.
    pub fn wait(self, doing: &str) -> Result<(), Failure> {
        let status = wait(self.0);
        // It is waited for.
        std::mem::forget(self);
        let ended = match status.during("waitpid")? {
            WaitStatus::Exited(_, 0) => return Ok(()),
            WaitStatus::Exited(_, code) => format!("ended with status {code}"),
            WaitStatus::Signaled(_, signal, _) => format!("was ended by {signal}"),
            status => format!("is in the state {status:?}"),
        };
        Err(Failure::Child { doing: doing.into(), ended })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It is not waited for: the number is its own, and both calls can't but succeed.
        let killed = kill(self.0, Signal::SIGKILL).and_then(|()| wait(self.0));
        debug_assert!(killed.is_ok(), "{killed:?}");
    }
}

fn wait(pid: Pid) -> nix::Result<WaitStatus> {
    loop {
        match waitpid(pid, None) {
            Err(Errno::EINTR) => {}
            status => return status,
        }
    }
}

/// How a process is doubled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `fork` of the C library.
    Fork,
    /// The system call `clone3`, without flags.
    Clone3,
}

/// Doubles this process; None is the child.
///
/// # Safety
///
/// The child has one thread. It must do nothing but what it was made for, must not unwind
/// out of the frame that called this, and must end by [`leave`].
pub unsafe fn double(call: Call) -> Result<Option<Child>, Failure> {
    let pid = match call {
        // SAFETY: the caller keeps the child to what it may do.
        Call::Fork => Errno::result(unsafe { libc::fork() }).during("fork")?,
        Call::Clone3 => {
            // SAFETY: clone_args is plain numbers, for which zeroes are values.
            let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
            arguments.exit_signal = libc::SIGCHLD as u64;
            // SAFETY: the kernel reads the arguments only, and the child runs on its own copy
            // of this stack, as after fork. The caller keeps it to what it may do.
            let pid = unsafe {
                libc::syscall(libc::SYS_clone3, &arguments, size_of::<libc::clone_args>())
            };
            Errno::result(pid).during("clone3")? as i32
        }
    };
    Ok((pid != 0).then(|| Child::new(pid)))
}

/// Ends a child, at once.
pub fn leave(code: i32) -> ! {
    // SAFETY: _exit touches no memory and does not return.
    unsafe { libc::_exit(code) }
}

/// A child and a line to it.
#[derive(Debug)]
pub struct Partner {
    /// The parent's end of the line.
    pub line: Line,
    /// The child.
    pub child: Child,
    /// When the call began.
    pub began: u64,
    /// When it returned in the parent.
    pub returned: u64,
}

impl Partner {
    /// A child by `fork` that does `work` with its end of a line, and ends.
    ///
    /// # Errors
    ///
    /// When there can be no child.
    pub fn fork(work: impl FnOnce(&mut Line) -> Result<(), Failure>) -> Result<Self, Failure> {
        Self::make(Call::Fork, work)
    }

    /// The same, by `call`.
    ///
    /// # Errors
    ///
    /// When there can be no child.
    pub fn make(
        call: Call,
        work: impl FnOnce(&mut Line) -> Result<(), Failure>,
    ) -> Result<Self, Failure> {
        let (line, mut its_line) = Line::pair()?;
        let began = clock::now();
        // SAFETY: the child does its work, catches what unwinds, and leaves.
        match unsafe { double(call) }? {
            Some(child) => Ok(Self { returned: clock::now(), line, child, began }),
            None => {
                // So that it hears when the parent has gone.
                drop(line);
                let done = catch_unwind(AssertUnwindSafe(|| work(&mut its_line)));
                leave(match done {
                    Ok(Ok(())) => 0,
                    // If the parent has gone, nobody is left to tell.
                    Ok(Err(error)) => 1 + i32::from(its_line.tell_failure(&chain(&error)).is_err()),
                    Err(_) => 101,
                })
            }
        }
    }

    /// Waits for what the child tells.
    ///
    /// # Errors
    ///
    /// When it ended instead.
    pub fn hear<T: DeserializeOwned>(&mut self, doing: &str) -> Result<T, Failure> {
        self.line.hear()?.ok_or_else(|| Failure::Child {
            doing: doing.into(),
            ended: "ended without a word".into(),
        })
    }

    /// Waits for the end of the child.
    ///
    /// # Errors
    ///
    /// When it did not end well.
    pub fn end(self, doing: &str) -> Result<(), Failure> {
        drop(self.line);
        self.child.wait(doing)
    }

    /// Waits for the last word of the child, and for its end.
    ///
    /// # Errors
    ///
    /// When it did not end well.
    pub fn answer<T: DeserializeOwned>(mut self, doing: &str) -> Result<T, Failure> {
        let answer = self.hear(doing)?;
        self.end(doing)?;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_does_its_work_and_tells() {
        for call in [Call::Fork, Call::Clone3] {
            let partner = Partner::make(call, |line| {
                let number: u64 = line.hear()?.unwrap_or(0);
                line.tell(&(number + 1))
            });
            let mut partner = partner.unwrap();
            partner.line.tell(&41u64).unwrap();
            assert_eq!(partner.answer::<u64>("count").unwrap(), 42);
        }
    }

    #[test]
    fn a_child_that_fails_or_dies_is_an_error() {
        let failing = Partner::fork(|_| Err(Failure::Usage("no paper".into()))).unwrap();
        assert!(failing.answer::<u64>("print").unwrap_err().to_string().contains("no paper"));
        let dying = Partner::fork(|_| leave(0)).unwrap();
        assert!(dying.answer::<u64>("print").unwrap_err().to_string().contains("without a word"));
        let killed = Partner::fork(|_| std::process::abort()).unwrap();
        assert!(killed.end("print").unwrap_err().to_string().contains("SIGABRT"));
    }

    #[test]
    fn a_child_that_is_dropped_has_gone() {
        let partner = Partner::fork(|line| line.hear::<u64>().map(drop)).unwrap();
        let pid = partner.child.pid();
        drop(partner);
        assert_eq!(kill(pid, None), Err(Errno::ESRCH));
    }
}
