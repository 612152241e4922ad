//! One page that a parent, its children and the programs that they execute share: they put the
//! times of what they do into it.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::clock;
use crate::failure::{During, Failure};

const BYTES: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// A place in the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Slot {
    /// When the child had started.
    Started,
    /// When the child had written a page.
    Written,
    /// When the program that it executes had started.
    Program,
    /// When the child did its last act.
    Leaving,
    /// Page tables of the child, bytes.
    PageTables,
    /// The error that the child met, as a number of the kernel's.
    Error,
}

/// The page, and the file that it is: programs that are executed find it there.
#[derive(Debug)]
pub struct Shared {
    file: File,
    page: NonNull<AtomicU64>,
}

impl Shared {
    /// A page of zeroes.
    ///
    /// # Errors
    ///
    /// When the kernel has none.
    pub fn new() -> Result<Self, Failure> {
        // Not closed when a program is executed: it writes there too.
        let file = memfd_create("stamps", MFdFlags::empty()).during("memfd_create")?;
        let file = File::from(file);
        file.set_len(BYTES.get() as u64).during("sizing the page of stamps")?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses touches nothing that exists.
        let page = unsafe { mmap(None, BYTES, protection, MapFlags::MAP_SHARED, &file, 0) };
        Ok(Self { page: page.during("mapping the page of stamps")?.cast(), file })
    }

    fn slot(&self, slot: Slot) -> &AtomicU64 {
        // SAFETY: the page is mapped as long as `self` is, holds 512 words and `slot` is one of
        // them; all that touch it at once do so by atomic operations.
        unsafe { self.page.add(slot as usize).as_ref() }
    }

    /// Puts the time into a slot.
    pub fn stamp(&self, slot: Slot) {
        self.put(slot, clock::now());
    }

    /// Puts `value` into a slot.
    pub fn put(&self, slot: Slot, value: u64) {
        self.slot(slot).store(value, Ordering::Release);
    }

    /// What is in a slot, 0 if nothing.
    pub fn get(&self, slot: Slot) -> u64 {
        self.slot(slot).load(Ordering::Acquire)
    }

    /// The time in a slot.
    ///
    /// # Errors
    ///
    /// When nobody put it there.
    pub fn stamped(&self, slot: Slot, doing: &str) -> Result<u64, Failure> {
        match self.get(slot) {
            0 => Err(Failure::Child {
                doing: doing.into(),
                ended: match self.get(Slot::Error) {
                    0 => format!("never told when ({slot:?})"),
                    errno => {
                        format!("failed: {}", std::io::Error::from_raw_os_error(errno as i32))
                    }
                },
            }),
            time => Ok(time),
        }
    }

    /// Empties all slots.
    pub fn clear(&self) {
        for slot in 0..BYTES.get() / size_of::<AtomicU64>() {
            // SAFETY: as in `slot`.
            unsafe { self.page.add(slot).as_ref() }.store(0, Ordering::Release);
        }
    }

    /// The file, which a program that is executed has too.
    pub fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the page any more, as `self` lent all references.
        let unmapped = unsafe { munmap(self.page.cast(), BYTES.get()) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

/// Puts the time into a slot of the page that is `file`: for a program that was just executed.
///
/// # Errors
///
/// When the file can't be written.
pub fn stamp_file(file: &File, slot: u64) -> Result<(), Failure> {
    let time = clock::now().to_ne_bytes();
    file.write_all_at(&time, slot * size_of::<u64>() as u64).during("writing a stamp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_seen_through_file_and_page() {
        let shared = Shared::new().unwrap();
        assert!(shared.stamped(Slot::Program, "run").is_err());
        let before = clock::now();
        stamp_file(&shared.file, Slot::Program as u64).unwrap();
        let time = shared.stamped(Slot::Program, "run").unwrap();
        assert!((before..=clock::now()).contains(&time));
        assert_eq!(shared.get(Slot::Started), 0);
        shared.clear();
        shared.put(Slot::Error, libc::ENOENT as u64);
        let error = shared.stamped(Slot::Program, "run").unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error}");
    }
}
