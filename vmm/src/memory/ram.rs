//! A guest's RAM: one mapping of an image.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use super::copy;
use super::delta::DeltaBuffer;
use super::hotset::{HotSet, Watch};
use super::image::{ImageKind, MemoryImage};
use super::layout::RamLayout;
use super::ledger::Ledger;
use super::mapping::{DROP, HUGE, Mapping, POPULATE_WRITE, REMOVE};
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

/// The RAM of one guest; a clone of the value is the same RAM.
#[derive(Clone, Debug)]
pub struct GuestRam {
    access: RamAccess,
    image: Arc<MemoryImage>,
    backing: Backing,
    watch: Option<Watch>,
}

/// A guest's memory as its devices have it: valid as long as any of them does.
#[derive(Clone, Debug)]
pub struct RamAccess {
    // Dropped before the mapping that it describes.
    view: GuestMemoryMmap,
    mapping: Arc<Mapping>,
    layout: RamLayout,
    /// Whether writes go to the image: see [`Backing::Shared`].
    shared: Arc<AtomicBool>,
}

impl RamAccess {
    /// The memory, by guest-physical address, with every access checked.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.view
    }

    /// Gives `bytes` from `guest_address` back to the host: the guest does not care any more
    /// what they hold. What it reads there next is an older content of its own, or zeros.
    ///
    /// # Errors
    /// When they are no whole pages of one piece of RAM, or the kernel refuses.
    pub fn release(&self, guest_address: u64, bytes: u64) -> Result<(), MemoryError> {
        let page = PAGE_SIZE as u64;
        let offset = self.layout.offset(guest_address, bytes);
        let whole = bytes > 0 && (guest_address | bytes).is_multiple_of(page);
        let Some(offset) = offset.filter(|_| whole) else {
            let reason = "no whole pages of guest RAM".into();
            let bytes = bytes as usize;
            return Err(MemoryError::Region { address: guest_address, bytes, reason });
        };
        let advice = if self.shared.load(Ordering::SeqCst) { REMOVE } else { DROP };
        self.mapping.advise(offset as usize, bytes as usize, advice)
    }
}

impl GuestRam {
    /// RAM laid out as `layout` for a guest that boots on `image`.
    pub fn boot(image: MemoryImage, layout: RamLayout) -> Result<Self, MemoryError> {
        let mapping = image.map_shared()?;
        Self::new(mapping, Arc::new(image), Backing::Shared, layout)
    }

    /// RAM of a clone that shares `image` until it writes.
    pub fn copy_on_write(image: &Arc<MemoryImage>, layout: RamLayout) -> Result<Self, MemoryError> {
        Self::new(image.map_private()?, Arc::clone(image), Backing::CopyOnWrite, layout)
    }

    /// RAM of a clone that gets a full copy of `image` first, prefaulted, in huge pages
    /// where the kernel has them.
    pub fn eager(
        image: &Arc<MemoryImage>,
        layout: RamLayout,
    ) -> Result<(Self, EagerReport), MemoryError> {
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
        let ram = Self::new(mapping, Arc::clone(image), Backing::Eager, layout)?;
        Ok((ram, report))
    }

    /// RAM for a child of the guest with `parent`: the layers below it, without the
    /// pages that are the parent's own. See [`copy_from`](Self::copy_from).
    pub fn below(parent: &Self) -> Result<Self, MemoryError> {
        let image = &parent.image;
        let layout = parent.layout().clone();
        Self::new(image.map_layers()?, Arc::clone(image), Backing::CopyOnWrite, layout)
    }

    fn new(
        mapping: Mapping,
        image: Arc<MemoryImage>,
        backing: Backing,
        layout: RamLayout,
    ) -> Result<Self, MemoryError> {
        let bytes = mapping.bytes();
        let address = layout.regions().first().map_or(0, |region| region.guest_address);
        let invalid = |reason: String| MemoryError::Region { address, bytes, reason };
        if layout.bytes() != bytes as u64 {
            return Err(invalid(format!("its layout is of {} bytes", layout.bytes())));
        }
        let mut regions = Vec::with_capacity(layout.regions().len());
        let mut offset = 0;
        for region in layout.regions() {
            let bytes = region.bytes as usize;
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
            // SAFETY: the pieces add up to the mapping, as checked, so that this one lies
            // in it; it is readable and writable, and lives as long as any `RamAccess`
            // that holds the view, because that holds the mapping too.
            let piece = unsafe {
                let first = mapping.address().add(offset);
                MmapRegion::<()>::build_raw(first, bytes, protection, flags)
            }
            .map_err(|error| invalid(error.to_string()))?;
            let piece = GuestRegionMmap::new(piece, GuestAddress(region.guest_address))
                .ok_or_else(|| invalid("it wraps around the address space".into()))?;
            regions.push(piece);
            offset += bytes;
        }
        let view =
            GuestMemoryMmap::from_regions(regions).map_err(|error| invalid(error.to_string()))?;
        let shared = Arc::new(AtomicBool::new(backing == Backing::Shared));
        let access = RamAccess { view, mapping: Arc::new(mapping), layout, shared };
        Ok(Self { access, image, backing, watch: None })
    }

    /// The memory, by guest-physical address, with every access checked.
    pub fn memory(&self) -> &GuestMemoryMmap {
        self.access.memory()
    }

    /// The memory for devices, which may outlive this value.
    pub fn access(&self) -> RamAccess {
        self.access.clone()
    }

    /// The mapping.
    pub fn mapping(&self) -> &Mapping {
        &self.access.mapping
    }

    /// The image below.
    pub fn image(&self) -> &Arc<MemoryImage> {
        &self.image
    }

    /// How the mapping relates to the image.
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// Where it lies in guest-physical memory.
    pub fn layout(&self) -> &RamLayout {
        &self.access.layout
    }

    /// Makes the image of a guest that booted immutable, and the guest a clone of it, in
    /// place and without copying. The guest must be parked. Does nothing to a clone.
    pub fn freeze(&mut self) -> Result<(), MemoryError> {
        if self.backing == Backing::Shared {
            self.image.remap_private(self.mapping())?;
            self.backing = Backing::CopyOnWrite;
            self.access.shared.store(false, Ordering::SeqCst);
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
            Backing::CopyOnWrite => pagemap::find(self.mapping(), Want::Private),
            Backing::Eager => self.different(),
        }
    }

    /// The pages that differ from the base, and all those of the layer over it.
    fn different(&self) -> Result<Runs, MemoryError> {
        let image = self.image.base_view()?;
        let owned = pagemap::find(self.mapping(), Want::Private)?;
        let mut page = vec![0u8; PAGE_SIZE];
        let mut below = vec![0u8; PAGE_SIZE];
        let mut dirty = Runs::new();
        for run in owned.iter() {
            for number in run.first..run.end() {
                self.mapping().read(number as usize * PAGE_SIZE, &mut page);
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
            return copy::own_pages(parent.mapping(), self.mapping(), pages, meanwhile);
        }
        let copied = parent.dirty().and_then(|dirty| {
            copy::same_places(parent.mapping(), self.mapping(), &dirty, pages)?;
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
        buffer.fill(self.mapping(), runs)
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

    /// From now on, the pages that the guest reads are known one by one, as far as the kernel
    /// can tell them. Of a clone that has not run yet.
    pub fn watch(&mut self) {
        if self.backing == Backing::CopyOnWrite {
            self.watch = Watch::over(self.mapping());
        }
    }

    /// The same RAM in a child process, in which nothing is watched.
    pub(crate) fn unwatched(self) -> Self {
        Self { watch: None, ..self }
    }

    /// The pages that the guest has used: written and, where they are known, read.
    pub fn used(&self) -> Result<HotSet, MemoryError> {
        let written = self.dirty()?;
        let read = match self.watch {
            Some(_) => pagemap::find(self.mapping(), Want::Shared)?,
            None => Runs::new(),
        };
        Ok(HotSet::recorded(&written, &read))
    }

    /// Copies the pages of `hot` ahead. Returns how many.
    pub fn apply_hot_set(&self, hot: &HotSet) -> Result<u64, MemoryError> {
        hot.apply(self.mapping())
    }

    /// Drops every private page, so that the image shows through again. The guest must
    /// be parked. An eager copy is made again page by page where it differs.
    pub fn reset(&self) -> Result<(), MemoryError> {
        match self.backing {
            Backing::Shared => Ok(()),
            Backing::CopyOnWrite => {
                self.mapping().advise(0, self.mapping().bytes(), DROP)?;
                match self.image.delta() {
                    Some(delta) => delta.lay_copies(self.mapping()),
                    None => Ok(()),
                }
            }
            Backing::Eager => {
                let dirty = self.different()?;
                copy::overwrite(self.image.base_view()?, self.mapping(), &dirty);
                if let Some(delta) = self.image.delta() {
                    delta.lay_all(self.mapping());
                }
                Ok(())
            }
        }
    }

    /// Gives every page that this guest has of its own the content that it has in the image; it
    /// stays this guest's own. The guest must be parked.
    pub fn undo_writes(&self) -> Result<(), MemoryError> {
        let own = self.dirty()?;
        let below = self.image.read_view()?;
        copy::overwrite(&below, self.mapping(), &own);
        Ok(())
    }

    /// The parts of the RAM that may hold data, as byte ranges in order. The guest must be
    /// parked.
    pub fn data(&self) -> Result<Vec<(usize, usize)>, MemoryError> {
        Ok(self.image.data_with(&self.dirty()?))
    }

    /// The memory account.
    pub fn ledger(&self) -> Result<Ledger, MemoryError> {
        Ledger::of(self.mapping(), self.image.delta().map_or(0, |delta| delta.bytes() as u64))
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
