//! Debian's packages: asked of apt once, then kept.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest;
use crate::error::{ImageError, io_error};
use crate::store::{put, read_json};
use crate::tool::{APT_GET, DPKG_DEB};
use crate::unpack::unpack;

/// A package of a certain version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The SHA-256 of its file, in hexadecimal, as the archive's signed lists have it.
    pub sha256: String,
}

/// The packages that the store has, and which of them were the newest when apt was asked.
pub(crate) struct Cache<'a> {
    directory: PathBuf,
    work: &'a Path,
    newest: BTreeMap<String, Cached>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Cached {
    #[serde(flatten)]
    package: Package,
    /// The file, in the cache's directory.
    file: String,
}

impl<'a> Cache<'a> {
    /// The cache in `directory`; what is loaded goes to `work` first. With `refresh`, apt is
    /// asked for what the cache has, too.
    pub(crate) fn open(
        directory: PathBuf,
        work: &'a Path,
        refresh: bool,
    ) -> Result<Self, ImageError> {
        let mut cache = Self { directory, work, newest: BTreeMap::new() };
        let index = cache.index();
        if !refresh && index.exists() {
            cache.newest = read_json(&index)?;
        }
        Ok(cache)
    }

    /// Makes sure that all packages of `names` are there, as they are in the archive.
    pub(crate) fn fetch(
        &mut self,
        names: &[String],
        progress: &dyn Fn(&str),
    ) -> Result<Vec<Package>, ImageError> {
        let mut missing = Vec::new();
        for name in names {
            if !self.has(name)? {
                missing.push(name.clone());
            }
        }
        if !missing.is_empty() {
            progress(&format!("asking apt for {}", missing.join(", ")));
            let found = self.ask(&missing)?;
            self.load(&found)?;
            self.newest.extend(found.into_iter().map(|one| (one.package.name.clone(), one)));
            self.save()?;
        }
        names.iter().map(|name| self.get(name).map(|cached| cached.package.clone())).collect()
    }

    /// What the package `name`, which was fetched, says in its `field`.
    pub(crate) fn field(&self, name: &str, field: &str) -> Result<String, ImageError> {
        let mut command = DPKG_DEB.command();
        command.arg("--field").arg(self.path(self.get(name)?)).arg(field);
        Ok(DPKG_DEB.output(command, self.work)?.trim().to_owned())
    }

    /// Unpacks what `wanted` takes of the package `name`, which was fetched, to `into`.
    pub(crate) fn unpack(
        &self,
        name: &str,
        into: &Path,
        wanted: impl Fn(&Path) -> bool,
    ) -> Result<(), ImageError> {
        let file = self.path(self.get(name)?);
        let mut command = DPKG_DEB.command();
        command.arg("--fsys-tarfile").arg(&file);
        DPKG_DEB.stream(command, into, |tar| unpack(tar, &file, into, wanted))
    }

    /// Whether the newest known version of `name` is here and whole.
    pub(crate) fn has(&self, name: &str) -> Result<bool, ImageError> {
        self.newest.get(name).map_or(Ok(false), |cached| self.is_whole(cached))
    }

    fn is_whole(&self, cached: &Cached) -> Result<bool, ImageError> {
        let path = self.path(cached);
        Ok(path.exists() && digest::of_file(&path)? == cached.package.sha256)
    }

    fn get(&self, name: &str) -> Result<&Cached, ImageError> {
        self.newest.get(name).ok_or_else(|| package_error(name, "apt did not name it"))
    }

    /// What apt would load for `names`.
    fn ask(&self, names: &[String]) -> Result<Vec<Cached>, ImageError> {
        let mut command = APT_GET.command();
        command.args(["download", "--print-uris"]).args(names).current_dir(self.work);
        let answer = APT_GET.output(command, self.work).map_err(|error| of(names, error))?;
        let found: Vec<_> = answer.lines().filter_map(offer).collect();
        for name in names {
            if !found.iter().any(|cached| cached.package.name == *name) {
                return Err(package_error(name, "apt names no file with a SHA-256 for it"));
            }
        }
        Ok(found)
    }

    /// Has apt load what is not here.
    fn load(&self, found: &[Cached]) -> Result<(), ImageError> {
        let mut missing = Vec::new();
        for cached in found {
            if !self.is_whole(cached)? {
                missing.push(cached);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let exact: Vec<_> = missing
            .iter()
            .map(|cached| format!("{}={}", cached.package.name, cached.package.version))
            .collect();
        let mut command = APT_GET.command();
        // Root's apt loads as `_apt`, who may not write here.
        command.args(["download", "--quiet", "-o", "APT::Sandbox::User=root"]);
        command.args(&exact).current_dir(self.work);
        APT_GET.output(command, self.work).map_err(|error| of(&exact, error))?;
        for cached in missing {
            let loaded = self.work.join(&cached.file);
            let digest = digest::of_file(&loaded)?;
            if digest != cached.package.sha256 {
                let reason = format!("its SHA-256 is {digest}, not {}", cached.package.sha256);
                return Err(package_error(&cached.package.name, &reason));
            }
            let path = self.path(cached);
            fs::rename(&loaded, &path).map_err(io_error("keep", &path))?;
        }
        Ok(())
    }

    fn save(&self) -> Result<(), ImageError> {
        // A refresh asks for some packages; the others stay known.
        let index = self.index();
        let mut all: BTreeMap<String, Cached> =
            if index.exists() { read_json(&index)? } else { BTreeMap::new() };
        all.extend(self.newest.clone());
        put(&index, self.work, &all)
    }

    fn index(&self) -> PathBuf {
        self.directory.join("index.json")
    }

    fn path(&self, cached: &Cached) -> PathBuf {
        self.directory.join(&cached.file)
    }
}

/// A line of `apt-get download --print-uris`: `'URI' NAME_VERSION_ARCH.deb SIZE SHA256:HEX`,
/// where `%3a` stands for the colon of a version.
fn offer(line: &str) -> Option<Cached> {
    let mut words = line.split_ascii_whitespace();
    let file = words.nth(1)?;
    let sha256 = words.nth(1)?.strip_prefix("SHA256:")?;
    let mut parts = file.strip_suffix(".deb")?.split('_');
    let (name, version) = (parts.next()?, parts.next()?);
    if file.contains('/') {
        return None;
    }
    let package = Package {
        name: name.to_owned(),
        version: version.replace("%3a", ":"),
        sha256: sha256.to_ascii_lowercase(),
    };
    Some(Cached { package, file: file.to_owned() })
}

/// apt's failure to give `packages`; one of the host's stays as it is.
fn of(packages: &[String], error: ImageError) -> ImageError {
    match error {
        ImageError::Tool { stderr, .. } => package_error(&packages.join(", "), &stderr),
        other => other,
    }
}

fn package_error(package: &str, reason: &str) -> ImageError {
    ImageError::Package { package: package.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apt_s_lines_are_understood() {
        let line = "'http://host/busybox-static_1.35.0-4%2bdeb12u1_amd64.deb' \
                    busybox-static_1%3a1.35.0-4+deb12u1_amd64.deb 928188 SHA256:3D3F";
        let cached = offer(line).unwrap();
        assert_eq!(cached.package.name, "busybox-static");
        assert_eq!(cached.package.version, "1:1.35.0-4+deb12u1");
        assert_eq!(cached.package.sha256, "3d3f");
        assert_eq!(cached.file, "busybox-static_1%3a1.35.0-4+deb12u1_amd64.deb");
    }

    #[test]
    fn other_lines_are_passed_over() {
        assert_eq!(offer("'http://host/x.deb' ../x_1_amd64.deb 1 SHA256:00"), None);
        assert_eq!(offer("'http://host/x.deb' x_1_amd64.deb 1 MD5Sum:00"), None);
        assert_eq!(offer("Reading package lists..."), None);
    }

    fn cached<'a>(directory: &'a Path, content: &str, sha256: String) -> Cache<'a> {
        fs::write(directory.join("x_1_amd64.deb"), content).unwrap();
        let package = Package { name: "x".to_owned(), version: "1".to_owned(), sha256 };
        let newest = Cached { package, file: "x_1_amd64.deb".to_owned() };
        Cache {
            directory: directory.to_owned(),
            work: directory,
            newest: BTreeMap::from([("x".to_owned(), newest)]),
        }
    }

    #[test]
    fn a_whole_package_is_not_asked_for_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut cache = cached(directory.path(), "deb", digest::of(b"deb"));
        let packages = cache.fetch(&["x".to_owned()], &|text| panic!("{text}")).unwrap();
        assert_eq!(packages[0].version, "1");
    }

    #[test]
    fn a_broken_package_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!cached(directory.path(), "de", digest::of(b"deb")).has("x").unwrap());
    }

    #[test]
    fn the_index_comes_back_unless_it_is_refreshed() {
        let directory = tempfile::tempdir().unwrap();
        let cache = cached(directory.path(), "deb", digest::of(b"deb"));
        cache.save().unwrap();
        let open = |refresh| {
            Cache::open(directory.path().to_owned(), directory.path(), refresh).unwrap().newest
        };
        assert_eq!(open(false), cache.newest);
        assert!(open(true).is_empty());
    }
}
