//! What images are made of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::digest;
use crate::error::ImageError;

/// The recipes that tine brings.
const RECIPES: [(&str, &str); 3] = [
    ("base", include_str!("../recipes/base.toml")),
    ("debian", include_str!("../recipes/debian.toml")),
    ("redis", include_str!("../recipes/redis.toml")),
];

/// The kernel of all of them.
const KERNEL: &str = include_str!("../recipes/kernel.toml");

/// How an image is made.
#[derive(Clone, Debug)]
pub struct Recipe {
    name: &'static str,
    digest: String,
    kernel: KernelRecipe,
    root: RootRecipe,
}

/// Which kernel an image has, and what it loads before its root file system.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KernelRecipe {
    /// Debian's package, or one that depends on it.
    pub(crate) package: String,
    /// Modules; their dependencies come along.
    pub(crate) modules: Vec<String>,
}

/// What the root file system has. Paths are relative to it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RootRecipe {
    /// The recipe that this one adds to.
    extends: Option<String>,
    /// The Debian release that mmdebstrap installs; without one, packages are unpacked.
    pub(crate) suite: Option<String>,
    /// Debian's packages.
    pub(crate) packages: Vec<String>,
    /// Commands that run in what mmdebstrap installed.
    #[serde(default)]
    pub(crate) commands: Vec<String>,
    /// A busybox that gets a link for each of its applets.
    pub(crate) busybox: Option<PathBuf>,
    /// Directories whose contents are left out.
    pub(crate) exclude: Vec<PathBuf>,
    /// Directories, with their modes.
    pub(crate) directories: BTreeMap<PathBuf, u32>,
    /// Symbolic links, with what they lead to.
    pub(crate) links: BTreeMap<PathBuf, PathBuf>,
    /// Files, with what is in them.
    pub(crate) files: BTreeMap<PathBuf, String>,
}

impl Recipe {
    /// The names of all recipes.
    pub fn names() -> impl Iterator<Item = &'static str> {
        RECIPES.iter().map(|(name, _)| *name)
    }

    /// The recipe `name`.
    ///
    /// # Errors
    /// [`ImageError::NoRecipe`] if there is none.
    pub fn named(name: &str) -> Result<Self, ImageError> {
        let (name, text) = find(name)?;
        let mut root: RootRecipe = parse(name, text)?;
        let mut inputs = vec![KERNEL, text];
        if let Some(base) = root.extends.take() {
            let (base, text) = find(&base)?;
            root = root.on(parse(base, text)?);
            inputs.push(text);
        }
        let digest = digest::of_digests(inputs.iter().map(|text| digest::of(text.as_bytes())));
        Ok(Self { name, digest, kernel: kernel()?, root })
    }

    /// Its name, which is that of the image.
    pub fn name(&self) -> &str {
        self.name
    }

    /// The SHA-256 of what it says, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    pub(crate) fn kernel(&self) -> &KernelRecipe {
        &self.kernel
    }

    pub(crate) fn root(&self) -> &RootRecipe {
        &self.root
    }
}

/// The kernel that images have unless they bring their own.
pub(crate) fn kernel() -> Result<KernelRecipe, ImageError> {
    parse("kernel", KERNEL)
}

impl RootRecipe {
    /// Whether `path`, which a package has, belongs into the image.
    pub(crate) fn wants(&self, path: &Path) -> bool {
        !self.exclude.iter().any(|out| path != out && path.starts_with(out))
    }

    /// This recipe added to `base`; where both say something, this one is right.
    fn on(self, base: Self) -> Self {
        fn both<T>(base: Vec<T>, own: Vec<T>) -> Vec<T> {
            base.into_iter().chain(own).collect()
        }
        fn all<T>(
            mut base: BTreeMap<PathBuf, T>,
            own: BTreeMap<PathBuf, T>,
        ) -> BTreeMap<PathBuf, T> {
            base.extend(own);
            base
        }
        Self {
            extends: base.extends,
            suite: self.suite.or(base.suite),
            packages: both(base.packages, self.packages),
            commands: both(base.commands, self.commands),
            busybox: self.busybox.or(base.busybox),
            exclude: both(base.exclude, self.exclude),
            directories: all(base.directories, self.directories),
            links: all(base.links, self.links),
            files: all(base.files, self.files),
        }
    }
}

fn find(name: &str) -> Result<(&'static str, &'static str), ImageError> {
    RECIPES.into_iter().find(|(known, _)| *known == name).ok_or_else(|| ImageError::NoRecipe {
        name: name.to_owned(),
        known: Recipe::names().collect::<Vec<_>>().join(", "),
    })
}

fn parse<T: DeserializeOwned>(name: &str, text: &str) -> Result<T, ImageError> {
    toml::from_str(text).map_err(|source| ImageError::Recipe { name: name.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_recipes_can_be_read() {
        for name in Recipe::names() {
            let recipe = Recipe::named(name).unwrap();
            assert_eq!(recipe.name(), name);
            assert!(!recipe.root().packages.is_empty(), "{name}");
            let root = recipe.root();
            let paths = root.directories.keys().chain(root.links.keys()).chain(root.files.keys());
            for path in paths.chain(&root.exclude) {
                assert_eq!(crate::unpack::inside(path).as_ref(), Some(path), "{name}");
            }
        }
    }

    #[test]
    fn recipes_differ_in_their_digests() {
        let digests: std::collections::BTreeSet<_> =
            Recipe::names().map(|name| Recipe::named(name).unwrap().digest).collect();
        assert_eq!(digests.len(), Recipe::names().count());
    }

    #[test]
    fn a_recipe_has_what_it_extends() {
        let (base, redis) = (Recipe::named("base").unwrap(), Recipe::named("redis").unwrap());
        assert!(redis.root.packages.contains(&base.root.packages[0]));
        assert!(redis.root.files.contains_key(Path::new("etc/passwd")));
        assert!(redis.root.suite.is_none());
    }

    #[test]
    fn an_unknown_recipe_names_the_known() {
        let error = Recipe::named("windows").unwrap_err();
        assert!(error.to_string().contains("base, debian, redis"), "{error}");
    }

    #[test]
    fn an_excluded_directory_stays_and_is_empty() {
        let recipe = Recipe::named("base").unwrap();
        assert!(recipe.root.wants(Path::new("usr/share/doc")));
        assert!(!recipe.root.wants(Path::new("usr/share/doc/busybox-static")));
        assert!(recipe.root.wants(Path::new("usr/share/docs")));
    }
}
