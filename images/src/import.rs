//! Images with a root file system, or a kernel, of the user's own.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::build::{Kernel, known_modules};
use crate::digest;
use crate::error::{ImageError, io_error};
use crate::initramfs;
use crate::kernel;
use crate::manifest::{KernelRecord, Manifest, Origin, VERSION};
use crate::modules::Module;
use crate::packages::Cache;
use crate::recipe::{self, Recipe};
use crate::rootfs::{self, Metadata};
use crate::store::{Image, Store, Work, check};
use crate::unpack::unpack;

/// What compressed archives begin with, and what unpacks them.
const COMPRESSED: [(&[u8], &str); 4] = [
    (&[0x1f, 0x8b], "gunzip"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "unzstd"),
    (&[0xfd, b'7', b'z', b'X', b'Z'], "unxz"),
    (b"BZh", "bunzip2"),
];

impl Store {
    /// Makes the image `name` from the root file system `source`, a directory or a tar
    /// archive, and `kernel`, a vmlinux or bzImage; without one, it gets the kernel of the
    /// recipes.
    ///
    /// A kernel of one's own is kept as it is. If the store has the package that it is from,
    /// it gets the modules in it; else [`Manifest::modules`] is empty, and what the recipes'
    /// kernel has as modules must be built in.
    ///
    /// Owners are kept if root imports; else all files are root's.
    ///
    /// # Errors
    /// [`ImageError`] says what is wrong. An image of that name stays as it was then.
    pub fn import(
        &self,
        name: &str,
        source: &Path,
        kernel: Option<&Path>,
        agent: &[u8],
        progress: &dyn Fn(&str),
    ) -> Result<Image, ImageError> {
        check(name)?;
        if Recipe::named(name).is_ok() {
            let reason = "a recipe has this name";
            return Err(ImageError::Name { name: name.to_owned(), reason });
        }
        let work = self.work(progress)?;
        let mut cache = self.cache(&work, false)?;
        let (kernel, modules) = match kernel {
            Some(path) => self.own_kernel(path, &cache, &work)?,
            None => self.recipes_kernel(&mut cache, &work, progress)?,
        };
        let tree = tree(source, &work, progress)?;
        let out = work.path().join("rootfs");
        progress("making the root file system");
        rootfs::erofs(&tree, &out, Metadata::Kept)?;
        let manifest = Manifest {
            version: VERSION,
            name: name.to_owned(),
            origin: Origin::Import(source.display().to_string()),
            agent: digest::of(agent),
            kernel,
            modules: modules.iter().map(|module| module.file.clone()).collect(),
            initramfs: self.adopt_bytes(&initramfs::make(agent, &modules), &work)?,
            rootfs: self.adopt(&out)?,
            packages: Vec::new(),
        };
        self.keep(&manifest, &work)
    }

    fn own_kernel(
        &self,
        path: &Path,
        cache: &Cache<'_>,
        work: &Work,
    ) -> Result<(KernelRecord, Vec<Module>), ImageError> {
        let bytes = fs::read(path).map_err(io_error("read", path))?;
        let version = kernel::version(&bytes).map_err(|error| ImageError::Kernel {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        let modules = known_modules(&recipe::kernel()?, &version, cache, work.path())?;
        let digest = self.adopt_bytes(&bytes, work)?;
        Ok((KernelRecord { digest, version, package: None }, modules))
    }

    fn recipes_kernel(
        &self,
        cache: &mut Cache<'_>,
        work: &Work,
        progress: &dyn Fn(&str),
    ) -> Result<(KernelRecord, Vec<Module>), ImageError> {
        let kernel = Kernel::fetch(&recipe::kernel()?, cache, work.path(), progress)?;
        let digest = self.adopt_bytes(&kernel.vmlinux, work)?;
        let (version, package) = (kernel.version, Some(kernel.package));
        Ok((KernelRecord { digest, version, package }, kernel.modules))
    }
}

/// The directory with what is in `source`.
fn tree(source: &Path, work: &Work, progress: &dyn Fn(&str)) -> Result<PathBuf, ImageError> {
    if source.metadata().map_err(io_error("look at", source))?.is_dir() {
        return Ok(source.to_owned());
    }
    let mut start = Vec::new();
    let opened = || File::open(source).map_err(io_error("open", source));
    opened()?.take(8).read_to_end(&mut start).map_err(io_error("read", source))?;
    if let Some((_, tool)) = COMPRESSED.iter().find(|(magic, _)| start.starts_with(magic)) {
        let reason = format!("it is compressed; unpack it first: {tool}");
        return Err(ImageError::Archive { archive: source.to_owned(), reason });
    }
    progress("unpacking the archive");
    let tree = work.path().join("root");
    unpack(opened()?, source, &tree, |_| true)?;
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    const KERNEL: &[u8] = b"\x7fELF....Linux version 6.1.0-own (me)";

    struct Bench {
        directory: tempfile::TempDir,
        store: Store,
    }

    impl Bench {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::open(directory.path().join("store")).unwrap();
            fs::write(directory.path().join("vmlinux"), KERNEL).unwrap();
            fs::create_dir_all(directory.path().join("root/etc")).unwrap();
            fs::write(directory.path().join("root/etc/motd"), "hello").unwrap();
            // Archives have whole seconds.
            for name in ["root/etc/motd", "root/etc", "root"] {
                let file = File::open(directory.path().join(name)).unwrap();
                file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1000)).unwrap();
            }
            Self { directory, store }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn import(&self, name: &str, source: &str) -> Result<Image, ImageError> {
            let kernel = self.path("vmlinux");
            self.store.import(name, &self.path(source), Some(&kernel), b"agent", &|_| {})
        }
    }

    #[test]
    fn a_directory_and_its_archive_make_the_same_file_system() {
        let bench = Bench::new();
        let mut tar = tar::Builder::new(File::create(bench.path("root.tar")).unwrap());
        tar.append_dir_all(".", bench.path("root")).unwrap();
        tar.into_inner().unwrap();
        let one = bench.import("one", "root").unwrap();
        let other = bench.import("other", "root.tar").unwrap();
        assert_eq!(one.digest, other.digest);
        assert_eq!(fs::read(&one.kernel).unwrap(), KERNEL);
    }

    #[test]
    fn times_are_kept() {
        let bench = Bench::new();
        let one = bench.import("one", "root").unwrap();
        let motd = File::open(bench.path("root/etc/motd")).unwrap();
        motd.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_ne!(one.digest, bench.import("one", "root").unwrap().digest);
    }

    #[test]
    fn a_kernel_of_one_s_own_has_no_modules_of_others() {
        let bench = Bench::new();
        bench.import("mine", "root").unwrap();
        let manifest = bench.store.manifest("mine").unwrap();
        assert_eq!(manifest.kernel.version, "6.1.0-own");
        assert_eq!((manifest.kernel.package, manifest.modules), (None, Vec::new()));
    }

    #[test]
    fn what_can_t_be_imported_leaves_nothing() {
        let bench = Bench::new();
        fs::write(bench.path("root.tar.gz"), [0x1f, 0x8b, 8, 0]).unwrap();
        fs::write(bench.path("text"), "no archive at all".repeat(100)).unwrap();
        let error = bench.import("mine", "root.tar.gz").unwrap_err();
        assert!(error.to_string().contains("gunzip"), "{error}");
        assert!(matches!(bench.import("mine", "text"), Err(ImageError::Archive { .. })));
        assert!(matches!(bench.import("mine", "nothing"), Err(ImageError::Io { .. })));
        assert!(matches!(bench.import("base", "root"), Err(ImageError::Name { .. })));
        assert!(bench.store.list().unwrap().is_empty());
        assert_eq!(fs::read_dir(bench.store.path().join("tmp")).unwrap().count(), 0);
    }
}
