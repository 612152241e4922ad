//! What can go wrong with images.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// What can go wrong with images.
#[derive(Debug, Error)]
pub enum ImageError {
    /// There is no such image.
    #[error("there is no image {0:?}; `tine image ls` lists them, `tine image build` makes them")]
    NotFound(String),
    /// There is no such recipe.
    #[error("there is no recipe {name:?}; there are {known}")]
    NoRecipe {
        /// The name asked for.
        name: String,
        /// Those there are.
        known: String,
    },
    /// A name that can't be one.
    #[error("{0:?} is no name for an image: a to z, 0 to 9, and dashes inside, up to 40")]
    Name(String),
    /// A file of the store, or on the way there, failed.
    #[error("{action} {path} failed{}", hint(source))]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program that is needed is not installed.
    #[error("{program} is missing; install it: apt-get install {package}")]
    Missing {
        /// The program.
        program: String,
        /// Debian's package with it.
        package: &'static str,
    },
    /// A program failed.
    #[error("{program} failed: {said}")]
    Program {
        /// The program and what it was to do.
        program: String,
        /// What it said.
        said: String,
    },
    /// A package can't be had.
    #[error("package {package} can't be had: {said}; try apt-get update, or another network")]
    Package {
        /// The package.
        package: String,
        /// What apt said.
        said: String,
    },
    /// A kernel is none, or packed in an unknown way.
    #[error("{path} is no kernel that tine can unpack: {reason}")]
    Kernel {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A recipe or manifest can't be read.
    #[error("{path} makes no sense: {reason}")]
    Text {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// An archive holds what it must not.
    #[error("the archive {path} holds {entry}, which leads out of it")]
    Escape {
        /// The archive.
        path: PathBuf,
        /// The entry.
        entry: String,
    },
}

/// What to do about an error that is not the program's.
fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull => ": the disk is full; make room, or name another --store",
        io::ErrorKind::PermissionDenied => ": run as root, or name a --store of your own",
        _ => "",
    }
}

/// Turns an I/O error into one that says what was done to `path`.
pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.to_path_buf();
    move |source| ImageError::File { action, path, source }
}
