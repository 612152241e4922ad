//! The programs that a build runs.

use std::io::{self, Read};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::thread;

use crate::error::{ImageError, io_error};

/// A program, and the Debian package that has it.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
}

pub(crate) const APT_GET: Tool = Tool { name: "apt-get", package: "apt" };
pub(crate) const DPKG_DEB: Tool = Tool { name: "dpkg-deb", package: "dpkg" };
pub(crate) const MKFS_EROFS: Tool = Tool { name: "mkfs.erofs", package: "erofs-utils" };
pub(crate) const MMDEBSTRAP: Tool = Tool { name: "mmdebstrap", package: "mmdebstrap" };

/// Of what a program said, the end is enough to know why it failed.
const STDERR_LINES: usize = 8;

/// How programs say that the disk is full, in the language they are asked to speak: the text
/// of ENOSPC, and apt's own.
const NO_SPACE: [&str; 2] = ["No space left on device", "You don't have enough free space"];

impl Tool {
    /// A command that runs it, its messages in English, with nothing to read.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(self.name);
        command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        command
    }

    /// Runs `command`, which writes below `writes`, and returns what it printed.
    pub(crate) fn output(&self, mut command: Command, writes: &Path) -> Result<String, ImageError> {
        let output = command.output().map_err(|error| self.not_started(error))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(self.failed(output.status, &output.stderr, writes))
    }

    /// Runs `command` and has `read` take what it prints while it runs.
    ///
    /// The program's failure comes before the reader's: who reads half an archive can't know
    /// why there is no more. So that its reader can't make it fail, what that leaves is read.
    pub(crate) fn stream<T>(
        &self,
        mut command: Command,
        writes: &Path,
        read: impl FnOnce(&mut ChildStdout) -> Result<T, ImageError>,
    ) -> Result<T, ImageError> {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| self.not_started(error))?;
        let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take())
        else {
            return Err(self.not_started(io::Error::other("it has no pipes")));
        };
        let listener = thread::spawn(move || {
            let mut said = Vec::new();
            stderr.read_to_end(&mut said).map(|_| said)
        });
        let result = read(&mut stdout);
        let drained = io::copy(&mut stdout, &mut io::sink());
        drop(stdout);
        let status = child.wait().map_err(io_error("wait for", Path::new(self.name)))?;
        let said = match listener.join() {
            Ok(said) => said.map_err(io_error("read the messages of", Path::new(self.name)))?,
            Err(_) => Vec::new(),
        };
        if !status.success() {
            return Err(self.failed(status, &said, writes));
        }
        drained.map_err(io_error("read from", Path::new(self.name)))?;
        result
    }

    fn not_started(&self, source: io::Error) -> ImageError {
        if source.kind() == io::ErrorKind::NotFound {
            return ImageError::NoTool { tool: self.name.to_owned(), package: self.package };
        }
        ImageError::Io { action: "run", path: self.name.into(), source }
    }

    fn failed(&self, status: std::process::ExitStatus, stderr: &[u8], writes: &Path) -> ImageError {
        let stderr = String::from_utf8_lossy(stderr);
        if NO_SPACE.iter().any(|text| stderr.contains(text)) {
            return ImageError::NoSpace { path: writes.to_owned() };
        }
        let lines: Vec<_> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let end = lines[lines.len().saturating_sub(STDERR_LINES)..].join("; ");
        ImageError::Tool { tool: self.name.to_owned(), status, stderr: end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SH: Tool = Tool { name: "sh", package: "dash" };

    fn sh(script: &str) -> Command {
        let mut command = SH.command();
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_missing_tool_names_its_package() {
        let tool = Tool { name: "tine-has-no-such-tool", package: "some-package" };
        let error = tool.output(tool.command(), Path::new("/")).unwrap_err();
        assert!(matches!(error, ImageError::NoTool { package: "some-package", .. }), "{error}");
    }

    #[test]
    fn a_failure_carries_what_was_said() {
        let error = SH.output(sh("echo 'no such thing' >&2; exit 3"), Path::new("/")).unwrap_err();
        assert!(error.to_string().contains("no such thing"), "{error}");
    }

    #[test]
    fn a_tool_that_fills_the_disk_is_understood() {
        let script = "echo 'write: No space left on device' >&2; exit 1";
        let error = SH.output(sh(script), Path::new("/images/x")).unwrap_err();
        assert!(matches!(error, ImageError::NoSpace { .. }), "{error}");
    }

    #[test]
    fn a_reader_that_fails_says_why() {
        let script = "dd if=/dev/zero bs=1M count=4 2>&1";
        let read =
            |_: &mut ChildStdout| Err::<(), _>(ImageError::NoSpace { path: "/images/x".into() });
        let error = SH.stream(sh(script), Path::new("/"), read).unwrap_err();
        assert!(matches!(error, ImageError::NoSpace { .. }), "{error}");
    }

    #[test]
    fn a_stream_that_breaks_off_says_why() {
        let error = SH
            .stream(sh("echo half; echo broken >&2; exit 1"), Path::new("/"), |pipe| {
                let mut text = String::new();
                pipe.read_to_string(&mut text).map_err(io_error("read", Path::new("pipe")))?;
                Ok(text)
            })
            .unwrap_err();
        assert!(error.to_string().contains("broken"), "{error}");
    }
}
