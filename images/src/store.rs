//! Where images are kept: files by their digest, and a manifest for each image that names them.
//!
//! | place | holds |
//! |---|---|
//! | `blobs/DIGEST` | a kernel, an initramfs or a root file system; shared by images |
//! | `images/NAME.json` | an image's manifest |
//! | `packages/` | package files, so that nothing is fetched twice |
//! | `snapshots/` | snapshots of images that have booted; others put them there |
//! | `work/` | what is being made; it is gone when that ends, however it ends |
//!
//! Files appear under their names when they are whole.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::error::file;
use crate::import::Source;
use crate::initramfs::{self, Module};
use crate::packages::{Cache, Package};
use crate::{ImageError, Recipe, digest, kernel, rootfs};

/// Version of manifests. Others are not read.
const VERSION: u32 = 1;

/// An image: what a guest boots from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// The kernel: a vmlinux, or a bzImage where one was imported.
    pub kernel: PathBuf,
    /// The initramfs with modules and agent.
    pub initramfs: PathBuf,
    /// The root file system, EROFS.
    pub rootfs: PathBuf,
    /// One digest for all three, hexadecimal.
    pub digest: String,
}

/// What an image is made of, as its file says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    version: u32,
    /// Its name.
    pub name: String,
    /// Where it comes from: a recipe, or what was imported.
    pub source: String,
    /// The kernel's package, or that it was given.
    pub kernel_source: String,
    /// Digest of the kernel.
    pub kernel: String,
    /// Digest of the initramfs.
    pub initramfs: String,
    /// Digest of the root file system.
    pub rootfs: String,
    /// Size of the root file system, bytes.
    pub rootfs_bytes: u64,
    /// Packages that went into it, and their digests.
    pub packages: Vec<(String, String)>,
    /// Digest of all that it was made from: nothing is done when that is the same.
    inputs: String,
}

impl Manifest {
    /// One digest for all that a guest sees of it.
    pub fn digest(&self) -> String {
        let parts = [&self.kernel, &self.initramfs, &self.rootfs];
        digest::of(&parts.map(|part| part.as_bytes()))
    }
}

/// The images of one user.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
}

/// What goes into an image beside its root file system.
struct Base<'a> {
    kernel: Vec<u8>,
    kernel_source: String,
    modules: Vec<Module>,
    agent: &'a [u8],
}

impl Store {
    /// Where images are kept unless told otherwise: `$TINE_IMAGES`, else below
    /// `$XDG_CACHE_HOME` or `~/.cache`. None without a home directory.
    pub fn default_path() -> Option<PathBuf> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(path) = variable("TINE_IMAGES") {
            return Some(path.into());
        }
        let cache = match variable("XDG_CACHE_HOME") {
            Some(cache) => PathBuf::from(cache),
            None => PathBuf::from(variable("HOME")?).join(".cache"),
        };
        Some(cache.join("tine/images"))
    }

    /// The store at `path`, which is made when there is none.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        for part in ["blobs", "images", "packages"] {
            let path = path.join(part);
            fs::create_dir_all(&path).map_err(file("making", &path))?;
        }
        Ok(Self { path: path.to_path_buf() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Image `name`.
    pub fn get(&self, name: &str) -> Result<Image, ImageError> {
        let manifest = self.manifest(name)?;
        let image = Image {
            kernel: self.blob(&manifest.kernel),
            initramfs: self.blob(&manifest.initramfs),
            rootfs: self.blob(&manifest.rootfs),
            digest: manifest.digest(),
            name: manifest.name,
        };
        for path in [&image.kernel, &image.initramfs, &image.rootfs] {
            fs::metadata(path).map_err(file("reading", path))?;
        }
        Ok(image)
    }

    /// All images, by name.
    pub fn list(&self) -> Result<Vec<Manifest>, ImageError> {
        let directory = self.path.join("images");
        let mut all = Vec::new();
        for entry in fs::read_dir(&directory).map_err(file("reading", &directory))? {
            let path = entry.map_err(file("reading", &directory))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                all.push(read_manifest(&path)?);
            }
        }
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
    }

    /// Removes image `name`, the files that no other image has, and its snapshots. Sandboxes
    /// that use them go on.
    pub fn remove(&self, name: &str) -> Result<(), ImageError> {
        let _lock = self.lock()?;
        self.manifest(name)?;
        let path = self.manifest_path(name);
        fs::remove_file(&path).map_err(file("removing", &path))?;
        self.remove_snapshots(name)?;
        self.remove_unused()
    }

    /// Makes image `recipe`, or finds that it is there. With `refresh`, apt is asked for newer
    /// packages. `agent` is the first program; `tell` is told what is being done.
    pub fn build(
        &self,
        recipe: &Recipe,
        refresh: bool,
        agent: &[u8],
        tell: &dyn Fn(&str),
    ) -> Result<Image, ImageError> {
        let _lock = self.lock()?;
        let cache = Cache::new(self.path.join("packages"), refresh)?;
        tell("fetching the kernel");
        let package = cache.behind(kernel::SERIES)?;
        let inputs = [recipe.text.as_bytes(), package.digest.as_bytes(), agent];
        let inputs = digest::of(&inputs);
        if let Ok(known) = self.manifest(&recipe.name)
            && known.inputs == inputs
            && !refresh
            && let Ok(image) = self.get(&recipe.name)
        {
            return Ok(image);
        }
        let work = self.work()?;
        tell("unpacking the kernel");
        let base = Base::of(&package, agent)?;
        tell("putting the root file system together");
        let tree = work.path().join("tree");
        fs::create_dir(&tree).map_err(file("making", &tree))?;
        let used = rootfs::build(recipe, &tree, &cache)?;
        tell("packing it");
        let source = format!("recipe {}", recipe.name);
        self.finish(&recipe.name, source, &inputs, base, &tree, &used, &work)
    }

    /// Makes image `name` from a directory or a tar archive; of `kernel`, or of the kernel that
    /// recipes get.
    pub fn import(
        &self,
        name: &str,
        source: &Path,
        kernel: Option<&Path>,
        agent: &[u8],
        tell: &dyn Fn(&str),
    ) -> Result<Image, ImageError> {
        check_name(name)?;
        let source = Source::find(source)?;
        let _lock = self.lock()?;
        let work = self.work()?;
        tell("fetching the kernel");
        let cache = Cache::new(self.path.join("packages"), false)?;
        let base = match kernel {
            Some(path) => Base::given(path, agent)?,
            None => Base::of(&cache.behind(kernel::SERIES)?, agent)?,
        };
        tell("copying the root file system");
        let tree = source.put_into(&work.path().join("tree"))?;
        tell("packing it");
        self.finish(name, source.to_string(), "", base, &tree, &[], &work)
    }

    #[expect(clippy::too_many_arguments, reason = "all that an image is, once")]
    fn finish(
        &self,
        name: &str,
        source: String,
        inputs: &str,
        base: Base<'_>,
        tree: &Path,
        used: &[Package],
        work: &TempDir,
    ) -> Result<Image, ImageError> {
        check_name(name)?;
        let packed = work.path().join("rootfs");
        rootfs::pack(tree, &packed)?;
        let rootfs_bytes = fs::metadata(&packed).map_err(file("reading", &packed))?.len();
        let Base { kernel, kernel_source, modules, agent } = base;
        let kernel = self.keep(&write(work, "kernel", &kernel)?)?;
        let archive = initramfs::pack(agent, &modules);
        let initramfs = self.keep(&write(work, "initramfs", &archive)?)?;
        let rootfs = self.keep(&packed)?;
        let manifest = Manifest {
            version: VERSION,
            name: name.to_owned(),
            source,
            kernel_source,
            kernel,
            initramfs,
            rootfs,
            rootfs_bytes,
            packages: used.iter().map(|one| (one.name(), one.digest.clone())).collect(),
            inputs: inputs.to_owned(),
        };
        let text = serde_json::to_vec_pretty(&manifest).map_err(|error| ImageError::Text {
            path: self.manifest_path(name),
            reason: error.to_string(),
        })?;
        let path = self.manifest_path(name);
        fs::rename(write(work, "manifest", &text)?, &path).map_err(file("renaming", &path))?;
        self.remove_snapshots(name)?;
        self.remove_unused()?;
        self.get(name)
    }

    /// Moves a whole file to the name that its digest gives it. Returns the digest.
    fn keep(&self, path: &Path) -> Result<String, ImageError> {
        let digest = digest::of_file(path)?;
        let kept = self.blob(&digest);
        fs::rename(path, &kept).map_err(file("renaming", &kept))?;
        Ok(digest)
    }

    fn blob(&self, digest: &str) -> PathBuf {
        self.path.join("blobs").join(digest)
    }

    fn manifest_path(&self, name: &str) -> PathBuf {
        self.path.join("images").join(format!("{name}.json"))
    }

    fn manifest(&self, name: &str) -> Result<Manifest, ImageError> {
        check_name(name)?;
        let path = self.manifest_path(name);
        match path.exists() {
            true => read_manifest(&path),
            false => Err(ImageError::NotFound(name.to_owned())),
        }
    }

    /// Removes the files that no manifest names.
    fn remove_unused(&self) -> Result<(), ImageError> {
        let all = self.list()?;
        let used: Vec<&str> =
            all.iter().flat_map(|one| [&*one.kernel, &*one.initramfs, &*one.rootfs]).collect();
        let directory = self.path.join("blobs");
        for entry in fs::read_dir(&directory).map_err(file("reading", &directory))? {
            let path = entry.map_err(file("reading", &directory))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !used.contains(&name.as_str()) {
                fs::remove_file(&path).map_err(file("removing", &path))?;
            }
        }
        Ok(())
    }

    /// Removes the snapshots of image `name`: another is under that name now, or none.
    fn remove_snapshots(&self, name: &str) -> Result<(), ImageError> {
        let directory = self.path.join("snapshots");
        if !directory.exists() {
            return Ok(());
        }
        // Their names begin with the image's, and go on with the number of vCPUs.
        let own = |file: &str| {
            let rest = file.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
            rest.is_some_and(|rest| rest.starts_with(|letter: char| letter.is_ascii_digit()))
        };
        for entry in fs::read_dir(&directory).map_err(file("reading", &directory))? {
            let path = entry.map_err(file("reading", &directory))?.path();
            if own(&path.file_name().unwrap_or_default().to_string_lossy()) {
                fs::remove_file(&path).map_err(file("removing", &path))?;
            }
        }
        Ok(())
    }

    /// Waits for whoever changes the store.
    fn lock(&self) -> Result<File, ImageError> {
        let path = self.path.join("lock");
        let locked = File::create(&path).and_then(|lock| lock.lock().map(|()| lock));
        locked.map_err(file("locking", &path))
    }

    /// A place for what is not whole yet. What an earlier one left that was killed goes first:
    /// whoever calls this holds the lock.
    fn work(&self) -> Result<TempDir, ImageError> {
        let path = self.path.join("work");
        if path.exists() {
            fs::remove_dir_all(&path).map_err(file("removing", &path))?;
        }
        fs::create_dir(&path).map_err(file("making", &path))?;
        tempfile::tempdir_in(&path).map_err(file("making a directory in", &path))
    }
}

impl<'a> Base<'a> {
    /// The kernel of Debian's `package`.
    fn of(package: &Package, agent: &'a [u8]) -> Result<Self, ImageError> {
        let kernel::Kernel { vmlinux, modules } = kernel::unpack(package)?;
        Ok(Self { kernel: vmlinux, kernel_source: package.name(), modules, agent })
    }

    /// The kernel in `path`, which must have its drivers built in.
    fn given(path: &Path, agent: &'a [u8]) -> Result<Self, ImageError> {
        kernel::check(path)?;
        let kernel = fs::read(path).map_err(file("reading", path))?;
        let kernel_source = format!("file {}", path.display());
        Ok(Self { kernel, kernel_source, modules: Vec::new(), agent })
    }
}

fn write(work: &TempDir, name: &str, bytes: &[u8]) -> Result<PathBuf, ImageError> {
    let path = work.path().join(name);
    let written = File::create(&path).and_then(|mut target| {
        target.write_all(bytes)?;
        target.sync_all()
    });
    written.map_err(file("writing", &path))?;
    Ok(path)
}

fn read_manifest(path: &Path) -> Result<Manifest, ImageError> {
    let text = fs::read(path).map_err(file("reading", path))?;
    let senseless = |reason: String| ImageError::Text { path: path.to_path_buf(), reason };
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| senseless(error.to_string()))?;
    match manifest.version {
        VERSION => Ok(manifest),
        other => Err(senseless(format!("it is of version {other}, not {VERSION}"))),
    }
}

/// Names become those of files, and of hosts.
pub(crate) fn check_name(name: &str) -> Result<(), ImageError> {
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let good = (1..=40).contains(&name.len())
        && name.bytes().all(known)
        && !name.starts_with('-')
        && !name.ends_with('-');
    good.then_some(()).ok_or_else(|| ImageError::Name(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn import(store: &Store, name: &str, contents: &str) -> Result<Image, ImageError> {
        let tree = tempfile::tempdir().unwrap();
        fs::write(tree.path().join("file"), contents).unwrap();
        let kernel = tree.path().join("kernel");
        fs::write(&kernel, b"\x7fELF of a kind").unwrap();
        store.import(name, tree.path(), Some(&kernel), b"agent", &|_| {})
    }

    fn files(path: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn images_are_kept_once_and_go_when_nobody_has_them() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let one = import(&store, "one", "same").unwrap();
        let two = import(&store, "two", "same").unwrap();
        let other = import(&store, "other", "not the same").unwrap();
        assert_eq!(one.digest, two.digest, "the same tree is the same image");
        assert_ne!(one.digest, other.digest);
        assert_eq!(one.rootfs, two.rootfs);
        // Kernel and initramfs are shared, the root file systems are two.
        assert_eq!(files(&directory.path().join("blobs")).len(), 4);
        assert_eq!(store.list().unwrap().len(), 3);
        store.remove("one").unwrap();
        assert!(matches!(store.get("one"), Err(ImageError::NotFound(_))));
        assert_eq!(store.get("two").unwrap(), Image { name: "two".into(), ..one });
        store.remove("two").unwrap();
        store.remove("other").unwrap();
        assert_eq!(files(&directory.path().join("blobs")), [""; 0]);
        assert!(files(&directory.path().join("work")).is_empty());
    }

    #[test]
    fn what_fails_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        // As one that was killed has left it.
        fs::create_dir_all(directory.path().join("work/old/tree")).unwrap();
        let tree = tempfile::tempdir().unwrap();
        let text = tree.path().join("kernel");
        fs::write(&text, "no kernel").unwrap();
        let refused = store.import("odd", tree.path(), Some(&text), b"agent", &|_| {});
        assert!(matches!(refused, Err(ImageError::Kernel { .. })), "{refused:?}");
        assert!(import(&store, "Odd name", "x").is_err());
        assert!(import(&store, "../odd", "x").is_err());
        assert!(store.list().unwrap().is_empty());
        assert!(files(&directory.path().join("work")).is_empty());
        assert!(files(&directory.path().join("blobs")).is_empty());
    }

    #[test]
    fn snapshots_go_with_their_image_alone() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        import(&store, "base", "x").unwrap();
        let snapshots = directory.path().join("snapshots");
        fs::create_dir(&snapshots).unwrap();
        for name in ["base-1x256-aa.tine", "base-2-1x256-bb.tine", "base-large-1x256-cc.tine"] {
            fs::write(snapshots.join(name), "").unwrap();
        }
        store.remove("base").unwrap();
        assert_eq!(files(&snapshots), ["base-large-1x256-cc.tine"]);
    }
}
