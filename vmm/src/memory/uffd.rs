//! `UFFDIO_COPY`: places pages into a private mapping at half the price of faulting
//! and overwriting them, because the page below is never copied first.
//! (Linux Documentation/admin-guide/mm/userfaultfd.rst.)

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

use super::PAGE_SIZE;
use super::mapping::Mapping;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct CopyArguments {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copy: i64,
}

vmm_sys_util::ioctl_iowr_nr!(UFFDIO_API, 0xaa, 0x3f, Api);
vmm_sys_util::ioctl_iowr_nr!(UFFDIO_REGISTER, 0xaa, 0x00, Register);
vmm_sys_util::ioctl_iowr_nr!(UFFDIO_COPY, 0xaa, 0x03, CopyArguments);

const UFFD_API: u64 = 0xaa;
const UFFD_USER_MODE_ONLY: libc::c_int = 1;
const MODE_MISSING: u64 = 1;
const MODE_PROTECT: u64 = 2;

/// A userfaultfd. Nobody serves faults: nothing may touch missing pages of a mapping that is
/// registered to be copied into.
#[derive(Debug)]
pub struct Uffd {
    file: File,
}

impl Uffd {
    /// One with nothing registered.
    pub fn open() -> io::Result<Self> {
        let flags = libc::O_CLOEXEC | UFFD_USER_MODE_ONLY;
        // SAFETY: makes a descriptor and touches no memory.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and owned by nobody else.
        let file = unsafe { File::from_raw_fd(fd as libc::c_int) };
        let mut api = Api { api: UFFD_API, features: 0, ioctls: 0 };
        // SAFETY: the kernel reads and writes one `Api`, which outlives the call.
        let done =
            unsafe { libc::ioctl(file.as_raw_fd(), UFFDIO_API() as libc::Ioctl, &raw mut api) };
        match done {
            0.. => Ok(Self { file }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// One with all of `mapping` registered, which must be anonymous or a private mapping of a
    /// memfd in base pages, so that pages can be [copied](Self::copy) into it.
    pub fn register(mapping: &Mapping) -> io::Result<Self> {
        let uffd = Self::open()?;
        uffd.register_as(mapping, MODE_MISSING)?;
        Ok(uffd)
    }

    /// Registers all of `mapping` so that its pages could be protected from writing. None is,
    /// so nothing faults that would not; but as long as it is registered the kernel maps only the
    /// page that is read, and none of its neighbours.
    pub fn watch(&self, mapping: &Mapping) -> io::Result<()> {
        self.register_as(mapping, MODE_PROTECT)
    }

    fn register_as(&self, mapping: &Mapping, mode: u64) -> io::Result<()> {
        let mut register = Register {
            start: mapping.address() as u64,
            len: mapping.bytes() as u64,
            mode,
            ioctls: 0,
        };
        // SAFETY: the kernel reads and writes one `Register`; registering changes how
        // missing pages are made, not the contents of those that exist.
        let done = unsafe {
            libc::ioctl(self.file.as_raw_fd(), UFFDIO_REGISTER() as libc::Ioctl, &raw mut register)
        };
        match done {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Copies `bytes` from `source` to `target` until done or a page exists already.
    /// Returns how many bytes were copied.
    ///
    /// # Safety
    /// `source..source + bytes` must be readable, and `target..target + bytes` must lie
    /// in the registered mapping, with nobody holding references into it.
    pub unsafe fn copy(
        &self,
        target: *mut u8,
        source: *const u8,
        bytes: usize,
    ) -> io::Result<usize> {
        let mut copied = 0;
        // As much as there is, but for ranges that cross from one layer's mapping to the next.
        let mut most = bytes;
        while copied < bytes {
            let mut arguments = CopyArguments {
                dst: target as u64 + copied as u64,
                src: source as u64 + copied as u64,
                len: (bytes - copied).min(most) as u64,
                mode: 0,
                copy: 0,
            };
            // SAFETY: the caller vouches for both ranges; the kernel reads and writes one
            // `CopyArguments`, which outlives the call.
            let done = unsafe {
                libc::ioctl(self.file.as_raw_fd(), UFFDIO_COPY() as libc::Ioctl, &raw mut arguments)
            };
            // Read first: the next call may change it. It is the number that was copied, or an error's.
            let error = io::Error::last_os_error();
            copied += usize::try_from(arguments.copy).unwrap_or(0);
            if done == 0 {
                continue;
            }
            match error.raw_os_error() {
                Some(libc::ENOENT) if most > PAGE_SIZE => most = PAGE_SIZE,
                Some(libc::EAGAIN | libc::EINTR) => {}
                Some(libc::EEXIST) => return Ok(copied),
                _ => return Err(error),
            }
        }
        Ok(copied)
    }
}
