//! Root file systems: a tree made by recipe, and the EROFS made of a tree.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use crate::error::{ImageError, io_error};
use crate::packages::{Cache, Package};
use crate::recipe::RootRecipe;
use crate::tool::{MKFS_EROFS, MMDEBSTRAP};
use crate::unpack::{inside, unpack};

/// The file system's UUID: the same in every image, so that equal trees are equal bytes.
const UUID: &str = "74696e65-0000-4000-8000-000000000001";

/// No installed file is later than this, in seconds since 1970: 10 June 2023, when Debian 12
/// was released. With the packages' scripts told the date, installing twice is the same twice.
/// (1970 will not do: it would have every password expired.)
const DATE: &str = "1686355200";

/// Where apt's sources may be on this host; mmdebstrap uses them instead of its own.
const SOURCES: [&str; 2] = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];

/// Run by mmdebstrap with the new root as its argument: writes what the archive says of the
/// packages that are installed in it.
const LIST_PACKAGES: &str = "APT_CONFIG=\"$MMDEBSTRAP_APT_CONFIG\" apt-cache show \
    $(dpkg-query --admindir=\"$1/var/lib/dpkg\" --show --showformat='${Package}=${Version} ') \
    >\"$TINE_PACKAGES\"";

/// Where times are kept, mkfs.erofs dates the file system so, and no file later: not with the
/// time of day, which would make every file system another. The last second of 32 bits.
const LATEST: &str = "4294967295";

/// What an EROFS keeps of the files' owners and times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metadata {
    /// Nothing: all is root's, and from 1970. For trees that are unpacked, not installed.
    Plain,
    /// The times, and owners as far as this process can read or set them.
    Kept,
}

/// Makes the tree `into` that `recipe` describes, and says which packages are in it.
pub(crate) fn tree(
    recipe: &RootRecipe,
    cache: &mut Cache<'_>,
    work: &Path,
    into: &Path,
    progress: &dyn Fn(&str),
) -> Result<(Vec<Package>, Metadata), ImageError> {
    let made = match &recipe.suite {
        Some(suite) => (install(recipe, suite, work, into, progress)?, Metadata::Kept),
        None => {
            let packages = cache.fetch(&recipe.packages, progress)?;
            for package in &packages {
                progress(&format!("unpacking {}", package.name));
                cache.unpack(&package.name, into, |path| recipe.wants(path))?;
            }
            (packages, Metadata::Plain)
        }
    };
    dress(recipe, into)?;
    Ok(made)
}

/// Makes the EROFS `out` of `tree`: not compressed, for its pages are read all the time.
pub(crate) fn erofs(tree: &Path, out: &Path, metadata: Metadata) -> Result<(), ImageError> {
    let mut command = MKFS_EROFS.command();
    command.args(["--quiet", "-U", UUID]);
    match metadata {
        Metadata::Plain => command.args(["-T0", "--all-root", "-x-1"]),
        Metadata::Kept => command.env("SOURCE_DATE_EPOCH", LATEST),
    };
    if metadata == Metadata::Kept && !rustix::process::geteuid().is_root() {
        command.arg("--all-root");
    }
    command.arg(out).arg(tree);
    MKFS_EROFS.output(command, out)?;
    Ok(())
}

/// Has mmdebstrap install the packages of `recipe` and unpacks what it made.
fn install(
    recipe: &RootRecipe,
    suite: &str,
    work: &Path,
    into: &Path,
    progress: &dyn Fn(&str),
) -> Result<Vec<Package>, ImageError> {
    progress(&format!("installing Debian {suite} with {}", recipe.packages.join(", ")));
    let (archive, list) = (work.join("root.tar"), work.join("packages"));
    let mut command = MMDEBSTRAP.command();
    command
        .args(["--quiet", "--variant=minbase", "--format=tar"])
        .arg(format!("--include={}", recipe.packages.join(",")))
        .arg(format!("--customize-hook={LIST_PACKAGES}"))
        .arg(suite)
        .arg(&archive)
        .args(SOURCES.into_iter().filter(|path| Path::new(path).is_file()))
        .env("TINE_PACKAGES", &list)
        .env("TMPDIR", work)
        .args(recipe.commands.iter().map(|line| format!("--customize-hook=chroot \"$1\" {line}")))
        .env("SOURCE_DATE_EPOCH", DATE);
    MMDEBSTRAP.output(command, work).map_err(|error| match error {
        ImageError::Tool { stderr, .. } if !rustix::process::geteuid().is_root() => {
            ImageError::NotRoot { stderr }
        }
        ImageError::Tool { stderr, .. } => {
            ImageError::Package { package: recipe.packages.join(", "), reason: stderr }
        }
        other => other,
    })?;
    progress("unpacking what was installed");
    let file = File::open(&archive).map_err(io_error("open", &archive))?;
    unpack(file, &archive, into, |path| recipe.wants(path))?;
    fs::remove_file(&archive).map_err(io_error("remove", &archive))?;
    let text = fs::read_to_string(&list).map_err(io_error("read", &list))?;
    Ok(stanzas(&text))
}

/// The packages in what `apt-cache show` prints.
fn stanzas(text: &str) -> Vec<Package> {
    let field = |stanza: &str, name: &str| {
        stanza.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
    };
    let mut packages: Vec<_> = text
        .split("\n\n")
        .filter_map(|stanza| {
            Some(Package {
                name: field(stanza, "Package:")?,
                version: field(stanza, "Version:")?,
                sha256: field(stanza, "SHA256:")?,
            })
        })
        .collect();
    packages.sort_by(|one, other| one.name.cmp(&other.name));
    packages.dedup();
    packages
}

/// Adds to `root` what `recipe` says beyond packages.
fn dress(recipe: &RootRecipe, root: &Path) -> Result<(), ImageError> {
    let mut touched = Vec::new();
    for (path, mode) in &recipe.directories {
        let path = place(root, path)?;
        fs::create_dir_all(&path).map_err(io_error("make", &path))?;
        let permissions = Permissions::from_mode(*mode);
        fs::set_permissions(&path, permissions).map_err(io_error("set the mode of", &path))?;
        touched.push(path);
    }
    for (path, target) in &recipe.links {
        symlink(target, place(root, path)?).map_err(io_error("link", path))?;
    }
    for (path, text) in &recipe.files {
        let path = place(root, path)?;
        // What a package has there may be a link.
        if path.symlink_metadata().is_ok() {
            fs::remove_file(&path).map_err(io_error("replace", &path))?;
        }
        let text = text.strip_prefix('\n').unwrap_or(text);
        fs::write(&path, text).map_err(io_error("write", &path))?;
        touched.extend(path.parent().map(Path::to_owned));
        touched.push(path);
    }
    if let Some(busybox) = &recipe.busybox {
        link_applets(root, busybox)?;
    }
    // What was made just now would make every build another.
    for path in touched {
        let dated = File::open(&path).and_then(|file| file.set_modified(SystemTime::UNIX_EPOCH));
        dated.map_err(io_error("date", &path))?;
    }
    Ok(())
}

/// Links every applet that `busybox` has to it, where there is nothing yet.
fn link_applets(root: &Path, busybox: &Path) -> Result<(), ImageError> {
    let program = root.join(busybox);
    let output =
        Command::new(&program).arg("--list-full").output().map_err(io_error("run", &program))?;
    let target = Path::new("/").join(busybox);
    for path in String::from_utf8_lossy(&output.stdout).lines() {
        let path = place(root, Path::new(path))?;
        if path.symlink_metadata().is_err() {
            symlink(&target, &path).map_err(io_error("link", &path))?;
        }
    }
    Ok(())
}

/// `path` in `root`, with the directories above it.
fn place(root: &Path, path: &Path) -> Result<PathBuf, ImageError> {
    let path = root.join(inside(path).unwrap_or_default());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(io_error("make", parent))?;
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest;
    use crate::recipe::Recipe;

    fn base() -> RootRecipe {
        let mut recipe = Recipe::named("base").unwrap().root().clone();
        recipe.busybox = None;
        recipe
    }

    #[test]
    fn a_tree_has_what_its_recipe_says() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc")).unwrap();
        symlink("/run/resolv.conf", root.path().join("etc/resolv.conf")).unwrap();
        dress(&base(), root.path()).unwrap();
        let passwd = fs::read_to_string(root.path().join("etc/passwd")).unwrap();
        assert!(passwd.starts_with("root:x:0:0:"), "{passwd}");
        let tmp = root.path().join("tmp").metadata().unwrap();
        assert_eq!(tmp.permissions().mode() & 0o7777, 0o1777);
        assert_eq!(
            fs::read_link(root.path().join("etc/mtab")).unwrap(),
            Path::new("/proc/self/mounts")
        );
        assert!(root.path().join("etc/resolv.conf").symlink_metadata().unwrap().is_file());
    }

    #[test]
    fn equal_trees_are_equal_bytes() {
        let digests: Vec<_> = (0..2)
            .map(|_| {
                let directory = tempfile::tempdir().unwrap();
                let (root, out) = (directory.path().join("root"), directory.path().join("out"));
                dress(&base(), &root).unwrap();
                erofs(&root, &out, Metadata::Plain).unwrap();
                digest::of_file(&out).unwrap()
            })
            .collect();
        assert_eq!(digests[0], digests[1]);
    }

    #[test]
    fn apt_s_stanzas_are_understood() {
        let text = "Package: b\nVersion: 1:2\nDescription: x\n  y\nSHA256: 0b\n\n\
                    Package: a\nVersion: 1\nSHA256: 0a\n\nPackage: none\nVersion: 1\n";
        let packages = stanzas(text);
        assert_eq!(packages.len(), 2);
        assert_eq!((packages[0].name.as_str(), packages[0].sha256.as_str()), ("a", "0a"));
        assert_eq!(packages[1].version, "1:2");
    }
}
