//! Runs a command, lets its output through, and reads along.

use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// What a command came to.
pub struct Outcome {
    /// Whether it succeeded.
    pub success: bool,
    /// Its exit code, 1 if a signal ended it.
    pub code: u8,
    /// How many tests its summary lines say it ran.
    pub tests: u64,
}

/// The cargo that runs this.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs `command` and counts tests in its output.
pub fn counting(command: &mut Command) -> Result<Outcome> {
    if std::io::stderr().is_terminal() {
        // Cargo sees pipes and would drop its colours.
        command.env("CARGO_TERM_COLOR", "always");
    }
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{command:?} can't be started"))?;
    let stderr = child.stderr.take().context("the child's stderr is not piped")?;
    let stdout = child.stdout.take().context("the child's stdout is not piped")?;
    let reader = std::thread::spawn(move || relay(stderr, &mut std::io::stderr()));
    let from_stdout = relay(stdout, &mut std::io::stdout())?;
    let from_stderr =
        reader.join().map_err(|_| anyhow::anyhow!("the reader of stderr panicked"))??;
    let status = child.wait().with_context(|| format!("{command:?} was lost"))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(Outcome { success: status.success(), code, tests: from_stdout + from_stderr })
}

/// Lets output through, and counts the tests that its summaries tell of.
pub struct Counter<W> {
    to: W,
    line: Vec<u8>,
    tests: u64,
}

impl<W: Write> Counter<W> {
    /// Output goes to `to`.
    pub fn new(to: W) -> Self {
        Self { to, line: Vec::new(), tests: 0 }
    }

    /// How many tests the summaries told of until now.
    pub fn tests(&self) -> u64 {
        self.tests
    }
}

impl<W: Write> Write for Counter<W> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let written = self.to.write(data)?;
        for &byte in &data[..written] {
            self.line.push(byte);
            if byte == b'\n' {
                let line = String::from_utf8_lossy(&self.line);
                self.tests += tests_in(&plain(&line)).unwrap_or(0);
                self.line.clear();
            }
        }
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

fn relay(from: impl Read, to: &mut impl Write) -> Result<u64> {
    let mut reader = BufReader::new(from);
    let mut counter = Counter::new(to);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).context("the child's output was lost")? > 0 {
        counter.write_all(&line)?;
        counter.flush()?;
        line.clear();
    }
    Ok(counter.tests())
}

/// How many tests `line` says were run, if it is a summary of nextest or of cargo test.
fn tests_in(line: &str) -> Option<u64> {
    let line = line.trim();
    if let Some(rest) = line.strip_prefix("Summary [") {
        let (_, counts) = rest.split_once(']')?;
        // "3 tests run: ...", or "2/3 tests run: ..." when it stopped early.
        let (number, rest) = counts.trim().split_once(' ')?;
        let number = number.split('/').next()?;
        return rest.starts_with("test").then(|| number.parse().ok())?;
    }
    let counts = line.strip_prefix("test result: ")?;
    let count = |word: &str| -> Option<u64> {
        counts
            .split(['.', ';'])
            .find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
    };
    Some(count("passed")? + count("failed")?)
}

/// `text` without the escape sequences that colour it.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            // A sequence ends at its first letter.
            characters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_understood() {
        let nextest = "\u{1b}[32;1m     Summary\u{1b}[0m [   0.005s] \u{1b}[1m31\u{1b}[0m tests run: 31 passed, 2 skipped\n";
        assert_eq!(tests_in(&plain(nextest)), Some(31));
        assert_eq!(tests_in("Summary [ 1.0s] 2/9 tests run: 1 passed, 1 failed"), Some(2));
        assert_eq!(tests_in("     Summary [   0.000s] 1 test run: 1 passed, 0 skipped"), Some(1));
        let cargo =
            "test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(tests_in(cargo), Some(4));
        assert_eq!(tests_in("test memory::tests::x ... ok"), None);
    }
}
