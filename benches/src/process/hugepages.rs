//! Huge pages of hugetlbfs, which have to be reserved before anyone can have them. What this
//! reserves it gives back.

use std::fs;
use std::path::{Path, PathBuf};

use crate::BenchError;

/// How many huge pages the kernel keeps.
const SETTING: &str = "/proc/sys/vm/nr_hugepages";

/// More huge pages, as long as it lives.
#[derive(Debug)]
pub struct HugePages {
    setting: PathBuf,
    before: u64,
}

impl HugePages {
    /// Has the kernel keep `pages` more, as far as it finds any. Why not, if this user may not
    /// ask for it.
    pub fn reserve(pages: u64) -> Result<Result<Self, String>, BenchError> {
        Self::at(Path::new(SETTING), pages)
    }

    fn at(setting: &Path, pages: u64) -> Result<Result<Self, String>, BenchError> {
        let text = match fs::read_to_string(setting) {
            Ok(text) => text,
            Err(error) => return Ok(Err(format!("{} can't be read: {error}", setting.display()))),
        };
        let before: u64 = text.trim().parse().map_err(|_| BenchError::Missing {
            path: setting.to_owned(),
            what: "how many huge pages are kept",
        })?;
        // Made first: if the kernel fails halfway, what it did is undone.
        let guard = Self { setting: setting.to_owned(), before };
        match fs::write(setting, (before + pages).to_string()) {
            Ok(()) => Ok(Ok(guard)),
            Err(error) => Ok(Err(format!(
                "no huge pages are reserved, and {} can't be written: {error}",
                setting.display()
            ))),
        }
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let now = fs::read_to_string(&self.setting).unwrap_or_default();
        if now.trim() == self.before.to_string() {
            return;
        }
        if let Err(error) = fs::write(&self.setting, self.before.to_string()) {
            eprintln!(
                "warning: {} could not be set back to {}: {error}",
                self.setting.display(),
                self.before
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_setting_is_as_before_on_every_way_out() {
        let path = std::env::temp_dir().join(format!("tine-hugepages-{}", std::process::id()));
        let read = || fs::read_to_string(&path).unwrap().trim().to_owned();
        fs::File::create(&path).unwrap().write_all(b"3\n").unwrap();
        let guard = HugePages::at(&path, 5).unwrap().unwrap();
        assert_eq!(read(), "8");
        drop(guard);
        assert_eq!(read(), "3");
        let panicked = std::panic::catch_unwind(|| {
            let _guard = HugePages::at(&path, 5).unwrap().unwrap();
            panic!("a section failed");
        });
        assert!(panicked.is_err());
        assert_eq!(read(), "3");
        fs::remove_file(&path).unwrap();
        assert!(HugePages::at(&path, 5).unwrap().unwrap_err().contains("can't be read"));
    }
}
