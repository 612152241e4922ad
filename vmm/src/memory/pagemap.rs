//! Which pages of a mapping are private to it.
//!
//! `PAGEMAP_SCAN` (Linux 6.7, Documentation/admin-guide/mm/pagemap.rst) finds them in
//! time proportional to what is mapped; older kernels have /proc/self/pagemap.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, OnceLock};

use super::mapping::Mapping;
use super::{MemoryError, PAGE_SIZE, Run, Runs};
use crate::lock;

/// How to find pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The ioctl.
    Scan,
    /// Reading /proc/self/pagemap.
    Read,
}

/// Pages to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Anonymous pages, in memory or swapped out: what a private mapping has copied.
    Private,
    /// Pages of the file or memfd behind the mapping that are mapped here.
    Shared,
    /// Private pages that are swapped out.
    Swapped,
    /// Anything mapped here that is backed by a huge page entry.
    Huge,
}

/// The pages of `mapping` that are `want`ed, by the best method there is.
pub fn find(mapping: &Mapping, want: Want) -> Result<Runs, MemoryError> {
    find_by(method(), mapping, want)
}

/// The same in the part of `mapping` that `part` names.
pub fn find_in(mapping: &Mapping, part: Run, want: Want) -> Result<Runs, MemoryError> {
    find_part(method(), mapping, part, want)
}

/// The method that this kernel offers.
pub fn method() -> Method {
    static METHOD: OnceLock<Method> = OnceLock::new();
    *METHOD.get_or_init(|| {
        let offered = Mapping::anonymous(PAGE_SIZE)
            .is_ok_and(|page| scan(&page, Run { first: 0, pages: 1 }, Want::Private).is_ok());
        if offered { Method::Scan } else { Method::Read }
    })
}

/// The same by a named method, for tests and benchmarks.
pub fn find_by(method: Method, mapping: &Mapping, want: Want) -> Result<Runs, MemoryError> {
    let whole = Run { first: 0, pages: (mapping.bytes() / PAGE_SIZE) as u64 };
    find_part(method, mapping, whole, want)
}

fn find_part(
    method: Method,
    mapping: &Mapping,
    part: Run,
    want: Want,
) -> Result<Runs, MemoryError> {
    let bytes = part.pages as usize * PAGE_SIZE;
    assert!(part.end() as usize * PAGE_SIZE <= mapping.bytes(), "looking outside");
    let (name, found) = match method {
        Method::Scan => ("PAGEMAP_SCAN", scan(mapping, part, want)),
        Method::Read => ("/proc/self/pagemap", read(mapping, part, want)),
    };
    found.map_err(|source| MemoryError::Scan { method: name, bytes, source })
}

/// `struct page_region` of linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg` of linux/fs.h.
#[repr(C)]
struct ScanArguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_HUGE: u64 = 1 << 6;

mod ioctl {
    vmm_sys_util::ioctl_iowr_nr!(PAGEMAP_SCAN, b'f' as u32, 16, super::ScanArguments);
}

/// This process's pagemap, where it was handed over.
static GIVEN: Mutex<Option<Arc<File>>> = Mutex::new(None);

/// From now on uses `file`, an open `/proc/PID/pagemap` of this process, which can't open it
/// by name; none, and it is opened by name. A child process must not go on with its parent's:
/// that shows the parent's pages.
pub fn use_file(file: Option<File>) {
    *lock(&GIVEN) = file.map(Arc::new);
}

/// Gives up the file in use.
pub fn take_file() -> Option<Arc<File>> {
    lock(&GIVEN).take()
}

fn pagemap() -> io::Result<Arc<File>> {
    match &*lock(&GIVEN) {
        Some(file) => Ok(Arc::clone(file)),
        None => File::open("/proc/self/pagemap").map(Arc::new),
    }
}

fn scan(mapping: &Mapping, part: Run, want: Want) -> io::Result<Runs> {
    let file = pagemap()?;
    let base = mapping.address() as u64;
    let end = base + part.end() * PAGE_SIZE as u64;
    let mut regions = vec![PageRegion::default(); 1024];
    let (inverted, all, any) = match want {
        Want::Private => (PAGE_IS_FILE, PAGE_IS_FILE, PAGE_IS_PRESENT | PAGE_IS_SWAPPED),
        Want::Shared => (0, PAGE_IS_FILE | PAGE_IS_PRESENT, 0),
        Want::Swapped => (PAGE_IS_FILE, PAGE_IS_FILE | PAGE_IS_SWAPPED, 0),
        Want::Huge => (0, PAGE_IS_PRESENT | PAGE_IS_HUGE, 0),
    };
    let mut arguments = ScanArguments {
        size: size_of::<ScanArguments>() as u64,
        flags: 0,
        start: base + part.first * PAGE_SIZE as u64,
        end,
        walk_end: 0,
        vec: regions.as_mut_ptr() as u64,
        vec_len: regions.len() as u64,
        max_pages: 0,
        category_inverted: inverted,
        category_mask: all,
        category_anyof_mask: any,
        return_mask: 0,
    };
    let mut runs = Runs::new();
    while arguments.start < end {
        // SAFETY: the arguments follow linux/fs.h; the kernel writes at most `vec_len`
        // regions to `regions`, which outlives the call, and changes no page without flags.
        let found = unsafe {
            libc::ioctl(file.as_raw_fd(), ioctl::PAGEMAP_SCAN() as libc::Ioctl, &raw mut arguments)
        };
        if found < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        for region in regions.iter().take(found as usize) {
            runs.push(Run {
                first: (region.start - base) / PAGE_SIZE as u64,
                pages: (region.end - region.start) / PAGE_SIZE as u64,
            });
        }
        if (found as usize) < regions.len() {
            break;
        }
        // Linux (6.18 at least) leaves `walk_end` behind when it flushed its own buffer of
        // 512 regions on the way: what was reported counts, and decides about the end, too.
        let reported = base + runs.end() * PAGE_SIZE as u64;
        arguments.start = arguments.walk_end.max(reported);
    }
    Ok(runs)
}

fn read(mapping: &Mapping, part: Run, want: Want) -> io::Result<Runs> {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const FILE: u64 = 1 << 61;
    let file = pagemap()?;
    let first = mapping.address() as u64 / PAGE_SIZE as u64;
    let pages = part.end();
    let mut buffer = vec![0u8; 8 * 4096];
    let mut runs = Runs::new();
    let mut page = part.first;
    while page < pages {
        let count = (pages - page).min(4096) as usize;
        let chunk = &mut buffer[..8 * count];
        file.read_exact_at(chunk, (first + page) * 8)?;
        for entry in chunk.as_chunks::<8>().0 {
            let entry = u64::from_ne_bytes(*entry);
            let wanted = match want {
                Want::Private => entry & FILE == 0 && entry & (PRESENT | SWAPPED) != 0,
                Want::Shared => entry & (FILE | PRESENT) == (FILE | PRESENT),
                Want::Swapped => entry & (FILE | SWAPPED) == SWAPPED,
                // The file does not say.
                Want::Huge => false,
            };
            if wanted {
                runs.push(Run { first: page, pages: 1 });
            }
            page += 1;
        }
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{ImageKind, MemoryImage};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const PAGES: u64 = 5000;

    fn image() -> MemoryImage {
        MemoryImage::create(PAGES * PAGE_SIZE as u64, ImageKind::Small).unwrap()
    }

    fn write(mapping: &Mapping, page: u64) {
        // SAFETY: the page lies in the mapping, which the test owns.
        unsafe { mapping.address().add(page as usize * PAGE_SIZE).write_volatile(7) };
    }

    fn set(pages: &BTreeSet<u64>) -> Runs {
        pages.iter().map(|&first| Run { first, pages: 1 }).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn both_methods_find_the_written_pages(
            written in prop::collection::btree_set(0..PAGES, 0..2600),
            read in prop::collection::btree_set(0..PAGES, 0..50),
        ) {
            let mapping = image().map_private().unwrap();
            for &page in &read {
                let mut byte = [0];
                mapping.read(page as usize * PAGE_SIZE, &mut byte);
                std::hint::black_box(byte);
            }
            for &page in &written {
                write(&mapping, page);
            }
            prop_assert_eq!(find_by(Method::Scan, &mapping, Want::Private).unwrap(), set(&written));
            prop_assert_eq!(find_by(Method::Read, &mapping, Want::Private).unwrap(), set(&written));
            let half = |first| find_in(&mapping, Run { first, pages: PAGES / 2 }, Want::Private);
            let halves = half(0).unwrap().union(&half(PAGES / 2).unwrap());
            prop_assert_eq!(halves, set(&written));
            let shared = find(&mapping, Want::Shared).unwrap();
            prop_assert_eq!(shared.minus(&set(&written)), shared.clone());
            prop_assert_eq!(set(&read).minus(&set(&written)).minus(&shared), Runs::new());
        }
    }

    #[test]
    fn every_other_page_overflows_every_buffer() {
        let mapping = image().map_private().unwrap();
        let written: BTreeSet<u64> = (0..PAGES).step_by(2).collect();
        for &page in &written {
            write(&mapping, page);
        }
        assert_eq!(find_by(Method::Scan, &mapping, Want::Private).unwrap(), set(&written));
        assert_eq!(find_by(Method::Read, &mapping, Want::Private).unwrap(), set(&written));
    }
}
