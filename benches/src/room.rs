//! Where files that are measured go, and whether there is room for them.

use std::path::{Path, PathBuf};

use crate::BenchError;

/// The directory of temporary files.
fn place() -> PathBuf {
    std::env::temp_dir()
}

/// Bytes that are free there.
pub fn free_bytes() -> Result<u64, BenchError> {
    let space = rustix::fs::statvfs(place())
        .map_err(|error| BenchError::Call { call: "statvfs", source: error.into() })?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

/// Why files of `mib` can't be written; none if they can.
pub fn no_space_for(mib: u64) -> Result<Option<String>, BenchError> {
    let free = free_bytes()? >> 20;
    Ok((free < mib).then(|| {
        format!("files of {mib} MiB are written, and {free} MiB are free in {}", place().display())
    }))
}

/// The kind of file system that holds the files.
pub fn file_system() -> Result<String, BenchError> {
    let read = |path: PathBuf| {
        std::fs::read_to_string(&path).map_err(|source| BenchError::Read { path, source })
    };
    let place = std::fs::canonicalize(place())
        .map_err(|source| BenchError::Read { path: place(), source })?;
    let mounts = read("/proc/self/mounts".into())?;
    Ok(kind_of(&place, &mounts).unwrap_or("unknown").to_owned())
}

/// The kind of the mount, of those in `mounts`, that `place` lies in: the last of the longest path.
fn kind_of<'a>(place: &Path, mounts: &'a str) -> Option<&'a str> {
    let fields = mounts.lines().map(|line| line.split(' '));
    let mounts = fields.filter_map(|mut fields| Some((fields.nth(1)?, fields.next()?)));
    let holds = mounts.filter(|(at, _)| place.starts_with(at));
    holds.max_by_key(|(at, _)| at.len()).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_lies_in_the_mount_of_the_longest_path() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\nb /tmp/deep xfs rw 0 0\n\
                      c /tmp/deep btrfs rw 0 0\n";
        let kind = |place: &str| kind_of(Path::new(place), mounts);
        assert_eq!(kind("/tmp/x"), Some("tmpfs"));
        assert_eq!(kind("/tmpfile"), Some("ext4"), "a name that begins alike is another place");
        assert_eq!(kind("/tmp/deep/er"), Some("btrfs"), "what was mounted last is seen");
        assert_eq!(kind_of(Path::new("/"), ""), None);
    }

    #[test]
    fn what_fits_nowhere_does_not_fit() {
        assert_eq!(no_space_for(0).unwrap(), None);
        let reason = no_space_for(u64::MAX).unwrap().unwrap();
        assert!(reason.contains("MiB are free"), "{reason}");
        assert_ne!(file_system().unwrap(), "unknown");
    }
}
