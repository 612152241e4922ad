//! The audit log: who did what to which sandbox, one JSON object a line.
//!
//! It holds no tokens, no bodies, no labels, and of commands the program's name alone.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;
use thiserror::Error;

use crate::time::rfc3339;

/// The audit log can't be opened.
#[derive(Debug, Error)]
#[error("opening the audit log {path} failed")]
pub struct AuditError {
    /// The file.
    path: PathBuf,
    /// Why.
    #[source]
    source: io::Error,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// Sandboxes were asked for.
    Spawn,
    /// A sandbox was to be forked.
    Fork,
    /// A sandbox was to be killed.
    Kill,
    /// A sandbox was killed at its timeout.
    Expire,
    /// A snapshot was asked for.
    Snapshot,
    /// A sandbox was to be put back.
    Reset,
    /// A sandbox was to be paused.
    Pause,
    /// A sandbox was to go on.
    Resume,
    /// A program was to run.
    Exec,
    /// A file or directory was to be read.
    FileRead,
    /// A file or directory was to be changed.
    FileWrite,
    /// A sandbox ended with a daemon that died.
    Lost,
    /// The daemon began.
    Start,
    /// The daemon ended, and killed what still ran.
    Stop,
    /// A request was not let in, or there was no room for it.
    Refused,
}

/// A line of the log.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// When.
    pub time: String,
    /// What.
    pub event: Event,
    /// Id of the request, which its answer carries as `X-Request-Id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Who asked: an address, or `unix`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The sandbox that it was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// The sandbox that was forked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The sandboxes that were made, or killed at the stop.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sandboxes: Vec<String>,
    /// How many those are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// The program that was to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// Whether nothing was done, as the same request had its answer before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub replayed: bool,
    /// The answer's status; none if the client hung up before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<u16>,
    /// From the request to its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_us: Option<u64>,
}

impl Entry {
    /// Of `event`, now.
    pub fn new(event: Event) -> Self {
        Self {
            time: rfc3339(SystemTime::now()),
            event,
            request: None,
            peer: None,
            sandbox: None,
            parent: None,
            sandboxes: Vec::new(),
            count: None,
            program: None,
            replayed: false,
            outcome: None,
            duration_us: None,
        }
    }

    /// The same, about a sandbox.
    #[must_use]
    pub fn of(mut self, sandbox: impl Into<String>) -> Self {
        self.sandbox = Some(sandbox.into());
        self
    }
}

/// Where entries go: to the log of the daemon with target `audit`, and to a file if there is one.
#[derive(Clone, Debug, Default)]
pub struct Audit(Option<Arc<File>>);

impl Audit {
    /// To the file at `path`, for its owner only, after what is in it.
    pub fn open(path: Option<&Path>) -> Result<Self, AuditError> {
        let open = |path: &Path| {
            let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
            file.map_err(|source| AuditError { path: path.to_path_buf(), source })
        };
        Ok(Self(path.map(open).transpose()?.map(Arc::new)))
    }

    /// Writes `entry`.
    pub fn write(&self, entry: &Entry) {
        // An entry of strings and numbers always becomes JSON.
        let mut line = serde_json::to_string(entry).unwrap_or_default();
        tracing::info!(target: "audit", "{line}");
        line.push('\n');
        // In one piece: what others append stays apart from it.
        if let Some(file) = &self.0
            && let Err(error) = file.as_ref().write_all(line.as_bytes())
        {
            tracing::error!(%error, line, "the audit log can't be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn entries_are_appended_for_the_owner_only_and_say_no_more_than_they_know() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit");
        for _ in 0..2 {
            let audit = Audit::open(Some(&path)).unwrap();
            audit.write(&Entry { time: "t".into(), ..Entry::new(Event::FileRead).of("a\nb") });
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let line = r#"{"time":"t","event":"file_read","sandbox":"a\nb"}"#;
        assert_eq!(text, format!("{line}\n{line}\n"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = Audit::open(Some(directory.path())).unwrap_err();
        assert!(error.to_string().contains("audit log"), "{error}");
        Audit::open(None).unwrap().write(&Entry::new(Event::Start));
    }
}
