//! Templates of Linux images: an image boots once in each shape; its snapshot is kept as a
//! file in the image store, and everything after that is forked from it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tine_cell::Fault;
use tine_images::{Image, ImageError, Store};
use tine_vmm::boot::linux::{BootFile, COMMAND_LINE, Kernel};
use tine_vmm::devices::ConsoleSink;
use tine_vmm::devices::disk::{Disk, DiskError};
use tine_vmm::memory::ImageKind;
use tine_vmm::snapshot::{SnapshotFileError, Verify, file};
use tine_vmm::{KvmHost, LinuxConfig, Machine, MachineError, Snapshot};
use xxhash_rust::xxh3::Xxh3;

/// How long a kernel and its agent may take to come up.
pub const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// vCPUs and memory of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Number of vCPUs.
    pub vcpus: u8,
    /// RAM, MiB.
    pub memory_mib: u64,
}

/// What can go wrong on the way to a template.
#[derive(Debug, Error)]
pub enum TemplateError {
    /// There is no such image, or it is damaged.
    #[error("the image")]
    Image(#[from] ImageError),
    /// Its root file system can't be used.
    #[error("the image's root file system")]
    Disk(#[from] DiskError),
    /// It did not boot.
    #[error("booting {image}")]
    Boot {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: Box<MachineError>,
    },
    /// It did not boot in a cell.
    #[error("booting {image} in a cell")]
    Cell {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: Fault,
    },
    /// The snapshot could not be kept.
    #[error("keeping the snapshot of {image}")]
    Keep {
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: Box<SnapshotFileError>,
    },
    /// A file of the store could not be made or locked.
    #[error("{action} {path} failed")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Turns an I/O error into one that says what was done to `path`.
fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TemplateError {
    let path = path.to_path_buf();
    move |source| TemplateError::File { action, path, source }
}

/// A template, and how it was had.
#[derive(Debug)]
pub struct Template {
    /// What sandboxes are spawned from.
    pub snapshot: Snapshot,
    /// How long the image took to boot, when it had to.
    pub boot: Option<Duration>,
}

/// The template of image `name` in `shape`. It boots here when nobody has booted it before,
/// its console going to `console`; whoever asks meanwhile, in whatever process, waits.
pub fn get(
    host: &Arc<KvmHost>,
    store: &Store,
    name: &str,
    shape: Shape,
    console: ConsoleSink,
) -> Result<Template, TemplateError> {
    let boot_and_keep = |path: &Path, image: &Image| {
        let snapshot = boot(host, image, shape, console)?;
        snapshot.save(path).map_err(|error| TemplateError::Keep {
            image: image.name.clone(),
            source: Box::new(error),
        })?;
        Ok(snapshot)
    };
    let (snapshot, boot) = get_by(store, name, shape, |path, _| open(host, path), boot_and_keep)?;
    Ok(Template { snapshot, boot })
}

/// The same for whoever holds snapshots in another way: `open` is given the path of a kept one,
/// which may not be there; `boot` is given the path to keep one at.
pub fn get_by<S>(
    store: &Store,
    name: &str,
    shape: Shape,
    open: impl Fn(&Path, &Image) -> Option<S>,
    boot: impl FnOnce(&Path, &Image) -> Result<S, TemplateError>,
) -> Result<(S, Option<Duration>), TemplateError> {
    let image = store.get(name)?;
    let path = place(store, &image, shape)?;
    // A kept snapshot appears whole or not at all: no lock for the many who find it.
    if path.exists()
        && let Some(snapshot) = open(&path, &image)
    {
        return Ok((snapshot, None));
    }
    let _lock = lock(&path)?;
    if path.exists()
        && let Some(snapshot) = open(&path, &image)
    {
        return Ok((snapshot, None));
    }
    let begun = Instant::now();
    let snapshot = boot(&path, &image)?;
    let took = begun.elapsed();
    // Those of an earlier image of that name, or of another tine, are of no use any more.
    remove(store, |file| file.starts_with(&prefix(name, shape)) && *file != file_name(&path))?;
    Ok((snapshot, Some(took)))
}

/// Removes the snapshots of image `name`, which is gone. Sandboxes that use them go on.
pub fn forget(store: &Store, name: &str) -> Result<(), TemplateError> {
    // A name may begin another: after it comes the number of vCPUs.
    remove(store, |file| {
        let rest = file.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
        rest.is_some_and(|rest| rest.starts_with(|letter: char| letter.is_ascii_digit()))
    })
}

/// Removes the kept files whose name is `unwanted`.
fn remove(store: &Store, unwanted: impl Fn(&str) -> bool) -> Result<(), TemplateError> {
    let directory = directory(store);
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed("reading", &directory))?,
    };
    for entry in entries {
        let path = entry.map_err(failed("reading", &directory))?.path();
        let is_kept = path.extension().is_some_and(|extension| extension == "tine");
        if is_kept && unwanted(&file_name(&path)) {
            fs::remove_file(&path).map_err(failed("removing", &path))?;
        }
    }
    Ok(())
}

fn directory(store: &Store) -> PathBuf {
    store.path().join("snapshots")
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// How the names of all snapshots of an image in a shape begin.
fn prefix(image: &str, Shape { vcpus, memory_mib }: Shape) -> String {
    format!("{image}-{vcpus}x{memory_mib}-")
}

/// Where the snapshot is kept: a name that says all that it depends on but for the processor,
/// which is checked when it is opened.
fn place(store: &Store, image: &Image, shape: Shape) -> Result<PathBuf, TemplateError> {
    let directory = directory(store);
    fs::create_dir_all(&directory).map_err(failed("making", &directory))?;
    let mut hasher = Xxh3::new();
    hasher.update(image.digest.as_bytes());
    hasher.update(COMMAND_LINE.as_bytes());
    hasher.update(&file::VERSION.to_le_bytes());
    let name = format!("{}{:016x}.tine", prefix(&image.name, shape), hasher.digest());
    Ok(directory.join(name))
}

/// The snapshot that is kept at `path`, if there is one that can be used.
fn open(host: &KvmHost, path: &Path) -> Option<Snapshot> {
    // Only its own user writes there, and it is as large as the guest: not all of it is read.
    match Snapshot::open(path, host, Verify::Header) {
        Ok(snapshot) => Some(snapshot),
        Err(SnapshotFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            None
        }
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "a kept snapshot is made anew");
            None
        }
    }
}

/// Waits for whoever makes the snapshot at `path`.
fn lock(path: &Path) -> Result<File, TemplateError> {
    let path = path.with_extension("lock");
    let locked = File::create(&path).and_then(|file| file.lock().map(|()| file));
    locked.map_err(failed("locking", &path))
}

fn boot(
    host: &Arc<KvmHost>,
    image: &Image,
    shape: Shape,
    console: ConsoleSink,
) -> Result<Snapshot, TemplateError> {
    let unbootable = |source: MachineError| TemplateError::Boot {
        image: image.name.clone(),
        source: Box::new(source),
    };
    let open = |path: &Path| BootFile::open(path).map_err(|error| unbootable(error.into()));
    let config = LinuxConfig {
        ram_bytes: shape.memory_mib.saturating_mul(1 << 20),
        vcpus: shape.vcpus,
        image: ImageKind::Small,
        kernel: Kernel {
            image: open(&image.kernel)?,
            initramfs: open(&image.initramfs)?,
            command_line: COMMAND_LINE.to_owned(),
        },
        disks: vec![Disk::read_only(&image.rootfs)?],
    };
    let booted = Machine::boot_linux(host, config, console).and_then(|machine| {
        machine.wait_ready(BOOT_LIMIT)?;
        machine.snapshot()
    });
    let (snapshot, _) = booted.map_err(unbootable)?;
    Ok(snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_go_with_their_image_alone() {
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(place.path()).unwrap();
        forget(&store, "base").unwrap();
        let kept = directory(&store);
        fs::create_dir(&kept).unwrap();
        for name in ["base-1x256-aa.tine", "base-2x512-bb.tine", "base-large-1x256-cc.tine"] {
            fs::write(kept.join(name), "").unwrap();
        }
        fs::write(kept.join("base-1x256-aa.lock"), "").unwrap();
        forget(&store, "base").unwrap();
        assert!(!kept.join("base-1x256-aa.tine").exists());
        assert!(!kept.join("base-2x512-bb.tine").exists());
        assert!(kept.join("base-large-1x256-cc.tine").exists());
    }
}
