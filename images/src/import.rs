//! Root file systems that somebody else made.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::file;
use crate::program::run;
use crate::{ImageError, rootfs, unpack};

/// A directory or an archive.
pub struct Source {
    path: PathBuf,
    is_directory: bool,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "import of {}", self.path.display())
    }
}

impl Source {
    /// What is at `path`.
    pub fn find(path: &Path) -> Result<Self, ImageError> {
        let data = fs::metadata(path).map_err(file("reading", path))?;
        Ok(Self { path: path.to_path_buf(), is_directory: data.is_dir() })
    }

    /// Copies it to `tree`, and adds what every root file system has. Returns `tree`.
    pub fn put_into(&self, tree: &Path) -> Result<PathBuf, ImageError> {
        if self.is_directory {
            // With owners, times, links and devices as they are.
            run(Command::new("cp").arg("-a").arg(&self.path).arg(tree), "coreutils")?;
        } else {
            fs::create_dir(tree).map_err(file("making", tree))?;
            let mut archive = File::open(&self.path).map_err(file("reading", &self.path))?;
            unpack::tar(&mut archive, &self.path, tree)?;
        }
        rootfs::skeleton(tree)?;
        Ok(tree.to_path_buf())
    }
}
