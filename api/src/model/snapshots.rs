//! Snapshots, as they go over the wire.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::problem::Problem;

/// Body of `POST /v1/sandboxes/{id}/snapshot`.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRequest {
    /// Name to clone it by.
    pub name: Option<String>,
    /// Whether the pages that the sandbox has used are recorded as the hot set.
    #[serde(default)]
    pub hot_set: bool,
    /// Whether it is written to a file, too, while the sandbox goes on: the snapshot then
    /// outlives the daemon.
    #[serde(default)]
    pub keep: bool,
}

/// A snapshot.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SnapshotAnswer {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: Option<String>,
    /// The sandbox it was taken of.
    pub sandbox: Option<String>,
    /// The image it goes back to.
    pub image: String,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Guest RAM.
    pub memory_mib: u64,
    /// Size of the layer over the base image.
    pub delta_bytes: u64,
    /// Pages of its hot set.
    pub hot_set_pages: u64,
    /// How long the sandbox stood still for it; null when an earlier daemon took it.
    pub pause_us: Option<f64>,
    /// When it was taken.
    pub created_at: String,
    /// Whether it is in a file.
    pub saved: Saved,
    /// How much of the file is written; null unless it is being written.
    pub progress: Option<Progress>,
    /// Why the file could not be written.
    pub reason: Option<String>,
}

/// Whether a snapshot is in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Saved {
    /// It is in memory, and goes with the daemon.
    No,
    /// The file is being written.
    Saving,
    /// It is in a file, too.
    Saved,
    /// The file could not be written; the snapshot is there all the same.
    Failed,
}

/// How much of something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Progress {
    /// Bytes done.
    pub bytes: u64,
    /// Of so many.
    pub of: u64,
}

/// The snapshots.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SnapshotList {
    /// In order of their making.
    pub snapshots: Vec<SnapshotAnswer>,
}

impl SnapshotRequest {
    /// Checks what can be checked without the registry.
    pub fn check(&self) -> Result<(), Problem> {
        let good = |name: &String| {
            let letters =
                name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
            let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
            name.len() <= 64 && first && letters && !crate::registry::is_id(name)
        };
        match &self.name {
            Some(name) if !good(name) => Err(Problem::value(
                "name",
                "a name is 1 to 64 letters, digits, '-', '_' or '.', begins with a letter or digit, and does not look like an id",
            )),
            _ => Ok(()),
        }
    }
}
