//! What is in the virtual host: programs with their libraries, and the image store.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::init::{busybox, late, write_program};
use super::tool;

/// The files of the virtual host, in a directory of this one.
pub struct Root {
    tree: PathBuf,
}

impl Root {
    /// Begins anew in `tree`.
    pub fn stage(tree: &Path) -> Result<Self> {
        if tree.exists() {
            fs::remove_dir_all(tree).context("an old root can't be removed")?;
        }
        for directory in
            ["vhost/bin", "dev", "proc", "sys", "tmp", "run", "root", "bin", "usr/bin", "etc"]
        {
            fs::create_dir_all(tree.join(directory)).context("the root has no place")?;
        }
        let root = Self { tree: tree.to_path_buf() };
        fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/vhost/bin/sh\n")?;
        fs::write(tree.join("etc/group"), "root:x:0:\n")?;
        let installed = tree.join("vhost/bin/busybox");
        fs::copy(busybox()?, &installed).context("busybox can't be copied")?;
        let applets = tool(Command::new(&installed).arg("--list"), "busybox-static")?;
        for applet in String::from_utf8_lossy(&applets).lines().filter(|name| *name != "busybox") {
            std::os::unix::fs::symlink("busybox", tree.join("vhost/bin").join(applet))?;
        }
        std::os::unix::fs::symlink("/vhost/bin/sh", tree.join("bin/sh"))?;
        write_program(&tree.join("vhost/init"), late())?;
        let own = std::env::current_exe().context("this program can't be found")?;
        root.add(&own, "xtask")?;
        Ok(root)
    }

    /// Puts the program `file` there, with the libraries that it needs.
    pub fn add_program(&self, file: &Path) -> Result<()> {
        let name = file.file_name().context("a program without a name")?;
        self.add(file, &name.to_string_lossy())
    }

    fn add(&self, file: &Path, name: &str) -> Result<()> {
        let target = self.tree.join("vhost/bin").join(name);
        link(file, &target)?;
        let libraries = tool(Command::new("ldd").arg(file), "libc-bin")?;
        for library in String::from_utf8_lossy(&libraries).split_whitespace() {
            // "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)", or the loader alone.
            let Some(inside) = library.strip_prefix('/') else { continue };
            let target = self.tree.join(inside);
            if !target.exists() {
                fs::create_dir_all(target.parent().context("a library at the root")?)?;
                fs::copy(library, &target).with_context(|| format!("{library} can't be copied"))?;
            }
        }
        Ok(())
    }

    /// Puts the image store there, but for what is not needed to run images.
    pub fn add_images(&self, store: &Path) -> Result<()> {
        for part in ["images", "blobs"] {
            let target = self.tree.join("vhost/images").join(part);
            fs::create_dir_all(&target)?;
            let entries = fs::read_dir(store.join(part));
            for entry in entries.into_iter().flatten() {
                let file = entry?.path();
                link(&file, &target.join(file.file_name().context("a file without a name")?))?;
            }
        }
        Ok(())
    }

    /// Packs it all, with `command` to run, into the disk image `file`.
    pub fn pack(&self, command: &[OsString], file: &Path) -> Result<PathBuf> {
        let mut script = b"exec".to_vec();
        for word in command {
            script.extend(b" '");
            script.extend(word.as_bytes().iter().flat_map(|&byte| match byte {
                b'\'' => b"'\\''".to_vec(),
                other => vec![other],
            }));
            script.push(b'\'');
        }
        script.push(b'\n');
        fs::write(self.tree.join("vhost/command"), script)?;
        let mut pack = Command::new("mkfs.erofs");
        tool(pack.args(["--quiet", "--all-root"]).arg(file).arg(&self.tree), "erofs-utils")?;
        ensure!(file.exists(), "mkfs.erofs made no image");
        Ok(file.to_path_buf())
    }
}

/// Links `file` as `target`, or copies it where it can't be linked.
fn link(file: &Path, target: &Path) -> Result<()> {
    if fs::hard_link(file, target).is_err() {
        fs::copy(file, target).with_context(|| {
            format!("{} can't be copied to {}", file.display(), target.display())
        })?;
    }
    Ok(())
}
