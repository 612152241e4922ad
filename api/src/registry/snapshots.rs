//! Snapshots: taken, named, found, forgotten.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::id::new_id;
use super::kept::Keeping;
use super::{Contents, Registry, SnapshotRecord};
use crate::engine::Held;
use crate::model::{SnapshotAnswer, SnapshotRequest};
use crate::problem::Problem;
use crate::time::rfc3339;

/// What is known of a snapshot.
#[derive(Debug)]
pub(super) struct Details {
    pub(super) name: Option<String>,
    pub(super) sandbox: Option<String>,
    pub(super) image: String,
    /// How long the sandbox stood still for it, where that is known.
    pub(super) pause: Option<Duration>,
    pub(super) created_at: String,
}

/// A snapshot and what is known of it.
#[derive(Debug)]
pub(super) struct Stored {
    number: u64,
    details: Details,
    pub(super) snapshot: Held,
    pub(super) keeping: Keeping,
}

impl Stored {
    fn describe(&self, id: &str) -> SnapshotAnswer {
        let about = self.snapshot.about();
        let Details { name, sandbox, image, pause, created_at } = &self.details;
        let (saved, progress, reason) = self.keeping.describe();
        SnapshotAnswer {
            id: id.to_owned(),
            name: name.clone(),
            sandbox: sandbox.clone(),
            image: image.clone(),
            vcpus: about.vcpus,
            memory_mib: about.ram_bytes >> 20,
            delta_bytes: about.delta_bytes,
            hot_set_pages: self.snapshot.hot_pages().unwrap_or(0),
            pause_us: pause.map(|pause| pause.as_nanos() as f64 / 1000.0),
            created_at: created_at.clone(),
            saved,
            progress,
            reason,
        }
    }

    /// The image that it goes back to.
    pub(super) fn image(&self) -> &str {
        &self.details.image
    }

    /// The record of its file at `path`.
    pub(super) fn record(&self, id: &str, path: PathBuf) -> SnapshotRecord {
        let about = self.snapshot.about();
        let Details { name, sandbox, image, created_at, .. } = &self.details;
        SnapshotRecord {
            id: id.to_owned(),
            name: name.clone(),
            path,
            image: image.clone(),
            sandbox: sandbox.clone(),
            vcpus: about.vcpus,
            memory_mib: about.ram_bytes >> 20,
            created_at: created_at.clone(),
        }
    }
}

impl Registry {
    /// Takes a snapshot of sandbox `id`, which goes on. When it is to be kept, its file is written
    /// in the background.
    pub fn take_snapshot(
        &self,
        id: &str,
        request: &SnapshotRequest,
    ) -> Result<SnapshotAnswer, Problem> {
        request.check()?;
        let sandbox = self.find(id)?;
        self.name_is_free(&self.contents(), request.name.as_deref())?;
        let snapshot_id = new_id()?;
        let path = match request.keep {
            true => Some(self.kept_path(&snapshot_id)?),
            false => None,
        };
        let hot_set = match request.hot_set {
            true => Some(sandbox.vm.hot_set()?),
            false => None,
        };
        let (mut frozen, pause) = self.engine.freeze(&sandbox.vm)?;
        let snapshot = frozen.snapshot()?;
        if let Some(hot_set) = hot_set {
            snapshot.set_hot_set(&hot_set)?;
        }
        self.metrics.paused(pause);
        let details = Details {
            name: request.name.clone(),
            sandbox: Some(id.to_owned()),
            image: sandbox.image.clone(),
            pause: Some(pause),
            created_at: rfc3339(SystemTime::now()),
        };
        let stored = self.store(snapshot_id.clone(), details, snapshot, Keeping::default())?;
        if let Some(path) = path {
            self.keep(snapshot_id.clone(), Arc::clone(&stored), frozen, path)?;
        }
        Ok(stored.describe(&snapshot_id))
    }

    /// Puts a snapshot into the registry, if its name is free.
    pub(super) fn store(
        &self,
        id: String,
        details: Details,
        snapshot: Held,
        keeping: Keeping,
    ) -> Result<Arc<Stored>, Problem> {
        let mut contents = self.contents();
        self.name_is_free(&contents, details.name.as_deref())?;
        contents.made += 1;
        let stored = Arc::new(Stored { number: contents.made, details, snapshot, keeping });
        contents.snapshots.insert(id, Arc::clone(&stored));
        Ok(stored)
    }

    fn name_is_free(&self, contents: &Contents, name: Option<&str>) -> Result<(), Problem> {
        if contents.snapshots.len() >= self.limits.snapshots {
            let most = self.limits.snapshots;
            return Err(Problem::unavailable(format!("{most} snapshots are kept; remove some")));
        }
        let taken = |stored: &Arc<Stored>| stored.details.name.as_deref() == name;
        match name {
            Some(name) if contents.snapshots.values().any(taken) => {
                Err(Problem::conflict(format!("a snapshot is named {name:?} already")).at("name"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn find_snapshot(&self, name: &str) -> Result<(String, Arc<Stored>), Problem> {
        let contents = self.contents();
        let by_name =
            |(_, stored): &(&String, &Arc<Stored>)| stored.details.name.as_deref() == Some(name);
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

    /// Forgets a snapshot, and removes its file, or stops writing it. Sandboxes spawned from it
    /// keep what they share.
    pub fn remove_snapshot(&self, name: &str) -> Result<(), Problem> {
        let (id, _) = self.find_snapshot(name)?;
        let removed = self.contents().snapshots.remove(&id);
        let removed = removed.ok_or_else(|| Problem::missing("snapshot", name))?;
        if let Some(records) = &self.records {
            records.forget_snapshot(&id);
        }
        removed.keeping.give_up();
        Ok(())
    }
}
