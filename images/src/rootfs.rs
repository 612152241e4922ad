//! Root file systems: a tree is put together by recipe, and packed as EROFS: read-only, not
//! compressed, so that a page of it is a page of the guest's cache, and always the same for the
//! same tree.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::error::file;
use crate::packages::{self, Cache, Package};
use crate::program::run;
use crate::recipe::{Debootstrap, Recipe};
use crate::{ImageError, unpack};

/// File systems have an id of their own; one for all keeps them the same.
const UUID: &str = "74696e65-0000-4000-8000-000000000000";

/// What every file system has, and what it holds where the recipe brings nothing else.
const DIRECTORIES: [&str; 16] = [
    "bin", "dev", "etc", "home", "mnt", "proc", "root", "run", "sbin", "sys", "tmp", "usr/bin",
    "usr/sbin", "var/lib", "var/log", "var/tmp",
];
const FILES: [(&str, &str); 8] = [
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/hostname", "tine\n"),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
    ("etc/resolv.conf", ""),
    ("etc/machine-id", ""),
    ("etc/profile", "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"),
];

/// The packages that went into a tree.
pub type Used = Vec<Package>;

/// Puts the tree of `recipe` together in the empty directory `tree`.
pub fn build(recipe: &Recipe, tree: &Path, cache: &Cache) -> Result<Used, ImageError> {
    match &recipe.contents.debootstrap {
        Some(debootstrap) => install(debootstrap, tree).map(|()| Vec::new()),
        None => {
            let mut used = Vec::new();
            for name in &recipe.contents.packages {
                let package = cache.get(name)?;
                packages::open(&package.path, |archive| unpack::tar(archive, &package.path, tree))?;
                used.push(package);
            }
            skeleton(tree)?;
            Ok(used)
        }
    }
}

/// Adds what is missing to `tree`: directories, files, and the names of busybox's programs.
pub fn skeleton(tree: &Path) -> Result<(), ImageError> {
    for directory in DIRECTORIES {
        let path = tree.join(directory);
        fs::create_dir_all(&path).map_err(file("making", &path))?;
    }
    for world in ["tmp", "var/tmp"] {
        let path = tree.join(world);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o1777))
            .map_err(file("changing", &path))?;
    }
    for (name, text) in FILES {
        let path = tree.join(name);
        if !path.exists() {
            fs::write(&path, text).map_err(file("writing", &path))?;
        }
    }
    let busybox = tree.join("bin/busybox");
    if busybox.exists() {
        let list = run(Command::new(&busybox).arg("--list"), "busybox-static")?;
        for applet in String::from_utf8_lossy(&list).lines() {
            let path = tree.join("bin").join(applet);
            if fs::symlink_metadata(&path).is_err() {
                symlink("busybox", &path).map_err(file("linking", &path))?;
            }
        }
    }
    Ok(())
}

/// Installs a Debian into `tree`, without what nobody reads in a sandbox.
fn install(debootstrap: &Debootstrap, tree: &Path) -> Result<(), ImageError> {
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--variant=minbase", "--format=directory", "--quiet"])
        .arg(format!("--include={}", debootstrap.packages.join(",")))
        .args([
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
        ])
        .arg("--dpkgopt=path-exclude=/usr/share/locale/*")
        .args(["--customize-hook=rm -rf \"$1\"/var/log/* \"$1\"/var/cache/ldconfig/*"])
        .args(["--customize-hook=: > \"$1\"/etc/machine-id"])
        .arg(&debootstrap.suite)
        .arg(tree)
        // A fixed time: files that are made now are always the same.
        .env("SOURCE_DATE_EPOCH", "0");
    // The host's own sources, with its mirror; without any, mmdebstrap knows Debian's.
    let sources = Path::new("/etc/apt/sources.list.d/debian.sources");
    if sources.exists() {
        command.arg(sources);
    }
    run(&mut command, "mmdebstrap")?;
    skeleton(tree)
}

/// Packs `tree` into the EROFS image `image`.
pub fn pack(tree: &Path, image: &Path) -> Result<(), ImageError> {
    let mut command = Command::new("mkfs.erofs");
    command.args(["--quiet", "-T0", "-U", UUID]).arg(image).arg(tree);
    run(&mut command, "erofs-utils").map(drop)
}
