//! Where images are kept: files by their content, manifests by name.
//!
//! ```text
//! blobs/SHA256      kernels, initramfses and root file systems
//! images/NAME.json  manifests
//! packages/         Debian's packages, and which of them are the newest known
//! tmp/              what builds work on; nothing in it outlives the next build
//! lock              held by who changes the store
//! ```
//!
//! Whatever appears outside `tmp` appears whole, by renaming.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::digest;
use crate::error::{ImageError, io_error};
use crate::manifest::{self, Manifest};
use crate::recipe::Recipe;

/// The directory that holds images.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

/// What a guest is booted from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// The kernel: a vmlinux, or a bzImage if one was imported.
    pub kernel: PathBuf,
    /// The initramfs, with the agent as `/init`.
    pub initramfs: PathBuf,
    /// The root file system, an EROFS.
    pub rootfs: PathBuf,
    /// The SHA-256 of the digests of kernel, initramfs and root file system, in hexadecimal.
    pub digest: String,
}

/// The right to change the store, until dropped; and a place to work in, gone then.
pub(crate) struct Work {
    directory: TempDir,
    _lock: File,
}

impl Store {
    /// Where images are unless told otherwise: `$TINE_IMAGES`, else `tine/images` in the
    /// user's cache.
    ///
    /// # Errors
    /// [`ImageError::NoHome`] if the environment names no such place.
    pub fn default_path() -> Result<PathBuf, ImageError> {
        let directory = |name: &str| {
            std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
        };
        directory("TINE_IMAGES")
            .or_else(|| directory("XDG_CACHE_HOME").map(|cache| cache.join("tine/images")))
            .or_else(|| directory("HOME").map(|home| home.join(".cache/tine/images")))
            .ok_or(ImageError::NoHome)
    }

    /// The store in the directory `path`, which is made if there is none.
    ///
    /// # Errors
    /// If the directory can't be made.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, ImageError> {
        let store = Self { path: path.into() };
        for directory in ["blobs", "images", "packages", "tmp"] {
            let directory = store.path.join(directory);
            fs::create_dir_all(&directory).map_err(io_error("make", &directory))?;
        }
        Ok(store)
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The image `name`.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] if there is none, and others if it can't be read or lacks a
    /// file.
    pub fn get(&self, name: &str) -> Result<Image, ImageError> {
        self.image(&self.manifest(name)?)
    }

    /// What the image `name` is made of.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] if there is none, and others if it can't be read.
    pub fn manifest(&self, name: &str) -> Result<Manifest, ImageError> {
        check(name)?;
        let path = self.manifest_path(name);
        if !path.exists() {
            let hint = match Recipe::named(name) {
                Ok(_) => format!("make it with `tine image build {name}`"),
                Err(_) => "`tine image ls` lists what there is".to_owned(),
            };
            return Err(ImageError::NotFound { name: name.to_owned(), hint });
        }
        read_manifest(&path)
    }

    /// What all images are made of, by name.
    ///
    /// # Errors
    /// If one of them can't be read.
    pub fn list(&self) -> Result<Vec<Manifest>, ImageError> {
        let directory = self.path.join("images");
        let mut manifests = Vec::new();
        for entry in fs::read_dir(&directory).map_err(io_error("list", &directory))? {
            let path = entry.map_err(io_error("list", &directory))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                manifests.push(read_manifest(&path)?);
            }
        }
        manifests.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(manifests)
    }

    /// The files of the image that `manifest` describes.
    ///
    /// # Errors
    /// [`ImageError::Incomplete`] if one of them is gone.
    pub fn image(&self, manifest: &Manifest) -> Result<Image, ImageError> {
        let [kernel, initramfs, rootfs] = manifest.blobs().map(|digest| self.blob_path(digest));
        for path in [&kernel, &initramfs, &rootfs] {
            if !path.exists() {
                let (name, path) = (manifest.name.clone(), path.clone());
                return Err(ImageError::Incomplete { name, path });
            }
        }
        let name = manifest.name.clone();
        Ok(Image { name, kernel, initramfs, rootfs, digest: manifest.digest() })
    }

    /// Removes the image `name`, and all blobs that no image has any more.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] if there is none. If another image can't be read, no blob is
    /// removed, for it may be that one's.
    pub fn remove(&self, name: &str) -> Result<(), ImageError> {
        check(name)?;
        let _work = self.work(&|_| {})?;
        let path = self.manifest_path(name);
        if !path.exists() {
            self.manifest(name)?;
        }
        fs::remove_file(&path).map_err(io_error("remove", &path))?;
        let images = self.list()?;
        let needed: BTreeSet<&str> = images.iter().flat_map(Manifest::blobs).collect();
        let blobs = self.path.join("blobs");
        for entry in fs::read_dir(&blobs).map_err(io_error("list", &blobs))? {
            let entry = entry.map_err(io_error("list", &blobs))?;
            if !entry.file_name().to_str().is_some_and(|digest| needed.contains(digest)) {
                let path = entry.path();
                fs::remove_file(&path).map_err(io_error("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Waits for the right to change the store, and removes what builds that were killed
    /// have left.
    pub(crate) fn work(&self, progress: &dyn Fn(&str)) -> Result<Work, ImageError> {
        let path = self.path.join("lock");
        let lock = File::create(&path).map_err(io_error("make", &path))?;
        if let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if error != Errno::WOULDBLOCK {
                return Err(io_error("lock", &path)(error.into()));
            }
            progress("waiting for another build to end");
            flock(&lock, FlockOperation::LockExclusive)
                .map_err(|error| io_error("lock", &path)(error.into()))?;
        }
        let tmp = self.path.join("tmp");
        for entry in fs::read_dir(&tmp).map_err(io_error("list", &tmp))? {
            let stale = entry.map_err(io_error("list", &tmp))?.path();
            fs::remove_dir_all(&stale).map_err(io_error("remove", &stale))?;
        }
        let directory = tempfile::Builder::new()
            .prefix(&format!("{}-", std::process::id()))
            .tempdir_in(&tmp)
            .map_err(io_error("make a directory in", &tmp))?;
        Ok(Work { directory, _lock: lock })
    }

    /// Keeps the file `path`, which is in the store's `tmp`, and returns its digest.
    pub(crate) fn adopt(&self, path: &Path) -> Result<String, ImageError> {
        let digest = digest::of_file(path)?;
        File::open(path).and_then(|file| file.sync_all()).map_err(io_error("write", path))?;
        let blob = self.blob_path(&digest);
        fs::rename(path, &blob).map_err(io_error("keep", &blob))?;
        Ok(digest)
    }

    /// Keeps `bytes`, and returns their digest.
    pub(crate) fn adopt_bytes(&self, bytes: &[u8], work: &Work) -> Result<String, ImageError> {
        let path = work.path().join("blob");
        fs::write(&path, bytes).map_err(io_error("write", &path))?;
        self.adopt(&path)
    }

    /// Keeps `manifest`, in place of an older one of its name.
    pub(crate) fn keep(&self, manifest: &Manifest, work: &Work) -> Result<Image, ImageError> {
        put(&self.manifest_path(&manifest.name), work.path(), manifest)?;
        self.image(manifest)
    }

    /// Whether there is a blob of this digest.
    pub(crate) fn has(&self, digest: &str) -> bool {
        self.blob_path(digest).exists()
    }

    fn blob_path(&self, digest: &str) -> PathBuf {
        self.path.join("blobs").join(digest)
    }

    fn manifest_path(&self, name: &str) -> PathBuf {
        self.path.join("images").join(format!("{name}.json"))
    }
}

impl Work {
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Checks that `name` can name an image: and so a file, and nothing elsewhere.
pub(crate) fn check(name: &str) -> Result<(), ImageError> {
    let wrong = |reason| Err(ImageError::Name { name: name.to_owned(), reason });
    if !(1..=63).contains(&name.len()) {
        return wrong("names have 1 to 63 characters");
    }
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if !name.starts_with(|first: char| first.is_ascii() && plain(first as u8)) {
        return wrong("names start with a letter from a to z, or a digit");
    }
    if !name.bytes().all(|byte| plain(byte) || b"-_.".contains(&byte)) {
        return wrong("names have letters from a to z, digits, and `-`, `_`, `.`");
    }
    Ok(())
}

/// Writes `value` as JSON to `path`, all of it or nothing.
pub(crate) fn put(path: &Path, work: &Path, value: &impl Serialize) -> Result<(), ImageError> {
    let written = serde_json::to_vec_pretty(value).map_err(io::Error::from).and_then(|text| {
        let readable = Permissions::from_mode(0o644);
        let mut file = tempfile::Builder::new().permissions(readable).tempfile_in(work)?;
        file.write_all(&text)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    });
    written.map_err(io_error("write", path))
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ImageError> {
    let text = fs::read(path).map_err(io_error("read", path))?;
    serde_json::from_slice(&text)
        .map_err(|source| ImageError::Manifest { path: path.to_owned(), source })
}

fn read_manifest(path: &Path) -> Result<Manifest, ImageError> {
    let value: serde_json::Value = read_json(path)?;
    let found = value.get("version").and_then(serde_json::Value::as_u64);
    if let Some(found) = found.and_then(|found| u32::try_from(found).ok())
        && found != manifest::VERSION
    {
        let (path, known) = (path.to_owned(), manifest::VERSION);
        return Err(ImageError::ManifestVersion { path, found, known });
    }
    serde_json::from_value(value)
        .map_err(|source| ImageError::Manifest { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::manifest;

    fn store() -> (TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("images")).unwrap();
        (directory, store)
    }

    fn blob(store: &Store, work: &Work, content: &str) -> String {
        store.adopt_bytes(content.as_bytes(), work).unwrap()
    }

    #[test]
    fn a_missing_image_says_how_to_get_it() {
        let (_directory, store) = store();
        let error = store.get("debian").unwrap_err();
        assert!(error.to_string().contains("tine image build debian"), "{error}");
        assert!(store.get("mine").unwrap_err().to_string().contains("tine image ls"));
    }

    #[test]
    fn names_can_t_lead_elsewhere() {
        let long = "a".repeat(64);
        for name in ["", "../x", "a/b", ".x", "-x", "A", "ä", "a b", long.as_str()] {
            assert!(matches!(check(name), Err(ImageError::Name { .. })), "{name}");
        }
        for name in ["a", "redis-7.0_x", "0"] {
            check(name).unwrap();
        }
    }

    #[test]
    fn an_image_comes_back_with_its_files() {
        let (_directory, store) = store();
        let work = store.work(&|_| {}).unwrap();
        let (kernel, rest) = (blob(&store, &work, "kernel"), blob(&store, &work, "rest"));
        let image = store.keep(&manifest("base", &kernel, &rest, &rest), &work).unwrap();
        assert_eq!(store.get("base").unwrap(), image);
        assert_eq!(fs::read(&image.kernel).unwrap(), b"kernel");
        assert_eq!(store.list().unwrap(), [manifest("base", &kernel, &rest, &rest)]);
        fs::remove_file(&image.kernel).unwrap();
        assert!(matches!(store.get("base"), Err(ImageError::Incomplete { .. })));
    }

    #[test]
    fn removing_keeps_what_another_image_has() {
        let (_directory, store) = store();
        let work = store.work(&|_| {}).unwrap();
        let shared = blob(&store, &work, "kernel");
        let (one, other) = (blob(&store, &work, "one"), blob(&store, &work, "other"));
        store.keep(&manifest("one", &shared, &one, &one), &work).unwrap();
        store.keep(&manifest("other", &shared, &other, &other), &work).unwrap();
        drop(work);
        store.remove("one").unwrap();
        assert!(store.has(&shared) && store.has(&other) && !store.has(&one));
        store.get("other").unwrap();
        assert!(matches!(store.remove("one"), Err(ImageError::NotFound { .. })));
        store.remove("other").unwrap();
        assert!(!store.has(&shared));
    }

    #[test]
    fn an_image_of_another_version_is_refused_and_can_be_removed() {
        let (_directory, store) = store();
        let work = store.work(&|_| {}).unwrap();
        let other = Manifest { version: 99, ..manifest("base", "k", "i", "r") };
        put(&store.manifest_path("base"), work.path(), &other).unwrap();
        drop(work);
        let error = store.get("base").unwrap_err();
        assert!(matches!(error, ImageError::ManifestVersion { found: 99, .. }), "{error}");
        store.remove("base").unwrap();
    }

    #[test]
    fn what_a_killed_build_left_goes_at_the_next() {
        let (_directory, store) = store();
        let stale = store.path().join("tmp/1-killed/root/etc");
        fs::create_dir_all(&stale).unwrap();
        let work = store.work(&|_| {}).unwrap();
        assert!(!store.path().join("tmp/1-killed").exists());
        let path = work.path().to_owned();
        assert!(path.exists());
        drop(work);
        assert!(!path.exists());
    }

    #[test]
    fn two_builds_take_turns() {
        let (_directory, store) = store();
        let work = store.work(&|_| {}).unwrap();
        let lock = File::open(store.path().join("lock")).unwrap();
        let taken = flock(&lock, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(taken, Err(Errno::WOULDBLOCK));
        drop(work);
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    }
}
