//! Files in Linux guests.

use serde::{Deserialize, Serialize};
use tine_abi::agent::{Entry, EntryKind};
use utoipa::{IntoParams, ToSchema};

use crate::problem::Problem;

/// Query of `GET /v1/sandboxes/{id}/files`.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReadQuery {
    /// Absolute path.
    pub path: String,
    /// First byte to read.
    #[serde(default)]
    pub offset: u64,
    /// Most bytes to read; all when absent.
    pub length: Option<u64>,
    /// Answer with what is in the directory, as JSON.
    #[serde(default)]
    pub list: bool,
    /// Answer with what is known of the file, as JSON.
    #[serde(default)]
    pub stat: bool,
}

/// Query of `PUT /v1/sandboxes/{id}/files`.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WriteQuery {
    /// Absolute path.
    pub path: String,
    /// Permissions in octal, as `0644`; of a file that exists they stay when absent.
    pub mode: Option<String>,
    /// Owner by name or number.
    pub owner: Option<String>,
    /// Whether missing directories above are made.
    #[serde(default)]
    pub parents: bool,
}

/// Query of `DELETE /v1/sandboxes/{id}/files`.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
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
pub struct MakeDirectoryRequest {
    /// Absolute path; missing directories above are made too.
    pub path: String,
}

/// What is in a directory.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FileList {
    /// By name.
    pub entries: Vec<FileAnswer>,
}

/// A file.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FileAnswer {
    /// Its name, without the directory.
    pub name: String,
    /// `file`, `directory`, `link` or `other`.
    pub kind: &'static str,
    /// Size.
    pub bytes: u64,
    /// Permissions, in octal.
    pub mode: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change, nanoseconds since 1970.
    pub modified_ns: i64,
    /// Where a symbolic link points.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl From<Entry> for FileAnswer {
    fn from(entry: Entry) -> Self {
        Self {
            name: entry.name,
            kind: match entry.kind {
                EntryKind::File => "file",
                EntryKind::Directory => "directory",
                EntryKind::Link => "link",
                EntryKind::Other => "other",
            },
            bytes: entry.bytes,
            mode: format!("{:04o}", entry.mode & 0o7777),
            uid: entry.uid,
            gid: entry.gid,
            modified_ns: entry.modified_ns,
            target: entry.target,
        }
    }
}

/// `path`, given in `field`, if it is one that a guest can have.
pub fn absolute(field: &str, path: String) -> Result<String, Problem> {
    match path.starts_with('/') && !path.contains('\0') {
        true => Ok(path),
        false => Err(Problem::value(field, "a path begins with a slash and holds no zero byte")),
    }
}

impl WriteQuery {
    /// The permissions as a number.
    pub fn permissions(&self) -> Result<Option<u32>, Problem> {
        let Some(text) = &self.mode else { return Ok(None) };
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
        let detail = || "permissions are octal digits, as 0644";
        mode.map(Some).ok_or_else(|| Problem::value("mode", detail()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_permissions_are_checked() {
        assert!(absolute("path", "/etc/passwd".into()).is_ok());
        for path in ["", "etc", "/a\0b"] {
            let refused = absolute("from", path.into()).unwrap_err();
            assert_eq!(refused.field.as_deref(), Some("from"));
        }
        let write = |mode: Option<&str>| WriteQuery {
            path: "/a".into(),
            mode: mode.map(str::to_owned),
            owner: None,
            parents: false,
        };
        assert_eq!(write(Some("0750")).permissions().unwrap(), Some(0o750));
        assert_eq!(write(None).permissions().unwrap(), None);
        assert!(write(Some("rwx")).permissions().is_err());
        assert!(write(Some("77777")).permissions().is_err());
    }
}
