//! Forks of processes, measured by a program of its own: this process has threads, guests and
//! much memory, all of which a fork of it would copy too.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use tine_forkbench::rows::{NotMeasured, Row};

use crate::BenchError;
use crate::child::end_with_parent;
use crate::interrupt::Interrupt;
use crate::report::Skipped;

/// How often is looked whether the program has ended, or shall.
const LOOK: Duration = Duration::from_millis(100);

/// The program, ready to be run.
pub struct Forkbench {
    /// Where it is: in memory, so that it needs no place on a disk.
    file: File,
    interrupt: Interrupt,
}

impl Forkbench {
    /// Puts the program into memory.
    pub fn new(interrupt: &Interrupt) -> Result<Self, BenchError> {
        Self::of(tine_guest_elf::FORKBENCH, interrupt)
    }

    fn of(program: &[u8], interrupt: &Interrupt) -> Result<Self, BenchError> {
        let failed = |source: io::Error| BenchError::Call { call: "memfd_create", source };
        let file = memfd_create("forkbench", MemfdFlags::CLOEXEC);
        let mut file: File = file.map_err(|error| failed(error.into()))?.into();
        file.write_all(program).map_err(failed)?;
        Ok(Self { file, interrupt: interrupt.clone() })
    }

    /// Runs the probe that `words` name, with its options. What the program could not measure
    /// goes to `skipped`, as a part of `section`.
    pub fn run(
        &self,
        words: &[String],
        section: &str,
        skipped: &mut Vec<Skipped>,
    ) -> Result<Vec<Row>, BenchError> {
        let command = format!("forkbench {}", words.join(" "));
        let failed = |reason: String| BenchError::Forkbench { command: command.clone(), reason };
        let (status, out, said) = self.output(words).map_err(|error| failed(error.to_string()))?;
        self.interrupt.check()?;
        if !status.success() {
            return Err(failed(format!("{status}: {}", said.trim())));
        }
        let mut rows = Vec::new();
        for line in out.lines() {
            match serde_json::from_str(line).map_err(|error| failed(format!("{error}: {line}")))? {
                Row::NotMeasured(NotMeasured { what, why }) => {
                    skipped.push(Skipped { what: format!("{section}: {what}"), reason: why });
                }
                row => rows.push(row),
            }
        }
        Ok(rows)
    }

    /// How the program ended, and all that it wrote.
    fn output(&self, words: &[String]) -> io::Result<(ExitStatus, String, String)> {
        let mut command = Command::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        end_with_parent(&mut command, libc::SIGKILL);
        let mut child = Running(command.spawn()?);
        let (mut out, mut errors) = (child.0.stdout.take(), child.0.stderr.take());
        thread::scope(|scope| {
            let out = scope.spawn(move || text(out.as_mut()));
            let errors = scope.spawn(move || text(errors.as_mut()));
            let status = self.wait(&mut child.0)?;
            let read = |thread: thread::ScopedJoinHandle<'_, io::Result<String>>| {
                thread.join().unwrap_or_else(|_| Err(io::Error::other("a reader panicked")))
            };
            Ok((status, read(out)?, read(errors)?))
        })
    }

    fn wait(&self, child: &mut Child) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if self.interrupt.asked() {
                child.kill()?;
                return child.wait();
            }
            thread::sleep(LOOK);
        }
    }
}

/// A program that is killed and waited for if that was not done before.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            // It is this process's child, so both can't but succeed.
            let ended = self.0.kill().and_then(|()| self.0.wait());
            debug_assert!(ended.is_ok(), "{ended:?}");
        }
    }
}

fn text(from: Option<&mut impl Read>) -> io::Result<String> {
    let mut text = String::new();
    if let Some(from) = from {
        from.read_to_string(&mut text)?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn rows_come_and_what_was_not_measured_is_noted() {
        let forkbench = Forkbench::new(&Interrupt::default()).unwrap();
        let mut skipped = Vec::new();
        let mut run = |line| forkbench.run(&words(line), "process_spawn", &mut skipped).unwrap();
        let rows = run("spawn --size 4M --ways fork,posix_spawn --rounds 2");
        assert_eq!(rows.len(), 2);
        assert!(matches!(&rows[0], Row::Spawn(row) if row.call_us.len() == 2));
        assert!(run("spawn --size 1000000G").is_empty());
        assert_eq!(skipped.len(), 1);
        assert!(skipped[0].what.starts_with("process_spawn: children of"), "{skipped:?}");
    }

    #[test]
    fn a_broken_probe_is_an_error_that_says_why() {
        let forkbench = Forkbench::new(&Interrupt::default()).unwrap();
        let error = forkbench.run(&words("dance"), "", &mut vec![]).unwrap_err().to_string();
        assert!(error.contains("forkbench dance") && error.contains("no probe"), "{error}");
        // Ends well, and says what is no row.
        let echo = std::fs::read("/bin/echo").unwrap();
        let forkbench = Forkbench::of(&echo, &Interrupt::default()).unwrap();
        let error = forkbench.run(&words("nonsense"), "", &mut vec![]).unwrap_err();
        assert!(error.to_string().contains("nonsense"), "{error}");
        let forkbench = Forkbench::of(b"no program", &Interrupt::default()).unwrap();
        assert!(forkbench.run(&words("spawn"), "", &mut vec![]).is_err());
    }

    #[test]
    fn an_interrupt_ends_the_program() {
        let sleep = std::fs::read("/bin/sleep").unwrap();
        let interrupt = Interrupt::default();
        let forkbench = Forkbench::of(&sleep, &interrupt).unwrap();
        let begun = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(50));
                interrupt.ask();
            });
            let ended = forkbench.run(&words("100"), "", &mut vec![]);
            assert!(matches!(ended, Err(BenchError::Interrupted)), "{ended:?}");
        });
        assert!(begun.elapsed() < Duration::from_secs(50));
    }
}
