//! Programs in Linux guests: what is asked, and the events that answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tine_abi::agent::{AgentMessage, Exec, Exit, WindowSize};
use utoipa::ToSchema;

use crate::problem::Problem;

/// Longest timeout of a program, seconds: a day.
const MAX_TIMEOUT_S: f64 = 86_400.0;

/// Body of `POST /v1/sandboxes/{id}/exec`, and first message of its WebSocket.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Program and arguments. A name without a slash is looked for in `PATH`.
    pub argv: Vec<String>,
    /// Environment, over a minimal one.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory. Default: the user's home.
    pub cwd: Option<String>,
    /// User by name or number. Default: root.
    pub user: Option<String>,
    /// All that it reads from standard input.
    pub stdin: Option<String>,
    /// Whether standard input comes in messages; of a WebSocket only.
    #[serde(default)]
    pub interactive: bool,
    /// Seconds after which it is killed.
    pub timeout_s: Option<f64>,
    /// Runs it on a terminal of this size.
    pub tty: Option<TerminalSize>,
}

/// Size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TerminalSize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

impl From<TerminalSize> for WindowSize {
    fn from(TerminalSize { rows, columns }: TerminalSize) -> Self {
        Self { rows, columns }
    }
}

impl ExecRequest {
    /// What the agent is asked for.
    pub fn exec(&self) -> Result<Exec, Problem> {
        if self.argv.first().is_none_or(String::is_empty) {
            return Err(Problem::value("argv", "argv names a program and its arguments"));
        }
        let texts = self.argv.iter().chain(self.env.values()).chain(&self.cwd).chain(&self.user);
        if texts.chain(self.env.keys()).any(|text| text.contains('\0')) {
            return Err(Problem::value("argv", "no text of a request holds a zero byte"));
        }
        if self.interactive && self.stdin.is_some() {
            return Err(Problem::value("stdin", "an interactive program is sent its input"));
        }
        let timeout_ms = match self.timeout_s {
            Some(seconds) if seconds > 0.0 && seconds <= MAX_TIMEOUT_S => {
                Some((seconds * 1000.0).ceil() as u64)
            }
            Some(_) => {
                let detail =
                    format!("a timeout is more than 0 and at most {MAX_TIMEOUT_S} seconds");
                return Err(Problem::value("timeout_s", detail));
            }
            None => None,
        };
        Ok(Exec {
            argv: self.argv.clone(),
            env: self.env.clone(),
            cwd: self.cwd.clone(),
            user: self.user.clone(),
            stdin: self.interactive || self.stdin.is_some(),
            terminal: self.tty.map(WindowSize::from),
            timeout_ms,
        })
    }
}

/// What a client of a WebSocket says beside input, which is binary.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ExecControl {
    /// The terminal has another size.
    Resize {
        /// Rows.
        rows: u16,
        /// Columns.
        columns: u16,
    },
    /// Send the program this signal.
    Signal {
        /// Its number.
        signal: i32,
    },
    /// No more input comes.
    End,
}

/// What happens to a program: a line of the stream, or a text message of a WebSocket.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ExecEvent {
    /// It runs.
    Started {
        /// Its process id in the guest.
        pid: u32,
    },
    /// It wrote to standard output.
    Stdout(Output),
    /// It wrote to standard error.
    Stderr(Output),
    /// It ended by itself, with `code`, or by `signal`.
    Exited {
        /// Its exit code.
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<i32>,
        /// The signal that ended it.
        #[serde(skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
    },
    /// It was killed when its time was up.
    TimedOut,
    /// It is not known how it goes on.
    Error {
        /// Why.
        detail: String,
    },
}

/// Bytes: text where they are UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// As text.
    Data(String),
    /// In base64, where they are no UTF-8.
    Base64(String),
}

impl ExecEvent {
    /// The event that ends a program's stream.
    pub fn of_exit(exit: Exit) -> Self {
        match exit {
            Exit::Code(code) => Self::Exited { code: Some(code), signal: None },
            Exit::Signal(signal) => Self::Exited { code: None, signal: Some(signal) },
            Exit::TimedOut => Self::TimedOut,
        }
    }

    /// The message that the agent sent, for who hears of it by events; none for an error.
    pub fn message(self) -> Option<AgentMessage> {
        Some(match self {
            Self::Started { pid } => AgentMessage::Started { pid },
            Self::Exited { code: Some(code), .. } => AgentMessage::Exited(Exit::Code(code)),
            Self::Exited { signal: Some(signal), .. } => AgentMessage::Exited(Exit::Signal(signal)),
            Self::TimedOut => AgentMessage::Exited(Exit::TimedOut),
            _ => return None,
        })
    }
}

/// Turns the bytes of one stream into text, whose characters may be cut anywhere.
#[derive(Debug, Default)]
pub struct Text {
    /// The beginning of a character whose end has not come.
    tail: Vec<u8>,
}

impl Text {
    /// The next bytes; none when all that came is the beginning of a character.
    pub fn push(&mut self, bytes: &[u8]) -> Option<Output> {
        self.tail.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.tail) {
            Ok(text) => text.len(),
            // No length: it may go on to be one.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => return Some(Output::Base64(base64(&std::mem::take(&mut self.tail)))),
        };
        let rest = self.tail.split_off(whole);
        let text = std::mem::replace(&mut self.tail, rest);
        if text.is_empty() {
            return None;
        }
        // Checked above.
        Some(Output::Data(String::from_utf8_lossy(&text).into_owned()))
    }

    /// What was left when the stream ended.
    pub fn finish(&mut self) -> Option<Output> {
        let tail = std::mem::take(&mut self.tail);
        (!tail.is_empty()).then(|| Output::Base64(base64(&tail)))
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use proptest::prelude::*;

    fn bytes(output: &Output) -> Vec<u8> {
        match output {
            Output::Data(text) => text.as_bytes().to_vec(),
            Output::Base64(text) => base64::engine::general_purpose::STANDARD.decode(text).unwrap(),
        }
    }

    proptest! {
        #[test]
        fn text_cut_anywhere_stays_text(text: String, cuts in prop::collection::vec(1usize..9, 0..50)) {
            let mut rest = text.as_bytes();
            let mut whole = String::new();
            let mut reader = Text::default();
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                match reader.push(piece) {
                    Some(Output::Data(data)) => whole += &data,
                    Some(Output::Base64(_)) => prop_assert!(false, "it is text"),
                    None => {}
                }
                rest = after;
            }
            prop_assert_eq!(whole, text);
            prop_assert_eq!(reader.finish(), None);
        }

        #[test]
        fn no_byte_is_lost(pieces: Vec<Vec<u8>>) {
            let mut reader = Text::default();
            let mut events: Vec<Output> =
                pieces.iter().filter_map(|piece| reader.push(piece)).collect();
            events.extend(reader.finish());
            let out: Vec<u8> = events.iter().flat_map(bytes).collect();
            prop_assert_eq!(out, pieces.concat());
        }
    }

    #[test]
    fn requests_that_contradict_themselves_are_refused() {
        let request = |text: &str| crate::model::parse::<ExecRequest>(text.as_bytes());
        let exec = |text: &str| request(text).unwrap().exec();
        assert!(exec(r#"{"argv":["true"],"timeout_s":0.5}"#).unwrap().timeout_ms == Some(500));
        for (text, field) in [
            (r#"{"argv":[]}"#, "argv"),
            (r#"{"argv":["a\u0000b"]}"#, "argv"),
            (r#"{"argv":["cat"],"stdin":"x","interactive":true}"#, "stdin"),
            (r#"{"argv":["cat"],"timeout_s":0}"#, "timeout_s"),
        ] {
            assert_eq!(exec(text).unwrap_err().field.as_deref(), Some(field), "{text}");
        }
        assert!(request(r#"{"argv":["a"],"shell":true}"#).is_err());
    }

    #[test]
    fn events_look_as_they_are_documented() {
        let json = |event: &ExecEvent| serde_json::to_string(event).unwrap();
        let output = ExecEvent::Stdout(Output::Data("hi\n".into()));
        assert_eq!(json(&output), r#"{"type":"stdout","data":"hi\n"}"#);
        assert_eq!(json(&ExecEvent::of_exit(Exit::Code(3))), r#"{"type":"exited","code":3}"#);
        assert_eq!(json(&ExecEvent::of_exit(Exit::Signal(9))), r#"{"type":"exited","signal":9}"#);
        assert_eq!(json(&ExecEvent::TimedOut), r#"{"type":"timed_out"}"#);
    }
}
