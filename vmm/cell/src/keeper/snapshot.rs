//! A snapshot that the daemon holds, as descriptors alone.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::protocol::About;

/// A snapshot, by the files that hold it; none of them is mapped here.
#[derive(Debug)]
pub struct CellSnapshot {
    /// Tells snapshots apart.
    pub(super) number: u64,
    files: Vec<OwnedFd>,
    /// What it is.
    pub about: About,
    hot_set: Mutex<Option<HotSetFile>>,
}

/// Pages that clones are known to write soon, in a file.
#[derive(Clone, Debug)]
struct HotSetFile {
    file: Arc<File>,
    pages: u64,
}

impl CellSnapshot {
    /// The snapshot that lies in `files`.
    pub fn new(files: Vec<OwnedFd>, about: About) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { number, files, about, hot_set: Mutex::default() }
    }

    fn hot(&self) -> MutexGuard<'_, Option<HotSetFile>> {
        self.hot_set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives it a hot set of `pages` pages.
    pub fn set_hot_set(&self, file: File, pages: u64) {
        *self.hot() = Some(HotSetFile { file: Arc::new(file), pages });
    }

    /// How many pages its hot set has; none without one.
    pub fn hot_pages(&self) -> Option<u64> {
        self.hot().as_ref().map(|hot| hot.pages)
    }

    pub(super) fn hot_file(&self) -> Option<Arc<File>> {
        self.hot().as_ref().map(|hot| Arc::clone(&hot.file))
    }

    pub(super) fn files(&self) -> Vec<BorrowedFd<'_>> {
        self.files.iter().map(AsFd::as_fd).collect()
    }
}
