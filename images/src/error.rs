//! What can go wrong with images.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why an image could not be made, found or removed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The store has none of this name.
    #[error("there is no image `{name}`: {hint}")]
    NotFound {
        /// The name.
        name: String,
        /// What makes one.
        hint: String,
    },
    /// No recipe has this name.
    #[error("there is no recipe `{name}`: known are {known}")]
    NoRecipe {
        /// The name.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// A name that is no name.
    #[error("`{name}` can't name an image: {reason}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is nowhere to keep images.
    #[error("images have no place: set TINE_IMAGES, XDG_CACHE_HOME or HOME")]
    NoHome,
    /// A recipe of this crate that can't be read.
    #[error("recipe `{name}` can't be read")]
    Recipe {
        /// Its name.
        name: String,
        /// Where it is wrong.
        source: toml::de::Error,
    },
    /// A manifest that is not one, or not of this version.
    #[error("{path} can't be read: remove it, and build the image again")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Where it is wrong.
        source: serde_json::Error,
    },
    /// A manifest of another version of tine.
    #[error("{path} has version {found}, this tine reads {known}: build the image again")]
    ManifestVersion {
        /// The manifest.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version that is understood.
        known: u32,
    },
    /// A file of an image is gone.
    #[error("image `{name}` lacks {path}: build it again")]
    Incomplete {
        /// The image.
        name: String,
        /// What should be there.
        path: PathBuf,
    },
    /// A program that a build needs is not on this host.
    #[error("`{tool}` is not installed: apt-get install {package}")]
    NoTool {
        /// The program.
        tool: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A program that a build needs failed.
    #[error("`{tool}` failed ({status}): {stderr}")]
    Tool {
        /// The program.
        tool: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The last of what it said.
        stderr: String,
    },
    /// A root file system that only root can make here.
    #[error("this host lets only root make this root file system: {stderr}")]
    NotRoot {
        /// What the program that tried said last.
        stderr: String,
    },
    /// A package that apt does not give.
    #[error("package {package} can't be had: {reason} (is the network there? apt-get update?)")]
    Package {
        /// The package, or several.
        package: String,
        /// What apt said, or what is wrong with what it gave.
        reason: String,
    },
    /// The file system is full.
    #[error("no space is left for {path}: make room, or set TINE_IMAGES to a place that has it")]
    NoSpace {
        /// What could not be written.
        path: PathBuf,
    },
    /// A kernel that can't be used.
    #[error("kernel {path} can't be used: {reason}")]
    Kernel {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A kernel module that can't be used.
    #[error("module `{module}` can't be used: {reason}")]
    Module {
        /// Its name.
        module: String,
        /// Why not.
        reason: String,
    },
    /// An archive with something that may not be unpacked.
    #[error("archive {archive} can't be unpacked: {reason}")]
    Archive {
        /// The archive.
        archive: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system refused.
    #[error("can't {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Turns the failure of `action` on `path` into an error; a full file system has its own.
pub(crate) fn io_error<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> ImageError + 'a {
    move |source| {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                ImageError::NoSpace { path }
            }
            _ => ImageError::Io { action, path, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named() {
        let full = io::Error::from_raw_os_error(28);
        let error = io_error("write", Path::new("/images/blob"))(full);
        assert!(matches!(&error, ImageError::NoSpace { .. }), "{error}");
        assert!(error.to_string().contains("/images/blob"));
    }
}
