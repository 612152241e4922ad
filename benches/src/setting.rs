//! Settings of the kernel that a section needs otherwise than they are. What is changed is
//! changed back, on every way out.

use std::fs;
use std::path::{Path, PathBuf};

use crate::host::chosen;

/// How many huge pages of hugetlbfs the kernel keeps.
const HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";
/// Whether memory files may have transparent huge pages.
const SHMEM_HUGE: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// A setting that is otherwise as long as this lives.
#[derive(Debug)]
pub struct Setting {
    path: PathBuf,
    before: String,
}

impl Setting {
    /// Has the kernel keep `more` huge pages, as far as it finds any. Why not, if this user may
    /// not ask for it.
    pub fn more_huge_pages(more: u64) -> Result<Self, String> {
        Self::more_at(Path::new(HUGE_PAGES), more)
    }

    fn more_at(path: &Path, more: u64) -> Result<Self, String> {
        let before = read(path)?;
        let pages: u64 = before
            .parse()
            .map_err(|_| format!("{} says {before:?}, which is no number", path.display()))?;
        Self::change(path, before, &(pages + more).to_string())
    }

    /// Lets memory files have transparent huge pages where a program asks for them. Why not, if
    /// this user may not.
    pub fn huge_memory_files() -> Result<Self, String> {
        Self::advised_at(Path::new(SHMEM_HUGE))
    }

    fn advised_at(path: &Path) -> Result<Self, String> {
        let before = chosen(path).ok_or_else(|| format!("{} names no choice", path.display()))?;
        Self::change(path, before, "advise")
    }

    fn change(path: &Path, before: String, to: &str) -> Result<Self, String> {
        // Made first: if the kernel fails halfway, what it did is undone.
        let guard = Self { path: path.to_owned(), before };
        match fs::write(path, to) {
            Ok(()) => Ok(guard),
            Err(error) => {
                Err(format!("{} can't be set to {to}: {error}; as root it can", path.display()))
            }
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) => Err(format!("{} can't be read: {error}", path.display())),
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let now = read(&self.path).unwrap_or_default();
        if now == self.before || now.contains(&format!("[{}]", self.before)) {
            return;
        }
        if let Err(error) = fs::write(&self.path, &self.before) {
            eprintln!(
                "warning: {} could not be set back to {}: {error}",
                self.path.display(),
                self.before
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("tine-{name}-{}", std::process::id()));
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn a_number_is_as_before_on_every_way_out() {
        let path = file("huge-pages", "3\n");
        let guard = Setting::more_at(&path, 5).unwrap();
        assert_eq!(read(&path).unwrap(), "8");
        drop(guard);
        assert_eq!(read(&path).unwrap(), "3");
        let panicked = std::panic::catch_unwind(|| {
            let _guard = Setting::more_at(&path, 5).unwrap();
            panic!("a section failed");
        });
        assert!(panicked.is_err());
        assert_eq!(read(&path).unwrap(), "3");
        fs::remove_file(&path).unwrap();
        assert!(Setting::more_at(&path, 5).unwrap_err().contains("can't be read"));
    }

    #[test]
    fn a_choice_is_as_before() {
        let path = file("choice", "always within_size advise [never] deny force\n");
        let guard = Setting::advised_at(&path).unwrap();
        assert_eq!(read(&path).unwrap(), "advise");
        drop(guard);
        assert_eq!(read(&path).unwrap(), "never");
        fs::write(&path, "none of them").unwrap();
        assert!(Setting::advised_at(&path).is_err());
        fs::remove_file(&path).unwrap();
    }
}
