//! Snapshots: taken, named, found, forgotten.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::id::new_id;
use super::{Contents, Registry};
use crate::engine::Held;
use crate::model::{SnapshotAnswer, SnapshotRequest};
use crate::problem::Problem;
use crate::time::rfc3339;

/// A snapshot and what is known of it.
#[derive(Debug)]
pub(super) struct Stored {
    number: u64,
    name: Option<String>,
    sandbox: String,
    pub(super) image: String,
    pub(super) snapshot: Held,
    pause: Duration,
    created: SystemTime,
}

impl Stored {
    fn describe(&self, id: &str) -> SnapshotAnswer {
        let about = self.snapshot.about();
        SnapshotAnswer {
            id: id.to_owned(),
            name: self.name.clone(),
            sandbox: Some(self.sandbox.clone()),
            image: self.image.clone(),
            vcpus: about.vcpus,
            memory_mib: about.ram_bytes >> 20,
            delta_bytes: about.delta_bytes,
            hot_set_pages: self.snapshot.hot_pages().unwrap_or(0),
            pause_us: self.pause.as_nanos() as f64 / 1000.0,
            created_at: rfc3339(self.created),
        }
    }
}

impl Registry {
    /// Takes a snapshot of sandbox `id`, which goes on.
    pub fn take_snapshot(
        &self,
        id: &str,
        request: &SnapshotRequest,
    ) -> Result<SnapshotAnswer, Problem> {
        request.check()?;
        let sandbox = self.find(id)?;
        self.name_is_free(&self.contents(), request.name.as_deref())?;
        let hot_set = match request.hot_set {
            true => Some(sandbox.vm.hot_set()?),
            false => None,
        };
        let (snapshot, pause) = self.engine.snapshot(&sandbox.vm)?;
        if let Some(hot_set) = hot_set {
            snapshot.set_hot_set(&hot_set)?;
        }
        self.metrics.paused(pause);
        let snapshot_id = new_id()?;
        let mut contents = self.contents();
        self.name_is_free(&contents, request.name.as_deref())?;
        contents.made += 1;
        let stored = Arc::new(Stored {
            number: contents.made,
            name: request.name.clone(),
            sandbox: id.to_owned(),
            image: sandbox.image.clone(),
            snapshot,
            pause,
            created: SystemTime::now(),
        });
        contents.snapshots.insert(snapshot_id.clone(), Arc::clone(&stored));
        Ok(stored.describe(&snapshot_id))
    }

    fn name_is_free(&self, contents: &Contents, name: Option<&str>) -> Result<(), Problem> {
        if contents.snapshots.len() >= self.limits.snapshots {
            let most = self.limits.snapshots;
            return Err(Problem::unavailable(format!("{most} snapshots are kept; remove some")));
        }
        let taken = |stored: &Arc<Stored>| stored.name.as_deref() == name;
        match name {
            Some(name) if contents.snapshots.values().any(taken) => {
                Err(Problem::conflict(format!("a snapshot is named {name:?} already")).at("name"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn find_snapshot(&self, name: &str) -> Result<(String, Arc<Stored>), Problem> {
        let contents = self.contents();
        let by_name = |(_, stored): &(&String, &Arc<Stored>)| stored.name.as_deref() == Some(name);
        let found = contents
            .snapshots
            .get_key_value(name)
            .or_else(|| contents.snapshots.iter().find(by_name))
            .map(|(id, stored)| (id.clone(), Arc::clone(stored)));
        found.ok_or_else(|| Problem::missing("snapshot", name))
    }

    /// The snapshot with this id or name.
    pub fn snapshot(&self, name: &str) -> Result<SnapshotAnswer, Problem> {
        self.find_snapshot(name).map(|(id, stored)| stored.describe(&id))
    }

    /// All snapshots, in order of their making.
    pub fn snapshots(&self) -> Vec<SnapshotAnswer> {
        let mut all: Vec<_> = self
            .contents()
            .snapshots
            .iter()
            .map(|(id, stored)| (stored.number, stored.describe(id)))
            .collect();
        all.sort_by_key(|(number, _)| *number);
        all.into_iter().map(|(_, snapshot)| snapshot).collect()
    }

    /// Forgets a snapshot. Sandboxes spawned from it keep what they share.
    pub fn remove_snapshot(&self, name: &str) -> Result<(), Problem> {
        let (id, _) = self.find_snapshot(name)?;
        let removed = self.contents().snapshots.remove(&id);
        removed.map(drop).ok_or_else(|| Problem::missing("snapshot", name))
    }
}
