//! Archives and directories, unpacked into a tree and never beside it.

use std::fs;
use std::io::Read;
use std::path::{Component, Path};

use crate::ImageError;
use crate::error::file;

/// Unpacks the tar archive `archive`, which is `source`, into `tree`. Files keep their owners
/// where this user may give them away.
pub fn tar(archive: &mut dyn Read, source: &Path, tree: &Path) -> Result<(), ImageError> {
    let failed = || file("unpacking", source);
    let mut archive = tar::Archive::new(archive);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(is_root());
    archive.set_unpack_xattrs(false);
    archive.set_overwrite(true);
    for entry in archive.entries().map_err(failed())? {
        let mut entry = entry.map_err(failed())?;
        let path = entry.path().map_err(failed())?.into_owned();
        let escape =
            || ImageError::Escape { path: source.to_path_buf(), entry: path.display().to_string() };
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(escape());
        }
        if entry.header().entry_type().is_dir() && tree.join(relative(&path)).is_dir() {
            continue;
        }
        // It refuses to go through links that lead out.
        if !entry.unpack_in(tree).map_err(failed())? {
            return Err(escape());
        }
    }
    Ok(())
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").or_else(|_| path.strip_prefix("./")).unwrap_or(path)
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|data| std::os::unix::fs::MetadataExt::uid(&data) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(name: &str) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        // The builder refuses such names; somebody else's may not.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        let mut builder = tar::Builder::new(Vec::new());
        builder.append(&header, &b"hi"[..]).unwrap();
        builder.into_inner().unwrap()
    }

    fn unpack(bytes: &[u8], tree: &Path) -> Result<(), ImageError> {
        tar(&mut &bytes[..], Path::new("test.tar"), tree)
    }

    #[test]
    fn files_stay_inside_the_tree() {
        let outer = tempfile::tempdir().unwrap();
        let tree = outer.path().join("tree");
        fs::create_dir(&tree).unwrap();
        unpack(&archive("./etc/name"), &tree).unwrap();
        assert_eq!(fs::read(tree.join("etc/name")).unwrap(), b"hi");
        unpack(&archive("/absolute"), &tree).unwrap();
        assert_eq!(fs::read(tree.join("absolute")).unwrap(), b"hi");
        assert!(matches!(unpack(&archive("../out"), &tree), Err(ImageError::Escape { .. })));
        std::os::unix::fs::symlink(outer.path(), tree.join("link")).unwrap();
        assert!(unpack(&archive("link/out"), &tree).is_err());
        assert!(!outer.path().join("out").exists());
        assert!(unpack(b"no archive at all, but long enough to be looked at", &tree).is_err());
    }
}
