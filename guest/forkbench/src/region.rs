//! A region of memory of a parent's: what its children share or copy.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::counters;
use crate::failure::{During, Failure};
use crate::pages::PAGE;
use crate::rows::{Backing, Density, Memory};

/// Bytes in a huge page, and what one page table of the last level maps.
pub const HUGE: usize = 2 << 20;

/// Memory that is mapped as long as the value lives.
#[derive(Debug)]
pub struct Region {
    address: NonNull<c_void>,
    bytes: usize,
    backing: Backing,
    density: Density,
}

impl Region {
    /// A filled region of `bytes`, rounded up to 2 MiB.
    ///
    /// # Errors
    ///
    /// When there is no such memory.
    pub fn filled(bytes: u64, backing: Backing, density: Density) -> Result<Self, Failure> {
        let region = Self::mapped(bytes, backing, density)?;
        region.fill()?;
        Ok(region)
    }

    /// The same, without memory yet.
    ///
    /// # Errors
    ///
    /// When there is no such address space.
    pub fn mapped(bytes: u64, backing: Backing, density: Density) -> Result<Self, Failure> {
        let bytes = (bytes.max(1) as usize).next_multiple_of(HUGE);
        let address = match backing {
            Backing::Hugetlb => map(None, bytes, backing)?,
            Backing::Small | Backing::Thp => {
                // The first multiple of 2 MiB in a range that is large enough to hold one.
                let range = map(None, bytes + HUGE, backing)?;
                let skipped = range.as_ptr().align_offset(HUGE);
                unmap(range, skipped)?;
                // SAFETY: `skipped` is less than HUGE, so the addresses are within the mapping.
                let (address, end) = unsafe { (range.add(skipped), range.add(skipped + bytes)) };
                unmap(end, HUGE - skipped)?;
                address
            }
        };
        let region = Self { address, bytes, backing, density };
        advise_size(address, bytes, backing)?;
        Ok(region)
    }

    /// Gives every page that is to be filled memory, and writes a word into it.
    ///
    /// # Errors
    ///
    /// When there is no memory.
    pub fn fill(&self) -> Result<(), Failure> {
        for range in self.runs() {
            self.populate(range)?;
        }
        for page in self.runs().flat_map(|range| range.step_by(PAGE)) {
            self.write(page / PAGE, pattern(page / PAGE));
        }
        Ok(())
    }

    /// Its address.
    pub fn address(&self) -> usize {
        self.address.as_ptr() as usize
    }

    /// The same, for calls that take it.
    pub fn pointer(&self) -> NonNull<c_void> {
        self.address
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many pages of 4 KiB.
    pub fn pages(&self) -> u64 {
        (self.bytes / PAGE) as u64
    }

    /// What it is made of.
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// How much of it is filled.
    pub fn density(&self) -> Density {
        self.density
    }

    /// The parts that are filled, by their distances from the start.
    pub fn runs(&self) -> impl Iterator<Item = Range<usize>> + Clone + use<> {
        let (step, run) = match self.density {
            Density::Dense => (self.bytes, self.bytes),
            Density::Sparse => (HUGE, PAGE),
        };
        (0..self.bytes).step_by(step).map(move |start| start..start + run)
    }

    /// Memory that is filled.
    pub fn resident_bytes(&self) -> usize {
        self.runs().map(|range| range.len()).sum()
    }

    /// The first word of page `page`.
    pub fn read(&self, page: usize) -> u64 {
        // SAFETY: the address is in the region, which is mapped and aligned.
        unsafe { self.word(page).read_volatile() }
    }

    /// Writes the first word of page `page`.
    pub fn write(&self, page: usize, value: u64) {
        // SAFETY: as in `read`; nothing ever borrows the memory of a region.
        unsafe { self.word(page).write_volatile(value) }
    }

    fn word(&self, page: usize) -> NonNull<u64> {
        assert!(page < self.bytes / PAGE, "page {page} of {}", self.bytes / PAGE);
        // SAFETY: the page is in the region.
        unsafe { self.address.add(page * PAGE) }.cast()
    }

    /// Memory of this process within the region.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell.
    pub fn memory(&self) -> Result<Memory, Failure> {
        counters::memory_of(self.address()..self.address() + self.bytes)
    }

    /// Children do not get it, as long as the guard lives.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn left_out(&self) -> Result<LeftOut<'_>, Failure> {
        self.advise(MmapAdvise::MADV_DONTFORK)?;
        Ok(LeftOut(self))
    }

    /// Makes room at the same address in a child that did not get the region: populated, of the
    /// same pages.
    ///
    /// # Errors
    ///
    /// When there is no memory.
    pub fn make_room(&self) -> Result<(), Failure> {
        map(Some(self.address), self.bytes, self.backing)?;
        advise_size(self.address, self.bytes, self.backing)?;
        for range in self.runs() {
            self.populate(range)?;
        }
        Ok(())
    }

    /// Makes a part of it this process's own, all at once.
    ///
    /// # Errors
    ///
    /// When there is no memory.
    pub fn populate(&self, range: Range<usize>) -> Result<(), Failure> {
        assert!(range.end <= self.bytes);
        // SAFETY: the range is in the region; populating changes no content.
        let populated = unsafe {
            madvise(self.address.add(range.start), range.len(), MmapAdvise::MADV_POPULATE_WRITE)
        };
        populated.during(&format!("populating {} bytes of {}", range.len(), self.backing.name()))
    }

    fn advise(&self, advice: MmapAdvise) -> Result<(), Failure> {
        // SAFETY: it is about what children get, and changes nothing here.
        unsafe { madvise(self.address, self.bytes, advice) }.during(&format!("{advice:?}"))
    }

    /// Checks some words as the filling left them: the first, the last, and some between.
    ///
    /// # Errors
    ///
    /// When one is another.
    pub fn check(&self) -> Result<(), Failure> {
        let filled = self.runs().count() * (self.runs().next().map_or(0, |run| run.len()) / PAGE);
        let step = (filled / 16).max(1);
        let pages = self.runs().flat_map(|range| range.step_by(PAGE)).map(|at| at / PAGE);
        for page in pages.clone().step_by(step).chain(pages.last()) {
            let (found, expected) = (self.read(page), pattern(page));
            if found != expected {
                return Err(Failure::Wrong {
                    what: format!("the first word of page {page} of a copy"),
                    found: format!("{found:#x}"),
                    expected: format!("{expected:#x}"),
                });
            }
        }
        Ok(())
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let unmapped = unmap(self.address, self.bytes);
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

/// As long as it lives, children do not get a region.
#[derive(Debug)]
pub struct LeftOut<'a>(&'a Region);

impl Drop for LeftOut<'_> {
    fn drop(&mut self) {
        let advised = self.0.advise(MmapAdvise::MADV_DOFORK);
        debug_assert!(advised.is_ok(), "{advised:?}");
    }
}

/// The first word of page `page` of a filled region.
pub fn pattern(page: usize) -> u64 {
    (page as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// New memory, at `address` if that is given, where nothing may be.
fn map(
    address: Option<NonNull<c_void>>,
    bytes: usize,
    backing: Backing,
) -> Result<NonNull<c_void>, Failure> {
    let action = || format!("mapping {bytes} bytes of {}", backing.name());
    let mut flags = MapFlags::MAP_PRIVATE;
    if address.is_some() {
        flags |= MapFlags::MAP_FIXED_NOREPLACE;
    }
    if backing == Backing::Hugetlb {
        flags |= MapFlags::MAP_HUGETLB | MapFlags::MAP_HUGE_2MB;
    }
    let at = address.and_then(|address| NonZeroUsize::new(address.as_ptr() as usize));
    let length = NonZeroUsize::new(bytes).ok_or(nix::Error::EINVAL).during(&action())?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: it replaces no mapping, neither where the kernel chooses nor with NOREPLACE.
    unsafe { mmap_anonymous(at, length, protection, flags) }.during(&action())
}

fn unmap(address: NonNull<c_void>, bytes: usize) -> Result<(), Failure> {
    if bytes == 0 {
        return Ok(());
    }
    // SAFETY: callers give back what they have mapped and what nothing uses any more.
    unsafe { munmap(address, bytes) }.during("munmap")
}

/// Tells the kernel of which size the pages shall be.
fn advise_size(address: NonNull<c_void>, bytes: usize, backing: Backing) -> Result<(), Failure> {
    let advice = match backing {
        Backing::Small => MmapAdvise::MADV_NOHUGEPAGE,
        Backing::Thp => MmapAdvise::MADV_HUGEPAGE,
        Backing::Hugetlb => return Ok(()),
    };
    // SAFETY: it is about the sizes of pages, and changes no content.
    match unsafe { madvise(address, bytes, advice) } {
        // A kernel without huge pages has none but small ones.
        Err(nix::Error::EINVAL) if backing == Backing::Small => Ok(()),
        advised => advised.during(&format!("{advice:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_dense_region_has_every_page() {
        let region = Region::filled(3 * MIB, Backing::Small, Density::Dense).unwrap();
        assert_eq!(region.bytes() as u64, 4 * MIB);
        assert_eq!(region.address() % HUGE, 0);
        assert_eq!(region.memory().unwrap().private_dirty_bytes, 4 * MIB);
        assert_eq!(region.memory().unwrap().huge_bytes, 0);
        region.check().unwrap();
        region.write(1023, 0);
        assert!(region.check().unwrap_err().to_string().contains("page 1023"));
    }

    #[test]
    fn a_sparse_region_has_one_page_in_two_mebibytes() {
        let region = Region::filled(16 * MIB, Backing::Small, Density::Sparse).unwrap();
        assert_eq!(region.resident_bytes(), 8 * PAGE);
        assert_eq!(region.memory().unwrap().rss_bytes as usize, 8 * PAGE);
        region.check().unwrap();
        region.write(512 * 7, 0);
        assert!(region.check().unwrap_err().to_string().contains("page 3584"));
    }

    #[test]
    #[should_panic(expected = "page 512 of 512")]
    fn no_page_is_beyond_the_end() {
        Region::mapped(2 * MIB, Backing::Small, Density::Dense).unwrap().read(512);
    }
}
