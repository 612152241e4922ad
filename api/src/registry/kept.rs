//! Snapshots in files: written in the background by a process that holds what the sandbox was,
//! and there again for the next daemon.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tine_images::Store;

use super::snapshots::{Details, Stored};
use super::{Records, Registry, SnapshotRecord};
use crate::engine::FrozenVm;
use crate::model::{Progress, Saved};
use crate::problem::Problem;

/// Where a snapshot's file is on its way.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    stage: Mutex<Stage>,
    given_up: AtomicBool,
}

#[derive(Clone, Debug, Default)]
enum Stage {
    /// It is in memory only.
    #[default]
    Nowhere,
    /// So many bytes of so many are written.
    Written(u64, u64),
    /// It is at this place.
    Kept(PathBuf),
    /// It could not be written.
    Failed(String),
}

impl Keeping {
    /// One that is at `path`.
    pub(super) fn kept(path: PathBuf) -> Self {
        Self { stage: Mutex::new(Stage::Kept(path)), given_up: AtomicBool::new(false) }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the API says of it.
    pub(super) fn describe(&self) -> (Saved, Option<Progress>, Option<String>) {
        match &*self.stage() {
            Stage::Nowhere => (Saved::No, None, None),
            Stage::Written(bytes, of) => {
                (Saved::Saving, Some(Progress { bytes: *bytes, of: *of }), None)
            }
            Stage::Kept(_) => (Saved::Saved, None, None),
            Stage::Failed(reason) => (Saved::Failed, None, Some(reason.clone())),
        }
    }

    /// Has the writing end.
    pub(super) fn cancel(&self) {
        self.given_up.store(true, Ordering::SeqCst);
    }

    /// Has the writing end, and removes the file that is there.
    pub(super) fn give_up(&self) {
        self.cancel();
        if let Stage::Kept(path) = &*self.stage()
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(%error, path = %path.display(), "a snapshot file is left");
        }
    }
}

impl Registry {
    /// The directory of snapshot files.
    fn kept_directory(&self) -> Result<PathBuf, Problem> {
        let state = self.state.as_deref().ok_or_else(|| {
            Problem::value("keep", "the daemon keeps no state: it has no place for files")
        })?;
        Ok(state.join("snapshots"))
    }

    /// Where the file of snapshot `id` goes.
    pub(super) fn kept_path(&self, id: &str) -> Result<PathBuf, Problem> {
        let directory = self.kept_directory()?;
        fs::create_dir_all(&directory).map_err(|error| {
            Problem::internal(format!("{} can't be made: {error}", directory.display()))
        })?;
        Ok(directory.join(format!("{id}.tine")))
    }

    /// Writes the file of snapshot `id`, which is `stored`, from `frozen`, in the background.
    pub(super) fn keep(
        &self,
        id: String,
        stored: Arc<Stored>,
        mut frozen: FrozenVm,
        path: PathBuf,
    ) -> Result<(), Problem> {
        *stored.keeping.stage() = Stage::Written(0, stored.snapshot.about().ram_bytes);
        let records = self.records.clone();
        let work = move || {
            let keeping = &stored.keeping;
            let saved = frozen.save(&path, &mut |done, of| {
                *keeping.stage() = Stage::Written(done, of);
                !keeping.given_up.load(Ordering::SeqCst)
            });
            match saved {
                Ok(()) => kept(records.as_deref(), &id, &stored, path),
                Err(fault) => {
                    tracing::warn!(id, %fault, "a snapshot could not be written");
                    *keeping.stage() = Stage::Failed(fault.text);
                }
            }
        };
        let thread = std::thread::Builder::new().name("save".into()).spawn(work);
        thread.map(drop).map_err(|error| Problem::unavailable(format!("no thread: {error}")))
    }

    /// Opens the snapshots that earlier daemons have kept, and removes what they have not
    /// finished.
    pub fn reopen(&self) {
        let Ok(directory) = self.kept_directory() else { return };
        if let Err(error) = remove_unfinished(&directory) {
            tracing::warn!(%error, path = %directory.display(), "unfinished files may be left");
        }
        let records = match self.records.as_ref().map(|records| records.snapshots()) {
            Some(Ok(records)) => records,
            Some(Err(error)) => {
                tracing::warn!(%error, "the snapshots of earlier daemons are not known");
                return;
            }
            None => return,
        };
        for record in records {
            let id = record.id.clone();
            if let Err(problem) = self.reopen_one(record) {
                tracing::warn!(id, reason = problem.detail, "a kept snapshot can't be used");
            }
        }
    }

    fn reopen_one(&self, record: SnapshotRecord) -> Result<(), Problem> {
        let disks = self.disks_of(&record.image)?;
        let disks: Vec<&Path> = disks.iter().map(PathBuf::as_path).collect();
        let snapshot = self.engine.open(&record.path, &disks)?;
        let details = Details {
            name: record.name,
            sandbox: record.sandbox,
            image: record.image,
            pause: None,
            created_at: record.created_at,
        };
        self.store(record.id, details, snapshot, Keeping::kept(record.path)).map(drop)
    }

    /// The files below the disks of sandboxes of `image`.
    fn disks_of(&self, image: &str) -> Result<Vec<PathBuf>, Problem> {
        match &self.images {
            Some(store) if image != super::WORKLOAD => {
                let store = Store::open(store).map_err(crate::template::TemplateError::from)?;
                let image = store.get(image).map_err(crate::template::TemplateError::from)?;
                Ok(vec![image.rootfs])
            }
            _ => Ok(vec![]),
        }
    }
}

/// The file of snapshot `id` is at `path`.
fn kept(records: Option<&Records>, id: &str, stored: &Stored, path: PathBuf) {
    *stored.keeping.stage() = Stage::Kept(path.clone());
    // It may have been removed while the last of it was written.
    if stored.keeping.given_up.load(Ordering::SeqCst) {
        stored.keeping.give_up();
        return;
    }
    if let Some(records) = records {
        records.keep_snapshot(&stored.record(id, path));
    }
    tracing::info!(id, "the snapshot is in a file");
}

/// Removes files that a daemon that died has not finished.
fn remove_unfinished(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "unfinished") {
            fs::remove_file(&path)?;
            tracing::info!(path = %path.display(), "an unfinished snapshot file was removed");
        }
    }
    Ok(())
}
