//! One `mmap`, unmapped when its owner goes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{NonNull, null_mut};

use super::{HUGE_PAGE_SIZE, MemoryError};

/// Advice to `madvise(2)`, with the name that errors use.
#[derive(Clone, Copy, Debug)]
pub struct Advice(pub(super) libc::c_int, pub(super) &'static str);

/// Use huge pages.
pub const HUGE: Advice = Advice(libc::MADV_HUGEPAGE, "MADV_HUGEPAGE");
/// Punch a hole into the file below a shared mapping.
pub const REMOVE: Advice = Advice(libc::MADV_REMOVE, "MADV_REMOVE");
/// Make huge pages now.
pub const COLLAPSE: Advice = Advice(libc::MADV_COLLAPSE, "MADV_COLLAPSE");
/// Drop private pages.
pub const DROP: Advice = Advice(libc::MADV_DONTNEED, "MADV_DONTNEED");
/// Copy or make pages, ready to be written.
pub const POPULATE_WRITE: Advice = Advice(libc::MADV_POPULATE_WRITE, "MADV_POPULATE_WRITE");
/// Map pages for reading.
pub const POPULATE_READ: Advice = Advice(libc::MADV_POPULATE_READ, "MADV_POPULATE_READ");

/// Leave out of core dumps.
const KEEP_FROM_DUMPS: Advice = Advice(libc::MADV_DONTDUMP, "MADV_DONTDUMP");

/// Size of the pieces into which memory is divided, bytes.
const PIECE: usize = 64 << 20;
/// Most pieces: each counts against `vm.max_map_count`.
const PIECES: usize = 1024;

/// What a private mapping sets aside for the copies that it may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reserve {
    /// Nothing: memory is overcommitted.
    Nothing,
    /// Huge pages from the pool.
    HugePages,
}

/// A range of this process's address space.
///
/// The memory may be in use by a guest, so it is never handed out as a reference: only
/// as an address, to be read and written by raw copies.
#[derive(Debug)]
pub struct Mapping {
    address: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a mapping is a range of addresses that belongs to the process, not to a
// thread; all access to its contents is through raw pointers whose users argue for it.
unsafe impl Send for Mapping {}
// SAFETY: as for `Send`; no method hands out a reference to the contents.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` of `file` from `offset` privately: writes stay in this mapping.
    pub fn private(file: &File, offset: u64, bytes: usize) -> Result<Self, MemoryError> {
        let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
        Self::map(bytes, libc::PROT_READ | libc::PROT_WRITE, flags, Some((file, offset)), "a clone")
    }

    /// The same of a file of reserved huge pages. All that could be copied is set aside in
    /// the pool: it fails when there is too little, where it would otherwise end the
    /// process at a later write.
    pub fn private_reserved(file: &File, bytes: usize) -> Result<Self, MemoryError> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        Self::map(bytes, protection, libc::MAP_PRIVATE, Some((file, 0)), "a clone in huge pages")
    }

    /// Maps `bytes` of `file` shared, for reading and writing.
    pub fn shared(file: &File, bytes: usize) -> Result<Self, MemoryError> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        Self::map(bytes, protection, libc::MAP_SHARED, Some((file, 0)), "a memory file")
    }

    /// Maps `bytes` of `file` from `offset` shared, for reading only.
    pub fn read_only(file: &File, offset: u64, bytes: usize) -> Result<Self, MemoryError> {
        let source = Some((file, offset));
        Self::map(bytes, libc::PROT_READ, libc::MAP_SHARED, source, "a memory image")
    }

    /// Maps `bytes` of anonymous memory on a huge page boundary.
    pub fn anonymous(bytes: usize) -> Result<Self, MemoryError> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let wide = bytes + HUGE_PAGE_SIZE;
        let whole = Self::map(wide, protection, flags, None, "anonymous memory")?;
        Ok(whole.trim_to_huge_boundary(bytes))
    }

    fn map(
        bytes: usize,
        protection: libc::c_int,
        flags: libc::c_int,
        source: Option<(&File, u64)>,
        what: &'static str,
    ) -> Result<Self, MemoryError> {
        let (fd, offset) = source.map_or((-1, 0), |(file, offset)| (file.as_raw_fd(), offset));
        // SAFETY: without MAP_FIXED the kernel chooses a free range, so no existing
        // mapping of this process changes.
        let address =
            unsafe { libc::mmap(null_mut(), bytes, protection, flags, fd, offset as libc::off_t) };
        match NonNull::new(address.cast::<u8>()) {
            Some(address) if address.as_ptr().cast() != libc::MAP_FAILED => {
                Ok(Self { address, bytes })
            }
            _ => Err(MemoryError::Map { what, bytes, source: io::Error::last_os_error() }),
        }
    }

    /// Gives back what lies before the first huge page boundary and after `bytes` from there.
    fn trim_to_huge_boundary(self, bytes: usize) -> Self {
        let start = self.address.as_ptr() as usize;
        let lead = start.next_multiple_of(HUGE_PAGE_SIZE) - start;
        let tail = self.bytes - lead - bytes;
        let whole = std::mem::ManuallyDrop::new(self);
        // SAFETY: both ranges lie inside the mapping that `whole` owned and outside of
        // the one returned; nothing refers to them. Unmapping cannot fail on page
        // boundaries of a single mapping, but for want of memory, where it leaks address space.
        unsafe {
            let address = whole.address.as_ptr();
            if lead > 0 {
                libc::munmap(address.cast(), lead);
            }
            if tail > 0 {
                libc::munmap(address.add(lead + bytes).cast(), tail);
            }
            Self { address: NonNull::new_unchecked(address.add(lead)), bytes }
        }
    }

    /// Replaces `bytes` at `at` by a private mapping of `file` from `offset`. On failure
    /// the range may be left unmapped: the caller gives up the whole mapping then.
    pub(super) fn overlay(
        &self,
        at: usize,
        bytes: usize,
        file: &File,
        offset: u64,
        reserve: Reserve,
    ) -> Result<(), MemoryError> {
        assert!(at.checked_add(bytes).is_some_and(|end| end <= self.bytes), "overlay outside");
        let flags = match reserve {
            Reserve::Nothing => libc::MAP_PRIVATE | libc::MAP_NORESERVE | libc::MAP_FIXED,
            Reserve::HugePages => libc::MAP_PRIVATE | libc::MAP_FIXED,
        };
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: MAP_FIXED replaces only pages inside this mapping, as asserted, and no
        // references into it exist.
        let address = unsafe {
            libc::mmap(
                self.address.as_ptr().add(at).cast(),
                bytes,
                protection,
                flags,
                file.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if address == libc::MAP_FAILED {
            let source = io::Error::last_os_error();
            return Err(MemoryError::Map { what: "a layer over a clone", bytes, source });
        }
        Ok(())
    }

    /// First byte.
    pub fn address(&self) -> *mut u8 {
        self.address.as_ptr()
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives the kernel `advice` on `bytes` from `at`.
    pub fn advise(&self, at: usize, bytes: usize, advice: Advice) -> Result<(), MemoryError> {
        assert!(at.checked_add(bytes).is_some_and(|end| end <= self.bytes), "advice outside");
        loop {
            // SAFETY: the range lies inside this mapping. Of the advice that is passed here
            // only MADV_DONTNEED and MADV_REMOVE change contents, and no references to them exist.
            let done =
                unsafe { libc::madvise(self.address.as_ptr().add(at).cast(), bytes, advice.0) };
            if done == 0 {
                return Ok(());
            }
            let source = io::Error::last_os_error();
            if source.kind() != io::ErrorKind::Interrupted {
                return Err(MemoryError::Advise { advice: advice.1, bytes, source });
            }
        }
    }

    /// Divides it into pieces that the kernel keeps in areas of their own. `fork(2)` copies the page
    /// tables of an area only once the process has written to a page of it (Linux,
    /// `vma_needs_copy`), so a large area that is mostly read costs as much as if it were written.
    pub fn divide(&self) -> Result<(), MemoryError> {
        let piece = PIECE.max((self.bytes / PIECES).next_multiple_of(HUGE_PAGE_SIZE));
        for at in (piece..self.bytes).step_by(2 * piece) {
            // Areas that differ in whether a core dump has them are not merged; none is made.
            self.advise(at, piece.min(self.bytes - at), KEEP_FROM_DUMPS)?;
        }
        Ok(())
    }

    /// Copies `target.len()` bytes from `at`. A guest may write them meanwhile: they are then
    /// old or new, byte by byte.
    pub fn read(&self, at: usize, target: &mut [u8]) {
        let end = at.checked_add(target.len());
        assert!(end.is_some_and(|end| end <= self.bytes), "read outside");
        // SAFETY: the source lies inside this mapping, the target is an exclusive slice,
        // and the two can't overlap because the mapping is never lent out.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.address.as_ptr().add(at),
                target.as_mut_ptr(),
                target.len(),
            )
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by this value and no one holds references into it;
        // owners of VMs that use it close them first.
        let done = unsafe { libc::munmap(self.address.as_ptr().cast(), self.bytes) };
        if done != 0 {
            tracing::error!(bytes = self.bytes, error = %io::Error::last_os_error(), "munmap failed");
        }
    }
}
