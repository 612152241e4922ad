//! A guest's files, as they go over the wire.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tine_abi::agent;
use utoipa::{IntoParams, ToSchema};

use crate::problem::Problem;
use crate::time::rfc3339;

/// Longest path, bytes: PATH_MAX of Linux, which counts a NUL.
const MAX_PATH: usize = 4095;
/// All the bits of a file's permissions.
const MAX_MODE: u32 = 0o7777;

/// Query of `GET /v1/sandboxes/{id}/files`.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ReadQuery {
    /// Absolute path.
    pub path: String,
    /// Whether to list the directory instead of reading the file.
    #[serde(default)]
    pub list: bool,
    /// Whether to describe the file instead of reading it.
    #[serde(default)]
    pub stat: bool,
}

/// Query of `PUT /v1/sandboxes/{id}/files`.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct WriteQuery {
    /// Absolute path.
    pub path: String,
    /// Permissions, octal; of a file that exists they stay by default.
    pub mode: Option<String>,
    /// Owner by name or number; root by default.
    pub owner: Option<String>,
    /// Whether missing directories above are made.
    #[serde(default)]
    pub parents: bool,
}

/// Query of `DELETE /v1/sandboxes/{id}/files`.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct RemoveQuery {
    /// Absolute path.
    pub path: String,
    /// Whether a directory goes with all in it.
    #[serde(default)]
    pub recursive: bool,
}

/// Body of `POST /v1/sandboxes/{id}/files/rename`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenameRequest {
    /// Absolute path.
    pub from: String,
    /// Absolute path.
    pub to: String,
}

/// Body of `POST /v1/sandboxes/{id}/files/mkdir`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MkdirRequest {
    /// Absolute path; the directories above are made, too.
    pub path: String,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Entry {
    /// Its name, without the directory.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// Size.
    pub bytes: u64,
    /// Permissions, octal.
    pub mode: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change.
    pub modified_at: String,
    /// Where a symbolic link points.
    pub target: Option<String>,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, socket or pipe.
    Other,
}

/// What is in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Listing {
    /// By name.
    pub entries: Vec<Entry>,
}

impl From<agent::Entry> for Entry {
    fn from(entry: agent::Entry) -> Self {
        // What changed before 1970 is said to have changed then.
        let modified = Duration::from_nanos(u64::try_from(entry.modified_ns).unwrap_or(0));
        Self {
            name: entry.name,
            kind: entry.kind.into(),
            bytes: entry.bytes,
            mode: format!("{:04o}", entry.mode & MAX_MODE),
            uid: entry.uid,
            gid: entry.gid,
            modified_at: rfc3339(SystemTime::UNIX_EPOCH + modified),
            target: entry.target,
        }
    }
}

impl From<agent::EntryKind> for EntryKind {
    fn from(kind: agent::EntryKind) -> Self {
        match kind {
            agent::EntryKind::File => Self::File,
            agent::EntryKind::Directory => Self::Directory,
            agent::EntryKind::Link => Self::Link,
            agent::EntryKind::Other => Self::Other,
        }
    }
}

/// Checks that `path`, in `field`, can be a path of the guest.
pub(super) fn check_path(field: &str, path: &str) -> Result<(), Problem> {
    if path.starts_with('/') && !path.contains('\0') && path.len() <= MAX_PATH {
        return Ok(());
    }
    let rule = format!("a path begins with '/', holds no NUL, and has at most {MAX_PATH} bytes");
    Err(Problem::value(field, rule))
}

impl ReadQuery {
    /// Checks what can be checked without the guest.
    pub fn check(&self) -> Result<(), Problem> {
        check_path("path", &self.path)?;
        match self.list && self.stat {
            true => Err(Problem::value("stat", "ask for list or stat, not both")),
            false => Ok(()),
        }
    }
}

impl WriteQuery {
    /// What the agent is asked to write.
    pub fn request(self) -> Result<agent::Request, Problem> {
        check_path("path", &self.path)?;
        let mode = self.mode.as_deref().map(read_mode).transpose()?;
        if self.owner.as_ref().is_some_and(|owner| owner.is_empty() || owner.contains('\0')) {
            return Err(Problem::value("owner", "an owner is a name or a number"));
        }
        let Self { path, owner, parents, .. } = self;
        Ok(agent::Request::Write { path, mode, owner, parents })
    }
}

fn read_mode(text: &str) -> Result<u32, Problem> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= MAX_MODE);
    mode.ok_or_else(|| Problem::value("mode", "a mode is octal, 0 to 7777"))
}

impl RemoveQuery {
    /// What the agent is asked to remove.
    pub fn request(self) -> Result<agent::Request, Problem> {
        check_path("path", &self.path)?;
        Ok(agent::Request::Remove { path: self.path, recursive: self.recursive })
    }
}

impl RenameRequest {
    /// What the agent is asked to rename.
    pub fn request(self) -> Result<agent::Request, Problem> {
        check_path("from", &self.from)?;
        check_path("to", &self.to)?;
        Ok(agent::Request::Rename { from: self.from, to: self.to })
    }
}

impl MkdirRequest {
    /// What the agent is asked to make.
    pub fn request(self) -> Result<agent::Request, Problem> {
        check_path("path", &self.path)?;
        Ok(agent::Request::MakeDirectory { path: self.path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute_and_problems_name_the_field() {
        assert!(check_path("path", "/").is_ok() && check_path("path", "/a b").is_ok());
        for wrong in ["", "a", "./a", "/a\0", &"/".repeat(MAX_PATH + 1)] {
            let problem = check_path("to", wrong).unwrap_err();
            assert_eq!((problem.status, problem.field.as_deref()), (422, Some("to")));
        }
        let rename = RenameRequest { from: "/a".into(), to: "b".into() };
        assert_eq!(rename.request().unwrap_err().field.as_deref(), Some("to"));
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(read_mode("0644").unwrap(), 0o644);
        assert_eq!(read_mode("7777").unwrap(), 0o7777);
        for wrong in ["", "8", "+7", "0o7", "17777", "rw"] {
            assert_eq!(read_mode(wrong).unwrap_err().field.as_deref(), Some("mode"), "{wrong}");
        }
    }

    #[test]
    fn an_entry_says_what_the_agent_said() {
        let entry = Entry::from(agent::Entry {
            name: "a".into(),
            kind: agent::EntryKind::Link,
            bytes: 3,
            mode: 0o120_777,
            uid: 1,
            gid: 2,
            modified_ns: -5,
            target: Some("b".into()),
        });
        assert_eq!((entry.mode.as_str(), entry.kind), ("0777", EntryKind::Link));
        assert_eq!(entry.modified_at, "1970-01-01T00:00:00.000Z");
    }
}
