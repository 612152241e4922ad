//! The memory of a snapshot: a sealed memfd or a file, and at most one delta over it.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use super::delta::Delta;
use super::mapping::{COLLAPSE, DROP, Mapping, Reserve};
use super::pagemap::{self, Want};
use super::{HUGE_PAGE_SIZE, MemoryError, PAGE_SIZE, Run, Runs};

/// What kind of pages an image is asked to be made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageKind {
    /// Pages of 4 KiB.
    #[default]
    Small,
    /// Transparent huge pages where the kernel makes them: shared by 2 MiB, copied by 4 KiB.
    TransparentHuge,
    /// Reserved huge pages: copied by 2 MiB. Every clone sets aside as many as its RAM has,
    /// so that no write can fail later: only where the operator reserved enough.
    HugeTlb,
}

/// The memory of a machine at one moment; immutable once [sealed](Self::seal).
#[derive(Debug)]
pub struct MemoryImage {
    base: Arc<Base>,
    delta: Option<Delta>,
}

/// The lower layer.
#[derive(Debug)]
struct Base {
    file: File,
    offset: u64,
    bytes: usize,
    kind: ImageKind,
    /// A mapping to read it from, made when first needed.
    view: OnceLock<Mapping>,
}

impl MemoryImage {
    /// A new image of `bytes` zeros in a memfd, writable until it is sealed.
    ///
    /// # Errors
    /// When the size is no positive multiple of the page size, or the kernel has no such
    /// memory: for [`ImageKind::HugeTlb`], that the pool holds too few pages.
    pub fn create(bytes: u64, kind: ImageKind) -> Result<Self, MemoryError> {
        let unit = if kind == ImageKind::HugeTlb { HUGE_PAGE_SIZE } else { PAGE_SIZE };
        if bytes == 0 || !bytes.is_multiple_of(unit as u64) {
            return Err(MemoryError::Size { bytes, unit });
        }
        let flags = if kind == ImageKind::HugeTlb { libc::MFD_HUGETLB } else { 0 };
        let file = memory_file("tine-image", bytes, flags)?;
        Ok(Self::over(file, 0, bytes as usize, kind))
    }

    /// An image whose `bytes` lie in `file` from `offset`, which must be a multiple of the
    /// page size. The file must not be written or cut while the image lives.
    pub fn from_file(file: File, offset: u64, bytes: u64) -> Result<Self, MemoryError> {
        check_file(offset, bytes)?;
        Ok(Self::over(file, offset, bytes as usize, ImageKind::Small))
    }

    fn over(file: File, offset: u64, bytes: usize, kind: ImageKind) -> Self {
        let base = Base { file, offset, bytes, kind, view: OnceLock::new() };
        Self { base: Arc::new(base), delta: None }
    }

    /// The same image with `delta` in place of its own delta, if any: depth never exceeds two.
    pub(super) fn with_delta(&self, delta: Delta) -> Self {
        Self { base: Arc::clone(&self.base), delta: Some(delta) }
    }

    /// The layers as files, for [`from_layers`](Self::from_layers) in another process.
    pub(crate) fn layers(&self) -> Layers<'_> {
        let Base { file, offset, bytes, kind, .. } = &*self.base;
        Layers {
            base: file,
            offset: *offset,
            bytes: *bytes as u64,
            kind: *kind,
            delta: self.delta.as_ref(),
        }
    }

    /// An image of `bytes` in `base` from `offset` on, with the pages `runs` of a file over it,
    /// one after the other. The files must be as [`layers`](Self::layers) tells of them.
    pub(crate) fn from_layers(
        base: File,
        offset: u64,
        bytes: u64,
        kind: ImageKind,
        delta: Option<(File, Runs)>,
    ) -> Result<Self, MemoryError> {
        check_file(offset, bytes)?;
        let image = Self::over(base, offset, bytes as usize, kind);
        match delta {
            Some((file, runs)) => {
                Ok(image.with_delta(Delta::from_file(file, runs, image.bytes(), kind)?))
            }
            None => Ok(image),
        }
    }

    /// The descriptors that it holds.
    pub(crate) fn descriptors(&self) -> Vec<RawFd> {
        let delta = self.delta.as_ref().map(|delta| delta.file().as_raw_fd());
        std::iter::once(self.base.file.as_raw_fd()).chain(delta).collect()
    }

    /// Forbids every change from now on. Fails while a writable shared mapping exists.
    pub fn seal(&self) -> Result<(), MemoryError> {
        seal(&self.base.file, self.base.bytes as u64)
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.base.bytes
    }

    /// What kind of pages it was asked to be made of.
    pub fn kind(&self) -> ImageKind {
        self.base.kind
    }

    /// The upper layer.
    pub fn delta(&self) -> Option<&Delta> {
        self.delta.as_ref()
    }

    /// Maps the base for a guest that boots on it: its writes go to the image.
    pub(super) fn map_shared(&self) -> Result<Mapping, MemoryError> {
        Mapping::shared(&self.base.file, self.base.bytes)
    }

    /// Maps the image privately, but for the pages of the delta that are to be copied
    /// one by one; see [`Delta::lay_copies`].
    pub(super) fn map_layers(&self) -> Result<Mapping, MemoryError> {
        let base = &self.base;
        let mapping = match base.kind {
            ImageKind::HugeTlb => Mapping::private_reserved(&base.file, base.bytes)?,
            _ => Mapping::private(&base.file, base.offset, base.bytes)?,
        };
        if let Some(delta) = &self.delta {
            delta.lay_shared(&mapping)?;
        }
        Ok(mapping)
    }

    /// Maps the image privately: a clone's memory.
    pub(super) fn map_private(&self) -> Result<Mapping, MemoryError> {
        let mapping = self.map_layers()?;
        if let Some(delta) = &self.delta {
            delta.lay_copies(&mapping)?;
        }
        Ok(mapping)
    }

    /// Maps the whole image to be read: both layers.
    pub(crate) fn read_view(&self) -> Result<Mapping, MemoryError> {
        self.map_private()
    }

    /// The parts of the image that may hold data, as byte ranges in order.
    pub(crate) fn data(&self) -> Vec<(usize, usize)> {
        self.data_with(&Runs::new())
    }

    /// The same of a guest that has the pages `own` beside it.
    pub(super) fn data_with(&self, own: &Runs) -> Vec<(usize, usize)> {
        let page = PAGE_SIZE as u64;
        let as_run = |(start, end): (usize, usize)| {
            let first = start as u64 / page;
            Run { first, pages: (end as u64).div_ceil(page) - first }
        };
        let base: Runs = self.data_ranges().into_iter().map(as_run).collect();
        let delta = self.delta.as_ref().map(|delta| delta.runs().clone()).unwrap_or_default();
        let range = |run: Run| (run.first as usize * PAGE_SIZE, run.end() as usize * PAGE_SIZE);
        base.union(&delta).union(own).iter().map(range).collect()
    }

    /// Turns `mapping`, a shared one of this image, into a private one in place.
    pub(super) fn remap_private(&self, mapping: &Mapping) -> Result<(), MemoryError> {
        let base = &self.base;
        let reserve = match base.kind {
            ImageKind::HugeTlb => Reserve::HugePages,
            _ => Reserve::Nothing,
        };
        mapping.overlay(0, base.bytes, &base.file, base.offset, reserve)
    }

    /// A mapping to read the base from.
    pub(super) fn base_view(&self) -> Result<&Mapping, MemoryError> {
        let base = &self.base;
        if let Some(view) = base.view.get() {
            return Ok(view);
        }
        let view = Mapping::read_only(&base.file, base.offset, base.bytes)?;
        Ok(base.view.get_or_init(|| view))
    }

    /// Lets go of the pages that this process has mapped only to copy them: the kernel would count
    /// them as if they were its own.
    pub fn put_away(&self) -> Result<(), MemoryError> {
        match self.base.view.get() {
            Some(view) => view.advise(0, view.bytes(), DROP),
            None => Ok(()),
        }
    }

    /// The parts of the base that hold data, as byte ranges: the rest reads as zeros.
    pub(super) fn data_ranges(&self) -> Vec<(usize, usize)> {
        data_ranges(&self.base.file, self.base.offset, self.base.bytes)
    }

    /// Gathers the image's data into transparent huge pages, as far as the kernel does
    /// it. Returns how many bytes are huge now, which may be none.
    pub fn collapse(&self) -> Result<usize, MemoryError> {
        let view = self.base_view()?;
        for (start, end) in self.data_ranges() {
            let start = start / HUGE_PAGE_SIZE * HUGE_PAGE_SIZE;
            let end = end.next_multiple_of(HUGE_PAGE_SIZE).min(self.base.bytes);
            for at in (start..end).step_by(HUGE_PAGE_SIZE) {
                let bytes = HUGE_PAGE_SIZE.min(self.base.bytes - at);
                // A kernel that can't leaves small pages; what was obtained is measured below.
                if let Err(error) = view.advise(at, bytes, COLLAPSE) {
                    tracing::debug!(%error, at, "no huge page here");
                }
            }
        }
        self.huge_bytes()
    }

    /// How many bytes of the base are mapped by huge pages when read.
    pub fn huge_bytes(&self) -> Result<usize, MemoryError> {
        let view = Mapping::read_only(&self.base.file, self.base.offset, self.base.bytes)?;
        for (start, end) in self.data_ranges() {
            let start = start / PAGE_SIZE * PAGE_SIZE;
            view.advise(start, end - start, super::mapping::POPULATE_READ)?;
        }
        Ok(pagemap::find(&view, Want::Huge)?.pages() as usize * PAGE_SIZE)
    }
}

/// The layers of an image.
pub(crate) struct Layers<'a> {
    pub(crate) base: &'a File,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) kind: ImageKind,
    pub(crate) delta: Option<&'a Delta>,
}

/// Whether an image can lie in a file from `offset` on.
fn check_file(offset: u64, bytes: u64) -> Result<(), MemoryError> {
    let unit = PAGE_SIZE;
    match bytes > 0 && (bytes | offset).is_multiple_of(unit as u64) {
        true => Ok(()),
        false => Err(MemoryError::Size { bytes, unit }),
    }
}

/// A new memory file of `bytes`, without exec permission, that can be sealed.
pub(crate) fn memory_file(
    name: &str,
    bytes: u64,
    flags: libc::c_uint,
) -> Result<File, MemoryError> {
    let failed =
        |operation| MemoryError::File { operation, bytes, source: io::Error::last_os_error() };
    let name = CString::new(name).unwrap_or_default();
    let flags = flags | libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a C string; the call makes a descriptor.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    if fd < 0 {
        return Err(failed("memfd_create"));
    }
    // SAFETY: the descriptor is new and owned by nobody else.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(bytes).map_err(|source| MemoryError::File {
        operation: "ftruncate",
        bytes,
        source,
    })?;
    Ok(file)
}

/// Forbids growing, shrinking and writing.
pub(crate) fn seal(file: &File, bytes: u64) -> Result<(), MemoryError> {
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: sets seals on a descriptor that `file` owns.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) };
    if done < 0 {
        let source = io::Error::last_os_error();
        return Err(MemoryError::File { operation: "sealing", bytes, source });
    }
    Ok(())
}

fn data_ranges(file: &File, offset: u64, bytes: usize) -> Vec<(usize, usize)> {
    let end = offset + bytes as u64;
    let seek = |from: u64, whence| {
        // SAFETY: moves the file offset of a descriptor that is only read by position.
        let at = unsafe { libc::lseek(file.as_raw_fd(), from as libc::off_t, whence) };
        u64::try_from(at).ok()
    };
    let mut ranges = Vec::new();
    let mut at = offset;
    while at < end {
        let Some(start) = seek(at, libc::SEEK_DATA).filter(|&start| start < end) else {
            break;
        };
        let stop = seek(start, libc::SEEK_HOLE).unwrap_or(end).min(end);
        ranges.push(((start - offset) as usize, (stop - offset) as usize));
        at = stop;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_are_no_pages_are_refused() {
        for bytes in [0, 1, 4097] {
            assert!(matches!(
                MemoryImage::create(bytes, ImageKind::Small),
                Err(MemoryError::Size { .. })
            ));
        }
    }

    #[test]
    fn a_sealed_image_can_not_be_mapped_for_shared_writing() {
        let image = MemoryImage::create(1 << 20, ImageKind::Small).unwrap();
        let writable = image.map_shared().unwrap();
        assert!(image.seal().is_err(), "a writable shared mapping must stop the seal");
        drop(writable);
        image.seal().unwrap();
        assert!(image.map_shared().is_err());
        assert!(image.map_private().is_ok());
    }

    #[test]
    fn what_was_mapped_to_be_copied_is_let_go_and_still_there() {
        let image = MemoryImage::create(1 << 20, ImageKind::Small).unwrap();
        image.put_away().unwrap();
        let mapping = image.map_shared().unwrap();
        // SAFETY: the byte lies in the mapping, which nothing else uses.
        unsafe { mapping.address().add(10 * PAGE_SIZE).write(7) };
        let view = image.base_view().unwrap();
        let mut byte = [0];
        view.read(10 * PAGE_SIZE, &mut byte);
        assert!(!pagemap::find(view, Want::Shared).unwrap().is_empty());
        image.put_away().unwrap();
        assert!(pagemap::find(view, Want::Shared).unwrap().is_empty());
        view.read(10 * PAGE_SIZE, &mut byte);
        assert_eq!(byte, [7]);
    }

    #[test]
    fn data_ranges_skip_holes() {
        let image = MemoryImage::create(1 << 20, ImageKind::Small).unwrap();
        assert!(image.data_ranges().is_empty());
        let mapping = image.map_shared().unwrap();
        // SAFETY: the byte lies in the mapping, which nothing else uses.
        unsafe { mapping.address().add(10 * PAGE_SIZE).write(1) };
        assert_eq!(image.data_ranges(), [(10 * PAGE_SIZE, 11 * PAGE_SIZE)]);
    }
}
