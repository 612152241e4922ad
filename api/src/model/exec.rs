//! Programs in a guest, as they go over the wire.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tine_abi::agent::{Exec, Exit, WindowSize};
use utoipa::ToSchema;

use super::check_timeout;
use super::files::check_path;
use crate::problem::Problem;

/// Most bytes of arguments and environment together; a message to the agent holds them.
const MAX_WORDS: usize = 200 << 10;
/// Highest number of a signal of Linux on x86-64 (signal(7)).
const MAX_SIGNAL: i32 = 64;

/// Body of `POST /v1/sandboxes/{id}/exec`, and the first message of its WebSocket.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Program and arguments. A name without a slash is looked for in `PATH`.
    pub argv: Vec<String>,
    /// Environment, over a minimal one.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory, an absolute path; the user's home by default.
    pub cwd: Option<String>,
    /// User by name or number; root by default.
    pub user: Option<String>,
    /// All of its standard input; nothing by default.
    pub stdin: Option<String>,
    /// Whether the client sends standard input, over the WebSocket.
    #[serde(default)]
    pub interactive: bool,
    /// Seconds until it is killed.
    pub timeout_s: Option<u64>,
    /// Runs it on a terminal of this size: all output is then standard output.
    pub tty: Option<Terminal>,
}

/// Size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Terminal {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

impl From<Terminal> for WindowSize {
    fn from(size: Terminal) -> Self {
        Self { rows: size.rows, columns: size.columns }
    }
}

impl ExecRequest {
    /// What the agent is asked to run.
    pub fn program(&self) -> Result<Exec, Problem> {
        self.check()?;
        Ok(Exec {
            argv: self.argv.clone(),
            env: self.env.clone(),
            cwd: self.cwd.clone(),
            user: self.user.clone(),
            stdin: self.interactive || self.stdin.is_some(),
            terminal: self.tty.map(WindowSize::from),
            timeout_ms: self.timeout_s.map(|seconds| seconds * 1000),
        })
    }

    fn check(&self) -> Result<(), Problem> {
        check_timeout(self.timeout_s)?;
        if self.argv.first().is_none_or(String::is_empty) {
            return Err(Problem::value("argv", "name a program to run"));
        }
        if self.argv.iter().any(|word| word.contains('\0')) {
            return Err(Problem::value("argv", "an argument can't hold a NUL"));
        }
        let named = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
        if !self.env.iter().all(|(name, value)| named(name) && !value.contains('\0')) {
            let rule = "a name is not empty and holds no '='; neither it nor a value holds a NUL";
            return Err(Problem::value("env", rule));
        }
        let env = self.env.iter().map(|(name, value)| name.len() + value.len() + 2);
        let words = self.argv.iter().map(|word| word.len() + 1).chain(env).sum::<usize>();
        if words > MAX_WORDS {
            let detail = format!("arguments and environment have at most {MAX_WORDS} bytes");
            return Err(Problem::value("argv", detail));
        }
        if let Some(cwd) = &self.cwd {
            check_path("cwd", cwd)?;
        }
        if self.user.as_ref().is_some_and(|user| user.is_empty() || user.contains('\0')) {
            return Err(Problem::value("user", "a user is a name or a number"));
        }
        match self.stdin {
            Some(_) if self.interactive => {
                Err(Problem::value("stdin", "an interactive program's input comes in messages"))
            }
            _ => Ok(()),
        }
    }
}

/// A text message of the client after the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Control {
    /// The terminal has another size.
    Resize(Terminal),
    /// Send the program a signal.
    Signal {
        /// Its number.
        signal: i32,
    },
    /// Standard input ends.
    End,
}

impl Control {
    /// Checks what it can hold.
    pub fn check(self) -> Result<Self, Problem> {
        match self {
            Self::Signal { signal } if !(1..=MAX_SIGNAL).contains(&signal) => {
                let detail = format!("a signal is 1 to {MAX_SIGNAL}, not {signal}");
                Err(Problem::value("signal", detail))
            }
            _ => Ok(self),
        }
    }
}

/// What happened to a program. The last is `exited`, `timed_out` or `error`.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ExecEvent {
    /// It runs.
    Started {
        /// Its process id in the guest.
        pid: u32,
    },
    /// Some of its standard output.
    Stdout(Chunk),
    /// Some of its standard error.
    Stderr(Chunk),
    /// It ended.
    Exited(Exited),
    /// It was killed when its time was up.
    TimedOut,
    /// It is not known how it ended.
    Error {
        /// Why.
        problem: Problem,
    },
}

impl ExecEvent {
    /// The event as a line of JSON.
    pub fn line(&self) -> String {
        // A structure of strings and numbers always becomes JSON.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

impl From<Exit> for ExecEvent {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Code(code) => Self::Exited(Exited::Code(code)),
            Exit::Signal(signal) => Self::Exited(Exited::Signal(signal)),
            Exit::TimedOut => Self::TimedOut,
        }
    }
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Exited {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Some output of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Chunk {
    /// Text.
    Data(String),
    /// Bytes that are no UTF-8, in base64.
    Base64(String),
}

impl Chunk {
    fn of(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes)
            .map_or_else(|error| Self::Base64(STANDARD.encode(error.as_bytes())), Self::Data)
    }
}

/// Makes chunks of a stream of bytes: characters that were cut in two are put together.
#[derive(Debug, Default)]
pub struct Text {
    /// The beginning of a character, up to three bytes.
    tail: Vec<u8>,
}

impl Text {
    /// The chunk that `bytes` complete, if they do.
    pub fn push(&mut self, bytes: &[u8]) -> Option<Chunk> {
        let mut all = std::mem::take(&mut self.tail);
        all.extend_from_slice(bytes);
        if let Err(error) = std::str::from_utf8(&all)
            && error.error_len().is_none()
        {
            self.tail = all.split_off(error.valid_up_to());
        }
        (!all.is_empty()).then(|| Chunk::of(all))
    }

    /// What is left when the stream ends: half a character.
    pub fn finish(&mut self) -> Option<Chunk> {
        let tail = std::mem::take(&mut self.tail);
        (!tail.is_empty()).then(|| Chunk::of(tail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn chunks(bytes: &[u8], cuts: &[usize]) -> Vec<Chunk> {
        let mut text = Text::default();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut out: Vec<Chunk> =
            cuts.windows(2).filter_map(|cut| text.push(&bytes[cut[0]..cut[1]])).collect();
        out.extend(text.finish());
        out
    }

    fn bytes_of(chunks: &[Chunk]) -> Vec<u8> {
        let bytes = |chunk: &Chunk| match chunk {
            Chunk::Data(text) => text.clone().into_bytes(),
            Chunk::Base64(text) => STANDARD.decode(text).unwrap(),
        };
        chunks.iter().flat_map(bytes).collect()
    }

    proptest! {
        #[test]
        fn text_stays_text_wherever_it_is_cut(text: String, cuts: Vec<usize>) {
            let chunks = chunks(text.as_bytes(), &cuts);
            prop_assert!(chunks.iter().all(|chunk| matches!(chunk, Chunk::Data(_))));
            prop_assert_eq!(bytes_of(&chunks), text.as_bytes());
        }

        #[test]
        fn no_byte_is_lost(bytes: Vec<u8>, cuts: Vec<usize>) {
            prop_assert_eq!(bytes_of(&chunks(&bytes, &cuts)), bytes);
        }
    }

    #[test]
    fn events_look_as_they_are_described() {
        let json = |event: ExecEvent| serde_json::from_str::<serde_json::Value>(&event.line());
        let is = |event, value| assert_eq!(json(event).unwrap(), value);
        is(ExecEvent::Started { pid: 7 }, json!({"type": "started", "pid": 7}));
        is(ExecEvent::Stdout(Chunk::of(b"a".into())), json!({"type": "stdout", "data": "a"}));
        let bytes = Chunk::of(vec![0xff]);
        is(ExecEvent::Stderr(bytes), json!({"type": "stderr", "base64": "/w=="}));
        is(Exit::Code(3).into(), json!({"type": "exited", "code": 3}));
        is(Exit::Signal(9).into(), json!({"type": "exited", "signal": 9}));
        is(Exit::TimedOut.into(), json!({"type": "timed_out"}));
        let error = ExecEvent::Error { problem: Problem::conflict("no") };
        assert_eq!(json(error).unwrap()["problem"]["status"], 409);
    }

    #[test]
    fn controls_are_read_and_nonsense_is_refused() {
        let read = |text: &str| serde_json::from_str::<Control>(text).map(Control::check);
        let size = Terminal { rows: 3, columns: 4 };
        let resize = read(r#"{"type":"resize","rows":3,"columns":4}"#).unwrap().unwrap();
        assert_eq!(resize, Control::Resize(size));
        assert_eq!(read(r#"{"type":"end"}"#).unwrap().unwrap(), Control::End);
        assert!(read(r#"{"type":"signal","signal":15}"#).unwrap().is_ok());
        assert_eq!(
            read(r#"{"type":"signal","signal":0}"#).unwrap().unwrap_err().field.unwrap(),
            "signal"
        );
        assert!(read(r#"{"type":"kill"}"#).is_err());
    }

    #[test]
    fn a_program_must_make_sense_and_the_problem_names_the_field() {
        let read = |value: serde_json::Value| {
            let request: ExecRequest = super::super::parse(value.to_string().as_bytes())?;
            request.program()
        };
        let good = read(json!({"argv": ["a", ""], "timeout_s": 2, "stdin": "",
            "tty": {"rows": 1, "columns": 2}}))
        .unwrap();
        assert_eq!((good.timeout_ms, good.stdin), (Some(2000), true));
        assert!(!read(json!({"argv": ["a"]})).unwrap().stdin);
        for (field, wrong) in [
            ("argv", json!({"argv": []})),
            ("argv", json!({"argv": [""]})),
            ("argv", json!({"argv": ["a\0"]})),
            ("argv", json!({"argv": ["a", "x".repeat(MAX_WORDS)]})),
            ("env", json!({"argv": ["a"], "env": {"A=B": "c"}})),
            ("cwd", json!({"argv": ["a"], "cwd": "tmp"})),
            ("user", json!({"argv": ["a"], "user": ""})),
            ("timeout_s", json!({"argv": ["a"], "timeout_s": 0})),
            ("stdin", json!({"argv": ["a"], "stdin": "", "interactive": true})),
            ("tty.rows", json!({"argv": ["a"], "tty": {"rows": 70000, "columns": 1}})),
        ] {
            assert_eq!(read(wrong.clone()).unwrap_err().field.as_deref(), Some(field), "{wrong}");
        }
    }
}
