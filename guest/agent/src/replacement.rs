//! A file that appears whole, or not at all.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::unistd::{Gid, Uid};
use tine_abi::agent::Failure;

use crate::failure::{on_file, os};

/// Permissions of a new file.
const MODE: u32 = 0o644;

/// What will be the file, under another name in its directory. Dropped, it is removed.
pub struct Replacement {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
}

impl Replacement {
    /// Starts to replace the file at `path`, or the one that a link there leads to. It will
    /// have the permissions `mode`; without, those of the file there.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is no such directory; `Os` when nothing can be written there.
    pub fn new(path: &str, mode: Option<u32>, owner: Option<(Uid, Gid)>) -> Result<Self, Failure> {
        let failed = |error| on_file("writing", path, error);
        let mut target = PathBuf::from(path);
        let mut permissions = mode.unwrap_or(MODE);
        match fs::canonicalize(path) {
            Ok(existing) => {
                let metadata = fs::metadata(&existing).map_err(failed)?;
                if metadata.is_dir() {
                    return Err(os(format!("writing {path}"), nix::Error::EISDIR));
                }
                target = existing;
                permissions = mode.unwrap_or(metadata.permissions().mode() & 0o7777);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let temporary = temporary_beside(&target);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(failed)?;
        let replacement = Self { file, temporary, path: target };
        // In this order: a change of owner takes set-user-id away.
        if let Some((uid, gid)) = owner {
            fchown(&replacement.file, Some(uid.as_raw()), Some(gid.as_raw())).map_err(failed)?;
        }
        replacement.file.set_permissions(Permissions::from_mode(permissions)).map_err(failed)?;
        Ok(replacement)
    }

    /// Adds bytes to it.
    ///
    /// # Errors
    ///
    /// `Os` when the disk is full or broken.
    pub fn write(&mut self, data: &[u8]) -> Result<(), Failure> {
        self.file.write_all(data).map_err(|error| self.failed(error))
    }

    /// Puts it in its place.
    ///
    /// # Errors
    ///
    /// `Os` when the kernel refuses.
    pub fn commit(mut self) -> Result<(), Failure> {
        fs::rename(&self.temporary, &self.path).map_err(|error| self.failed(error))?;
        self.temporary.clear();
        Ok(())
    }

    fn failed(&self, error: io::Error) -> Failure {
        os(format!("writing {}", self.path.display()), error)
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.temporary.as_os_str().is_empty() {
            // Whoever removed it before us did what we want.
            let _gone = fs::remove_file(&self.temporary);
        }
    }
}

/// A name of its own, in the directory of `path`: a rename does not leave a file system.
fn temporary_beside(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".tine-{}-{number}", std::process::id()))
}
