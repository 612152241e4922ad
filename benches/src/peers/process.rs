//! A process of another VMM, what its guest says, and its end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Instant;

use super::ear::Ear;

/// A process. It is killed and waited for when this is dropped.
///
/// It is made by `vfork`, as its start is timed: to copy the page tables of a suite that holds large
/// guests, as `fork` does, would be counted as its own.
pub struct VmmProcess {
    child: Child,
    hearing: Option<JoinHandle<()>>,
    log: PathBuf,
    /// Hears its guest.
    pub ear: Ear,
}

impl VmmProcess {
    /// Starts `command`; what it says on stderr goes into the file `log`.
    pub fn start(mut command: Command, log: &Path) -> std::io::Result<Self> {
        let stderr = File::options().create(true).append(true).open(log)?;
        // A pipe that nobody writes into: some VMMs ask more of stdin than /dev/null does.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        let mut process = Self {
            child: command.spawn()?,
            hearing: None,
            log: log.to_path_buf(),
            ear: Ear::default(),
        };
        let (ear, stdout) = (process.ear.clone(), process.child.stdout.take());
        let hear = move || stdout.into_iter().for_each(|stdout| ear.hear_all(stdout));
        process.hearing = Some(std::thread::Builder::new().name("ear".into()).spawn(hear)?);
        Ok(process)
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// The last that it said on stderr or in its log.
    pub fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
    }

    /// Kills it, and returns how long that took until it was gone and waited for.
    pub fn end(mut self) -> std::io::Result<std::time::Duration> {
        let begun = Instant::now();
        self.child.kill()?;
        self.child.wait()?;
        Ok(begun.elapsed())
    }
}

impl Drop for VmmProcess {
    fn drop(&mut self) {
        // One that has ended already, and was waited for, needs neither.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(Err(_)) = self.hearing.take().map(JoinHandle::join) {
            // It reads bytes and counts them; what it heard until then stands.
            eprintln!("the thread that hears a guest panicked");
        }
    }
}
