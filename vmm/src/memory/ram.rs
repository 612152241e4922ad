//! A guest's RAM: one mapping of an image.

use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use super::copy;
use super::delta::DeltaBuffer;
use super::hotset::HotSet;
use super::image::{ImageKind, MemoryImage};
use super::ledger::Ledger;
use super::mapping::{DROP, HUGE, Mapping, POPULATE_WRITE};
use super::pagemap::{self, Want};
use super::{HUGE_PAGE_SIZE, MemoryError, PAGE_SIZE, Run, Runs};

/// How the mapping relates to the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Writes go to the image, which is not sealed yet: a guest that boots.
    Shared,
    /// Pages are shared with the image until they are written.
    CopyOnWrite,
    /// Everything was copied up front.
    Eager,
}

/// How an eager copy was made, as it came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EagerReport {
    /// Bytes copied; holes of the image are left as they are.
    pub bytes: u64,
    /// Bytes of the copy that lie in transparent huge pages.
    pub huge_bytes: u64,
}

impl EagerReport {
    /// Name of the strategy that was used.
    pub fn strategy(&self) -> &'static str {
        if self.huge_bytes > 0 {
            "memcpy into populated huge pages"
        } else {
            "memcpy into populated pages"
        }
    }
}

/// The RAM of one guest.
#[derive(Debug)]
pub struct GuestRam {
    // Dropped before the mapping that it describes.
    view: GuestMemoryMmap,
    mapping: Mapping,
    image: Arc<MemoryImage>,
    backing: Backing,
    base: u64,
}

impl GuestRam {
    /// RAM at guest-physical `base` for a guest that boots on `image`.
    pub fn boot(image: MemoryImage, base: u64) -> Result<Self, MemoryError> {
        let mapping = image.map_shared()?;
        Self::new(mapping, Arc::new(image), Backing::Shared, base)
    }

    /// RAM of a clone that shares `image` until it writes.
    pub fn copy_on_write(image: &Arc<MemoryImage>, base: u64) -> Result<Self, MemoryError> {
        Self::new(image.map_private()?, Arc::clone(image), Backing::CopyOnWrite, base)
    }

    /// RAM of a clone that gets a full copy of `image` first, prefaulted, in huge pages
    /// where the kernel has them.
    pub fn eager(image: &Arc<MemoryImage>, base: u64) -> Result<(Self, EagerReport), MemoryError> {
        let mapping = Mapping::anonymous(image.bytes())?;
        // A kernel without transparent huge pages copies into small ones; the report tells.
        if let Err(error) = mapping.advise(0, mapping.bytes(), HUGE) {
            tracing::debug!(%error, "eager copy without huge pages");
        }
        let source = image.base_view()?;
        let mut report = EagerReport { bytes: 0, huge_bytes: 0 };
        for (start, end) in image.data_ranges() {
            // A piece is populated and copied while it is in the cache.
            for at in (start..end).step_by(HUGE_PAGE_SIZE) {
                let bytes = HUGE_PAGE_SIZE.min(end - at);
                mapping.advise(at, bytes, POPULATE_WRITE)?;
                // SAFETY: the range lies in both mappings, which are as large as the image;
                // nobody else uses the new one, and the image no longer changes.
                unsafe {
                    std::ptr::copy_nonoverlapping(
                        source.address().add(at),
                        mapping.address().add(at),
                        bytes,
                    )
                };
                report.bytes += bytes as u64;
            }
        }
        if let Some(delta) = image.delta() {
            delta.lay_all(&mapping);
            report.bytes += delta.bytes() as u64;
        }
        report.huge_bytes = pagemap::find(&mapping, Want::Huge)?.pages() * PAGE_SIZE as u64;
        let ram = Self::new(mapping, Arc::clone(image), Backing::Eager, base)?;
        Ok((ram, report))
    }

    /// RAM for a child of the guest with `parent`: the layers below it, without the
    /// pages that are the parent's own. See [`copy_from`](Self::copy_from).
    pub fn below(parent: &Self) -> Result<Self, MemoryError> {
        let image = &parent.image;
        Self::new(image.map_layers()?, Arc::clone(image), Backing::CopyOnWrite, parent.base)
    }

    fn new(
        mapping: Mapping,
        image: Arc<MemoryImage>,
        backing: Backing,
        base: u64,
    ) -> Result<Self, MemoryError> {
        let region_error =
            |reason: String| MemoryError::Region { address: base, bytes: mapping.bytes(), reason };
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the mapping is `bytes` long, readable and writable, and lives in the
        // same value as the view, which is dropped first and never lent out for longer.
        let region = unsafe {
            MmapRegion::<()>::build_raw(
                mapping.address(),
                mapping.bytes(),
                protection,
                libc::MAP_PRIVATE | libc::MAP_NORESERVE,
            )
        }
        .map_err(|error| region_error(error.to_string()))?;
        let region = GuestRegionMmap::new(region, GuestAddress(base))
            .ok_or_else(|| region_error("it wraps around the address space".into()))?;
        let view = GuestMemoryMmap::from_regions(vec![region])
            .map_err(|error| region_error(error.to_string()))?;
        Ok(Self { view, mapping, image, backing, base })
    }

    /// The memory, by guest-physical address, with every access checked.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.view
    }

    /// The mapping.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// The image below.
    pub fn image(&self) -> &Arc<MemoryImage> {
        &self.image
    }

    /// How the mapping relates to the image.
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// Guest-physical address of the first byte.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Makes the image of a guest that booted immutable, and the guest a clone of it, in
    /// place and without copying. The guest must be parked. Does nothing to a clone.
    pub fn freeze(&mut self) -> Result<(), MemoryError> {
        if self.backing == Backing::Shared {
            self.image.remap_private(&self.mapping)?;
            self.backing = Backing::CopyOnWrite;
            self.image.seal()?;
        }
        Ok(())
    }

    /// The pages in which this guest may differ from its image.
    ///
    /// After an eager copy every page is the guest's own, so contents are compared.
    pub fn dirty(&self) -> Result<Runs, MemoryError> {
        match self.backing {
            Backing::Shared => Ok(Runs::new()),
            Backing::CopyOnWrite => pagemap::find(&self.mapping, Want::Private),
            Backing::Eager => self.different(),
        }
    }

    /// The pages that differ from the base, and all those of the layer over it.
    fn different(&self) -> Result<Runs, MemoryError> {
        let image = self.image.base_view()?;
        let owned = pagemap::find(&self.mapping, Want::Private)?;
        let mut page = vec![0u8; PAGE_SIZE];
        let mut below = vec![0u8; PAGE_SIZE];
        let mut dirty = Runs::new();
        for run in owned.iter() {
            for number in run.first..run.end() {
                self.mapping.read(number as usize * PAGE_SIZE, &mut page);
                image.read(number as usize * PAGE_SIZE, &mut below);
                if page != below {
                    dirty.push(Run { first: number, pages: 1 });
                }
            }
        }
        Ok(match self.image.delta() {
            Some(delta) => dirty.union(delta.runs()),
            None => dirty,
        })
    }

    /// Copies the pages in which `parent`, which is parked, may differ from the layers below,
    /// into this RAM, which no guest uses yet; does `meanwhile` at the same time. Returns
    /// which pages they were, and what that came to.
    pub fn copy_from<T>(
        &self,
        parent: &Self,
        meanwhile: impl FnOnce() -> T,
    ) -> (Result<Runs, MemoryError>, T) {
        let pages = self.image.kind();
        if parent.backing == Backing::CopyOnWrite {
            return copy::own_pages(&parent.mapping, &self.mapping, pages, meanwhile);
        }
        let copied = parent.dirty().and_then(|dirty| {
            copy::same_places(&parent.mapping, &self.mapping, &dirty, pages)?;
            Ok(dirty)
        });
        (copied, meanwhile())
    }

    /// Room for the pages that this guest has of its own now, and a quarter more.
    pub fn delta_buffer(&self) -> Result<DeltaBuffer, MemoryError> {
        let pages = self.dirty()?.pages();
        DeltaBuffer::new(pages + pages / 4, self.image.kind())
    }

    /// Copies the pages `runs` into `buffer`. The guest must be parked.
    pub fn save(&self, runs: &Runs, buffer: &mut DeltaBuffer) -> Result<(), MemoryError> {
        buffer.fill(&self.mapping, runs)
    }

    /// Makes the image of the moment when `dirty` was [saved](Self::save) in `buffer`:
    /// those pages over the layers below, in two layers at the most. The guest may run.
    pub fn image_of(
        &self,
        dirty: Runs,
        buffer: DeltaBuffer,
    ) -> Result<Arc<MemoryImage>, MemoryError> {
        if dirty.is_empty() {
            return Ok(Arc::clone(&self.image));
        }
        let delta = match self.image.delta() {
            None => buffer.finish(dirty)?,
            Some(below) => buffer.finish_over(&dirty, below)?,
        };
        Ok(Arc::new(self.image.with_delta(delta)))
    }

    /// Copies the pages of `hot` ahead. Returns how many.
    pub fn apply_hot_set(&self, hot: &HotSet) -> Result<u64, MemoryError> {
        hot.apply(&self.mapping)
    }

    /// Drops every private page, so that the image shows through again. The guest must
    /// be parked. An eager copy is made again page by page where it differs.
    pub fn reset(&self) -> Result<(), MemoryError> {
        match self.backing {
            Backing::Shared => Ok(()),
            Backing::CopyOnWrite => {
                self.mapping.advise(0, self.mapping.bytes(), DROP)?;
                match self.image.delta() {
                    Some(delta) => delta.lay_copies(&self.mapping),
                    None => Ok(()),
                }
            }
            Backing::Eager => {
                let dirty = self.different()?;
                copy::overwrite(self.image.base_view()?, &self.mapping, &dirty);
                if let Some(delta) = self.image.delta() {
                    delta.lay_all(&self.mapping);
                }
                Ok(())
            }
        }
    }

    /// The memory account.
    pub fn ledger(&self) -> Result<Ledger, MemoryError> {
        Ledger::of(&self.mapping, self.image.delta().map_or(0, |delta| delta.bytes() as u64))
    }

    /// How many bytes of the image are huge pages now, if it was asked to be made of them.
    pub fn collapse_image(&self) -> Result<usize, MemoryError> {
        match self.image.kind() {
            ImageKind::Small => Ok(0),
            ImageKind::TransparentHuge => self.image.collapse(),
            ImageKind::HugeTlb => Ok(self.image.bytes()),
        }
    }
}
