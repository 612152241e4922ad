//! Building an image by its recipe.

use std::fs;
use std::path::{Path, PathBuf};

use crate::digest;
use crate::error::{ImageError, io_error};
use crate::initramfs;
use crate::kernel;
use crate::manifest::{KernelRecord, Manifest, Origin, VERSION};
use crate::modules::{Module, Tree};
use crate::packages::{Cache, Package};
use crate::recipe::{KernelRecipe, Recipe};
use crate::rootfs;
use crate::store::{Image, Store, Work};

/// What the kernel's packages are called, before its version.
const KERNEL_PACKAGE: &str = "linux-image-";

/// How an image is built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BuildOptions {
    /// Ask apt for the newest packages, even if there is an image already. apt knows what
    /// its last `apt-get update` told it.
    pub refresh: bool,
}

impl Store {
    /// Builds the image of `recipe`, with `agent` as its `/init`; `progress` is told what is
    /// being done. What the store has of it already is not made again: with the same recipe
    /// and agent, nothing is, and nothing is loaded.
    ///
    /// # Errors
    /// [`ImageError`] says what is missing. An image of that name stays as it was then.
    pub fn build(
        &self,
        recipe: &Recipe,
        options: &BuildOptions,
        agent: &[u8],
        progress: &dyn Fn(&str),
    ) -> Result<Image, ImageError> {
        let work = self.work(progress)?;
        let origin = Origin::Recipe(recipe.digest().to_owned());
        let agent_digest = digest::of(agent);
        let previous = self.previous(recipe.name(), &origin).filter(|_| !options.refresh);
        if let Some(manifest) = previous.as_ref().filter(|found| found.agent == agent_digest)
            && let Ok(image) = self.image(manifest)
        {
            return Ok(image);
        }
        let mut cache = self.cache(&work, options.refresh)?;
        let kernel = Kernel::fetch(recipe.kernel(), &mut cache, work.path(), progress)?;
        let (rootfs, packages) = match previous.filter(|found| self.has(&found.rootfs)) {
            Some(found) => (found.rootfs, found.packages),
            None => self.root(recipe, &mut cache, &work, progress)?,
        };
        let manifest = Manifest {
            version: VERSION,
            name: recipe.name().to_owned(),
            origin,
            agent: agent_digest,
            kernel: KernelRecord {
                digest: self.adopt_bytes(&kernel.vmlinux, &work)?,
                version: kernel.version,
                package: Some(kernel.package),
            },
            modules: kernel.modules.iter().map(|module| module.file.clone()).collect(),
            initramfs: self.adopt_bytes(&initramfs::make(agent, &kernel.modules), &work)?,
            rootfs,
            packages,
        };
        self.keep(&manifest, &work)
    }

    /// The packages that the store has.
    pub(crate) fn cache<'a>(&self, work: &'a Work, refresh: bool) -> Result<Cache<'a>, ImageError> {
        Cache::open(self.path().join("packages"), work.path(), refresh)
    }

    /// The image `name` as it was built from `origin` before. One that can't be read is
    /// replaced, as one from elsewhere is.
    fn previous(&self, name: &str, origin: &Origin) -> Option<Manifest> {
        self.manifest(name).ok().filter(|manifest| manifest.origin == *origin)
    }

    /// Makes the root file system of `recipe`.
    fn root(
        &self,
        recipe: &Recipe,
        cache: &mut Cache<'_>,
        work: &Work,
        progress: &dyn Fn(&str),
    ) -> Result<(String, Vec<Package>), ImageError> {
        let (tree, out) = (work.path().join("root"), work.path().join("rootfs"));
        let (packages, metadata) =
            rootfs::tree(recipe.root(), cache, work.path(), &tree, progress)?;
        progress("making the root file system");
        rootfs::erofs(&tree, &out, metadata)?;
        Ok((self.adopt(&out)?, packages))
    }
}

/// The distribution's kernel.
pub(crate) struct Kernel {
    pub(crate) vmlinux: Vec<u8>,
    pub(crate) version: String,
    pub(crate) package: Package,
    pub(crate) modules: Vec<Module>,
}

impl Kernel {
    /// Takes the kernel of `recipe` and its modules out of Debian's package.
    pub(crate) fn fetch(
        recipe: &KernelRecipe,
        cache: &mut Cache<'_>,
        work: &Path,
        progress: &dyn Fn(&str),
    ) -> Result<Self, ImageError> {
        let package = resolve(recipe, cache, progress)?;
        progress(&format!("unpacking {}", package.name));
        let tree = unpack(&package.name, cache, work)?;
        let path = tree.join("boot").join(format!("vmlinuz-{}", version(&package)));
        let image = fs::read(&path).map_err(io_error("read", &path))?;
        progress("decompressing the kernel");
        let kernel = kernel::extract(&image)
            .map_err(|error| ImageError::Kernel { path, reason: error.to_string() })?;
        let modules = closure(&tree, version(&package), recipe)?;
        Ok(Self { vmlinux: kernel.elf, version: kernel.version, package, modules })
    }
}

/// The modules of `recipe` for a kernel of this `version`, if the store has its package.
pub(crate) fn known_modules(
    recipe: &KernelRecipe,
    version: &str,
    cache: &Cache<'_>,
    work: &Path,
) -> Result<Vec<Module>, ImageError> {
    let name = format!("{KERNEL_PACKAGE}{version}");
    if !cache.has(&name)? {
        return Ok(Vec::new());
    }
    let tree = unpack(&name, cache, work)?;
    closure(&tree, version, recipe)
}

/// The package that has the kernel itself.
fn resolve(
    recipe: &KernelRecipe,
    cache: &mut Cache<'_>,
    progress: &dyn Fn(&str),
) -> Result<Package, ImageError> {
    cache.fetch(std::slice::from_ref(&recipe.package), progress)?;
    let depends = cache.field(&recipe.package, "Depends")?;
    let name = depends
        .split([',', '|'])
        .filter_map(|dependency| dependency.split_ascii_whitespace().next())
        .find(|name| name.starts_with(KERNEL_PACKAGE))
        .unwrap_or(&recipe.package)
        .to_owned();
    cache.fetch(std::slice::from_ref(&name), progress)?.pop().ok_or_else(|| ImageError::Package {
        package: name,
        reason: "it was not fetched".to_owned(),
    })
}

fn unpack(package: &str, cache: &Cache<'_>, work: &Path) -> Result<PathBuf, ImageError> {
    let tree = work.join("kernel");
    cache.unpack(package, &tree, |path| path.starts_with("boot") || path.starts_with("lib"))?;
    Ok(tree)
}

fn closure(tree: &Path, version: &str, recipe: &KernelRecipe) -> Result<Vec<Module>, ImageError> {
    Tree::open(&tree.join("lib/modules").join(version))?.closure(&recipe.modules)
}

/// The version of the kernel in a package.
fn version(package: &Package) -> &str {
    package.name.strip_prefix(KERNEL_PACKAGE).unwrap_or(&package.name)
}
