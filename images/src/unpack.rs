//! Unpacks archives, and lets nothing in them out of the directory they are unpacked to.

use std::error::Error as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;
use tar::{Archive, EntryType};

use crate::error::{ImageError, io_error};

/// Unpacks the tar `reader` into the directory `into`, without what `wanted` refuses.
/// `name` is the archive's in errors; owners are kept if this process may set them.
///
/// Devices and pipes are left out: a guest has a `/dev` of its own.
pub(crate) fn unpack(
    reader: impl Read,
    name: &Path,
    into: &Path,
    wanted: impl Fn(&Path) -> bool,
) -> Result<(), ImageError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ImageError::NoSpace { path: into.to_owned() }
        }
        _ => ImageError::Archive { archive: name.to_owned(), reason: with_causes(&error) },
    };
    fs::create_dir_all(into).map_err(io_error("make", into))?;
    let mut archive = Archive::new(reader);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(rustix::process::geteuid().is_root());
    archive.set_preserve_mtime(true);
    // Directories come last, the deepest first: else their modes could keep files out, and
    // the files would touch their times.
    let mut directories = Vec::new();
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let path = inside(&entry.path().map_err(failed)?).ok_or_else(|| ImageError::Archive {
            archive: name.to_owned(),
            reason: format!("`{}` leads out of it", entry.path_bytes().escape_ascii()),
        })?;
        if !wanted(&path) {
            continue;
        }
        match entry.header().entry_type() {
            EntryType::Char | EntryType::Block | EntryType::Fifo => {}
            EntryType::Directory => directories.push((path, entry)),
            _ => {
                entry.unpack_in(into).map_err(failed)?;
            }
        }
    }
    directories.sort_by(|(one, _), (other, _)| other.cmp(one));
    for (path, mut directory) in directories {
        directory.unpack_in(into).map_err(failed)?;
        let time = directory.header().mtime().map_err(failed)?;
        date(&into.join(path), time).map_err(failed)?;
    }
    Ok(())
}

/// Sets the time of a directory, which the tar crate does not; a link in its place is an error.
fn date(directory: &Path, seconds: u64) -> io::Result<()> {
    let time = SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .ok_or_else(|| io::Error::other("a time is out of range"))?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    OpenOptions::new().read(true).custom_flags(flags).open(directory)?.set_modified(time)
}

/// `path` as one below the directory that an archive is unpacked to, or nothing if it climbs
/// out of it. As everywhere, a path from the root is taken to start at that directory.
pub(crate) fn inside(path: &Path) -> Option<PathBuf> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(Some(name)),
            Component::ParentDir => Some(None),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// What the tar crate says of an entry does not say why; that is in the causes.
fn with_causes(error: &io::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;
    use tar::{Builder, Header};

    use super::*;

    fn entry(tar: &mut Builder<Vec<u8>>, path: &str, kind: EntryType, link: &str, data: &[u8]) {
        let mut header = Header::new_gnu();
        // The tar crate refuses to write such paths; others don't.
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o750);
        header.set_mtime(1_000_000);
        header.set_uid(rustix::process::geteuid().as_raw().into());
        header.set_gid(rustix::process::getegid().as_raw().into());
        header.set_cksum();
        tar.append(&header, data).unwrap();
    }

    fn try_unpack(tar: Builder<Vec<u8>>, into: &Path) -> Result<(), ImageError> {
        unpack(&tar.into_inner().unwrap()[..], Path::new("x.tar"), into, |_| true)
    }

    #[test]
    fn paths_that_climb_out_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        let mut tar = Builder::new(Vec::new());
        entry(&mut tar, "a/../../out", EntryType::Regular, "", b"x");
        let error = try_unpack(tar, &root).unwrap_err();
        assert!(error.to_string().contains("leads out"), "{error}");
        assert!(!directory.path().join("out").exists());
    }

    #[test]
    fn links_are_no_way_out() {
        for kind in [EntryType::Symlink, EntryType::Link] {
            let directory = tempfile::tempdir().unwrap();
            let outside = directory.path().join("outside");
            fs::create_dir(&outside).unwrap();
            fs::write(outside.join("file"), "old").unwrap();
            let mut tar = Builder::new(Vec::new());
            match kind {
                EntryType::Symlink => {
                    entry(&mut tar, "link", kind, outside.to_str().unwrap(), b"");
                    entry(&mut tar, "link/file", EntryType::Regular, "", b"new");
                }
                _ => entry(&mut tar, "link", kind, outside.join("file").to_str().unwrap(), b""),
            }
            let error = try_unpack(tar, &directory.path().join("root")).unwrap_err();
            assert!(error.to_string().contains("outside"), "{error}");
            assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "old");
        }
    }

    #[test]
    fn absolute_paths_start_at_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let mut tar = Builder::new(Vec::new());
        entry(&mut tar, "/etc/tine-test", EntryType::Regular, "", b"x");
        try_unpack(tar, directory.path()).unwrap();
        assert_eq!(fs::read(directory.path().join("etc/tine-test")).unwrap(), b"x");
        assert!(!Path::new("/etc/tine-test").exists());
    }

    #[test]
    fn modes_and_times_are_kept_and_devices_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let mut tar = Builder::new(Vec::new());
        entry(&mut tar, "dir", EntryType::Directory, "", b"");
        entry(&mut tar, "dir/file", EntryType::Regular, "", b"x");
        entry(&mut tar, "dir/null", EntryType::Char, "", b"");
        try_unpack(tar, directory.path()).unwrap();
        for name in ["dir", "dir/file"] {
            let metadata = directory.path().join(name).metadata().unwrap();
            assert_eq!(metadata.permissions().mode() & 0o7777, 0o750, "{name}");
            let age = metadata.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
            assert_eq!(age.as_secs(), 1_000_000, "{name}");
        }
        assert!(!directory.path().join("dir/null").exists());
    }

    #[test]
    fn half_an_archive_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let mut tar = Builder::new(Vec::new());
        entry(&mut tar, "file", EntryType::Regular, "", &[1; 4096]);
        let bytes = tar.into_inner().unwrap();
        let error = unpack(&bytes[..2048], Path::new("x.tar"), directory.path(), |_| true);
        assert!(matches!(error, Err(ImageError::Archive { .. })));
    }

    proptest! {
        #[test]
        fn what_is_inside_stays_inside(path in "(/|\\./|\\.\\./|[a-z]{1,3}/|[a-z.]{1,3}){0,8}") {
            let climbs = Path::new(&path).components().any(|part| part == Component::ParentDir);
            match inside(Path::new(&path)) {
                Some(found) => {
                    prop_assert!(!climbs);
                    prop_assert!(found.components().all(|part| matches!(part, Component::Normal(_))));
                }
                None => prop_assert!(climbs),
            }
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
            let directory = tempfile::tempdir().unwrap();
            let _any = unpack(&bytes[..], Path::new("x.tar"), directory.path(), |_| true);
        }
    }
}
